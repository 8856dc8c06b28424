//! The words of the OCI specifications as validated values: parsed once at the edge, trusted afterwards.
//!
//! Nothing in here does I/O, takes a lock or asks for the time.

mod descriptor;
mod digest;
mod manifest;
mod media_type;
mod name;
mod schema1;
mod tarsum;
#[cfg(feature = "schema1")]
mod unpack;

pub use descriptor::{Annotations, Descriptor};
pub use digest::{Algorithm, Digest, DigestError, Hasher, HasherStateError};
pub use manifest::{
    Contents, DigestMismatch, MAX_MANIFEST_SIZE, Manifest, ManifestError, ManifestKind, ReferenceRole,
    Referenced,
};
pub use media_type::{MediaType, MediaTypeError};
pub use name::{NameError, Reference, ReferenceError, RepositoryName, Tag, TagError};
pub use schema1::{BlobSum, Schema1Image, Schema1Layer};
#[cfg(feature = "schema1")]
pub use schema1::{
    ConversionError, ConvertedImage, Signature, SignatureError, SignedManifest, SignedManifestError,
    SignedManifestFault, UnpackedLayer,
};
#[cfg(feature = "schema1")]
pub use tarsum::TarSumError;
pub use tarsum::{TarSum, TarSumAlgorithm, TarSumNameError, TarSumVersion};
