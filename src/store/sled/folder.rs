//! The data folder: whose it is, in which format, and that one process at a time has it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use uuid::Uuid;

use super::index::Index;
use super::reserve::{self, RESERVE, Reserve};
use super::schema::{FORMAT, FORMAT_WITHOUT_WAL};
use crate::error::{Error, Result};

/// The folder of an open store. The lock goes with it.
pub(super) struct Folder {
    path: PathBuf,
    content: PathBuf,
    /// Held open for its syncs: an error that a sync has to report reaches only descriptors that were open before it.
    content_handle: File,
    quarantine: PathBuf,
    /// Whether the folder for content that failed may be there: it is made at need.
    has_quarantine: AtomicBool,
    /// Whether something was removed from it since it was last synced.
    quarantine_changed: AtomicBool,
    pub(super) reserve: Reserve,
    /// Whether it says that it is a snapshot.
    is_snapshot: AtomicBool,
    _lock: File,
}

pub(super) const FORMAT_FILE: &str = "format";
const FORMAT_WORDS: &str = "sledge store, format ";
pub(super) const LOCK_FILE: &str = "lock";
/// Says that a store is a snapshot as it was taken: it goes before the first change that anybody asks for.
pub(super) const SNAPSHOT_FILE: &str = "snapshot";
pub(super) const INDEX: &str = "index";
pub(super) const CONTENT: &str = "content";
pub(super) const QUARANTINE: &str = "quarantine";
/// What a creation, or something else that was cut short, leaves: the next opening removes it.
const UNFINISHED: &str = "unfinished-";
/// A new index before it is renamed into place.
pub(super) const NEW_INDEX: &str = "unfinished-index";
/// The index before the one that was renamed into its place; it goes when that is durable.
const REPLACED_INDEX: &str = "replaced-index";
/// Says that a store is being made of what another place holds: until that is done, there is nothing to open.
pub(super) const FILLING: &str = "unfinished-store";
/// The socket that a server listens on. The server makes and removes it; that one was left behind says nothing.
const CONTROL: &str = "control";

impl Folder {
    /// Takes the folder, and makes a store in it where it is absent or empty.
    pub(super) fn open(path: &Path) -> Result<Self> {
        Self::take(path, true)
    }

    /// Takes the folder of a store that exists.
    pub(super) fn open_existing(path: &Path) -> Result<Self> {
        Self::take(path, false)
    }

    fn take(path: &Path, create_store: bool) -> Result<Self> {
        if !create_store && !has_format(path)? {
            check_filled(path)?;
            if path.join(INDEX).exists() {
                return Err(no_format(path));
            }
            return Err(Error::NoStore(path.to_owned()));
        }
        let shown = path.display();
        make_folder(path).map_err(Error::io(format!("making the folder {shown}")))?;
        let path = path.canonicalize().map_err(Error::io(format!("looking up the folder {shown}")))?;
        check_filled(&path)?;
        if !has_format(&path)? {
            check_empty(&path).map_err(|error| match error {
                Error::NotAStore { path, found } if found == INDEX => no_format(&path),
                error => error,
            })?;
        }
        let lock = lock(&path)?;
        check_filled(&path)?;
        put_back(&path).map_err(Error::io(format!("putting the index back in {}", path.display())))?;
        // Again, now that nobody else can be making one.
        match read_format(&path)? {
            Some(found) => {
                let is_older = check_supported(&path, found)? < FORMAT;
                let failed = |error| Error::io(format!("clearing away in {}", path.display()))(error);
                clear_replaced(&path).and_then(|()| clear_unfinished(&path)).map_err(failed)?;
                if is_older {
                    upgrade(&path)?;
                }
            }
            None if !create_store => return Err(no_index(&path)),
            None => {
                check_no_content(&path)?;
                create(&path)?;
            }
        }
        Self::over(path, lock)
    }

