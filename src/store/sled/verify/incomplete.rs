//! Images of which a part is not in their repository: it was deleted, or never pushed. Both are allowed, and neither is damage.

use std::collections::{BTreeMap, HashSet};

use super::super::index::Index;
use super::super::schema::{self, Tree};
use super::{Missing, Run};
use crate::error::Result;
use crate::oci::{Digest, RepositoryName};

/// How many entries are looked at in one piece of the writer's work.
const BATCH: usize = 32;

/// So many entries are held before their manifests are looked at: each of these is taken apart once for all of them. It takes ten
/// MiB, about.
const AT_ONCE: usize = 1 << 16;

impl Run<'_> {
    /// Looks whether what these entries of `references-1` point at is there. Links and manifests stand in the same order.
    pub(super) fn list_missing<'e>(&mut self, entries: impl Iterator<Item = &'e [u8]>) -> Result<()> {
        let lacking = &mut self.lacking;
        self.shared.core.read(|index| {
            for row in entries {
                if lacks(index, row)? {
                    lacking.push(row.to_vec());
                }
            }
            Ok(())
        })?;
        if self.lacking.len() < AT_ONCE { Ok(()) } else { self.confirm_missing() }
    }

    /// Looks at the manifests of the entries that are held. An entry's own place is by what it points at, so those of one manifest
    /// are anywhere among them.
    pub(super) fn confirm_missing(&mut self) -> Result<()> {
        let mut by_manifest = BTreeMap::<_, Vec<_>>::new();
        for row in std::mem::take(&mut self.lacking) {
            if let Ok((repository, digest, manifest)) = schema::pointer_of_key(Tree::References, &row) {
                by_manifest.entry((repository, manifest)).or_default().push((digest, row));
            }
        }
        for ((repository, manifest), lacking) in by_manifest {
            self.confirm_missing_of(&repository, &manifest, lacking)?;
        }
        Ok(())
    }

    /// Layers that may not be distributed are not to be there; of what is just being deleted or pushed nothing is said.
    fn confirm_missing_of(
        &mut self,
        repository: &RepositoryName,
        manifest: &Digest,
        mut lacking: Vec<(Digest, Vec<u8>)>,
    ) -> Result<()> {
        let key = schema::digest_within(repository, manifest);
        let Some(known) = self.known(&key)? else { return Ok(()) };
        let expected: HashSet<Digest> = known
            .contents
            .references
            .iter()
            .filter(|reference| !reference.non_distributable)
            .map(|reference| reference.digest)
            .collect();
        lacking.retain(|(digest, _)| expected.contains(digest));
        while !lacking.is_empty() {
            let (key, some) = (key.clone(), lacking.split_off(lacking.len().saturating_sub(BATCH)));
            let missing = self.at_desk(move |_, desk| {
                let index = desk.index();
                let mut missing = Vec::new();
                for (digest, row) in some {
                    if lacks(index, &row)? && index.contains(Tree::References, &row)? {
                        missing.push(digest);
                    }
                }
                Ok(if index.contains(Tree::Manifests, &key)? { missing } else { Vec::new() })
            })?;
            for digest in missing {
                let (repository, manifest) = (repository.clone(), *manifest);
                self.report.add_missing(Missing { repository, manifest, digest });
            }
        }
        Ok(())
    }
}

/// Whether what an entry points at is neither linked nor a manifest there.
fn lacks(index: &Index, row: &[u8]) -> Result<bool> {
    let Ok((repository, digest, _)) = schema::pointer_of_key(Tree::References, row) else { return Ok(false) };
    let key = schema::digest_within(&repository, &digest);
    Ok(!index.contains(Tree::Links, &key)? && !index.contains(Tree::Manifests, &key)?)
}
