//! Manifests: exact bytes, and what they say (image-spec, manifest.md and image-index.md; Docker's schema 2).

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::digest::shorten;
use super::schema1::Schema1Image;
use super::{
    Algorithm, Annotations, Descriptor, Digest, DigestError, MediaType, MediaTypeError, NameError, TagError,
    TarSumNameError,
};

/// The largest manifest in bytes (distribution-spec, "Pushing Manifests": at least 4 megabytes).
pub const MAX_MANIFEST_SIZE: usize = 4 << 20;

/// How deep arrays and objects may stand in each other. What is unknown here is passed over however deep it is; those who pull it
/// read it with a stack.
const MAX_DEPTH: usize = 128;

/// A manifest as it was pushed: exact bytes under a digest and a media type. Clones share the bytes.
///
/// That a value exists says that the bytes have that digest. It does not say that they make sense:
/// [`Manifest::contents`] does.
#[derive(Clone, PartialEq, Eq)]
pub struct Manifest {
    media_type: MediaType,
    digest: Digest,
    bytes: Arc<[u8]>,
}

impl Manifest {
    /// A manifest named by its sha256 digest.
    #[must_use]
    pub fn new(media_type: MediaType, bytes: impl Into<Arc<[u8]>>) -> Self {
        let bytes = bytes.into();
        Self { media_type, digest: Algorithm::Sha256.digest(&bytes), bytes }
    }

    /// A manifest named by the digest that the caller knows it by.
    ///
    /// # Errors
    /// [`DigestMismatch`] when the bytes have another digest.
    pub fn verified(
        media_type: MediaType,
        bytes: impl Into<Arc<[u8]>>,
        digest: &Digest,
    ) -> Result<Self, DigestMismatch> {
        let bytes = bytes.into();
        let found = digest.algorithm().digest(&bytes);
        if found != *digest {
            return Err(DigestMismatch { expected: *digest, found });
        }
        Ok(Self { media_type, digest: found, bytes })
    }

    /// The media type that a document states in its `mediaType` field, or else the one that its fields amount to.
    ///
    /// # Errors
    /// [`ManifestError`] when it is not JSON, or no kind of manifest.
    pub fn media_type_of(bytes: &[u8]) -> Result<MediaType, ManifestError> {
        let document = Document::parse(bytes)?;
        match (&document.media_type, &document.manifests, &document.config) {
            (Some(stated), _, _) => Ok(stated.parse()?),
            (None, Some(_), None) => Ok(MediaType::OCI_INDEX.parse()?),
            (None, None, Some(_)) => Ok(MediaType::OCI_MANIFEST.parse()?),
            _ => Err(ManifestError::NoMediaType),
        }
    }

    /// The media type that it was pushed with.
    #[must_use]
    pub const fn media_type(&self) -> &MediaType {
        &self.media_type
    }

    /// The digest that it was pushed under.
    #[must_use]
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The exact bytes.
    #[must_use]
    pub const fn bytes(&self) -> &Arc<[u8]> {
        &self.bytes
    }

    /// The descriptor that points at it, without artifact type and annotations.
    #[must_use]
    pub fn descriptor(&self) -> Descriptor {
        Descriptor {
            media_type: self.media_type.clone(),
            digest: self.digest,
            size: self.bytes.len() as u64,
            artifact_type: None,
            annotations: Annotations::new(),
        }
    }

    /// Reads what the manifest says.
    ///
    /// # Errors
    /// [`ManifestError`] for anything but a well-formed manifest of its media type, of at most
    /// [`MAX_MANIFEST_SIZE`] bytes. Unknown fields are passed over.
    pub fn contents(&self) -> Result<Contents, ManifestError> {
        if self.bytes.len() > MAX_MANIFEST_SIZE {
            return Err(ManifestError::TooLarge(self.bytes.len()));
        }
        let kind = ManifestKind::of(&self.media_type)?;
        if kind == ManifestKind::Schema1 {
            return Schema1Image::parse(&self.bytes).map(|image| image.contents());
        }
        Document::parse(&self.bytes)?.contents(kind, &self.media_type)
    }
}

