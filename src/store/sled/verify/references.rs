//! What manifests reference, by their bytes, and what is recorded of that: both ways, in partitions of manifests. Neither manifest
//! nor reference is looked up: both are read in the order of their keys, and what was not met is looked at closely.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use super::super::changes::Changes;
use super::super::content;
use super::super::index::Index;
use super::super::keep;
use super::super::manifests;
use super::super::schema::{self, Manifest, Tree};
use super::super::store::Core;
use super::{Fault, FaultKind, Run, batch, page, records};
use crate::error::{Error, Result};
use crate::oci::{self, Contents, Digest, RepositoryName};

/// How many references a partition has, about: each takes 17 bytes, and as many again in the worst case. Tests have several
/// partitions.
const PARTITION: usize = if cfg!(test) { 3 } else { 1 << 19 };

/// The references of a row of manifests that stand one after the other in `manifests-1`.
#[derive(Default)]
struct Partition {
    /// The key after which they begin, if that is not the beginning of all, and that of the last.
    after: Option<Vec<u8>>,
    last: Option<Vec<u8>>,
    /// Hashes of the keys that there are to be in `references-1` and were not met yet, each with that of its manifest's key. Two that
    /// are the same hide a fault, and make none.
    expected: HashMap<u64, u64>,
    /// Hashes of the keys of manifests of which that is not known.
    unknown: HashSet<u64>,
    /// Hashes of the keys of manifests of which it was looked up later: they were put meanwhile, or something is wrong with them;
    late: HashSet<u64>,
    /// and of the keys that there may be for these.
    late_expected: HashSet<u64>,
}

/// A manifest whose bytes are good, and what is in them.
pub(super) struct Known {
    pub(super) repository: RepositoryName,
    pub(super) digest: Digest,
    pub(super) contents: Contents,
    record: Manifest,
    references: BTreeSet<Digest>,
}

impl Partition {
    fn spans(&self, key: &[u8]) -> bool {
        self.after.as_deref().is_none_or(|after| key > after)
            && self.last.as_deref().is_some_and(|last| key <= last)
    }

    /// Whether a row is one that a manifest has, or may have.
    fn meet(&mut self, hasher: &RandomState, key: &[u8], row: &[u8]) -> bool {
        let hash = hasher.hash_one(row);
        self.expected.remove(&hash).is_some()
            || self.unknown.contains(&hasher.hash_one(key))
            || self.late_expected.contains(&hash)
    }
}

