//! What a server can be told: by flags, by variables of the environment and by a file, which go before each other in this order.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use sledge::access::{Access, TokenEndpoint};
use sledge::store::sled::Options;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::events::endpoint::Endpoint;
#[cfg(feature = "traces")]
use crate::events::endpoint::Url;
use crate::policy::{Policy, TagPattern};
use crate::values::{Rate, Size, Time};

mod auth;
mod limits;
mod tls;

use auth::{AuthSettings, Rule};
use limits::LimitSettings;
use tls::TlsSettings;

/// How many receivers of events a store knows.
const MOST_ENDPOINTS: usize = 16;

/// A server's settings; what is not said has a default. In a file they have the flags' names, in tables `[retention]` for what is
/// kept, `[tls]`, `[auth]`, `[limits]`, `[[access]]` and `[[events]]`.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Settings {
    /// The folder that holds everything; it is made if it does not exist [default: ./sledge-data]
    #[arg(long, value_name = "DIR", env = "SLEDGE_DATA")]
    pub(crate) data: Option<PathBuf>,
    /// The address to listen on; port 0 takes a free one [default: 127.0.0.1:5000]
    #[arg(long, value_name = "ADDR", env = "SLEDGE_LISTEN")]
    pub(crate) listen: Option<String>,
    #[command(flatten)]
    pub(crate) retention: Policy,
    /// How often what nothing keeps is removed; 0s never does it by itself [default: 1h]
    #[arg(long, value_name = "TIME", env = "SLEDGE_GC_INTERVAL")]
    pub(crate) gc_interval: Option<Time>,
    /// How often all content is read and compared with its digest; 0s never does it by itself [default: 30d]
    #[arg(long, value_name = "TIME", env = "SLEDGE_VERIFY_INTERVAL")]
    pub(crate) verify_interval: Option<Time>,
    /// How much of it is read in a second [default: 32MiB]
    #[arg(long, value_name = "SIZE", env = "SLEDGE_VERIFY_RATE")]
    pub(crate) verify_rate: Option<Rate>,
    /// The most that the data folder takes on the disk, such as 20GiB and at least 64MiB, of which 32 MiB are kept for the index and
    /// for deleting; what would go beyond is refused [default: no limit]
    #[arg(long, value_name = "SIZE", env = "SLEDGE_BUDGET")]
    pub(crate) budget: Option<Size>,
    /// Where the budget has no room, let images go that nobody pushed or pulled for the longest time, instead of refusing
    #[arg(long, env = "SLEDGE_CACHE", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        value_name = "BOOL", value_parser = BoolishValueParser::new())]
    pub(crate) cache: Option<bool>,
    /// In a cache, tags whose images stay: a pattern with * and ?. May be repeated
    #[arg(long, value_name = "PATTERN")]
    pub(crate) pin: Vec<TagPattern>,
    /// Answer reads alone: nothing can be pushed or deleted, and nothing is collected or repaired; bytes that went bad are set aside
    /// all the same. The store must be there
    #[arg(long, env = "SLEDGE_READ_ONLY", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        value_name = "BOOL", value_parser = BoolishValueParser::new())]
    pub(crate) read_only: Option<bool>,
    /// How logs are written to stderr [default: text]
    #[arg(long, value_name = "FORMAT", value_enum, env = "SLEDGE_LOG_FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
    /// What is logged: a level, or levels of modules, such as info,sledge=debug [default: info]
    #[arg(long, value_name = "FILTER", env = "SLEDGE_LOG")]
    pub(crate) log: Option<String>,
    /// Where metrics and health are asked for, such as 127.0.0.1:9100: /metrics, /livez and /readyz [default: nowhere]
    #[arg(long, value_name = "ADDR", env = "SLEDGE_METRICS_LISTEN")]
    pub(crate) metrics_listen: Option<String>,
    /// Where traces of requests are sent, by OTLP over HTTP: a URL, most often of port 4318 and the path /v1/traces. OpenTelemetry's
    /// variables for the service's name and for sampling hold too [default: nowhere]
    #[cfg(feature = "traces")]
    #[arg(long, value_name = "URL", env = "SLEDGE_TRACES")]
    pub(crate) traces: Option<Url>,
    #[command(flatten)]
    pub(crate) tls: TlsSettings,
    #[command(flatten)]
    pub(crate) auth: AuthSettings,
    /// Who may do what, where it is not the same for all.
    #[arg(skip)]
    pub(crate) access: Vec<Rule>,
    #[command(flatten)]
    pub(crate) limits: LimitSettings,
    /// Who is told of what happens; in a file alone.
    #[arg(skip)]
    pub(crate) events: Vec<Endpoint>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

/// A setting that cannot hold, or not with another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mistake {
    /// The setting's name in a file; of several tables of a name with a number, from 1.
    pub(crate) key: Cow<'static, str>,
    /// What is wrong, and what to do.
    pub(crate) says: String,
}

impl Mistake {
    fn new(key: impl Into<Cow<'static, str>>, says: impl Into<String>) -> Self {
        Self { key: key.into(), says: says.into() }
    }
}

impl Settings {
    /// These, and of others what these do not say.
    pub(crate) fn or(self, others: Self) -> Self {
        Self {
            data: self.data.or(others.data),
            listen: self.listen.or(others.listen),
            retention: self.retention.or(&others.retention),
            gc_interval: self.gc_interval.or(others.gc_interval),
            verify_interval: self.verify_interval.or(others.verify_interval),
            verify_rate: self.verify_rate.or(others.verify_rate),
            budget: self.budget.or(others.budget),
            cache: self.cache.or(others.cache),
            pin: if self.pin.is_empty() { others.pin } else { self.pin },
            read_only: self.read_only.or(others.read_only),
            log_format: self.log_format.or(others.log_format),
            log: self.log.or(others.log),
            metrics_listen: self.metrics_listen.or(others.metrics_listen),
            #[cfg(feature = "traces")]
            traces: self.traces.or(others.traces),
            tls: self.tls.or(others.tls),
            auth: self.auth.or(others.auth),
            access: if self.access.is_empty() { others.access } else { self.access },
            limits: self.limits.or(others.limits),
            events: if self.events.is_empty() { others.events } else { self.events },
        }
    }

