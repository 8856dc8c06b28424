//! Reading alone.

use uuid::Uuid;

use crate::error::{Error, Result};
use crate::oci::{Descriptor, Digest, Manifest, MediaType, Reference, RepositoryName, Tag};
use crate::store::{
    Blob, BlobStat, Condition, Discover, Manage, MountSource, Page, Pinned, Pull, Push, PutManifest, Tagged,
    Upload, UploadOptions, UploadStatus, forward_discover, forward_pull,
};

/// A store that is read and not written. It asks of what is beneath only that it can be read: that it writes nothing is proved
/// by its type. Each writing method answers [`Error::Unsupported`].
#[derive(Clone, Debug)]
pub struct ReadOnly<S>(S);

impl<S: Pull + Discover> ReadOnly<S> {
    /// What can be read of it.
    pub const fn new(store: S) -> Self {
        Self(store)
    }
}

fn refused<T>() -> Result<T> {
    Err(Error::Unsupported("the registry is read-only: nothing can be pushed or deleted".to_owned()))
}

forward_pull!([S: Pull + Discover] ReadOnly<S>, self => self.0);
forward_discover!([S: Pull + Discover] ReadOnly<S>, self => self.0);

impl<S: Pull + Discover> Push for ReadOnly<S> {
    fn put_manifest(&self, _: &RepositoryName, _: &Manifest, _: &PutManifest<'_>) -> Result<()> {
        refused()
    }

    fn tag(&self, _: &RepositoryName, _: &Digest, _: &Tag, _: &Condition) -> Result<()> {
        refused()
    }

    fn start_upload(&self, _: &RepositoryName, _: &UploadOptions) -> Result<Box<dyn Upload>> {
        refused()
    }

    fn resume_upload(&self, _: &RepositoryName, _: Uuid, _: &UploadOptions) -> Result<Box<dyn Upload>> {
        refused()
    }

    fn upload_status(&self, repository: &RepositoryName, id: Uuid) -> Result<UploadStatus> {
        Err(Error::UploadUnknown { repository: repository.clone(), id })
    }

    fn cancel_upload(&self, _: &RepositoryName, _: Uuid) -> Result<()> {
        refused()
    }

    fn mount(&self, _: &RepositoryName, _: &Digest, _: &MountSource<'_>) -> Result<BlobStat> {
        refused()
    }
}

impl<S: Pull + Discover> Manage for ReadOnly<S> {
    fn delete_manifest(&self, _: &RepositoryName, _: &Digest, _: &Pinned) -> Result<()> {
        refused()
    }

    fn delete_tag(&self, _: &RepositoryName, _: &Tag) -> Result<()> {
        refused()
    }

    fn delete_blob(&self, _: &RepositoryName, _: &Digest) -> Result<()> {
        refused()
    }
}
