//! Stores that each break the contract in one way, to show that the suite sees it.

use std::collections::HashMap;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use sledge::conformance::RULES;
use sledge::oci::{Descriptor, Digest, Manifest, MediaType, Reference, RepositoryName, Tag};
use sledge::store::memory::Memory;
use sledge::store::{
    Blob, BlobStat, Check, Condition, Content, Discover, Manage, MountSource, Page, Pinned, Pull, Push,
    PutManifest, References, Tagged, Upload, UploadOptions, UploadStatus, View,
};
use sledge::{Error, Result};
use uuid::Uuid;

use super::Volatile;

/// What a broken store does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    DeletesTheManifestWithItsTag,
    KeepsTaggedManifests,
    ReportsOneMissingReference,
    IgnoresReferences,
    ReformatsManifests,
    ShowsBlobsEverywhere,
    AsksTheConditionOfOneTag,
    ListsTheNameToGoOnAfter,
    ListsReferrersOfAllTypes,
    AcceptsAnyDigest,
    LosesBytes,
    RereadsLess,
    ReadsBeyondTheEnd,
    AdmitsSecondWriters,
    CancelsOnlyOnce,
    MountsWithoutAsking,
    HasDeletedManifestsAtHand,
    HasMovedTagsAtHand,
}

/// Each fault with a rule that must not hold then.
const SEEN_BY: [(Fault, &str); 22] = [
    (Fault::DeletesTheManifestWithItsTag, "manage::deleting_a_tag_leaves_the_manifest"),
    (Fault::KeepsTaggedManifests, "manage::deleting_a_manifest_removes_its_tags"),
    (Fault::ReportsOneMissingReference, "push::all_missing_references_are_reported"),
    (Fault::ReportsOneMissingReference, "push::ten_thousand_references_are_one_manifest"),
    (Fault::IgnoresReferences, "push::all_missing_references_are_reported"),
    (Fault::IgnoresReferences, "push::references_count_only_in_their_own_repository"),
    (Fault::IgnoresReferences, "push::non_distributable_layers_may_be_absent"),
    (Fault::ReformatsManifests, "pull::manifests_come_back_byte_for_byte"),
    (Fault::ShowsBlobsEverywhere, "pull::a_blob_is_readable_only_where_it_is_linked"),
    (Fault::AsksTheConditionOfOneTag, "push::conditions_hold_for_every_tag_or_nothing_is_written"),
    (Fault::ListsTheNameToGoOnAfter, "discover::listing_goes_on_after_a_name_that_is_gone"),
    (Fault::ListsTheNameToGoOnAfter, "discover::tags_are_listed_in_order_and_by_pages"),
    (Fault::ListsReferrersOfAllTypes, "discover::referrers_are_filtered_and_paged"),
    (Fault::AcceptsAnyDigest, "uploads::a_wrong_digest_ends_the_session"),
    (Fault::LosesBytes, "uploads::a_dropped_upload_is_resumed_where_it_stood"),
    (Fault::RereadsLess, "uploads::what_a_session_took_in_can_be_read_again"),
    (Fault::ReadsBeyondTheEnd, "pull::blobs_of_every_size_come_back"),
    (Fault::AdmitsSecondWriters, "uploads::a_second_writer_is_refused"),
    (Fault::CancelsOnlyOnce, "uploads::cancelling_is_idempotent"),
    (Fault::MountsWithoutAsking, "manage::a_mount_from_anywhere_asks_for_admission"),
    (Fault::HasDeletedManifestsAtHand, "pull::what_is_at_hand_is_what_is_there"),
    (Fault::HasMovedTagsAtHand, "pull::what_is_at_hand_is_what_is_there"),
];

#[test]
fn the_suite_sees_every_fault() {
    for (fault, name) in SEEN_BY {
        let rule = RULES.iter().find(|rule| rule.name == name).expect("a rule of the suite");
        let harness = Volatile::new(|memory| Broken::new(memory, fault));
        let outcome = catch_unwind(AssertUnwindSafe(|| (rule.check)(&harness)));
        assert!(outcome.is_err(), "{name} holds for a store with the fault {fault:?}");
        let sound = Volatile::new(|memory| memory);
        (rule.check)(&sound);
    }
}

struct Broken {
    memory: Memory,
    fault: Fault,
    /// What was read by each reference, whatever the repository.
    read: Mutex<HashMap<Reference, Manifest>>,
}

impl Broken {
    fn new(memory: Memory, fault: Fault) -> Self {
        let memory = match fault {
            Fault::AdmitsSecondWriters => Memory::with_writer_silence(Duration::ZERO),
            _ => memory,
        };
        Self { memory, fault, read: Mutex::default() }
    }

