//! From a request to its answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{CONTENT_LENGTH, HOST};
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode, Version};
use hyper::body::Incoming;

use super::admission::{Admitted, Caller, Gate};
use super::arriving::Arriving;
use super::body::Body;
use super::bridge::Heavy;
use super::listen::ServerOptions;
use super::push::Sent;
use super::reply::{API_VERSION, Reply};
use super::{discover, manage, pull, push, token};
use crate::access::CurrentAccess;
use crate::error::Error;
use crate::store::Store;
use crate::wire::{ErrorAnswer, Refusal, Request, TokenRequest};

/// How much of a path is logged, in characters.
const LOGGED_PATH: usize = 512;

/// What all connections of a server share.
pub(super) struct Service {
    pub(super) store: Arc<dyn Store>,
    /// None where everyone may do everything.
    pub(super) access: Option<Arc<CurrentAccess>>,
    pub(super) gate: Gate,
    pub(super) heavy: Heavy,
    pub(super) options: ServerOptions,
}

/// The other end of a connection.
#[derive(Clone)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    /// The name in the client's certificate, where it has brought one that was verified.
    pub(super) certificate: Option<Arc<str>>,
}

/// Answers one request, whatever it is.
pub(super) async fn answer(
    service: &Service,
    peer: &Peer,
    request: http::Request<Incoming>,
) -> Response<Body> {
    let began = Instant::now();
    let (parts, body) = request.into_parts();
    let mut body = Arriving::new(body, &parts.headers, service.options.silence_limit);
    let mut user = None;
    let (refusal, mut response) = match dispatch(service, peer, &parts, &mut body, &mut user).await {
        Ok(response) => (None, response),
        Err(refusal) => {
            let response = Reply::from(ErrorAnswer::from(&refusal)).done();
            (Some(refusal), response)
        }
    };
    body.discard();

    let length = response.body().left();
    if parts.method == Method::HEAD {
        let has_none = matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if !has_none && !response.headers().contains_key(CONTENT_LENGTH) {
            response.headers_mut().insert(CONTENT_LENGTH, length.into());
        }
        *response.body_mut() = Body::empty();
    }
    response.headers_mut().insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    log(
        peer,
        user.as_deref(),
        &parts,
        response.status(),
        response.body().left(),
        began.elapsed(),
        refusal.as_ref(),
    );
    response
}

/// Answers a request, or says why not; and tells who made it, as soon as that is known.
async fn dispatch(
    service: &Service,
    peer: &Peer,
    parts: &Parts,
    body: &mut Arriving,
    user: &mut Option<String>,
) -> Result<Response<Body>, Refusal> {
    let Service { store, heavy, .. } = service;
    // RFC 9112, 3.2.
    if parts.version == Version::HTTP_11 && parts.headers.get_all(HOST).iter().count() != 1 {
        return Err(Error::RequestInvalid("a request has one Host header".to_owned()).into());
    }
    if parts.uri.path() == TokenRequest::PATH
        && let Some(access) =
            service.access.as_ref().map(|current| current.get()).filter(|access| access.gives_tokens())
    {
        let (identity, response) = token::answer(service, peer, &access, parts, body).await?;
        *user = identity.user().map(str::to_owned);
        return Ok(response);
    }
    let request = Request::parse(&parts.method, parts.uri.path(), parts.uri.query());
    let caller = Caller::of(service, peer, &parts.headers, request.as_ref().ok()).await?;
    *user = caller.user().map(str::to_owned);
    let request = request.map_err(|refusal| caller.admit_no_request(refusal))?;
    if matches!(caller.admit(&request)?, Admitted::Hidden) {
        return hidden(request);
    }
    let sent = Sent { headers: &parts.headers, body };
    match request {
        Request::Version => Ok(discover::version()),
        Request::BlobGet { repository, digest } => pull::blob(store, repository, digest, parts).await,
        Request::BlobHead { repository, digest } => pull::blob_head(store, repository, digest, parts).await,
        Request::BlobDelete { repository, digest } => manage::delete_blob(store, repository, digest).await,
        Request::ManifestGet { repository, reference } => {
            pull::manifest(store, repository, reference, parts).await
        }
        Request::ManifestHead { repository, reference } => {
            pull::manifest_head(store, repository, reference, parts).await
        }
        Request::ManifestPut { repository, reference, tags } => {
            push::manifest(store, heavy, repository, reference, tags, sent).await
        }
        Request::ManifestDelete { repository, reference } => {
            manage::delete_manifest(store, repository, reference).await
        }
        Request::UploadStart { repository, algorithm } => push::start(store, repository, algorithm).await,
        Request::UploadWhole { repository, digest } => push::whole(store, repository, digest, sent).await,
        Request::Mount { repository, digest, from } => {
            push::mount(store, &caller, repository, digest, from).await
        }
        Request::UploadChunk { repository, id } => push::chunk(store, repository, id, sent).await,
        Request::UploadFinish { repository, id, digest } => {
            push::finish(store, repository, id, digest, sent).await
        }
        Request::UploadStatus { repository, id } => push::status(store, repository, id).await,
        Request::UploadCancel { repository, id } => push::cancel(store, repository, id).await,
        Request::Tags { repository, n, last } => discover::tags(store, repository, n, last).await,
        Request::Repositories { n, last, place } => {
            discover::repositories(store, &caller, n, last, place).await
        }
        Request::Referrers { repository, digest, artifact_type, n, last } => {
            discover::referrers(store, heavy, repository, digest, artifact_type, n, last).await
        }
    }
}

/// The answer to who reads what there is not.
fn hidden(request: Request) -> Result<Response<Body>, Refusal> {
    Err(match request {
        Request::BlobGet { repository, digest } | Request::BlobHead { repository, digest } => {
            Error::BlobUnknown { repository, digest }.into()
        }
        Request::ManifestGet { repository, reference } | Request::ManifestHead { repository, reference } => {
            Error::ManifestUnknown { repository, reference }.into()
        }
        Request::Tags { repository, .. } => Error::RepositoryUnknown(repository).into(),
        Request::Referrers { artifact_type, .. } => {
            return Ok(discover::no_referrers(artifact_type.as_ref()));
        }
        // Who may not write is told so.
        _ => Refusal::Denied,
    })
}

fn log(
    peer: &Peer,
    user: Option<&str>,
    parts: &Parts,
    status: StatusCode,
    bytes: u64,
    took: Duration,
    refusal: Option<&Refusal>,
) {
    let client = peer.address;
    let user = user.unwrap_or("-");
    let method = &parts.method;
    let path: String = parts.uri.path().chars().take(LOGGED_PATH).collect();
    let (status, micros) = (status.as_u16(), u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    match refusal {
        Some(error) if status >= 500 => {
            tracing::error!(%client, user, %method, path, status, bytes, micros, %error, "request");
        }
        // Asking for what is not there is how a push begins, and being asked who one is how a login does.
        Some(error)
            if method.is_safe() && (status == 404 || matches!(error, Refusal::Unauthenticated { .. })) =>
        {
            tracing::debug!(%client, user, %method, path, status, bytes, micros, %error, "request");
        }
        Some(error) => tracing::info!(%client, user, %method, path, status, bytes, micros, %error, "request"),
        None if method.is_safe() => {
            tracing::debug!(%client, user, %method, path, status, bytes, micros, "request");
        }
        None => tracing::info!(%client, user, %method, path, status, bytes, micros, "request"),
    }
}
