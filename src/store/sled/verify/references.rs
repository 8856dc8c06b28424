//! What manifests reference, by their bytes, and what is recorded of that: both ways, in partitions of manifests.

use std::collections::{BTreeSet, HashSet};
use std::hash::{BuildHasher, RandomState};

use super::super::content;
use super::super::index::{Changes, Index};
use super::super::keep;
use super::super::manifests;
use super::super::schema::{self, Manifest, Tree};
use super::super::store::Core;
use super::{Fault, FaultKind, Run, page, records};
use crate::error::{Error, Result};
use crate::oci::{self, Contents, Digest, RepositoryName};

/// How many references a partition has, about: each takes eight bytes and a little. Tests have several partitions.
const PARTITION: usize = if cfg!(test) { 3 } else { 1 << 20 };

/// The references of a row of manifests that stand one after the other in `manifests-1`.
#[derive(Default)]
struct Partition {
    /// The keys of the first and the last.
    ends: Option<(Vec<u8>, Vec<u8>)>,
    /// Hashes of the keys that there are to be in `references-1`. Two that are the same hide a fault, and make none.
    expected: HashSet<u64>,
    /// Hashes of the keys of manifests of which that is not known.
    unknown: HashSet<u64>,
    /// Hashes of the keys of manifests of which it was looked up later: they were put meanwhile, or something is wrong with them.
    late: HashSet<u64>,
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
    /// Whether a row is one that a manifest has, or may have.
    fn is_right(&self, hasher: &RandomState, key: &[u8], row: &[u8]) -> bool {
        self.expected.contains(&hasher.hash_one(row)) || self.unknown.contains(&hasher.hash_one(key))
    }
}

impl Run<'_> {
    pub(super) fn references(&mut self) -> Result<()> {
        let hasher = RandomState::new();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let mut partition = Partition::default();
            let mut ended = true;
            loop {
                let page = page(self.core(), Tree::Manifests, after.as_deref())?;
                for (key, _) in &page {
                    self.add_manifest(&mut partition, &hasher, key)?;
                    after = Some(key.clone());
                    if partition.expected.len() >= PARTITION {
                        ended = false;
                        break;
                    }
                }
                self.done(page.len() as u64)?;
                if page.is_empty() || !ended {
                    break;
                }
            }
            self.recorded_references(&mut partition, &hasher)?;
            if ended {
                return Ok(());
            }
        }
    }

    /// Adds a manifest to a partition, and looks whether all that it references is recorded.
    fn add_manifest(&mut self, partition: &mut Partition, hasher: &RandomState, key: &[u8]) -> Result<()> {
        let first = partition.ends.take().map_or_else(|| key.to_vec(), |(first, _)| first);
        partition.ends = Some((first, key.to_vec()));
        let Some(known) = self.known(key)? else {
            partition.unknown.insert(hasher.hash_one(key));
            return Ok(());
        };
        let mut missing = Vec::new();
        for referenced in &known.references {
            let key = schema::pointer_within(&known.repository, referenced, &known.digest);
            if !self.core().read(|index| index.contains(Tree::References, &key))? {
                missing.push(key.clone());
            }
            partition.expected.insert(hasher.hash_one(key.as_slice()));
        }
        for row in missing {
            self.confirm_row(&known.record, key, row, FaultKind::ReferenceMissing)?;
        }
        Ok(())
    }

    fn known(&self, key: &[u8]) -> Result<Option<Known>> {
        self.core().read(|index| known(self.core(), index, key))
    }

    /// Looks whether all that is recorded of a partition's manifests is in their bytes.
    fn recorded_references(&mut self, partition: &mut Partition, hasher: &RandomState) -> Result<()> {
        let Some((first, last)) = partition.ends.take() else { return Ok(()) };
        let repository = |key: &[u8]| schema::digest_of_key(Tree::Manifests, key).map(|(name, _)| name);
        let (Ok(begin), Ok(end)) = (repository(&first), repository(&last)) else { return Ok(()) };
        let mut after = schema::within(&begin);
        let end = schema::within(&end);
        loop {
            let page = page(self.core(), Tree::References, Some(&after))?;
            let Some((key, _)) = page.last() else { return Ok(()) };
            after = key.clone();
            for (row, _) in page {
                let Ok((repository, _, digest)) = schema::pointer_of_key(Tree::References, &row) else {
                    continue;
                };
                let key = schema::digest_within(&repository, &digest);
                if !(&first..=&last).contains(&&key) || partition.is_right(hasher, &key, &row) {
                    continue;
                }
                // Those of a manifest that was put meanwhile are not expected: its bytes tell, and are read once.
                if partition.late.insert(hasher.hash_one(key.as_slice())) {
                    match self.known(&key)? {
                        Some(known) if partition.expected.len() < 2 * PARTITION => {
                            let rows = known.references.iter();
                            partition.expected.extend(rows.map(|referenced| {
                                let row = schema::pointer_within(&repository, referenced, &digest);
                                hasher.hash_one(row.as_slice())
                            }));
                        }
                        // There are so many of them that they wait for the next verification.
                        _ => drop(partition.unknown.insert(hasher.hash_one(key.as_slice()))),
                    }
                    if partition.is_right(hasher, &key, &row) {
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
            if !after.starts_with(&end) && after > end {
                return Ok(());
            }
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

/// What is in a manifest's bytes, if they are good.
pub(super) fn known(core: &Core, index: &Index, key: &[u8]) -> Result<Option<Known>> {
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
