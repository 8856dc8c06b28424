//! The contract of a store: four traits, named after the distribution-spec's four categories.
//!
//! # Contract
//!
//! Whoever implements [`Store`] keeps these rules; `conformance` (a feature) has one function for each.
//!
//! - **C1** Deleting a tag leaves the manifest. Deleting a manifest removes its tags; both at once, or not at all.
//!   Deleting a manifest that an index names is allowed: the index stays, and answers for itself.
//! - **C2** A manifest's references must exist in its repository, except its subject and non-distributable layers. All that
//!   are missing are reported. [`References::MayBeAbsent`] lifts the rule, for mirrors.
//! - **C3** Manifest bytes come back exactly as they were given, under the digest and algorithm they were pushed with.
//! - **C4** Nothing of an upload is visible before [`Upload::commit`]. When `commit` returns, it survives a power cut, if the
//!   store is one that survives anything. What is written and not yet durable may be seen by a reader a moment before it is
//!   durable; nobody is told that it succeeded before it is.
//! - **C5** A wrong digest leaves nothing visible, says which digest was found, and cancels the session.
//! - **C6** Cancelling is idempotent. Dropping an upload suspends it; it is resumed at [`Upload::offset`], after a restart too.
//! - **C7** A session has one writer. A second is refused while the first is alive, and takes over from one that has gone
//!   silent. Two sessions for the same digest both succeed.
//! - **C8** Listings are lexical, go on strictly after a name (which need not exist), and tolerate change while they run.
//! - **C9** A blob is readable only through a repository that links it: one it was pushed to or mounted in.
//! - **C10** A committed layer is not re-read, copied or moved to be committed: a commit costs the same for 1 KiB and 10 GiB.
//!   The one exception is a digest of another algorithm than the one that was announced.
//!
//! The traits can be made into objects, have no default bodies, and are implemented for references, boxes and `Arc`s of stores.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use uuid::Uuid;

use crate::error::Result;
use crate::oci::{Descriptor, Digest, Manifest, MediaType, Reference, RepositoryName, Tag};

pub(crate) mod buffers;
mod forward;
mod initiator;
pub mod memory;
mod options;
#[cfg(feature = "schema1")]
pub mod signed;
pub mod sled;
#[cfg(feature = "schema1")]
pub mod tarsum;

pub(crate) use forward::{forward_discover, forward_pull};
pub use initiator::Initiator;
pub(crate) use options::check_tag;
pub use options::{Condition, MountSource, Pinned, PutManifest, References, UploadOptions};

/// The most tags that one [`Push::put_manifest`] sets: they become visible at once, in one small transaction.
pub const MAX_TAGS_PER_PUSH: usize = 32;

/// Reading by name. A manifest or blob whose bytes a store found to be bad is unknown to it until it is pushed again.
pub trait Pull: Send + Sync {
    /// The manifest that a tag points at or a digest names.
    ///
    /// # Errors
    /// [`Error::ManifestUnknown`](crate::Error::ManifestUnknown), also where the repository is unknown.
    fn manifest(&self, repository: &RepositoryName, reference: &Reference) -> Result<Manifest>;

    /// The same, where it can be told at once: without waiting for a disk, or for anybody who does. `None` says nothing; then
    /// [`Pull::manifest`] does. What was deleted or moved is not at hand.
    fn manifest_at_hand(&self, repository: &RepositoryName, reference: &Reference) -> Option<Manifest>;

    /// The manifest's descriptor, without reading its bytes. Artifact type and annotations are left out.
    ///
    /// # Errors
    /// As [`Pull::manifest`].
    fn resolve(&self, repository: &RepositoryName, reference: &Reference) -> Result<Descriptor>;

    /// The same, where it can be told at once: as [`Pull::manifest_at_hand`].
    fn resolve_at_hand(&self, repository: &RepositoryName, reference: &Reference) -> Option<Descriptor>;

    /// A blob, opened: it stays readable through this value when it is deleted meanwhile, or reading fails with an error.
    ///
    /// # Errors
    /// [`Error::BlobUnknown`](crate::Error::BlobUnknown) where the repository does not link it.
    fn blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<Blob>;