impl Run<'_> {
    pub(super) fn references(&mut self) -> Result<()> {
        let hasher = RandomState::new();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let mut partition = Partition { after: after.clone(), ..Partition::default() };
            let mut ended = false;
            while !ended && partition.expected.len() < PARTITION {
                let mut batch = batch(self.core(), Tree::Manifests, after.as_deref(), |_| true)?;
                ended = batch.is_empty();
                if let Some((last, ..)) = batch.last() {
                    after = Some(last.clone());
                }
                let count = batch.len() as u64;
                batch.sort_unstable_by_key(|(.., content)| content.map(|content| content.placement.id()));
                for (key, ..) in batch {
                    self.add_manifest(&mut partition, &hasher, &key)?;
                }
                self.done(count)?;
            }
            partition.last.clone_from(&after);
            self.recorded_references(&mut partition, &hasher)?;
            self.missing_references(&partition, &hasher)?;
            if ended {
                return Ok(());
            }
        }
    }

    /// Adds to a partition what a manifest references.
    fn add_manifest(&mut self, partition: &mut Partition, hasher: &RandomState, key: &[u8]) -> Result<()> {
        let Some(known) = self.known(key)? else {
            partition.unknown.insert(hasher.hash_one(key));
            return Ok(());
        };
        for referenced in &known.references {
            let row = schema::pointer_within(&known.repository, referenced, &known.digest);
            partition.expected.insert(hasher.hash_one(row.as_slice()), hasher.hash_one(key));
        }
        Ok(())
    }

    /// Looks at the manifests of which not all references were met: some were deleted meanwhile.
    fn missing_references(&mut self, partition: &Partition, hasher: &RandomState) -> Result<()> {
        let unmet = &partition.expected;
        if unmet.is_empty() {
            return Ok(());
        }
        let manifests: HashSet<u64> = unmet.values().copied().collect();
        self.walk(Tree::Manifests, partition.after.clone(), |run, page| {
            for (key, _) in &page {
                if !partition.spans(key) {
                    return Ok(false);
                }
                if !manifests.contains(&hasher.hash_one(key.as_slice())) {
                    continue;
                }
                let Some(known) = run.known(key)? else { continue };
                for referenced in &known.references {
                    let row = schema::pointer_within(&known.repository, referenced, &known.digest);
                    if unmet.contains_key(&hasher.hash_one(row.as_slice()))
                        && !run.core().read(|index| index.contains(Tree::References, &row))?
                    {
                        run.confirm_row(&known.record, key, row, FaultKind::ReferenceMissing)?;
                    }
                }
            }
            Ok(true)
        })
        .map(drop)
    }

    pub(super) fn known(&self, key: &[u8]) -> Result<Option<Known>> {
        self.core().read(|index| known(self.core(), index, key))
    }

    /// Looks whether all that is recorded of a partition's manifests is in their bytes.
    fn recorded_references(&mut self, partition: &mut Partition, hasher: &RandomState) -> Result<()> {
        let Some(last) = partition.last.as_deref() else { return Ok(()) };
        let within = |key| schema::digest_of_key(Tree::Manifests, key).map(|(name, _)| schema::within(&name));
        // A key that is none stands behind all others, or before them.
        let end = within(last).ok();
        let mut after = partition.after.as_deref().and_then(|after| within(after).ok());
        loop {
            let page = page(self.core(), Tree::References, after.as_deref())?;
            let Some((key, _)) = page.last() else { return Ok(()) };
            let reached = key.clone();
            for (row, _) in page {
                let Ok((repository, _, digest)) = schema::pointer_of_key(Tree::References, &row) else {
                    continue;
                };
                let key = schema::digest_within(&repository, &digest);
                if !partition.spans(&key) || partition.meet(hasher, &key, &row) {
                    continue;
                }
                // Those of a manifest that was put meanwhile are not expected: its bytes tell, and are read once.
                if partition.late.insert(hasher.hash_one(key.as_slice())) {
                    match self.known(&key)? {
                        Some(known) if partition.late_expected.len() < PARTITION => {
                            let rows = known.references.iter();
                            partition.late_expected.extend(rows.map(|referenced| {
                                let row = schema::pointer_within(&repository, referenced, &digest);
                                hasher.hash_one(row.as_slice())
                            }));
                        }
                        // There are so many of them that they wait for the next verification.
                        _ => drop(partition.unknown.insert(hasher.hash_one(key.as_slice()))),
                    }
                    if partition.meet(hasher, &key, &row) {
                        continue;
                    }
                }
                if let Some(record) =
                    self.core().read(|index| records::readable(index.get::<Manifest>(&key)))?
                {
                    self.confirm_row(&record, &key, row, FaultKind::ReferenceUnfounded)?;
                }
            }
            self.done(0)?;
            if end.as_ref().is_some_and(|end| !reached.starts_with(end) && reached > *end) {
                return Ok(());
            }
            after = Some(reached);
        }
    }

    /// Looks again, in the writer's thread, at a reference of a manifest whose bytes are known to have it or not to have it.
    fn confirm_row(&mut self, record: &Manifest, key: &[u8], row: Vec<u8>, kind: FaultKind) -> Result<()> {
        let text = records::describe(Tree::References, &row);
        let (content, key, repair) = (record.content, key.to_vec(), self.repair);
        let missing = kind == FaultKind::ReferenceMissing;
        let found = self.at_desk(move |_, desk| {
            let now = desk.index().get::<Manifest>(&key)?;
            let same = now.is_some_and(|now| now.content == content && now.quarantined_at.is_none());
            if !same || desk.index().contains(Tree::References, &row)? == missing {
                return Ok(None);
            }
            if repair {
                let mut changes = Changes::new();
                if missing {
                    changes.set_value(Tree::References, row, Vec::new());
                } else {
                    let (repository, referenced, manifest) = schema::pointer_of_key(Tree::References, &row)?;
                    changes.remove(Tree::References, row);
                    keep::stamp_if_abandoned(desk, &mut changes, &repository, &referenced, &manifest)?;
                }
                desk.apply(&changes)?;
            }
            Ok(Some(repair))
        })?;
        if let Some(repaired) = found {
            self.report.add_fault(Fault {
                tree: Tree::References.name().to_owned(),
                record: text,
                kind,
                repaired,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
std::thread_local! {
    /// How often this thread has taken a manifest apart.
    pub(in super::super) static TAKEN_APART: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// What is in a manifest's bytes, if they are good.
pub(super) fn known(core: &Core, index: &Index, key: &[u8]) -> Result<Option<Known>> {
    #[cfg(test)]
    TAKEN_APART.set(TAKEN_APART.get() + 1);
    let Ok((repository, digest)) = schema::digest_of_key(Tree::Manifests, key) else { return Ok(None) };
    let record = match index.get::<Manifest>(key) {
        Err(Error::Damaged { .. }) | Ok(None) => return Ok(None),
        record => record?.filter(|record| record.quarantined_at.is_none()),
    };
    let Some(record) = record else { return Ok(None) };
    let bytes = content::read_whole(index, core, &record.content);
    let (Ok(bytes), Ok(media_type)) = (bytes, record.media_type.parse()) else { return Ok(None) };
    let found = oci::Manifest::verified(media_type, bytes, &digest).ok();
    Ok(found.and_then(|found| found.contents().ok()).map(|contents| {
        let references = manifests::referenced(&contents).into_iter().collect();
        Known { repository, digest, contents, record, references }
    }))
}
