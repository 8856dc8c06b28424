//! Users, rules and tokens that the tests of access go by.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};
use sledge::access::{Access, CurrentAccess, KeySet, Passwords, Policy, TokenIssuer, Who};

pub(crate) const ISSUER: &str = "https://auth.example";
pub(crate) const SERVICE: &str = "registry.example";

/// Users with the password `secret of NAME`, at the least cost.
pub(crate) fn passwords(users: &[&str]) -> Passwords {
    let line = |user: &&str| format!("{user}:{}\n", bcrypt::hash(format!("secret of {user}"), 4).unwrap());
    Passwords::parse(users.iter().map(line).collect::<String>().as_bytes()).unwrap()
}

/// Rules such as `alice pull,push team/*`.
pub(crate) fn policy(rules: &[&str]) -> Policy {
    rules.iter().fold(Policy::new(), |policy, rule| {
        let words: Vec<&str> = rule.split(' ').collect();
        policy.rule(words[0].parse::<Who>().unwrap(), words[1].parse().unwrap(), &words[2..]).unwrap()
    })
}

pub(crate) fn current(access: Access) -> Arc<CurrentAccess> {
    Arc::new(CurrentAccess::new(access).unwrap())
}

pub(crate) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// The right password.
pub(crate) fn login(user: &str) -> String {
    basic(user, &format!("secret of {user}"))
}

/// Somebody who gives tokens elsewhere.
pub(crate) struct Issuer(Ed25519KeyPair);

impl Issuer {
    pub(crate) fn new() -> Self {
        let pair = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self(Ed25519KeyPair::from_pkcs8(pair.as_ref()).unwrap())
    }

    pub(crate) fn public(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    pub(crate) fn jwks(&self) -> String {
        let x = URL_SAFE_NO_PAD.encode(self.public());
        json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": "k", "x": x }] }).to_string()
    }

    pub(crate) fn trusted(&self) -> TokenIssuer {
        let keys = KeySet::parse(self.jwks().as_bytes()).unwrap();
        TokenIssuer::new(ISSUER, SERVICE, "https://auth.example/token", keys).unwrap()
    }

    /// A `Bearer` header with good claims, and `changes` put over them.
    pub(crate) fn token(&self, user: &str, scopes: &Value, changes: &Value) -> String {
        let message = message("EdDSA", &claims(user, scopes, changes));
        bearer(&message, self.0.sign(message.as_bytes()).as_ref())
    }

    /// The same claims, unsigned, or signed by what everybody knows.
    pub(crate) fn forged(
        &self,
        user: &str,
        scopes: &Value,
        algorithm: &str,
        secret: Option<&[u8]>,
    ) -> String {
        let message = message(algorithm, &claims(user, scopes, &json!({})));
        let tag =
            secret.map(|secret| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes()));
        bearer(&message, tag.as_ref().map_or(&[], AsRef::as_ref))
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn claims(user: &str, scopes: &Value, changes: &Value) -> Value {
    let mut claims =
        json!({ "iss": ISSUER, "sub": user, "aud": SERVICE, "exp": now() + 300, "access": scopes });
    claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    claims
}

fn message(algorithm: &str, claims: &Value) -> String {
    let header = json!({ "typ": "JWT", "alg": algorithm, "kid": "k" }).to_string();
    format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims.to_string()))
}

fn bearer(message: &str, signature: &[u8]) -> String {
    format!("Bearer {message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// The claim `access` for these repositories.
pub(crate) fn scopes(repositories: &[&str], actions: &[&str]) -> Value {
    let entry = |name: &&str| json!({ "type": "repository", "name": name, "actions": actions });
    let mut all: Vec<Value> = repositories.iter().map(entry).collect();
    all.push(json!({ "type": "registry", "name": "catalog", "actions": ["*"] }));
    Value::Array(all)
}
