//! From a request to its answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode, Version};
use hyper::body::Incoming;

use super::arriving::Arriving;
use super::body::Body;
use super::bridge::Heavy;
use super::listen::ServerOptions;
use super::push::Sent;
use super::reply::{API_VERSION, Reply, only};
use super::{discover, manage, pull, push};
use crate::error::Error;
use crate::store::Store;
use crate::wire::{ErrorAnswer, Refusal, Request};

/// How much of a path is logged, in characters.
const LOGGED_PATH: usize = 512;

/// What all connections of a server share.
pub(super) struct Service {
    pub(super) store: Arc<dyn Store>,
    pub(super) heavy: Heavy,
    pub(super) options: ServerOptions,
}

/// The other end of a connection.
#[derive(Clone, Copy)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
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
    let unframed = frame(&parts).err();
    let ends = unframed.is_some();
    let dispatched = match unframed {
        None => dispatch(service, &parts, &mut body).await,
        Some(refusal) => Err(refusal),
    };
    let (refusal, mut response) = match dispatched {
        Ok(response) => (None, response),
        Err(refusal) => {
            let response = Reply::from(ErrorAnswer::from(&refusal)).done();
            (Some(refusal), response)
        }
    };
    body.discard();
    if ends {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }

    let length = response.body().left();
    if parts.method == Method::HEAD {
        let has_none = matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if !has_none && !response.headers().contains_key(CONTENT_LENGTH) {
            response.headers_mut().insert(CONTENT_LENGTH, length.into());
        }
        *response.body_mut() = Body::empty();
    }
    response.headers_mut().insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    log(peer, &parts, response.status(), response.body().left(), began.elapsed(), refusal.as_ref());
    response
}

/// Whether the request is one to everybody who read it on its way. Where it is not, the connection ends with its answer.
fn frame(parts: &Parts) -> Result<(), Refusal> {
    let refused = |words: &str| Err(Error::RequestInvalid(words.to_owned()).into());
    // RFC 9112, 3.2.
    if parts.version == Version::HTTP_11 && parts.headers.get_all(HOST).iter().count() != 1 {
        return refused("a request has one Host header");
    }
    // RFC 9112, 6.1. Of several encodings only the last is undone: the bytes would be taken for the content that they encode.
    let chunked = |value: &str| value.eq_ignore_ascii_case("chunked");
    if parts.headers.contains_key(TRANSFER_ENCODING)
        && !only(&parts.headers, TRANSFER_ENCODING).is_some_and(chunked)
    {
        return refused("a body has no other Transfer-Encoding than chunked, and that once");
    }
    Ok(())
}

async fn dispatch(service: &Service, parts: &Parts, body: &mut Arriving) -> Result<Response<Body>, Refusal> {
    let Service { store, heavy, .. } = service;
    let request = Request::parse(&parts.method, parts.uri.path(), parts.uri.query())?;
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
        Request::Mount { repository, digest, from } => push::mount(store, repository, digest, from).await,
        Request::UploadChunk { repository, id } => push::chunk(store, repository, id, sent).await,
        Request::UploadFinish { repository, id, digest } => {
            push::finish(store, repository, id, digest, sent).await
        }
        Request::UploadStatus { repository, id } => push::status(store, repository, id).await,
        Request::UploadCancel { repository, id } => push::cancel(store, repository, id).await,
        Request::Tags { repository, n, last } => discover::tags(store, repository, n, last).await,
        Request::Repositories { n, last } => discover::repositories(store, n, last).await,
        Request::Referrers { repository, digest, artifact_type, n, last } => {
            discover::referrers(store, heavy, repository, digest, artifact_type, n, last).await
        }
    }
}

fn log(
    peer: &Peer,
    parts: &Parts,
    status: StatusCode,
    bytes: u64,
    took: Duration,
    refusal: Option<&Refusal>,
) {
    let client = peer.address;
    let method = &parts.method;
    let path: String = parts.uri.path().chars().take(LOGGED_PATH).collect();
    let (status, micros) = (status.as_u16(), u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    match refusal {
        Some(error) if status >= 500 => {
            tracing::error!(%client, %method, path, status, bytes, micros, %error, "request");
        }
        // Asking for what is not there is how a push begins.
        Some(error) if status == 404 && method.is_safe() => {
            tracing::debug!(%client, %method, path, status, bytes, micros, %error, "request");
        }
        Some(error) => tracing::info!(%client, %method, path, status, bytes, micros, %error, "request"),
        None if method.is_safe() => tracing::debug!(%client, %method, path, status, bytes, micros, "request"),
        None => tracing::info!(%client, %method, path, status, bytes, micros, "request"),
    }
}
