//! Folders in which a store is made of another one: whole and durable before it can be taken for one.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::carry::content_of;
use super::folder::{self, Folder};
use super::options::Options;
use super::reserve::{self, Reserve};
use super::store::Sled;
use crate::error::{Error, Result};

/// A new folder, made beside the place that it is to have: it has its name only when it is whole.
pub(super) struct Beside {
    pub(super) path: PathBuf,
    folder: PathBuf,
    /// `None` when the folder has its name.
    lock: Option<File>,
}

impl Beside {
    /// `store` is the folder that the new one is not to be inside of.
    pub(super) fn prepare(folder: &Path, store: &Path) -> Result<Self> {
        let shown = folder.display().to_string();
        let failed = |error| Error::io(format!("making {shown}"))(error);
        let mut folder = std::path::absolute(folder).map_err(failed)?;
        if folder.is_symlink() {
            // A name can be given to what it leads to, not to the link.
            folder = folder.canonicalize().map_err(failed)?;
        }
        let (Some(parent), Some(name)) = (folder.parent(), folder.file_name()) else {
            return Err(Error::Unsupported(format!("{shown} is no place for a store: name a new folder")));
        };
        folder::check_parent(&folder)?;
        let parent = parent.canonicalize().map_err(failed)?;
        if parent.starts_with(store) {
            return Err(Error::Unsupported(format!(
                "{shown} is inside the store's own folder: name a folder outside of it"
            )));
        }
        let folder = parent.join(name);
        check_vacant(&folder)?;

        let mut unfinished = name.to_owned();
        unfinished.push(".unfinished");
        let path = parent.join(unfinished);
        fs::create_dir_all(&path).map_err(failed)?;
        let lock = folder::lock(&path)?;
        clear(&path)?;
        fs::create_dir(content_of(&path)).map_err(failed)?;
        Ok(Self { path, folder, lock: Some(lock) })
    }

    /// The store that has been made, all of which is there and durable.
    pub(super) fn open(&mut self, options: Options) -> Result<Sled> {
        folder::write_format(&self.path)
            .and_then(|()| folder::publish(&self.path))
            .map_err(Error::io(format!("making {}", self.folder.display())))?;
        let lock = self.lock.take().ok_or_else(|| Error::Locked(self.path.clone()))?;
        Sled::over(Folder::over(self.path.clone(), lock)?, options)
    }

    /// Gives the store its name, when it has been closed.
    pub(super) fn finish(self) -> Result<()> {
        let failed = |error| Error::io(format!("making {}", self.folder.display()))(error);
        folder::sync_tree(&self.path.join(folder::INDEX)).map_err(failed)?;
        // It is kept by who is open; here it would only make the copy larger.
        Reserve::new(&self.path).give_up();
        check_vacant(&self.folder)?;
        fs::rename(&self.path, &self.folder).map_err(failed)?;
        self.folder.parent().map_or(Ok(()), folder::sync_folder).map_err(failed)
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if self.lock.is_some() {
            // Where that fails, the next snapshot does it.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

fn check_vacant(folder: &Path) -> Result<()> {
    let failed = |error| Error::io(format!("listing {}", folder.display()))(error);
    let first = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed)?.next().transpose().map_err(failed)?,
    };
    match first {
        Some(found) => Err(Error::NotEmpty {
            path: folder.to_owned(),
            found: found.file_name().to_string_lossy().into_owned(),
        }),
        None => Ok(()),
    }
}

/// Empties a folder of what an unfinished store is made of. Anything else in it is somebody's.
fn clear(path: &Path) -> Result<()> {
    let failed = |error| Error::io(format!("clearing {}", path.display()))(error);
    let ours = [
        folder::FORMAT_FILE,
        folder::INDEX,
        folder::CONTENT,
        folder::LOCK_FILE,
        folder::SNAPSHOT_FILE,
        reserve::FILE,
    ];
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        if !ours.contains(&name.as_str()) && !name.starts_with("unfinished-") {
            return Err(Error::NotEmpty { path: path.to_owned(), found: name });
        }
        found.push(name);
    }
    for name in found.iter().filter(|name| *name != folder::LOCK_FILE) {
        let entry = path.join(name);
        if entry.is_dir() { fs::remove_dir_all(&entry) } else { fs::remove_file(&entry) }.map_err(failed)?;
    }
    Ok(())
}

/// A folder that is new or empty, and is filled in its place: it may be where a filesystem is mounted. While it says that it is
/// being filled and has no index, nobody opens it.
pub(super) struct Filling {
    pub(super) path: PathBuf,
    lock: File,
}

impl Filling {
    /// Takes the folder, and begins anew where an earlier attempt was cut short.
    pub(super) fn begin(folder: &Path) -> Result<Self> {
        let failed = |error| Error::io(format!("making a store in {}", folder.display()))(error);
        folder::check_parent(folder)?;
        folder::make_folder(folder).map_err(failed)?;
        let path = folder.canonicalize().map_err(failed)?;
        let begun = |path: &Path| path.join(folder::FILLING).exists() && !path.join(folder::INDEX).exists();
        if !begun(&path) {
            folder::check_empty(&path).map_err(|error| match error {
                Error::NotAStore { path, found } => Error::NotEmpty { path, found },
                error => error,
            })?;
            check_no_store(&path)?;
        }
        let lock = folder::lock(&path)?;
        if begun(&path) {
            clear(&path)?;
        } else {
            check_no_store(&path)?;
            folder::clear_unfinished(&path).map_err(failed)?;
        }
        let marked = File::create(path.join(folder::FILLING)).and_then(|_| folder::sync_folder(&path));
        marked.map_err(failed)?;
        fs::create_dir(content_of(&path)).map_err(failed)?;
        Ok(Self { path, lock })
    }

    /// The store, whose content and new index are there and durable. From here on it is one.
    pub(super) fn open(self, options: Options) -> Result<Sled> {
        folder::write_format(&self.path)
            .and_then(|()| folder::publish(&self.path))
            .and_then(|()| folder::clear_unfinished(&self.path))
            .map_err(Error::io(format!("making a store in {}", self.path.display())))?;
        Sled::over(Folder::over(self.path, self.lock)?, options)
    }
}

fn check_no_store(path: &Path) -> Result<()> {
    if path.join(folder::FORMAT_FILE).exists() {
        return Err(Error::NotEmpty { path: path.to_owned(), found: folder::FORMAT_FILE.to_owned() });
    }
    Ok(())
}
