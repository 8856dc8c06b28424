//! Documents with their signatures: a JSON Web Signature that still reads as the JSON that it signs.
//!
//! A signature covers the payload: the first bytes of the document, as many as its protected header says, and the tail that it
//! holds. What else stands in the document is nobody's word, and nothing of it is read.

use std::collections::BTreeSet;

use base64::Engine;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::key::{BASE64URL, PublicKey, SignatureError};
use super::{Schema1Image, strict};
use crate::oci::manifest::Object;
use crate::oci::{
    Digest, MAX_MANIFEST_SIZE, Manifest, ManifestError, MediaType, MediaTypeError, RepositoryName, Tag,
    TarSum,
};

/// The most signatures of one document.
const MOST_SIGNATURES: usize = 32;

/// A schema 1 manifest and signatures of it, whether or not they hold: [`SignedManifest::verify`] tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedManifest {
    manifest: Manifest,
    image: Schema1Image,
    format: Format,
    /// Each once, by its key and then by its text.
    signatures: BTreeSet<Signature>,
}

/// How a document is made of a payload: its first bytes, the signatures, and the rest of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Format {
    length: usize,
    tail: Vec<u8>,
}

/// Someone's signature of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    block: Block,
    format: Format,
    bytes: Vec<u8>,
    key: Result<PublicKey, SignatureError>,
    /// The block as JSON.
    text: String,
}

impl Signature {
    /// Reads one as it stands in a document, or as [`Signature::as_str`] gave it.
    ///
    /// # Errors
    /// [`SignedManifestError`] when it is none.
    pub fn parse(text: &str) -> Result<Self, SignedManifestError> {
        strict::check(text.as_bytes()).map_err(SignedManifestError::json)?;
        let Object(block) = serde_json::from_str::<Object<Block>>(text).map_err(SignedManifestError::json)?;
        Self::of(0, block)
    }

    fn of(at: usize, block: Block) -> Result<Self, SignedManifestError> {
        let wrong = |reason: &str| SignedManifestError::Signature { at, reason: reason.to_owned() };
        let protected = BASE64URL.decode(&block.protected).map_err(|_| wrong("protected is no base64url"))?;
        let protected = strict::check(&protected)
            .and_then(|()| serde_json::from_slice::<Object<Protected>>(&protected))
            .map_err(|error| wrong(&format!("protected: {error}")))?;
        let Object(Protected { format_length, format_tail }) = protected;
        let length = usize::try_from(format_length).map_err(|_| wrong("formatLength is too large"))?;
        let tail = BASE64URL.decode(format_tail).map_err(|_| wrong("formatTail is no base64url"))?;
        let bytes = BASE64URL.decode(&block.signature).map_err(|_| wrong("signature is no base64url"))?;
        let key = match (&block.header.jwk, &block.header.x5c) {
            (Some(jwk), None) => PublicKey::from_jwk(jwk),
            (None, Some(chain)) => PublicKey::from_chain(chain),
            (None, None) => Err(SignatureError::Key("there is neither a jwk nor an x5c".to_owned())),
            (Some(_), Some(_)) => {
                Err(SignatureError::Key("there is a jwk and an x5c: one of them".to_owned()))
            }
        };
        let text = serde_json::to_string(&block).map_err(SignedManifestError::json)?;
        Ok(Self { block, format: Format { length, tail }, bytes, key, text })
    }

    /// The signature as JSON.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The id of the key by libtrust's rules, whether or not it has signed anything; `None` for a key that is none.
    #[must_use]
    pub fn key_id(&self) -> Option<&str> {
        self.key.as_ref().ok().map(PublicKey::id)
    }

    /// Whether it is a signature of this manifest.
    ///
    /// # Errors
    /// [`SignatureError`] where it does not hold.
    pub fn verify(&self, manifest: &Manifest) -> Result<(), SignatureError> {
        let key = self.key.as_ref().map_err(Clone::clone)?;
        let signed = [self.block.protected.as_str(), ".", &BASE64URL.encode(manifest.bytes())].concat();
        key.verify(&self.block.header.alg, signed.as_bytes(), &self.bytes)
    }
}