impl fmt::Debug for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Manifest({}, {}, {} bytes)", self.media_type, self.digest, self.bytes.len())
    }
}

/// Content was named by one digest and has another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the content was declared as {expected} and is {found}")]
pub struct DigestMismatch {
    /// What the caller said.
    pub expected: Digest,
    /// What the bytes are.
    pub found: Digest,
}

/// The kinds of manifest that are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ManifestKind {
    /// One image or artifact: a config and layers.
    Image,
    /// A list of manifests.
    Index,
    /// An image as Docker described it before 2016: layers without sizes, and no config. Its bytes are what was signed, without the
    /// signatures.
    Schema1,
}

impl ManifestKind {
    fn of(media_type: &MediaType) -> Result<Self, ManifestError> {
        match media_type.as_str() {
            MediaType::OCI_MANIFEST | MediaType::DOCKER_MANIFEST => Ok(Self::Image),
            MediaType::OCI_INDEX | MediaType::DOCKER_LIST => Ok(Self::Index),
            MediaType::DOCKER_SCHEMA1 => Ok(Self::Schema1),
            _ => Err(ManifestError::UnknownMediaType(media_type.clone())),
        }
    }
}

/// What a manifest says, as far as a registry needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// Image or index.
    pub kind: ManifestKind,
    /// Config, layers and child manifests in the document's order, repetitions included.
    pub references: Vec<Referenced>,
    /// The manifest that this one refers to.
    pub subject: Option<Digest>,
    /// The type that a listing of referrers shows: `artifactType`, or for an image its config's media type.
    pub artifact_type: Option<MediaType>,
    /// The document's annotations.
    pub annotations: Annotations,
}

/// One thing that a manifest is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referenced {
    /// What it is there for, and where in the document.
    pub role: ReferenceRole,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes as the manifest states it; a schema 1 manifest does not.
    pub size: Option<u64>,
    /// Whether a registry may lack it: a layer that is fetched from elsewhere.
    pub non_distributable: bool,
}

/// What a reference is there for. Positions count from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ReferenceRole {
    /// The config blob.
    Config,
    /// The layer at this position.
    Layer(usize),
    /// The child manifest at this position of an index.
    Manifest(usize),
}

impl fmt::Display for ReferenceRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config => f.write_str("config"),
            Self::Layer(at) => write!(f, "layers[{at}]"),
            Self::Manifest(at) => write!(f, "manifests[{at}]"),
        }
    }
}

/// The document as JSON has it. `null` and absent are one, as Go's encoders make no difference between them.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: Option<u64>,
    media_type: Option<String>,
    config: Option<Object<Pointer>>,
    layers: Option<Vec<Object<Pointer>>>,
    manifests: Option<Vec<Object<Pointer>>>,
    subject: Option<Object<Pointer>>,
    artifact_type: Option<String>,
    annotations: Option<Annotations>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pointer {
    media_type: String,
    digest: String,
    size: u64,
}

/// A JSON object. serde would also read an array as the fields in their order, which no other reader takes for a manifest.
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(fields))
            }
        }

        deserializer.deserialize_map(Fields(PhantomData)).map(Self)
    }
}