    fn upload(&self, upload: Box<dyn Upload>) -> Box<dyn Upload> {
        Box::new(BrokenUpload { upload, fault: self.fault })
    }
}

impl Pull for Broken {
    fn manifest(&self, repository: &RepositoryName, reference: &Reference) -> Result<Manifest> {
        let manifest = self.memory.manifest(repository, reference)?;
        self.read.lock().unwrap().insert(reference.clone(), manifest.clone());
        if self.fault != Fault::ReformatsManifests {
            return Ok(manifest);
        }
        Ok(Manifest::new(manifest.media_type().clone(), manifest.bytes().trim_ascii().to_vec()))
    }

    fn manifest_at_hand(&self, repository: &RepositoryName, reference: &Reference) -> Option<Manifest> {
        let read = self.read.lock().unwrap().get(reference).cloned();
        match (self.fault, reference) {
            (Fault::HasDeletedManifestsAtHand, Reference::Digest(_))
            | (Fault::HasMovedTagsAtHand, Reference::Tag(_)) => read,
            _ => self.memory.manifest_at_hand(repository, reference),
        }
    }

    fn resolve(&self, repository: &RepositoryName, reference: &Reference) -> Result<Descriptor> {
        self.memory.resolve(repository, reference)
    }

    fn resolve_at_hand(&self, repository: &RepositoryName, reference: &Reference) -> Option<Descriptor> {
        self.memory.resolve_at_hand(repository, reference)
    }

    fn blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<Blob> {
        let mut found = self.memory.blob(repository, digest);
        if self.fault == Fault::ShowsBlobsEverywhere {
            for other in self.memory.repositories(None, usize::MAX)?.items {
                found = found.or_else(|_| self.memory.blob(&other, digest));
            }
        }
        let mut blob = found?;
        if self.fault == Fault::ReadsBeyondTheEnd {
            blob.content = Arc::new(Endless(blob.content));
        }
        Ok(blob)
    }

    fn stat(&self, repository: &RepositoryName, digest: &Digest) -> Result<BlobStat> {
        self.memory.stat(repository, digest)
    }

    fn stat_at_hand(&self, repository: &RepositoryName, digest: &Digest) -> Option<BlobStat> {
        self.memory.stat_at_hand(repository, digest)
    }
}

impl Push for Broken {
    fn put_manifest(
        &self,
        repository: &RepositoryName,
        manifest: &Manifest,
        options: &PutManifest<'_>,
    ) -> Result<()> {
        let put = |options: &PutManifest<'_>| self.memory.put_manifest(repository, manifest, options);
        match self.fault {
            Fault::IgnoresReferences => put(&options.clone().references(References::MayBeAbsent)),
            Fault::AsksTheConditionOfOneTag => {
                let (first, rest) = options.tags.split_at(options.tags.len().min(1));
                put(&options.clone().tags(first))?;
                put(&options.clone().tags(rest).condition(Condition::Any))
            }
            Fault::ReportsOneMissingReference => put(options).map_err(|error| match error {
                Error::ReferencesMissing { repository, mut missing } => {
                    missing.truncate(1);
                    Error::ReferencesMissing { repository, missing }
                }
                error => error,
            }),
            _ => put(options),
        }
    }

    fn tag(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        tag: &Tag,
        condition: &Condition,
    ) -> Result<()> {
        self.memory.tag(repository, digest, tag, condition)
    }

    fn start_upload(&self, repository: &RepositoryName, options: &UploadOptions) -> Result<Box<dyn Upload>> {
        Ok(self.upload(self.memory.start_upload(repository, options)?))
    }

    fn resume_upload(
        &self,
        repository: &RepositoryName,
        id: Uuid,
        options: &UploadOptions,
    ) -> Result<Box<dyn Upload>> {
        Ok(self.upload(self.memory.resume_upload(repository, id, options)?))
    }

    fn upload_status(&self, repository: &RepositoryName, id: Uuid) -> Result<UploadStatus> {
        self.memory.upload_status(repository, id)
    }

    fn cancel_upload(&self, repository: &RepositoryName, id: Uuid) -> Result<()> {
        if self.fault == Fault::CancelsOnlyOnce {
            self.memory.upload_status(repository, id)?;
        }
        self.memory.cancel_upload(repository, id)
    }

    fn mount(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        source: &MountSource<'_>,
    ) -> Result<BlobStat> {
        match source {
            MountSource::Any(_) if self.fault == Fault::MountsWithoutAsking => {
                self.memory.mount(repository, digest, &MountSource::Any(&|_| true))
            }
            source => self.memory.mount(repository, digest, source),
        }
    }
}

