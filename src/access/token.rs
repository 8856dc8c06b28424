//! Tokens: JSON Web Tokens (RFC 7519), signed, with the `access` claim of Docker's token specification.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::credentials::Token;
use super::endpoint::check_url;
use super::error::AccessError;
use super::htpasswd::LONGEST_NAME;
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
        if self.sub.len() > LONGEST_NAME || self.sub.chars().any(char::is_control) {
            return Err(
                "the token's subject is no user's name: that has at most 255 bytes, and no control characters",
            );
        }
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::keys::vectors;
    use super::super::policy::Action;
    use super::*;

    /// Between the vectors' `nbf` and `exp`.
    const NOW: u64 = 1_500_000_000;

    fn issuer(name: &str, service: &str) -> TokenIssuer {
        let keys = KeySet::parse(vectors()["jwks"].to_string().as_bytes()).unwrap();
        TokenIssuer::new(name, service, "https://auth.example/token", keys).unwrap()
    }

    fn identify(token: &str, now: u64) -> Result<Identity, &'static str> {
        issuer("https://auth.example", "registry.example").identify(&Signed::read(&Token(token))?, now)
    }

    /// A token of the vectors with another header.
    fn with_header(token: &str, header: &Value) -> String {
        let (_, rest) = token.split_once('.').unwrap();
        format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header.to_string()))
    }

    #[test]
    fn tokens_of_another_implementation_are_taken_while_they_are_good() {
        let vectors = vectors();
        for algorithm in ["RS256", "ES256", "EdDSA"] {
            let token = vectors[algorithm].as_str().unwrap();
            let identity = identify(token, NOW).unwrap();
            assert_eq!(identity.user(), Some("alice"), "{algorithm}");
            let scopes = identity.scopes().unwrap();
            let name = "a/b".parse().unwrap();
            assert!(scopes.allow(Action::Push, &name) && !scopes.allow(Action::Delete, &name));
            for (now, taken) in [
                (999_999_969, false),
                (999_999_970, true),
                (2_000_000_029, true),
                (2_000_000_030, false),
                (u64::MAX, false),
                (0, false),
            ] {
                assert_eq!(identify(token, now).is_ok(), taken, "{algorithm} at {now}");
            }
            let signed = Signed::read(&Token(token)).unwrap();
            for (name, service) in
                [("https://other.example", "registry.example"), ("https://auth.example", "registry")]
            {
                assert!(issuer(name, service).identify(&signed, NOW).is_err(), "{name} {service}");
            }
            // One character of what was signed, or of the signature.
            for at in [token.find('.').unwrap() + 5, token.len() - 5] {
                let other = if token.as_bytes()[at] == b'A' { "B" } else { "A" };
                let mut changed = token.to_owned();
                changed.replace_range(at..=at, other);
                assert!(identify(&changed, NOW).is_err(), "{algorithm} {at}");
            }
        }
    }

    #[test]
    fn a_key_serves_its_own_algorithm_alone() {
        let vectors = vectors();
        let token = vectors["RS256"].as_str().unwrap();
        for header in [
            json!({ "alg": "none" }),
            json!({ "alg": "None", "kid": "rsa" }),
            json!({ "alg": "HS256", "kid": "rsa" }),
            json!({ "alg": "RS512", "kid": "rsa" }),
            json!({ "alg": "EdDSA", "kid": "rsa" }),
            json!({ "alg": "ES256", "kid": "rsa" }),
            json!({ "alg": "RS256", "kid": "ec" }),
            json!({ "alg": "RS256", "kid": "rsa", "crit": ["exp"] }),
            json!({ "alg": ["RS256"] }),
            json!({}),
            json!([]),
        ] {
            assert!(identify(&with_header(token, &header), NOW).is_err(), "{header}");
        }
        // Most of them are no tokens at all, whatever signature they bring.
        for (header, readable) in [
            (json!({ "alg": "RS256", "kid": "rsa" }), true),
            (json!({ "alg": "RS256", "kid": "rsa", "crit": ["exp"] }), false),
            (json!({ "alg": "none" }), false),
            (json!({ "alg": "HS256" }), false),
            (json!({ "alg": "RS512" }), false),
        ] {
            let token = with_header(token, &header);
            assert_eq!(Signed::read(&Token(&token)).is_ok(), readable, "{header}");
        }
        for token in ["", ".", "..", "...", "a.b", "a.b.c", "!.!.!", &token[..token.rfind('.').unwrap() + 1]]
        {
            assert!(identify(token, NOW).is_err(), "{token}");
        }
        let unsigned =
            format!("{}.{}.", URL_SAFE_NO_PAD.encode("{\"alg\":\"none\"}"), token.split('.').nth(1).unwrap());
        assert!(identify(&unsigned, NOW).is_err());
    }

    /// A time of the wrong type is not the same as none.
    #[test]
    fn claims_of_the_wrong_type_make_a_token_none() {
        let good = json!({ "iss": "i", "sub": "s", "aud": "a", "exp": 10, "nbf": 5.5, "access": [] });
        let read = |member: &str, value: Value| {
            let mut claims = good.clone();
            match value {
                Value::Null => drop(claims.as_object_mut().unwrap().remove(member)),
                value => claims[member] = value,
            }
            serde_json::from_value::<Claims>(claims)
        };
        assert!(read("nbf", Value::Null).unwrap().check("i", "a", 0).is_ok());
        assert!(read("sub", Value::Null).unwrap().identity().unwrap().user().is_none());
        for (member, value) in [
            ("exp", Value::Null),
            ("exp", json!("10")),
            ("exp", json!([10])),
            ("nbf", json!("99999999999")),
            ("nbf", json!({})),
            ("iss", Value::Null),
            ("aud", Value::Null),
            ("aud", json!({ "a": 1 })),
            ("access", json!("all")),
            ("sub", json!(7)),
        ] {
            assert!(read(member, value.clone()).is_err(), "{member} {value}");
        }
        for name in ["a\nb".to_owned(), "a".repeat(LONGEST_NAME + 1)] {
            assert!(read("sub", json!(name)).unwrap().identity().is_err(), "{name}");
        }
        let entry = json!({ "type": "repository", "name": "a", "actions": ["pull"] });
        let with = |count| read("access", Value::Array(vec![entry.clone(); count])).unwrap().identity();
        assert!(with(scope::MOST).is_ok() && with(scope::MOST + 1).is_err());
    }

    #[test]
    fn settings_that_could_leave_their_quotes_are_told() {
        let keys = || KeySet::parse(vectors()["jwks"].to_string().as_bytes()).unwrap();
        for (issuer, service, realm) in [
            ("", "s", "https://a"),
            ("i", "", "https://a"),
            ("i", "a b", "https://a"),
            ("i", "a\"b", "https://a"),
            ("i", "s", "a"),
            ("i", "s", "https://"),
            ("i", "s", "https:///x"),
            ("i", "s", "https://a\"b"),
            ("i", "s", "https://u:p@a"),
            ("i", "s", "https://a?x=y"),
            ("i", "s", "ftp://a"),
        ] {
            let error = TokenIssuer::new(issuer, service, realm, keys()).unwrap_err();
            assert!(matches!(error, AccessError::Setting(_)), "{issuer} {service} {realm}");
        }
    }
}
