//! From a request to its answer.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderName, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version};
use hyper::body::Incoming;
use tracing::{Instrument as _, Span};
use uuid::Uuid;

use super::admission::{Admitted, Caller, Gate};
use super::arriving::Arriving;
use super::audit::{self, Audit, PullTold};
use super::body::Body;
use super::bridge::Heavy;
use super::idle::InFlight;
use super::limits::{Client, Limits, Share};
use super::metrics::{self, Counted, Limit, Metrics};
use super::options::ServerOptions;
use super::push::{Name, Sent};
use super::reply::{API_VERSION, Reply, only};
use super::{discover, manage, pull, push, token};
use crate::access::CurrentAccess;
use crate::error::Error;
use crate::store::{Initiator, Store};
#[cfg(feature = "schema1")]
use crate::wire::TarSumAct;
use crate::wire::{ErrorAnswer, Refusal, Request, TokenRequest};

/// How much of a path is logged, in characters.
const LOGGED_PATH: usize = 512;
/// What a request is called, by its client or here.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest name that a client may give it, in bytes.
const LONGEST_ID: usize = 128;

/// What all connections of a server share.
pub(super) struct Service {
    pub(super) store: Arc<dyn Store>,
    /// None where everyone may do everything.
    pub(super) access: Option<Arc<CurrentAccess>>,
    pub(super) gate: Gate,
    pub(super) heavy: Heavy,
    pub(super) limits: Limits,
    pub(super) metrics: Metrics,
    pub(super) ids: Ids,
    /// None where requests are not traced.
    pub(super) spans: Option<Spans>,
    /// None where nobody wants to know who did it.
    pub(super) audit: Option<Arc<dyn Audit>>,
    pub(super) options: ServerOptions,
}

/// What makes the span of a request.
pub(super) type Spans = Box<dyn Fn(&Parts, &'static str) -> Span + Send + Sync>;

/// The other end of a connection.
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    /// Whether TLS is spoken.
    pub(super) encrypted: bool,
    /// Whom the client's certificate names, if it has shown one: an authority that clients are to have has signed it.
    pub(super) certificate: Option<Arc<str>>,
}

/// What is known of a request from its head, also where it is none.
struct Asked<'a> {
    parts: &'a Parts,
    peer: &'a Peer,
    id: HeaderValue,
    endpoint: &'static str,
    /// Who makes it, as soon as that is known.
    user: Option<String>,
}

impl Asked<'_> {
    fn initiator(&self) -> Initiator {
        let id = String::from_utf8_lossy(self.id.as_bytes());
        audit::initiator(self.parts, self.peer, &id, self.user.as_deref())
    }
}

impl Service {
    /// The store, for who asks: reads change nothing.
    fn store_for(&self, asked: &Asked<'_>) -> Arc<dyn Store> {
        match &self.audit {
            Some(audit) if !asked.parts.method.is_safe() => audit.store(asked.initiator()),
            _ => Arc::clone(&self.store),
        }
    }

    fn pull_told(&self, asked: &Asked<'_>) -> Option<PullTold> {
        let audit = self.audit.as_ref().filter(|audit| audit.wants_pulls())?;
        Some(PullTold(Arc::clone(audit), asked.initiator()))
    }
}

/// Answers one request, whatever it is.
pub(super) async fn answer(
    service: &Service,
    peer: &Peer,
    request: http::Request<Incoming>,
    mut in_flight: InFlight,
) -> Response<Body> {
    let began = Instant::now();
    let (parts, body) = request.into_parts();
    let metrics = service.metrics.clone();
    let mut body = Arriving::new(body, &parts.headers, service.options.silence_limit, metrics);
    let mut asked = Asked {
        parts: &parts,
        peer,
        id: service.ids.of(&parts.headers),
        endpoint: metrics::NO_ENDPOINT,
        user: None,
    };
    let span = service.spans.as_ref().map_or_else(Span::none, |make| make(&parts, endpoint(&parts)));
    let unframed = frame(&parts).err();
    let ends = unframed.is_some();
    let dispatched = match unframed {
        None => dispatch(service, &mut asked, &mut body).instrument(span.clone()).await,
        Some(refusal) => Err(refusal),
    };
    let (refusal, mut response) = match dispatched {
        Ok(response) => (None, response),
        Err(refusal) => {
            let response = Reply::from(ErrorAnswer::from(&refusal)).done();
            (Some(refusal), response)
        }
    };
    if ends {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    } else if body.is_over() && goes_on(&parts) {
        in_flight.leaves_it_between_requests();
    }
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
    response.headers_mut().insert(REQUEST_ID, asked.id.clone());
    if !span.is_none() {
        span.record("http.response.status_code", response.status().as_u16());
        span.record("client.address", format_args!("{}", peer.address.ip()));
        span.record("enduser.id", asked.user.as_deref());
        in_flight.traced(span);
    }
    let took = began.elapsed();
    service.metrics.answered(&parts.method, asked.endpoint, response.status(), took);
    log(&asked, response.status(), response.body().left(), took, refusal.as_ref());
    response.map(|body| body.counted(service.metrics.clone()).holding(in_flight))
}

