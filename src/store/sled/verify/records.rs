//! Records, each compared with those that it must agree with. What depends on a manifest's bytes is in `references`, what has to
//! be counted in `counters`, and which of them are to be looked at in `joins` where a walk over the tree does not tell.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::fs;

use super::super::events;
use super::super::index::Index;
use super::super::keep;
use super::super::quarantine::{Owned, Owner};
use super::super::schema::{
    self, Event, Kept, Layer, Leftover, Link, Manifest, Placement, RawDigest, Record, Referrer, Tag, Tree,
    Upload,
};
use super::super::staged;
use super::super::store::Core;
use super::repair;
use super::{Fault, FaultKind, Quarantined, Run};
use crate::error::{Error, Result};
use crate::oci::{Digest, Hasher, MediaType, RepositoryName};

/// How many of the repositories that miss a blob a report names.
const NAMED: usize = 100;

/// Each fault is looked for in one of two ways, and so reported once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// At all entries, as they come: what stands in other trees in the same order, or is little.
    InOrder,
    /// At those that two walks have found not to agree.
    Joined,
}

/// Where records are looked at: at a page of them, or at one in the writer's thread.
pub(super) struct Look<'a> {
    core: &'a Core,
    index: &'a Index,
    pass: Pass,
    /// The manifests that are on their way out or in; what is theirs is not judged.
    pending: OnceCell<BTreeSet<(String, Digest)>>,
}

/// What is wrong with an entry.
type Judge = fn(&Look<'_>, &[u8], &[u8]) -> Result<Vec<FaultKind>>;

/// Links come before what follows from them: once they are repaired, what no link knows is nobody's.
const JUDGES: [(Tree, Judge); 13] = [
    (Tree::Links, link),
    (Tree::Uses, link_of_use),
    (Tree::Layers, layer),
    (Tree::Manifests, manifest),
    (Tree::References, manifest_of_reference),
    (Tree::Tags, tag),
    (Tree::Tagged, tag_of_tagged),
    (Tree::Referrers, manifest_of_referrer),
    (Tree::Uploads, upload),
    (Tree::Leftovers, leftover),
    (Tree::Candidates, candidate),
    (Tree::Used, used),
    (Tree::Events, event),
];

impl Run<'_> {
    pub(super) fn records(&mut self) -> Result<()> {
        for (tree, judge) in JUDGES {
            self.pages(tree, |run, page| {
                let suspects = run.core().read(|index| {
                    let look = Look::new(run.core(), index, Pass::InOrder);
                    let mut suspects = Vec::new();
                    for (key, value) in &page {
                        if !look.faults(judge, key, value)?.is_empty() {
                            suspects.push(key.clone());
                        }
                    }
                    Ok(suspects)
                })?;
                for key in suspects {
                    run.confirm(Pass::InOrder, tree, judge, key)?;
                }
                if tree == Tree::References {
                    run.list_missing(page.iter().map(|(key, _)| key.as_slice()))?;
                }
                page.iter().try_for_each(|(key, value)| run.list_bad(tree, key, value))
            })?;
        }
        Ok(())
    }

    /// Looks at an entry that does not seem to agree with another tree: if it was only being changed, the writer is left alone.
    pub(super) fn suspect(&mut self, pass: Pass, tree: Tree, key: Vec<u8>) -> Result<()> {
        let Some((_, judge)) = JUDGES.into_iter().find(|(of, _)| *of == tree) else { return Ok(()) };
        let wrong = self.core().read(|index| match index.value(tree, &key)? {
            Some(value) => Ok(!Look::new(self.core(), index, pass).faults(judge, &key, &value)?.is_empty()),
            None => Ok(false),
        })?;
        if wrong { self.confirm(pass, tree, judge, key) } else { Ok(()) }
    }

    /// Looks again at an entry in which something seemed wrong, and repairs it if that is wanted.
    fn confirm(&mut self, pass: Pass, tree: Tree, judge: Judge, key: Vec<u8>) -> Result<()> {
        let record = describe(tree, &key);
        let repair = self.repair;
        let found = self.at_desk(move |core, desk| {
            let faults = |index: &Index| match index.value(tree, &key)? {
                Some(value) => Look::new(core, index, pass).faults(judge, &key, &value),
                None => Ok(Vec::new()),
            };
            let found = faults(desk.index())?;
            let mut outcome = Vec::with_capacity(found.len());
            for kind in found {
                outcome.push((kind, repair && repair::repair(core, desk, tree, kind, &key)?));
            }
            Ok(outcome)
        })?;
        for (kind, repaired) in found {
            self.report.add_fault(Fault {
                tree: tree.name().to_owned(),
                record: record.clone(),
                kind,
                repaired,
            });
        }
        Ok(())
    }

    /// Content that is in quarantine, whoever put it there.
    fn list_bad(&mut self, tree: Tree, key: &[u8], value: &[u8]) -> Result<()> {
        let owned = match tree {
            Tree::Layers => schema::decode::<Layer>(value).and_then(|layer| {
                let digest = schema::digest_after(tree, key, &[])?;
                Ok(layer.quarantined_at.map(|at| (Owned::blob(&digest, &layer), at)))
            }),
            Tree::Manifests => schema::decode::<Manifest>(value).and_then(|manifest| {
                let (repository, digest) = schema::digest_of_key(tree, key)?;
                Ok(manifest.quarantined_at.map(|at| (Owned::manifest(&repository, &digest, &manifest), at)))
            }),
            _ => return Ok(()),
        };
        let Ok(Some((owned, _))) = owned else { return Ok(()) };
        // It may have been healed since the page was read.
        if self.core().read(|index| owned.quarantined(index))? != Some(true) {
            return Ok(());
        }
        let repositories = match &owned.owner {
            Owner::Manifest(repository, _) => vec![repository.clone()],
            Owner::Blob(digest) => self.core().read(|index| {
                let uses = index.scan(Tree::Uses, &schema::digest_key(digest), None)?.take(NAMED);
                Ok(uses.filter_map(|entry| schema::repository_of_use(&entry.ok()?.0).ok()).collect())
            })?,
        };
        let why = self.reasons.remove(&owned.content.placement.id());
        self.report.add_bad(Quarantined {
            digest: *owned.digest(),
            manifest: tree == Tree::Manifests,
            why: why.unwrap_or_else(|| "it was found to be bad before".to_owned()),
            repositories,
        });
        Ok(())
    }
}

