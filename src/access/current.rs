//! The whole of it, and how it is replaced.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use super::challenge::{self, Problem};
use super::credentials::{Basic, Credentials};
use super::endpoint::{Grant, Question, TokenEndpoint};
use super::error::AccessError;
use super::identity::{Identity, Proof};
use super::need::Need;
use super::passwords::Passwords;
use super::policy::{Action, Policy};
use super::seal::Sealer;
use super::token::{Signed, TokenIssuer};
use crate::oci::RepositoryName;

/// Rules, and the proofs that are accepted of who somebody is.
#[derive(Debug)]
#[must_use]
pub struct Access {
    policy: Policy,
    passwords: Option<Passwords>,
    issuer: Option<TokenIssuer>,
    endpoint: Option<TokenEndpoint>,
}

/// Who the credentials of a request say that it is.
pub(crate) enum Recognised {
    Someone(Identity),
    /// A password that must be looked at with [`Access::check`], which blocks.
    Unchecked(Basic),
    Nobody(Problem, &'static str),
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Allowed,
    /// It may be, for who proves who he is.
    Unauthenticated(Problem),
    /// No, and it is no secret that it is not.
    Denied,
    /// No, and it is to look as if there were nothing.
    Hidden,
}

/// How clients are to prove who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Basic,
    Bearer,
}

impl Access {
    /// These rules, with no proof but client certificates.
    pub const fn new(policy: Policy) -> Self {
        Self { policy, passwords: None, issuer: None, endpoint: None }
    }

    /// Takes these passwords, too.
    pub fn passwords(mut self, passwords: Passwords) -> Self {
        self.passwords = Some(passwords);
        self
    }

    /// Takes this issuer's tokens, too, and sends clients there to get them, unless there is an endpoint of its own.
    pub fn token_issuer(mut self, issuer: TokenIssuer) -> Self {
        self.issuer = Some(issuer);
        self
    }

    /// Gives tokens for passwords, takes them, and sends clients there to get them. Passwords are taken without one, too.
    pub fn token_endpoint(mut self, endpoint: TokenEndpoint) -> Self {
        self.endpoint = Some(endpoint);
        self
    }

    /// Who it is, as far as that can be told at once. What is wrong is never passed over for another proof.
    pub(crate) fn recognise(
        &self,
        credentials: Credentials<'_>,
        certificate: Option<&Arc<str>>,
    ) -> Recognised {
        let identified = match credentials {
            Credentials::None => Ok(match certificate {
                Some(name) => Identity::user_by(Arc::clone(name), Proof::Certificate),
                None => Identity::anonymous(),
            }),
            Credentials::Unreadable => {
                Err((Problem::Wrong, "the Authorization header is neither Basic nor Bearer"))
            }
            Credentials::Basic(basic) => match &self.passwords {
                None => Err((Problem::Wrong, "passwords are not taken here")),
                Some(passwords) => match passwords.recall(&basic) {
                    Some(user) => Ok(Identity::user_by(user, Proof::Password)),
                    None => return Recognised::Unchecked(basic),
                },
            },
            Credentials::Bearer(token) => Signed::read(&token)
                .and_then(|token| self.identify(&token, now()))
                .map_err(|reason| (Problem::InvalidToken, reason)),
        };
        match identified {
            Ok(identity) => Recognised::Someone(identity),
            Err((problem, reason)) => Recognised::Nobody(problem, reason),
        }
    }