    /// The folder of a store that is whole, with its lock.
    pub(super) fn over(path: PathBuf, lock: File) -> Result<Self> {
        let content = path.join(CONTENT);
        let content_handle =
            File::open(&content).map_err(Error::io(format!("opening the folder {}", content.display())))?;
        let quarantine = path.join(QUARANTINE);
        let has_quarantine = AtomicBool::new(quarantine.exists());
        let quarantine_changed = AtomicBool::new(false);
        let reserve = Reserve::new(&path);
        let is_snapshot = AtomicBool::new(path.join(SNAPSHOT_FILE).exists());
        Ok(Self {
            path,
            content,
            content_handle,
            quarantine,
            has_quarantine,
            quarantine_changed,
            reserve,
            is_snapshot,
            _lock: lock,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn content_folder(&self) -> &Path {
        &self.content
    }

    pub(super) fn quarantine(&self) -> &Path {
        &self.quarantine
    }

    pub(super) fn index(&self) -> PathBuf {
        self.path.join(INDEX)
    }

    pub(super) fn content(&self, id: Uuid) -> PathBuf {
        self.content.join(id.simple().to_string())
    }

    /// Where content is kept that failed.
    pub(super) fn quarantined(&self, id: Uuid) -> PathBuf {
        self.quarantine.join(id.simple().to_string())
    }

    /// What is in `content/` and in `quarantine/`.
    pub(super) fn entries(&self) -> io::Result<impl Iterator<Item = io::Result<fs::DirEntry>> + use<>> {
        let quarantined = if self.has_quarantine() { Some(fs::read_dir(&self.quarantine)?) } else { None };
        Ok(fs::read_dir(&self.content)?.chain(quarantined.into_iter().flatten()))
    }

    pub(super) fn is_snapshot(&self) -> bool {
        self.is_snapshot.load(Ordering::Acquire)
    }

    /// To be called before a change that somebody asks for: a snapshot is none from then on, also after a power cut.
    pub(super) fn changes(&self) -> Result<()> {
        if !self.is_snapshot() {
            return Ok(());
        }
        let mark = self.path.join(SNAPSHOT_FILE);
        let gone = match fs::remove_file(&mark) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => sync_folder(&self.path),
        };
        gone.map_err(Error::io(format!("removing {}, since the snapshot is to be changed", mark.display())))?;
        self.is_snapshot.store(false, Ordering::Release);
        Ok(())
    }

    /// Makes files that were made or removed in `content/` stay so (D7).
    pub(super) fn sync_content(&self) -> io::Result<()> {
        self.content_handle.sync_all()
    }

    /// Makes files that were put into `quarantine/` stay there.
    pub(super) fn sync_quarantine(&self) -> io::Result<()> {
        sync_folder(&self.quarantine)
    }

    /// Makes files that [`Folder::remove_quarantined`] took out of `quarantine/` stay so, if it did.
    pub(super) fn sync_changed_quarantine(&self) -> io::Result<()> {
        if self.quarantine_changed.swap(false, Ordering::AcqRel)
            && let Err(error) = self.sync_quarantine()
        {
            self.quarantine_changed.store(true, Ordering::Release);
            return Err(error);
        }
        Ok(())
    }

    /// Makes the folder for content that failed, so that it stays.
    pub(super) fn make_quarantine(&self) -> io::Result<()> {
        make_folder(&self.quarantine)?;
        self.has_quarantine.store(true, Ordering::Release);
        Ok(())
    }

    fn has_quarantine(&self) -> bool {
        self.has_quarantine.load(Ordering::Acquire)
    }

    /// Removes what is kept of content that failed, if anything is; not durably yet. `true` if it is gone.
    pub(super) fn remove_quarantined(&self, id: Uuid) -> bool {
        if !self.has_quarantine() {
            return true;
        }
        let path = self.quarantined(id);
        if path.exists() {
            self.quarantine_changed.store(true, Ordering::Release);
        }
        remove_file(&path)
    }

    /// Finishes, or takes back, what replaced the index and was cut short by an error: the one that is then in its place is the one
    /// that counts, also after a power cut. An index that is missing is not made anew.
    pub(super) fn settle_index(&self) -> Result<()> {
        let failed = Error::io(format!("putting the index back in {}", self.path.display()));
        put_back(&self.path).and_then(|()| clear_replaced(&self.path)).map_err(failed)?;
        if self.index().exists() { Ok(()) } else { Err(no_index(&self.path)) }
    }

    /// Makes room for what is about to be written where the disk has none: the reserve is for that.
    pub(super) fn make_room(&self) {
        if self.available().is_ok_and(|available| available < RESERVE) {
            self.reserve.give_up();
        }
    }

    /// Keeps room again, if there is plenty; whether it is kept.
    pub(super) fn keep_room(&self) -> bool {
        self.available().is_ok_and(|available| self.reserve.take(available))
    }

    /// How many bytes the filesystem has left for us.
    pub(super) fn available(&self) -> Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.content_handle)
            .map_err(|error| Error::Io { doing: "asking for free space".to_owned(), source: error.into() })?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// The id of the content whose file this is; none where it is not the store's.
pub(super) fn id_of(entry: &fs::DirEntry) -> Option<Uuid> {
    let name = entry.file_name();
    let id = Uuid::try_parse(name.to_str()?).ok()?;
    // An id can be written in several ways; the store writes it in this one.
    let is_ours = name == *id.simple().to_string() && entry.file_type().is_ok_and(|kind| kind.is_file());
    is_ours.then_some(id)
}

/// `true` if it is gone, now or before.
pub(super) fn remove_file(path: &Path) -> bool {
    fs::remove_file(path).map_or_else(|error| error.kind() == ErrorKind::NotFound, |()| true)
}

/// Makes a folder and those above it, so that none of them goes with a power cut.
pub(super) fn make_folder(path: &Path) -> io::Result<()> {
    let path = std::path::absolute(path)?;
    let new: Vec<&Path> = path.ancestors().take_while(|folder| !folder.exists()).collect();
    fs::create_dir_all(&path)?;
    new.iter().filter_map(|folder| folder.parent()).try_for_each(sync_folder)
}

/// That a new folder is in one that is there: where it is not, the disk that it is on may not be mounted, and what is written to a
/// folder of its name would fill another one.
pub(super) fn check_parent(path: &Path) -> Result<()> {
    let failed = |error| Error::io(format!("looking up the folder of {}", path.display()))(error);
    let path = std::path::absolute(path).map_err(failed)?;
    let Some(parent) = path.parent() else { return Ok(()) };
    match fs::metadata(parent) {
        Err(error) if error.kind() == ErrorKind::NotFound => Err(Error::Unsupported(format!(
            "there is no folder {} to make {} in: is the disk mounted? make the folder if it is",
            parent.display(),
            path.display()
        ))),
        found => found.map(drop).map_err(failed),
    }
}

/// A folder that is to become a store may hold what an unfinished creation left, and what filesystems and tools put there.
pub(super) fn check_empty(path: &Path) -> Result<()> {
    let ours = |name: &str| {
        [LOCK_FILE, CONTENT, INDEX, SNAPSHOT_FILE, CONTROL, reserve::FILE, "lost+found"].contains(&name)
            || name.starts_with(UNFINISHED)
    };
    let entries = fs::read_dir(path).map_err(Error::io(format!("listing {}", path.display())))?;
    for entry in entries {
        let name = entry.map_err(Error::io(format!("listing {}", path.display())))?.file_name();
        let name = name.to_string_lossy();
        if !ours(&name) {
            return Err(Error::NotAStore { path: path.to_owned(), found: name.into_owned() });
        }
    }
    // None of these without a format file is an unfinished creation: the format file is made first.
    for name in [INDEX, CONTENT, SNAPSHOT_FILE] {
        if path.join(name).exists() {
            return Err(Error::NotAStore { path: path.to_owned(), found: name.to_owned() });
        }
    }
    Ok(())
}

/// A store that is to hold what another place does, and does not yet, is not to be taken for an empty one.
fn check_filled(path: &Path) -> Result<()> {
    if path.join(FILLING).exists() && !path.join(INDEX).exists() {
        return Err(Error::Damaged {
            what: format!("the store in {}", path.display()),
            reason: "it was being made of another one, and that was cut short: do it again".to_owned(),
        });
    }
    Ok(())
}

/// A store that has content and no index is no unfinished creation: a new index would make all of it nobody's.
fn check_no_content(path: &Path) -> Result<()> {
    match fs::read_dir(path.join(CONTENT)).map(|mut entries| entries.next().is_some()) {
        Ok(true) => Err(no_index(path)),
        _ => Ok(()),
    }
}

fn no_format(path: &Path) -> Error {
    Error::Damaged {
        what: format!("the store in {}", path.display()),
        reason: format!(
            "it has an index, but its file {FORMAT_FILE:?} is missing: nobody can tell which format it has"
        ),
    }
}

fn no_index(path: &Path) -> Error {
    Error::Damaged {
        what: format!("the store in {}", path.display()),
        reason: format!(
            "it has content, but its folder {INDEX:?} is missing: restore that from where the rest came from, or rescue \
             the content"
        ),
    }
}

pub(super) fn lock(path: &Path) -> Result<File> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path.join(LOCK_FILE))
        .map_err(Error::io(format!("opening {}", path.join(LOCK_FILE).display())))?;
    let mut attempts = 0;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            // A program that starts another one has its files open twice for a moment, the lock of a store among them that it has
            // closed meanwhile.
            Err(TryLockError::WouldBlock) if attempts < 20 => {
                attempts += 1;
                thread::sleep(Duration::from_millis(5));
            }
            Err(TryLockError::WouldBlock) => return Err(Error::Locked(path.to_owned())),
            Err(TryLockError::Error(error)) => {
                return Err(Error::io(format!("locking {}", path.display()))(error));
            }
        }
    }
}

