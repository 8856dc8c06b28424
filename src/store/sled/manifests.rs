//! Manifests and tags as the writer sees them.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::os::unix::fs::FileExt;

use uuid::Uuid;

use super::accounts::Tally;
use super::changes::Changes;
use super::content;
use super::desk::{Desk, Steps};
use super::index::{Index, WINDOW};
use super::keep;
use super::leftovers;
use super::outbox::Told;
use super::room::{blocks, check_disk, write_error};
use super::schema::{
    self, Content, EventKind, Kept, Layer, Leftover, Manifest as Recorded, Placement, Referrer,
    Tag as RecordedTag, Timestamp, Tree,
};
use super::store::Core;
use crate::error::{Error, Result};
use crate::oci::{Contents, Descriptor, Digest, Manifest, Reference, ReferenceRole, RepositoryName, Tag};
use crate::store::{Condition, MAX_TAGS_PER_PUSH, Pinned, PutManifest, References, check_tag};

/// The manifest that a reference stands for, if its bytes are not known to be bad.
pub(super) fn find(
    index: &Index,
    repository: &RepositoryName,
    reference: &Reference,
) -> Result<(Digest, Recorded)> {
    let (digest, recorded) = find_recorded(index, repository, reference)?;
    if recorded.quarantined_at.is_some() {
        return Err(unknown(repository, reference));
    }
    Ok((digest, recorded))
}

fn unknown(repository: &RepositoryName, reference: &Reference) -> Error {
    Error::ManifestUnknown { repository: repository.clone(), reference: reference.clone() }
}

/// The manifest that a reference stands for, whatever its bytes are.
fn find_recorded(
    index: &Index,
    repository: &RepositoryName,
    reference: &Reference,
) -> Result<(Digest, Recorded)> {
    let unknown = || unknown(repository, reference);
    let digest = match reference {
        Reference::Digest(digest) => *digest,
        Reference::Tag(tag) => pointed_at(index, repository, tag)?.ok_or_else(unknown)?,
    };
    let recorded = index.get::<Recorded>(&schema::digest_within(repository, &digest))?.ok_or_else(unknown)?;
    Ok((digest, recorded))
}

/// Whether there is a manifest under this key whose bytes are not known to be bad.
pub(super) fn is_visible(index: &Index, key: &[u8]) -> Result<bool> {
    Ok(index.get::<Recorded>(key)?.is_some_and(|recorded| recorded.quarantined_at.is_none()))
}

pub(super) fn descriptor(digest: Digest, recorded: &Recorded) -> Result<Descriptor> {
    Ok(Descriptor {
        media_type: recorded.media_type.parse()?,
        digest,
        size: recorded.content.size,
        artifact_type: None,
        annotations: Default::default(),
    })
}

fn pointed_at(index: &Index, repository: &RepositoryName, tag: &Tag) -> Result<Option<Digest>> {
    index.get::<RecordedTag>(&schema::tag_within(repository, tag))?.map(|tag| tag.digest.digest()).transpose()
}

/// What a manifest references, each digest once.
pub(super) fn referenced(contents: &Contents) -> Vec<Digest> {
    let mut digests: Vec<Digest> = contents.references.iter().map(|reference| reference.digest).collect();
    digests.sort_unstable();
    digests.dedup();
    digests
}

/// How many manifests that lose their last tag are stamped in the transaction that takes it.
const STAMPS_AT_ONCE: usize = 4;

/// A manifest to be put: read, and checked as far as that needs no look at the store.
pub(super) struct Put {
    repository: RepositoryName,
    manifest: Manifest,
    contents: Contents,
    tags: Vec<Tag>,
    condition: Condition,
    pinned: Pinned,
    references: References,
    content: Content,
}

impl Put {
    pub(super) fn prepare(
        core: &Core,
        repository: &RepositoryName,
        manifest: &Manifest,
        options: &PutManifest<'_>,
    ) -> Result<Self> {
        if options.tags.len() > MAX_TAGS_PER_PUSH {
            return Err(Error::TooManyTags(options.tags.len()));
        }
        let contents = manifest.contents()?;
        let id = content::new_id();
        let bytes = manifest.bytes();
        let inline = core.takes_inline(bytes.len());
        let placement = if inline { Placement::Inline(id) } else { Placement::File(id) };
        Ok(Self {
            repository: repository.clone(),
            manifest: manifest.clone(),
            contents,
            tags: options.tags.to_vec(),
            condition: options.condition,
            pinned: options.pinned.clone(),
            references: options.references,
            content: Content { placement, size: bytes.len() as u64 },
        })
    }

