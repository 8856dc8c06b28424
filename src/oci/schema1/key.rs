//! The keys that sign, as docker's libtrust writes them: a JSON Web Key, or a chain of certificates whose first has the key.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use data_encoding::BASE32_NOPAD;
use p521::ecdsa::signature::Verifier;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use x509_cert::Certificate;
use x509_cert::der::asn1::{Any, BitString, Null, ObjectIdentifier, UintRef};
use x509_cert::der::{Decode, Encode, Reader, SliceReader, Tag};
use x509_cert::spki::{AlgorithmIdentifier, SubjectPublicKeyInfo, SubjectPublicKeyInfoOwned};

use crate::oci::digest::shorten;
use crate::oci::manifest::Object;

/// Go wrote base64url without padding, and reads it with and without.
pub(super) const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The most certificates of a chain.
const LONGEST_CHAIN: usize = 10;

/// Of a key's id: 240 bits of a hash, in groups of four letters.
const ID_SIZE: usize = 30;
const ID_GROUP: usize = 4;

const ID_EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const ID_RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// Why a signature does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// Its key cannot be used; the words say why.
    #[error("{0}")]
    Key(String),
    /// The key is not the one that its `kid` names.
    #[error("the key says that it is {stated}, and is {found}")]
    KeyId {
        /// What its `kid` says.
        stated: String,
        /// What its `kid` is to say.
        found: String,
    },
    /// The algorithm does not fit the key, or is none that is known. None at all is no algorithm either.
    #[error("algorithm {named:?} does not fit the key, {key}")]
    Algorithm {
        /// What `alg` says.
        named: String,
        /// What kind of key it is, with the algorithms that fit it.
        key: &'static str,
    },
    /// The key has not signed this.
    #[error("the key {0} has not signed this")]
    Invalid(String),
}

impl SignatureError {
    fn key(reason: impl Into<String>) -> Self {
        Self::Key(reason.into())
    }
}

/// A key that can have signed something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PublicKey {
    kind: Kind,
    id: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// The point, uncompressed.
    Ec(Curve, Vec<u8>),
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "P-256" => Self::P256,
            "P-384" => Self::P384,
            "P-521" => Self::P521,
            _ => return None,
        })
    }

    const fn id(self) -> ObjectIdentifier {
        match self {
            Self::P256 => ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7"),
            Self::P384 => ObjectIdentifier::new_unwrap("1.3.132.0.34"),
            Self::P521 => ObjectIdentifier::new_unwrap("1.3.132.0.35"),
        }
    }

    /// Bytes of a coordinate.
    const fn size(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
}

impl PublicKey {
    /// A JSON Web Key.
    pub(super) fn from_jwk(jwk: &serde_json::Value) -> Result<Self, SignatureError> {
        let Object(jwk) =
            Object::<Jwk>::deserialize(jwk).map_err(|error| SignatureError::key(format!("jwk: {error}")))?;
        let member = |name: &str, text: Option<&String>| {
            let text = text.ok_or_else(|| SignatureError::key(format!("jwk: there is no {name}")))?;
            BASE64URL.decode(text).map_err(|_| SignatureError::key(format!("jwk: {name} is no base64url")))
        };
        let kind = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("EC", curve) => {
                let curve = curve
                    .and_then(Curve::named)
                    .ok_or_else(|| SignatureError::key("jwk: crv is none of P-256, P-384 and P-521"))?;
                let (x, y) = (member("x", jwk.x.as_ref())?, member("y", jwk.y.as_ref())?);
                if x.len() != curve.size() || y.len() != curve.size() {
                    return Err(SignatureError::key(format!(
                        "jwk: x and y have {} bytes each",
                        curve.size()
                    )));
                }
                Kind::Ec(curve, [vec![4], x, y].concat())
            }
            ("RSA", _) => Kind::rsa(&member("n", jwk.n.as_ref())?, &member("e", jwk.e.as_ref())?)?,
            (other, _) => {
                return Err(SignatureError::key(format!(
                    "jwk: kty {:?} is neither EC nor RSA",
                    shorten(other)
                )));
            }
        };
        let id = kind.id()?;
        match jwk.kid.filter(|stated| *stated != id) {
            Some(stated) => Err(SignatureError::KeyId { stated: shorten(&stated), found: id }),
            None => Ok(Self { kind, id }),
        }
    }

    /// The key of the first certificate of a chain; whether anybody should trust that is not looked at.
    pub(super) fn from_chain(chain: &[String]) -> Result<Self, SignatureError> {
        if chain.is_empty() || chain.len() > LONGEST_CHAIN {
            let count = chain.len();
            return Err(SignatureError::key(format!(
                "x5c has 1 to {LONGEST_CHAIN} certificates, found {count}"
            )));
        }
        let mut certificates = Vec::with_capacity(chain.len());
        for (at, text) in chain.iter().enumerate() {
            let wrong = |what: &str| SignatureError::key(format!("x5c[{at}] is no {what}"));
            let der = STANDARD.decode(text).map_err(|_| wrong("base64"))?;
            certificates.push(Certificate::from_der(&der).map_err(|_| wrong("certificate"))?);
        }
        let leaf = certificates.first().ok_or_else(|| SignatureError::key("x5c is empty"))?;
        let kind = Kind::of(leaf.tbs_certificate().subject_public_key_info())?;
        Ok(Self { id: kind.id()?, kind })
    }

    /// libtrust's id of it.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Whether it has signed this, by an algorithm that fits it.
    pub(super) fn verify(
        &self,
        algorithm: &str,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), SignatureError> {
        let unfit = || SignatureError::Algorithm { named: shorten(algorithm), key: self.kind.words() };
        let holds = match (&self.kind, algorithm) {
            (Kind::Ec(Curve::P256, point), "ES256") => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature).is_ok()
            }
            (Kind::Ec(Curve::P384, point), "ES384") => {
                UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point).verify(message, signature).is_ok()
            }
            (Kind::Ec(Curve::P521, point), "ES512") => {
                let key = p521::ecdsa::VerifyingKey::from_sec1_bytes(point);
                let signature = p521::ecdsa::Signature::from_slice(signature);
                key.and_then(|key| key.verify(message, &signature?)).is_ok()
            }
            (Kind::Rsa { n, e }, algorithm) => {
                let parameters = match algorithm {
                    "RS256" => &RSA_PKCS1_2048_8192_SHA256,
                    "RS384" => &RSA_PKCS1_2048_8192_SHA384,
                    "RS512" => &RSA_PKCS1_2048_8192_SHA512,
                    _ => return Err(unfit()),
                };
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signature).is_ok()
            }
            _ => return Err(unfit()),
        };
        if holds { Ok(()) } else { Err(SignatureError::Invalid(self.id.clone())) }
    }
}

