//! Tokens: JSON Web Tokens (RFC 7519), signed, with the `access` claim of Docker's token specification.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::credentials::Token;
use super::endpoint::check_url;
use super::error::AccessError;
use super::identity::{Identity, Proof};
use super::keys::{Algorithm, KeySet};
use super::scope::{self, Entry, Scopes};

/// How far clocks may be apart, in seconds.
const LEEWAY: f64 = 30.0;

/// Somebody elsewhere who gives tokens for this registry.
#[derive(Clone, Debug)]
pub struct TokenIssuer {
    pub(super) name: String,
    pub(super) service: String,
    pub(super) realm: String,
    keys: KeySet,
}

impl TokenIssuer {
    /// Takes tokens that one of these keys signed, in which `iss` is `issuer` and `aud` is, or has among others, `service`. Clients are
    /// sent to `realm`, an URL, to get them.
    ///
    /// A token is good for what its `access` claim names, as far as the policy allows it too: to leave all to the issuer, the policy
    /// lets every user do everything.
    ///
    /// # Errors
    /// [`AccessError::Setting`] for an empty issuer, and a service or realm that could not be told to clients.
    pub fn new(issuer: &str, service: &str, realm: &str, keys: KeySet) -> Result<Self, AccessError> {
        if issuer.is_empty() {
            return Err(AccessError::Setting(
                "the issuer of tokens has no name: give what they have as \"iss\"".to_owned(),
            ));
        }
        check_service(service)?;
        check_url(realm)?;
        Ok(Self { name: issuer.to_owned(), service: service.to_owned(), realm: realm.to_owned(), keys })
    }

    /// Who comes with this token.
    pub(super) fn identify(&self, token: &Signed<'_>, now: u64) -> Result<Identity, &'static str> {
        let claims = token.verified(&self.keys)?;
        claims.check(&self.name, &self.service, now)?;
        claims.identity()
    }
}

/// A service's name stands in quotes in a header.
pub(super) fn check_service(service: &str) -> Result<(), AccessError> {
    let plain = service.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'));
    if service.is_empty() || service.len() > 255 || !plain {
        let shown: String = service.chars().take(80).collect();
        return Err(AccessError::Setting(format!(
            "{shown:?} is no name of a service: use 1 to 255 letters, digits and signs, without spaces and quotes, such as \
             registry.example.org"
        )));
    }
    Ok(())
}

/// A token taken apart, of which nothing is known to be true.
pub(super) struct Signed<'a> {
    header: Header,
    message: &'a str,
    claims: &'a str,
    signature: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    /// Another one than these three makes a token none.
    alg: Alg,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
    /// What a reader must understand. There is nothing that this one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crit: Option<serde_json::Value>,
}

/// An algorithm in a header, where it can be written, too.
#[derive(Deserialize)]
#[serde(transparent)]
struct Alg(Algorithm);

impl Serialize for Alg {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match self.0 {
            Algorithm::Rs256 => "RS256",
            Algorithm::Es256 => "ES256",
            Algorithm::EdDsa => "EdDSA",
        })
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct Claims {
    pub(super) iss: String,
    #[serde(default)]
    pub(super) sub: String,
    pub(super) aud: Audience,
    /// Times are seconds since 1970. One of another type makes a token none.
    pub(super) exp: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) nbf: Option<f64>,
    #[serde(default)]
    pub(super) access: Vec<Entry>,
    /// In own tokens, what the user's line in the password file was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) seal: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Audience {
    One(String),
    Many(Vec<String>),
}

impl<'a> Signed<'a> {
    /// Takes a token apart: its length is bounded by who read the header.
    pub(super) fn read(token: &Token<'a>) -> Result<Self, &'static str> {
        const MALFORMED: &str = "the token is malformed";
        let (message, signature) = token.0.rsplit_once('.').ok_or(MALFORMED)?;
        let (header, claims) = message.split_once('.').ok_or(MALFORMED)?;
        let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| MALFORMED)?;
        let header: Header = serde_json::from_slice(&header)
            .map_err(|_| "the token is malformed, or not signed by RS256, ES256 or EdDSA")?;
        if header.crit.is_some() {
            return Err("the token asks for what is not understood here");
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| MALFORMED)?;
        Ok(Self { header, message, claims, signature })
    }

    pub(super) fn key_id(&self) -> Option<&str> {
        self.header.kid.as_deref()
    }

    /// What it says, if one of the keys has signed it.
    pub(super) fn verified(&self, keys: &KeySet) -> Result<Claims, &'static str> {
        if !keys.verify(self.header.alg.0, self.key_id(), self.message.as_bytes(), &self.signature) {
            return Err("the token is not signed by a key that is trusted here");
        }
        let claims = URL_SAFE_NO_PAD.decode(self.claims).map_err(|_| "the token's claims are malformed")?;
        serde_json::from_slice(&claims)
            .map_err(|_| "the token's claims are malformed: it needs iss, aud and exp, and an access list")
    }
}

impl Claims {
    pub(super) fn check(&self, issuer: &str, service: &str, now: u64) -> Result<(), &'static str> {
        #[expect(
            clippy::cast_precision_loss,
            reason = "there are 285 million years to the first second that is lost"
        )]
        let now = now as f64;
        let meant = match &self.aud {
            Audience::One(one) => one == service,
            Audience::Many(many) => many.iter().any(|one| one == service),
        };
        if self.iss != issuer {
            Err("the token is another issuer's")
        } else if !meant {
            Err("the token is for another service")
        } else if self.exp + LEEWAY <= now {
            Err("the token has expired")
        } else if self.nbf.is_some_and(|nbf| nbf - LEEWAY > now) {
            Err("the token is not valid yet")
        } else {
            Ok(())
        }
    }

    pub(super) fn identity(&self) -> Result<Identity, &'static str> {
        if self.access.len() > scope::MOST {
            return Err("the token has too many scopes: ask for fewer");
        }
        let scopes: Arc<Scopes> = Arc::new(self.access.iter().filter_map(Entry::scope).collect());
        Ok(match self.sub.as_str() {
            "" => Identity::nobody_with(scopes),
            user => Identity::user_by(user.into(), Proof::Token(scopes)),
        })
    }
}

/// Makes a token; `sign` makes its `EdDSA` signature.
pub(super) fn write(
    key_id: &str,
    claims: &Claims,
    sign: impl FnOnce(&[u8]) -> Vec<u8>,
) -> serde_json::Result<String> {
    let header = Header { alg: Alg(Algorithm::EdDsa), kid: Some(key_id.to_owned()), crit: None };
    let encode = |bytes: Vec<u8>| URL_SAFE_NO_PAD.encode(bytes);
    let message = format!("{}.{}", encode(serde_json::to_vec(&header)?), encode(serde_json::to_vec(claims)?));
    let signature = encode(sign(message.as_bytes()));
    Ok(format!("{message}.{signature}"))
}