    /// The id of the file that the bytes are to be in, if they are too many to be inline.
    pub(super) const fn file(&self) -> Option<Uuid> {
        match self.content.placement {
            Placement::Inline(_) => None,
            Placement::File(id) => Some(id),
        }
    }

    /// What is to be removed unless the manifest is published.
    pub(super) fn leftover(&self) -> Leftover {
        let manifest = Some((self.repository.to_string(), self.manifest.digest().into()));
        Leftover { content: self.content, manifest }
    }

    /// Writes the bytes to their file, durably but for its name.
    pub(super) fn write_file(&self, core: &Core, id: Uuid) -> Result<()> {
        let bytes = self.manifest.bytes();
        check_disk(core, bytes.len() as u64)?;
        let counted = blocks(bytes.len() as u64);
        core.room.grow(counted, None)?;
        let written = content::create_file(core, id)
            .and_then(|file| file.write_all_at(bytes, 0).and_then(|()| file.sync_data()));
        written.map_err(|error| {
            core.room.recount(&core.folder.content(id), counted);
            write_error(core, id, bytes.len(), error)
        })
    }

    /// Runs on the writer's thread. Whether the bytes that were brought along are the manifest's now, or it was there already.
    pub(super) fn publish(self, desk: &mut Desk<'_>) -> Result<bool> {
        if let Some(id) = self.file()
            && !leftovers::is_reserved(desk, id)?
        {
            return Err(Error::Unavailable("its index was opened again meanwhile: try again".to_owned()));
        }
        let digest = *self.manifest.digest();
        if self.references == References::MustExist {
            self.check_references(desk.index())?;
        }
        for tag in &self.tags {
            check(desk.index(), &self.repository, tag, &digest, &self.condition, &self.pinned)?;
        }

        let key = schema::digest_within(&self.repository, &digest);
        let present = desk.index().get::<Recorded>(&key)?;
        let (mut changes, mut tally) = (Changes::new(), Tally::new());
        // Without a tag its grace time begins, or begins anew; whether an index or its subject keeps it, collection looks.
        let before = present.as_ref().and_then(|present| present.unkept_since);
        let unkept_since = if self.tags.is_empty() { Some(desk.now()) } else { None };
        keep::move_candidate(&mut changes, Kept::Manifest, before, unkept_since, &self.repository, &digest);
        let bad = present.as_ref().filter(|present| present.quarantined_at.is_some());
        let kept = present.as_ref().map(|present| present.content).filter(|_| bad.is_none());
        let recorded = Recorded {
            content: kept.unwrap_or(self.content),
            media_type: self.manifest.media_type().to_string(),
            subject: self.contents.subject.as_ref().map(Into::into),
            pushed_at: Timestamp::now(),
            unkept_since,
            used_at: desk.now(),
            quarantined_at: None,
        };
        keep::move_use(
            &mut changes,
            present.as_ref().map(|present| present.used_at),
            Some(desk.now()),
            &self.repository,
            &digest,
        );
        changes.set(key, &recorded)?;
        if let Some(subject) = &self.contents.subject {
            let artifact_type = self.contents.artifact_type.as_ref().map(ToString::to_string);
            let key = schema::pointer_within(&self.repository, subject, &digest);
            changes.set(key, &Referrer { artifact_type })?;
        }
        point(desk, &mut changes, &self.repository, &digest, &self.tags)?;
        let told = Told {
            tags: &self.tags,
            ..told(EventKind::ManifestPushed, &self.repository, &digest, &recorded)
        };
        desk.tell(&mut changes, &told)?;
        let mut retired = None;
        if let Some(bad) = bad {
            // Only its bytes go: what it references is what the new ones reference.
            retired = Some(leftovers::retire(&mut changes, bad.content, None)?.was(bad.quarantined_at));
            tally.manifest_removed(&self.repository, bad);
        }
        if kept.is_none() {
            tally.manifest_added(&self.repository, &recorded);
            tally.add_to(desk.index(), &mut changes)?;
            self.add_parts(desk, &mut changes)?;
        }
        desk.apply(&changes)?;
        if let Some(retired) = retired {
            desk.retire(retired);
        }
        Ok(kept.is_none())
    }

