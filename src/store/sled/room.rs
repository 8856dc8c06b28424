//! How much room there is: on the filesystem, and within the store's budget.
//!
//! What the folder takes is known without a walk: the files of committed content are counted in the index, those of open sessions
//! and leftovers are looked at when the store is opened, and those in quarantine; from then on every file's growth and end is
//! counted here, before it grows. The index's own files are looked at again in each group of writes.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use uuid::Uuid;

use super::accounts;
use super::evict;
use super::folder::Folder;
use super::index::Index;
use super::schema::{self, BLOCK, Leftover, Placement, Tree, Upload};
use super::store::{Core, Shared};
use crate::error::{Error, Result};

/// What a budget keeps for the index: additions stop so far below it, so that deletion and collection still can write. sled's file
/// grows by segments of 4 MiB and does not shrink.
pub(super) const KEPT_FOR_INDEX: u64 = 16 << 20;

/// The part of a budget that the index's files take before small content goes to files of its own: one of so many.
const INDEX_SHARE: u64 = 4;

/// How far a promise goes ahead of what has come at the least, in bytes; where that is less, a small part of the budget.
const STEP: u64 = 16 << 20;

/// What the store takes, and may take.
pub(super) struct Room {
    budget: Option<u64>,
    /// Bytes of files in `content/`, in whole blocks.
    files: AtomicU64,
    /// Bytes of files that were promised to writers that said how much they bring, and have not come yet.
    promised: AtomicU64,
    /// Bytes of files in `quarantine/`, in whole blocks.
    quarantined: AtomicU64,
    /// Held while one of these comes, goes or becomes another length.
    quarantining: Mutex<()>,
    /// Bytes of the index's files and of what is counted nowhere else, when they were last looked at.
    rest: AtomicU64,
    /// Of these, the index's.
    index: AtomicU64,
}

impl Room {
    pub(super) fn open(budget: Option<u64>, index: &Index, folder: &Folder) -> Result<Self> {
        let mut files = accounts::totals(index)?.file_bytes;
        let mut add = |placement: Placement| {
            if let Placement::File(id) = placement {
                // A file that was not made yet, or is gone, takes nothing.
                files += fs::metadata(folder.content(id)).map_or(0, |found| blocks(found.len()));
            }
        };
        for entry in index.scan(Tree::Uploads, &[], None)? {
            // A damaged record is for those to tell who need it.
            if let Ok(upload) = schema::decode::<Upload>(&entry?.1) {
                add(upload.placement);
            }
        }
        for entry in index.scan(Tree::Leftovers, &[], None)? {
            if let Ok(leftover) = schema::decode::<Leftover>(&entry?.1) {
                add(leftover.content.placement);
            }
        }
        let room = Self {
            budget,
            files: AtomicU64::new(files),
            promised: AtomicU64::new(0),
            quarantined: AtomicU64::new(taken(folder.quarantine())),
            quarantining: Mutex::default(),
            rest: AtomicU64::new(0),
            index: AtomicU64::new(0),
        };
        room.look_at_rest(folder);
        Ok(room)
    }

    /// Looks again at what is not counted here: a few files, of a size that only sled knows.
    pub(super) fn look_at_rest(&self, folder: &Folder) {
        if self.budget.is_some() {
            let index = taken(&folder.index());
            self.index.store(index, Ordering::Relaxed);
            self.rest.store(index + uncounted(folder), Ordering::Relaxed);
        }
    }

    /// What the index's files took when they were last looked at, in bytes, where that is more than their share. Then what could be
    /// inline goes to files: those give their room back when they go, and sled's file does not.
    pub(super) fn index_beyond_share(&self) -> Option<u64> {
        let index = self.index.load(Ordering::Relaxed);
        self.budget.filter(|budget| index > budget / INDEX_SHARE).map(|_| index)
    }

    /// Whether the index's files take more than half of the budget, which no content in files is the reason of.
    pub(super) fn index_fills_budget(&self) -> bool {
        let index = self.index.load(Ordering::Relaxed);
        self.budget.is_some_and(|budget| index > budget / 2)
    }

    /// How many bytes are left of the budget beside what is promised, those among them that are kept for the index; where there is
    /// none, no end of them.
    pub(super) fn left(&self) -> u64 {
        let taken = self.used().saturating_add(self.promised.load(Ordering::Relaxed));
        self.budget.map_or(u64::MAX, |budget| budget.saturating_sub(taken))
    }

