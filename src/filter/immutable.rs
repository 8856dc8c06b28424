//! Tags that are set once.

use std::fmt;

use uuid::Uuid;

use crate::error::{Error, Result};
use crate::oci::{Descriptor, Digest, Manifest, MediaType, Reference, RepositoryName, Tag};
use crate::store::{
    Blob, BlobStat, Condition, Discover, Manage, MountSource, Page, Pinned, Pull, Push, PutManifest, Store,
    Tagged, Upload, UploadOptions, UploadStatus, forward_discover, forward_pull,
};

/// A store in which certain tags, once set, are neither moved nor deleted, nor the manifests that they point at.
///
/// That is decided where the store beneath decides to write, so that of two pushes at once one is refused. Whoever writes past
/// this value, to the store beneath, is not bound by it.
#[derive(Clone)]
pub struct ImmutableTags<S> {
    store: S,
    pinned: Pinned,
}

impl<S: Store> ImmutableTags<S> {
    /// The store, with these tags immutable in all its repositories.
    pub const fn new(store: S, pinned: Pinned) -> Self {
        Self { store, pinned }
    }

    /// What the caller and this value pin, together.
    fn with(&self, other: &Pinned) -> Pinned {
        if other.is_none() {
            return self.pinned.clone();
        }
        let (own, other) = (self.pinned.clone(), other.clone());
        Pinned::tags(move |tag| own.contains(tag) || other.contains(tag))
    }
}

impl<S: fmt::Debug> fmt::Debug for ImmutableTags<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ImmutableTags").field(&self.store).finish()
    }
}

forward_pull!([S: Store] ImmutableTags<S>, self => self.store);
forward_discover!([S: Store] ImmutableTags<S>, self => self.store);

impl<S: Store> Push for ImmutableTags<S> {
    fn put_manifest(
        &self,
        repository: &RepositoryName,
        manifest: &Manifest,
        options: &PutManifest<'_>,
    ) -> Result<()> {
        let options = options.clone().pinned(self.with(&options.pinned));
        self.store.put_manifest(repository, manifest, &options)
    }

    fn tag(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        tag: &Tag,
        condition: &Condition,
    ) -> Result<()> {
        if !self.pinned.contains(tag) {
            return self.store.tag(repository, digest, tag, condition);
        }
        let condition = match condition {
            Condition::Is(found) if found != digest => {
                return Err(Error::TagImmutable { tag: tag.clone(), found: *found });
            }
            Condition::Any => Condition::Unmoved,
            Condition::Absent | Condition::Is(_) | Condition::Unmoved => *condition,
        };
        self.store.tag(repository, digest, tag, &condition).map_err(|error| match error {
            Error::TagCondition { tag, found: Some(found) } if condition == Condition::Unmoved => {
                Error::TagImmutable { tag, found }
            }
            error => error,
        })
    }

    fn start_upload(&self, repository: &RepositoryName, options: &UploadOptions) -> Result<Box<dyn Upload>> {
        self.store.start_upload(repository, options)
    }

    fn resume_upload(
        &self,
        repository: &RepositoryName,
        id: Uuid,
        options: &UploadOptions,
    ) -> Result<Box<dyn Upload>> {
        self.store.resume_upload(repository, id, options)
    }

    fn upload_status(&self, repository: &RepositoryName, id: Uuid) -> Result<UploadStatus> {
        self.store.upload_status(repository, id)
    }

    fn cancel_upload(&self, repository: &RepositoryName, id: Uuid) -> Result<()> {
        self.store.cancel_upload(repository, id)
    }

    fn mount(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        source: &MountSource<'_>,
    ) -> Result<BlobStat> {
        self.store.mount(repository, digest, source)
    }
}

impl<S: Store> Manage for ImmutableTags<S> {
    fn delete_manifest(&self, repository: &RepositoryName, digest: &Digest, pinned: &Pinned) -> Result<()> {
        self.store.delete_manifest(repository, digest, &self.with(pinned))
    }

    fn delete_tag(&self, repository: &RepositoryName, tag: &Tag) -> Result<()> {
        if self.pinned.contains(tag) {
            let found = self.store.resolve(repository, &Reference::Tag(tag.clone()))?;
            return Err(Error::TagImmutable { tag: tag.clone(), found: found.digest });
        }
        self.store.delete_tag(repository, tag)
    }

    fn delete_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<()> {
        self.store.delete_blob(repository, digest)
    }
}