/// Makes a store of the format before one of this version's. Older versions open it as long as they find in it all there is.
fn upgrade(path: &Path) -> Result<()> {
    let failed = |error| Error::io(format!("upgrading the store in {}", path.display()))(error);
    Index::upgrade(&path.join(INDEX))?;
    sync_tree(&path.join(INDEX)).map_err(failed)?;
    write_format(path).and_then(|()| sync_folder(path)).map_err(failed)
}

/// The format that was found, if this version can read it.
fn check_supported(path: &Path, found: String) -> Result<u32> {
    let format = found.parse().ok().filter(|format| [FORMAT_WITHOUT_WAL, FORMAT].contains(format));
    format.ok_or_else(|| Error::FormatVersion { path: path.to_owned(), found, supported: FORMAT })
}

/// The format of a finished store that this version can read, and which is not to be changed.
pub(super) fn check_format(path: &Path) -> Result<u32> {
    match read_format(path)? {
        Some(found) => check_supported(path, found),
        None if path.join(CONTENT).exists() => Err(no_index(path)),
        None => Err(Error::NoStore(path.to_owned())),
    }
}

/// Whether there is a format file. What may not be looked at is not absent.
fn has_format(path: &Path) -> Result<bool> {
    let file = path.join(FORMAT_FILE);
    match file.try_exists() {
        // A file where a folder should be has nothing in it.
        Err(error) if error.kind() == ErrorKind::NotADirectory => Ok(false),
        found => found.map_err(Error::io(format!("looking for {}", file.display()))),
    }
}

