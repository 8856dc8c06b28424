//! Bringing content files from one store's folder to another's, with as few bytes moved as the filesystems allow.
//!
//! A committed file is never written again, neither by the store that has it nor by the one that gets it: both only ever unlink
//! their own name of it. So two stores may share one inode, and each may be used, collected and removed without the other.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::ops::AddAssign;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, Result};

/// So many files and so many bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files {
    /// How many files.
    pub files: u64,
    /// How many bytes they have together.
    pub bytes: u64,
}

impl Files {
    const fn count(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
    }
}

/// How the files of blobs and large manifests came to a new store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// By another name of the same file: no bytes were moved, and the disk holds them once.
    pub linked: Files,
    /// By another name of the file that an earlier snapshot has.
    pub linked_since: Files,
    /// By a copy that shares its blocks with the file until one of them changes.
    pub cloned: Files,
    /// Byte by byte.
    pub copied: Files,
    /// How many were missing, not as long as their record says, or put into quarantine meanwhile.
    pub bad: u64,
    /// What the first hundred of these hold, and what is wrong with each.
    pub bad_content: Vec<BadContent>,
}

impl AddAssign for Carried {
    fn add_assign(&mut self, other: Self) {
        for (own, other) in [
            (&mut self.linked, other.linked),
            (&mut self.linked_since, other.linked_since),
            (&mut self.cloned, other.cloned),
            (&mut self.copied, other.copied),
        ] {
            own.files += other.files;
            own.bytes += other.bytes;
        }
        self.bad += other.bad;
        self.bad_content.extend(other.bad_content);
    }
}

/// Content whose file is missing, not as long as its record says, or in quarantine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadContent {
    /// The blob or the manifest, by its digest.
    pub digest: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Of bad content so much is listed.
const LISTED: usize = 100;

/// What may be shared between the two stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Share {
    /// The files themselves: their bytes are on the disk once.
    Files,
    /// Blocks, where the filesystem knows how: what happens to the one file leaves the other as it is.
    Blocks,
}

/// What became of a file that was to be brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Brought,
    /// It is missing, or not as long as its record says.
    Bad,
    /// It was found to be bad since the record that names it was read.
    Quarantined,
}

/// The way from one content folder to another.
pub(super) struct Carrier {
    from: PathBuf,
    since: Option<PathBuf>,
    to: PathBuf,
    /// Which ways are still worth trying: what does not work for one file of a filesystem works for none.
    link: bool,
    link_since: bool,
    clone: bool,
    carried: Carried,
}

impl Carrier {
    pub(super) fn new(from: PathBuf, since: Option<PathBuf>, to: PathBuf, share: Share) -> Self {
        let link = share == Share::Files;
        Self { from, link, link_since: since.is_some(), since, to, clone: true, carried: Carried::default() }
    }

    /// Brings one file, or says why there is none to bring. That is noted under its digest, and no error: all the others are to be
    /// brought all the same.
    pub(super) fn bring(&mut self, id: Uuid, size: u64, digest: impl Fn() -> String) -> Result<Outcome> {
        self.bring_as(id, id, size, digest)
    }

