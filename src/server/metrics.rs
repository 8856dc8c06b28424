//! What a server counts.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Method, StatusCode};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::prometheus_text;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::wire::Request;
#[cfg(feature = "schema1")]
use crate::wire::TarSumAct;

/// The borders of how long an answer took, in seconds: from a read that was in memory to a layer over a slow link.
const BUCKETS: [f64; 7] = [0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0];

/// What a [`Server`](super::Server) counts, and what a [`Monitor`](super::Monitor) shows. Clones are one and the same.
///
/// Labels are taken from short lists that are known beforehand: never a name that a client has chosen.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Mutex<Registry>,
    requests: Family<Answered, Counter>,
    durations: Family<At, Histogram, fn() -> Histogram>,
    received: Counter,
    sent: Counter,
    uploads: Gauge,
    connections: Gauge,
    handshakes_failed: Counter,
    refused: Family<By, Counter>,
    /// How many servers take connections.
    serving: AtomicUsize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    method: &'static str,
    endpoint: &'static str,
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct At {
    endpoint: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct By {
    limit: &'static str,
}

/// A number that somebody else knows, as it is when it is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    name: &'static str,
    help: &'static str,
    value: Value,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Value {
    Gauge(f64),
    Counter(f64),
}

impl Reading {
    /// What goes up and down. The name is lower case with underscores and its unit at the end, such as `store_blob_bytes`; it is
    /// shown with `sledge_` before it. The help is a sentence without a full stop.
    #[must_use]
    pub const fn gauge(name: &'static str, help: &'static str, value: f64) -> Self {
        Self { name, help, value: Value::Gauge(value) }
    }

    /// What only goes up while the process lives. It is shown with `_total` after its name.
    #[must_use]
    pub const fn counter(name: &'static str, help: &'static str, value: f64) -> Self {
        Self { name, help, value: Value::Counter(value) }
    }
}

/// The limits that a refusal is counted under.
#[derive(Clone, Copy)]
pub(super) enum Limit {
    Connections,
    Uploads,
    Requests,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Nothing was counted yet.
    #[must_use]
    pub fn new() -> Self {
        let inner = Inner {
            registry: Mutex::new(Registry::with_prefix("sledge")),
            requests: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            received: Counter::default(),
            sent: Counter::default(),
            uploads: Gauge::default(),
            connections: Gauge::default(),
            handshakes_failed: Counter::default(),
            refused: Family::default(),
            serving: AtomicUsize::new(0),
        };
        let mut registry = inner.registry.lock().unwrap_or_else(PoisonError::into_inner);
        registry.register(
            "http_requests",
            "Requests that were answered, by method, kind of endpoint and class of status",
            inner.requests.clone(),
        );
        registry.register(
            "http_request_duration_seconds",
            "From a request's head to its answer's: of a push, with the bytes that it brings",
            inner.durations.clone(),
        );
        registry.register(
            "http_received_bytes",
            "Bytes of requests' bodies that came",
            inner.received.clone(),
        );
        registry.register(
            "http_sent_bytes",
            "Bytes of answers' bodies that were handed out",
            inner.sent.clone(),
        );
        registry.register(
            "uploads_in_progress",
            "Requests that are bringing content right now",
            inner.uploads.clone(),
        );
        registry.register("connections", "Connections that are there", inner.connections.clone());
        registry.register(
            "tls_handshakes_failed",
            "Connections that ended before they were secure",
            inner.handshakes_failed.clone(),
        );
        registry.register(
            "refused_by_limit",
            "Connections and requests that were more than one client may have",
            inner.refused.clone(),
        );
        drop(registry);
        Self(Arc::new(inner))
    }

    /// Shows numbers that others know along with the server's own. `read` is called each time that somebody asks, on a thread that
    /// may block, one at a time. What it leaves out is not shown.
    ///
    /// ```no_run
    /// use sledge::server::{Metrics, Reading};
    /// use sledge::store::sled::Sled;
    ///
    /// let (store, metrics) = (Sled::open("data")?, Metrics::new());
    /// let measured = store.clone();
    /// metrics.readings(move || match measured.usage() {
    ///     Ok(usage) => vec![Reading::gauge("store_blob_bytes", "Bytes of blobs, each counted once", usage.blob_bytes as f64)],
    ///     Err(_) => Vec::new(),
    /// });
    /// # Ok::<(), sledge::Error>(())
    /// ```
    pub fn readings(&self, read: impl Fn() -> Vec<Reading> + Send + Sync + 'static) {
        self.registry().register_collector(Box::new(Readings(Box::new(read))));
    }

    fn registry(&self) -> std::sync::MutexGuard<'_, Registry> {
        self.0.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of it as Prometheus reads it. Blocks.
    pub(super) fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_text::encode(&mut text, &self.registry())?;
        Ok(text)
    }

    /// Whether a server that records here takes connections.
    pub(super) fn is_serving(&self) -> bool {
        self.0.serving.load(Ordering::SeqCst) > 0
    }

    /// A server takes connections from here on.
    pub(super) fn serving(&self) -> Serving {
        self.0.serving.fetch_add(1, Ordering::SeqCst);
        Serving(self.clone())
    }

    pub(super) fn connection(&self) -> Counted {
        Counted::new(&self.0.connections)
    }

    pub(super) fn upload(&self) -> Counted {
        Counted::new(&self.0.uploads)
    }

    pub(super) fn handshake_failed(&self) {
        self.0.handshakes_failed.inc();
    }

    pub(super) fn refused(&self, limit: Limit) {
        let limit = match limit {
            Limit::Connections => "connections",
            Limit::Uploads => "uploads",
            Limit::Requests => "requests",
        };
        self.0.refused.get_or_create(&By { limit }).inc();
    }

    pub(super) fn received(&self, bytes: u64) {
        self.0.received.inc_by(bytes);
    }

    pub(super) fn sent(&self, bytes: u64) {
        self.0.sent.inc_by(bytes);
    }

    pub(super) fn answered(
        &self,
        method: &Method,
        endpoint: &'static str,
        status: StatusCode,
        took: Duration,
    ) {
        let answered = Answered { method: known(method), endpoint, status: class(status) };
        self.0.requests.get_or_create(&answered).inc();
        self.0.durations.get_or_create(&At { endpoint }).observe(took.as_secs_f64());
    }
}

