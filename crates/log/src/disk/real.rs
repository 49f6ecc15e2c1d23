//! The operating system's disk.
//!
//! `fdatasync` rather than `fsync`: the log needs data and length, not the time of modification. Room is taken
//! with `fallocate`, so that most syncs need not write the file's metadata; where the file system has none the
//! file just grows as it is written.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, fdatasync, flock, statvfs};

use super::{Disk, File, Space, Why, named};

/// A data directory on the operating system's file system.
#[derive(Debug)]
pub struct Real {
    root: PathBuf,
}

impl Real {
    /// The directory at `root`; made if it does not exist. The entry in the directory above is synced with it.
    pub fn new(root: &Path) -> io::Result<Self> {
        if !root.is_dir() {
            let missing: Vec<&Path> = root.ancestors().take_while(|path| !path.is_dir()).collect();
            fs::create_dir_all(root).map_err(|e| named("create", &root.display().to_string(), &e))?;
            // Every level that was made has its name in the one above.
            for made in missing.iter().filter(|path| !path.as_os_str().is_empty()) {
                let above = made.parent().filter(|above| !above.as_os_str().is_empty());
                let above = above.unwrap_or(Path::new("."));
                let sync = || fs::File::open(above)?.sync_all();
                sync().map_err(|e| named("sync", &above.display().to_string(), &e))?;
            }
        }
        Ok(Self { root: root.to_path_buf() })
    }

    fn at(&self, path: &str) -> PathBuf {
        if path.is_empty() { self.root.clone() } else { self.root.join(path) }
    }

    fn name(&self, path: &str) -> String {
        self.at(path).display().to_string()
    }

    fn file(&self, path: &str, options: &fs::OpenOptions, operation: &str) -> io::Result<Arc<dyn File>> {
        let file = options.open(self.at(path)).map_err(|e| named(operation, &self.name(path), &e))?;
        Ok(Arc::new(RealFile { file, path: path.into() }))
    }
}

impl Disk for Real {
    fn create_dir(&self, path: &str) -> io::Result<()> {
        match fs::create_dir(self.at(path)) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(named("create", &self.name(path), &e)),
            _ => Ok(()),
        }
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.at(path)).map_err(|e| named("list", &self.name(path), &e))? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn File>> {
        self.file(path, fs::OpenOptions::new().read(true).write(true), "open")
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn File>> {
        self.file(path, fs::OpenOptions::new().read(true).write(true).create_new(true).mode(0o600), "create")
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.at(from), self.at(to)).map_err(|e| named("rename", &self.name(from), &e))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.at(path)).map_err(|e| named("remove", &self.name(path), &e))
    }

    fn sync_dir(&self, path: &str, _why: Why) -> io::Result<()> {
        let sync = || fs::File::open(self.at(path))?.sync_all();
        sync().map_err(|e| named("sync", &self.name(path), &e))
    }

    fn space(&self) -> io::Result<Space> {
        let stat = statvfs(&self.root).map_err(|e| named("stat", &self.name(""), &e.into()))?;
        let (free, used) = (stat.f_bavail, stat.f_blocks.saturating_sub(stat.f_bfree));
        // As `df` counts: what only the superuser may take belongs to nobody.
        Ok(Space { total: (used + free) * stat.f_frsize, free: free * stat.f_frsize })
    }

    fn boot_id(&self) -> u128 {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let hex: String = text.chars().filter(char::is_ascii_hexdigit).collect();
        // Without one every start counts as a start of the machine, which is safe.
        u128::from_str_radix(&hex, 16).unwrap_or_else(|_| {
            let mut random = [0; 16];
            let _ = getrandom::fill(&mut random);
            u128::from_le_bytes(random)
        })
    }

    fn lock(&self, path: &str) -> io::Result<Box<dyn Send + Sync>> {
        let name = self.name(path);
        let mut file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.at(path))
            .map_err(|e| named("open", &name, &e))?;
        if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            let error = io::Error::from(error);
            let text = format!("lock {name}: the data directory is in use by process {}", holder.trim());
            return Err(io::Error::new(error.kind(), text));
        }
        let _ = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
        Ok(Box::new(file))
    }
}

#[derive(Debug)]
struct RealFile {
    file: fs::File,
    path: Box<str>,
}

impl RealFile {
    fn named<T>(&self, operation: &str, result: io::Result<T>) -> io::Result<T> {
        result.map_err(|e| named(operation, &self.path, &e))
    }
}

impl File for RealFile {
    fn path(&self) -> &str {
        &self.path
    }

    fn len(&self) -> io::Result<u64> {
        self.named("stat", self.file.metadata()).map(|m| m.len())
    }

    fn read_at(&self, into: &mut Vec<u8>, count: usize, offset: u64) -> io::Result<()> {
        let start = into.len();
        into.reserve_exact(count);
        while into.len() - start < count {
            let done = into.len() - start;
            // The vector may have taken more room than asked for: its spare capacity is read into, so cut after.
            let spare = rustix::buffer::spare_capacity(into);
            match rustix::io::pread(&self.file, spare, offset + done as u64) {
                Ok(0) => break,
                Ok(_) => into.truncate(start + count),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return self.named("read", Err(e.into())),
            }
        }
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.named("write", self.file.write_all_at(bytes, offset))
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        let have = self.len()?;
        if have >= length {
            return Ok(());
        }
        match fallocate(&self.file, FallocateFlags::empty(), have, length - have) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS | rustix::io::Errno::INVAL) => Ok(()),
            result => self.named("allocate", result.map_err(io::Error::from)),
        }
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.named("truncate", self.file.set_len(length))
    }

    fn sync(&self, _why: Why) -> io::Result<()> {
        self.named("sync", fdatasync(&self.file).map_err(io::Error::from))
    }
}
