//! Schema 1 images as OCI images: what was in the history becomes the config, and layers get the digests of what is in them.

use std::io::{self, Read};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Schema1Image;
use crate::oci::unpack::unpack;
use crate::oci::{Algorithm, Digest, Hasher, Manifest, MediaType, MediaTypeError};

/// What the history says of a layer, as far as an OCI image has a place for it.
#[derive(Deserialize)]
struct Image {
    created: Option<String>,
    author: Option<String>,
    comment: Option<String>,
    architecture: Option<String>,
    os: Option<String>,
    config: Option<Map<String, Value>>,
    container_config: Option<ContainerConfig>,
    #[serde(default)]
    throwaway: bool,
}

#[derive(Deserialize)]
struct ContainerConfig {
    #[serde(rename = "Cmd")]
    cmd: Option<Vec<String>>,
}

/// A layer, looked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnpackedLayer {
    /// The blob's digest.
    digest: Digest,
    /// The digest of the tar.
    diff_id: Digest,
    is_packed: bool,
    /// Whether the tar has no entries.
    is_empty: bool,
    /// The blob's size in bytes.
    size: u64,
}

impl UnpackedLayer {
    /// Looks into a layer, which is a tar, or one packed by gzip, of this digest and of so many bytes.
    ///
    /// # Errors
    /// What reading fails with, also where it is packed and damaged.
    pub fn read(layer: impl Read, digest: Digest, size: u64) -> io::Result<Self> {
        let (mut unpacked, is_packed) = unpack(layer)?;
        let (mut hasher, mut is_empty) = (Hasher::new(Algorithm::Sha256), true);
        loop {
            let piece = match unpacked.fill_buf() {
                Ok([]) => break,
                Ok(piece) => piece,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            // A tar ends with zeros, and one without entries has nothing else.
            is_empty &= piece.iter().all(|byte| *byte == 0);
            hasher.update(piece);
            let count = piece.len();
            unpacked.consume(count);
        }
        Ok(Self { digest, diff_id: hasher.finish(), is_packed, is_empty, size })
    }
}

/// An OCI image that says what a schema 1 image says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvertedImage {
    /// The config's bytes.
    pub config: Vec<u8>,
    /// The manifest, whose layers are those of the old one that have anything in them.
    pub manifest: Manifest,
}

/// Why a schema 1 image cannot be converted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConversionError {
    /// An entry of its history is not what docker wrote there; the parser's words are given.
    #[error("history[{at}].v1Compatibility cannot be read: {reason}")]
    History {
        /// Which entry, counted from zero.
        at: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A constant of this crate is none; it never is.
    #[error(transparent)]
    MediaType(#[from] MediaTypeError),
}

impl Schema1Image {
    /// The image in OCI's form. The layers are those of this image, in its order, looked into. Layers without anything in them, and
    /// those that docker marked to be thrown away, are entries of the history alone. The same image is converted to the same bytes.
    ///
    /// # Errors
    /// [`ConversionError`].
    pub fn convert(&self, layers: &[UnpackedLayer]) -> Result<ConvertedImage, ConversionError> {
        let mut images = Vec::with_capacity(self.layers.len());
        for (at, layer) in self.layers.iter().enumerate() {
            let image = serde_json::from_str::<Image>(&layer.v1_compatibility)
                .map_err(|error| ConversionError::History { at, reason: error.to_string() })?;
            images.push(image);
        }
        let (mut history, mut diff_ids, mut descriptors) = (Vec::new(), Vec::new(), Vec::new());
        // Both are the oldest first.
        for (unpacked, image) in layers.iter().zip(&images).rev() {
            let is_empty = image.throwaway || unpacked.is_empty;
            history.push(image.history(is_empty));
            if !is_empty {
                diff_ids.push(json!(unpacked.diff_id));
                let media_type = if unpacked.is_packed { LAYER_PACKED } else { LAYER };
                descriptors.push(
                    json!({ "mediaType": media_type, "digest": unpacked.digest, "size": unpacked.size }),
                );
            }
        }
        let mut config = images.first().map(Image::config).unwrap_or_default();
        config.entry("architecture").or_insert_with(|| json!(self.architecture));
        config.entry("os").or_insert_with(|| json!("linux"));
        config.insert("rootfs".to_owned(), json!({ "type": "layers", "diff_ids": diff_ids }));
        config.insert("history".to_owned(), Value::Array(history));
        let config = Value::Object(config).to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MediaType::OCI_MANIFEST,
            "config": { "mediaType": CONFIG, "digest": Algorithm::Sha256.digest(&config), "size": config.len() },
            "layers": descriptors,
        });
        let manifest = Manifest::new(MediaType::OCI_MANIFEST.parse()?, manifest.to_string().into_bytes());
        Ok(ConvertedImage { config, manifest })
    }
}

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const LAYER_PACKED: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

impl Image {
    fn history(&self, is_empty: bool) -> Value {
        let mut entry = Map::new();
        let cmd = self.container_config.as_ref().and_then(|config| config.cmd.as_ref());
        let texts = [
            ("created", self.created.clone()),
            ("author", self.author.clone()),
            ("created_by", cmd.map(|cmd| cmd.join(" "))),
            ("comment", self.comment.clone()),
        ];
        put_texts(&mut entry, texts);
        if is_empty {
            entry.insert("empty_layer".to_owned(), Value::Bool(true));
        }
        Value::Object(entry)
    }

    /// What becomes of the newest entry.
    fn config(&self) -> Map<String, Value> {
        let mut config = Map::new();
        let texts = [
            ("created", self.created.clone()),
            ("author", self.author.clone()),
            ("architecture", self.architecture.clone()),
            ("os", self.os.clone()),
        ];
        put_texts(&mut config, texts);
        if let Some(of_container) = &self.config {
            // Docker wrote down all that it did not know, too.
            let said = of_container.iter().filter(|(_, value)| !value.is_null());
            let said = said.map(|(key, value)| (key.clone(), value.clone())).collect();
            config.insert("config".to_owned(), Value::Object(said));
        }
        config
    }
}

fn put_texts<const N: usize>(object: &mut Map<String, Value>, texts: [(&str, Option<String>); N]) {
    for (key, text) in texts {
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            object.insert(key.to_owned(), Value::String(text));
        }
    }
}
