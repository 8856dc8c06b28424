//! Images of which a part is not in their repository: it was deleted, or never pushed. Both are allowed, and neither is damage.

use super::super::index::Index;
use super::super::schema::{self, Tree};
use super::{Missing, Run};
use crate::error::Result;

impl Run<'_> {
    /// Looks whether what these entries of `references-1` point at is there. Links and manifests stand in the same order.
    pub(super) fn list_missing<'e>(&mut self, entries: impl Iterator<Item = &'e [u8]>) -> Result<()> {
        let core = self.core();
        let rows = core.read(|index| {
            let mut rows = Vec::new();
            for row in entries {
                if lacks(index, row)? {
                    rows.push(row.to_vec());
                }
            }
            Ok(rows)
        })?;
        for row in rows {
            self.confirm_missing(row)?;
        }
        Ok(())
    }

    /// Layers that may not be distributed are not to be there; of what is just being deleted or pushed nothing is said.
    fn confirm_missing(&mut self, row: Vec<u8>) -> Result<()> {
        let Ok((repository, digest, manifest)) = schema::pointer_of_key(Tree::References, &row) else {
            return Ok(());
        };
        let key = schema::digest_within(&repository, &manifest);
        let Some(known) = self.known(&key)? else { return Ok(()) };
        let is_to_be_there = known
            .contents
            .references
            .iter()
            .any(|reference| reference.digest == digest && !reference.non_distributable);
        let is_missing = is_to_be_there
            && self.at_desk(move |_, desk| {
                let index = desk.index();
                Ok(lacks(index, &row)?
                    && index.contains(Tree::References, &row)?
                    && index.contains(Tree::Manifests, &key)?)
            })?;
        if is_missing {
            self.report.add_missing(Missing { repository, manifest, digest });
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
