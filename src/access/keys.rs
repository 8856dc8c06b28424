//! Public keys that sign tokens, from a JSON Web Key Set (RFC 7517).

use std::fmt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::Deserialize;
use serde_json::Value;

use super::error::{self, AccessError};

/// The longest key set, in bytes.
const LONGEST: usize = 1 << 20;
/// How many keys of a set can be used: a token that does not say which one signed it is tried with each.
const MOST: usize = 32;

/// How a token is signed. There is no way to say that it is not, nor that the key is a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum Algorithm {
    #[serde(rename = "RS256")]
    Rs256,
    #[serde(rename = "ES256")]
    Es256,
    #[serde(rename = "EdDSA")]
    EdDsa,
}

/// The public keys of who gives tokens: RSA of 2048 to 8192 bits (RS256), P-256 (ES256) and Ed25519 (`EdDSA`).
#[derive(Clone)]
pub struct KeySet {
    keys: Vec<Key>,
}

#[derive(Clone)]
struct Key {
    id: Option<String>,
    public: Public,
}

#[derive(Clone)]
enum Public {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// The point, uncompressed.
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// A key as the set has it. What is no member of the kinds that are used is not looked at.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<Value>,
}

impl KeySet {
    /// Reads a key set from a file, `{"keys": [...]}`. Keys that are not for signatures of these kinds are passed over.
    ///
    /// # Errors
    /// [`AccessError::Read`], and [`AccessError::Keys`] where a key is damaged, and where none can be used.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, AccessError> {
        let path = path.as_ref();
        Self::parse(&error::read(path, LONGEST)?).map_err(|error| error.of(path))
    }

    /// The same from its bytes.
    ///
    /// # Errors
    /// [`AccessError::Keys`].
    pub fn parse(bytes: &[u8]) -> Result<Self, AccessError> {
        let wrong = |reason: String| AccessError::Keys { path: None, reason };
        if bytes.len() > LONGEST {
            return Err(wrong(format!("a key set has at most {LONGEST} bytes, this has {}", bytes.len())));
        }
        let set: Jwks = serde_json::from_slice(bytes).map_err(|error| {
            // Where, and not what: somebody may have taken a private key for it.
            let (line, column) = (error.line(), error.column());
            wrong(format!("line {line}, column {column}: this is no JSON Web Key Set, {{\"keys\": [...]}}"))
        })?;
        let mut keys = Vec::new();
        for (at, value) in set.keys.into_iter().enumerate() {
            let key =
                Key::read(value).map_err(|reason| wrong(format!("key {} of the set: {reason}", at + 1)))?;
            keys.extend(key);
        }
        match keys.len() {
            0 => Err(wrong(
                "no key of the set can be used: it takes RSA (RS256), P-256 (ES256) or Ed25519 (EdDSA), for signatures".to_owned(),
            )),
            count if count > MOST => Err(wrong(format!("a key set has at most {MOST} keys that can be used, this has {count}"))),
            _ => Ok(Self { keys }),
        }
    }

    /// The set of one Ed25519 key.
    pub(super) fn ed25519(id: String, public: &[u8]) -> Self {
        Self { keys: vec![Key { id: Some(id), public: Public::Ed25519(public.to_owned()) }] }
    }

    /// Whether one of the keys has signed this. A key is used with its own algorithm alone.
    pub(super) fn verify(
        &self,
        algorithm: Algorithm,
        id: Option<&str>,
        message: &[u8],
        signature: &[u8],
    ) -> bool {
        self.keys
            .iter()
            .filter(|key| match (id, key.id.as_deref()) {
                (Some(asked), Some(id)) => asked == id,
                _ => true,
            })
            .any(|key| key.public.verify(algorithm, message, signature))
    }
}

