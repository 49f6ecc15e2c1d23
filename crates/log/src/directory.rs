//! The data directory: its lock, its format and its key.
//!
//! `format` is a small text file, written once: `format 1`, the number of data shards, the random key under which
//! ids are hashed. It is what makes a directory a log: it is written last and renamed into place, so that a
//! directory made halfway is made again. A program that does not know the format refuses by name.

use std::io;

use crate::api::{Error, Kind};
use crate::disk::{Disk, Why};
use crate::events::HashKey;
use crate::options::{Clock, Options};
use crate::shard::disk_error;

/// The format that this program reads and writes.
pub const FORMAT: u32 = 1;

const NAME: &str = "format";
const NEW: &str = "format.new";

/// What the `format` file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Format {
    pub(crate) shards: u32,
    pub(crate) key: HashKey,
}

/// Takes the directory for this process.
///
/// Errors: `Unavailable` if another process has it.
pub(crate) fn lock(disk: &dyn Disk) -> Result<Box<dyn Send + Sync>, Error> {
    disk.lock("lock").map_err(|e| disk_error(&e))
}

/// Reads the format, or makes the directory a log if it is none yet.
pub(crate) fn open(disk: &dyn Disk, clock: &dyn Clock, options: &Options) -> Result<Format, Error> {
    match read(disk)? {
        Some(format) => {
            // A process that was killed while it made the directory may have left the names unsynced. Once there
            // is a segment they are known to be.
            let stored =
                |shard| disk.list(&crate::segment::directory(shard)).is_ok_and(|names| !names.is_empty());
            if !(0..=format.shards).any(stored) {
                disk.sync_dir("log", Why::Directory).map_err(|e| disk_error(&e))?;
                disk.sync_dir("", Why::Directory).map_err(|e| disk_error(&e))?;
            }
            Ok(format)
        }
        None => make(disk, clock, options).map_err(|e| disk_error(&e)),
    }
}

/// Reads the format; `None` where there is no log.
///
/// Errors: `Invalid` if it is another format or damaged; `Corrupt` if a log is there without it.
pub(crate) fn read(disk: &dyn Disk) -> Result<Option<Format>, Error> {
    let file = match disk.open(NAME) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let shards = disk.list("log").unwrap_or_default();
            let stored = |shard: &String| {
                disk.list(&format!("log/{shard}"))
                    .is_ok_and(|names| names.iter().any(|n| n.ends_with(".seg")))
            };
            if shards.iter().any(stored) {
                let text = "open: the data directory has segments but no format file: it is not whole";
                return Err(Error::new(Kind::Corrupt, text));
            }
            return Ok(None);
        }
        Err(error) => return Err(disk_error(&error)),
    };
    let mut bytes = Vec::new();
    file.read_at(&mut bytes, 4096, 0).map_err(|e| disk_error(&e))?;
    parse(&String::from_utf8_lossy(&bytes)).map(Some)
}

fn parse(text: &str) -> Result<Format, Error> {
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let damaged = || Error::new(Kind::Corrupt, "open: the file format in the data directory is damaged");
    let format: u32 = value("format").and_then(|v| v.parse().ok()).ok_or_else(damaged)?;
    if format != FORMAT {
        let what = if format > FORMAT { "upgrade" } else { "use an older weir to export it" };
        let text = format!("data directory has format {format}, this weir reads {FORMAT}: {what}");
        return Err(Error::new(Kind::Invalid, text));
    }
    let shards = value("shards").and_then(|v| v.parse().ok()).ok_or_else(damaged)?;
    let key = value("key").filter(|v| v.len() == 32).and_then(|v| u128::from_str_radix(v, 16).ok());
    Ok(Format { shards, key: key.ok_or_else(damaged)?.to_be_bytes() })
}

fn make(disk: &dyn Disk, clock: &dyn Clock, options: &Options) -> io::Result<Format> {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&clock.random().to_le_bytes());
    key[8..].copy_from_slice(&clock.random().to_le_bytes());
    let format = Format { shards: options.new_shards(), key };
    disk.create_dir("log")?;
    for shard in 0..=format.shards {
        disk.create_dir(&crate::segment::directory(shard))?;
    }
    disk.sync_dir("log", Why::Directory)?;
    match disk.remove(NEW) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(NEW)?;
    let key = u128::from_be_bytes(format.key);
    file.write_at(format!("format {FORMAT}\nshards {}\nkey {key:032x}\n", format.shards).as_bytes(), 0)?;
    file.sync(Why::Format)?;
    disk.rename(NEW, NAME)?;
    disk.sync_dir("", Why::Directory)?;
    Ok(format)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_format_is_refused_by_name() {
        let error = parse("format 2\nwhatever 1\n").unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert_eq!(error.to_string(), "data directory has format 2, this weir reads 1: upgrade");
        assert_eq!(parse("format x\n").unwrap_err().kind(), Kind::Corrupt);
        assert_eq!(parse("format 1\nshards 2\nkey 12\n").unwrap_err().kind(), Kind::Corrupt);
        let key = "00000000000000000000000000000102";
        let format = parse(&format!("format 1\nshards 2\nkey {key}\n")).unwrap();
        assert_eq!((format.shards, &format.key[13..]), (2, &[0, 1, 2][..]));
    }
}
