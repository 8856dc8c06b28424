//! A repository's manifests and tags.
#![expect(
    clippy::needless_pass_by_value,
    reason = "a reference is made for the call that takes it: `get(\"latest\".parse()?)`"
)]

#[cfg(feature = "schema1")]
use super::convert;
use super::{Listing, Repository};
use crate::error::{Error, Result};
use crate::oci::{Descriptor, Digest, Manifest, MediaType, Reference, Tag};
use crate::store::{Condition, Pinned, PutManifest, Tagged};
#[cfg(feature = "schema1")]
use crate::{oci::SignedManifest, store::signed};

/// A repository's manifests and tags.
#[derive(Clone, Debug)]
pub struct Manifests {
    repository: Repository,
}

impl Manifests {
    pub(super) const fn new(repository: Repository) -> Self {
        Self { repository }
    }

    /// The manifest that a tag points at or a digest names.
    ///
    /// # Errors
    /// [`Error::ManifestUnknown`].
    pub fn get(&self, reference: Reference) -> Result<Manifest> {
        self.repository.store.manifest(&self.repository.name, &reference)
    }

    /// The descriptor of what a tag points at or a digest names, without reading its bytes.
    ///
    /// # Errors
    /// [`Error::ManifestUnknown`].
    pub fn resolve(&self, reference: Reference) -> Result<Descriptor> {
        self.repository.store.resolve(&self.repository.name, &reference)
    }

    /// Whether there is such a tag or manifest.
    ///
    /// # Errors
    /// Only what the storage itself fails with.
    pub fn exists(&self, reference: Reference) -> Result<bool> {
        match self.resolve(reference) {
            Ok(_) => Ok(true),
            Err(Error::ManifestUnknown { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Stores a manifest, points tags at it, and returns its digest. All it references must be there.
    ///
    /// # Errors
    /// As [`Push::put_manifest`](crate::store::Push::put_manifest).
    ///
    /// # Durability
    /// When it returns, the manifest and the tags survive a power cut.
    pub fn put(&self, manifest: &Manifest, tags: &[Tag]) -> Result<Digest> {
        self.put_with(manifest, &PutManifest::new().tags(tags))
    }

    /// As [`Manifests::put`], on conditions, or before what it references.
    ///
    /// # Errors
    /// As [`Push::put_manifest`](crate::store::Push::put_manifest).
    ///
    /// # Durability
    /// As [`Manifests::put`].
    pub fn put_with(&self, manifest: &Manifest, options: &PutManifest<'_>) -> Result<Digest> {
        self.repository.store.put_manifest(&self.repository.name, manifest, options)?;
        Ok(*manifest.digest())
    }

    /// Stores a signed manifest of schema 1, points the tag at it that it was made for, and returns the digest of what was signed.
    ///
    /// # Errors
    /// As [`signed::put`]: all that is wrong at once.
    ///
    /// # Durability
    /// As [`Manifests::put`].
    #[cfg(feature = "schema1")]
    pub fn put_signed(&self, manifest: &SignedManifest) -> Result<Digest> {
        let tag = manifest.image().tag.clone().into();
        let Repository { store, name } = &self.repository;
        signed::put(store.as_ref(), name, &tag, manifest, &PutManifest::new())
    }

    /// Stores the OCI image that a schema 1 image is, and points a tag at it, which is not to point elsewhere. The history becomes
    /// a config, layers without anything in them are left out, and the others get the digests of what is in them: all are read. The
    /// old manifest stays as it is.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where it is of another kind, [`Error::Conversion`], [`Error::BlobUnknown`],
    /// [`Error::TagCondition`].
    ///
    /// # Durability
    /// As [`Manifests::put`].
    #[cfg(feature = "schema1")]
    pub fn convert(&self, reference: Reference, tag: &Tag) -> Result<Digest> {
        convert::convert(&self.repository, reference, tag)
    }

    /// A manifest of schema 1 with those of its signatures that hold; `None` where it is of another kind, or has none.
    ///
    /// # Errors
    /// [`Error::ManifestUnknown`].
    #[cfg(feature = "schema1")]
    pub fn get_signed(&self, reference: Reference) -> Result<Option<SignedManifest>> {
        let manifest = self.get(reference)?;
        signed::get(self.repository.store.as_ref(), &self.repository.name, &manifest)
    }

    /// Points a tag at a manifest of the repository, wherever it pointed before.
    ///
    /// # Errors
    /// [`Error::ManifestUnknown`].
    ///
    /// # Durability
    /// As [`Manifests::put`].
    pub fn tag(&self, digest: &Digest, tag: &Tag) -> Result<()> {
        self.tag_if(digest, tag, &Condition::Any)
    }

    /// Points a tag at a manifest of the repository, if the tag meets a condition.
    ///
    /// # Errors
    /// [`Error::ManifestUnknown`], [`Error::TagCondition`].
    ///
    /// # Durability
    /// As [`Manifests::put`].
    pub fn tag_if(&self, digest: &Digest, tag: &Tag, condition: &Condition) -> Result<()> {
        self.repository.store.tag(&self.repository.name, digest, tag, condition)
    }

    /// Deletes a tag and leaves the manifest.
    ///
    /// # Errors
    /// [`Error::ManifestUnknown`].
    pub fn untag(&self, tag: &Tag) -> Result<()> {
        self.repository.store.delete_tag(&self.repository.name, tag)
    }

    /// Deletes a manifest and all of its tags. The layers stay.
    ///
    /// # Errors
    /// [`Error::ManifestUnknown`].
    pub fn delete(&self, digest: &Digest) -> Result<()> {
        self.repository.store.delete_manifest(&self.repository.name, digest, &Pinned::none())
    }

    /// The tags, by name. Of a repository that holds nothing, the first entry is [`Error::RepositoryUnknown`].
    pub fn tags(&self) -> Listing<Tagged> {
        let Repository { store, name } = self.repository.clone();
        Listing::new(move |after: Option<&Tagged>, limit| {
            store.tags(&name, after.map(|tagged| &tagged.tag), limit)
        })
    }

    /// The manifests, tagged or not, by digest. Of a repository that holds nothing, the first entry is
    /// [`Error::RepositoryUnknown`].
    pub fn all(&self) -> Listing<Descriptor> {
        let Repository { store, name } = self.repository.clone();
        Listing::new(move |after: Option<&Descriptor>, limit| {
            store.manifests(&name, after.map(|descriptor| &descriptor.digest), limit)
        })
    }

    /// The manifests whose subject is `subject`, of one artifact type or of all, by digest.
    pub fn referrers(&self, subject: &Digest, artifact_type: Option<&MediaType>) -> Listing<Descriptor> {
        let Repository { store, name } = self.repository.clone();
        let (subject, artifact_type) = (*subject, artifact_type.cloned());
        Listing::new(move |after: Option<&Descriptor>, limit| {
            let after = after.map(|descriptor| &descriptor.digest);
            store.referrers(&name, &subject, artifact_type.as_ref(), after, limit)
        })
    }
}
