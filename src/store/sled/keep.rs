//! What keeps a link or a manifest, and who becomes a candidate of collection when nothing does.
//!
//! A link is kept by a manifest that references it; a manifest by a tag, by an index that names it, or by its subject being there.
//! Whatever nothing keeps has a stamp in its record and a place among the candidates that agrees with it, both made in the
//! transaction in which the last that kept it went (or, of a manifest's many references, in one of the steps that follow under
//! its leftover record). Of what is kept again the stamp may be left standing: collection looks before it removes, and clears it.
//! So no change has to look at more than what it changes, and collection looks at no more than was ever abandoned.

use super::changes::Changes;
use super::desk::Desk;
use super::index::Index;
use super::layers;
use super::manifests;
use super::schema::{self, Kept, Link, Manifest, Tree, Uptime};
use crate::error::Result;
use crate::oci::{Digest, Reference, RepositoryName, Tag};

/// Whether a manifest references the link, or an index the manifest.
fn is_referenced(index: &Index, repository: &RepositoryName, digest: &Digest) -> Result<bool> {
    has_any(index, Tree::References, repository, digest)
}

/// Whether a manifest that is there references it, or is its subject: one that is gone may have left its references to be swept.
pub(super) fn is_part_of_another(
    index: &Index,
    repository: &RepositoryName,
    digest: &Digest,
) -> Result<bool> {
    let prefix = schema::digest_within(repository, digest);
    for entry in index.scan(Tree::References, &prefix, None)? {
        let manifest = schema::digest_after(Tree::References, &entry?.0, &prefix)?;
        if index.contains(Tree::Manifests, &schema::digest_within(repository, &manifest))? {
            return Ok(true);
        }
    }
    has_subject(index, repository, digest)
}

pub(super) fn is_tagged(index: &Index, repository: &RepositoryName, digest: &Digest) -> Result<bool> {
    has_any(index, Tree::Tagged, repository, digest)
}

/// The tags that point at a manifest, the first few of them.
pub(super) fn tags(
    index: &Index,
    repository: &RepositoryName,
    digest: &Digest,
    limit: usize,
) -> Result<Vec<Tag>> {
    let prefix = schema::digest_within(repository, digest);
    let entries = index.scan(Tree::Tagged, &prefix, None)?.take(limit);
    entries.map(|entry| schema::tag_after(Tree::Tagged, &entry?.0, &prefix)).collect()
}

/// The most referrers that go with their subject at once; collection takes the others when their time has passed.
const REFERRERS: usize = 1000;

/// The manifests whose subject this is, or was.
pub(super) fn referrers(index: &Index, repository: &RepositoryName, digest: &Digest) -> Result<Vec<Digest>> {
    let prefix = schema::digest_within(repository, digest);
    let entries = index.scan(Tree::Referrers, &prefix, None)?.take(REFERRERS);
    entries.map(|entry| schema::digest_after(Tree::Referrers, &entry?.0, &prefix)).collect()
}

fn has_any(index: &Index, tree: Tree, repository: &RepositoryName, digest: &Digest) -> Result<bool> {
    let mut pointers = index.scan(tree, &schema::digest_within(repository, digest), None)?;
    pointers.next().transpose().map(|found| found.is_some())
}

/// Whether anything keeps what a candidate stands for.
pub(super) fn is_kept(
    index: &Index,
    kind: Kept,
    repository: &RepositoryName,
    digest: &Digest,
) -> Result<bool> {
    if is_referenced(index, repository, digest)? {
        return Ok(true);
    }
    match kind {
        Kept::Link => Ok(false),
        Kept::Manifest => {
            Ok(is_tagged(index, repository, digest)? || has_subject(index, repository, digest)?)
        }
    }
}

fn has_subject(index: &Index, repository: &RepositoryName, digest: &Digest) -> Result<bool> {
    let manifest = index.get::<Manifest>(&schema::digest_within(repository, digest))?;
    match manifest.and_then(|manifest| manifest.subject) {
        Some(subject) => {
            index.contains(Tree::Manifests, &schema::digest_within(repository, &subject.digest()?))
        }
        None => Ok(false),
    }
}

/// Since when a link or a manifest is a candidate, if it is there and is one.
pub(super) fn stamp_of(
    index: &Index,
    kind: Kept,
    repository: &RepositoryName,
    digest: &Digest,
) -> Result<Option<Uptime>> {
    let key = schema::digest_within(repository, digest);
    Ok(match kind {
        Kept::Link => index.get::<Link>(&key)?.and_then(|link| link.unreferenced_since),
        Kept::Manifest => index.get::<Manifest>(&key)?.and_then(|manifest| manifest.unkept_since),
    })
}