    fn check_references(&self, index: &Index) -> Result<()> {
        let mut missing: Vec<(ReferenceRole, Digest)> = Vec::new();
        let mut seen = HashSet::new();
        for reference in self.contents.references.iter().filter(|reference| !reference.non_distributable) {
            let tree = match reference.role {
                ReferenceRole::Manifest(_) => Tree::Manifests,
                ReferenceRole::Config | ReferenceRole::Layer(_) => Tree::Links,
            };
            if seen.insert((tree, reference.digest)) && !self.has(index, tree, &reference.digest)? {
                missing.push((reference.role, reference.digest));
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::ReferencesMissing { repository: self.repository.clone(), missing })
    }

    fn has(&self, index: &Index, tree: Tree, digest: &Digest) -> Result<bool> {
        let key = schema::digest_within(&self.repository, digest);
        if tree == Tree::Manifests {
            return is_visible(index, &key);
        }
        // Bytes that are known to be bad are to be pushed again.
        let layer = || index.get::<Layer>(&schema::digest_key(digest));
        Ok(index.contains(tree, &key)? && layer()?.is_some_and(|layer| layer.quarantined_at.is_none()))
    }

    /// Adds bytes and references: to the publishing transaction where they fit, and else in steps before it, under a record
    /// that says what to take back if it never comes to publishing.
    fn add_parts(&self, desk: &mut Desk<'_>, changes: &mut Changes) -> Result<()> {
        let id = self.content.placement.id();
        let bytes: &[u8] = match self.content.placement {
            Placement::Inline(_) => self.manifest.bytes(),
            Placement::File(_) => &[],
        };
        let referenced = referenced(&self.contents);
        let digest = self.manifest.digest();
        let reference = |referenced: &Digest| schema::pointer_within(&self.repository, referenced, digest);
        let each_reference = referenced.first().map_or(0, |first| reference(first).len() + 64);
        if bytes.len() + referenced.len() * each_reference + changes.size() < WINDOW / 2 {
            for (number, chunk) in (0..).zip(bytes.chunks(schema::MAX_VALUE)) {
                changes.set_value(Tree::Chunks, schema::chunk_key(id, number), chunk.to_vec());
            }
            for referenced in &referenced {
                changes.set_value(Tree::References, reference(referenced), Vec::new());
            }
            if self.file().is_some() {
                changes.remove(Tree::Leftovers, schema::id_key(id));
            }
            return Ok(());
        }

        leftovers::reserve(desk, &self.leftover())?;
        let mut steps = Steps::new(desk);
        content::write_chunks(&mut steps, id, 0, bytes)?;
        for referenced in &referenced {
            steps.next()?.set_value(Tree::References, reference(referenced), Vec::new());
        }
        steps.finish()?;
        changes.remove(Tree::Leftovers, schema::id_key(id));
        Ok(())
    }
}

fn check(
    index: &Index,
    repository: &RepositoryName,
    tag: &Tag,
    to: &Digest,
    condition: &Condition,
    pinned: &Pinned,
) -> Result<()> {
    if *condition == Condition::Any && pinned.is_none() {
        return Ok(());
    }
    check_tag(tag, pointed_at(index, repository, tag)?, to, condition, pinned)
}

/// What is told of a manifest.
fn told<'a>(
    kind: EventKind,
    repository: &'a RepositoryName,
    digest: &'a Digest,
    recorded: &'a Recorded,
) -> Told<'a> {
    let media_type = Some(recorded.media_type.as_str());
    Told { media_type, ..Told::of(kind, repository, digest, recorded.content.size) }
}

/// Points tags at a manifest, away from what they point at.
///
/// Where many manifests lose their last tag so, they get their stamps in steps before it: with names that are long, 32 of them do not
/// fit the transaction that moves the tags. A stamp on what is kept after all harms nothing, and collection takes it off.
fn point(
    desk: &mut Desk<'_>,
    changes: &mut Changes,
    repository: &RepositoryName,
    digest: &Digest,
    tags: &[Tag],
) -> Result<()> {
    let mut moved: BTreeMap<Digest, usize> = BTreeMap::new();
    for tag in tags.iter().collect::<BTreeSet<_>>() {
        if let Some(before) = pointed_at(desk.index(), repository, tag)?
            && before != *digest
        {
            changes.remove(Tree::Tagged, schema::tagged_within(repository, &before, tag));
            *moved.entry(before).or_default() += 1;
        }
        changes.set(
            schema::tag_within(repository, tag),
            &RecordedTag { digest: digest.into(), updated_at: Timestamp::now(), updated_uptime: desk.now() },
        )?;
        changes.set_value(Tree::Tagged, schema::tagged_within(repository, digest, tag), Vec::new());
    }
    if moved.len() <= STAMPS_AT_ONCE {
        for (before, lost) in moved {
            stamp_if_untagged(desk, changes, repository, &before, lost)?;
        }
        return Ok(());
    }
    let mut steps = Steps::new(desk);
    for (before, lost) in moved {
        let (desk, stamps) = steps.next_at_desk()?;
        stamp_if_untagged(desk, stamps, repository, &before, lost)?;
    }
    steps.finish()
}