    /// Sets room aside for a new index of so many bytes beside the old one, which does not grow meanwhile: so what is kept for that
    /// one is for this one too. `None` where others were faster.
    pub(super) fn set_aside(&self, bytes: u64) -> Option<Aside<'_>> {
        let bytes = bytes.saturating_sub(KEPT_FOR_INDEX);
        // What is within that needs no more, also where others have come to its border.
        let has_room = bytes == 0 || self.promise(bytes).is_ok();
        has_room.then(|| Aside { room: self, bytes })
    }

    /// What files in `content/` take, in bytes.
    pub(super) fn in_files(&self) -> u64 {
        self.files.load(Ordering::Relaxed)
    }

    /// What all but the index and the files in `content/` takes, in bytes.
    pub(super) fn in_rest(&self, folder: &Folder) -> u64 {
        uncounted(folder) + self.quarantined.load(Ordering::Relaxed)
    }

    fn used(&self) -> u64 {
        self.in_files() + self.quarantined.load(Ordering::Relaxed) + self.rest.load(Ordering::Relaxed)
    }

    /// Whether so many bytes more are within the budget. Nothing is set aside for them.
    pub(super) fn check(&self, more: u64) -> Result<()> {
        let Some(budget) = self.budget else { return Ok(()) };
        let used = self.used();
        let needed =
            more.saturating_add(self.promised.load(Ordering::Relaxed)).saturating_add(KEPT_FOR_INDEX);
        if used.saturating_add(needed) > budget { Err(self.refusal(more)) } else { Ok(()) }
    }

    /// Sets so many bytes aside, if they are within the budget.
    fn promise(&self, bytes: u64) -> Result<()> {
        // Counted first and taken back if it was too much, as in `grow`.
        self.promised.fetch_add(bytes, Ordering::Relaxed);
        self.check(0).map_err(|error| {
            self.promised.fetch_sub(bytes, Ordering::Relaxed);
            error.of_needed(bytes)
        })
    }

    /// How far a promise goes ahead of what has come, at the least.
    pub(super) fn step(&self) -> u64 {
        self.budget.map_or(STEP, |budget| (budget / 64).min(STEP))
    }

    /// What could still be pushed, in bytes, if there is a budget.
    pub(super) fn free(&self) -> Option<u64> {
        self.budget?;
        Some(self.left().saturating_sub(KEPT_FOR_INDEX))
    }

    /// What is told to who finds no room for so many bytes.
    pub(super) fn refusal(&self, needed: u64) -> Error {
        let budget = self.budget.unwrap_or(u64::MAX);
        let in_index = self.index.load(Ordering::Relaxed);
        Error::OverBudget { needed, used: self.used(), budget, in_index, in_uploads: 0, held_back: 0 }
    }

    /// Whether so many bytes would be within the budget beside the index and what was promised, if no content were there.
    pub(super) fn check_alone(&self, more: u64) -> Result<()> {
        let Some(budget) = self.budget else { return Ok(()) };
        let beside = self.rest.load(Ordering::Relaxed)
            + self.quarantined.load(Ordering::Relaxed)
            + self.promised.load(Ordering::Relaxed);
        if more.saturating_add(beside).saturating_add(KEPT_FOR_INDEX) > budget {
            return Err(self.refusal(more));
        }
        Ok(())
    }

    /// Counts so many bytes of a file that is about to grow, if they are within the budget; out of a promise as far as it goes.
    pub(super) fn grow(&self, bytes: u64, promise: Option<&mut Promise>) -> Result<()> {
        let covered = promise.map_or(0, |promise| promise.use_up(bytes));
        // Counted first and taken back if it was too much: two at once may both be refused, never both be let in.
        self.files.fetch_add(bytes, Ordering::Relaxed);
        if covered < bytes
            && let Err(error) = self.check(0)
        {
            self.shrink(bytes);
            return Err(error.of_needed(bytes));
        }
        Ok(())
    }

    /// After a write that failed: counts of a file what there is of it, instead of what there was to be. Says what that is.
    pub(super) fn recount(&self, path: &Path, counted: u64) -> u64 {
        let found = blocks(fs::metadata(path).map_or(0, |found| found.len()));
        self.shrink(counted.saturating_sub(found));
        found.min(counted)
    }

    /// Counts that a file became so much shorter, or went.
    pub(super) fn shrink(&self, bytes: u64) {
        // It is ours alone to add and to take, and a count that went below nothing would refuse everything.
        let less = |files: u64| Some(files.saturating_sub(bytes));
        let _ = self.files.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Has a file in `quarantine/` come, go or become another length, and counts that. One at a time: who removes a file and who
    /// is just bringing it would each count what the other made of it.
    pub(super) fn quarantine<T>(&self, path: &Path, change: impl FnOnce() -> T) -> T {
        let _alone = self.quarantining.lock().unwrap_or_else(PoisonError::into_inner);
        let before = taken(path);
        let outcome = change();
        let counted = self.quarantined.load(Ordering::Relaxed);
        self.quarantined.store((counted + taken(path)).saturating_sub(before), Ordering::Relaxed);
        outcome
    }
}

/// Room that is kept for who said how much will come, a little ahead of what has come: who says much and brings nothing is not to
/// keep it from others. What did not come is given back when it is dropped.
pub(super) struct Promise {
    core: Arc<Core>,
    /// What is yet to come of what was announced.
    coming: u64,
    /// What has come.
    came: u64,
    /// Kept, and not used yet.
    left: u64,
}