impl Kind {
    fn rsa(n: &[u8], e: &[u8]) -> Result<Self, SignatureError> {
        let strip = |bytes: &[u8]| bytes.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<u8>>();
        let (n, e) = (strip(n), strip(e));
        if !(256..=1024).contains(&n.len()) || e.is_empty() || e.len() > 4 {
            return Err(SignatureError::key("an RSA key has 2048 to 8192 bits, and an exponent of up to 32"));
        }
        Ok(Self::Rsa { n, e })
    }

    /// The key of a certificate.
    fn of(info: &SubjectPublicKeyInfoOwned) -> Result<Self, SignatureError> {
        let wrong =
            || SignatureError::key("the key of x5c[0] is damaged, or neither P-256, P-384, P-521 nor RSA");
        let bytes = info.subject_public_key.as_bytes().ok_or_else(wrong)?;
        match info.algorithm.oid {
            ID_EC => {
                let named = info.algorithm.parameters.as_ref().ok_or_else(wrong)?;
                let named = named.decode_as::<ObjectIdentifier>().map_err(|_| wrong())?;
                let curves = [Curve::P256, Curve::P384, Curve::P521];
                let curve = curves.into_iter().find(|curve| curve.id() == named).ok_or_else(wrong)?;
                // Uncompressed, as Go writes it.
                if bytes.first() != Some(&4) || bytes.len() != 1 + 2 * curve.size() {
                    return Err(wrong());
                }
                Ok(Self::Ec(curve, bytes.to_vec()))
            }
            ID_RSA => {
                let numbers = |reader: &mut SliceReader<'_>| -> x509_cert::der::Result<(Vec<u8>, Vec<u8>)> {
                    reader.sequence(|numbers| {
                        let (n, e) = (UintRef::decode(numbers)?, UintRef::decode(numbers)?);
                        Ok((n.as_bytes().to_vec(), e.as_bytes().to_vec()))
                    })
                };
                let (n, e) = SliceReader::new(bytes)
                    .and_then(|mut reader| numbers(&mut reader))
                    .map_err(|_| wrong())?;
                Self::rsa(&n, &e)
            }
            _ => Err(wrong()),
        }
    }

    /// What fits it, for a message.
    const fn words(&self) -> &'static str {
        match self {
            Self::Ec(Curve::P256, _) => "P-256 (ES256)",
            Self::Ec(Curve::P384, _) => "P-384 (ES384)",
            Self::Ec(Curve::P521, _) => "P-521 (ES512)",
            Self::Rsa { .. } => "RSA (RS256, RS384, RS512)",
        }
    }

    /// A hash of the key as a certificate has it.
    fn id(&self) -> Result<String, SignatureError> {
        let wrong = |_: x509_cert::der::Error| SignatureError::key("the key has no id");
        let (oid, parameters, key) = match self {
            Self::Ec(curve, point) => (ID_EC, Any::encode_from(&curve.id()).map_err(wrong)?, point.clone()),
            Self::Rsa { n, e } => {
                let mut numbers = UintRef::new(n).and_then(|n| n.to_der()).map_err(wrong)?;
                numbers.extend(UintRef::new(e).and_then(|e| e.to_der()).map_err(wrong)?);
                let pair = Any::new(Tag::Sequence, numbers).and_then(|pair| pair.to_der()).map_err(wrong)?;
                (ID_RSA, Any::encode_from(&Null).map_err(wrong)?, pair)
            }
        };
        let info = SubjectPublicKeyInfo {
            algorithm: AlgorithmIdentifier { oid, parameters: Some(parameters) },
            subject_public_key: BitString::from_bytes(&key).map_err(wrong)?,
        };
        let hash = Sha256::digest(info.to_der().map_err(wrong)?);
        let text = BASE32_NOPAD.encode(hash.get(..ID_SIZE).unwrap_or(&hash));
        let groups: Vec<&str> =
            text.as_bytes().chunks(ID_GROUP).filter_map(|group| std::str::from_utf8(group).ok()).collect();
        Ok(groups.join(":"))
    }
}