impl Document {
    fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let Object(document) = serde_json::from_slice::<Object<Self>>(bytes)
            .map_err(|error| ManifestError::Json(error.to_string()))?;
        if depth(bytes) > MAX_DEPTH {
            return Err(ManifestError::TooDeep);
        }
        match document.schema_version {
            Some(2) => Ok(document),
            found => Err(ManifestError::SchemaVersion { wanted: 2, found }),
        }
    }

    fn contents(self, kind: ManifestKind, media_type: &MediaType) -> Result<Contents, ManifestError> {
        if let Some(stated) = self.media_type.as_deref().filter(|stated| *stated != media_type.as_str()) {
            return Err(ManifestError::MediaTypeMismatch {
                stated: shorten(stated),
                pushed: media_type.clone(),
            });
        }
        // A document with the fields of both kinds would be read as one thing here and as another elsewhere.
        let foreign = match kind {
            ManifestKind::Image => self.manifests.is_some().then_some("manifests"),
            ManifestKind::Schema1 => None,
            ManifestKind::Index if self.config.is_some() => Some("config"),
            ManifestKind::Index => self.layers.is_some().then_some("layers"),
        };
        if let Some(field) = foreign {
            return Err(ManifestError::Ambiguous { media_type: media_type.clone(), field });
        }

        let subject =
            self.subject.map(|Object(subject)| digest_at("subject", &subject.digest)).transpose()?;
        let mut artifact_type = match self.artifact_type.as_deref() {
            None | Some("") => None,
            Some(stated) => Some(stated.parse()?),
        };
        let mut references = Vec::new();
        match kind {
            ManifestKind::Image => {
                let Object(config) = self.config.ok_or(ManifestError::NoConfig)?;
                if artifact_type.is_none() {
                    artifact_type = config.media_type.parse().ok();
                }
                references.push(config.referenced(ReferenceRole::Config)?);
                for (at, Object(layer)) in self.layers.into_iter().flatten().enumerate() {
                    references.push(layer.referenced(ReferenceRole::Layer(at))?);
                }
            }
            ManifestKind::Index => {
                for (at, Object(child)) in self.manifests.into_iter().flatten().enumerate() {
                    references.push(child.referenced(ReferenceRole::Manifest(at))?);
                }
            }
            // Read elsewhere.
            ManifestKind::Schema1 => {}
        }
        Ok(Contents {
            kind,
            references,
            subject,
            artifact_type,
            annotations: self.annotations.unwrap_or_default(),
        })
    }
}

