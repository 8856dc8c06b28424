//! What two trees say of each other where their keys are in different orders: tags and their reverse, manifests and their places
//! among the used, and the like.
//!
//! To look each up would be to read a page of the other tree for each, once these no longer fit the cache. So both are walked, each
//! in the order of its own keys: what the entries of the one call for is held in memory, by hashes, and what the other has is taken
//! out of that. Whatever is left on either side is looked at closely. A store with more entries than are held at a time is walked
//! several times, each time for another part of them.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use super::super::schema::{self, Kept, Link, Manifest, RawDigest, Tag, Tree};
use super::Run;
use super::records::Pass;
use crate::error::Result;

/// How many entries are called for at a time, about: each takes nine bytes, and as many again in the worst case. Tests have several
/// parts.
const HELD: usize = if cfg!(test) { 8 } else { 1 << 20 };

/// Trees whose entries call for others.
const SOURCES: [Tree; 4] = [Tree::Links, Tree::Manifests, Tree::Tags, Tree::References];

/// Trees of which something is called for. All that is in them is, but for manifests.
const TARGETS: [Tree; 6] =
    [Tree::Uses, Tree::Tagged, Tree::Referrers, Tree::Candidates, Tree::Used, Tree::Manifests];

/// One part of all entries: that of an entry that is called for is the one of the entry that calls.
struct Part<'a> {
    hasher: &'a RandomState,
    number: u64,
    of: u64,
}

impl Part<'_> {
    fn has(&self, tree: Tree, key: &[u8]) -> bool {
        self.hash(tree, key) % self.of == self.number
    }

    /// Two that are the same hide a fault, and make none.
    fn hash(&self, tree: Tree, key: &[u8]) -> u64 {
        self.hasher.hash_one((tree, key))
    }
}

impl Run<'_> {
    pub(super) fn joins(&mut self) -> Result<()> {
        let hasher = RandomState::new();
        let mut part = Part { hasher: &hasher, number: 0, of: 1 };
        while part.number < part.of {
            match self.called_for(&part)? {
                Some(left) => {
                    self.join(&part, left)?;
                    part.number += 1;
                }
                None => part.of *= 2,
            }
        }
        Ok(())
    }

    /// What the sources call for; `None` if that is too much, and smaller parts are to be made while none was looked at.
    fn called_for(&mut self, part: &Part<'_>) -> Result<Option<HashSet<u64>>> {
        let mut called = HashSet::new();
        for tree in SOURCES {
            let whole = self.walk(tree, None, |_, page| {
                for (key, value) in page.iter().filter(|(key, _)| part.has(tree, key)) {
                    each_called(tree, key, value, |tree, key| _ = called.insert(part.hash(tree, key)));
                }
                Ok(part.number > 0 || called.len() <= HELD)
            })?;
            if !whole {
                return Ok(None);
            }
        }
        Ok(Some(called))
    }

    fn join(&mut self, part: &Part<'_>, mut left: HashSet<u64>) -> Result<()> {
        for tree in TARGETS {
            self.walk(tree, None, |run, page| {
                for (key, _) in page {
                    if !left.remove(&part.hash(tree, &key))
                        && let Some((source, by)) = source_of(tree, &key)
                        && part.has(source, &by)
                    {
                        run.suspect(Pass::Joined, tree, key)?;
                    }
                }
                Ok(true)
            })?;
        }
        if left.is_empty() {
            return Ok(());
        }
        // What changed meanwhile is among them.
        for tree in SOURCES {
            self.walk(tree, None, |run, page| {
                for (key, value) in page {
                    let mut lacks = false;
                    if part.has(tree, &key) {
                        each_called(tree, &key, &value, |tree, key| {
                            lacks |= left.contains(&part.hash(tree, key));
                        });
                    }
                    if lacks {
                        run.suspect(Pass::Joined, tree, key)?;
                    }
                }
                Ok(true)
            })?;
        }
        Ok(())
    }
}

/// Shows what an entry calls for. What cannot be read is found for itself.
fn each_called(tree: Tree, key: &[u8], value: &[u8], mut show: impl FnMut(Tree, &[u8])) {
    let _ = try_each_called(tree, key, value, &mut show);
}

fn try_each_called(tree: Tree, key: &[u8], value: &[u8], show: &mut dyn FnMut(Tree, &[u8])) -> Result<()> {
    match tree {
        Tree::Links => {
            let (repository, digest) = schema::digest_of_key(tree, key)?;
            show(Tree::Uses, &schema::use_key(&digest, &repository));
            if let Some(since) = schema::decode::<Link>(value)?.unreferenced_since {
                show(Tree::Candidates, &schema::candidate_key(Kept::Link, since, &repository, &digest));
            }
        }
        Tree::Manifests => {
            let (repository, digest) = schema::digest_of_key(tree, key)?;
            let manifest = schema::decode::<Manifest>(value)?;
            show(Tree::Used, &schema::used_key(manifest.used_at, &repository, &digest));
            if let Some(since) = manifest.unkept_since {
                show(Tree::Candidates, &schema::candidate_key(Kept::Manifest, since, &repository, &digest));
            }
            if let Some(subject) = manifest.subject.as_ref().map(RawDigest::digest).transpose()? {
                show(Tree::Referrers, &schema::pointer_within(&repository, &subject, &digest));
                if manifest.unkept_since.is_none() {
                    show(Tree::Manifests, &schema::digest_within(&repository, &subject));
                }
            }
        }
        Tree::Tags => {
            let (repository, tag) = schema::tag_of_key(key)?;
            let digest = schema::decode::<Tag>(value)?.digest.digest()?;
            show(Tree::Tagged, &schema::tagged_within(&repository, &digest, &tag));
            show(Tree::Manifests, &schema::digest_within(&repository, &digest));
        }
        Tree::References => {
            let (repository, _, manifest) = schema::pointer_of_key(tree, key)?;
            show(Tree::Manifests, &schema::digest_within(&repository, &manifest));
        }
        _ => {}
    }
    Ok(())
}

/// Who should have called for an entry; nobody need call for a manifest.
fn source_of(tree: Tree, key: &[u8]) -> Option<(Tree, Vec<u8>)> {
    match tree {
        Tree::Uses => {
            let (digest, repository) = schema::use_of_key(key).ok()?;
            Some((Tree::Links, schema::digest_within(&repository, &digest)))
        }
        Tree::Tagged => {
            let (repository, _, tag) = schema::tagged_of_key(key).ok()?;
            Some((Tree::Tags, schema::tag_within(&repository, &tag)))
        }
        Tree::Referrers => {
            let (repository, _, manifest) = schema::pointer_of_key(tree, key).ok()?;
            Some((Tree::Manifests, schema::digest_within(&repository, &manifest)))
        }
        Tree::Candidates => {
            let source = match schema::kind_of_candidate(key).ok()? {
                Kept::Link => Tree::Links,
                Kept::Manifest => Tree::Manifests,
            };
            let (_, repository, digest) = schema::candidate_of_key(key).ok()?;
            Some((source, schema::digest_within(&repository, &digest)))
        }
        Tree::Used => {
            let (_, repository, digest) = schema::used_of_key(key).ok()?;
            Some((Tree::Manifests, schema::digest_within(&repository, &digest)))
        }
        _ => None,
    }
}