    /// The same with paths that begin at a folder, where they have no other beginning.
    pub(crate) fn beginning_at(mut self, folder: &Path) -> Self {
        let cas = self.events.iter_mut().flat_map(|endpoint| &mut endpoint.ca);
        for path in self.data.iter_mut().chain(cas) {
            *path = folder.join(&*path);
        }
        self.tls.beginning_at(folder);
        self.auth.beginning_at(folder);
        self
    }

    /// What each setting alone does not tell.
    pub(crate) fn mistakes(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        let mut add = |wrong: bool, key, says: &str| {
            if wrong {
                mistakes.push(Mistake::new(key, says));
            }
        };
        add(
            self.is_cache() && self.budget.is_none(),
            "cache",
            "a cache lets images go where a budget has no room: give `budget` too",
        );
        add(
            !self.pin.is_empty() && !self.is_cache(),
            "pin",
            "images are pinned in a cache: give `cache` too, or `immutable-tags` for tags that stay in any store",
        );
        if let Some(Size(budget)) = self.budget.filter(|Size(budget)| *budget < Options::LEAST_BUDGET) {
            let least = Options::LEAST_BUDGET >> 20;
            let says = format!("{budget} bytes are too few for a store: at least {least}MiB");
            mistakes.push(Mistake::new("budget", says));
        }
        for (key, listen) in [("listen", &self.listen), ("metrics-listen", &self.metrics_listen)] {
            if let Some(listen) = listen.as_deref().filter(|listen| !is_address(listen)) {
                let says = format!("{listen:?} is no address and port, such as 127.0.0.1:5000");
                mistakes.push(Mistake::new(key, says));
            }
        }
        if let Some(says) = self.log.as_deref().and_then(no_filter) {
            mistakes.push(Mistake::new("log", format!("{says}: use error, warn, info, debug or trace")));
        }
        let same = self.metrics_listen.as_ref().filter(|listen| Some(*listen) == self.listen.as_ref());
        if same.is_some_and(|listen| !listen.ends_with(":0")) {
            mistakes.push(Mistake::new(
                "metrics-listen",
                "it is where images are served: metrics need an address of their own",
            ));
        }
        mistakes.extend(self.limits.mistakes());
        mistakes.extend(self.tls.load().err());
        // Apart from each other, as one hides nothing of the other.
        mistakes.extend(self.auth.endpoint().err());
        mistakes.extend(self.access(None).err());
        if self.events.len() > MOST_ENDPOINTS {
            let says = format!("events are sent to at most {MOST_ENDPOINTS} receivers");
            mistakes.push(Mistake::new("events", says));
        }
        let mut names = BTreeSet::new();
        for (number, endpoint) in self.events.iter().enumerate() {
            if !names.insert(&endpoint.name) {
                let says = format!("two receivers are named {}: give each a name of its own", endpoint.name);
                mistakes.push(Mistake::new(format!("events.{}", number + 1), says));
            }
            let says = endpoint.mistake();
            mistakes.extend(says.map(|says| Mistake::new(format!("events.{}", number + 1), says)));
        }
        mistakes
    }

    /// Who may do what, with the files as they are now; nothing where everybody may do everything.
    pub(crate) fn access(&self, endpoint: Option<TokenEndpoint>) -> Result<Option<Access>, Mistake> {
        self.auth.load(&self.access, self.tls.asks_for_certificates(), endpoint)
    }

    /// What of others is not as it is here and takes a restart to be.
    pub(crate) fn fixed_that_differ(&self, others: &Self, has_access: bool) -> Vec<String> {
        let fixed = |settings: &Self| {
            let mut value = serde_json::to_value(settings).unwrap_or_default();
            if let Some(settings) = value.as_object_mut() {
                settings.remove("log");
                // Who has let everybody in goes on so.
                if has_access {
                    settings.retain(|key, _| !matches!(key.as_str(), "auth" | "access"));
                }
            }
            value
        };
        let (ours, theirs) = (fixed(self), fixed(others));
        let keys = ours.as_object().into_iter().flat_map(serde_json::Map::keys);
        keys.filter(|key| ours.get(key) != theirs.get(key)).cloned().collect()
    }

    /// Takes what can change from others.
    pub(crate) fn take_over(&mut self, others: Self) {
        self.auth = others.auth;
        self.access = others.access;
        self.log = others.log;
    }

    /// What is logged.
    pub(crate) fn filter(&self) -> &str {
        self.log.as_deref().unwrap_or("info")
    }

    /// The files that are read again when they have changed.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        self.tls.files().chain(self.auth.files())
    }

    pub(crate) fn is_cache(&self) -> bool {
        self.cache.unwrap_or(false)
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only.unwrap_or(false)
    }
}

/// Why it is no filter of logs, if it is none. A slip such as `inof` would be the name of a module, and nothing would be logged.
fn no_filter(text: &str) -> Option<String> {
    if let Err(error) = EnvFilter::try_new(text) {
        return Some(error.to_string());
    }
    let is_level = |word: &str| word.parse::<LevelFilter>().is_ok();
    let alone = text.split(',').map(str::trim).find(|part| !part.contains(['=', '[']) && !is_level(part));
    alone.map(|part| format!("{part:?} is no level"))
}

/// Whether it looks like a host and a port. Whether there is such a host is seen when it is listened on.
fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}
