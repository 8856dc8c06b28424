//! Who asked for what, told to who wants to know.

use std::sync::Arc;

use http::HeaderMap;
use http::header::{AsHeaderName, HOST, USER_AGENT};
use http::request::Parts;

use super::route::Peer;
use crate::oci::{Digest, Manifest, Reference, RepositoryName};
use crate::store::{Initiator, Pulled, Store};

/// What keeps books of a [`Server`](super::Server)'s requests.
pub trait Audit: Send + Sync {
    /// The store as it is to be changed on somebody's behalf. It is asked for with each request that changes something.
    fn store(&self, by: Initiator) -> Arc<dyn Store>;

    /// Whether to tell of pulls too.
    fn wants_pulls(&self) -> bool;

    /// A manifest, or a blob or a part of it, is about to be sent. It is called on a thread that may block, and the client waits: so
    /// what is written down before this returns is known of each answer that a client has seen. HEAD, and what the client has already
    /// (304), are no pulls.
    fn pulled(&self, by: Initiator, pulled: &Pulled<'_>);
}

/// The words of a request that say who makes it. Nothing else of it is told: what else a head has may be a secret.
pub(super) fn initiator(parts: &Parts, peer: &Peer, id: &str, user: Option<&str>) -> Initiator {
    let mut by = Initiator::new()
        .with_request_id(id)
        .with_client(&peer.address.to_string())
        .with_method(parts.method.as_str());
    // HTTP/2 has the host's name in the request's target.
    let target = parts.uri.authority().map(http::uri::Authority::as_str);
    if let Some(host) = word(&parts.headers, HOST).or(target) {
        by = by.with_host(host);
    }
    if let Some(user_agent) = word(&parts.headers, USER_AGENT) {
        by = by.with_user_agent(user_agent);
    }
    if let Some(user) = user {
        by = by.with_user(user);
    }
    by
}

fn word(headers: &HeaderMap, name: impl AsHeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Tells of one pull.
pub(super) struct PullTold(pub(super) Arc<dyn Audit>, pub(super) Initiator);

impl PullTold {
    /// Blocks.
    pub(super) fn blob(self, repository: &RepositoryName, digest: &Digest, size: u64) {
        let Self(audit, by) = self;
        audit.pulled(by, &Pulled { repository, digest, size, media_type: None, tag: None });
    }

    /// Blocks.
    pub(super) fn manifest(self, repository: &RepositoryName, manifest: &Manifest, reference: &Reference) {
        let Self(audit, by) = self;
        let tag = match reference {
            Reference::Tag(tag) => Some(tag),
            Reference::Digest(_) => None,
        };
        let (digest, size) = (manifest.digest(), manifest.bytes().len() as u64);
        audit.pulled(by, &Pulled { repository, digest, size, media_type: Some(manifest.media_type()), tag });
    }
}