impl<'a> Look<'a> {
    const fn new(core: &'a Core, index: &'a Index, pass: Pass) -> Self {
        Self { core, index, pass, pending: OnceCell::new() }
    }

    fn faults(&self, judge: Judge, key: &[u8], value: &[u8]) -> Result<Vec<FaultKind>> {
        match judge(self, key, value) {
            Err(error) if is_unreadable(&error) => match self.pass {
                Pass::InOrder => Ok(vec![FaultKind::Unreadable]),
                Pass::Joined => Ok(Vec::new()),
            },
            faults => faults,
        }
    }

    /// Looks for what a walk in the order of this tree finds near, or everywhere.
    fn near(&self, look: impl FnOnce() -> Result<bool>) -> Result<bool> {
        if self.pass == Pass::InOrder { look() } else { Ok(false) }
    }

    /// Looks for what only [`joins`](super::joins) can find without a page read for each.
    fn far(&self, look: impl FnOnce() -> Result<bool>) -> Result<bool> {
        if self.pass == Pass::Joined { look() } else { Ok(false) }
    }

    fn lacks(&self, tree: Tree, key: &[u8]) -> Result<bool> {
        self.index.contains(tree, key).map(|has| !has)
    }

    fn is_pending(&self, repository: &RepositoryName, manifest: &Digest) -> Result<bool> {
        let pending = match self.pending.get() {
            Some(pending) => pending,
            None => {
                let mut pending = BTreeSet::new();
                for entry in self.index.scan(Tree::Leftovers, &[], None)? {
                    // One that cannot be read is found for itself.
                    let leftover = schema::decode::<Leftover>(&entry?.1);
                    if let Ok(Leftover { manifest: Some((repository, digest)), .. }) = leftover
                        && let Ok(digest) = digest.digest()
                    {
                        pending.insert((repository, digest));
                    }
                }
                self.pending.get_or_init(|| pending)
            }
        };
        Ok(pending.contains(&(repository.to_string(), *manifest)))
    }

