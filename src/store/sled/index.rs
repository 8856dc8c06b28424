//! The sled database and the write-ahead log in front of it: opening them safely, reading, changing, and making changes durable.
//!
//! A change is written to the log, and is durable when that is synced (D12). Until sled has it, it is in memory, where readers look
//! first. When so much has come together that more must not enter sled at once (D4), sled takes it over and is synced, and a new window
//! begins.
//!
//! Any thread reads. Only the writer's thread calls [`Index::apply`], [`Index::flush`] and [`Index::sync`] (D5).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::ops::Bound;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use ::sled::{Config, Db, IVec};

use super::changes::Changes;
use super::folder::sync_folder;
use super::gaps;
use super::log;
use super::memtable::{Memtable, Merged};
use super::schema::{self, Record, SEAL_KEY, SYNCED_KEY, Tree, WAL_KEY, damaged};
use super::waker::Waker;
use super::wal::{self, Wal, Window};
use crate::error::{Error, Result};

/// sled reuses a freed segment on the word of a sync that is none; what one window writes must stay far below one (D4).
pub(super) const SEGMENT_SIZE: usize = 4 << 20;

/// The most bytes of keys and values that enter sled between two of its data syncs (D4).
pub(super) const WINDOW: usize = 64 << 10;

/// What a mark adds to a window, at most.
pub(super) const MARK_SIZE: usize = 64;

/// An open database.
pub(super) struct Index {
    /// Before the handles: its thread has one too, and the file is free only when the last is gone.
    waker: Waker,
    handles: Handles,
    /// After the handles, for what it does when it is dropped.
    on_disk: OnDisk,
    wal: Wal,
    memtable: Memtable,
    /// The most bytes of keys and values that were ever in a window.
    most_entered: AtomicUsize,
    path: PathBuf,
}

impl Index {
    /// Makes an empty database with all its trees in a folder that is not there. The folder and its name are the caller's to make
    /// durable (D3).
    pub(super) fn create(path: &Path, cache_capacity: u64) -> Result<Self> {
        let made = fs::create_dir_all(path).and_then(|()| log::begin(path));
        made.map_err(Error::io(format!("making the index {}", path.display())))?;
        Self::open_with(path, cache_capacity, Log::ToBeMade)
    }

    /// Gives a database that was made before there was a write-ahead log in front of it one, whatever an attempt to that was cut
    /// short has left. Until this has returned, nothing that is acknowledged is in the log.
    pub(super) fn upgrade(path: &Path) -> Result<()> {
        Self::open_with(path, 1 << 20, Log::ToBeMade)?.seal()
    }

    /// Opens the database, and clears away first what would keep it from opening or make it lie (D6). An opening that fails
    /// may have failed to sync: the next one must not believe the pages that this one left (D8).
    pub(super) fn open(path: &Path, cache_capacity: u64) -> Result<Self> {
        Self::open_with(path, cache_capacity, Log::IsThere)
    }

    fn open_with(path: &Path, cache_capacity: u64, log: Log) -> Result<Self> {
        let opened = panic::catch_unwind(AssertUnwindSafe(|| Self::try_open(path, cache_capacity, log)))
            .unwrap_or_else(|_| {
                Err(damaged(
                    &format!("the index {}", path.display()),
                    "sled gave up, its reason is on stderr",
                ))
            });
        if opened.is_err() {
            for file in ["db", wal::FILE].iter().flat_map(|name| File::open(path.join(name))) {
                forget_pages(&file);
            }
        }
        opened
    }

    fn try_open(path: &Path, cache_capacity: u64, log: Log) -> Result<Self> {
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
        let (wal, window) = open_wal(path, &handles, log)?;
        let index = Self {
            waker,
            handles,
            on_disk,
            wal,
            memtable: Memtable::default(),
            most_entered: AtomicUsize::new(0),
            path: path.to_owned(),
        };
        index.take_over(&window)?;
        sync_folder(path).map_err(failed)?;
        Ok(index)
    }

    /// Has sled make the changes of the window that was open last. It may have begun to before: that the log says of each entry what it
    /// was to be in the end, so that whatever sled has of it, this is the outcome.
    fn take_over(&self, window: &Window) -> Result<()> {
        window.records.iter().for_each(|changes| self.memtable.apply(changes));
        // sled's own recovery and new trees wrote as well; nothing may stand on that before it is durable.
        self.empty_into_sled(window.number)
    }

