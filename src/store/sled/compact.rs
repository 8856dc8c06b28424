//! Rewriting the index, since sled's file does not shrink: of a store that nobody has open, and, where it is beyond its share of a
//! budget and holds little, of one in use.

use std::cell::Cell;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::folder::{self, Folder};
use super::index::{Index, SEGMENT_SIZE};
use super::progress::{Steps, Watch};
use super::rewrite::{self, CACHE, Rewrite};
use super::schema::{Tree, damaged};
use crate::error::{Error, Result};

/// What a compaction did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CompactReport {
    /// The records and chunks that the index holds.
    pub records: u64,
    /// What the index took on the disk, in bytes.
    pub before: u64,
    /// What it takes now.
    pub after: u64,
    /// How long it took.
    pub took: Duration,
}

/// Rewrites the index of a store, which must not be open, in as little room as it needs. While it does, the disk holds both.
///
/// The old index is replaced when the new one is durable and was compared with it, entry by entry. A crash at any moment leaves
/// the one or the other, and the next opening clears away the rest.
///
/// # Errors
/// [`Error::Locked`] where the store is open; otherwise as [`Options::open`](super::Options::open), [`Error::Interrupted`], and
/// what writing fails with: then the index is the old one.
pub fn compact(folder: impl AsRef<Path>, mut watch: Watch<'_>) -> Result<CompactReport> {
    let begun = Instant::now();
    let folder = Folder::open_existing(folder.as_ref())?;
    let failed = |error| Error::io(format!("compacting {}", folder.path().display()))(error);
    let before = disk_bytes(&folder.index()).map_err(failed)?;
    let old = Index::open(&folder.index(), CACHE)?;
    let Attempt { records, .. } = attempt(&folder, &old, u64::MAX, &mut watch)?;
    drop(old);
    folder::replace_index(folder.path()).map_err(failed)?;
    let after = disk_bytes(&folder.index()).map_err(failed)?;
    Ok(CompactReport { records, before, after, took: begun.elapsed() })
}

/// What came of the attempt to make an index smaller.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Attempt {
    /// Whether a new one is there to be put in the place of the old one. Otherwise it would have been too large, and was given up.
    pub(super) made: bool,
    /// So many records were copied.
    pub(super) records: u64,
}

/// Makes a new index beside the old one, which nobody changes meanwhile and all of which is durable, as long as that takes no more
/// than so many bytes: what it costs is bounded by them, however large the old one is. So it stops copying a segment before, for
/// what the last page, the seal and sled's snapshot take.
pub(super) fn attempt(folder: &Folder, old: &Index, most: u64, watch: &mut Watch<'_>) -> Result<Attempt> {
    let place = folder.path().join(folder::NEW_INDEX);
    let attempt = write(&place, old, most, watch);
    if !matches!(attempt, Ok(Attempt { made: true, .. })) {
        // Where that fails, the next opening does it.
        let _ = fs::remove_dir_all(&place);
    }
    attempt
}

fn write(place: &Path, old: &Index, most: u64, watch: &mut Watch<'_>) -> Result<Attempt> {
    let failed = |error| Error::io(format!("compacting into {}", place.display()))(error);
    let new = Rewrite::begin(place)?;
    let (records, is_too_large) = (Cell::new(0), Cell::new(false));
    new.copy(&mut Steps::begin(watch, "copying records", None)?, |tree, after| {
        if disk_bytes(place).map_err(failed)? > most.saturating_sub(SEGMENT_SIZE as u64) {
            is_too_large.set(true);
        }
        // A tree ends with a page that has nothing.
        let page = if is_too_large.get() { Vec::new() } else { rewrite::page(old, tree, after)? };
        records.set(records.get() + page.len() as u64);
        Ok(page)
    })?;
    let records = records.get();
    if is_too_large.get() {
        return Ok(Attempt { made: false, records });
    }
    new.finish()?;
    // What is compared is what the next opening will find.
    compare(old, &Index::open(place, CACHE)?, &mut Steps::begin(watch, "comparing", Some(records))?)?;
    folder::sync_tree(place).map_err(failed)?;
    Ok(Attempt { made: true, records })
}

fn compare(old: &Index, new: &Index, steps: &mut Steps<'_, '_>) -> Result<()> {
    for tree in Tree::ALL {
        let mut copied = new.scan(tree, &[], None)?;
        for entry in old.scan(tree, &[], None)? {
            if copied.next().transpose()?.as_ref() != Some(&entry?) {
                return Err(differs(tree));
            }
            steps.done(1)?;
        }
        if copied.next().transpose()?.is_some() {
            return Err(differs(tree));
        }
    }
    Ok(())
}

fn differs(tree: Tree) -> Error {
    damaged(
        "the new index",
        &format!("{} is not what it was copied from: the old index is left", tree.name()),
    )
}

/// What a folder takes on the disk.
pub(super) fn disk_bytes(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let found = entry.metadata()?;
        bytes += if found.is_dir() { disk_bytes(&entry.path())? } else { found.blocks() * 512 };
    }
    Ok(bytes)
}