impl Ord for Signature {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.key_id(), &self.text).cmp(&(other.key_id(), &other.text))
    }
}

impl PartialOrd for Signature {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Block {
    #[serde(deserialize_with = "object")]
    header: Header,
    signature: String,
    protected: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    #[serde(skip_serializing_if = "Option::is_none")]
    jwk: Option<Value>,
    alg: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    x5c: Option<Vec<String>>,
}

fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Object::deserialize(deserializer).map(|Object(value)| value)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Protected {
    format_length: u64,
    format_tail: String,
}

#[derive(Deserialize)]
struct Signed {
    signatures: Option<Vec<Object<Block>>>,
}

impl SignedManifest {
    /// Reads a document as it is pushed.
    ///
    /// # Errors
    /// [`SignedManifestError`] when it cannot be told what was signed, or that is no schema 1 manifest. Whether the signatures hold
    /// is not looked at.
    pub fn parse(document: &[u8]) -> Result<Self, SignedManifestError> {
        if document.len() > MAX_MANIFEST_SIZE {
            return Err(ManifestError::TooLarge(document.len()).into());
        }
        strict::check(document).map_err(SignedManifestError::json)?;
        let Object(Signed { signatures }) =
            serde_json::from_slice(document).map_err(SignedManifestError::json)?;
        let blocks = signatures.unwrap_or_default();
        if blocks.len() > MOST_SIGNATURES {
            return Err(SignedManifestError::TooManySignatures(blocks.len()));
        }
        let blocks = blocks.into_iter().enumerate();
        let signatures: Vec<Signature> =
            blocks.map(|(at, Object(block))| Signature::of(at, block)).collect::<Result<_, _>>()?;
        let format = signatures.first().ok_or(SignedManifestError::NotSigned)?.format.clone();
        if let Some(at) = signatures.iter().position(|signature| signature.format != format) {
            return Err(SignedManifestError::Disagree(at));
        }
        let head = document
            .get(..format.length)
            .ok_or(SignedManifestError::FormatLength { length: format.length, document: document.len() })?;
        let payload = [head, &format.tail].concat();
        let manifest = Manifest::new(schema1()?, payload);
        Self::assemble(manifest, signatures)
    }

    /// The manifest with signatures that were kept apart from it. Those that cannot stand in one document with the first of them,
    /// by its key, are left out, and so are more than a document can have.
    ///
    /// # Errors
    /// [`SignedManifestError`] when there is none, or the manifest leaves no place for them.
    pub fn assemble(
        manifest: Manifest,
        signatures: impl IntoIterator<Item = Signature>,
    ) -> Result<Self, SignedManifestError> {
        let image = Schema1Image::parse(manifest.bytes())?;
        let signatures: BTreeSet<Signature> = signatures.into_iter().collect();
        let format = signatures.first().ok_or(SignedManifestError::NotSigned)?.format.clone();
        let signatures = signatures
            .into_iter()
            .filter(|signature| signature.format == format)
            .take(MOST_SIGNATURES)
            .collect();
        let signed = Self { manifest, image, format, signatures };
        // What is served is to be read as what was signed, by whoever looks for the fields in the document too.
        let payload = signed.manifest.bytes();
        if payload.get(signed.format.length..) != Some(&signed.format.tail) {
            return Err(SignedManifestError::NoPlace);
        }
        let document = signed.to_bytes();
        if document.len() > MAX_MANIFEST_SIZE {
            return Err(ManifestError::TooLarge(document.len()).into());
        }
        strict::check(&document).map_err(|_| SignedManifestError::NoPlace)?;
        Ok(signed)
    }

    /// What was signed, as it is stored: its digest is the manifest's.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What it says, of which each field was signed.
    #[must_use]
    pub const fn image(&self) -> &Schema1Image {
        &self.image
    }

    /// The signatures, in a stable order: by the ids of their keys.
    pub fn signatures(&self) -> impl DoubleEndedIterator<Item = &Signature> + ExactSizeIterator {
        self.signatures.iter()
    }

    /// What is wrong with the signatures that do not hold, in their order; nothing where all of them do.
    #[must_use]
    pub fn verify(&self) -> Vec<SignatureError> {
        self.signatures.iter().filter_map(|signature| signature.verify(&self.manifest).err()).collect()
    }