    fn tree(&self, tree: Tree) -> Result<&::sled::Tree> {
        self.handles.trees.get(&tree).ok_or_else(|| damaged("the index", "a tree is missing"))
    }

    pub(super) fn value(&self, tree: Tree, key: &[u8]) -> Result<Option<IVec>> {
        if let Some(newest) = self.memtable.get(tree, key) {
            return Ok(newest);
        }
        self.tree(tree)?.get(key).map_err(|error| index_error("reading the index", error))
    }

    pub(super) fn get<R: Record>(&self, key: &[u8]) -> Result<Option<R>> {
        self.value(R::TREE, key)?.map(|value| schema::decode(&value)).transpose()
    }

    pub(super) fn contains(&self, tree: Tree, key: &[u8]) -> Result<bool> {
        self.value(tree, key).map(|value| value.is_some())
    }

    /// The first and the last key of a tree.
    pub(super) fn ends(&self, tree: Tree) -> Result<Option<(IVec, IVec)>> {
        let mut newest = self.memtable.range(tree, &Bound::Unbounded, &[]);
        let Some(first) = self.scan(tree, &[], None)?.next().transpose()? else { return Ok(None) };
        let mut last = None;
        for entry in self.tree(tree)?.iter().rev() {
            let (key, _) = entry.map_err(|error| index_error("reading the index", error))?;
            if newest.binary_search_by(|(newer, _)| newer.cmp(&key)).is_err() {
                last = Some(key);
                break;
            }
        }
        newest.retain(|(_, value)| value.is_some());
        let last = last.max(newest.pop().map(|(key, _)| key));
        Ok(last.map(|last| (first.0, last)))
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
        // First what may be on its way into sled.
        let newest = self.memtable.range(tree, &start, &prefix);
        let entries = self.tree(tree)?.range((start, Bound::Unbounded));
        let entries = entries
            .map(|entry| entry.map_err(|error| index_error("reading the index", error)))
            .take_while(move |entry| entry.as_ref().map_or(true, |(key, _)| key.starts_with(&prefix)));
        Ok(Merged::new(newest, entries))
    }