/// What is asked, in a word of a fixed list.
fn endpoint(parts: &Parts) -> &'static str {
    Request::parse(&parts.method, parts.uri.path(), parts.uri.query())
        .map_or(metrics::NO_ENDPOINT, |request| metrics::endpoint(&request))
}

/// Whether the client may ask again on the same connection, whatever HTTP's versions make of a `Connection` header.
fn goes_on(parts: &Parts) -> bool {
    parts.version == Version::HTTP_11
        && parts
            .headers
            .get_all(CONNECTION)
            .iter()
            .all(|value| value.as_bytes().eq_ignore_ascii_case(b"keep-alive"))
}

/// Names of requests: each begins as its server's first, which is drawn by chance, and so is nobody else's.
pub(super) struct Ids {
    server: u64,
    next: AtomicU64,
}

impl Ids {
    pub(super) fn new() -> Self {
        Self { server: Uuid::new_v4().as_u64_pair().1, next: AtomicU64::new(0) }
    }

    /// The name that the client has given its request, if it is one that can stand in a log; otherwise a new one.
    fn of(&self, headers: &HeaderMap) -> HeaderValue {
        let is_sane = |id: &&HeaderValue| {
            (1..=LONGEST_ID).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
        };
        headers.get(REQUEST_ID).filter(is_sane).cloned().unwrap_or_else(|| {
            let id = format!("{:016x}{:016x}", self.server, self.next.fetch_add(1, Ordering::Relaxed));
            HeaderValue::try_from(id).unwrap_or(HeaderValue::from_static("-"))
        })
    }
}

/// So much of a path as is logged. It is made only where it is.
struct Logged<'a>(&'a str);

impl fmt::Display for Logged<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.0.char_indices().nth(LOGGED_PATH).map_or(self.0.len(), |(at, _)| at);
        f.write_str(self.0.get(..end).unwrap_or_default())
    }
}

