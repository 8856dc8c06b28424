//! Own tokens: given for passwords, as Docker's token specification has it.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use uuid::Uuid;

use super::error::AccessError;
use super::identity::Identity;
use super::keys::KeySet;
use super::passwords::Passwords;
use super::policy::{Actions, Policy};
use super::scope::{self, Entry, Scope};
use super::token::{self, Audience, Claims, Signed, check_service};

/// How long a token is good, in seconds.
const LIFETIME: u32 = 300;

/// Gives tokens of five minutes for passwords and client certificates, at the path `/token`.
///
/// They are signed by a key that is made here and is nowhere but in memory: after a restart clients get new ones. Keep one for the
/// life of the process, and give the same to each [`Access`](super::Access): another one knows nothing of this one's tokens. What a
/// token allows is looked up again at each request: a right that is taken away, a user who is taken out of the password file, and
/// a password that is changed end it at once.
#[derive(Clone)]
pub struct TokenEndpoint(Arc<Inner>);

struct Inner {
    realm: String,
    service: String,
    key_id: String,
    key: Ed25519KeyPair,
    public: KeySet,
    seal: hmac::Key,
}

/// What somebody asks of a token.
pub(crate) struct Question<'a> {
    pub(crate) service: Option<&'a str>,
    pub(crate) scopes: &'a [String],
}

/// A token that is given.
pub(crate) struct Grant {
    pub(crate) token: String,
    /// In seconds.
    pub(crate) lifetime: u32,
}

impl TokenEndpoint {
    /// One at `external_url`, by which clients reach this server, such as `https://registry.example.org`; it is not guessed from what
    /// they say. `service` is the registry's name in tokens.
    ///
    /// # Errors
    /// [`AccessError::Setting`] for what is no URL or no name.
    pub fn new(external_url: &str, service: &str) -> Result<Self, AccessError> {
        check_url(external_url)?;
        check_service(service)?;
        let random = SystemRandom::new();
        let pair = Ed25519KeyPair::generate_pkcs8(&random)?;
        let key = Ed25519KeyPair::from_pkcs8(pair.as_ref()).map_err(|_| AccessError::Random)?;
        let key_id = Uuid::new_v4().to_string();
        let public = KeySet::ed25519(key_id.clone(), key.public_key().as_ref());
        Ok(Self(Arc::new(Inner {
            realm: format!("{}/token", external_url.trim_end_matches('/')),
            service: service.to_owned(),
            key_id,
            key,
            public,
            seal: hmac::Key::generate(hmac::HMAC_SHA256, &random)?,
        })))
    }

    pub(super) fn realm(&self) -> &str {
        &self.0.realm
    }

    pub(super) fn service(&self) -> &str {
        &self.0.service
    }

    /// Gives a token for what is asked, as far as the policy allows it.
    pub(super) fn grant(
        &self,
        policy: &Policy,
        passwords: Option<&Passwords>,
        identity: &Identity,
        question: &Question<'_>,
        now: u64,
    ) -> Result<Grant, &'static str> {
        if question.service.is_some_and(|service| service != self.0.service) {
            return Err(
                "tokens are given for this registry alone: ask for the service that its challenge names",
            );
        }
        // Several can stand in one parameter.
        let asked: Vec<&str> = question.scopes.iter().flat_map(|scopes| scopes.split_whitespace()).collect();
        if asked.len() > scope::MOST {
            return Err("that are too many scopes for one token: ask for at most 64");
        }
        let user = identity.user();
        let given = asked.into_iter().filter_map(Scope::parse).filter_map(|scope| match scope {
            Scope::Repository(name, actions) => {
                let allowed = actions.iter().filter(|action| policy.allows_user(user, *action, &name));
                let actions =
                    allowed.fold(Actions::NONE, |all, action| all.or(Actions::of(&[action]))).and(actions);
                (!actions.is_empty()).then_some(Scope::Repository(name, actions))
            }
            Scope::Catalog => (user.is_some() || policy.lets_anonymous_in()).then_some(scope),
        });
        let seal = user.and_then(|user| passwords?.seal(&self.0.seal, user));
        #[expect(
            clippy::cast_precision_loss,
            reason = "there are 285 million years to the first second that is lost"
        )]
        let now = now as f64;
        let claims = Claims {
            iss: self.0.realm.clone(),
            sub: user.unwrap_or_default().to_owned(),
            aud: Audience::One(self.0.service.clone()),
            exp: now + f64::from(LIFETIME),
            nbf: Some(now),
            access: given.map(|scope| Entry::of(&scope)).collect(),
            seal: seal
                .filter(|_| *identity.proof() == super::Proof::Password)
                .map(|seal| URL_SAFE_NO_PAD.encode(seal)),
        };
        let sign = |message: &[u8]| self.0.key.sign(message).as_ref().to_vec();
        let token = token::write(&self.0.key_id, &claims, sign).map_err(|_| "no token can be made")?;
        Ok(Grant { token, lifetime: LIFETIME })
    }

    /// Whether a token says that it is of this endpoint.
    pub(super) fn made(&self, token: &Signed<'_>) -> bool {
        token.key_id() == Some(&*self.0.key_id)
    }

    /// Who comes with a token of this endpoint.
    pub(super) fn identify(
        &self,
        token: &Signed<'_>,
        passwords: Option<&Passwords>,
        now: u64,
    ) -> Result<Identity, &'static str> {
        let claims = token.verified(&self.0.public)?;
        claims.check(&self.0.realm, &self.0.service, now)?;
        if let Some(seal) = &claims.seal {
            let current = passwords.and_then(|passwords| passwords.seal(&self.0.seal, &claims.sub));
            // The token is this endpoint's own, so that there is nothing to find out by how long this takes.
            if current.is_none_or(|current| URL_SAFE_NO_PAD.encode(current) != *seal) {
                return Err(
                    "the password that the token was given for has been changed, or its user is gone",
                );
            }
        }
        claims.identity()
    }
}