    fn identify(&self, token: &Signed<'_>, now: u64) -> Result<Identity, &'static str> {
        match (&self.endpoint, &self.issuer) {
            (Some(endpoint), _) if endpoint.made(token) => {
                endpoint.identify(token, self.passwords.as_ref(), now)
            }
            (_, Some(issuer)) => issuer.identify(token, now),
            (Some(_), None) => Err("the token is not of this server, or from before its last start"),
            (None, None) => Err("tokens are not taken here"),
        }
    }

    /// Who it is by his password. Blocks.
    pub(crate) fn check(&self, basic: &Basic) -> Option<Identity> {
        let user = self.passwords.as_ref()?.check(basic)?;
        Some(Identity::user_by(user, Proof::Password))
    }

    /// Whether somebody may do what a request needs.
    pub(crate) fn decide(&self, identity: &Identity, need: Need<'_>) -> Decision {
        let user = identity.user();
        let lacking = match identity.proof() {
            Proof::Token(_) => Problem::InsufficientScope,
            _ => Problem::Missing,
        };
        let (by_rules, by_token) = match need {
            Need::Entry => {
                let proved = user.is_some() || identity.scopes().is_some();
                let let_in = self.mode() == Mode::Basic && self.policy.lets_anonymous_in();
                (proved || let_in, true)
            }
            Need::Catalog => {
                let by_rules = user.is_some() || self.policy.lets_anonymous_in();
                (by_rules, identity.scopes().is_none_or(super::Scopes::allow_catalog))
            }
            Need::Repository(action, repository) => (
                self.policy.allows_user(user, action, repository),
                identity.scopes().is_none_or(|scopes| scopes.allow(action, repository)),
            ),
        };
        match need {
            _ if by_rules && by_token => Decision::Allowed,
            _ if by_rules || user.is_none() => Decision::Unauthenticated(lacking),
            Need::Repository(Action::Pull, _) => Decision::Hidden,
            _ => Decision::Denied,
        }
    }

    /// Whether somebody may pull from a repository.
    pub(crate) fn may_pull(&self, identity: &Identity, repository: &RepositoryName) -> bool {
        self.policy.allows(identity, Action::Pull, repository)
    }

    /// Whether a repository is in the list that somebody gets. A token that reaches the list reaches all in it.
    pub(crate) fn lists(&self, identity: &Identity, repository: &RepositoryName) -> bool {
        self.policy.allows_user(identity.user(), Action::Pull, repository)
    }

    /// Whether everyone may do anything at all.
    pub(crate) fn is_public_somewhere(&self) -> bool {
        self.policy.lets_anonymous_in()
    }

    pub(crate) const fn mode(&self) -> Mode {
        match (&self.endpoint, &self.issuer) {
            (None, None) => Mode::Basic,
            _ => Mode::Bearer,
        }
    }

    /// The `WWW-Authenticate` header of a request with this need, and with this source of a mount.
    pub(crate) fn challenge(
        &self,
        problem: Problem,
        need: Option<Need<'_>>,
        mount_from: Option<&RepositoryName>,
    ) -> String {
        let (realm, service) = match (&self.endpoint, &self.issuer) {
            (Some(endpoint), _) => (endpoint.realm(), endpoint.service()),
            (None, Some(issuer)) => (&*issuer.realm, &*issuer.service),
            (None, None) => return challenge::basic(),
        };
        challenge::bearer(realm, service, need, mount_from, problem)
    }

    /// The challenge of the token endpoint itself.
    pub(crate) fn password_challenge() -> String {
        challenge::basic()
    }

    /// Gives a token; `None` where none are given.
    pub(crate) fn grant(
        &self,
        identity: &Identity,
        question: &Question<'_>,
    ) -> Option<Result<Grant, &'static str>> {
        let endpoint = self.endpoint.as_ref()?;
        Some(endpoint.grant(&self.policy, self.passwords.as_ref(), identity, question, now()))
    }