    /// What is known of a blob without opening it.
    ///
    /// # Errors
    /// As [`Pull::blob`].
    fn stat(&self, repository: &RepositoryName, digest: &Digest) -> Result<BlobStat>;

    /// The same, where it can be told at once: as [`Pull::manifest_at_hand`].
    fn stat_at_hand(&self, repository: &RepositoryName, digest: &Digest) -> Option<BlobStat>;
}

/// Adding content.
pub trait Push: Send + Sync {
    /// Stores a manifest and points tags at it, all at once. Putting what is there already is a success and sets the tags.
    ///
    /// # Errors
    /// [`Error::ManifestInvalid`](crate::Error::ManifestInvalid),
    /// [`Error::ReferencesMissing`](crate::Error::ReferencesMissing),
    /// [`Error::TooManyTags`](crate::Error::TooManyTags),
    /// [`Error::TagCondition`](crate::Error::TagCondition) when one of the tags does not meet the condition, and
    /// [`Error::TagImmutable`](crate::Error::TagImmutable) when one is pinned and points elsewhere.
    ///
    /// # Durability
    /// When it returns, the manifest and the tags survive a power cut.
    fn put_manifest(
        &self,
        repository: &RepositoryName,
        manifest: &Manifest,
        options: &PutManifest<'_>,
    ) -> Result<()>;

    /// Points a tag at a manifest that the repository has.
    ///
    /// # Errors
    /// [`Error::ManifestUnknown`](crate::Error::ManifestUnknown), [`Error::TagCondition`](crate::Error::TagCondition).
    ///
    /// # Durability
    /// As [`Push::put_manifest`].
    fn tag(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        tag: &Tag,
        condition: &Condition,
    ) -> Result<()>;

    /// Begins an upload session. A session without bytes promises nothing: a restart may forget it.
    ///
    /// # Errors
    /// [`Error::DiskFull`](crate::Error::DiskFull) where the size is known and there is no room.
    fn start_upload(&self, repository: &RepositoryName, options: &UploadOptions) -> Result<Box<dyn Upload>>;

    /// Takes up a session as its only writer. The options tell what has become known since it was started: the algorithm is
    /// taken up if the session has no bytes yet.
    ///
    /// # Errors
    /// [`Error::UploadUnknown`](crate::Error::UploadUnknown), [`Error::UploadBusy`](crate::Error::UploadBusy) (C7).
    fn resume_upload(
        &self,
        repository: &RepositoryName,
        id: Uuid,
        options: &UploadOptions,
    ) -> Result<Box<dyn Upload>>;

    /// Where a session stands, whether or not somebody is writing to it.
    ///
    /// # Errors
    /// [`Error::UploadUnknown`](crate::Error::UploadUnknown).
    fn upload_status(&self, repository: &RepositoryName, id: Uuid) -> Result<UploadStatus>;

    /// Ends a session, whether or not somebody is writing to it; that writer is told at its next write.
    /// Cancelling what is not there is a success (C6).
    ///
    /// # Errors
    /// Only what the storage itself fails with.
    fn cancel_upload(&self, repository: &RepositoryName, id: Uuid) -> Result<()>;

    /// Links a blob of another repository into this one, without its bytes being sent.
    ///
    /// # Errors
    /// [`Error::BlobUnknown`](crate::Error::BlobUnknown) where no admitted source links it.
    ///
    /// # Durability
    /// As [`Upload::commit`].
    fn mount(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        source: &MountSource<'_>,
    ) -> Result<BlobStat>;
}

/// Listing. All are lexical by the text form and go on strictly after a name (C8). A page can hold fewer entries than the
/// limit; [`Page::more`] alone tells whether any are left.
pub trait Discover: Send + Sync {
    /// The repositories that hold anything.
    ///
    /// # Errors
    /// Only what the storage itself fails with.
    fn repositories(&self, after: Option<&RepositoryName>, limit: usize) -> Result<Page<RepositoryName>>;

