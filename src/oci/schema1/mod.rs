//! Docker's schema 1: one document with an image's name, tag, layers and history, signed by whoever pushed it.
//!
//! What is stored is what was signed; its digest is the manifest's. Signatures are kept apart: `signed` reads and verifies them.

#[cfg(feature = "schema1")]
mod convert;
#[cfg(feature = "schema1")]
mod key;
#[cfg(feature = "schema1")]
mod signed;
mod strict;

use std::fmt;

use serde::Deserialize;

use super::manifest::{Object, digest_at};
use super::{
    Contents, Digest, ManifestError, ManifestKind, ReferenceRole, Referenced, RepositoryName, Tag, TarSum,
};

#[cfg(feature = "schema1")]
pub use convert::{ConversionError, ConvertedImage, UnpackedLayer};
#[cfg(feature = "schema1")]
pub use key::SignatureError;
#[cfg(feature = "schema1")]
pub use signed::{Signature, SignedManifest, SignedManifestError, SignedManifestFault};

/// What a schema 1 manifest says of its image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema1Image {
    /// The repository that it was made for.
    pub name: RepositoryName,
    /// The tag that it was made for.
    pub tag: Tag,
    /// The processors that it runs on, in Go's words.
    pub architecture: String,
    /// The layers, the newest first; at least one.
    pub layers: Vec<Schema1Layer>,
}

/// A layer and how it came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema1Layer {
    /// The blob, a tar, which is mostly packed by gzip.
    pub blob_sum: BlobSum,
    /// JSON in which the Docker of its time described an image, whatever is in it: nothing here has looked.
    pub v1_compatibility: String,
}

/// What names a layer in a schema 1 manifest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BlobSum {
    /// Its digest.
    Digest(Digest),
    /// Its TarSum, in manifests that are older still.
    TarSum(TarSum),
}

impl fmt::Display for BlobSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Digest(digest) => digest.fmt(f),
            Self::TarSum(tar_sum) => tar_sum.fmt(f),
        }
    }
}

impl BlobSum {
    fn parse(at: usize, text: &str) -> Result<Self, ManifestError> {
        let field = format_args!("fsLayers[{at}]");
        if text.starts_with("tarsum") {
            let named = text.parse().map(Self::TarSum);
            return named.map_err(|source| ManifestError::TarSum { field: field.to_string(), source });
        }
        digest_at(field, text).map(Self::Digest)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: Option<u64>,
    name: String,
    tag: String,
    #[serde(default)]
    architecture: String,
    fs_layers: Vec<Object<FsLayer>>,
    history: Vec<Object<History>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FsLayer {
    blob_sum: String,
}

#[derive(Deserialize)]
struct History {
    #[serde(rename = "v1Compatibility")]
    v1_compatibility: String,
}

impl Schema1Image {
    /// Reads what was signed.
    ///
    /// # Errors
    /// [`ManifestError`] for anything but a well-formed schema 1 manifest. Unknown fields are passed over; a key that stands twice
    /// in an object is not, whatever its case: others read such a document differently.
    pub fn parse(payload: &[u8]) -> Result<Self, ManifestError> {
        let json = |error: serde_json::Error| ManifestError::Json(error.to_string());
        strict::check(payload).map_err(json)?;
        let Object(document) = serde_json::from_slice::<Object<Document>>(payload).map_err(json)?;
        match document.schema_version {
            Some(1) => {}
            found => return Err(ManifestError::SchemaVersion { wanted: 1, found }),
        }
        let (layers, history) = (document.fs_layers.len(), document.history.len());
        if layers != history || layers == 0 {
            return Err(ManifestError::History { layers, history });
        }
        let pairs = document.fs_layers.into_iter().zip(document.history).enumerate();
        Ok(Self {
            name: document.name.parse()?,
            tag: document.tag.parse()?,
            architecture: document.architecture,
            layers: pairs
                .map(|(at, (Object(layer), Object(history)))| {
                    let blob_sum = BlobSum::parse(at, &layer.blob_sum)?;
                    Ok(Schema1Layer { blob_sum, v1_compatibility: history.v1_compatibility })
                })
                .collect::<Result<_, ManifestError>>()?,
        })
    }

    /// The same in the terms of all manifests. A layer that is named by its TarSum is no reference: which blob that is, the repository
    /// knows, and what names it there keeps it.
    pub(super) fn contents(&self) -> Contents {
        let reference = |(at, layer): (usize, &Schema1Layer)| match layer.blob_sum {
            BlobSum::Digest(digest) => Some(Referenced {
                role: ReferenceRole::Layer(at),
                digest,
                size: None,
                non_distributable: false,
            }),
            BlobSum::TarSum(_) => None,
        };
        Contents {
            kind: ManifestKind::Schema1,
            references: self.layers.iter().enumerate().filter_map(reference).collect(),
            subject: None,
            artifact_type: None,
            annotations: Default::default(),
        }
    }
}