/// How deep arrays and objects stand in each other in a JSON document.
fn depth(document: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in document {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

impl Pointer {
    fn referenced(self, role: ReferenceRole) -> Result<Referenced, ManifestError> {
        Ok(Referenced {
            role,
            digest: digest_at(role, &self.digest)?,
            size: Some(self.size),
            non_distributable: matches!(role, ReferenceRole::Layer(_))
                && MediaType::is_non_distributable(&self.media_type),
        })
    }
}

pub(super) fn digest_at(field: impl fmt::Display, digest: &str) -> Result<Digest, ManifestError> {
    digest.parse().map_err(|source| ManifestError::Digest { field: field.to_string(), source })
}

/// Why bytes are not a manifest that can be stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Longer than [`MAX_MANIFEST_SIZE`]; the length is given.
    #[error("a manifest has at most {MAX_MANIFEST_SIZE} bytes, this one has {0}")]
    TooLarge(usize),
    /// Not JSON, or a field of the wrong type, or a field twice; the parser's words are given.
    #[error("the manifest cannot be read: {0}")]
    Json(String),
    /// Arrays and objects stand in each other more than 128 deep.
    #[error("the manifest is nested too deep: at most {MAX_DEPTH} arrays and objects in each other")]
    TooDeep,
    /// `schemaVersion` is not what the media type has.
    #[error("schemaVersion must be {wanted}, found {}", .found.map_or_else(|| "none".to_owned(), |v| v.to_string()))]
    SchemaVersion {
        /// What it must be.
        wanted: u64,
        /// What it is.
        found: Option<u64>,
    },
    /// A media type that is no manifest's.
    #[error(
        "{0} is not a media type of manifests that is served here: use an OCI image manifest or index, or a Docker schema 2 manifest or list"
    )]
    UnknownMediaType(MediaType),
    /// A field that must hold a media type does not.
    #[error(transparent)]
    MediaType(#[from] MediaTypeError),
    /// Neither a `mediaType`, nor the fields of one kind alone.
    #[error("the manifest states no mediaType, and its fields fit no kind of manifest")]
    NoMediaType,
    /// Pushed as one media type, stating another.
    #[error("the manifest was pushed as {pushed} and states mediaType {stated:?}")]
    MediaTypeMismatch {
        /// The document's own field.
        stated: String,
        /// The `Content-Type` of the push.
        pushed: MediaType,
    },
    /// The fields of two kinds at once.
    #[error("a manifest of type {media_type} must not have the field {field:?}")]
    Ambiguous {
        /// What it was pushed as.
        media_type: MediaType,
        /// The field of the other kind.
        field: &'static str,
    },
    /// A schema 1 image does not have as many layers as entries of history, or none.
    #[error(
        "fsLayers and history of a schema 1 manifest have one length, and not none: found {layers} and {history}"
    )]
    History {
        /// How many layers.
        layers: usize,
        /// How many entries of history.
        history: usize,
    },
    /// The name of a schema 1 image is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The tag of a schema 1 image is none.
    #[error(transparent)]
    Tag(#[from] TagError),
    /// An image without a config.
    #[error("an image manifest needs a config")]
    NoConfig,
    /// A layer's TarSum is none.
    #[error("{field}: {source}")]
    TarSum {
        /// Which layer.
        field: String,
        /// What is wrong with it.
        source: TarSumNameError,
    },
    /// A descriptor's digest is none.
    #[error("{field}: {source}")]
    Digest {
        /// Which descriptor.
        field: String,
        /// What is wrong with it.
        source: DigestError,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u8) -> Digest {
        Algorithm::Sha256.digest(&[n])
    }

    fn contents(media_type: &str, document: &serde_json::Value) -> Result<Contents, ManifestError> {
        Manifest::new(media_type.parse().unwrap(), document.to_string().into_bytes()).contents()
    }

    fn pointer(media_type: &str, n: u8) -> serde_json::Value {
        serde_json::json!({ "mediaType": media_type, "digest": digest(n), "size": n, "unknown": [1, 2] })
    }

    #[test]
    fn an_image_names_its_config_and_layers_in_order() {
        let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
        let image = serde_json::json!({
            "schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST,
            "config": pointer("application/x.config", 1),
            "layers": [pointer("application/x", 2), pointer(foreign, 3), pointer("application/x", 2)],
            "subject": pointer(MediaType::OCI_MANIFEST, 9), "annotations": { "a": "b" }, "unknown": {},
        });
        let contents = contents(MediaType::OCI_MANIFEST, &image).unwrap();
        let roles: Vec<_> =
            contents.references.iter().map(|r| (r.role.to_string(), r.digest, r.non_distributable)).collect();
        assert_eq!(
            roles,
            [
                ("config".to_owned(), digest(1), false),
                ("layers[0]".to_owned(), digest(2), false),
                ("layers[1]".to_owned(), digest(3), true),
                ("layers[2]".to_owned(), digest(2), false)
            ]
        );
        assert_eq!(contents.subject, Some(digest(9)));
        assert_eq!(contents.artifact_type.unwrap().as_str(), "application/x.config");
        assert_eq!(contents.annotations["a"], "b");
    }

    #[test]
    fn an_index_may_be_empty_and_has_no_artifact_type_of_its_own() {
        for children in [serde_json::json!([]), serde_json::Value::Null] {
            let index = serde_json::json!({ "schemaVersion": 2, "manifests": children });
            let contents = contents(MediaType::OCI_INDEX, &index).unwrap();
            assert_eq!((contents.references.len(), contents.artifact_type), (0, None));
        }
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let image = |patch: serde_json::Value| {
            let mut image = serde_json::json!({ "schemaVersion": 2, "config": pointer("application/x", 1), "layers": [] });
            image.as_object_mut().unwrap().extend(patch.as_object().unwrap().clone());
            contents(MediaType::OCI_MANIFEST, &image).unwrap_err().to_string()
        };
        let cases = [
            (image(serde_json::json!({ "schemaVersion": 1 })), "schemaVersion must be 2, found 1"),
            (image(serde_json::json!({ "config": null })), "an image manifest needs a config"),
            (
                image(serde_json::json!({ "manifests": [] })),
                "a manifest of type application/vnd.oci.image.manifest.v1+json must not have the field \"manifests\"",
            ),
            (
                image(serde_json::json!({ "mediaType": "a/b" })),
                "the manifest was pushed as application/vnd.oci.image.manifest.v1+json and states mediaType \"a/b\"",
            ),
            (
                image(
                    serde_json::json!({ "layers": [{ "mediaType": "a/b", "digest": "sha256:no", "size": 1 }] }),
                ),
                "layers[0]: a sha256 digest has 64 hex digits, this one has 2",
            ),
        ];
        for (found, expected) in cases {
            assert_eq!(found, expected);
        }
        assert!(matches!(
            contents("text/plain", &serde_json::json!({})),
            Err(ManifestError::UnknownMediaType(_))
        ));
        let large = Manifest::new(MediaType::OCI_INDEX.parse().unwrap(), vec![b' '; MAX_MANIFEST_SIZE + 1]);
        assert_eq!(large.contents(), Err(ManifestError::TooLarge(MAX_MANIFEST_SIZE + 1)));
    }

    #[test]
    fn depth_and_repeated_fields_are_refused_without_a_panic() {
        let deep =
            format!("{{\"schemaVersion\":2,\"config\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        for text in
            [deep.as_str(), "{\"schemaVersion\":2,\"schemaVersion\":2,\"manifests\":[]}", "", "[]", "\u{0}"]
        {
            let manifest = Manifest::new(MediaType::OCI_INDEX.parse().unwrap(), text.as_bytes());
            assert!(matches!(manifest.contents(), Err(ManifestError::Json(_))));
        }
    }

    #[test]
    fn what_is_unknown_is_not_nested_without_bounds() {
        for (more, taken) in [(0, true), (MAX_DEPTH - 1, true), (MAX_DEPTH, false), (10_000, false)] {
            for [open, close] in [["[", "]"], ["{\"x\":", "}"]] {
                // What stands in strings opens nothing.
                let inner = format!("\"[{{[\\\"{}\\\\\"", "[".repeat(200));
                let nested = format!("{}{inner}{}", open.repeat(more), close.repeat(more));
                let document = format!("{{\"schemaVersion\":2,\"manifests\":[],\"x\":{nested},\"y\":[]}}");
                let contents =
                    Manifest::new(MediaType::OCI_INDEX.parse().unwrap(), document.into_bytes()).contents();
                assert_eq!(
                    contents.map(|_| ()),
                    if taken { Ok(()) } else { Err(ManifestError::TooDeep) },
                    "{more}"
                );
            }
        }
    }

    #[test]
    fn an_array_is_no_document_and_no_descriptor() {
        // serde reads the fields of a struct from an array too; a registry that did so stored what nobody else can read.
        let pointer = serde_json::json!(["application/x", digest(1), 2]);
        let array = serde_json::json!([2, MediaType::OCI_MANIFEST, pointer, [], null, null, null, {}]);
        let inner = serde_json::json!({ "schemaVersion": 2, "config": pointer, "layers": [] });
        for document in [array, inner] {
            let error = contents(MediaType::OCI_MANIFEST, &document).unwrap_err().to_string();
            assert!(error.contains("invalid type: sequence, expected an object"), "{error}");
        }
    }

    #[test]
    fn the_media_type_is_found_where_nobody_stated_it() {
        let of = |text: &str| Manifest::media_type_of(text.as_bytes()).map(|found| found.to_string());
        assert_eq!(of("{\"schemaVersion\":2,\"manifests\":[]}").unwrap(), MediaType::OCI_INDEX);
        assert_eq!(of("{\"schemaVersion\":2,\"mediaType\":\"a/b\"}").unwrap(), "a/b");
        assert_eq!(of("{\"schemaVersion\":2}"), Err(ManifestError::NoMediaType));
    }

    #[test]
    fn a_manifest_is_checked_against_its_digest() {
        let media_type: MediaType = MediaType::OCI_INDEX.parse().unwrap();
        let digest = Algorithm::Sha512.digest(b"{}");
        assert_eq!(Manifest::verified(media_type.clone(), &b"{}"[..], &digest).unwrap().digest(), &digest);
        let mismatch = Manifest::verified(media_type, &b"{ }"[..], &digest).unwrap_err();
        assert_eq!(mismatch.found, Algorithm::Sha512.digest(b"{ }"));
    }
}