    /// A repository's manifests, tagged or not.
    ///
    /// # Errors
    /// [`Error::RepositoryUnknown`](crate::Error::RepositoryUnknown).
    fn manifests(
        &self,
        repository: &RepositoryName,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Page<Descriptor>>;

    /// A repository's tags.
    ///
    /// # Errors
    /// [`Error::RepositoryUnknown`](crate::Error::RepositoryUnknown).
    fn tags(&self, repository: &RepositoryName, after: Option<&Tag>, limit: usize) -> Result<Page<Tagged>>;

    /// The same, where it can be told at once: as [`Pull::manifest_at_hand`].
    fn tags_at_hand(
        &self,
        repository: &RepositoryName,
        after: Option<&Tag>,
        limit: usize,
    ) -> Option<Page<Tagged>>;

    /// The manifests whose subject is `subject`, with artifact type and annotations, by digest. Neither the subject nor the
    /// repository need exist: then there are none.
    ///
    /// # Errors
    /// Only what the storage itself fails with.
    fn referrers(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
        artifact_type: Option<&MediaType>,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Page<Descriptor>>;
}

/// Removing content. When a method returns, the removal survives a power cut, and no reader sees what was removed.
pub trait Manage: Send + Sync {
    /// Deletes a manifest and its tags (C1), unless one of these is pinned.
    ///
    /// # Errors
    /// [`Error::ManifestUnknown`](crate::Error::ManifestUnknown), [`Error::TagImmutable`](crate::Error::TagImmutable).
    fn delete_manifest(&self, repository: &RepositoryName, digest: &Digest, pinned: &Pinned) -> Result<()>;

    /// Deletes a tag and leaves the manifest (C1).
    ///
    /// # Errors
    /// [`Error::ManifestUnknown`](crate::Error::ManifestUnknown).
    fn delete_tag(&self, repository: &RepositoryName, tag: &Tag) -> Result<()>;

    /// Unlinks a blob from the repository, even if a manifest references it. Its bytes go when no repository links it.
    ///
    /// # Errors
    /// [`Error::BlobUnknown`](crate::Error::BlobUnknown).
    fn delete_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<()>;
}

/// A whole store: all four categories.
pub trait Store: Pull + Push + Discover + Manage {}

impl<S: Pull + Push + Discover + Manage + ?Sized> Store for S {}

/// An upload session in the hands of its one writer. Dropping it suspends the session (C6).
///
/// `write` hashes and stores; it takes all it is given or fails. `flush` does nothing that a caller could rely on.
pub trait Upload: io::Write + Send {
    /// The session's id, which is not to be guessed.
    fn id(&self) -> Uuid;

    /// When the session was started.
    fn started_at(&self) -> SystemTime;

    /// How many bytes it has: the next byte's position.
    fn offset(&self) -> u64;

    /// The bytes so far, from the first to the last; what is written later is not among them.
    ///
    /// # Errors
    /// [`Error::UploadUnknown`](crate::Error::UploadUnknown), [`Error::UploadBusy`](crate::Error::UploadBusy) where the session has
    /// ended or has another writer.
    fn bytes(&self) -> Result<Box<dyn io::Read + Send>>;

    /// Suspends the session and says whether that worked: the bytes so far survive a kill of the process from here on.
    ///
    /// # Errors
    /// What the storage fails with; the session may then stand at an earlier offset.
    fn suspend(self: Box<Self>) -> Result<()>;

    /// Makes the bytes a blob of the repository and ends the session.
    ///
    /// # Errors
    /// [`Error::DigestMismatch`](crate::Error::DigestMismatch), which cancels the session (C5). After any other error the
    /// session stands where it stood, unless the storage has failed: then it may stand at an earlier offset, or, where what
    /// became of it is unknown, be over.
    ///
    /// # Durability
    /// When it returns, the blob survives a power cut (C4).
    fn commit(self: Box<Self>, digest: &Digest) -> Result<BlobStat>;

    /// Ends the session and drops its bytes.
    ///
    /// # Errors
    /// Only what the storage itself fails with.
    fn cancel(self: Box<Self>) -> Result<()>;
}

/// A blob's bytes, which never change.
pub trait Content: Send + Sync {
    /// How many there are.
    fn len(&self) -> u64;

    /// Whether there are none.
    fn is_empty(&self) -> bool;

    /// Fills the whole buffer from the position on.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] beyond the end; otherwise what the storage fails with.
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Reads from the position on what can be had at once, without waiting for a disk, and says how much that was: the beginning of
    /// the buffer. Of what is not had, nothing is known; [`Content::read_at`] reads it.
    fn read_at_hand(&self, position: u64, buffer: &mut [u8]) -> usize;

    /// The bytes without a copy, where the store can give them so.
    fn view(&self) -> Option<View>;

    /// What is to see the bytes go by: whoever reads all of them, from the first to the last, shows them to it, and hands out the
    /// last piece only when it agrees. `None` where bytes cannot go bad, or were looked at already. Who reads a part cannot know,
    /// and need not ask.
    fn check(&self) -> Option<Box<dyn Check>>;
}

/// Sees a blob's bytes go by, and says in the end whether they were those of its digest.
pub trait Check: Send + Sync {
    /// Sees the next piece.
    fn update(&mut self, piece: &[u8]);

    /// Whether seeing a piece takes longer than reading it from memory.
    fn takes_long(&self) -> bool;

    /// Judges what it saw, which was all of the blob: what was read until now may be taken for the whole only if this succeeds.
    /// May block.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] where it is not what the digest says. The store knows of it then.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// A shared read-only view of a blob's bytes.
///
/// Where it is a map of a file, a byte read through it can fail only as a signal: hand it to the kernel, and read with
/// [`Content::read_at`] what the program itself looks at.
#[derive(Clone)]
pub struct View(Arc<dyn ResidentBytes>);

impl View {
    /// A view of any bytes that can make themselves resident.
    #[must_use]
    pub fn new(bytes: Arc<dyn ResidentBytes>) -> Self {
        Self(bytes)
    }

    /// Makes a range resident in memory, so that touching it does not wait for the disk. May block.
    ///
    /// # Errors
    /// What reading from the disk fails with.
    pub fn make_resident(&self, start: usize, length: usize) -> io::Result<()> {
        self.0.make_resident(start, length)
    }
}

impl AsRef<[u8]> for View {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "View({} bytes)", self.as_ref().len())
    }
}

/// What a [`View`] is a view of.
pub trait ResidentBytes: Send + Sync {
    /// All the bytes.
    fn bytes(&self) -> &[u8];

