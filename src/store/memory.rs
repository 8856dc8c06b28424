//! A store in memory: the contract in its simplest form.
//!
//! It is what the durable store is compared with, so it prefers the obvious to the fast: one lock, ordered maps, and
//! nothing that is kept twice. Nothing in it outlives the process.

use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use uuid::Uuid;

use self::state::{Pointer, State, StoredManifest};
use self::upload::MemoryUpload;
use super::{
    Blob, BlobStat, Condition, Discover, MAX_TAGS_PER_PUSH, Manage, MountSource, Page, Pinned, Pull, Push,
    PutManifest, References, Tagged, Upload, UploadOptions, UploadStatus,
};
use crate::error::{Error, Result};
use crate::oci::{Descriptor, Digest, Manifest, MediaType, Reference, RepositoryName, Tag};

mod state;
mod upload;

/// A store in memory. Clones are handles to the same store.
#[derive(Clone)]
pub struct Memory {
    state: Arc<Mutex<State>>,
    silence: Duration,
}

impl Memory {
    /// An empty store, in which a writer that has been silent for 30 seconds can be replaced (C7).
    #[must_use]
    pub fn new() -> Self {
        Self::with_writer_silence(Duration::from_secs(30))
    }

    /// An empty store with another limit on how long the writer of an upload session may be silent before a second one
    /// can take the session over (C7). With [`Duration::ZERO`] it can be taken over at any time.
    #[must_use]
    pub fn with_writer_silence(silence: Duration) -> Self {
        Self { state: Arc::default(), silence }
    }

    /// Every change to the state is made after the last step that can fail, so a thread that panics while it holds the
    /// lock leaves a state that is whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("silence", &self.silence).finish_non_exhaustive()
    }
}

impl Pull for Memory {
    fn manifest(&self, repository: &RepositoryName, reference: &Reference) -> Result<Manifest> {
        self.state().manifest(repository, reference).cloned()
    }

    fn manifest_at_hand(&self, repository: &RepositoryName, reference: &Reference) -> Option<Manifest> {
        self.state.try_lock().ok()?.manifest(repository, reference).ok().cloned()
    }

    fn resolve(&self, repository: &RepositoryName, reference: &Reference) -> Result<Descriptor> {
        self.state().manifest(repository, reference).map(Manifest::descriptor)
    }

    fn resolve_at_hand(&self, repository: &RepositoryName, reference: &Reference) -> Option<Descriptor> {
        self.state.try_lock().ok()?.manifest(repository, reference).ok().map(Manifest::descriptor)
    }

    fn blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<Blob> {
        let state = self.state();
        let stored = state.blob(repository, digest)?;
        Ok(Blob { stat: stored.stat, content: Arc::new(stored.bytes.clone()) })
    }

    fn stat(&self, repository: &RepositoryName, digest: &Digest) -> Result<BlobStat> {
        self.state().blob(repository, digest).map(|stored| stored.stat)
    }

    fn stat_at_hand(&self, repository: &RepositoryName, digest: &Digest) -> Option<BlobStat> {
        self.state.try_lock().ok()?.blob(repository, digest).ok().map(|stored| stored.stat)
    }
}

impl Push for Memory {
    fn put_manifest(
        &self,
        repository: &RepositoryName,
        manifest: &Manifest,
        options: &PutManifest<'_>,
    ) -> Result<()> {
        let contents = manifest.contents()?;
        if options.tags.len() > MAX_TAGS_PER_PUSH {
            return Err(Error::TooManyTags(options.tags.len()));
        }
        let mut state = self.state();
        if options.references == References::MustExist {
            let missing = state.missing(repository, &contents);
            if !missing.is_empty() {
                return Err(Error::ReferencesMissing { repository: repository.clone(), missing });
            }
        }
        for tag in options.tags {
            state.check(repository, tag, manifest.digest(), &options.condition, &options.pinned)?;
        }

        let referrer = Descriptor {
            artifact_type: contents.artifact_type,
            annotations: contents.annotations,
            ..manifest.descriptor()
        };
        let digest = *manifest.digest();
        let stored = StoredManifest { manifest: manifest.clone(), subject: contents.subject, referrer };
        let pointer = Pointer { digest, updated_at: SystemTime::now() };
        let holding = state.repositories.entry(repository.clone()).or_default();
        holding.manifests.insert(digest, stored);
        holding.tags.extend(options.tags.iter().map(|tag| (tag.clone(), pointer)));
        Ok(())
    }

    fn tag(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        tag: &Tag,
        condition: &Condition,
    ) -> Result<()> {
        let mut state = self.state();
        state.manifest(repository, &Reference::Digest(*digest))?;
        state.check(repository, tag, digest, condition, &Pinned::none())?;
        let pointer = Pointer { digest: *digest, updated_at: SystemTime::now() };
        state.repositories.entry(repository.clone()).or_default().tags.insert(tag.clone(), pointer);
        Ok(())
    }

    fn start_upload(&self, repository: &RepositoryName, options: &UploadOptions) -> Result<Box<dyn Upload>> {
        Ok(Box::new(MemoryUpload::start(self, repository, options)))
    }

