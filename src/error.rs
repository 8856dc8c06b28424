//! The one error type, in the spec's terms.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use uuid::Uuid;

use crate::oci::{
    Digest, DigestError, DigestMismatch, ManifestError, MediaTypeError, NameError, Reference, ReferenceError,
    ReferenceRole, RepositoryName, Tag, TagError,
};

#[cfg(feature = "schema1")]
use crate::oci::{
    ConversionError, SignedManifestError, SignedManifestFault, TarSum, TarSumError, TarSumNameError,
};

/// The result of everything that can fail here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, to what. [`Error::code`] gives the distribution-spec's code for it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No such repository: nothing was pushed to it, or all of it was deleted.
    #[error("repository {0} is unknown")]
    RepositoryUnknown(RepositoryName),
    /// The repository does not link such a blob, whether or not another does.
    #[error("blob {digest} is unknown in repository {repository}")]
    BlobUnknown {
        /// Where it was looked for.
        repository: RepositoryName,
        /// What was looked for.
        digest: Digest,
    },
    /// No such tag or manifest in the repository.
    #[error("manifest {reference} is unknown in repository {repository}")]
    ManifestUnknown {
        /// Where it was looked for.
        repository: RepositoryName,
        /// What was looked for.
        reference: Reference,
    },
    /// A manifest's references are absent; all of them are listed.
    #[error("the manifest references {} that repository {repository} does not have", list(.missing))]
    ReferencesMissing {
        /// Where they were looked for.
        repository: RepositoryName,
        /// Each absent reference, once a digest.
        missing: Vec<(ReferenceRole, Digest)>,
    },
    /// Not a manifest that can be stored.
    #[error(transparent)]
    ManifestInvalid(#[from] ManifestError),
    /// Not a signed manifest.
    #[cfg(feature = "schema1")]
    #[error(transparent)]
    SignedManifestInvalid(#[from] SignedManifestError),
    /// A signed manifest does not belong where it was to be put, or its signatures do not hold, or layers are absent: all that is wrong.
    #[cfg(feature = "schema1")]
    #[error("the signed manifest is refused: {}", list_faults(.faults, .missing))]
    SignedManifestRefused {
        /// What is wrong with itself.
        faults: Vec<SignedManifestFault>,
        /// Each absent layer, once a digest.
        missing: Vec<(ReferenceRole, Digest)>,
    },
    /// A schema 1 image cannot be converted.
    #[cfg(feature = "schema1")]
    #[error(transparent)]
    Conversion(#[from] ConversionError),
    /// The repository has no blob that was put under this TarSum.
    #[cfg(feature = "schema1")]
    #[error("blob {tar_sum} is unknown in repository {repository}")]
    TarSumUnknown {
        /// Where it was looked for.
        repository: RepositoryName,
        /// What was looked for.
        tar_sum: TarSum,
    },
    /// Content has another TarSum than was declared. An upload that ends so is cancelled: its bytes are gone.
    #[cfg(feature = "schema1")]
    #[error("the content was declared as {expected} and is {found}")]
    TarSumMismatch {
        /// What the caller said.
        expected: TarSum,
        /// What the bytes are.
        found: TarSum,
    },
    /// Content that was declared by a TarSum has none. An upload that ends so is cancelled.
    #[cfg(feature = "schema1")]
    #[error(transparent)]
    NoTarSum(#[from] TarSumError),
    /// Not a TarSum.
    #[cfg(feature = "schema1")]
    #[error(transparent)]
    TarSumInvalid(#[from] TarSumNameError),
    /// Content has another digest than was declared. An upload that ends so is cancelled: its bytes are gone.
    #[error(transparent)]
    DigestMismatch(#[from] DigestMismatch),
    /// No such upload session: it was committed, cancelled, has expired, or never was.
    #[error("upload session {id} is unknown in repository {repository}")]
    UploadUnknown {
        /// Where it was looked for.
        repository: RepositoryName,
        /// The session.
        id: Uuid,
    },
    /// Another writer holds the session, or has taken it over. It can be taken over from one that has been silent for a while.
    #[error("upload session {0} is being written to by another request: wait for it, or cancel the session")]
    UploadBusy(Uuid),
    /// Bytes were sent for another place than the session stands at. The session is unchanged.
    #[error("upload session {id} stands at byte {offset}, the request begins at byte {requested}")]
    UploadOffset {
        /// The session.
        id: Uuid,
        /// Where it stands: the next byte it expects.
        offset: u64,
        /// Where the request would go on.
        requested: u64,
    },
    /// More or fewer bytes came than were declared.
    #[error("{declared} bytes were declared, {received} came")]
    SizeMismatch {
        /// What was declared.
        declared: u64,
        /// What came.
        received: u64,
    },
    /// The tag is not what the caller made its condition.
    #[error("tag {tag} {}, so it was not set", match .found { Some(digest) => format!("points at {digest}"), None => "does not exist".to_owned() })]
    TagCondition {
        /// The tag.
        tag: Tag,
        /// What it points at.
        found: Option<Digest>,
    },
    /// The tag stays where it points; its manifest, too, can not be deleted.
    #[error(
        "tag {tag} is immutable and points at {found}: it is neither moved nor deleted, nor is its manifest; push under another tag, or \
         delete other tags of the manifest by their names"
    )]
    TagImmutable {
        /// The tag.
        tag: Tag,
        /// What it points at.
        found: Digest,
    },
    /// More tags in one push than [`crate::store::MAX_TAGS_PER_PUSH`].
    #[error("{0} tags in one request are too many: at most {max}", max = crate::store::MAX_TAGS_PER_PUSH)]
    TooManyTags(usize),
    /// Not a repository name.
    #[error(transparent)]
    NameInvalid(#[from] NameError),
    /// Not a tag.
    #[error(transparent)]
    TagInvalid(#[from] TagError),
    /// Not a digest, or of an unsupported algorithm.
    #[error(transparent)]
    DigestInvalid(#[from] DigestError),
    /// Not a media type.
    #[error(transparent)]
    MediaTypeInvalid(#[from] MediaTypeError),
    /// Something else in the request is malformed; the words say what.
    #[error("{0}")]
    RequestInvalid(String),
    /// Not something that this store or server does; the words say what.
    #[error("{0}")]
    Unsupported(String),
    /// Too much at once.
    #[error("too many requests: try again in {} seconds", .retry_after.as_secs().max(1))]
    TooManyRequests {
        /// When to try again.
        retry_after: Duration,
    },
    /// No room for this on the disk. Nothing that was acknowledged is touched.
    #[error("the disk is full: {needed} bytes are needed, {available} are free")]
    DiskFull {
        /// What the operation would have to write, in bytes, and what is kept in reserve.
        needed: u64,
        /// What the filesystem has, in bytes.
        available: u64,
    },
    /// No room for this in the store's budget. Nothing that was acknowledged is touched.
    #[error(
        "the store's budget of {budget} bytes is used up: {used} are taken, {in_index} of them by the index, {needed} more were to \
         come, and some room is kept for that: {}delete what is not needed, or raise the budget",
        what_waits(*.in_uploads, *.held_back, *.in_index > .budget / 2)
    )]
    OverBudget {
        /// What the operation would have to write, in bytes.
        needed: u64,
        /// What the store takes, in bytes.
        used: u64,
        /// What it may take, in bytes.
        budget: u64,
        /// What its index takes of that, in bytes.
        in_index: u64,
        /// What upload sessions that are open take of that, in bytes.
        in_uploads: u64,
        /// The bytes, or some of them, of blobs that no manifest uses yet, which stay until their grace time has passed.
        held_back: u64,
    },
    /// The folder has something else in it.
    #[error("{path} holds no sledge store and is not empty ({found}): choose an empty or a new folder", path = .path.display())]
    NotAStore {
        /// The folder.
        path: PathBuf,
        /// One thing that was found there.
        found: String,
    },
    /// The folder in which a store was to be made has something in it, which may be a store.
    #[error("{path} is not empty ({found}): choose an empty or a new folder", path = .path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
        /// One thing that was found there.
        found: String,
    },
    /// There is no store in the folder, and none was to be made.
    #[error("there is no sledge store in {}", .0.display())]
    NoStore(PathBuf),
    /// The store is in use by a process, this one or another.
    #[error("{} is in use by this process or another: a store can be open once at a time", .0.display())]
    Locked(PathBuf),
    /// The store was made by a version whose format this one does not know.
    #[error("{path} has format {found}, this version of sledge reads format {supported}: use a version that fits", path = .path.display())]
    FormatVersion {
        /// The folder.
        path: PathBuf,
        /// What is written there.
        found: String,
        /// What this version reads.
        supported: u32,
    },
    /// Bytes on disk are not what was written there. What they are the only copy of is lost; the rest is not.
    #[error("{what} is damaged: {reason}")]
    Damaged {
        /// What is damaged.
        what: String,
        /// How it shows.
        reason: String,
    },
    /// Whoever watched a long operation ended it. What it had begun is cleared away, or does no harm.
    #[error("interrupted while {0}")]
    Interrupted(String),
    /// The store has stopped, or has refused writes since a failure whose extent is unknown.
    #[error("the store takes no writes: {0}")]
    Unavailable(String),
    /// The system failed at something.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done, and to what.
        doing: String,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    /// The distribution-spec's code, or `None` for what is the store's fault and not the request's.
    #[must_use]
    pub const fn code(&self) -> Option<ErrorCode> {
        Some(match self {
            Self::RepositoryUnknown(_) => ErrorCode::NameUnknown,
            Self::BlobUnknown { .. } => ErrorCode::BlobUnknown,
            #[cfg(feature = "schema1")]
            Self::TarSumUnknown { .. } => ErrorCode::BlobUnknown,
            Self::ManifestUnknown { .. } => ErrorCode::ManifestUnknown,
            Self::ReferencesMissing { .. } => ErrorCode::ManifestBlobUnknown,
            #[cfg(feature = "schema1")]
            Self::SignedManifestInvalid(_) | Self::SignedManifestRefused { .. } | Self::Conversion(_) => {
                ErrorCode::ManifestInvalid
            }
            Self::ManifestInvalid(_)
            | Self::TagInvalid(_)
            | Self::MediaTypeInvalid(_)
            | Self::TooManyTags(_) => ErrorCode::ManifestInvalid,
            #[cfg(feature = "schema1")]
            Self::TarSumMismatch { .. } | Self::NoTarSum(_) | Self::TarSumInvalid(_) => {
                ErrorCode::DigestInvalid
            }
            Self::DigestMismatch(_) | Self::DigestInvalid(_) => ErrorCode::DigestInvalid,
            Self::UploadUnknown { .. } => ErrorCode::BlobUploadUnknown,
            Self::UploadBusy(_) | Self::UploadOffset { .. } => ErrorCode::BlobUploadInvalid,
            Self::SizeMismatch { .. } => ErrorCode::SizeInvalid,
            Self::TagCondition { .. } | Self::TagImmutable { .. } => ErrorCode::Denied,
            Self::NameInvalid(_) => ErrorCode::NameInvalid,
            Self::RequestInvalid(_) | Self::Unsupported(_) => ErrorCode::Unsupported,
            Self::TooManyRequests { .. } => ErrorCode::TooManyRequests,
            Self::DiskFull { .. }
            | Self::OverBudget { .. }
            | Self::NotAStore { .. }
            | Self::NotEmpty { .. }
            | Self::NoStore(_)
            | Self::Locked(_)
            | Self::FormatVersion { .. }
            | Self::Damaged { .. }
            | Self::Interrupted(_)
            | Self::Unavailable(_)
            | Self::Io { .. } => return None,
        })
    }

    /// The same refusal, for want of so many bytes.
    pub(crate) fn of_needed(mut self, bytes: u64) -> Self {
        if let Self::OverBudget { needed, .. } = &mut self {
            *needed = bytes;
        }
        self
    }

    /// For `map_err` on I/O: says what was being done when it failed.
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }
}

impl From<ReferenceError> for Error {
    fn from(error: ReferenceError) -> Self {
        match error {
            ReferenceError::Tag(error) => Self::TagInvalid(error),
            ReferenceError::Digest(error) => Self::DigestInvalid(error),
        }
    }
}

/// What takes room of a budget and may give it back, and how.
fn what_waits(in_uploads: u64, held_back: u64, index_is_large: bool) -> String {
    let mut text = String::new();
    if in_uploads > 0 {
        text += &format!(
            "{in_uploads} bytes are in upload sessions, which end by themselves a week after their last byte, or with `sledge gc \
             --uploads-after 0s`; "
        );
    }
    if held_back > 0 {
        text += &format!(
            "at least {held_back} bytes are blobs that no manifest uses, which go when their grace time has passed, or with `sledge gc \
             --grace 0s` while nobody pushes; "
        );
    }
    if index_is_large {
        text += "the index is large: `sledge compact` makes it small again if much was deleted; ";
    }
    text
}

#[cfg(feature = "schema1")]
fn list_faults(faults: &[SignedManifestFault], missing: &[(ReferenceRole, Digest)]) -> String {
    let mut text: Vec<String> = faults.iter().map(ToString::to_string).collect();
    if !missing.is_empty() {
        text.push(format!("the repository does not have {}", list(missing)));
    }
    text.join("; ")
}

/// The first few of what is missing; a manifest can lack thousands.
fn list(missing: &[(ReferenceRole, Digest)]) -> String {
    let mut text: Vec<String> =
        missing.iter().take(3).map(|(role, digest)| format!("{role} ({digest})")).collect();
    if missing.len() > 3 {
        text.push(format!("{} more", missing.len() - 3));
    }
    text.join(", ")
}

/// The distribution-spec's error codes ("Error Codes").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorCode {
    /// code-1
    BlobUnknown,
    /// code-2
    BlobUploadInvalid,
    /// code-3
    BlobUploadUnknown,
    /// code-4
    DigestInvalid,
    /// code-5
    ManifestBlobUnknown,
    /// code-6
    ManifestInvalid,
    /// code-7
    ManifestUnknown,
    /// code-8
    NameInvalid,
    /// code-9
    NameUnknown,
    /// code-10
    SizeInvalid,
    /// code-11
    Unauthorized,
    /// code-12
    Denied,
    /// code-13
    Unsupported,
    /// code-14
    TooManyRequests,
}

impl ErrorCode {
    /// The code as it stands in an answer.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Denied => "DENIED",
            Self::Unsupported => "UNSUPPORTED",
            Self::TooManyRequests => "TOOMANYREQUESTS",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
