//! The sled database: opening it safely, reading it, changing it, and making changes durable.
//!
//! Any thread reads. Only the writer's thread calls [`Index::apply`], [`Index::flush`] and [`Index::sync`] (D5).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::ops::Bound;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use ::sled::transaction::{ConflictableTransactionError, TransactionError, Transactional};
use ::sled::{Batch, Config, Db, IVec};

use super::changes::Changes;
use super::folder::sync_folder;
use super::gaps;
use super::log;
use super::schema::{self, Record, SEAL_KEY, SYNCED_KEY, Tree, damaged};
use super::waker::Waker;
use crate::error::{Error, Result};

/// sled reuses a freed segment on the word of a sync that is none; what one window writes must stay far below one (D4).
pub(super) const SEGMENT_SIZE: usize = 4 << 20;

/// What a mark adds to a window, at most.
pub(super) const MARK_SIZE: usize = 64;

/// An open database.
pub(super) struct Index {
    /// Before the handles: its thread has one too, and the file is free only when the last is gone.
    waker: Waker,
    handles: Handles,
    /// After the handles, for what it does when it is dropped.
    on_disk: OnDisk,
    /// Bytes of keys and values that entered since the last data sync, and the most that ever did.
    entered: AtomicUsize,
    most_entered: AtomicUsize,
    /// The number of the last mark, and whether another is to be written before the next change (D10).
    synced: AtomicU64,
    mark_due: AtomicBool,
    path: PathBuf,
}

impl Index {
    /// Makes an empty database with all its trees in a folder that is not there. The folder and its name are the caller's to make
    /// durable (D3).
    pub(super) fn create(path: &Path, cache_capacity: u64) -> Result<Self> {
        let made = fs::create_dir_all(path).and_then(|()| log::begin(path));
        made.map_err(Error::io(format!("making the index {}", path.display())))?;
        Self::open(path, cache_capacity)
    }

    /// Opens the database, and clears away first what would keep it from opening or make it lie (D6). An opening that fails
    /// may have failed to sync: the next one must not believe the pages that this one left (D8).
    pub(super) fn open(path: &Path, cache_capacity: u64) -> Result<Self> {
        let opened = panic::catch_unwind(AssertUnwindSafe(|| Self::try_open(path, cache_capacity)))
            .unwrap_or_else(|_| {
                Err(damaged(
                    &format!("the index {}", path.display()),
                    "sled gave up, its reason is on stderr",
                ))
            });
        if opened.is_err()
            && let Ok(file) = File::open(path.join("db"))
        {
            forget_pages(&file);
        }
        opened
    }

    fn try_open(path: &Path, cache_capacity: u64) -> Result<Self> {
        let failed = |error: io::Error| Error::io(format!("opening the index {}", path.display()))(error);
        remove_torn_snapshots(path).map_err(failed)?;
        let file = path.join("db");
        match File::open(&file).and_then(|file| file.sync_all()) {
            // sled would make an empty one.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(damaged(&format!("the index {}", path.display()), "its file \"db\" is missing"));
            }
            synced => synced.map_err(failed)?,
        }
        if let Some(file) = log::find_bad_snapshot(path).map_err(failed)? {
            let reason =
                "its bytes are not those that sled wrote; `sledge rescue` reads the index without it";
            return Err(damaged(&file.display().to_string(), reason));
        }
        // D10: sled would go on without what is lacking, and write over what is behind it.
        if let Some(gap) = gaps::find(path).map_err(failed)? {
            return Err(damaged(&format!("the index {}", path.display()), &gap.to_string()));
        }
        gaps::forget_sealed(path).map_err(failed)?;

