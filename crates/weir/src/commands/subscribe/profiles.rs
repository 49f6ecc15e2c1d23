//! Where subscriptions are kept between runs: one profile file each, readable by its owner only.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use weir_client::{Address, Place, Profile};

use crate::failure::Failure;

/// A profile file, there or not.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
}

impl File {
    /// At a path the user named.
    pub(super) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// The program's own place for an address and a filter: what is asked for decides, so that another filter is
    /// another subscription. None where the system names no home.
    pub(super) fn of(address: &Address, node: Option<&str>, filter: Option<&str>) -> Option<Self> {
        let state = std::env::var_os("XDG_STATE_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
        let state = state.or_else(|| std::env::home_dir().map(|home| home.join(".local/state")))?;
        Some(Self { path: state.join("weir/profiles").join(name(address, node, filter)) })
    }

    /// What it holds; none if it is not there.
    pub(super) fn read(&self) -> Result<Option<Profile>, Failure> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::usage(format!("read {}: {error}", self.path.display()))),
        };
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|error| Failure::usage(format!("{} is not a profile: {error}", self.path.display())))
    }

    /// Writes it whole or not at all, readable by its owner only: it is a credential.
    pub(super) fn write(&self, profile: &Profile) -> Result<(), Failure> {
        let failed =
            |error: std::io::Error| Failure::failed(format!("write {}: {error}", self.path.display()));
        if let Some(folder) = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let mut text =
            serde_json::to_vec_pretty(profile).map_err(|error| Failure::failed(error.to_string()))?;
        text.push(b'\n');
        let fresh = self.path.with_extension(format!("{}.new", std::process::id()));
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)
            .map_err(failed)?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(failed)?;
        fs::rename(&fresh, &self.path).map_err(failed)
    }

    /// Forgets it. One that stays only costs the next run a clear refusal.
    pub(super) fn remove(&self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// A file name that people can read, made apart by a hash of what it must not confuse.
fn name(address: &Address, node: Option<&str>, filter: Option<&str>) -> PathBuf {
    let place = match &address.place {
        Place::Here => node.unwrap_or(crate::commands::DEFAULT_NODE),
        Place::Resolved(place) | Place::Node(place) => place,
    };
    let host = place.split_once("://").map_or(place, |(_, host)| host);
    let host: String = host
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '.' || c == '-' { c } else { '_' })
        .collect();
    let asked = filter.map(|filter| format!("-{:016x}", fnv(filter.as_bytes()))).unwrap_or_default();
    Path::new(&format!("{host}-{}{asked}.json", address.stream)).to_path_buf()
}

/// FNV-1a: only to keep names apart, and the same in every version.
fn fnv(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_profile_is_written_for_its_owner_only_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let file = File::at(folder.path().join("a/b.json"));
        assert!(file.read().unwrap().is_none());
        let profile =
            Profile { subscription: "0123".into(), grant: Some("secret".into()), ..Profile::default() };
        file.write(&profile).unwrap();
        file.write(&profile).unwrap();
        assert_eq!(file.read().unwrap().unwrap().grant.as_deref(), Some("secret"));
        assert_eq!(fs::metadata(&file.path).unwrap().permissions().mode() & 0o777, 0o600);
        file.remove();
        assert!(file.read().unwrap().is_none());
        fs::write(&file.path, "[]").unwrap();
        assert!(file.read().is_err());
    }

    #[test]
    fn what_is_asked_for_decides_the_file() {
        let of = |address: &str, filter| name(&address.parse().unwrap(), None, filter);
        assert_eq!(of("flow://a.example/x.y", None), Path::new("a.example-x.y.json"));
        assert_eq!(of("x", None), Path::new("127.0.0.1_8080-x.json"));
        assert_ne!(of("x", Some("a = 1")), of("x", Some("a = 2")));
        assert_ne!(of("x", Some("a = 1")), of("x", None));
    }
}