/// `None` where no store was finished: its index is what is renamed into place last.
fn read_format(path: &Path) -> Result<Option<String>> {
    let file = path.join(FORMAT_FILE);
    let mut text = String::new();
    match File::open(&file).and_then(|opened| opened.take(256).read_to_string(&mut text)) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == ErrorKind::InvalidData => text.clear(),
        Err(error) => return Err(Error::io(format!("reading {}", file.display()))(error)),
    }
    match text.strip_prefix(FORMAT_WORDS) {
        Some(found) if check_supported(path, found.trim().to_owned()).is_ok() => {
            Ok(path.join(INDEX).exists().then(|| found.trim().to_owned()))
        }
        Some(found) => Ok(Some(found.trim().to_owned())),
        None => Err(Error::NotAStore { path: path.to_owned(), found: FORMAT_FILE.to_owned() }),
    }
}

/// D3: everything is made aside, synced, and renamed into place; the index last, for it is what makes the store one.
fn create(path: &Path) -> Result<()> {
    let failed = |error: io::Error| Error::io(format!("making a store in {}", path.display()))(error);
    clear_unfinished(path).map_err(failed)?;
    write_format(path).map_err(failed)?;
    fs::create_dir_all(path.join(CONTENT)).map_err(failed)?;
    let index = path.join(NEW_INDEX);
    drop(Index::create(&index, 1 << 20)?);
    sync_tree(&index).map_err(failed)?;
    publish(path).map_err(failed)
}