    fn has(&self, tree: Tree, key: &[u8]) -> Result<bool> {
        self.index.contains(tree, key)
    }
}

/// Whether it is the entry itself that cannot be read.
fn is_unreadable(error: &Error) -> bool {
    matches!(error, Error::Damaged { .. } | Error::MediaTypeInvalid(_))
}

/// Kinds of faults, each if it is one.
fn faults<const N: usize>(found: [(FaultKind, bool); N]) -> Vec<FaultKind> {
    found.into_iter().filter_map(|(kind, is_one)| is_one.then_some(kind)).collect()
}

fn link(look: &Look<'_>, key: &[u8], value: &[u8]) -> Result<Vec<FaultKind>> {
    let (repository, digest) = schema::digest_of_key(Tree::Links, key)?;
    let since = schema::decode::<Link>(value)?.unreferenced_since;
    let candidate = since.map(|since| schema::candidate_key(Kept::Link, since, &repository, &digest));
    Ok(faults([
        (FaultKind::LayerMissing, look.near(|| look.lacks(Tree::Layers, &schema::digest_key(&digest)))?),
        (FaultKind::UseMissing, look.far(|| look.lacks(Tree::Uses, &schema::use_key(&digest, &repository)))?),
        (
            FaultKind::CandidateMissing,
            look.far(|| candidate.as_ref().map_or(Ok(false), |key| look.lacks(Tree::Candidates, key)))?,
        ),
        (
            FaultKind::StampMissing,
            since.is_none()
                && look.near(|| Ok(!keep::is_kept(look.index, Kept::Link, &repository, &digest)?))?,
        ),
        (
            FaultKind::RepositoryMissing,
            look.near(|| look.lacks(Tree::Repositories, &schema::repository_key(&repository)))?,
        ),
    ]))
}

fn link_of_use(look: &Look<'_>, key: &[u8], _: &[u8]) -> Result<Vec<FaultKind>> {
    let (digest, repository) = schema::use_of_key(key)?;
    let unlinked = look.far(|| look.lacks(Tree::Links, &schema::digest_within(&repository, &digest)))?;
    Ok(faults([(FaultKind::LinkMissing, unlinked)]))
}

fn layer(look: &Look<'_>, key: &[u8], value: &[u8]) -> Result<Vec<FaultKind>> {
    let digest = schema::digest_after(Tree::Layers, key, &[])?;
    let id = schema::decode::<Layer>(value)?.content.placement.id();
    let unused = || {
        let mut uses = look.index.scan(Tree::Uses, &schema::digest_key(&digest), None)?;
        Ok(uses.next().transpose()?.is_none())
    };
    Ok(faults([
        (FaultKind::LayerUnused, look.near(unused)?),
        (FaultKind::LeftoverInUse, look.near(|| look.has(Tree::Leftovers, &schema::id_key(id)))?),
    ]))
}

fn manifest(look: &Look<'_>, key: &[u8], value: &[u8]) -> Result<Vec<FaultKind>> {
    let (repository, digest) = schema::digest_of_key(Tree::Manifests, key)?;
    let manifest = schema::decode::<Manifest>(value)?;
    manifest.media_type.parse::<MediaType>()?;
    let subject = manifest.subject.as_ref().map(RawDigest::digest).transpose()?;
    let since = manifest.unkept_since;
    let candidate = since.map(|since| schema::candidate_key(Kept::Manifest, since, &repository, &digest));
    let referrer = subject.map(|subject| schema::pointer_within(&repository, &subject, &digest));
    let abandoned = || Ok(!keep::is_kept(look.index, Kept::Manifest, &repository, &digest)?);
    let stamp = match (since, &subject) {
        (Some(_), _) => false,
        (None, None) => look.near(abandoned)?,
        // While its subject is on its way out, it waits for its stamp.
        (None, Some(subject)) => look.far(|| Ok(!look.is_pending(&repository, subject)? && abandoned()?))?,
    };
    let id = manifest.content.placement.id();
    Ok(faults([
        (
            FaultKind::ReferrerMissing,
            look.far(|| referrer.as_ref().map_or(Ok(false), |key| look.lacks(Tree::Referrers, key)))?,
        ),
        (
            FaultKind::UsedMissing,
            look.far(|| look.lacks(Tree::Used, &schema::used_key(manifest.used_at, &repository, &digest)))?,
        ),
        (
            FaultKind::CandidateMissing,
            look.far(|| candidate.as_ref().map_or(Ok(false), |key| look.lacks(Tree::Candidates, key)))?,
        ),
        (FaultKind::StampMissing, stamp),
        (FaultKind::LeftoverInUse, look.near(|| look.has(Tree::Leftovers, &schema::id_key(id)))?),
        (
            FaultKind::RepositoryMissing,
            look.near(|| look.lacks(Tree::Repositories, &schema::repository_key(&repository)))?,
        ),
    ]))
}