        let config = Config::new()
            .path(path)
            .cache_capacity(cache_capacity)
            .segment_size(SEGMENT_SIZE)
            .flush_every_ms(None)
            .print_profile_on_drop(false);
        let db = open_released(&config).map_err(|error| index_error("opening the index", error))?;
        let mut handles = Handles { db: Some(db), trees: BTreeMap::new() };
        let file = File::open(&file).map_err(failed)?;
        let on_disk = OnDisk { file, failed: AtomicBool::new(false) };
        let waker = Waker::start(handles.db()?).map_err(failed)?;
        for tree in Tree::ALL {
            let opened = handles.db()?.open_tree(tree.name());
            handles.trees.insert(tree, opened.map_err(|error| index_error("opening the index", error))?);
        }
        let index = Self {
            waker,
            handles,
            on_disk,
            entered: AtomicUsize::new(0),
            most_entered: AtomicUsize::new(0),
            synced: AtomicU64::new(0),
            mark_due: AtomicBool::new(true),
            path: path.to_owned(),
        };
        let synced = index.handles.db()?.get(SYNCED_KEY);
        let synced = synced.map_err(|error| index_error("opening the index", error))?;
        let number = synced.and_then(|value| schema::number_of_synced(&value)).unwrap_or(0);
        index.synced.store(number, Ordering::Relaxed);
        // Recovery and new trees wrote; nothing may stand on that before it is durable.
        index.sync()?;
        sync_folder(path).map_err(failed)?;
        Ok(index)
    }

    fn tree(&self, tree: Tree) -> Result<&::sled::Tree> {
        self.handles.trees.get(&tree).ok_or_else(|| damaged("the index", "a tree is missing"))
    }

    pub(super) fn value(&self, tree: Tree, key: &[u8]) -> Result<Option<IVec>> {
        self.tree(tree)?.get(key).map_err(|error| index_error("reading the index", error))
    }

    pub(super) fn get<R: Record>(&self, key: &[u8]) -> Result<Option<R>> {
        self.value(R::TREE, key)?.map(|value| schema::decode(&value)).transpose()
    }

    pub(super) fn contains(&self, tree: Tree, key: &[u8]) -> Result<bool> {
        self.tree(tree)?.contains_key(key).map_err(|error| index_error("reading the index", error))
    }

    /// The first and the last key of a tree.
    pub(super) fn ends(&self, tree: Tree) -> Result<Option<(IVec, IVec)>> {
        let failed = |error| index_error("reading the index", error);
        let tree = self.tree(tree)?;
        let (first, last) = (tree.first().map_err(failed)?, tree.last().map_err(failed)?);
        Ok(first.zip(last).map(|((first, _), (last, _))| (first, last)))
    }

    /// The entries whose keys begin with `prefix`, after the key `prefix + after` where one is given.
    pub(super) fn scan(
        &self,
        tree: Tree,
        prefix: &[u8],
        after: Option<&[u8]>,
    ) -> Result<impl Iterator<Item = Result<(IVec, IVec)>> + use<>> {
        let start = match after {
            Some(after) => Bound::Excluded([prefix, after].concat()),
            None => Bound::Included(prefix.to_vec()),
        };
        let prefix = prefix.to_vec();
        let entries = self.tree(tree)?.range((start, Bound::Unbounded));
        Ok(entries
            .map(|entry| entry.map_err(|error| index_error("reading the index", error)))
            .take_while(move |entry| entry.as_ref().map_or(true, |(key, _)| key.starts_with(&prefix))))
    }

    /// Makes changes, all or none of them. Readers see them at once; they are durable after the next [`Index::sync`].
    pub(super) fn apply(&self, changes: &Changes) -> Result<()> {
        if self.mark_due.load(Ordering::Relaxed) {
            self.mark()?;
        }
        self.count(changes.size());
        let mut batches: BTreeMap<Tree, Batch> = BTreeMap::new();
        for (tree, key, value) in changes.entries() {
            let batch = batches.entry(tree).or_default();
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        let mut trees = Vec::with_capacity(batches.len());
        for tree in batches.keys() {
            trees.push(self.tree(*tree)?);
        }
        if trees.is_empty() {
            return Ok(());
        }
        let outcome = trees.as_slice().transaction(|trees| {
            for (tree, batch) in trees.iter().zip(batches.values()) {
                tree.apply_batch(batch)?;
            }
            Ok::<(), ConflictableTransactionError<()>>(())
        });
        outcome.map_err(|error| match error {
            TransactionError::Storage(error) => index_error("writing the index", error),
            TransactionError::Abort(()) => damaged("the index", "a transaction was refused"),
        })
    }

    fn count(&self, size: usize) {
        let entered = self.entered.fetch_add(size, Ordering::Relaxed) + size;
        self.most_entered.fetch_max(entered, Ordering::Relaxed);
    }

    /// Notes in the log that all which was synced before this is synced (D10).
    fn mark(&self) -> Result<()> {
        let number = self.synced.load(Ordering::Relaxed).saturating_add(1);
        self.note(SYNCED_KEY, Some(&schema::synced_value(number)))?;
        self.synced.store(number, Ordering::Relaxed);
        self.mark_due.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Sets or removes an entry of the index's own.
    fn note(&self, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        let db = self.handles.db()?;
        self.count(key.len() + value.map_or(0, <[u8]>::len) + Changes::OVERHEAD);
        let outcome = match value {
            Some(value) => db.insert(key, value),
            None => db.remove(key),
        };
        outcome.map(drop).map_err(|error| index_error("writing the index", error))
    }

    /// Makes durable what was changed, and that it is, when nothing else will be: what goes bad of it from now on, or missing, is
    /// found at the next opening (D10).
    pub(super) fn seal(&self) -> Result<()> {
        self.sync()?;
        // The marks are not to go bad with the block that has the end of what they vouch for; nor are they looked for in a page
        // as long as this.
        self.note(SEAL_KEY, Some(&[0; schema::MAX_VALUE]))?;
        self.note(SEAL_KEY, None)?;
        // What stands before the first mark is told by the second.
        for _ in 0..2 {
            self.mark()?;
            self.sync()?;
        }
        gaps::note_sealed(&self.path, self.synced.load(Ordering::Relaxed))
            .and_then(|()| sync_folder(&self.path))
            .map_err(Error::io("sealing the index"))
    }

    /// Sets or removes one entry of an index that is no store's yet: see [`Rewrite`](super::rewrite::Rewrite).
    pub(super) fn put(&self, tree: Tree, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        let tree = self.tree(tree)?;
        let outcome = match value {
            Some(value) => tree.insert(key, value),
            None => tree.remove(key),
        };
        outcome.map(drop).map_err(|error| index_error("writing a new index", error))
    }

    /// Makes durable what [`Index::put`] brought. The file is synced before sled is asked to flush too: sled holds a lock meanwhile
    /// that every store in the process shares, and is to find as little left to do as can be.
    pub(super) fn settle(&self) -> Result<()> {
        self.on_disk.file.sync_data().map_err(Error::io("syncing a new index"))?;
        self.seal()
    }

    /// Hands all changes to the system: they survive the process, and not yet the machine.
    pub(super) fn flush(&self) -> Result<()> {
        let db = self.handles.db()?;
        self.waker.watched(|| db.flush()).map_err(|error| index_error("flushing the index", error))?;
        Ok(())
    }

    /// Makes all changes durable (D2).
    pub(super) fn sync(&self) -> Result<()> {
        self.flush()?;
        self.on_disk.sync().map_err(Error::io("syncing the index"))?;
        self.entered.store(0, Ordering::Relaxed);
        self.mark_due.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// The most bytes that ever entered between two data syncs (D4).
    #[cfg(test)]
    pub(super) fn most_entered(&self) -> usize {
        self.most_entered.load(Ordering::Relaxed)
    }

    /// Closes the database after a failure, and makes the system forget pages that it may hold as clean though the disk never
    /// took them: what is opened next is what the disk has (D8).
    pub(super) fn close_after_failure(self) {
        self.on_disk.failed.store(true, Ordering::Relaxed);
    }
}

/// The database's file, opened before the first write, held, and never written through: what `sync_data` is called on (D2).
struct OnDisk {
    file: File,
    failed: AtomicBool,
}

impl OnDisk {
    fn sync(&self) -> io::Result<()> {
        let synced = self.file.sync_data();
        if synced.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        synced
    }
}

impl Drop for OnDisk {
    /// Whoever lets go of an index that failed, the next one reads what the disk has (D8).
    fn drop(&mut self) {
        if self.failed.load(Ordering::Relaxed) {
            forget_pages(&self.file);
        }
    }
}

/// Has the system read from the disk what is read next.
fn forget_pages(file: &File) {
    // Advice only: where it is not taken, the pages are those that were written, and no less than the disk has.
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
}

/// The database and its trees.
struct Handles {
    /// `None` only while it is being dropped.
    db: Option<Db>,
    trees: BTreeMap<Tree, ::sled::Tree>,
}

impl Handles {
    fn db(&self) -> Result<&Db> {
        self.db.as_ref().ok_or_else(|| Error::Unavailable("its index is closed".to_owned()))
    }
}

impl Drop for Handles {
    /// The last handle syncs the file once more, and panics where that fails. Nobody waits for that sync: what was acknowledged
    /// was synced before. So neither the writer nor whoever lets go of the store may be taken down by it.
    fn drop(&mut self) {
        let (db, trees) = (self.db.take(), std::mem::take(&mut self.trees));
        let _ = panic::catch_unwind(AssertUnwindSafe(move || drop((trees, db))));
    }
}

/// D6: sled takes a half-written snapshot for the newest one and refuses to open.
fn remove_torn_snapshots(path: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// sled lets go of its file a moment after the last handle is dropped, when its threads have ended; the folder's lock already
/// says that nobody else has it.
fn open_released(config: &Config) -> ::sled::Result<Db> {
    let mut attempts = 0;
    loop {
        match config.open() {
            Err(::sled::Error::Io(error))
                if attempts < 100 && error.to_string().contains("could not acquire lock") =>
            {
                attempts += 1;
                thread::sleep(Duration::from_millis(10));
            }
            outcome => return outcome,
        }
    }
}

fn index_error(doing: &str, error: ::sled::Error) -> Error {
    match error {
        ::sled::Error::Io(source) => Error::Io { doing: doing.to_owned(), source },
        ::sled::Error::Corruption { .. } => damaged("the index", "sled finds its pages corrupted"),
        other => damaged("the index", &other.to_string()),
    }
}

/// Where the index of an open store is, for opening it again.
pub(super) struct Location {
    pub(super) path: PathBuf,
    pub(super) cache_capacity: u64,
}

impl Location {
    pub(super) fn open(&self) -> Result<Index> {
        Index::open(&self.path, self.cache_capacity)
    }
}