/// While it is there, something counts one.
pub(super) struct Counted(Gauge);

impl Counted {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A server that takes connections, until it takes no more.
pub(super) struct Serving(Metrics);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.0.serving.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Readings(Box<dyn Fn() -> Vec<Reading> + Send + Sync>);

impl fmt::Debug for Readings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readings").finish_non_exhaustive()
    }
}

impl Collector for Readings {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for Reading { name, help, value } in (self.0)() {
            match value {
                Value::Gauge(value) => {
                    let gauge = ConstGauge::new(value);
                    gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
                }
                Value::Counter(value) => {
                    let counter = ConstCounter::new(value);
                    counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
                }
            }
        }
        Ok(())
    }
}

/// What kind of endpoint a request is for.
pub(super) const fn endpoint(request: &Request) -> &'static str {
    match request {
        Request::Version => "version",
        Request::BlobGet { .. } | Request::BlobHead { .. } | Request::BlobDelete { .. } => "blob",
        Request::ManifestGet { .. }
        | Request::ManifestHead { .. }
        | Request::ManifestPut { .. }
        | Request::ManifestDelete { .. } => "manifest",
        #[cfg(feature = "schema1")]
        Request::TarSum { act: TarSumAct::Get | TarSumAct::Head, .. } => "blob",
        #[cfg(feature = "schema1")]
        Request::TarSum { act: TarSumAct::Whole | TarSumAct::Finish(_), .. } => "upload",
        Request::UploadStart { .. }
        | Request::UploadWhole { .. }
        | Request::Mount { .. }
        | Request::UploadChunk { .. }
        | Request::UploadFinish { .. }
        | Request::UploadStatus { .. }
        | Request::UploadCancel { .. } => "upload",
        Request::Tags { .. } => "tags",
        Request::Repositories { .. } => "catalog",
        Request::Referrers { .. } => "referrers",
    }
}

/// Where a request is for no endpoint, or was refused before that was known.
pub(super) const NO_ENDPOINT: &str = "none";
/// Asking for a token, where the server gives some.
pub(super) const TOKEN: &str = "token";

fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::PUT => "PUT",
        Method::POST => "POST",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

fn class(status: StatusCode) -> &'static str {
    match status.as_u16() / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    }
}