fn manifest_of_reference(look: &Look<'_>, key: &[u8], _: &[u8]) -> Result<Vec<FaultKind>> {
    let (repository, _, manifest) = schema::pointer_of_key(Tree::References, key)?;
    let missing = look.far(|| {
        Ok(look.lacks(Tree::Manifests, &schema::digest_within(&repository, &manifest))?
            && !look.is_pending(&repository, &manifest)?)
    })?;
    Ok(faults([(FaultKind::ManifestMissing, missing)]))
}

fn tag(look: &Look<'_>, key: &[u8], value: &[u8]) -> Result<Vec<FaultKind>> {
    let (repository, tag) = schema::tag_of_key(key)?;
    let digest = schema::decode::<Tag>(value)?.digest.digest()?;
    let lacks = |tree, key: Vec<u8>| look.far(|| look.lacks(tree, &key));
    Ok(faults([
        (FaultKind::ManifestMissing, lacks(Tree::Manifests, schema::digest_within(&repository, &digest))?),
        (FaultKind::TaggedMissing, lacks(Tree::Tagged, schema::tagged_within(&repository, &digest, &tag))?),
    ]))
}

fn tag_of_tagged(look: &Look<'_>, key: &[u8], _: &[u8]) -> Result<Vec<FaultKind>> {
    let (repository, digest, tag) = schema::tagged_of_key(key)?;
    // A tag that cannot be read is found for itself, and does not make its reverse wrong.
    let is_nobodys = || match look.index.get::<Tag>(&schema::tag_within(&repository, &tag)) {
        Ok(tag) => Ok(tag.is_none_or(|tag| tag.digest != RawDigest::from(&digest))),
        Err(error) if is_unreadable(&error) => Ok(false),
        Err(error) => Err(error),
    };
    Ok(faults([(FaultKind::TagMissing, look.far(is_nobodys)?)]))
}

fn manifest_of_referrer(look: &Look<'_>, key: &[u8], value: &[u8]) -> Result<Vec<FaultKind>> {
    let (repository, subject, manifest) = schema::pointer_of_key(Tree::Referrers, key)?;
    schema::decode::<Referrer>(value)?;
    let is_nobodys = || match look.index.get::<Manifest>(&schema::digest_within(&repository, &manifest)) {
        Ok(manifest) => Ok(manifest.and_then(|manifest| manifest.subject) != Some(RawDigest::from(&subject))),
        Err(error) if is_unreadable(&error) => Ok(false),
        Err(error) => Err(error),
    };
    Ok(faults([(FaultKind::ManifestMissing, look.far(is_nobodys)?)]))
}

fn upload(look: &Look<'_>, key: &[u8], value: &[u8]) -> Result<Vec<FaultKind>> {
    schema::session_of_key(key)?;
    let upload = schema::decode::<Upload>(value)?;
    schema::repository_of_key(upload.repository.as_bytes())?;
    let standing = staged::standing(look.core, &upload);
    if Hasher::restore(upload.algorithm, &standing.hash_state).is_err() {
        return Ok(vec![FaultKind::Unreadable]);
    }
    let id = upload.placement.id();
    let whole = match upload.placement {
        // A session that stands at its beginning needs no bytes.
        _ if standing.offset == 0 => true,
        Placement::File(id) => {
            fs::metadata(look.core.folder.content(id)).is_ok_and(|metadata| metadata.len() >= standing.offset)
        }
        Placement::Inline(_) => {
            let last = u32::try_from((standing.offset - 1) / schema::MAX_VALUE as u64);
            last.is_ok_and(|last| look.has(Tree::Chunks, &schema::chunk_key(id, last)).unwrap_or(true))
        }
    };
    Ok(faults([
        (FaultKind::UploadShort, !whole),
        (FaultKind::LeftoverInUse, look.has(Tree::Leftovers, &schema::id_key(id))?),
    ]))
}

