//! Who makes a request, and whether it is let in: decided before a byte of its body is asked for.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::bridge::blocking;
use super::limits::{Client, Share, Shares};
use super::route::{Peer, Service};
use crate::access::{
    Access, Basic, Credentials, CurrentAccess, Decision, Identity, Need, Problem, Recognised, needs,
};
use crate::error::{Error, Result};
use crate::oci::RepositoryName;
use crate::wire::{Refusal, Request};

/// How many passwords are checked or wait for that.
const WAITING: usize = 64;
/// How many of them can be of one client.
const WAITING_OF_ONE: usize = 16;
/// When a client is to come again for which there was no place.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// The way of passwords to their check: it takes a processor for tens of milliseconds, by intent, so that not many are checked at
/// once, and who sends wrong ones keeps nobody from anything else.
pub(super) struct Gate {
    checks: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    of_one: Shares,
}

/// A place among those that wait.
struct Place(#[expect(dead_code, reason = "it is held until it is dropped")] (OwnedSemaphorePermit, Share));

impl Gate {
    pub(super) fn new() -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self {
            checks: Arc::new(Semaphore::new((cores / 2).max(1))),
            waiting: Arc::new(Semaphore::new(WAITING)),
            of_one: Shares::new(WAITING_OF_ONE),
        }
    }

    /// Checks a password when it is its turn.
    async fn check(&self, access: &Arc<Access>, peer: &Peer, basic: Basic) -> Result<Option<Identity>> {
        let place = self.place(peer.address.ip().into());
        let place = place.ok_or(Error::TooManyRequests { retry_after: RETRY_AFTER })?;
        let permit = Arc::clone(&self.checks).acquire_owned().await;
        let permit = permit.map_err(|_| Error::Unavailable("the server stops".to_owned()))?;
        let access = Arc::clone(access);
        blocking(move || {
            // Given back when it has run, not when nobody waits for it any more.
            let _held = (place, permit);
            Ok(access.check(&basic))
        })
        .await
    }

    fn place(&self, client: Client) -> Option<Place> {
        let own = self.of_one.take(client)?;
        Some(Place((Arc::clone(&self.waiting).try_acquire_owned().ok()?, own)))
    }
}

/// Who makes a request, and by which rules: the same ones until it is answered.
#[derive(Clone)]
pub(super) struct Caller {
    identity: Identity,
    /// None where everyone may do everything.
    rules: Option<Rules>,
}

#[derive(Clone)]
struct Rules {
    access: Arc<Access>,
    current: Arc<CurrentAccess>,
}

/// A request that is answered.
pub(super) enum Admitted {
    Allowed,
    /// As if there were nothing of what it asks for.
    Hidden,
}

impl Caller {
    /// Finds out who makes a request. Credentials that are wrong are refused, whatever is asked for.
    pub(super) async fn of(
        service: &Service,
        peer: &Peer,
        headers: &HeaderMap,
        request: Option<&Request>,
    ) -> Result<Self, Refusal> {
        let Some(current) = &service.access else {
            return Ok(Self { identity: Identity::anonymous(), rules: None });
        };
        let access = current.get();
        let challenge = |problem| challenge(&access, problem, request);
        let identity = identify(service, peer, &access, credentials(headers), challenge).await?;
        Ok(Self { identity, rules: Some(Rules { access, current: Arc::clone(current) }) })
    }

    /// The user's name, for logs.
    pub(super) fn user(&self) -> Option<&str> {
        self.identity.user()
    }

    /// Whether the request is let in.
    pub(super) fn admit(&self, request: &Request) -> Result<Admitted, Refusal> {
        let Some(Rules { access, .. }) = &self.rules else { return Ok(Admitted::Allowed) };
        match access.decide(&self.identity, needs(request)) {
            Decision::Allowed => Ok(Admitted::Allowed),
            Decision::Hidden => Ok(Admitted::Hidden),
            Decision::Denied => Err(Refusal::Denied),
            Decision::Unauthenticated(problem) => {
                Err(Refusal::Unauthenticated { challenge: challenge(access, problem, Some(request)) })
            }
        }
    }

    /// What is no request is told to who may know that there is a registry.
    pub(super) fn admit_no_request(&self, refusal: Refusal) -> Refusal {
        match &self.rules {
            Some(Rules { access, .. }) if self.user().is_none() && !access.is_public_somewhere() => {
                Refusal::Unauthenticated { challenge: challenge(access, Problem::Missing, None) }
            }
            _ => refusal,
        }
    }

