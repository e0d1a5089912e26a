//! What tells one version of a file from the next without reading it.

use std::io;
use std::path::Path;
use std::time::SystemTime;

/// Another version of the file has another mark, but for a rewrite in place within one tick of the clock.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

impl Mark {
    /// Of the file as it is now; of what a link leads to, for that is how a mounted Secret is changed.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let meta = std::fs::metadata(path)?;
        Ok(Self { modified: meta.modified().ok(), length: meta.len(), inode: meta.ino() })
    }
}
