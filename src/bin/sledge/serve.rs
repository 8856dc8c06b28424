//! `sledge serve`: the registry.

use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};
use sledge::filter::{ImmutableTags, ReadOnly};
use sledge::server::{Server, ServerOptions};
use sledge::store::Store;
use sledge::store::sled::{Options, Sled, VerifyOptions, WhenFull};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::control::Control;
use crate::operation::cannot_open;
use crate::policy::{self, Policy, Standing};
use crate::printer::{Failure, Printer};
use crate::recurring::Recurring;

/// How many operations of the store run at once.
const BLOCKING_THREADS: usize = 96;

/// Serve the OCI distribution API over HTTP, without TLS
#[derive(Args)]
pub(crate) struct Serve {
    /// The folder that holds everything; it is made if it does not exist
    #[arg(long, value_name = "DIR", env = "SLEDGE_DATA", default_value = "./sledge-data")]
    data: PathBuf,
    /// The address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDR", env = "SLEDGE_LISTEN", default_value = "127.0.0.1:5000")]
    listen: String,
    #[command(flatten)]
    policy: Policy,
    /// How often what nothing keeps is removed; 0s never does it by itself
    #[arg(long, value_name = "TIME", env = "SLEDGE_GC_INTERVAL", default_value = "1h",
        value_parser = humantime::parse_duration)]
    gc_interval: Duration,
    /// How often all content is read and compared with its digest; 0s never does it by itself
    #[arg(long, value_name = "TIME", env = "SLEDGE_VERIFY_INTERVAL", default_value = "30d",
        value_parser = humantime::parse_duration)]
    verify_interval: Duration,
    /// How much of it is read in a second, such as 32MiB
    #[arg(long, value_name = "SIZE", env = "SLEDGE_VERIFY_RATE", default_value = "32MiB",
        value_parser = policy::rate)]
    verify_rate: u64,
    /// The most that the data folder takes on the disk, such as 20GiB and at least 64MiB, of which 32 MiB are kept for the index and
    /// for deleting; what would go beyond is refused
    #[arg(long, value_name = "SIZE", env = "SLEDGE_BUDGET", value_parser = policy::size)]
    budget: Option<u64>,
    /// Where the budget has no room, let images go that nobody pushed or pulled for the longest time, instead of refusing
    #[arg(long, requires = "budget", env = "SLEDGE_CACHE", value_parser = BoolishValueParser::new())]
    cache: bool,
    /// In a cache, tags whose images stay: a pattern with * and ?. May be repeated
    #[arg(long, value_name = "PATTERN", requires = "cache", value_parser = policy::tag_pattern)]
    pin: Vec<String>,
    /// Answer reads alone: nothing can be pushed or deleted, and nothing is collected or repaired; bytes that went bad are set aside all
    /// the same. The store must be there
    #[arg(long, env = "SLEDGE_READ_ONLY", value_parser = BoolishValueParser::new())]
    read_only: bool,
    /// How logs are written to stderr
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// What is logged: a level, or levels of modules, such as info,sledge=debug
    #[arg(long, value_name = "FILTER", env = "SLEDGE_LOG", default_value = "info")]
    log: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

impl Serve {
    pub(crate) fn run(self, printer: Printer) -> Result<(), Failure> {
        self.log()?;
        let runtime = runtime().map_err(|error| Failure::new("the runtime cannot be started", error))?;
        runtime.block_on(self.serve(printer))
    }

    async fn serve(self, printer: Printer) -> Result<(), Failure> {
        let shutdown = shutdown().map_err(|error| Failure::new("signals cannot be received", error))?;
        // The address before the data: who has mistyped it is not left with an empty folder.
        let listener = TcpListener::bind(&self.listen).await.map_err(|error| self.cannot_listen(error))?;
        let address = listener.local_addr().map_err(|error| self.cannot_listen(error))?;
        let data = std::path::absolute(&self.data)
            .map_err(|error| Failure::new(format!("folder {}", self.data.display()), error))?;
        let store = self.open_store(&data)?;
        let standing = self.standing();
        let control = Control::listen(&data, store.clone(), standing.clone()).map_err(|error| {
            Failure::new(format!("cannot listen for commands in {}", data.display()), error)
        })?;
        let manner = if self.read_only { ", read-only" } else { "" };
        printer
            .note(format_args!("sledge listening on http://{address}, data in {}{manner}", data.display()));
        let interval = if self.read_only { Duration::ZERO } else { self.gc_interval };
        let collecting = Recurring::collecting(store.clone(), standing.options(&Policy::default()), interval);
        let options = VerifyOptions::new().rate(self.verify_rate);
        let verifying = Recurring::verifying(store.clone(), options, self.verify_interval);
        let served = Server::new(self.front(store), ServerOptions::new()).serve(listener, shutdown).await;
        control.stop().await;
        collecting.stop().await;
        verifying.stop().await;
        served.map_err(|error| Failure::new("the server stopped", error))
    }

