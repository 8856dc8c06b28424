//! What was read a moment ago, at hand for whoever asks again: no disk, no index, nobody to wait for.
//!
//! An entry holds as long as nothing of its repository was changed since before it was read. Who changes something says so first
//! ([`Hot::changing`]), which makes all entries of the repositories that it touches void; and what is read while anybody
//! changes anything is not kept. So nobody finds here what was before a change that somebody else has seen.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::changes::Changes;
use super::schema::{self, Tree, Uptime};
use crate::oci::{Descriptor, Digest, Manifest, Reference, RepositoryName, Tag};
use crate::store::{BlobStat, Page, Tagged};

/// How many counters the repositories share: those that share one are void together.
const COUNTERS: usize = 1 << 12;
/// What the entries of one kind take at most, about, in bytes: twice as much while old ones are not forgotten yet.
const MANIFESTS: usize = 2 << 20;
const SMALL: usize = 512 << 10;
/// What is larger is read each time, in bytes.
const LARGEST: usize = 64 << 10;
/// What an entry takes besides its key and content, about, in bytes.
const OVERHEAD: usize = 256;
/// What a tag in a page takes, about, in bytes.
const PER_TAG: usize = 192;

pub(super) struct Hot {
    /// Odd while something is being changed.
    changes: AtomicU64,
    /// How often something of each repository, and each blob's record, was changed.
    counters: Box<[AtomicU64]>,
    hasher: RandomState,
    manifests: Shelf<Found<Manifest>>,
    descriptors: Shelf<Found<Descriptor>>,
    blobs: Shelf<Found<BlobStat>>,
    tags: Shelf<Page<Tagged>>,
}

/// What was found, and what its record said that asks for a change some day.
#[derive(Clone)]
pub(super) struct Found<T> {
    pub(super) value: T,
    /// When a manifest was last used.
    pub(super) used_at: Option<Uptime>,
    /// Since when nothing keeps it.
    pub(super) unkept_since: Option<Uptime>,
}

/// Begun before something was read that may be kept.
#[derive(Clone, Copy)]
pub(super) struct Reading(u64);

/// While this is there, something is being changed.
pub(super) struct Changing<'a>(&'a Hot);

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.0.changes.fetch_add(1, Ordering::SeqCst);
    }
}

/// What an entry depends on: two counters, and how they stood when it was read.
type Stand = [(usize, u64); 2];

impl Hot {
    pub(super) fn new() -> Self {
        Self {
            changes: AtomicU64::new(0),
            counters: (0..COUNTERS).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
            manifests: Shelf::new(MANIFESTS),
            descriptors: Shelf::new(SMALL),
            blobs: Shelf::new(SMALL),
            tags: Shelf::new(SMALL),
        }
    }