impl Discover for Broken {
    fn repositories(&self, after: Option<&RepositoryName>, limit: usize) -> Result<Page<RepositoryName>> {
        self.memory.repositories(after, limit)
    }

    fn manifests(
        &self,
        repository: &RepositoryName,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Page<Descriptor>> {
        self.memory.manifests(repository, after, limit)
    }

    fn tags(&self, repository: &RepositoryName, after: Option<&Tag>, limit: usize) -> Result<Page<Tagged>> {
        if self.fault != Fault::ListsTheNameToGoOnAfter {
            return self.memory.tags(repository, after, limit);
        }
        let mut items = self.memory.tags(repository, None, usize::MAX)?.items;
        items.retain(|tagged| after.is_none_or(|after| tagged.tag >= *after));
        let more = items.len() > limit;
        items.truncate(limit);
        Ok(Page { items, more })
    }

    fn tags_at_hand(
        &self,
        repository: &RepositoryName,
        after: Option<&Tag>,
        limit: usize,
    ) -> Option<Page<Tagged>> {
        self.memory.tags_at_hand(repository, after, limit)
    }

    fn referrers(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
        artifact_type: Option<&MediaType>,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Page<Descriptor>> {
        let artifact_type = artifact_type.filter(|_| self.fault != Fault::ListsReferrersOfAllTypes);
        self.memory.referrers(repository, subject, artifact_type, after, limit)
    }
}

impl Manage for Broken {
    fn delete_manifest(&self, repository: &RepositoryName, digest: &Digest, pinned: &Pinned) -> Result<()> {
        let mut tags = self.memory.tags(repository, None, usize::MAX)?.items.into_iter();
        if self.fault == Fault::KeepsTaggedManifests && tags.any(|tagged| tagged.digest == *digest) {
            return Ok(());
        }
        self.memory.delete_manifest(repository, digest, pinned)
    }

    fn delete_tag(&self, repository: &RepositoryName, tag: &Tag) -> Result<()> {
        if self.fault == Fault::DeletesTheManifestWithItsTag {
            let digest = self.memory.resolve(repository, &tag.clone().into())?.digest;
            return self.memory.delete_manifest(repository, &digest, &Pinned::none());
        }
        self.memory.delete_tag(repository, tag)
    }

    fn delete_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<()> {
        self.memory.delete_blob(repository, digest)
    }
}

struct BrokenUpload {
    upload: Box<dyn Upload>,
    fault: Fault,
}

impl Write for BrokenUpload {
    fn write(&mut self, content: &[u8]) -> io::Result<usize> {
        let kept = match content.split_last() {
            Some((_, kept)) if self.fault == Fault::LosesBytes => kept,
            _ => content,
        };
        self.upload.write_all(kept)?;
        Ok(content.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.upload.flush()
    }
}

impl Upload for BrokenUpload {
    fn id(&self) -> Uuid {
        self.upload.id()
    }

    fn started_at(&self) -> SystemTime {
        self.upload.started_at()
    }

    fn offset(&self) -> u64 {
        self.upload.offset()
    }

    fn bytes(&self) -> Result<Box<dyn io::Read + Send>> {
        let bytes = self.upload.bytes()?;
        Ok(if self.fault == Fault::RereadsLess { Box::new(io::Read::take(bytes, 5)) } else { bytes })
    }

    fn suspend(self: Box<Self>) -> Result<()> {
        self.upload.suspend()
    }

    fn commit(self: Box<Self>, digest: &Digest) -> Result<BlobStat> {
        let size = self.upload.offset();
        match self.upload.commit(digest) {
            Err(Error::DigestMismatch(_)) if self.fault == Fault::AcceptsAnyDigest => {
                Ok(BlobStat { digest: *digest, size, created_at: SystemTime::now() })
            }
            outcome => outcome,
        }
    }

    fn cancel(self: Box<Self>) -> Result<()> {
        self.upload.cancel()
    }
}

/// Content with zeros after its end.
struct Endless(Arc<dyn Content>);

impl Content for Endless {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_at(position, buffer).or_else(|_| {
            buffer.fill(0);
            Ok(())
        })
    }

    fn read_at_hand(&self, position: u64, buffer: &mut [u8]) -> usize {
        self.0.read_at_hand(position, buffer)
    }

    fn view(&self) -> Option<View> {
        self.0.view()
    }

    fn check(&self) -> Option<Box<dyn Check>> {
        self.0.check()
    }
}