pub(super) fn write_format(path: &Path) -> io::Result<()> {
    let unfinished = path.join(format!("{UNFINISHED}{FORMAT_FILE}"));
    let mut format = File::create(&unfinished)?;
    format.write_all(format!("{FORMAT_WORDS}{FORMAT}\n").as_bytes())?;
    format.sync_all()?;
    fs::rename(unfinished, path.join(FORMAT_FILE))
}

/// Has a store that was just made say that it is a snapshot, durably.
pub(super) fn mark_snapshot(path: &Path) -> io::Result<()> {
    let mut mark = File::create(path.join(SNAPSHOT_FILE))?;
    mark.write_all(b"sledge snapshot, as it was taken\n")?;
    mark.sync_all()?;
    sync_folder(path)
}

/// Makes a folder a store: all but its new index is in place, and that is finished and durable.
pub(super) fn publish(path: &Path) -> io::Result<()> {
    sync_folder(path)?;
    fs::rename(path.join(NEW_INDEX), path.join(INDEX))?;
    sync_folder(path)
}

/// Puts a new index, finished and durable, in the place of the one that is there, which nobody has open. At each moment the
/// old one or the new one is found, under a name that [`Folder::open`] knows what to do with.
pub(super) fn replace_index(path: &Path) -> io::Result<()> {
    // sled's threads end a moment after its last handle: what they still write goes by the folder's name.
    await_release(&path.join(INDEX))?;
    await_release(&path.join(NEW_INDEX))?;
    fs::rename(path.join(INDEX), path.join(REPLACED_INDEX))?;
    fs::rename(path.join(NEW_INDEX), path.join(INDEX))?;
    clear_replaced(path)
}

/// Waits until nobody in this process has the index any more.
fn await_release(index: &Path) -> io::Result<()> {
    let file = File::open(index.join("db"))?;
    let mut attempts = 0;
    loop {
        match file.try_lock() {
            Ok(()) => return file.unlock(),
            Err(TryLockError::WouldBlock) if attempts < 200 => {
                attempts += 1;
                thread::sleep(Duration::from_millis(5));
            }
            Err(TryLockError::WouldBlock) => return Err(ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// A replacement that was cut short between its two renames: the index that was to be replaced is the one that counts.
fn put_back(path: &Path) -> io::Result<()> {
    if path.join(INDEX).exists() || !path.join(REPLACED_INDEX).exists() {
        return Ok(());
    }
    fs::rename(path.join(REPLACED_INDEX), path.join(INDEX))?;
    sync_folder(path)
}

/// Removes the index that was replaced, when its successor's name is durable.
fn clear_replaced(path: &Path) -> io::Result<()> {
    let replaced = path.join(REPLACED_INDEX);
    if !replaced.exists() {
        return Ok(());
    }
    sync_folder(path)?;
    fs::remove_dir_all(replaced)
}

/// Removes what was cut short.
pub(super) fn clear_unfinished(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            let left = entry.path();
            if entry.file_type()?.is_dir() { fs::remove_dir_all(&left) } else { fs::remove_file(&left) }?;
        }
    }
    Ok(())
}

pub(super) fn sync_tree(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?.path();
        if entry.is_dir() { sync_tree(&entry)? } else { File::open(&entry)?.sync_all()? }
    }
    sync_folder(path)
}

pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