    /// Makes changes, all or none of them. Readers see them at once; they are durable after the next [`Index::sync`].
    pub(super) fn apply(&self, changes: &Changes) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        if self.memtable.size() + changes.size() > WINDOW - MARK_SIZE || !self.wal.has_room(changes) {
            self.turn()?;
        }
        self.wal.append(changes).map_err(Error::io(WRITING_WAL))?;
        self.memtable.apply(changes);
        self.count();
        Ok(())
    }

    fn count(&self) {
        self.most_entered.fetch_max(self.memtable.size() + MARK_SIZE, Ordering::Relaxed);
    }

    /// Ends the window: sled has durably what it says, and the next one begins.
    pub(super) fn turn(&self) -> Result<()> {
        // sled hears of nothing that is not durable: it makes each change by itself, and a power cut may leave any part of them.
        let number = self.wal.close().map_err(Error::io(WRITING_WAL))?;
        self.empty_into_sled(number)?;
        self.wal.begin_next();
        Ok(())
    }

    /// Has sled make the changes of a window, durably, with a mark in front of them: what stands before it in sled's log was synced (D10).
    fn empty_into_sled(&self, number: u64) -> Result<()> {
        if self.mark()? < number {
            self.note(SYNCED_KEY, Some(&schema::synced_value(number)))?;
        }
        self.memtable.each(|tree, key, value| self.put(tree, key, value))?;
        self.sync_sled()?;
        self.memtable.clear();
        Ok(())
    }

    /// The number of the last mark.
    fn mark(&self) -> Result<u64> {
        last_mark(self.handles.db()?)
    }

    /// Sets or removes an entry of the index's own.
    fn note(&self, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        let db = self.handles.db()?;
        let outcome = match value {
            Some(value) => db.insert(key, value),
            None => db.remove(key),
        };
        outcome.map(drop).map_err(|error| index_error("writing the index", error))
    }

    /// Makes durable what was changed, and that it is, when nothing else will be: what goes bad of it from now on, or missing, is
    /// found at the next opening (D10).
    pub(super) fn seal(&self) -> Result<()> {
        self.turn()?;
        // The marks are not to go bad with the block that has the end of what they vouch for; nor are they looked for in a page
        // as long as this.
        self.note(SEAL_KEY, Some(&[0; schema::MAX_VALUE]))?;
        self.note(SEAL_KEY, None)?;
        // What stands before the first mark is told by the second.
        self.turn()?;
        self.turn()?;
        gaps::note_sealed(&self.path, self.mark()?)
            .and_then(|()| sync_folder(&self.path))
            .map_err(Error::io("sealing the index"))
    }

    /// Sets or removes one entry of sled's. Of an index that is a store's, only what is in the log.
    pub(super) fn put(&self, tree: Tree, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        let tree = self.tree(tree)?;
        let outcome = match value {
            Some(value) => tree.insert(key, value),
            None => tree.remove(key),
        };
        outcome.map(drop).map_err(|error| index_error("writing the index", error))
    }

    /// Makes durable what [`Index::put`] brought into an index that is no store's yet: see [`Rewrite`](super::rewrite::Rewrite). The
    /// file is synced before sled is asked to flush too: sled holds a lock meanwhile that every store in the process shares, and is to
    /// find as little left to do as can be.
    pub(super) fn settle(&self) -> Result<()> {
        self.on_disk.file.sync_data().map_err(Error::io("syncing a new index"))?;
        self.seal()
    }

    /// Hands all changes to the system: they survive the process, and not yet the machine.
    pub(super) fn flush(&self) -> Result<()> {
        self.wal.write().map_err(Error::io(WRITING_WAL))
    }

    /// Makes all changes durable (D12).
    pub(super) fn sync(&self) -> Result<()> {
        self.wal.sync().map_err(Error::io("syncing the write-ahead log of the index"))
    }

    /// Makes durable what sled has (D2).
    fn sync_sled(&self) -> Result<()> {
        let db = self.handles.db()?;
        self.waker.watched(|| db.flush()).map_err(|error| index_error("flushing the index", error))?;
        self.on_disk.sync().map_err(Error::io("syncing the index"))
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
        forget_pages(self.wal.file());
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

const WRITING_WAL: &str = "writing the write-ahead log of the index";

fn last_mark(db: &Db) -> Result<u64> {
    let mark = db.get(SYNCED_KEY).map_err(|error| index_error("reading the index", error))?;
    Ok(mark.and_then(|value| schema::number_of_synced(&value)).unwrap_or(0))
}

/// Whether an index has its write-ahead log already.
#[derive(Clone, Copy)]
enum Log {
    IsThere,
    ToBeMade,
}

/// The log in front of sled, and the window that was open last.
fn open_wal(path: &Path, handles: &Handles, log: Log) -> Result<(Wal, Window)> {
    let failed =
        |error| Error::io(format!("opening the write-ahead log of the index {}", path.display()))(error);
    let (db, mark) = (handles.db()?, last_mark(handles.db()?)?);
    if matches!(log, Log::ToBeMade) {
        let (wal, id) = Wal::create(path, mark).map_err(failed)?;
        sync_folder(path).map_err(failed)?;
        let noted = db.insert(WAL_KEY, &schema::wal_value(id)).map(drop);
        noted.map_err(|error| index_error("opening the index", error))?;
        return Ok((wal, Window { number: mark, ..Window::default() }));
    }
    let bad = |reason: &str| damaged(&format!("the index {}", path.display()), reason);
    let id = db.get(WAL_KEY).map_err(|error| index_error("opening the index", error))?;
    // sled takes a log that it cannot read for an empty one.
    let id = id.ok_or_else(|| bad("sled finds nothing in its file \"db\""))?;
    let id = schema::wal_of_value(&id)?;
    let window = match wal::read(path, Some(id)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(bad("its file \"wal\" is missing")),
        Err(error) if [ErrorKind::InvalidData, ErrorKind::UnexpectedEof].contains(&error.kind()) => {
            return Err(bad("its file \"wal\" has a record that this version cannot read"));
        }
        window => window.map_err(failed)?,
    };
    let window = window.ok_or_else(|| bad("its file \"wal\" is not the one that it had, or went bad"))?;
    if let Some(offset) = window.gap {
        return Err(bad(&format!("byte {offset} of its file \"wal\" went bad after it was written")));
    }
    // The mark is written when sled takes over the window, and the next one begins when sled has done so.
    if window.number < mark {
        return Err(bad("its file \"wal\" is older than its file \"db\", or went bad"));
    }
    if window.number > mark.saturating_add(1) {
        return Err(bad(
            "its file \"db\" is older than its file \"wal\", or lacks the end of what was written",
        ));
    }
    let wal = Wal::open(path, id, window.number).map_err(failed)?;
    Ok((wal, window))
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
