//! What a store in memory holds, and the questions that more than one method asks of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use uuid::Uuid;

use super::upload::Session;
use crate::error::{Error, Result};
use crate::oci::{Contents, Descriptor, Digest, Manifest, Reference, ReferenceRole, RepositoryName, Tag};
use crate::store::{BlobStat, Check, Condition, Content, Pinned, ResidentBytes, View};

#[derive(Default)]
pub(super) struct State {
    /// Those that hold anything: an emptied one is removed.
    pub(super) repositories: BTreeMap<RepositoryName, Repository>,
    /// Those that some repository links.
    pub(super) blobs: BTreeMap<Digest, StoredBlob>,
    pub(super) uploads: BTreeMap<Uuid, Session>,
}

#[derive(Default)]
pub(super) struct Repository {
    pub(super) manifests: BTreeMap<Digest, StoredManifest>,
    /// Each points at one of the manifests.
    pub(super) tags: BTreeMap<Tag, Pointer>,
    pub(super) links: BTreeSet<Digest>,
}

pub(super) struct StoredManifest {
    pub(super) manifest: Manifest,
    pub(super) subject: Option<Digest>,
    /// As a listing of referrers shows it.
    pub(super) referrer: Descriptor,
}

#[derive(Clone, Copy)]
pub(super) struct Pointer {
    pub(super) digest: Digest,
    pub(super) updated_at: SystemTime,
}

pub(super) struct StoredBlob {
    pub(super) stat: BlobStat,
    pub(super) bytes: Bytes,
}

impl State {
    pub(super) fn manifest(&self, repository: &RepositoryName, reference: &Reference) -> Result<&Manifest> {
        let found = self.repositories.get(repository).and_then(|holding| {
            let digest = match reference {
                Reference::Tag(tag) => &holding.tags.get(tag)?.digest,
                Reference::Digest(digest) => digest,
            };
            Some(&holding.manifests.get(digest)?.manifest)
        });
        found.ok_or_else(|| Error::ManifestUnknown {
            repository: repository.clone(),
            reference: reference.clone(),
        })
    }

    pub(super) fn links(&self, repository: &RepositoryName, digest: &Digest) -> bool {
        self.repositories.get(repository).is_some_and(|holding| holding.links.contains(digest))
    }

    pub(super) fn linking(&self, digest: &Digest) -> Vec<RepositoryName> {
        let linking = self.repositories.iter().filter(|(_, holding)| holding.links.contains(digest));
        linking.map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<&StoredBlob> {
        let linked = self.links(repository, digest).then(|| self.blobs.get(digest)).flatten();
        linked.ok_or_else(|| Error::BlobUnknown { repository: repository.clone(), digest: *digest })
    }

    /// Makes bytes a blob of a repository. Bytes that are there already stay what they are, and as old as they are.
    pub(super) fn add_blob(
        &mut self,
        repository: &RepositoryName,
        digest: &Digest,
        bytes: Vec<u8>,
    ) -> BlobStat {
        let stored = self.blobs.entry(*digest).or_insert_with(|| StoredBlob {
            stat: BlobStat { digest: *digest, size: bytes.len() as u64, created_at: SystemTime::now() },
            bytes: Bytes(Arc::new(bytes)),
        });
        self.repositories.entry(repository.clone()).or_default().links.insert(*digest);
        stored.stat
    }

    /// The references that a repository lacks, each digest once, in the document's order (C2).
    pub(super) fn missing(
        &self,
        repository: &RepositoryName,
        contents: &Contents,
    ) -> Vec<(ReferenceRole, Digest)> {
        let holding = self.repositories.get(repository);
        let mut seen = BTreeSet::new();
        let mut missing = Vec::new();
        for reference in contents.references.iter().filter(|reference| !reference.non_distributable) {
            let present = holding.is_some_and(|holding| match reference.role {
                ReferenceRole::Manifest(_) => holding.manifests.contains_key(&reference.digest),
                ReferenceRole::Config | ReferenceRole::Layer(_) => holding.links.contains(&reference.digest),
            });
            if !present && seen.insert(reference.digest) {
                missing.push((reference.role, reference.digest));
            }
        }
        missing
    }

    pub(super) fn check(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        to: &Digest,
        condition: &Condition,
        pinned: &Pinned,
    ) -> Result<()> {
        let holding = self.repositories.get(repository);
        let found = holding.and_then(|holding| holding.tags.get(tag)).map(|pointer| pointer.digest);
        crate::store::check_tag(tag, found, to, condition, pinned)
    }

    pub(super) fn listed(&self, repository: &RepositoryName) -> Result<&Repository> {
        self.repositories.get(repository).ok_or_else(|| Error::RepositoryUnknown(repository.clone()))
    }

    pub(super) fn forget_if_empty(&mut self, repository: &RepositoryName) {
        let empty = |holding: &Repository| holding.manifests.is_empty() && holding.links.is_empty();
        if self.repositories.get(repository).is_some_and(empty) {
            self.repositories.remove(repository);
        }
    }
}

/// A blob's bytes, as the upload left them: a commit moves them here without a copy (C10).
#[derive(Clone)]
pub(super) struct Bytes(Arc<Vec<u8>>);

impl Content for Bytes {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(position).ok();
        let from = start.and_then(|start| self.0.get(start..)).unwrap_or_default();
        let part = from.get(..buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(part);
        Ok(())
    }

    fn read_at_hand(&self, position: u64, buffer: &mut [u8]) -> usize {
        self.read_at(position, buffer).map_or(0, |()| buffer.len())
    }

    fn view(&self) -> Option<View> {
        Some(View::new(Arc::new(self.clone())))
    }

    fn check(&self) -> Option<Box<dyn Check>> {
        None
    }
}

impl ResidentBytes for Bytes {
    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn make_resident(&self, _start: usize, _length: usize) -> io::Result<()> {
        Ok(())
    }
}
