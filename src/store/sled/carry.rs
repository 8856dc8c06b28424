//! Bringing content files from one store's folder to another's, with as few bytes moved as the filesystems allow.
//!
//! A committed file is never written again, neither by the store that has it nor by the one that gets it: both only ever unlink
//! their own name of it. So two stores may share one inode, and each may be used, collected and removed without the other.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::ops::AddAssign;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::oci::{Algorithm, Digest, Hasher};

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
    /// How many were missing, not as long as their record says, put into quarantine meanwhile, or copied and found to have other
    /// bytes than their digest's. Those that were linked or cloned were not read.
    pub bad: u64,
    /// What the first hundred of these hold, and what is wrong with each.
    pub bad_content: Vec<BadContent>,
}

impl Carried {
    /// Those that came without their bytes being read, and so without being compared with their digest.
    #[must_use]
    pub const fn unread(&self) -> u64 {
        self.linked.files + self.linked_since.files + self.cloned.files
    }
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

/// Content whose file is missing, not as long as its record says, of other bytes than its digest's, or in quarantine.
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
    /// It was found to be bad since the record that names it was read, or now: it is not brought.
    Quarantined,
}

/// What became of a file that was there.
enum Way {
    /// As it is, unread.
    Unread,
    /// Byte by byte, which are the digest's, where one is known.
    Good,
    /// Its bytes have this digest instead.
    Other(Digest),
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
    /// What is copied is compared with its digest.
    pub(super) fn bring(
        &mut self,
        id: Uuid,
        size: u64,
        digest: &Digest,
        name: impl Fn() -> String,
    ) -> Result<Outcome> {
        self.bring_one(id, id, size, Some(digest), name)
    }

    /// The same, to be of another id there, for who has read the bytes before.
    pub(super) fn bring_as(
        &mut self,
        id: Uuid,
        new_id: Uuid,
        size: u64,
        name: impl Fn() -> String,
    ) -> Result<Outcome> {
        self.bring_one(id, new_id, size, None, name)
    }

    fn bring_one(
        &mut self,
        id: Uuid,
        new_id: Uuid,
        size: u64,
        digest: Option<&Digest>,
        shown: impl Fn() -> String,
    ) -> Result<Outcome> {
        let (name, new_name) = (id.simple().to_string(), new_id.simple().to_string());
        let brought = match fs::symlink_metadata(self.from.join(&name)) {
            Ok(found) if found.len() == size => self.bring_file(&name, &new_name, size, digest),
            Ok(found) => {
                let reason = format!("its file has {} bytes instead of {size}", found.len());
                return Ok(self.note(Outcome::Bad, shown(), reason));
            }
            Err(error) => Err(error),
        };
        match brought {
            Ok(Way::Unread | Way::Good) => Ok(Outcome::Brought),
            Ok(Way::Other(found)) => {
                Ok(self.note(Outcome::Quarantined, shown(), format!("its bytes have the digest {found}")))
            }
            // Not there, or no more when it was to be linked. It is looked for where bad bytes are moved to, and only now: they
            // are never moved back.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let quarantined = self.from.with_file_name(super::folder::QUARANTINE).join(&name).exists();
                Ok(if quarantined {
                    self.note(
                        Outcome::Quarantined,
                        shown(),
                        "it is in quarantine: its bytes are bad".to_owned(),
                    )
                } else {
                    self.note(Outcome::Bad, shown(), "its file is missing".to_owned())
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
            Ok(found) => match self.bring_file(&name, &name, found.len(), None) {
                Ok(_) => Ok(()),
                // Written to, or given up, meanwhile.
                Err(error) if [ErrorKind::UnexpectedEof, ErrorKind::NotFound].contains(&error.kind()) => {
                    Ok(())
                }
                Err(error) => {
                    Err(Error::io(format!("bringing content {id} to {}", self.to.display()))(error))
                }
            },
            Err(_) => Ok(()),
        }
    }

    fn bring_file(
        &mut self,
        name: &str,
        new_name: &str,
        size: u64,
        digest: Option<&Digest>,
    ) -> io::Result<Way> {
        let (from, to) = (self.from.join(name), self.to.join(new_name));
        if self.link {
            match fs::hard_link(&from, &to) {
                Ok(()) => {
                    self.carried.linked.count(size);
                    return Ok(Way::Unread);
                }
                // This one has all the names that it can have; the next one may not.
                Err(error) if error.kind() == ErrorKind::TooManyLinks => {}
                Err(error) if is_no_way(&error) => self.link = false,
                Err(error) => return Err(error),
            }
        }
        if let Some(since) = self.since.as_ref().filter(|_| self.link_since) {
            match fs::hard_link(since.join(name), &to) {
                Ok(()) => {
                    // Looked at only now: somebody may be removing the earlier snapshot.
                    if fs::symlink_metadata(&to).is_ok_and(|found| found.is_file() && found.len() == size) {
                        self.carried.linked_since.count(size);
                        return Ok(Way::Unread);
                    }
                    fs::remove_file(&to)?;
                }
                Err(error) if [ErrorKind::NotFound, ErrorKind::TooManyLinks].contains(&error.kind()) => {}
                Err(error) if is_no_way(&error) => self.link_since = false,
                Err(error) => return Err(error),
            }
        }
        let mut source = File::open(&from)?;
        let mut target = OpenOptions::new().write(true).create_new(true).open(&to)?;
        if self.clone {
            match rustix::fs::ioctl_ficlone(&target, &source) {
                Ok(()) => {
                    target.sync_all()?;
                    self.carried.cloned.count(size);
                    return Ok(Way::Unread);
                }
                Err(_) => self.clone = false,
            }
        }
        let (copied, found) = match digest {
            Some(digest) => copy_hashing(&mut source, &mut target, digest.algorithm())?,
            None => (io::copy(&mut source, &mut target)?, None),
        };
        if copied != size {
            return Err(io::Error::new(
                ErrorKind::UnexpectedEof,
                format!("{copied} of {size} bytes were there"),
            ));
        }
        if let Some(found) = found.filter(|found| Some(found) != digest) {
            // Its record is to say that it is bad, and what is there is whole: the bytes stay where they came from.
            fs::remove_file(&to)?;
            return Ok(Way::Other(found));
        }
        target.sync_all()?;
        self.carried.copied.count(size);
        Ok(Way::Good)
    }

    /// Makes the names durable, and tells.
    pub(super) fn finish(self) -> Result<Carried> {
        let synced = File::open(&self.to).and_then(|folder| folder.sync_all());
        synced.map_err(Error::io(format!("syncing {}", self.to.display())))?;
        Ok(self.carried)
    }
}

fn copy_hashing(
    source: &mut File,
    target: &mut File,
    algorithm: Algorithm,
) -> io::Result<(u64, Option<Digest>)> {
    let mut hasher = Hasher::new(algorithm);
    let mut piece = vec![0; 1 << 20];
    let mut copied = 0;
    loop {
        let length = match source.read(&mut piece) {
            Ok(0) => return Ok((copied, Some(hasher.finish()))),
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let read = piece.get(..length).unwrap_or_default();
        hasher.update(read);
        target.write_all(read)?;
        copied += length as u64;
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