    fn resume_upload(
        &self,
        repository: &RepositoryName,
        id: Uuid,
        options: &UploadOptions,
    ) -> Result<Box<dyn Upload>> {
        Ok(Box::new(MemoryUpload::resume(self, repository, id, options)?))
    }

    fn upload_status(&self, repository: &RepositoryName, id: Uuid) -> Result<UploadStatus> {
        self.state().session(repository, id).map(|session| session.status())
    }

    fn cancel_upload(&self, repository: &RepositoryName, id: Uuid) -> Result<()> {
        let mut state = self.state();
        if state.session(repository, id).is_ok() {
            state.uploads.remove(&id);
        }
        Ok(())
    }

    fn mount(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        source: &MountSource<'_>,
    ) -> Result<BlobStat> {
        let sources: Vec<RepositoryName> = match source {
            MountSource::Repository(name) => vec![(*name).clone()],
            MountSource::Any(admits) => {
                // The predicate is the caller's, and may ask this store something: it runs without the lock.
                let linking = self.state().linking(digest);
                linking.into_iter().filter(|name| admits(name)).collect()
            }
        };
        let mut state = self.state();
        let stat = sources
            .iter()
            .find_map(|name| state.blob(name, digest).ok())
            .map(|stored| stored.stat)
            .ok_or_else(|| Error::BlobUnknown { repository: repository.clone(), digest: *digest })?;
        state.repositories.entry(repository.clone()).or_default().links.insert(*digest);
        Ok(stat)
    }
}

impl Discover for Memory {
    fn repositories(&self, after: Option<&RepositoryName>, limit: usize) -> Result<Page<RepositoryName>> {
        let state = self.state();
        Ok(page(state.repositories.range(beyond(after)).map(|(name, _)| name.clone()), limit))
    }

    fn manifests(
        &self,
        repository: &RepositoryName,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Page<Descriptor>> {
        let state = self.state();
        let manifests = state.listed(repository)?.manifests.range(beyond(after));
        Ok(page(manifests.map(|(_, stored)| stored.manifest.descriptor()), limit))
    }

    fn tags(&self, repository: &RepositoryName, after: Option<&Tag>, limit: usize) -> Result<Page<Tagged>> {
        let state = self.state();
        let tags = state.listed(repository)?.tags.range(beyond(after)).map(|(tag, pointer)| Tagged {
            tag: tag.clone(),
            digest: pointer.digest,
            updated_at: pointer.updated_at,
        });
        Ok(page(tags, limit))
    }

    /// A page costs what it is long.
    fn tags_at_hand(&self, _: &RepositoryName, _: Option<&Tag>, _: usize) -> Option<Page<Tagged>> {
        None
    }

    fn referrers(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
        artifact_type: Option<&MediaType>,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Page<Descriptor>> {
        let state = self.state();
        let Some(holding) = state.repositories.get(repository) else {
            return Ok(Page::default());
        };
        let referrers = holding
            .manifests
            .range(beyond(after))
            .map(|(_, stored)| stored)
            .filter(|stored| stored.subject.as_ref() == Some(subject))
            .map(|stored| &stored.referrer)
            .filter(|referrer| artifact_type.is_none() || referrer.artifact_type.as_ref() == artifact_type);
        Ok(page(referrers.cloned(), limit))
    }
}

/// The keys strictly after a name, which need not exist (C8).
fn beyond<K>(after: Option<&K>) -> (Bound<&K>, Bound<&K>) {
    (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded)
}

/// The first `limit` entries. A page of none tells nothing about what is left, so that paging by it ends.
fn page<T>(mut entries: impl Iterator<Item = T>, limit: usize) -> Page<T> {
    let items = entries.by_ref().take(limit).collect();
    Page { items, more: limit > 0 && entries.next().is_some() }
}

impl Manage for Memory {
    fn delete_manifest(&self, repository: &RepositoryName, digest: &Digest, pinned: &Pinned) -> Result<()> {
        let mut state = self.state();
        state.manifest(repository, &Reference::Digest(*digest))?;
        let tags = state.listed(repository)?.tags.iter().filter(|(_, pointer)| pointer.digest == *digest);
        if let Some((tag, _)) = tags.into_iter().find(|(tag, _)| pinned.contains(tag)) {
            return Err(Error::TagImmutable { tag: tag.clone(), found: *digest });
        }
        if let Some(holding) = state.repositories.get_mut(repository) {
            holding.manifests.remove(digest);
            holding.tags.retain(|_, pointer| pointer.digest != *digest);
        }
        state.forget_if_empty(repository);
        Ok(())
    }

    fn delete_tag(&self, repository: &RepositoryName, tag: &Tag) -> Result<()> {
        let mut state = self.state();
        state.manifest(repository, &Reference::Tag(tag.clone()))?;
        if let Some(holding) = state.repositories.get_mut(repository) {
            holding.tags.remove(tag);
        }
        Ok(())
    }

    fn delete_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<()> {
        let mut state = self.state();
        state.blob(repository, digest)?;
        if let Some(holding) = state.repositories.get_mut(repository) {
            holding.links.remove(digest);
        }
        state.forget_if_empty(repository);
        if state.linking(digest).is_empty() {
            state.blobs.remove(digest);
        }
        Ok(())
    }
}