    /// Whether tokens are given here.
    pub(crate) const fn gives_tokens(&self) -> bool {
        self.endpoint.is_some()
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The [`Access`] that a server goes by, which can be replaced while it runs: what is new holds from the next request on, of
/// connections that are open, too.
pub struct CurrentAccess {
    access: RwLock<Arc<Access>>,
    sealer: Sealer,
}

impl CurrentAccess {
    /// Begins with this one.
    ///
    /// # Errors
    /// [`AccessError::Random`].
    pub fn new(access: Access) -> Result<Self, AccessError> {
        Ok(Self { access: RwLock::new(Arc::new(access)), sealer: Sealer::new()? })
    }

    /// Puts another one in its place. Passwords that were found to be right need not be looked at again where their lines are the
    /// same.
    pub fn replace(&self, mut access: Access) {
        let mut current = self.access.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(earlier) = &current.passwords {
            access.passwords = access.passwords.map(|passwords| passwords.remembering(earlier));
        }
        *current = Arc::new(access);
    }

    /// The one that holds now.
    pub(crate) fn get(&self) -> Arc<Access> {
        Arc::clone(&self.access.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// A place in the list of repositories, in words that do not tell it.
    pub(crate) fn seal(&self, name: &RepositoryName) -> Option<String> {
        self.sealer.seal(name)
    }

    /// The place again.
    pub(crate) fn unseal(&self, words: &str) -> Option<RepositoryName> {
        self.sealer.open(words)
    }
}

impl fmt::Debug for CurrentAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CurrentAccess").field(&self.get()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &[u8] = b"alice:$2y$05$c4WoMPo3SXsafkva.HHa6uHpvoxC70gaYUuYyhzdpUSq9CHz/KcOS\n";

    fn access(policy: Policy) -> Access {
        Access::new(policy).passwords(Passwords::parse(LINE).unwrap())
    }

    fn read(header: Option<&str>) -> Credentials<'_> {
        Credentials::read(header.map(Some).into_iter())
    }

    /// After a reload everybody waited in line with strangers, whose wrong passwords kept him out.
    #[test]
    fn who_was_right_need_not_be_checked_again_when_it_is_replaced() {
        let current = CurrentAccess::new(access(Policy::users())).unwrap();
        let alice = "Basic YWxpY2U6d29uZGVybGFuZA==";
        let Recognised::Unchecked(basic) = current.get().recognise(read(Some(alice)), None) else { panic!() };
        assert!(current.get().check(&basic).is_some());
        current.replace(access(Policy::new()));
        assert!(matches!(current.get().recognise(read(Some(alice)), None), Recognised::Someone(_)));
        // Without passwords nothing is left of them.
        current.replace(Access::new(Policy::new()));
        assert!(matches!(current.get().recognise(read(Some(alice)), None), Recognised::Nobody(..)));
    }

    /// Who is kept out by what he sends must not come in by what he has as well.
    #[test]
    fn a_certificate_is_a_proof_where_no_other_is_tried() {
        let access = access(Policy::users());
        let name: Arc<str> = "device-7".into();
        let Recognised::Someone(identity) = access.recognise(read(None), Some(&name)) else { panic!() };
        assert_eq!((identity.user(), identity.proof()), (Some("device-7"), &Proof::Certificate));
        let repository = "a".parse().unwrap();
        assert_eq!(access.decide(&identity, Need::Entry), Decision::Allowed);
        assert_eq!(access.decide(&identity, Need::Repository(Action::Push, &repository)), Decision::Allowed);
        for header in ["Bearer a.b.c", "Basic !", "Digest x"] {
            let found = access.recognise(read(Some(header)), Some(&name));
            assert!(matches!(found, Recognised::Nobody(..)), "{header}");
        }
        let wrong = "Basic YWxpY2U6d3Jvbmc=";
        let Recognised::Unchecked(basic) = access.recognise(read(Some(wrong)), Some(&name)) else { panic!() };
        assert_eq!(access.check(&basic), None);
        let Recognised::Someone(identity) = access.recognise(read(None), None) else { panic!() };
        assert_eq!(identity, Identity::anonymous());
    }

    #[test]
    fn proofs_that_are_not_taken_are_wrong_and_not_passed_over() {
        let access = Access::new(Policy::users().anonymous_pull());
        for header in ["Basic YWxpY2U6d29uZGVybGFuZA==", "Bearer a.b.c"] {
            assert!(matches!(access.recognise(read(Some(header)), None), Recognised::Nobody(..)), "{header}");
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let current = CurrentAccess::new(access(Policy::users())).unwrap();
        let shown = format!("{current:?}");
        assert!(shown.contains("Passwords(1 users)") && !shown.contains("$2y$"), "{shown}");
    }
}