/// Adds to `changes` that a link or a manifest whose record is in the index is a candidate from now on.
pub(super) fn stamp(
    desk: &Desk<'_>,
    changes: &mut Changes,
    kind: Kept,
    repository: &RepositoryName,
    digest: &Digest,
) -> Result<()> {
    set_stamp(desk.index(), changes, kind, (repository, digest), Some(desk.now()))
}

/// Adds to `changes` that it is none any more. Whoever takes away what keeps it stamps it again.
pub(super) fn clear_stamp(
    index: &Index,
    changes: &mut Changes,
    kind: Kept,
    repository: &RepositoryName,
    digest: &Digest,
) -> Result<()> {
    set_stamp(index, changes, kind, (repository, digest), None)
}

fn set_stamp(
    index: &Index,
    changes: &mut Changes,
    kind: Kept,
    (repository, digest): (&RepositoryName, &Digest),
    since: Option<Uptime>,
) -> Result<()> {
    let key = schema::digest_within(repository, digest);
    let before = match kind {
        Kept::Link => {
            let Some(link) = index.get::<Link>(&key)? else { return Ok(()) };
            changes.set(key, &Link { unreferenced_since: since, ..link })?;
            link.unreferenced_since
        }
        Kept::Manifest => {
            let Some(manifest) = index.get::<Manifest>(&key)? else { return Ok(()) };
            let before = manifest.unkept_since;
            changes.set(key, &Manifest { unkept_since: since, ..manifest })?;
            before
        }
    };
    move_candidate(changes, kind, before, since, repository, digest);
    Ok(())
}

/// Begins the time anew of what nothing keeps, for somebody who was told that it is there. Runs on the writer's thread: collection
/// was here before, and it is gone, or comes later, and leaves it.
pub(super) fn renew(
    desk: &mut Desk<'_>,
    kind: Kept,
    repository: &RepositoryName,
    digest: &Digest,
) -> Result<()> {
    let mut changes = Changes::new();
    match kind {
        Kept::Link => _ = layers::find(desk.index(), repository, digest)?,
        Kept::Manifest => _ = manifests::find(desk.index(), repository, &Reference::Digest(*digest))?,
    }
    stamp(desk, &mut changes, kind, repository, digest)?;
    desk.apply(&changes)
}

/// Adds to `changes` that a candidate's place is another one, or none any more. The record is the caller's to write.
pub(super) fn move_candidate(
    changes: &mut Changes,
    kind: Kept,
    before: Option<Uptime>,
    now: Option<Uptime>,
    repository: &RepositoryName,
    digest: &Digest,
) {
    if before == now {
        return;
    }
    if let Some(before) = before {
        changes.remove(Tree::Candidates, schema::candidate_key(kind, before, repository, digest));
    }
    if let Some(now) = now {
        changes.set_value(Tree::Candidates, schema::candidate_key(kind, now, repository, digest), Vec::new());
    }
}

/// Adds to `changes` that a manifest's place among the used is another one, or none any more. The record is the caller's to
/// write.
pub(super) fn move_use(
    changes: &mut Changes,
    before: Option<Uptime>,
    now: Option<Uptime>,
    repository: &RepositoryName,
    digest: &Digest,
) {
    if before == now {
        return;
    }
    if let Some(before) = before {
        changes.remove(Tree::Used, schema::used_key(before, repository, digest));
    }
    if let Some(now) = now {
        changes.set_value(Tree::Used, schema::used_key(now, repository, digest), Vec::new());
    }
}

/// After a reference of a manifest that is gone was removed: stamps what it pointed at if that was the last.
pub(super) fn stamp_if_abandoned(
    desk: &Desk<'_>,
    changes: &mut Changes,
    repository: &RepositoryName,
    referenced: &Digest,
    gone: &Digest,
) -> Result<()> {
    let prefix = schema::digest_within(repository, referenced);
    for entry in desk.index().scan(Tree::References, &prefix, None)?.take(2) {
        if schema::digest_after(Tree::References, &entry?.0, &prefix)? != *gone {
            return Ok(());
        }
    }
    for kind in [Kept::Link, Kept::Manifest] {
        stamp(desk, changes, kind, repository, referenced)?;
    }
    Ok(())
}
