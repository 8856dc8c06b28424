//! Making records that follow from others do so again. Each in the writer's thread, just after it was seen there to be wrong.

use super::super::accounts::Tally;
use super::super::changes::Changes;
use super::super::desk::Desk;
use super::super::keep;
use super::super::leftovers;
use super::super::schema::{self, Kept, Layer, Manifest, Placement, Referrer, Tag, Tree, Upload};
use super::super::store::Core;
use super::FaultKind;
use super::counters;
use super::references::{Known, known};
use crate::error::Result;

/// Repairs what is wrong with an entry, if anything tells what is right.
pub(super) fn repair(
    core: &Core,
    desk: &mut Desk<'_>,
    tree: Tree,
    kind: FaultKind,
    key: &[u8],
) -> Result<bool> {
    let mut changes = Changes::new();
    match (kind, tree) {
        (FaultKind::UseMissing, _) => {
            let (repository, digest) = schema::digest_of_key(tree, key)?;
            changes.set_value(Tree::Uses, schema::use_key(&digest, &repository), Vec::new());
        }
        (FaultKind::TaggedMissing, _) => {
            let (repository, tag) = schema::tag_of_key(key)?;
            let Some(record) = desk.index().get::<Tag>(key)? else { return Ok(false) };
            let reverse = schema::tagged_within(&repository, &record.digest.digest()?, &tag);
            changes.set_value(Tree::Tagged, reverse, Vec::new());
        }
        // A tag whose manifest is lost is seen by nobody, and is back when the manifest is pushed again.
        (FaultKind::ManifestMissing, Tree::Tags) => return Ok(false),
        (
            FaultKind::LinkMissing
            | FaultKind::TagMissing
            | FaultKind::CandidateOutdated
            | FaultKind::UsedOutdated,
            _,
        )
        | (FaultKind::ManifestMissing, Tree::Referrers) => changes.remove(tree, key.to_vec()),
        (FaultKind::ManifestMissing, Tree::References) => {
            let (repository, referenced, manifest) = schema::pointer_of_key(tree, key)?;
            changes.remove(tree, key.to_vec());
            keep::stamp_if_abandoned(desk, &mut changes, &repository, &referenced, &manifest)?;
        }
        (FaultKind::CandidateMissing | FaultKind::StampMissing, _) => {
            let (repository, digest) = schema::digest_of_key(tree, key)?;
            let kind = if tree == Tree::Links { Kept::Link } else { Kept::Manifest };
            match keep::stamp_of(desk.index(), kind, &repository, &digest)? {
                None => keep::stamp(desk, &mut changes, kind, &repository, &digest)?,
                since => keep::move_candidate(&mut changes, kind, None, since, &repository, &digest),
            }
        }
        (FaultKind::UsedMissing, _) => {
            let (repository, digest) = schema::digest_of_key(tree, key)?;
            let Some(manifest) = desk.index().get::<Manifest>(key)? else { return Ok(false) };
            keep::move_use(&mut changes, None, Some(manifest.used_at), &repository, &digest);
        }
        (FaultKind::ReferrerMissing, _) => {
            let Some(Known { repository, digest, contents, .. }) = known(core, desk.index(), key)? else {
                return Ok(false);
            };
            let Some(subject) = contents.subject else { return Ok(false) };
            let artifact_type = contents.artifact_type.map(|media_type| media_type.to_string());
            let row = schema::pointer_within(&repository, &subject, &digest);
            changes.set(row, &Referrer { artifact_type })?;
        }
        (FaultKind::RepositoryMissing, _) => {
            let (repository, _) = schema::digest_of_key(tree, key)?;
            counters::rewrite(desk, &repository)?;
        }
        (FaultKind::LayerUnused, _) => {
            // All links were seen to have their reverse, so it is true that nobody can reach it.
            let Some(layer) = desk.index().get::<Layer>(key)? else { return Ok(false) };
            let mut tally = Tally::new();
            changes.remove(tree, key.to_vec());
            tally.blob_removed(&layer);
            tally.add_to(desk.index(), &mut changes)?;
            let retired = leftovers::retire(&mut changes, layer.content, None)?.was(layer.quarantined_at);
            desk.apply(&changes)?;
            desk.retire(retired);
            return Ok(true);
        }
        (FaultKind::LeftoverInUse, _) => {
            let id = match tree {
                Tree::Layers => desk.index().get::<Layer>(key)?.map(|layer| layer.content.placement),
                Tree::Manifests => {
                    desk.index().get::<Manifest>(key)?.map(|manifest| manifest.content.placement)
                }
                _ => desk.index().get::<Upload>(key)?.map(|upload| upload.placement),
            };
            match id.map(Placement::id) {
                Some(id) if !desk.is_retiring(id) => changes.remove(Tree::Leftovers, schema::id_key(id)),
                _ => return Ok(false),
            }
        }
        _ => return Ok(false),
    }
    desk.apply(&changes)?;
    Ok(true)
}
