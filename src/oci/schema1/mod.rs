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

use serde::Deserialize;

use super::manifest::{Object, digest_at};
use super::{Contents, Digest, ManifestError, ManifestKind, ReferenceRole, Referenced, RepositoryName, Tag};

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
    /// The blob, a compressed tar.
    pub digest: Digest,
    /// JSON in which the Docker of its time described an image, whatever is in it: nothing here has looked.
    pub v1_compatibility: String,
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
                    let digest = digest_at(format_args!("fsLayers[{at}]"), &layer.blob_sum)?;
                    Ok(Schema1Layer { digest, v1_compatibility: history.v1_compatibility })
                })
                .collect::<Result<_, ManifestError>>()?,
        })
    }

    /// The same in the terms of all manifests.
    pub(super) fn contents(&self) -> Contents {
        let reference = |(at, layer): (usize, &Schema1Layer)| Referenced {
            role: ReferenceRole::Layer(at),
            digest: layer.digest,
            size: None,
            non_distributable: false,
        };
        Contents {
            kind: ManifestKind::Schema1,
            references: self.layers.iter().enumerate().map(reference).collect(),
            subject: None,
            artifact_type: None,
            annotations: Default::default(),
        }
    }
}