impl Promise {
    pub(super) fn of(shared: &Shared, bytes: u64) -> Result<Self> {
        let mut promise = Self { core: Arc::clone(&shared.core), coming: blocks(bytes), came: 0, left: 0 };
        promise.keep_ahead(shared).map(|()| promise)
    }

    /// Keeps room for as much again as has come, and a little more, but no more than is to come. Whoever cannot be kept half of
    /// that is refused while much is left, and lets go of it at once: so of two who do not both fit, one comes to its end.
    pub(super) fn keep_ahead(&mut self, shared: &Shared) -> Result<()> {
        let wanted = self.wanted();
        let more = wanted.saturating_sub(self.left);
        if self.try_to_keep_ahead() || self.left >= wanted / 2 {
            return Ok(());
        }
        // In a cache there may be images to let go of.
        match evict::make_room(shared, more).and_then(|()| self.core.room.promise(more)) {
            Ok(()) => self.left += more,
            Err(error) => {
                self.give_back();
                return Err(error.of_needed(self.coming));
            }
        }
        Ok(())
    }

    /// The same where there is room without further ado; `false` where there is none.
    pub(super) fn try_to_keep_ahead(&mut self) -> bool {
        let more = self.wanted().saturating_sub(self.left);
        let kept = more == 0 || self.core.room.promise(more).is_ok();
        self.left += if kept { more } else { 0 };
        kept
    }

    fn wanted(&self) -> u64 {
        self.coming.min(self.came.saturating_add(self.core.room.step()))
    }

    /// Whether so many bytes more have their room.
    pub(super) const fn covers(&self, bytes: u64) -> bool {
        self.left >= bytes
    }

    fn use_up(&mut self, bytes: u64) -> u64 {
        let used = bytes.min(self.left);
        self.left -= used;
        self.coming = self.coming.saturating_sub(bytes);
        self.came += bytes;
        self.core.room.promised.fetch_sub(used, Ordering::Relaxed);
        used
    }

    fn give_back(&mut self) {
        self.core.room.promised.fetch_sub(std::mem::take(&mut self.left), Ordering::Relaxed);
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// Room that nobody else gets until it is dropped.
pub(super) struct Aside<'a> {
    room: &'a Room,
    bytes: u64,
}

impl Drop for Aside<'_> {
    fn drop(&mut self) {
        self.room.promised.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A length in whole blocks.
pub(super) const fn blocks(length: u64) -> u64 {
    length.div_ceil(BLOCK).saturating_mul(BLOCK)
}

/// What takes room and is counted nowhere else, in bytes: a few files.
fn uncounted(folder: &Folder) -> u64 {
    let counted = [folder.content_folder(), folder.quarantine(), &folder.index()];
    let entries = fs::read_dir(folder.path()).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path()).filter(|path| !counted.contains(&path.as_path()));
    paths.map(|path| taken(&path)).sum()
}

/// What a file takes, or all below a folder. What cannot be looked at takes nothing.
pub(super) fn taken(path: &Path) -> u64 {
    let Ok(found) = fs::symlink_metadata(path) else { return 0 };
    if found.is_dir() {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        return entries.map(|entry| taken(&entry.path())).sum();
    }
    blocks(found.len())
}

/// Whether the filesystem has room for so many bytes, and what is kept for deletions.
pub(super) fn check_disk(core: &Core, length: u64) -> Result<()> {
    let available = core.folder.available()?;
    let needed = core.options.reserve.saturating_add(length);
    if available < needed { Err(Error::DiskFull { needed, available }) } else { Ok(()) }
}

/// Why so many bytes of content could not be written.
pub(super) fn write_error(core: &Core, id: Uuid, length: usize, error: io::Error) -> Error {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            Error::DiskFull { needed: length as u64, available: core.folder.available().unwrap_or_default() }
        }
        _ => Error::io(format!("writing content {id}"))(error),
    }
}

#[cfg(test)]
mod tests {
    use super::super::options::Options;

    /// Uploads that went on while an index was written anew beside the old one took the room of both, and the folder grew to a
    /// tenth beyond its budget.
    #[test]
    fn what_is_set_aside_for_a_new_index_is_nobody_elses() {
        let folder = tempfile::tempdir().unwrap();
        let store = Options::new().reserve(1 << 20).budget(128 << 20).open(folder.path()).unwrap();
        let room = &store.0.core.room;
        let free = room.free().unwrap();
        let aside = room.set_aside(48 << 20).unwrap();
        // 16 MiB are kept for the index in any case.
        assert_eq!(room.free().unwrap(), free - (32 << 20));
        assert!(room.check(free - (32 << 20)).is_ok() && room.grow(free - (31 << 20), None).is_err());
        assert!(room.set_aside(free).is_none());
        drop(aside);
        assert_eq!(room.free().unwrap(), free);
    }
}
