//! A store of a snapshot.
//!
//! The files are copied, sharing blocks where the filesystem knows how to, and not linked unless that is asked for: one file
//! under two names is one copy, and what a bad disk or a careless hand does to it, it does to the store and to its backup.
//! (Blocks that are shared are on the disk once too; but writing to the one file leaves the other as it was.)

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::carry::{Carried, Carrier, Share, content_of};
use super::folder;
use super::index::Index;
use super::making::Filling;
use super::progress::Watch;
use super::rewrite::Rewrite;
use super::schema::FORMAT;
use super::snapshot::{bring_files, end_sessions, options_of_a_copy};
use crate::error::{Error, Result};

/// How a snapshot is restored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RestoreOptions {
    /// Whether the store may have the snapshot's own files, where both are on one filesystem: it takes no time and no room, and
    /// the snapshot is no second copy of them any more. Default: no.
    pub link: bool,
}

impl RestoreOptions {
    /// Files are copied.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether files may be linked.
    #[must_use]
    pub const fn link(mut self, link: bool) -> Self {
        self.link = link;
        self
    }
}

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RestoreReport {
    /// Where the store is.
    pub folder: PathBuf,
    /// How the files came to it, and which the snapshot lacks: what those hold cannot be read from the store.
    pub files: Carried,
    /// How long it took.
    pub took: Duration,
}

/// Makes a store of a snapshot in a folder that is new or empty. The snapshot is only read. The folder is a store when all of it
/// is there and durable, and until then it is refused as one; another attempt begins anew.
///
/// Files that the snapshot lacks, or that are not as long as their records say, or that are copied and found to have other bytes
/// than their digest's, are listed in the report; everything else is restored. What is linked or cloned is not read.
///
/// # Errors
/// [`Error::NoStore`], [`Error::FormatVersion`] and [`Error::Damaged`] for a snapshot that is none or cannot be read,
/// [`Error::Locked`] where it is in use, [`Error::NotEmpty`] for a folder that holds something, [`Error::Unsupported`] for one in a
/// folder that is not there; [`Error::Interrupted`]; [`Error::Io`].
pub fn restore(
    snapshot: impl AsRef<Path>,
    folder: impl AsRef<Path>,
    options: &RestoreOptions,
    mut watch: Watch<'_>,
) -> Result<RestoreReport> {
    let begun = Instant::now();
    let snapshot = snapshot.as_ref();
    let format = folder::check_format(snapshot)?;
    let _lock = lock_shared(snapshot)?;
    let target = Filling::begin(folder.as_ref())?;
    let index = target.path.join(folder::NEW_INDEX);
    copy_tree(&snapshot.join(folder::INDEX), &index)
        .map_err(Error::io(format!("copying the index of {}", snapshot.display())))?;
    if format < FORMAT {
        Index::upgrade(&index)?;
    }
    let new = Rewrite::adopt(&index)?;
    end_sessions(&new)?;
    let share = if options.link { Share::Files } else { Share::Blocks };
    let mut carrier = Carrier::new(content_of(snapshot), None, content_of(&target.path), share);
    bring_files(&new, &mut carrier, &mut watch)?;
    let files = carrier.finish()?;
    new.finish()?;
    let folder = target.path.clone();
    drop(target.open(options_of_a_copy())?);
    Ok(RestoreReport { folder, files, took: begun.elapsed() })
}

/// Keeps others from opening the store while it is read. One that cannot be written to, or has no lock, nobody opens.
pub(super) fn lock_shared(store: &Path) -> Result<Option<File>> {
    let path = store.join(folder::LOCK_FILE);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(format!("opening {}", path.display()))(error)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(Error::Locked(store.to_owned())),
        Err(TryLockError::Error(error)) => Err(Error::io(format!("locking {}", store.display()))(error)),
    }
}

/// Copies a folder and all below it.
pub(super) fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            // Without its permissions: a snapshot may have been made read-only.
            io::copy(&mut File::open(entry.path())?, &mut File::create(target)?)?;
        }
    }
    Ok(())
}