    /// See [`View::make_resident`].
    ///
    /// # Errors
    /// What reading from the disk fails with.
    fn make_resident(&self, start: usize, length: usize) -> io::Result<()>;
}

/// A blob, opened.
#[derive(Clone)]
pub struct Blob {
    /// What is known of it.
    pub stat: BlobStat,
    /// Its bytes.
    pub content: Arc<dyn Content>,
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blob").field("stat", &self.stat).finish_non_exhaustive()
    }
}

/// What is known of a blob without its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobStat {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// When it was first committed to this store.
    pub created_at: SystemTime,
}

/// Where an upload session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadStatus {
    /// How many bytes it has.
    pub offset: u64,
    /// When it was started.
    pub started_at: SystemTime,
}

/// A tag and where it points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tagged {
    /// The tag.
    pub tag: Tag,
    /// The manifest it points at.
    pub digest: Digest,
    /// When it was last set.
    pub updated_at: SystemTime,
}

/// What somebody was given.
#[derive(Clone, Copy, Debug)]
pub struct Pulled<'a> {
    /// Where it is.
    pub repository: &'a RepositoryName,
    /// The blob or manifest.
    pub digest: &'a Digest,
    /// Its size in bytes, also where a part of it was given.
    pub size: u64,
    /// A manifest's media type; none for a blob.
    pub media_type: Option<&'a MediaType>,
    /// The tag by which a manifest was asked for.
    pub tag: Option<&'a Tag>,
}

/// A part of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// The entries, in lexical order.
    pub items: Vec<T>,
    /// Whether there are entries after the last of these.
    pub more: bool,
}

impl<T> Default for Page<T> {
    fn default() -> Self {
        Self { items: Vec::new(), more: false }
    }
}