impl fmt::Debug for TokenEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenEndpoint")
            .field("realm", &self.0.realm)
            .field("service", &self.0.service)
            .finish_non_exhaustive()
    }
}

/// An URL stands in quotes in a header, and has a path put behind it.
pub(super) fn check_url(url: &str) -> Result<(), AccessError> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).unwrap_or_default();
    let plain = rest
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'#' | b'?' | b'@'));
    if rest.is_empty() || rest.starts_with('/') || url.len() > 1024 || !plain {
        let shown: String = url.chars().take(80).collect();
        return Err(AccessError::Setting(format!(
            "{shown:?} is no URL that clients can be sent to: use one such as https://registry.example.org, without a user, a query or \
             a fragment"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::credentials::Token;
    use super::super::identity::Proof;
    use super::super::policy::{Action, Who};
    use super::*;

    const LINE: &str = "alice:$2y$05$c4WoMPo3SXsafkva.HHa6uHpvoxC70gaYUuYyhzdpUSq9CHz/KcOS\n";

    fn alice() -> Identity {
        Identity::user_by(Arc::from("alice"), Proof::Password)
    }

    fn grant(endpoint: &TokenEndpoint, who: &Identity, scopes: &[&str], now: u64) -> String {
        let policy = Policy::new()
            .rule(Who::User("alice".into()), Actions::of(&[Action::Pull, Action::Push]), &["a/*"])
            .unwrap()
            .rule(Who::Anonymous, Actions::of(&[Action::Pull]), &["public"])
            .unwrap();
        let scopes: Vec<String> = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        let passwords = Passwords::parse(LINE.as_bytes()).unwrap();
        let question = Question { service: Some("r"), scopes: &scopes };
        endpoint.grant(&policy, Some(&passwords), who, &question, now).unwrap().token
    }

    fn identify(
        endpoint: &TokenEndpoint,
        token: &str,
        file: &str,
        now: u64,
    ) -> Result<Identity, &'static str> {
        let signed = Signed::read(&Token(token))?;
        assert!(endpoint.made(&signed));
        endpoint.identify(&signed, Some(&Passwords::parse(file.as_bytes()).unwrap()), now)
    }

    #[test]
    fn a_token_is_good_for_what_was_asked_and_allowed_and_for_five_minutes() {
        let endpoint = TokenEndpoint::new("https://r.example/", "r").unwrap();
        assert_eq!(endpoint.realm(), "https://r.example/token");
        let asked = [
            "repository:a/b:pull,push,delete",
            "repository:c:pull repository:public:*",
            "registry:catalog:*",
        ];
        let given = |who: &Identity| -> Vec<Scope> {
            let identity = identify(&endpoint, &grant(&endpoint, who, &asked, 1000), LINE, 1000).unwrap();
            assert_eq!(identity.user(), who.user());
            identity.scopes().unwrap().iter().cloned().collect()
        };
        let scopes =
            |texts: &[&str]| -> Vec<Scope> { texts.iter().map(|text| Scope::parse(text).unwrap()).collect() };
        let of_alice = scopes(&["repository:a/b:pull,push", "repository:public:pull", "registry:catalog:*"]);
        assert_eq!(given(&alice()), of_alice);
        assert_eq!(given(&Identity::anonymous()), scopes(&["repository:public:pull", "registry:catalog:*"]));

        let token = grant(&endpoint, &alice(), &asked, 1000);
        for (now, good) in [(969, false), (970, true), (1329, true), (1330, false)] {
            assert_eq!(identify(&endpoint, &token, LINE, now).is_ok(), good, "{now}");
        }
        let other = TokenEndpoint::new("https://r.example", "r").unwrap();
        assert!(!other.made(&Signed::read(&Token(&token)).unwrap()));
        assert!(other.identify(&Signed::read(&Token(&token)).unwrap(), None, 1000).is_err());
    }

    #[test]
    fn a_token_ends_with_the_password_that_it_was_given_for() {
        let endpoint = TokenEndpoint::new("http://r", "r").unwrap();
        let token = grant(&endpoint, &alice(), &[], 0);
        assert!(identify(&endpoint, &token, LINE, 0).is_ok());
        let changed = LINE.replace("KcOS", "KcOO");
        for file in ["", &changed, &LINE.replace("alice", "bob")] {
            assert!(identify(&endpoint, &token, file, 0).is_err(), "{file}");
        }
        // One that was given for a certificate does not hang on a password.
        let token = grant(&endpoint, &Identity::user_by("alice".into(), Proof::Certificate), &[], 0);
        assert!(identify(&endpoint, &token, "", 0).is_ok());
    }

    #[test]
    fn what_is_asked_is_bounded_and_for_this_service() {
        let endpoint = TokenEndpoint::new("http://r", "r").unwrap();
        let grant = |service, scopes: &[String]| {
            endpoint.grant(&Policy::users(), None, &alice(), &Question { service, scopes }, 0).is_ok()
        };
        let scope = "repository:a:pull ".to_owned();
        assert!(grant(None, &[scope.repeat(scope::MOST)]));
        assert!(!grant(None, &[scope.repeat(scope::MOST), scope]));
        assert!(!grant(Some("other"), &[]));
        assert!(!format!("{endpoint:?}").contains(&endpoint.0.key_id));
    }
}
