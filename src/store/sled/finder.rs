//! Finding bytes by their digest, where no record can be trusted to say where they are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::content::read_chunks;
use super::folder;
use super::index::Index;
use super::progress::{Steps, Watch};
use super::schema::{self, Tree};
use crate::error::{Error, Result};
use crate::oci::{Algorithm, Digest, Hasher};

/// Bytes that were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) id: Uuid,
    pub(super) size: u64,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A file in `content/`.
    Content,
    /// A file in `quarantine/`.
    Quarantine,
    /// Chunks in the index.
    Chunks,
}

/// All the bytes that a store has, by their digest. It takes about 200 bytes of memory for each.
pub(super) struct Finder<'a> {
    folder: &'a Path,
    chunks: &'a Index,
    by_digest: BTreeMap<Algorithm, BTreeMap<Digest, Place>>,
    /// What could not be read, in words.
    pub(super) unreadable: Vec<String>,
    /// What is among its files and is not the store's.
    pub(super) strays: BTreeSet<String>,
}

impl<'a> Finder<'a> {
    /// `chunks` is an index that can be read.
    pub(super) const fn new(folder: &'a Path, chunks: &'a Index) -> Self {
        Self { folder, chunks, by_digest: BTreeMap::new(), unreadable: Vec::new(), strays: BTreeSet::new() }
    }

    pub(super) fn content(&self, kind: Kind) -> PathBuf {
        match kind {
            Kind::Content | Kind::Chunks => super::carry::content_of(self.folder),
            // What in it has a digest that somebody knows is good all the same.
            Kind::Quarantine => self.folder.join(folder::QUARANTINE),
        }
    }

    /// Where the bytes with this digest are. The first that is asked for of an algorithm has everything read.
    pub(super) fn find(&mut self, digest: &Digest, watch: &mut Watch<'_>) -> Result<Option<Place>> {
        let nothing = Place { id: Uuid::nil(), size: 0, kind: Kind::Chunks };
        if *digest == digest.algorithm().digest(b"") {
            return Ok(Some(nothing));
        }
        Ok(self.all(digest.algorithm(), watch)?.get(digest).copied())
    }

    pub(super) fn all(
        &mut self,
        algorithm: Algorithm,
        watch: &mut Watch<'_>,
    ) -> Result<&BTreeMap<Digest, Place>> {
        if !self.by_digest.contains_key(&algorithm) {
            let mut found = BTreeMap::new();
            // What a file has is told from it, even where chunks have the same.
            self.hash_chunks(algorithm, &mut found, watch)?;
            for kind in [Kind::Quarantine, Kind::Content] {
                self.hash_files(kind, algorithm, &mut found, watch)?;
            }
            self.by_digest.insert(algorithm, found);
        }
        Ok(self.by_digest.entry(algorithm).or_default())
    }

    fn hash_files(
        &mut self,
        kind: Kind,
        algorithm: Algorithm,
        found: &mut BTreeMap<Digest, Place>,
        watch: &mut Watch<'_>,
    ) -> Result<()> {
        let folder = self.content(kind);
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(Error::io(format!("listing {}", folder.display())))?,
        };
        let mut steps = Steps::begin(watch, &format!("reading files with {algorithm}"), None)?;
        for entry in entries {
            let entry = entry.map_err(Error::io(format!("listing {}", folder.display())))?;
            let Some(id) = folder::id_of(&entry) else {
                self.strays.insert(entry.path().display().to_string());
                continue;
            };
            match hash_file(&entry.path(), algorithm, &mut steps)? {
                Ok((digest, size)) => drop(found.insert(digest, Place { id, size, kind })),
                Err(error) => self.unreadable.push(format!("content {id}: {error}")),
            }
        }
        Ok(())
    }

    fn hash_chunks(
        &mut self,
        algorithm: Algorithm,
        found: &mut BTreeMap<Digest, Place>,
        watch: &mut Watch<'_>,
    ) -> Result<()> {
        let mut steps = Steps::begin(watch, &format!("reading chunks with {algorithm}"), None)?;
        let mut current: Option<Group> = None;
        for entry in self.chunks.scan(Tree::Chunks, &[], None)? {
            let (key, value) = entry?;
            steps.done(1)?;
            let Ok((id, number)) = schema::chunk_of_key(&key) else { continue };
            if current.as_ref().is_none_or(|group| group.id != id) {
                end_group(current.replace(Group::new(id, algorithm)), found);
            }
            if let Some(group) = &mut current {
                // With one missing, what comes after it is no part of what could be read.
                group.whole &= group.next == number;
                group.next = number.wrapping_add(1);
                group.size += value.len() as u64;
                group.hasher.update(&value);
            }
        }
        end_group(current, found);
        Ok(())
    }

    /// All of what was found. The caller has bounded its size.
    pub(super) fn read(&self, place: &Place) -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(place.size).unwrap_or(usize::MAX)];
        self.read_at(place, 0, &mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn read_at(&self, place: &Place, position: u64, bytes: &mut [u8]) -> Result<()> {
        if place.kind == Kind::Chunks {
            return read_chunks(self.chunks, place.id, position, bytes);
        }
        let path = self.content(place.kind).join(place.id.simple().to_string());
        File::open(path)
            .and_then(|file| file.read_exact_at(bytes, position))
            .map_err(Error::io(format!("reading content {}", place.id)))
    }
}

struct Group {
    id: Uuid,
    hasher: Hasher,
    size: u64,
    next: u32,
    whole: bool,
}

impl Group {
    fn new(id: Uuid, algorithm: Algorithm) -> Self {
        Self { id, hasher: Hasher::new(algorithm), size: 0, next: 0, whole: true }
    }
}

fn end_group(group: Option<Group>, found: &mut BTreeMap<Digest, Place>) {
    if let Some(Group { id, hasher, size, whole: true, .. }) = group {
        found.insert(hasher.finish(), Place { id, size, kind: Kind::Chunks });
    }
}

/// The inner error is one of this file alone.
fn hash_file(
    path: &Path,
    algorithm: Algorithm,
    steps: &mut Steps<'_, '_>,
) -> Result<std::io::Result<(Digest, u64)>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) => return Ok(Err(error)),
    };
    let (mut hasher, mut size) = (Hasher::new(algorithm), 0);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(Ok((hasher.finish(), size))),
            Ok(count) => {
                hasher.update(buffer.get(..count).unwrap_or_default());
                size += count as u64;
                steps.done(0)?;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Ok(Err(error)),
        }
    }
}
