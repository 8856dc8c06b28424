//! Where a server says what it does: its log, and traces.

use std::io;

use tracing::Metadata;
use tracing_subscriber::filter::{FilterExt as _, filter_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, fmt, registry, reload};

use crate::live::SetFilter;
use crate::printer::Failure;
use crate::settings::{LogFormat, Settings};

#[cfg(feature = "traces")]
mod traces;
#[cfg(not(feature = "traces"))]
#[path = "logs/no_traces.rs"]
mod traces;

pub(crate) use traces::Traces;

pub(crate) struct Logs {
    pub(crate) set_filter: SetFilter,
    pub(crate) traces: Traces,
}

impl Logs {
    /// Begins to write the process's log.
    pub(crate) fn begin(settings: &Settings) -> Result<Self, Failure> {
        let filter = settings.filter();
        let filter = EnvFilter::try_new(filter).map_err(|error| {
            Failure::new(format!("log filter {filter:?}"), error)
                .hint("use error, warn, info, debug or trace")
        })?;
        let (filter, handle) = reload::Layer::new(filter);
        let lines = fmt::layer().with_writer(io::stderr);
        let lines = match settings.log_format.unwrap_or(LogFormat::Text) {
            LogFormat::Text => lines.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).boxed(),
            LogFormat::Json => lines.json().boxed(),
        };
        let lines = lines.with_filter(filter.and(filter_fn(is_line)));
        let traces = Traces::begin(settings)?;
        let subscriber = registry().with(lines).with(traces.layer());
        subscriber.try_init().map_err(|error| Failure::new("logs cannot be written", error.to_string()))?;
        let set_filter = Box::new(move |filter| handle.reload(filter).map_err(|error| error.to_string()));
        Ok(Self { set_filter, traces })
    }
}

/// Lines say themselves all that they say: spans are for traces.
fn is_line(metadata: &Metadata<'_>) -> bool {
    metadata.is_event()
}