impl Key {
    /// `None` for a key of another kind, or for another use.
    fn read(value: Value) -> Result<Option<Self>, &'static str> {
        let jwk: Jwk = serde_json::from_value(value).map_err(|_| "this is no JSON Web Key")?;
        let decode = |member: Option<&String>| {
            let text = member.ok_or("a member is missing")?;
            URL_SAFE_NO_PAD.decode(text).map_err(|_| "a member is no base64url")
        };
        if jwk.usage.as_deref().is_some_and(|usage| usage != "sig") {
            return Ok(None);
        }
        let (algorithm, public) = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            // RSA keys serve other algorithms, too, so that one without a word on it is taken.
            ("RSA", _) => {
                let (n, e) = (decode(jwk.n.as_ref())?, decode(jwk.e.as_ref())?);
                let strip =
                    |bytes: Vec<u8>| bytes.into_iter().skip_while(|byte| *byte == 0).collect::<Vec<u8>>();
                let (n, e) = (strip(n), strip(e));
                if !(256..=1024).contains(&n.len()) || e.is_empty() || e.len() > 4 {
                    return Err("an RSA key has 2048 to 8192 bits, and an exponent of up to 32");
                }
                ("RS256", Public::Rsa { n, e })
            }
            ("EC", Some("P-256")) => {
                let (x, y) = (decode(jwk.x.as_ref())?, decode(jwk.y.as_ref())?);
                if x.len() != 32 || y.len() != 32 {
                    return Err("the coordinates of a P-256 key have 32 bytes each");
                }
                ("ES256", Public::P256([vec![4], x, y].concat()))
            }
            ("OKP", Some("Ed25519")) => {
                let x = decode(jwk.x.as_ref())?;
                if x.len() != 32 {
                    return Err("an Ed25519 key has 32 bytes");
                }
                ("EdDSA", Public::Ed25519(x))
            }
            _ => return Ok(None),
        };
        let fits =
            jwk.alg.is_none_or(|named| named == algorithm || (algorithm == "EdDSA" && named == "Ed25519"));
        Ok(fits.then_some(Self { id: jwk.kid, public }))
    }
}

impl Public {
    fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        let verified = match (self, algorithm) {
            (Self::Rsa { n, e }, Algorithm::Rs256) => {
                RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
            }
            (Self::P256(point), Algorithm::Es256) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            (Self::Ed25519(key), Algorithm::EdDsa) => {
                UnparsedPublicKey::new(&ED25519, key).verify(message, signature)
            }
            _ => return false,
        };
        verified.is_ok()
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeySet({} keys)", self.keys.len())
    }
}

/// Keys and tokens that another implementation made: Python's `cryptography`.
#[cfg(test)]
pub(super) fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors.json")).unwrap()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(keys: &[Value]) -> Result<KeySet, AccessError> {
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes())
    }

    #[test]
    fn keys_of_three_kinds_are_read_and_others_are_passed_over() {
        let vectors = vectors();
        let good = vectors["jwks"]["keys"].as_array().unwrap();
        assert_eq!(parse(good).unwrap().keys.len(), 3);
        let with = |at: usize, member: &str, value: Value| {
            let mut key = good[at].clone();
            key[member] = value;
            key
        };
        for other in [
            json!({ "kty": "oct", "k": "c2VjcmV0" }),
            json!({ "kty": "EC", "crv": "P-384", "x": "AA", "y": "AA" }),
            json!({ "kty": "OKP", "crv": "X25519", "x": "AA" }),
            with(0, "alg", json!("RS512")),
            with(0, "alg", json!("HS256")),
            with(0, "use", json!("enc")),
            with(2, "alg", json!("none")),
        ] {
            assert_eq!(parse(&[other.clone(), good[1].clone()]).unwrap().keys.len(), 1, "{other}");
            let error = parse(std::slice::from_ref(&other)).unwrap_err().to_string();
            assert!(error.contains("no key of the set can be used"), "{other}: {error}");
        }
        for damaged in [
            json!("x"),
            json!({}),
            with(0, "n", json!("!")),
            with(0, "n", json!(null)),
            with(0, "n", vectors["short_n"].clone()),
            with(0, "e", json!("AAAA")),
            with(1, "y", json!("AAAA")),
            with(1, "x", json!(7)),
            with(2, "x", json!("AAAA")),
        ] {
            let error = parse(&[good[0].clone(), damaged.clone()]).unwrap_err().to_string();
            assert!(error.starts_with("key 2 of the set: "), "{damaged}: {error}");
        }
    }

    #[test]
    fn what_is_no_key_set_is_told_without_what_is_in_it() {
        let secret = "-----BEGIN PRIVATE KEY----- hunter2";
        for text in [secret, "", "[]", "{}", "{\"keys\":{}}", "{\"keys\":[\"hunter2\"]}"] {
            let error = KeySet::parse(text.as_bytes()).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
        assert!(KeySet::parse(&vec![b' '; LONGEST + 1]).is_err());
        let many = vec![vectors()["jwks"]["keys"][2].clone(); MOST + 1];
        assert!(parse(&many).unwrap_err().to_string().contains("at most 32"));
        let error = KeySet::load("/nowhere/keys.json").unwrap_err().to_string();
        assert!(error.starts_with("/nowhere/keys.json: cannot be read"), "{error}");
    }
}
