//! Stores that hand calls on to another: pointers, and filters.

use std::sync::Arc;

use uuid::Uuid;

use super::{
    Blob, BlobStat, Condition, Discover, Manage, MountSource, Page, Pinned, Pull, Push, PutManifest, Tagged,
    Upload, UploadOptions, UploadStatus,
};
use crate::error::Result;
use crate::oci::{Descriptor, Digest, Manifest, MediaType, Reference, RepositoryName, Tag};

/// `forward_pull!([S: Pull] Type<S>, self => self.store)`: the whole of [`Pull`] by another store.
macro_rules! forward_pull {
    ([$($bounds:tt)*] $type:ty, $self:ident => $store:expr) => {
        impl<$($bounds)*> Pull for $type {
        fn manifest(&$self, repository: &RepositoryName, reference: &Reference) -> Result<Manifest> {
            $store.manifest(repository, reference)
        }
        fn manifest_at_hand(&$self, repository: &RepositoryName, reference: &Reference) -> Option<Manifest> {
            $store.manifest_at_hand(repository, reference)
        }
        fn resolve(&$self, repository: &RepositoryName, reference: &Reference) -> Result<Descriptor> {
            $store.resolve(repository, reference)
        }
        fn resolve_at_hand(&$self, repository: &RepositoryName, reference: &Reference) -> Option<Descriptor> {
            $store.resolve_at_hand(repository, reference)
        }
        fn blob(&$self, repository: &RepositoryName, digest: &Digest) -> Result<Blob> {
            $store.blob(repository, digest)
        }
        fn stat(&$self, repository: &RepositoryName, digest: &Digest) -> Result<BlobStat> {
            $store.stat(repository, digest)
        }
        fn stat_at_hand(&$self, repository: &RepositoryName, digest: &Digest) -> Option<BlobStat> {
            $store.stat_at_hand(repository, digest)
        }
        }
    };
}

/// `forward_push!([S: Push] Type<S>, self => self.store)`: the whole of [`Push`] by another store.
macro_rules! forward_push {
    ([$($bounds:tt)*] $type:ty, $self:ident => $store:expr) => {
        impl<$($bounds)*> Push for $type {
        fn put_manifest(&$self, repository: &RepositoryName, manifest: &Manifest, options: &PutManifest<'_>) -> Result<()> {
            $store.put_manifest(repository, manifest, options)
        }
        fn tag(&$self, repository: &RepositoryName, digest: &Digest, tag: &Tag, condition: &Condition) -> Result<()> {
            $store.tag(repository, digest, tag, condition)
        }
        fn start_upload(&$self, repository: &RepositoryName, options: &UploadOptions) -> Result<Box<dyn Upload>> {
            $store.start_upload(repository, options)
        }
        fn resume_upload(&$self, repository: &RepositoryName, id: Uuid, options: &UploadOptions) -> Result<Box<dyn Upload>> {
            $store.resume_upload(repository, id, options)
        }
        fn upload_status(&$self, repository: &RepositoryName, id: Uuid) -> Result<UploadStatus> {
            $store.upload_status(repository, id)
        }
        fn cancel_upload(&$self, repository: &RepositoryName, id: Uuid) -> Result<()> {
            $store.cancel_upload(repository, id)
        }
        fn mount(&$self, repository: &RepositoryName, digest: &Digest, source: &MountSource<'_>) -> Result<BlobStat> {
            $store.mount(repository, digest, source)
        }
        }
    };
}

/// `forward_discover!([S: Discover] Type<S>, self => self.store)`: the whole of [`Discover`] by another store.
macro_rules! forward_discover {
    ([$($bounds:tt)*] $type:ty, $self:ident => $store:expr) => {
        impl<$($bounds)*> Discover for $type {
        fn repositories(&$self, after: Option<&RepositoryName>, limit: usize) -> Result<Page<RepositoryName>> {
            $store.repositories(after, limit)
        }
        fn manifests(&$self, repository: &RepositoryName, after: Option<&Digest>, limit: usize) -> Result<Page<Descriptor>> {
            $store.manifests(repository, after, limit)
        }
        fn tags(&$self, repository: &RepositoryName, after: Option<&Tag>, limit: usize) -> Result<Page<Tagged>> {
            $store.tags(repository, after, limit)
        }
        fn tags_at_hand(&$self, repository: &RepositoryName, after: Option<&Tag>, limit: usize) -> Option<Page<Tagged>> {
            $store.tags_at_hand(repository, after, limit)
        }
        fn referrers(
            &$self,
            repository: &RepositoryName,
            subject: &Digest,
            artifact_type: Option<&MediaType>,
            after: Option<&Digest>,
            limit: usize,
        ) -> Result<Page<Descriptor>> {
            $store.referrers(repository, subject, artifact_type, after, limit)
        }
        }
    };
}

/// `forward_manage!([S: Manage] Type<S>, self => self.store)`: the whole of [`Manage`] by another store.
macro_rules! forward_manage {
    ([$($bounds:tt)*] $type:ty, $self:ident => $store:expr) => {
        impl<$($bounds)*> Manage for $type {
        fn delete_manifest(&$self, repository: &RepositoryName, digest: &Digest, pinned: &Pinned) -> Result<()> {
            $store.delete_manifest(repository, digest, pinned)
        }
        fn delete_tag(&$self, repository: &RepositoryName, tag: &Tag) -> Result<()> {
            $store.delete_tag(repository, tag)
        }
        fn delete_blob(&$self, repository: &RepositoryName, digest: &Digest) -> Result<()> {
            $store.delete_blob(repository, digest)
        }
        }
    };
}

macro_rules! forward_pointers {
    ($($pointer:ty),*) => { $(
        forward_pull!([S: Pull + ?Sized] $pointer, self => (**self));
        forward_push!([S: Push + ?Sized] $pointer, self => (**self));
        forward_discover!([S: Discover + ?Sized] $pointer, self => (**self));
        forward_manage!([S: Manage + ?Sized] $pointer, self => (**self));
    )* };
}

forward_pointers!(&S, Box<S>, Arc<S>);

pub(crate) use {forward_discover, forward_pull};