/// What a request that brings content holds while it goes on.
fn upload(service: &Service, peer: &Peer, body: &Arriving) -> Result<Option<(Share, Counted)>, Refusal> {
    if body.declared() == Some(0) {
        return Ok(None);
    }
    let share = service.limits.upload(Client::from(peer.address.ip())).inspect_err(|_| {
        service.metrics.refused(Limit::Uploads);
    })?;
    Ok(Some((share, service.metrics.upload())))
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

async fn dispatch(
    service: &Service,
    asked: &mut Asked<'_>,
    body: &mut Arriving,
) -> Result<Response<Body>, Refusal> {
    let Service { heavy, .. } = service;
    let (parts, peer) = (asked.parts, asked.peer);
    service.limits.request(Client::from(peer.address.ip())).inspect_err(|_| {
        service.metrics.refused(Limit::Requests);
    })?;
    if parts.uri.path() == TokenRequest::PATH
        && let Some(access) =
            service.access.as_ref().map(|current| current.get()).filter(|access| access.gives_tokens())
    {
        asked.endpoint = metrics::TOKEN;
        let (identity, response) = token::answer(service, peer, &access, parts, body).await?;
        asked.user = identity.user().map(str::to_owned);
        return Ok(response);
    }
    let request = Request::parse(&parts.method, parts.uri.path(), parts.uri.query());
    if let Ok(request) = &request {
        asked.endpoint = metrics::endpoint(request);
    }
    let caller = Caller::of(service, peer, &parts.headers, request.as_ref().ok()).await?;
    asked.user = caller.user().map(str::to_owned);
    let request = request.map_err(|refusal| caller.admit_no_request(refusal))?;
    if matches!(caller.admit(&request)?, Admitted::Hidden) {
        return hidden(request);
    }
    let _held = match &request {
        Request::UploadWhole { .. }
        | Request::UploadChunk { .. }
        | Request::UploadFinish { .. }
        | Request::ManifestPut { .. } => upload(service, peer, body)?,
        #[cfg(feature = "schema1")]
        Request::TarSum { act: TarSumAct::Whole | TarSumAct::Finish(_), .. } => upload(service, peer, body)?,
        _ => None,
    };
    let sent = Sent { headers: &parts.headers, body };
    let store = &service.store_for(asked);
    match request {
        Request::Version => Ok(discover::version()),
        Request::BlobGet { repository, digest } => {
            pull::blob(store, repository, digest, parts, (peer.encrypted, service.pull_told(asked))).await
        }
        Request::BlobHead { repository, digest } => pull::blob_head(store, repository, digest, parts).await,
        Request::BlobDelete { repository, digest } => manage::delete_blob(store, repository, digest).await,
        Request::ManifestGet { repository, reference } => {
            pull::manifest(store, repository, reference, parts, service.pull_told(asked)).await
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
        Request::UploadWhole { repository, digest } => {
            push::whole(store, repository, Name::Digest(digest), sent).await
        }
        Request::Mount { repository, digest, from } => {
            push::mount(store, &caller, repository, digest, from).await
        }
        Request::UploadChunk { repository, id } => push::chunk(store, repository, id, sent).await,
        Request::UploadFinish { repository, id, digest } => {
            push::finish(store, repository, id, Name::Digest(digest), sent).await
        }
        #[cfg(feature = "schema1")]
        Request::TarSum { repository, tar_sum, act } => match act {
            TarSumAct::Get => {
                let digest = pull::by_tar_sum(store, &repository, tar_sum).await?;
                let told = service.pull_told(asked);
                pull::blob(store, repository, digest, parts, (peer.encrypted, told)).await
            }
            TarSumAct::Head => {
                let digest = pull::by_tar_sum(store, &repository, tar_sum).await?;
                pull::blob_head(store, repository, digest, parts).await
            }
            TarSumAct::Whole => {
                push::whole(store, repository, Name::TarSum(tar_sum, heavy.clone()), sent).await
            }
            TarSumAct::Finish(id) => {
                push::finish(store, repository, id, Name::TarSum(tar_sum, heavy.clone()), sent).await
            }
        },
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
        #[cfg(feature = "schema1")]
        Request::TarSum { repository, tar_sum, act: TarSumAct::Get | TarSumAct::Head } => {
            Error::TarSumUnknown { repository, tar_sum }.into()
        }
        // Who may not write is told so.
        _ => Refusal::Denied,
    })
}

fn log(asked: &Asked<'_>, status: StatusCode, bytes: u64, took: Duration, refusal: Option<&Refusal>) {
    let Asked { parts, peer, id, user, .. } = asked;
    let user = user.as_deref().unwrap_or("-");
    let (client, certificate) = (peer.address, peer.certificate.as_deref());
    let (id, method) = (String::from_utf8_lossy(id.as_bytes()), &parts.method);
    let path = Logged(parts.uri.path());
    let (status, micros) = (status.as_u16(), u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    // The level has to be known where it stands.
    macro_rules! say {
        ($level:ident $(, $error:ident)?) => {
            tracing::$level!(%id, %client, user, certificate, %method, %path, status, bytes, micros, $(%$error,)? "request")
        };
    }
    match refusal {
        Some(error) if status >= 500 => say!(error, error),
        // Asking for what is not there is how a push begins, and being asked who one is how a login does; and who asks too much is
        // not to fill the log as well.
        Some(error) if status == 429 || method.is_safe() && is_a_beginning(error, status) => {
            say!(debug, error);
        }
        Some(error) => say!(info, error),
        None if method.is_safe() => say!(debug),
        None => say!(info),
    }
}

fn is_a_beginning(refusal: &Refusal, status: u16) -> bool {
    status == 404 || matches!(refusal, Refusal::Unauthenticated { .. })
}
