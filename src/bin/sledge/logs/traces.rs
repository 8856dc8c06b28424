//! Traces of requests, by OpenTelemetry to a collector.
//!
//! A request goes on with the trace of the client, if it has one (the header `traceparent` of W3C's Trace Context). What a trace says of a
//! request is what the log says: no header, no query and no content is in it.

use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::{Bytes, HeaderExtractor, HttpClient, HttpError};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use sledge::server::Server;
use tracing::field::Empty;
use tracing::{Span, Subscriber, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::Layer;
use tracing_subscriber::registry::LookupSpan;
use ureq::Agent;
use ureq::http::header::USER_AGENT;
use ureq::http::request::Parts;
use ureq::http::{Request, Response};

use crate::printer::Failure;
use crate::settings::Settings;

/// How long a collector may take to answer, and how long the end of the process waits for what is left.
const TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) struct Traces(Option<SdkTracerProvider>);

impl Traces {
    pub(crate) fn begin(settings: &Settings) -> Result<Self, Failure> {
        let Some(url) = &settings.traces else { return Ok(Self(None)) };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Sender::new())
            .with_endpoint(url.to_string())
            .with_timeout(TIMEOUT)
            .build()
            .map_err(|error| Failure::new(format!("traces cannot be sent to {url}"), error))?;
        let mut resource = Resource::builder();
        if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
            resource = resource.with_service_name("sledge");
        }
        // Gathered and sent on a thread of their own; 2,048 wait, and what is more is let go.
        let provider =
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build());
        Ok(Self(Some(provider.build())))
    }

    pub(super) fn layer<S>(&self) -> Option<impl Layer<S> + use<S>>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        let tracer = self.0.as_ref()?.tracer("sledge");
        let layer =
            tracing_opentelemetry::layer().with_tracer(tracer).with_location(false).with_threads(false);
        Some(
            layer.with_filter(filter_fn(|metadata| {
                metadata.is_span() && metadata.target().starts_with("sledge")
            })),
        )
    }

    /// The server, whose requests are traced if they are to be.
    pub(crate) fn of(&self, server: Server) -> Server {
        if self.0.is_some() { server.spans(span) } else { server }
    }

    /// Sends what is left.
    pub(crate) fn end(self) {
        if let Some(Err(error)) = self.0.map(|provider| provider.shutdown_with_timeout(TIMEOUT)) {
            tracing::warn!(%error, "the last traces could not be sent");
        }
    }
}

/// The span of a request, by OpenTelemetry's conventions for HTTP.
fn span(parts: &Parts, endpoint: &'static str) -> Span {
    let span = info_span!(
        "request",
        otel.name = format!("{} {endpoint}", parts.method),
        otel.kind = "server",
        http.request.method = %parts.method,
        url.path = parts.uri.path(),
        user_agent.original = parts.headers.get(USER_AGENT).and_then(|value| value.to_str().ok()),
        http.response.status_code = Empty,
        client.address = Empty,
        enduser.id = Empty,
    );
    let client = TraceContextPropagator::new().extract(&HeaderExtractor(&parts.headers));
    // Only where the layer above is missing could it have none.
    drop(span.set_parent(client));
    span
}

/// The way to the collector.
#[derive(Debug)]
struct Sender {
    agent: Agent,
    failed: AtomicBool,
}

impl Sender {
    fn new() -> Self {
        let config =
            Agent::config_builder().http_status_as_error(false).timeout_global(Some(TIMEOUT)).build();
        Self { agent: config.into(), failed: AtomicBool::new(false) }
    }

    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, ureq::Error> {
        let (parts, body) = request.into_parts();
        let request = Request::from_parts(parts, body.to_vec());
        let (parts, mut body) = self.agent.run(request)?.into_parts();
        Ok(Response::from_parts(parts, body.read_to_vec()?.into()))
    }

    /// Says it once, not every five seconds.
    fn note(&self, failure: Option<&dyn Debug>) {
        let failed = self.failed.swap(failure.is_some(), Ordering::Relaxed);
        match failure {
            Some(failure) if !failed => {
                tracing::warn!(?failure, "traces cannot be sent: those of meanwhile are lost");
            }
            None if failed => tracing::info!("traces are sent again"),
            _ => {}
        }
    }
}

#[async_trait]
impl HttpClient for Sender {
    /// Blocks: it is called on the thread that gathers traces, which does nothing else.
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let sent = self.send(request);
        match &sent {
            Ok(answer) if answer.status().is_success() => self.note(None),
            Ok(answer) => self.note(Some(&answer.status())),
            Err(error) => self.note(Some(error)),
        }
        Ok(sent?)
    }
}
