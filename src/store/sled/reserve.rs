//! Room that the store keeps on the disk for itself: to open, and to delete, where others have filled it to the last byte.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

use super::folder::sync_folder;

/// What opening may have to write: sled clears the rest of a segment, writes a snapshot, and takes up what was left; three of
/// its segments.
pub(super) const RESERVE: u64 = 12 << 20;

pub(super) const FILE: &str = "reserve";

/// The file `reserve`, which holds nothing but room.
pub(super) struct Reserve {
    folder: PathBuf,
}

impl Reserve {
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    fn path(&self) -> PathBuf {
        self.folder.join(FILE)
    }

    /// Gives the room back to the disk; `false` if there was none to give.
    pub(super) fn give_up(&self) -> bool {
        fs::remove_file(self.path()).is_ok() && sync_folder(&self.folder).is_ok()
    }

    /// Takes the room again where `available` bytes leave plenty of it, and says whether the store has it. Where it cannot be
    /// had, the store does without.
    pub(super) fn take(&self, available: u64) -> bool {
        if fs::metadata(self.path()).is_ok_and(|file| file.len() >= RESERVE) {
            return true;
        }
        let taken = available >= 2 * RESERVE && self.allocate().is_ok();
        if !taken {
            let _ = fs::remove_file(self.path());
        }
        taken
    }

    fn allocate(&self) -> io::Result<()> {
        let file: File = OpenOptions::new().create(true).truncate(false).write(true).open(self.path())?;
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, RESERVE)?;
        file.sync_all()?;
        sync_folder(&self.folder)
    }
}
