//! What a collection would remove: decided as it decides, with what would have gone by then taken for gone.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use super::collect::Collected;
use super::content;
use super::index::Index;
use super::keep;
use super::manifests;
use super::schema::{self, Kept, Layer, Link, Manifest, Tree};
use super::store::Core;
use crate::error::Result;
use crate::oci::{self, Digest, RepositoryName, Tag};

/// How many of the tags, and of the manifests, that go or would go are named.
pub(super) const NAMED: u64 = 100;

/// What would be gone. It takes some twenty bytes of memory for each.
pub(super) struct Forecast {
    /// Hashes of trees and keys. Two that are the same make a count wrong, and nothing else.
    gone: HashSet<u64>,
    hasher: RandomState,
    /// Whether manifests go at once that nothing keeps any more, and links.
    manifests_at_once: bool,
    links_at_once: bool,
    pub(super) found: Collected,
}

impl Forecast {
    pub(super) fn new(manifests_at_once: bool, links_at_once: bool) -> Self {
        let (gone, hasher) = (HashSet::new(), RandomState::new());
        Self { gone, hasher, manifests_at_once, links_at_once, found: Collected::default() }
    }

    fn is_gone(&self, tree: Tree, key: &[u8]) -> bool {
        self.gone.contains(&self.hasher.hash_one((tree, key)))
    }

    /// Takes an entry for gone; whether it was not yet.
    fn goes(&mut self, tree: Tree, key: &[u8]) -> bool {
        self.gone.insert(self.hasher.hash_one((tree, key)))
    }

    /// Whether an entry is there, and stays.
    fn stays(&self, index: &Index, tree: Tree, key: &[u8]) -> Result<bool> {
        Ok(!self.is_gone(tree, key) && index.contains(tree, key)?)
    }

    /// A candidate's time has passed, or need not.
    pub(super) fn candidate(
        &mut self,
        (core, index): (&Core, &Index),
        kind: Kept,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<()> {
        let tree = match kind {
            Kept::Link => Tree::Links,
            Kept::Manifest => Tree::Manifests,
        };
        match kind {
            Kept::Link => self.link(index, repository, digest)?,
            Kept::Manifest => self.manifest((core, index), repository, digest)?,
        }
        let stays = !self.is_gone(tree, &schema::digest_within(repository, digest));
        self.found.kept += u64::from(stays);
        Ok(())
    }

    /// No rule keeps a tag.
    pub(super) fn tag(
        &mut self,
        (core, index): (&Core, &Index),
        repository: &RepositoryName,
        tag: &Tag,
        digest: &Digest,
    ) -> Result<()> {
        if !self.goes(Tree::Tags, &schema::tag_within(repository, tag)) {
            return Ok(());
        }
        if self.found.tags < NAMED {
            self.found.names.push(format!("{repository}:{tag}"));
        }
        self.found.tags += 1;
        if self.manifests_at_once { self.manifest((core, index), repository, digest) } else { Ok(()) }
    }

    /// A manifest's time has passed, or need not: it goes if nothing that stays keeps it, and with it what it alone kept.
    fn manifest(
        &mut self,
        (core, index): (&Core, &Index),
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<()> {
        let mut waiting = vec![*digest];
        while let Some(digest) = waiting.pop() {
            let key = schema::digest_within(repository, &digest);
            let Some(record) = index.get::<Manifest>(&key)? else { continue };
            if self.is_gone(Tree::Manifests, &key)
                || self.is_manifest_kept(index, repository, &digest, &record)?
            {
                continue;
            }
            self.goes(Tree::Manifests, &key);
            if self.found.manifests < NAMED {
                self.found.names.push(format!("{repository}@{digest}"));
            }
            self.found.manifests += 1;
            self.found.bytes += record.content.size;
            if !self.links_at_once {
                continue;
            }
            let media_type = record.media_type.parse()?;
            let bytes = content::read_whole(index, core, &record.content)?;
            let contents = oci::Manifest::new(media_type, bytes).contents();
            let referenced = contents.map(|contents| manifests::referenced(&contents)).unwrap_or_default();
            for digest in &referenced {
                self.link(index, repository, digest)?;
            }
            if self.manifests_at_once {
                waiting.extend(referenced);
                let prefix = schema::digest_within(repository, &digest);
                for entry in index.scan(Tree::Referrers, &prefix, None)? {
                    waiting.push(schema::digest_after(Tree::Referrers, &entry?.0, &prefix)?);
                }
            }
        }
        Ok(())
    }

    fn is_manifest_kept(
        &self,
        index: &Index,
        repository: &RepositoryName,
        digest: &Digest,
        record: &Manifest,
    ) -> Result<bool> {
        if !self.manifests_at_once {
            // What loses its last keeper now has its time before it.
            return keep::is_kept(index, Kept::Manifest, repository, digest);
        }
        let prefix = schema::digest_within(repository, digest);
        for entry in index.scan(Tree::Tagged, &prefix, None)? {
            let tag = schema::tag_after(Tree::Tagged, &entry?.0, &prefix)?;
            if !self.is_gone(Tree::Tags, &schema::tag_within(repository, &tag)) {
                return Ok(true);
            }
        }
        if let Some(subject) = &record.subject
            && self.stays(index, Tree::Manifests, &schema::digest_within(repository, &subject.digest()?))?
        {
            return Ok(true);
        }
        self.is_referenced(index, repository, digest)
    }

    fn is_referenced(&self, index: &Index, repository: &RepositoryName, digest: &Digest) -> Result<bool> {
        let prefix = schema::digest_within(repository, digest);
        for entry in index.scan(Tree::References, &prefix, None)? {
            let manifest = schema::digest_after(Tree::References, &entry?.0, &prefix)?;
            if self.stays(index, Tree::Manifests, &schema::digest_within(repository, &manifest))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A link's time has passed, or need not: it goes if no manifest that stays references it.
    fn link(&mut self, index: &Index, repository: &RepositoryName, digest: &Digest) -> Result<()> {
        let key = schema::digest_within(repository, digest);
        if self.is_gone(Tree::Links, &key) || index.get::<Link>(&key)?.is_none() {
            return Ok(());
        }
        let kept = match self.links_at_once {
            true => self.is_referenced(index, repository, digest)?,
            false => keep::is_kept(index, Kept::Link, repository, digest)?,
        };
        if kept {
            return Ok(());
        }
        self.goes(Tree::Links, &key);
        self.found.links += 1;
        for entry in index.scan(Tree::Uses, &schema::digest_key(digest), None)? {
            let other = schema::repository_of_use(&entry?.0)?;
            if !self.is_gone(Tree::Links, &schema::digest_within(&other, digest)) {
                return Ok(());
            }
        }
        self.found.blobs += 1;
        let layer = index.get::<Layer>(&schema::digest_key(digest))?;
        self.found.bytes += layer.map_or(0, |layer| layer.content.size);
        Ok(())
    }
}
