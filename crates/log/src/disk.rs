//! All file access of the log goes through this one small interface.
//!
//! It exists so that a test can own the disk: [`real`] talks to the operating system, `sim` keeps what was
//! written and what was synced apart, cuts the power, loses writes and lies about syncs. The engine therefore
//! never touches `std::fs`, and every promise it makes can be tried against a disk at its worst.
//!
//! What the engine may rely on, and no more:
//! - a write is in the file for every later read of this process, and after the process is killed;
//! - what was written before a [`File::sync`] that returned `Ok` survives a power cut, and so does the file's
//!   length; anything later survives in any mixture of whole 512-byte sectors;
//! - a file's name, its removal and its renaming survive a power cut only after [`Disk::sync_dir`];
//! - after a failed sync nothing is known about what was written since the last good one, and reading it back
//!   proves nothing.
//!
//! Paths are relative to the data directory, with `/`. Every error names the operation and the file and keeps
//! its [`io::ErrorKind`].

use std::io;
use std::sync::Arc;

pub mod real;
#[cfg(any(test, feature = "sim"))]
pub mod sim;

/// The directory a log lives in.
pub trait Disk: Send + Sync + 'static {
    /// Makes a directory; fine if it exists.
    fn create_dir(&self, path: &str) -> io::Result<()>;
    /// Names of the files and directories in a directory, in no order.
    fn list(&self, path: &str) -> io::Result<Vec<String>>;
    /// Opens a file for reading and writing.
    fn open(&self, path: &str) -> io::Result<Arc<dyn File>>;
    /// Makes an empty file; one of that name must not exist.
    fn create(&self, path: &str) -> io::Result<Arc<dyn File>>;
    /// Gives a file another name, replacing what has it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file's name.
    fn remove(&self, path: &str) -> io::Result<()>;
    /// Makes the names in a directory as durable as they are now. `""` is the data directory itself.
    fn sync_dir(&self, path: &str, why: Why) -> io::Result<()>;
    /// How much room there is.
    fn space(&self) -> io::Result<Space>;
    /// A number that differs after every start of the machine.
    fn boot_id(&self) -> u128;
    /// Takes the directory for this process until the answer is dropped; `WouldBlock` if another has it.
    fn lock(&self, path: &str) -> io::Result<Box<dyn Send + Sync>>;
}

/// An open file. Any thread may use it; reads and writes at places apart do not disturb each other.
pub trait File: Send + Sync + 'static {
    /// The path it was opened by.
    fn path(&self) -> &str;
    /// Its length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether it has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Appends `count` bytes from `offset` on to `into`; fewer only where the file ends.
    fn read_at(&self, into: &mut Vec<u8>, count: usize, offset: u64) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Takes room so that the file is at least `length` long; what is new reads as zeros.
    fn allocate(&self, length: u64) -> io::Result<()>;
    /// Cuts the file to `length`.
    fn truncate(&self, length: u64) -> io::Result<()>;
    /// Makes what was written, and the length, survive a power cut.
    fn sync(&self, why: Why) -> io::Result<()>;
}

/// What a sync is for. Each is needed: a test leaves one out after the other and sees the log break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Before the format file gets its name, so that it is never found torn.
    Format,
    /// The names of the shards' directories and of the format file, before anything is stored.
    Directory,
    /// A new segment's name, before a group in it is believed.
    Segment,
    /// A group, before it is shown and acknowledged.
    Group,
    /// The tail found after an unclean stop, before it is shown.
    Settle,
    /// A rewritten segment, before it gets its name.
    Rewrite,
    /// A rewritten segment's name, before what it replaces is removed.
    Replace,
    /// The removal of what held erased data, before it counts as gone.
    Removal,
}

impl Why {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Format,
        Self::Directory,
        Self::Segment,
        Self::Group,
        Self::Settle,
        Self::Rewrite,
        Self::Replace,
        Self::Removal,
    ];
}

/// Room on the disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// All there is.
    pub total: u64,
    /// What this process may still take.
    pub free: u64,
}

/// Adds operation and file to an error.
pub(crate) fn named(operation: &str, path: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{operation} {path}: {error}"))
}

/// Whether an error means that there is no room.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