/// Stamps a manifest that loses so many tags if it has no others.
fn stamp_if_untagged(
    desk: &Desk<'_>,
    changes: &mut Changes,
    repository: &RepositoryName,
    digest: &Digest,
    lost: usize,
) -> Result<()> {
    let prefix = schema::digest_within(repository, digest);
    if desk.index().scan(Tree::Tagged, &prefix, None)?.take(lost + 1).count() > lost {
        return Ok(());
    }
    keep::stamp(desk, changes, Kept::Manifest, repository, digest)
}

pub(super) fn tag(
    desk: &mut Desk<'_>,
    repository: &RepositoryName,
    digest: &Digest,
    tag: &Tag,
    condition: &Condition,
) -> Result<()> {
    let (_, recorded) = find(desk.index(), repository, &Reference::Digest(*digest))?;
    check(desk.index(), repository, tag, digest, condition, &Pinned::none())?;
    let mut changes = Changes::new();
    let tags = std::slice::from_ref(tag);
    point(desk, &mut changes, repository, digest, tags)?;
    desk.tell(&mut changes, &Told { tags, ..told(EventKind::TagSet, repository, digest, &recorded) })?;
    desk.apply(&changes)
}

/// The first of the pinned tags that point at a manifest, if any does.
pub(super) fn pinned_by(
    index: &Index,
    repository: &RepositoryName,
    digest: &Digest,
    pinned: &Pinned,
) -> Result<Option<Tag>> {
    if pinned.is_none() {
        return Ok(None);
    }
    let prefix = schema::digest_within(repository, digest);
    for entry in index.scan(Tree::Tagged, &prefix, None)? {
        let tag = schema::tag_after(Tree::Tagged, &entry?.0, &prefix)?;
        if pinned.contains(&tag) {
            return Ok(Some(tag));
        }
    }
    Ok(None)
}

/// Deletes a manifest and its tags (C1). That the manifest's record goes takes the tags out of every reader's sight; those that
/// do not fit the same transaction follow before anything else is done, after a restart too.
pub(super) fn delete(
    desk: &mut Desk<'_>,
    repository: &RepositoryName,
    digest: &Digest,
    pinned: &Pinned,
) -> Result<()> {
    let (_, recorded) = find_recorded(desk.index(), repository, &Reference::Digest(*digest))?;
    if let Some(tag) = pinned_by(desk.index(), repository, digest, pinned)? {
        return Err(Error::TagImmutable { tag, found: *digest });
    }
    let (mut changes, mut tally) = (Changes::new(), Tally::new());
    changes.remove(Tree::Manifests, schema::digest_within(repository, digest));
    keep::move_candidate(&mut changes, Kept::Manifest, recorded.unkept_since, None, repository, digest);
    keep::move_use(&mut changes, Some(recorded.used_at), None, repository, digest);
    if let Some(subject) = &recorded.subject {
        changes.remove(Tree::Referrers, schema::pointer_within(repository, &subject.digest()?, digest));
    }
    tally.manifest_removed(repository, &recorded);
    tally.add_to(desk.index(), &mut changes)?;
    let retired = leftovers::retire(&mut changes, recorded.content, Some((repository, digest)))?
        .was(recorded.quarantined_at);
    desk.tell(&mut changes, &told(EventKind::ManifestDeleted, repository, digest, &recorded))?;
    leftovers::add_tags(desk.index(), &mut changes, repository, digest)?;
    desk.apply(&changes)?;
    desk.retire(retired);
    leftovers::remove_tags(desk, repository, digest)
}

pub(super) fn delete_tag(desk: &mut Desk<'_>, repository: &RepositoryName, tag: &Tag) -> Result<()> {
    let reference = Reference::Tag(tag.clone());
    let (digest, recorded) = find_recorded(desk.index(), repository, &reference)?;
    let mut changes = Changes::new();
    changes.remove(Tree::Tags, schema::tag_within(repository, tag));
    changes.remove(Tree::Tagged, schema::tagged_within(repository, &digest, tag));
    stamp_if_untagged(desk, &mut changes, repository, &digest, 1)?;
    let tags = std::slice::from_ref(tag);
    desk.tell(&mut changes, &Told { tags, ..told(EventKind::TagDeleted, repository, &digest, &recorded) })?;
    desk.apply(&changes)
}
