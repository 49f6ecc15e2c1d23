//! Control's own files beside the log: replaced as a whole, or appended to and synced.
//!
//! None of them is what a decision rests on. A snapshot can be made again from the log, a lost cursor redelivers,
//! and a secret is synced before the decision that refers to it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// Replaces a file: readers find the old content or the new, whatever happens in between. Readable by the node's
/// own user only.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = private(OpenOptions::new().write(true).create(true).truncate(true)).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&beside, path)?;
    sync_parent(path)
}

/// Appends to a file and syncs it. If that fails, what was appended may or may not be there.
pub(super) fn append(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let is_new = !path.exists();
    let mut file = private(OpenOptions::new().append(true).create(true)).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    if is_new { sync_parent(path) } else { Ok(()) }
}

/// A file's content; `None` if there is no such file.
pub(super) fn load(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes a directory that only the node's own user can enter.
pub(super) fn make_dir(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

/// Without this a power cut may undo a rename or a creation that was already reported.
fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}