    /// The same, to be of another id there.
    pub(super) fn bring_as(
        &mut self,
        id: Uuid,
        new_id: Uuid,
        size: u64,
        digest: impl Fn() -> String,
    ) -> Result<Outcome> {
        let (name, new_name) = (id.simple().to_string(), new_id.simple().to_string());
        let brought = match fs::symlink_metadata(self.from.join(&name)) {
            Ok(found) if found.len() == size => self.bring_file(&name, &new_name, size),
            Ok(found) => {
                let reason = format!("its file has {} bytes instead of {size}", found.len());
                return Ok(self.note(Outcome::Bad, digest(), reason));
            }
            Err(error) => Err(error),
        };
        match brought {
            Ok(()) => Ok(Outcome::Brought),
            // Not there, or no more when it was to be linked. It is looked for where bad bytes are moved to, and only now: they
            // are never moved back.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let quarantined = self.from.with_file_name(super::folder::QUARANTINE).join(&name).exists();
                Ok(if quarantined {
                    self.note(
                        Outcome::Quarantined,
                        digest(),
                        "it is in quarantine: its bytes are bad".to_owned(),
                    )
                } else {
                    self.note(Outcome::Bad, digest(), "its file is missing".to_owned())
                })
            }
            Err(error) => Err(Error::io(format!("bringing content {id} to {}", self.to.display()))(error)),
        }
    }

    fn note(&mut self, outcome: Outcome, digest: String, reason: String) -> Outcome {
        self.carried.bad += 1;
        if self.carried.bad_content.len() < LISTED {
            self.carried.bad_content.push(BadContent { digest, reason });
        }
        outcome
    }

    /// Brings a file as it is, or none.
    pub(super) fn bring_if_there(&mut self, id: Uuid) -> Result<()> {
        let name = id.simple().to_string();
        match fs::symlink_metadata(self.from.join(&name)) {
            Ok(found) => self.bring_file(&name, &name, found.len()).or_else(|error| match error.kind() {
                // Written to, or given up, meanwhile.
                ErrorKind::UnexpectedEof | ErrorKind::NotFound => Ok(()),
                _ => Err(Error::io(format!("bringing content {id} to {}", self.to.display()))(error)),
            }),
            Err(_) => Ok(()),
        }
    }

    fn bring_file(&mut self, name: &str, new_name: &str, size: u64) -> io::Result<()> {
        let (from, to) = (self.from.join(name), self.to.join(new_name));
        if self.link {
            match fs::hard_link(&from, &to) {
                Ok(()) => {
                    self.carried.linked.count(size);
                    return Ok(());
                }
                // This one has all the names that it can have; the next one may not.
                Err(error) if error.kind() == ErrorKind::TooManyLinks => {}
                Err(error) if is_no_way(&error) => self.link = false,
                Err(error) => return Err(error),
            }
        }
        if let Some(since) = self.since.as_ref().filter(|_| self.link_since) {
            let before = since.join(name);
            if fs::symlink_metadata(&before).is_ok_and(|found| found.is_file() && found.len() == size) {
                match fs::hard_link(&before, &to) {
                    Ok(()) => {
                        self.carried.linked_since.count(size);
                        return Ok(());
                    }
                    Err(error) if error.kind() == ErrorKind::TooManyLinks => {}
                    Err(error) if is_no_way(&error) => self.link_since = false,
                    Err(error) => return Err(error),
                }
            }
        }
        let mut source = File::open(&from)?;
        let mut target = OpenOptions::new().write(true).create_new(true).open(&to)?;
        if self.clone {
            match rustix::fs::ioctl_ficlone(&target, &source) {
                Ok(()) => {
                    target.sync_all()?;
                    self.carried.cloned.count(size);
                    return Ok(());
                }
                Err(_) => self.clone = false,
            }
        }
        let copied = io::copy(&mut source, &mut target)?;
        if copied != size {
            return Err(io::Error::new(
                ErrorKind::UnexpectedEof,
                format!("{copied} of {size} bytes were there"),
            ));
        }
        target.sync_all()?;
        self.carried.copied.count(size);
        Ok(())
    }

    /// Makes the names durable, and tells.
    pub(super) fn finish(self) -> Result<Carried> {
        let synced = File::open(&self.to).and_then(|folder| folder.sync_all());
        synced.map_err(Error::io(format!("syncing {}", self.to.display())))?;
        Ok(self.carried)
    }
}

/// Whether a link failed because there are none between these places, or for us.
fn is_no_way(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::CrossesDevices | ErrorKind::PermissionDenied | ErrorKind::Unsupported)
}

/// The folder of content in a store's folder.
pub(super) fn content_of(store: &Path) -> PathBuf {
    store.join(super::folder::CONTENT)
}
