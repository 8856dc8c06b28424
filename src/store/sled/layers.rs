//! Blobs as the writer sees them: linking what was uploaded, mounting, deleting.

use uuid::Uuid;

use super::accounts::{Others, Tally};
use super::changes::Changes;
use super::desk::Desk;
use super::index::Index;
use super::keep;
use super::leftovers;
use super::outbox::Told;
use super::schema::{self, Content, EventKind, Kept, Layer, Link, Placement, Timestamp, Tree};
use super::store::Core;
use crate::error::{Error, Result};
use crate::oci::{Digest, RepositoryName};
use crate::store::{BlobStat, MountSource};

/// A blob's record, if the repository links it (C9) and its bytes are not known to be bad.
pub(super) fn find(index: &Index, repository: &RepositoryName, digest: &Digest) -> Result<Layer> {
    look(index, repository, digest).map(|(layer, _)| layer)
}

/// The same with the link.
pub(super) fn look(index: &Index, repository: &RepositoryName, digest: &Digest) -> Result<(Layer, Link)> {
    let found = recorded(index, repository, digest)?;
    found.filter(|(layer, _)| layer.quarantined_at.is_none()).ok_or_else(|| unknown(repository, digest))
}

/// What is recorded of a blob that the repository links, whatever its bytes are.
fn recorded(index: &Index, repository: &RepositoryName, digest: &Digest) -> Result<Option<(Layer, Link)>> {
    let link = index.get::<Link>(&schema::digest_within(repository, digest))?;
    let layer = if link.is_some() { index.get::<Layer>(&schema::digest_key(digest))? } else { None };
    Ok(layer.zip(link))
}

pub(super) fn stat(digest: &Digest, layer: &Layer) -> BlobStat {
    BlobStat { digest: *digest, size: layer.content.size, created_at: layer.created_at.time() }
}

fn unknown(repository: &RepositoryName, digest: &Digest) -> Error {
    Error::BlobUnknown { repository: repository.clone(), digest: *digest }
}

/// What a finished upload brings to the writer: its bytes are durable, or here.
pub(super) struct Finished {
    pub(super) repository: RepositoryName,
    pub(super) session: Uuid,
    pub(super) digest: Digest,
    pub(super) content: Content,
    /// Of inline content, the bytes that are yet to be written and the chunk that they begin with: all of a small blob, or the
    /// last of a large one.
    pub(super) tail: Vec<u8>,
    pub(super) tail_chunk: u32,
    /// Of content whose beginning is in the index already, how often that had been opened again.
    pub(super) reopened: Option<u64>,
}

impl Finished {
    /// Makes the blob visible and ends the session, in one transaction.
    pub(super) fn publish(self, desk: &mut Desk<'_>) -> Result<BlobStat> {
        if let Some(reopened) = self.reopened {
            desk.check_reopened(reopened)?;
        }
        // Content that is on its way out is nobody's any more: the session was cancelled.
        if desk.index().contains(Tree::Leftovers, &schema::id_key(self.content.placement.id()))? {
            return Err(Error::UploadUnknown { repository: self.repository, id: self.session });
        }
        let key = schema::digest_key(&self.digest);
        let (mut changes, mut tally) = (Changes::new(), Tally::new());
        changes.remove(Tree::Uploads, schema::id_key(self.session));
        let mut retired = None;
        let found = desk.index().get::<Layer>(&key)?;
        let bad = found.as_ref().filter(|layer| layer.quarantined_at.is_some());
        // What is linked in other repositories is readable there again.
        let created_at = bad.map_or_else(Timestamp::now, |layer| layer.created_at);
        if let Some(bad) = bad {
            retired = Some(leftovers::retire(&mut changes, bad.content, None)?.was(bad.quarantined_at));
            tally.blob_removed(bad);
        }
        let layer = match found.filter(|_| retired.is_none()) {
            // Somebody else was first: theirs stays, so that it never moves, and ours goes.
            Some(layer) => {
                let written = self.tail_chunk > 0 || matches!(self.content.placement, Placement::File(_));
                if written {
                    retired = Some(leftovers::retire(&mut changes, self.content, None)?);
                }
                layer
            }
            None => {
                let id = self.content.placement.id();
                for (number, chunk) in (self.tail_chunk..).zip(self.tail.chunks(schema::MAX_VALUE)) {
                    changes.set_value(Tree::Chunks, schema::chunk_key(id, number), chunk.to_vec());
                }
                let layer = Layer { content: self.content, created_at, quarantined_at: None };
                changes.set(key, &layer)?;
                tally.blob_added(&layer);
                layer
            }
        };
        let size = layer.content.size;
        link(desk, &mut changes, &mut tally, &self.repository, &self.digest, size)?;
        let told = Told::of(EventKind::BlobPushed, &self.repository, &self.digest, size);
        desk.tell(&mut changes, &told)?;
        tally.add_to(desk.index(), &mut changes)?;
        desk.apply(&changes)?;
        if let Some(retired) = retired {
            desk.retire(retired);
        }
        Ok(stat(&self.digest, &layer))
    }
}