    fn log(&self) -> Result<(), Failure> {
        let filter = EnvFilter::try_new(&self.log).map_err(|error| {
            Failure::new(format!("log filter {:?}", self.log), error)
                .hint("use error, warn, info, debug or trace")
        })?;
        let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
        let ansi = io::IsTerminal::is_terminal(&io::stderr());
        let set = match self.log_format {
            LogFormat::Text => subscriber.with_ansi(ansi).try_init(),
            LogFormat::Json => subscriber.json().try_init(),
        };
        set.map_err(|error| Failure::new("logs cannot be written", error.to_string()))
    }

    /// The store that is served.
    fn open_store(&self, data: &Path) -> Result<Sled, Failure> {
        // Who has mistyped the folder of what is only read is not to serve an empty one.
        let mut options = Options::new().create(!self.read_only);
        if let Some(grace) = self.policy.grace {
            options = options.grace(grace);
        }
        if let Some(budget) = self.budget {
            options = options.budget(budget);
        }
        if self.cache {
            options = options.when_full(WhenFull::Evict {
                pinned: policy::pinned(&[self.pin.as_slice(), &self.policy.immutable_tags].concat()),
            });
            options = options.on_evicted(|evicted| {
                let tags: Vec<String> = evicted.tags.iter().map(ToString::to_string).collect();
                tracing::info!(
                    repository = %evicted.repository,
                    digest = %evicted.digest,
                    tags = tags.join(" "),
                    unused_seconds = evicted.unused.as_secs(),
                    bytes = evicted.bytes,
                    "the cache let an image go to make room"
                );
            });
        }
        options.open(data).map_err(|error| match error {
            sledge::Error::NotAStore { .. } => {
                Failure::new(format!("cannot open the store in {}", data.display()), error)
                    .hint("give --data a folder that is empty or does not exist")
            }
            error => cannot_open(data, error),
        })
    }

    fn standing(&self) -> Standing {
        Standing { policy: self.policy.clone(), read_only: self.read_only }
    }

    /// The store as clients may use it.
    fn front(&self, store: Sled) -> Arc<dyn Store> {
        if self.read_only {
            return Arc::new(ReadOnly::new(store));
        }
        match policy::pinned(&self.policy.immutable_tags) {
            pinned if pinned.is_none() => Arc::new(store),
            pinned => Arc::new(ImmutableTags::new(store, pinned)),
        }
    }

    fn cannot_listen(&self, error: io::Error) -> Failure {
        let hint = match error.kind() {
            io::ErrorKind::AddrInUse => "another process listens there: choose another port with --listen",
            io::ErrorKind::PermissionDenied => {
                "ports below 1024 need privileges: choose another with --listen"
            }
            _ => "give --listen an address of this machine and a port, for example 127.0.0.1:5000",
        };
        Failure::new(format!("cannot listen on {}", self.listen), error).hint(hint)
    }
}

fn runtime() -> io::Result<Runtime> {
    let cores = thread::available_parallelism().map_or(2, usize::from);
    Builder::new_multi_thread()
        .worker_threads(cores.clamp(2, 4))
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()
}

/// Resolves at the first signal to stop; the second one ends the process at once.
fn shutdown() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        let number = either(&mut interrupt, &mut terminate).await;
        let signal = if number == SignalKind::interrupt().as_raw_value() { "SIGINT" } else { "SIGTERM" };
        tracing::info!(
            signal,
            "shutting down: requests in flight are finished first, a second signal ends them"
        );
        tokio::spawn(async move {
            let number = either(&mut interrupt, &mut terminate).await;
            process::exit(128 + number);
        });
    })
}

/// The number of the signal that came first.
async fn either(interrupt: &mut Signal, terminate: &mut Signal) -> i32 {
    tokio::select! {
        _ = interrupt.recv() => SignalKind::interrupt().as_raw_value(),
        _ = terminate.recv() => SignalKind::terminate().as_raw_value(),
    }
}