    /// Whether the signatures of both, which are of the same manifest, can stand in one document.
    #[must_use]
    pub fn fits(&self, other: &Self) -> bool {
        self.format == other.format && self.signatures.union(&other.signatures).count() <= MOST_SIGNATURES
    }

    /// The document: what was signed, and the signatures in it.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let payload = self.manifest.bytes();
        let mut document = payload.get(..self.format.length).unwrap_or(payload).to_vec();
        document.extend_from_slice(b",\n   \"signatures\": [\n      ");
        let texts: Vec<&str> = self.signatures.iter().map(Signature::as_str).collect();
        document.extend_from_slice(texts.join(",\n      ").as_bytes());
        document.extend_from_slice(b"\n   ]");
        document.extend_from_slice(&self.format.tail);
        document
    }
}

fn schema1() -> Result<MediaType, MediaTypeError> {
    MediaType::DOCKER_SCHEMA1.parse()
}

/// Why a signed manifest cannot be put where it was to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignedManifestFault {
    /// It was made for another repository.
    #[error("the manifest was signed for repository {stated}, and is put into {repository}")]
    Name {
        /// What it says.
        stated: RepositoryName,
        /// Where it was to be put.
        repository: RepositoryName,
    },
    /// It was made for another tag.
    #[error("the manifest was signed for tag {stated}, and is put as {asked}")]
    Tag {
        /// What it says.
        stated: Tag,
        /// What it was to be put as.
        asked: Tag,
    },
    /// What was signed has another digest.
    #[error("the digest of what was signed is {found}, and it is put as {asked}")]
    Digest {
        /// The digest of what was signed.
        found: Digest,
        /// What it was to be put as.
        asked: Digest,
    },
    /// A signature does not hold.
    #[error("a signature does not hold: {0}")]
    Signature(SignatureError),
    /// The repository has no blob of a TarSum by which a layer is named.
    #[error("fsLayers[{at}] ({tar_sum}) is unknown in the repository")]
    Layer {
        /// Which layer, counted from zero.
        at: usize,
        /// Its name.
        tar_sum: TarSum,
    },
    /// The repository has as many signatures of it as a document can have, or has them in another form.
    #[error("the repository has signatures of this manifest that cannot stand in one document with these")]
    Others,
}

/// Why bytes are not a signed manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignedManifestError {
    /// Not JSON, or a field of the wrong type, or a key twice; the parser's words are given.
    #[error("the signed manifest cannot be read: {0}")]
    Json(String),
    /// There are no signatures.
    #[error("a schema 1 manifest is signed, this one is not: it has no \"signatures\"")]
    NotSigned,
    /// More signatures than a document can have; their number is given.
    #[error("a signed manifest has at most {MOST_SIGNATURES} signatures, this one has {0}")]
    TooManySignatures(usize),
    /// A signature does not say what it signs.
    #[error("signatures[{at}]: {reason}")]
    Signature {
        /// Which one, counted from zero.
        at: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A signature is of other bytes than the first.
    #[error(
        "signatures[{0}] signs other bytes than the first: formatLength and formatTail are to be the same"
    )]
    Disagree(usize),
    /// The payload is to be longer than the document.
    #[error("formatLength is {length}, and the document has {document} bytes")]
    FormatLength {
        /// What the signatures say.
        length: usize,
        /// The document's length in bytes.
        document: usize,
    },
    /// Signatures put where they are to stand make no JSON of the payload, or JSON that says something else.
    #[error(
        "what was signed leaves no place for its signatures: formatLength is to end behind its last field"
    )]
    NoPlace,
    /// What was signed is no schema 1 manifest.
    #[error(transparent)]
    Payload(#[from] ManifestError),
}

impl SignedManifestError {
    #[expect(clippy::needless_pass_by_value, reason = "for map_err")]
    fn json(error: serde_json::Error) -> Self {
        Self::Json(error.to_string())
    }
}

impl From<MediaTypeError> for SignedManifestError {
    fn from(error: MediaTypeError) -> Self {
        Self::Payload(error.into())
    }
}