/// Where a mounted blob comes from, if anywhere.
pub(super) fn mount_source(
    core: &Core,
    digest: &Digest,
    source: &MountSource<'_>,
) -> Result<Option<RepositoryName>> {
    let admits = match source {
        MountSource::Repository(name) => {
            let linked =
                core.read(|index| index.contains(Tree::Links, &schema::digest_within(name, digest)))?;
            return Ok(linked.then(|| (*name).clone()));
        }
        MountSource::Any(admits) => admits,
    };
    let prefix = schema::digest_key(digest);
    let mut after: Option<RepositoryName> = None;
    loop {
        // The predicate is the caller's and may ask this store something: it runs with the index let go.
        let names = core.read(|index| {
            let after = after.as_ref().map(|name| name.as_str().as_bytes());
            let uses = index.scan(Tree::Uses, &prefix, after)?.take(256);
            uses.map(|entry| schema::repository_of_use(&entry?.0)).collect::<Result<Vec<_>>>()
        })?;
        after = names.last().cloned();
        if let Some(admitted) = names.into_iter().find(|name| admits(name)) {
            return Ok(Some(admitted));
        }
        if after.is_none() {
            return Ok(None);
        }
    }
}

pub(super) fn mount(
    desk: &mut Desk<'_>,
    repository: &RepositoryName,
    digest: &Digest,
    source: &RepositoryName,
) -> Result<BlobStat> {
    // Looked at again here, where nothing can come in between.
    let layer = find(desk.index(), source, digest).map_err(|_| unknown(repository, digest))?;
    let (mut changes, mut tally) = (Changes::new(), Tally::new());
    let size = layer.content.size;
    link(desk, &mut changes, &mut tally, repository, digest, size)?;
    let told = Told::of(EventKind::BlobMounted, repository, digest, size);
    desk.tell(&mut changes, &Told { from: Some(source), ..told })?;
    tally.add_to(desk.index(), &mut changes)?;
    desk.apply(&changes)?;
    Ok(stat(digest, &layer))
}

pub(super) fn delete(desk: &mut Desk<'_>, repository: &RepositoryName, digest: &Digest) -> Result<()> {
    recorded(desk.index(), repository, digest)?.ok_or_else(|| unknown(repository, digest))?;
    unlink(desk, repository, digest).map(|_| ())
}

/// Takes a blob out of a repository, and its bytes out of the store if no other links it: then says what they were.
pub(super) fn unlink(
    desk: &mut Desk<'_>,
    repository: &RepositoryName,
    digest: &Digest,
) -> Result<Option<Content>> {
    let (mut changes, mut tally) = (Changes::new(), Tally::new());
    let key = schema::digest_within(repository, digest);
    let link = desk.index().get::<Link>(&key)?;
    let since = link.and_then(|link| link.unreferenced_since);
    keep::move_candidate(&mut changes, Kept::Link, since, None, repository, digest);
    changes.remove(Tree::Links, key);
    changes.remove(Tree::Uses, schema::use_key(digest, repository));

    let layer = desk.index().get::<Layer>(&schema::digest_key(digest))?;
    let others = Others::of(desk.index(), digest, repository)?;
    let size = layer.as_ref().map_or(0, |layer| layer.content.size);
    let last = layer.filter(|_| others == Others::None);
    tally.unlinked(repository, size, others);
    desk.tell(&mut changes, &Told::of(EventKind::BlobDeleted, repository, digest, size))?;
    let mut retired = None;
    if let Some(layer) = &last {
        changes.remove(Tree::Layers, schema::digest_key(digest));
        tally.blob_removed(layer);
        retired = Some(leftovers::retire(&mut changes, layer.content, None)?.was(layer.quarantined_at));
    }
    tally.add_to(desk.index(), &mut changes)?;
    desk.apply(&changes)?;
    if let Some(retired) = retired {
        desk.retire(retired);
    }
    Ok(last.map(|layer| layer.content))
}

/// Makes a blob visible in a repository. Nothing references it yet, or so it is taken: it can be collected when the grace time
/// has passed, which begins anew with each push.
fn link(
    desk: &Desk<'_>,
    changes: &mut Changes,
    tally: &mut Tally,
    repository: &RepositoryName,
    digest: &Digest,
    size: u64,
) -> Result<()> {
    let key = schema::digest_within(repository, digest);
    let now = Some(desk.now());
    let before = match desk.index().get::<Link>(&key)? {
        // Something references it: when that goes, its time begins.
        Some(Link { unreferenced_since: None, .. }) => return Ok(()),
        Some(link) => {
            changes.set(key, &Link { unreferenced_since: now, ..link })?;
            link.unreferenced_since
        }
        None => {
            changes.set(key, &Link { linked_at: Timestamp::now(), unreferenced_since: now })?;
            changes.set_value(Tree::Uses, schema::use_key(digest, repository), Vec::new());
            tally.linked(repository, size, Others::of(desk.index(), digest, repository)?);
            None
        }
    };
    keep::move_candidate(changes, Kept::Link, before, now, repository, digest);
    Ok(())
}