    pub(super) fn may_pull(&self, repository: &RepositoryName) -> bool {
        self.rules.as_ref().is_none_or(|rules| rules.access.may_pull(&self.identity, repository))
    }

    /// Whether a repository is in the list that the caller gets.
    pub(super) fn lists(&self, repository: &RepositoryName) -> bool {
        self.rules.as_ref().is_none_or(|rules| rules.access.lists(&self.identity, repository))
    }

    /// A place in the list of repositories, in words that do not tell it.
    pub(super) fn seal(&self, place: &RepositoryName) -> Option<String> {
        self.rules.as_ref()?.current.seal(place)
    }

    /// The place again.
    pub(super) fn unseal(&self, words: &str) -> Option<RepositoryName> {
        self.rules.as_ref()?.current.unseal(words)
    }
}

/// What the request's head says of who makes it.
pub(super) fn credentials(headers: &HeaderMap) -> Credentials<'_> {
    Credentials::read(headers.get_all(AUTHORIZATION).iter().map(|value| value.to_str().ok()))
}

/// Whose credentials these are.
pub(super) async fn identify(
    service: &Service,
    peer: &Peer,
    access: &Arc<Access>,
    credentials: Credentials<'_>,
    challenge: impl Fn(Problem) -> String,
) -> Result<Identity, Refusal> {
    let bad = |problem, reason| Refusal::BadCredentials { reason, challenge: challenge(problem) };
    match access.recognise(credentials, peer.certificate.as_ref()) {
        Recognised::Someone(identity) => Ok(identity),
        Recognised::Nobody(problem, reason) => Err(bad(problem, reason)),
        Recognised::Unchecked(basic) => {
            let identity = service.gate.check(access, peer, basic).await?;
            identity.ok_or_else(|| bad(Problem::Wrong, "the user or the password is wrong"))
        }
    }
}

fn challenge(access: &Access, problem: Problem, request: Option<&Request>) -> String {
    let from = match request {
        Some(Request::Mount { from, .. }) => from.as_ref(),
        _ => None,
    };
    access.challenge(problem, request.map(needs).filter(|need| *need != Need::Entry), from)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn places_are_bounded_for_each_client_and_for_all() {
        let gate = Gate::new();
        let mut held: Vec<Place> =
            (0..WAITING_OF_ONE).map(|_| gate.place(client(1).into()).unwrap()).collect();
        assert!(gate.place(client(1).into()).is_none());
        for n in 0..WAITING - WAITING_OF_ONE {
            let other = client(2 + u8::try_from(n / WAITING_OF_ONE).unwrap());
            held.push(gate.place(other.into()).unwrap());
        }
        assert!(gate.place(client(100).into()).is_none());
        held.clear();
        assert_eq!(waiting(&gate), 0);
        assert!(gate.place(client(1).into()).is_some());
    }

    fn waiting(gate: &Gate) -> usize {
        WAITING - gate.waiting.available_permits()
    }

    /// Whoever sends passwords faster than they are checked is told to come later, and holds nothing up by what he gave up.
    #[tokio::test]
    async fn passwords_that_find_no_place_are_sent_away() {
        let gate = Arc::new(Gate::new());
        let all = u32::try_from(gate.checks.available_permits()).unwrap();
        let held = Arc::clone(&gate.checks).acquire_many_owned(all).await.unwrap();
        let access = Arc::new(Access::new(crate::access::Policy::users()));
        let check = |n: u8| {
            let (gate, access) = (Arc::clone(&gate), Arc::clone(&access));
            let peer = Peer { address: (client(n), 1).into(), encrypted: false, certificate: None };
            let basic = Basic { user: "alice".to_owned(), password: "x".to_owned() };
            async move { gate.check(&access, &peer, basic).await }
        };
        let tasks: Vec<_> = (0..WAITING_OF_ONE).map(|_| tokio::spawn(check(1))).collect();
        while waiting(&gate) < WAITING_OF_ONE {
            tokio::task::yield_now().await;
        }
        let refused = tokio::select! {
            biased;
            refused = check(1) => refused,
            () = std::future::ready(()) => panic!("one more waits"),
        };
        assert!(matches!(refused, Err(Error::TooManyRequests { .. })), "{refused:?}");
        // Others have places of their own.
        let other = tokio::spawn(check(2));
        for task in &tasks {
            task.abort();
        }
        for task in tasks {
            assert!(task.await.unwrap_err().is_cancelled());
        }
        drop(held);
        assert_eq!(other.await.unwrap().unwrap(), None);
        assert_eq!(waiting(&gate), 0);
        assert_eq!(gate.checks.available_permits(), all as usize);
    }

    fn client(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }
}
