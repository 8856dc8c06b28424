//! What looks at a server from the side: its metrics, and whether it is well.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};
use tokio::time::timeout;

use super::door::Door;
use super::metrics::Metrics;
use super::stall::Stalling;
use crate::error::Result;
use crate::store::Store;

/// How many connections there are at once: who looks are few.
const CONNECTIONS: usize = 32;
/// How long a client may take to ask, and to read.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the store may take for a cheap read before it does not count as ready.
const READY_LIMIT: Duration = Duration::from_secs(2);

/// Answers on a listener of its own, over HTTP/1.1 and without TLS or passwords: listen where only those who look can reach it.
///
/// | path | answer |
/// |---|---|
/// | `/metrics` | what the server counts, in Prometheus's text format |
/// | `/livez` | 200 as long as the process answers at all |
/// | `/readyz` | 200 while a server takes connections and the store answers a cheap read within 2 s; otherwise 503, also from the moment on at which the server was told to shut down |
pub struct Monitor(Arc<Watched>);

struct Watched {
    metrics: Metrics,
    store: Arc<dyn Store>,
    /// The read that asks whether the store answers: one at a time, and one that hangs is waited for, not joined by another.
    asking: Mutex<Option<JoinHandle<Result<()>>>>,
    /// Numbers are put together one at a time.
    counting: Mutex<()>,
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Monitor").finish_non_exhaustive()
    }
}

impl Monitor {
    /// Shows these metrics, and whether the server that records into them and its store are well.
    #[must_use]
    pub fn new(metrics: Metrics, store: Arc<dyn Store>) -> Self {
        Self(Arc::new(Watched { metrics, store, asking: Mutex::new(None), counting: Mutex::new(()) }))
    }

    /// Answers until `shutdown` resolves: to be later than the server's own, so that whoever looks sees it shut down.
    ///
    /// # Errors
    /// When the listener is no listener.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) -> io::Result<()> {
        let door = Door::new(listener, CONNECTIONS)?;
        let mut connections = JoinSet::new();
        let open = |stream, _| {
            let watched = Arc::clone(&self.0);
            let service = service_fn(move |request| {
                let watched = Arc::clone(&watched);
                async move { Ok::<_, Infallible>(watched.answer(&request).await) }
            });
            let serving = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .serve_connection(TokioIo::new(Stalling::new(stream, PATIENCE)), service);
            Some(async move {
                if let Err(error) = serving.await {
                    tracing::debug!(%error, "a connection of the monitor broke off");
                }
            })
        };
        door.open_until(shutdown, &mut connections, open).await;
        connections.shutdown().await;
        Ok(())
    }
}

impl Watched {
    async fn answer(&self, request: &http::Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match request.uri().path() {
            "/metrics" => self.metrics().await,
            "/livez" => plain(StatusCode::OK, "ok\n"),
            "/readyz" => match self.ready().await {
                Ok(()) => plain(StatusCode::OK, "ok\n"),
                Err(reason) => plain(StatusCode::SERVICE_UNAVAILABLE, reason),
            },
            _ => plain(StatusCode::NOT_FOUND, "there is /metrics, /livez and /readyz\n"),
        }
    }

    async fn metrics(&self) -> Response<Full<Bytes>> {
        let _one = self.counting.lock().await;
        let metrics = self.metrics.clone();
        match spawn_blocking(move || metrics.text()).await {
            Ok(Ok(text)) => {
                let mut response = Response::new(text.into());
                let format = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                response.headers_mut().insert(CONTENT_TYPE, format);
                response
            }
            Ok(Err(_)) | Err(_) => {
                tracing::error!("the metrics could not be put together");
                plain(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be put together\n")
            }
        }
    }

    /// Or why not. The store's own words, which name its folders, are for the log.
    async fn ready(&self) -> std::result::Result<(), &'static str> {
        if !self.metrics.is_serving() {
            return Err("the server takes no connections\n");
        }
        let asked = timeout(READY_LIMIT, async {
            let mut asking = self.asking.lock().await;
            let read = asking.get_or_insert_with(|| {
                let store = Arc::clone(&self.store);
                spawn_blocking(move || store.repositories(None, 1).map(drop))
            });
            let answered = read.await;
            *asking = None;
            answered
        });
        match asked.await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(error))) => {
                tracing::error!(%error, "the store is not ready");
                Err("the store failed; the log says how\n")
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "the store is not ready");
                Err("the store failed; the log says how\n")
            }
            Err(_) => Err("the store does not answer in time\n"),
        }
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