fn leftover(_: &Look<'_>, key: &[u8], value: &[u8]) -> Result<Vec<FaultKind>> {
    let leftover = schema::decode::<Leftover>(value)?;
    if let Some((repository, digest)) = &leftover.manifest {
        schema::repository_of_key(repository.as_bytes())?;
        digest.digest()?;
    }
    let own = key == schema::id_key(leftover.content.placement.id());
    Ok(faults([(FaultKind::Unreadable, !own)]))
}

fn candidate(look: &Look<'_>, key: &[u8], _: &[u8]) -> Result<Vec<FaultKind>> {
    let kind = schema::kind_of_candidate(key)?;
    let (since, repository, digest) = schema::candidate_of_key(key)?;
    let key = schema::digest_within(&repository, &digest);
    let is_outdated = || {
        let stamp = match kind {
            Kept::Link => readable(look.index.get::<Link>(&key))?.map(|link| link.unreferenced_since),
            Kept::Manifest => {
                readable(look.index.get::<Manifest>(&key))?.map(|manifest| manifest.unkept_since)
            }
        };
        Ok(stamp.flatten() != Some(since))
    };
    Ok(faults([(FaultKind::CandidateOutdated, look.far(is_outdated)?)]))
}

fn used(look: &Look<'_>, key: &[u8], _: &[u8]) -> Result<Vec<FaultKind>> {
    let (at, repository, digest) = schema::used_of_key(key)?;
    let is_outdated = || {
        let manifest = readable(look.index.get::<Manifest>(&schema::digest_within(&repository, &digest)))?;
        Ok(manifest.is_none_or(|manifest| manifest.used_at != at))
    };
    Ok(faults([(FaultKind::UsedOutdated, look.far(is_outdated)?)]))
}

fn event(_: &Look<'_>, key: &[u8], value: &[u8]) -> Result<Vec<FaultKind>> {
    schema::number_of_event(key)?;
    events::read(key, &schema::decode::<Event>(value)?)?;
    Ok(Vec::new())
}

/// A record that cannot be read is found for itself.
pub(super) fn readable<R: Record>(record: Result<Option<R>>) -> Result<Option<R>> {
    match record {
        Err(error) if is_unreadable(&error) => Ok(None),
        record => record,
    }
}

/// A key for people.
pub(super) fn describe(tree: Tree, key: &[u8]) -> String {
    let words = match tree {
        Tree::Layers => schema::digest_after(tree, key, &[]).map(|digest| digest.to_string()),
        Tree::Links | Tree::Manifests => {
            schema::digest_of_key(tree, key).map(|(repository, digest)| format!("{repository} {digest}"))
        }
        Tree::Uses => schema::use_of_key(key).map(|(digest, repository)| format!("{digest} {repository}")),
        Tree::References | Tree::Referrers => schema::pointer_of_key(tree, key)
            .map(|(repository, at, manifest)| format!("{repository} {at} {manifest}")),
        Tree::Tags => schema::tag_of_key(key).map(|(repository, tag)| format!("{repository} {tag}")),
        Tree::Tagged => {
            schema::tagged_of_key(key).map(|(repository, digest, tag)| format!("{repository} {digest} {tag}"))
        }
        Tree::Candidates => {
            schema::candidate_of_key(key).map(|(_, repository, digest)| format!("{repository} {digest}"))
        }
        Tree::Used => {
            schema::used_of_key(key).map(|(_, repository, digest)| format!("{repository} {digest}"))
        }
        Tree::Events => schema::number_of_event(key).map(|number| format!("event {number}")),
        Tree::Repositories => schema::repository_of_key(key).map(|repository| repository.to_string()),
        Tree::Uploads | Tree::Leftovers => schema::session_of_key(key).map(|id| id.to_string()),
        Tree::Chunks => schema::chunk_of_key(key).map(|(id, _)| id.to_string()),
        Tree::Meta => Ok(String::from_utf8_lossy(key).into_owned()),
    };
    words.unwrap_or_else(|_| key.iter().map(|byte| format!("{byte:02x}")).collect())
}
