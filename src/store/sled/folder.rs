//! The data folder: whose it is, in which format, and that one process at a time has it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::index::Index;
use super::reserve::{RESERVE, Reserve};
use super::schema::FORMAT;
use crate::error::{Error, Result};

/// The folder of an open store. The lock goes with it.
pub(super) struct Folder {
    path: PathBuf,
    content: PathBuf,
    /// Held open for its syncs: an error that a sync has to report reaches only descriptors that were open before it.
    content_handle: File,
    pub(super) reserve: Reserve,
    _lock: File,
}

const FORMAT_FILE: &str = "format";
const FORMAT_WORDS: &str = "sledge store, format ";
const LOCK_FILE: &str = "lock";
const INDEX: &str = "index";
const CONTENT: &str = "content";
/// What a creation that was cut short leaves; the next one removes it.
const UNFINISHED: &str = "unfinished-";

impl Folder {
    /// Takes the folder, and makes a store in it where it is absent or empty.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let shown = path.display();
        make_folder(path).map_err(Error::io(format!("making the folder {shown}")))?;
        let path = path.canonicalize().map_err(Error::io(format!("looking up the folder {shown}")))?;
        if !path.join(FORMAT_FILE).exists() {
            check_empty(&path)?;
        }
        let lock = lock(&path)?;
        // Again, now that nobody else can be making one.
        match read_format(&path)? {
            Some(found) if found == FORMAT.to_string() => {}
            Some(found) => return Err(Error::FormatVersion { path, found, supported: FORMAT }),
            None => {
                check_no_content(&path)?;
                create(&path)?;
            }
        }
        let content = path.join(CONTENT);
        let content_handle =
            File::open(&content).map_err(Error::io(format!("opening the folder {}", content.display())))?;
        let reserve = Reserve::new(&path);
        Ok(Self { path, content, content_handle, reserve, _lock: lock })
    }

    pub(super) fn index(&self) -> PathBuf {
        self.path.join(INDEX)
    }

    pub(super) fn content(&self, id: Uuid) -> PathBuf {
        self.content.join(id.simple().to_string())
    }

    /// Makes files that were made or removed in `content/` stay so (D7).
    pub(super) fn sync_content(&self) -> io::Result<()> {
        self.content_handle.sync_all()
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

/// Makes a folder and those above it, so that none of them goes with a power cut.
fn make_folder(path: &Path) -> io::Result<()> {
    let path = std::path::absolute(path)?;
    let new: Vec<&Path> = path.ancestors().take_while(|folder| !folder.exists()).collect();
    fs::create_dir_all(&path)?;
    new.iter().filter_map(|folder| folder.parent()).try_for_each(sync_folder)
}

/// A folder that is to become a store may hold what an unfinished creation left, and what filesystems and tools put there.
fn check_empty(path: &Path) -> Result<()> {
    let ours = |name: &str| {
        [LOCK_FILE, CONTENT, INDEX, "lost+found"].contains(&name) || name.starts_with(UNFINISHED)
    };
    let entries = fs::read_dir(path).map_err(Error::io(format!("listing {}", path.display())))?;
    for entry in entries {
        let name = entry.map_err(Error::io(format!("listing {}", path.display())))?.file_name();
        let name = name.to_string_lossy();
        if !ours(&name) {
            return Err(Error::NotAStore { path: path.to_owned(), found: name.into_owned() });
        }
    }
    // An index or content without a format file is no unfinished creation: the format file is made first.
    for name in [INDEX, CONTENT] {
        if path.join(name).exists() {
            return Err(Error::NotAStore { path: path.to_owned(), found: name.to_owned() });
        }
    }
    Ok(())
}

/// A store that has content and no index is no unfinished creation: a new index would make all of it nobody's.
fn check_no_content(path: &Path) -> Result<()> {
    match fs::read_dir(path.join(CONTENT)).map(|mut entries| entries.next().is_some()) {
        Ok(true) => Err(Error::Damaged {
            what: format!("the store in {}", path.display()),
            reason: format!(
                "it has content, but its folder {INDEX:?} is missing: restore that from where the rest came from"
            ),
        }),
        _ => Ok(()),
    }
}

fn lock(path: &Path) -> Result<File> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path.join(LOCK_FILE))
        .map_err(Error::io(format!("opening {}", path.join(LOCK_FILE).display())))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Locked(path.to_owned())),
        Err(TryLockError::Error(error)) => Err(Error::io(format!("locking {}", path.display()))(error)),
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
        Some(found) if found.trim() == FORMAT.to_string() => {
            Ok(path.join(INDEX).exists().then(|| found.trim().to_owned()))
        }
        Some(found) => Ok(Some(found.trim().to_owned())),
        None => Err(Error::NotAStore { path: path.to_owned(), found: FORMAT_FILE.to_owned() }),
    }
}

/// D3: everything is made aside, synced, and renamed into place; the index last, for it is what makes the store one.
fn create(path: &Path) -> Result<()> {
    let failed = |error: io::Error| Error::io(format!("making a store in {}", path.display()))(error);
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            let left = entry.path();
            if left.is_dir() { fs::remove_dir_all(&left) } else { fs::remove_file(&left) }.map_err(failed)?;
        }
    }

    let unfinished = |name: &str| path.join(format!("{UNFINISHED}{name}"));
    let mut format = File::create_new(unfinished(FORMAT_FILE)).map_err(failed)?;
    format.write_all(format!("{FORMAT_WORDS}{FORMAT}\n").as_bytes()).map_err(failed)?;
    format.sync_all().map_err(failed)?;
    fs::rename(unfinished(FORMAT_FILE), path.join(FORMAT_FILE)).map_err(failed)?;
    fs::create_dir_all(path.join(CONTENT)).map_err(failed)?;

    Index::create(&unfinished(INDEX))?;
    sync_tree(&unfinished(INDEX)).map_err(failed)?;
    sync_folder(path).map_err(failed)?;
    fs::rename(unfinished(INDEX), path.join(INDEX)).map_err(failed)?;
    sync_folder(path).map_err(failed)?;
    Ok(())
}

fn sync_tree(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?.path();
        if entry.is_dir() { sync_tree(&entry)? } else { File::open(&entry)?.sync_all()? }
    }
    sync_folder(path)
}

pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