    /// To be called before changes are made, and held until they are. One thread makes changes (D5).
    pub(super) fn changing(&self, changes: &Changes) -> Changing<'_> {
        self.changes.fetch_add(1, Ordering::SeqCst);
        for (tree, key, _) in changes.entries() {
            match tree {
                Tree::Repositories | Tree::Tags | Tree::Manifests | Tree::Links => {
                    let repository = key.split(|byte| *byte == 0).next().unwrap_or(key);
                    self.void(self.counter(repository));
                }
                Tree::Layers => self.void(self.counter(key)),
                _ => {}
            }
        }
        Changing(self)
    }

    /// The same where all may become another.
    pub(super) fn changing_all(&self) -> Changing<'_> {
        self.changes.fetch_add(1, Ordering::SeqCst);
        (0..self.counters.len()).for_each(|counter| self.void(counter));
        Changing(self)
    }

    fn counter(&self, of: &[u8]) -> usize {
        usize::try_from(self.hasher.hash_one(of) % self.counters.len() as u64).unwrap_or_default()
    }

    fn void(&self, counter: usize) {
        if let Some(counter) = self.counters.get(counter) {
            counter.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn standing(&self, counter: usize) -> u64 {
        self.counters.get(counter).map_or(0, |counter| counter.load(Ordering::SeqCst))
    }

    /// To be called before what may be kept is looked up.
    pub(super) fn reading(&self) -> Reading {
        Reading(self.changes.load(Ordering::SeqCst))
    }

    /// How the counters stand, if nothing at all was changed since the reading began.
    fn stand(&self, reading: Reading, counters: [usize; 2]) -> Option<Stand> {
        let stand = counters.map(|counter| (counter, self.standing(counter)));
        let unchanged = reading.0.is_multiple_of(2) && self.changes.load(Ordering::SeqCst) == reading.0;
        unchanged.then_some(stand)
    }

    fn holds(&self, stand: &Stand) -> bool {
        stand.iter().all(|(counter, stood)| self.standing(*counter) == *stood)
    }

    fn of(&self, repository: &RepositoryName) -> usize {
        self.counter(repository.as_str().as_bytes())
    }

    pub(super) fn keep_manifest(
        &self,
        reading: Reading,
        (repository, reference): (&RepositoryName, &Reference),
        found: &Found<Manifest>,
    ) {
        let length = found.value.bytes().len();
        if let Some(stand) = self.stand(reading, [self.of(repository); 2]) {
            self.manifests.put(manifest_key(repository, reference), stand, found, length);
        }
    }

    pub(super) fn manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Option<Found<Manifest>> {
        self.manifests.get(&manifest_key(repository, reference), |stand| self.holds(stand))
    }

    pub(super) fn keep_descriptor(
        &self,
        reading: Reading,
        (repository, reference): (&RepositoryName, &Reference),
        found: &Found<Descriptor>,
    ) {
        if let Some(stand) = self.stand(reading, [self.of(repository); 2]) {
            self.descriptors.put(manifest_key(repository, reference), stand, found, 0);
        }
    }

    pub(super) fn descriptor(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Option<Found<Descriptor>> {
        self.descriptors.get(&manifest_key(repository, reference), |stand| self.holds(stand))
    }

    pub(super) fn keep_blob(
        &self,
        reading: Reading,
        (repository, digest): (&RepositoryName, &Digest),
        found: &Found<BlobStat>,
    ) {
        let counters = [self.of(repository), self.counter(&schema::digest_key(digest))];
        if let Some(stand) = self.stand(reading, counters) {
            self.blobs.put(schema::digest_within(repository, digest), stand, found, 0);
        }
    }

    pub(super) fn blob(&self, repository: &RepositoryName, digest: &Digest) -> Option<Found<BlobStat>> {
        self.blobs.get(&schema::digest_within(repository, digest), |stand| self.holds(stand))
    }

    pub(super) fn keep_tags(
        &self,
        reading: Reading,
        (repository, after, limit): (&RepositoryName, Option<&Tag>, usize),
        page: &Page<Tagged>,
    ) {
        if let Some(stand) = self.stand(reading, [self.of(repository); 2]) {
            let length = page.items.len() * PER_TAG;
            self.tags.put(tags_key(repository, after, limit), stand, page, length);
        }
    }

    pub(super) fn tags(
        &self,
        repository: &RepositoryName,
        after: Option<&Tag>,
        limit: usize,
    ) -> Option<Page<Tagged>> {
        self.tags.get(&tags_key(repository, after, limit), |stand| self.holds(stand))
    }
}

/// A tag begins with another byte than a digest does here.
fn manifest_key(repository: &RepositoryName, reference: &Reference) -> Vec<u8> {
    match reference {
        Reference::Tag(tag) => schema::tag_within(repository, tag),
        Reference::Digest(digest) => schema::digest_within(repository, digest),
    }
}

fn tags_key(repository: &RepositoryName, after: Option<&Tag>, limit: usize) -> Vec<u8> {
    let mut key = after.map_or_else(|| schema::within(repository), |tag| schema::tag_within(repository, tag));
    key.push(0);
    key.extend_from_slice(&limit.to_be_bytes());
    key
}

/// Entries of one kind, in two sets: when the younger is full, the older is forgotten. So what is asked for again and again is kept.
struct Shelf<V> {
    most: usize,
    sets: Mutex<Sets<V>>,
}

struct Sets<V> {
    young: HashMap<Vec<u8>, Entry<V>>,
    old: HashMap<Vec<u8>, Entry<V>>,
    /// What the younger takes.
    size: usize,
}

struct Entry<V> {
    stand: Stand,
    value: V,
    size: usize,
}

impl<V: Clone> Shelf<V> {
    fn new(most: usize) -> Self {
        Self { most, sets: Mutex::new(Sets { young: HashMap::new(), old: HashMap::new(), size: 0 }) }
    }

    fn put(&self, key: Vec<u8>, stand: Stand, value: &V, length: usize) {
        if length > LARGEST {
            return;
        }
        let size = key.len() + length + OVERHEAD;
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        sets.put(self.most, key, Entry { stand, value: value.clone(), size });
    }

    fn get(&self, key: &[u8], holds: impl Fn(&Stand) -> bool) -> Option<V> {
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = sets.young.get(key) {
            return holds(&entry.stand).then(|| entry.value.clone());
        }
        let (key, entry) = sets.old.remove_entry(key)?;
        if !holds(&entry.stand) {
            return None;
        }
        let value = entry.value.clone();
        sets.put(self.most, key, entry);
        Some(value)
    }
}

impl<V> Sets<V> {
    fn put(&mut self, most: usize, key: Vec<u8>, entry: Entry<V>) {
        if self.size + entry.size > most {
            self.old = std::mem::take(&mut self.young);
            self.size = 0;
        }
        self.size += entry.size;
        if let Some(before) = self.young.insert(key, entry) {
            self.size -= before.size;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    fn page(tag: &str) -> Page<Tagged> {
        let digest = Algorithm::Sha256.digest(b"");
        let updated_at = std::time::SystemTime::UNIX_EPOCH;
        Page { items: vec![Tagged { tag: tag.parse().unwrap(), digest, updated_at }], more: false }
    }

    fn change(tree: Tree, key: &[u8]) -> Changes {
        let mut changes = Changes::new();
        changes.remove(tree, key.to_vec());
        changes
    }

    #[test]
    fn what_is_read_while_something_changes_is_not_kept() {
        let (hot, repository) = (Hot::new(), "a".parse().unwrap());
        let before = hot.reading();
        let changing = hot.changing(&change(Tree::Tags, b"b\0x"));
        let during = hot.reading();
        hot.keep_tags(before, (&repository, None, 1), &page("x"));
        hot.keep_tags(during, (&repository, None, 1), &page("x"));
        drop(changing);
        hot.keep_tags(before, (&repository, None, 1), &page("x"));
        hot.keep_tags(during, (&repository, None, 1), &page("x"));
        assert_eq!(hot.tags(&repository, None, 1), None);
        hot.keep_tags(hot.reading(), (&repository, None, 1), &page("x"));
        assert_eq!(hot.tags(&repository, None, 1), Some(page("x")));
        assert_eq!(hot.tags(&repository, None, 2), None);
    }

    #[test]
    fn a_change_voids_its_repository_before_it_is_made() {
        let (hot, repository) = (Hot::new(), "a".parse().unwrap());
        for tree in [Tree::Repositories, Tree::Tags, Tree::Manifests, Tree::Links] {
            hot.keep_tags(hot.reading(), (&repository, None, 1), &page("x"));
            drop(hot.changing(&change(Tree::Uses, b"a\0x")));
            assert!(hot.tags(&repository, None, 1).is_some());
            let key: &[u8] = if tree == Tree::Repositories { b"a" } else { b"a\0x\0y" };
            let _changing = hot.changing(&change(tree, key));
            assert!(hot.tags(&repository, None, 1).is_none(), "{tree:?}");
        }
        hot.keep_tags(hot.reading(), (&repository, None, 1), &page("x"));
        let _changing = hot.changing_all();
        assert!(hot.tags(&repository, None, 1).is_none());
    }

    #[test]
    fn it_stays_within_its_bounds_and_keeps_what_is_asked_for() {
        let (hot, repository) = (Hot::new(), "a".parse().unwrap());
        let asked: Tag = "asked".parse().unwrap();
        hot.keep_tags(hot.reading(), (&repository, Some(&asked), 1), &page("x"));
        for n in 0..4 * SMALL / OVERHEAD {
            hot.keep_tags(hot.reading(), (&repository, None, n), &page("x"));
            assert!(hot.tags(&repository, Some(&asked), 1).is_some(), "{n}");
        }
        let sets = hot.tags.sets.lock().unwrap();
        let size = |set: &HashMap<_, Entry<_>>| set.values().map(|entry| entry.size).sum::<usize>();
        assert_eq!(size(&sets.young), sets.size);
        assert!(sets.size <= SMALL && size(&sets.old) <= SMALL);
    }
}
