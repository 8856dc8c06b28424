//! `sledge serve`: the registry.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::Args;
use sledge::filter::{ImmutableTags, ReadOnly};
use sledge::server::{Metrics, Monitor, Server};
use sledge::store::sled::{Events, Options, Sled, VerifyOptions, WhenFull};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::{Configuration, DATA, Source};
use crate::control::Control;
use crate::events::books::{Books, Front};
use crate::events::endpoint::Endpoint;
use crate::events::envelope::Source as Sender;
use crate::events::{Bell, Counts, Senders};
use crate::init;
use crate::live::Live;
use crate::logs::{Logs, Traces};
use crate::operation::cannot_open;
use crate::policy::{self, Policy, Standing};
use crate::printer::{Failure, Printer};
use crate::readings;
use crate::recurring::Recurring;
use crate::settings::Settings;
use crate::values::{Rate, Size, Time};

/// How many operations of the store run at once.
const BLOCKING_THREADS: usize = 96;

// What holds where nothing else is said; `Settings` tells users.
const GC_INTERVAL: Duration = Duration::from_secs(60 * 60);
const VERIFY_INTERVAL: Duration = Duration::from_secs(30 * 24 * 60 * 60);
const VERIFY_RATE: u64 = 32 << 20;

/// Serve the OCI distribution API over HTTP, with or without TLS
///
/// What is said by a flag goes before what a variable of the environment says, and that before the file. At SIGHUP the file is read
/// again: who may do what, certificates and what is logged are then as it says; the rest takes a restart. Certificates and
/// passwords that have changed on the disk are taken in without being told.
#[derive(Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    source: Source,
}

impl Serve {
    pub(crate) fn run(self, printer: Printer) -> Result<(), Failure> {
        let Configuration { settings, .. } = self.source.read()?.checked()?;
        let Logs { set_filter, traces } = Logs::begin(&settings)?;
        let live = Live::new(self.source, settings.clone(), set_filter)?;
        let runtime = runtime().map_err(|error| Failure::new("the runtime cannot be started", error))?;
        let served = runtime.block_on(serve(&settings, live, &traces, printer));
        traces.end();
        served
    }
}

async fn serve(settings: &Settings, live: Live, traces: &Traces, printer: Printer) -> Result<(), Failure> {
    let no_signals = |error| Failure::new("signals cannot be received", error);
    let shutdown = shutdown().map_err(no_signals)?;
    // From the start: before somebody waits for it, it would end the process.
    let hangup = signal(SignalKind::hangup()).map_err(no_signals)?;
    // The address before the data: who has mistyped it is not left with an empty folder.
    let listen = settings.listen.as_deref().unwrap_or("127.0.0.1:5000");
    let (listener, address) = listener(listen).await.map_err(|error| cannot_listen(listen, error))?;
    let data = settings.data.as_deref().unwrap_or(Path::new(DATA));
    let data = std::path::absolute(data)
        .map_err(|error| Failure::new(format!("folder {}", data.display()), error))?;
    let monitored = match settings.metrics_listen.as_deref() {
        Some(on) => Some(TcpListener::bind(on).await.map_err(|error| cannot_listen(on, error))?),
        None => None,
    };
    let bell = Bell::default();
    let store = open_store(settings, &data, &bell)?;
    if !settings.is_read_only() && store.is_snapshot() {
        tracing::warn!(
            data = %data.display(),
            "this is a snapshot: from the first push, deletion or collection on it is none any more; --read-only leaves it one"
        );
    }
    let counts = Arc::new(Counts::default());
    let sending = Senders::start(&store, &settings.events, &Sender::new(address), (bell, &counts))
        .map_err(|error| Failure::new("events cannot be sent", error))?;
    let standing = Standing { policy: settings.retention.clone(), read_only: settings.is_read_only() };
    let control = Control::listen(&data, store.clone(), standing.clone())
        .map_err(|error| Failure::new(format!("cannot listen for commands in {}", data.display()), error))?;
    let manner = if settings.is_read_only() { ", read-only" } else { "" };
    init::ready();
    let scheme = if live.tls().is_some() { "https" } else { "http" };
    printer
        .note(format_args!("sledge listening on {scheme}://{address}, data in {}{manner}", data.display()));
    if !address.ip().is_loopback() {
        if live.access().is_none() {
            tracing::warn!(%address, "whoever reaches this address can push and delete: --htpasswd asks for passwords");
        } else if live.tls().is_none() {
            tracing::warn!(%address, "passwords can be read on their way: without a proxy that speaks TLS, give --tls-certificate");
        }
    }
    let interval = match settings.gc_interval {
        _ if settings.is_read_only() => Duration::ZERO,
        Some(Time(interval)) => interval,
        None => GC_INTERVAL,
    };
    let collecting = Recurring::collecting(store.clone(), standing.options(&Policy::default()), interval);
    let options = VerifyOptions::new().rate(settings.verify_rate.map_or(VERIFY_RATE, |Rate(rate)| rate));
    let interval = settings.verify_interval.map_or(VERIFY_INTERVAL, |Time(interval)| interval);
    let verifying = Recurring::verifying(store.clone(), options, interval);
    let metrics = Metrics::new();
    let front = front(settings);
    let books = Books {
        store: store.clone(),
        front: Arc::clone(&front),
        pulls: settings.events.iter().any(Endpoint::wants_pulls),
        counts: Arc::clone(&counts),
    };
    let front = front(store.clone());
    if let Some(address) = monitored.as_ref().and_then(|listener| listener.local_addr().ok()) {
        printer.note(format_args!("metrics and health on http://{address}"));
    }
    let monitor = monitored.map(|listener| {
        let counts = (!settings.events.is_empty()).then_some(counts);
        let (reloads, tls) = (live.reloads(), live.tls());
        metrics.readings(move || readings::of(&store, counts.as_deref(), &reloads, tls.as_ref()));
        let monitor = Monitor::new(metrics.clone(), Arc::clone(&front));
        // To the end: whoever looks is to see it stop.
        tokio::spawn(async move { monitor.serve(listener, std::future::pending()).await })
    });
    let mut server = Server::new(front, settings.limits.options()).metrics(metrics);
    if let Some(tls) = live.tls() {
        server = server.tls(tls);
    }
    if let Some(access) = live.access() {
        server = server.access(access);
    }
    if !settings.events.is_empty() {
        server = server.audit(Arc::new(books));
    }
    let server = traces.of(server);
    let watching = live.watch(hangup);
    let served = server.serve(listener, shutdown).await;
    watching.abort();
    if let Some(monitor) = monitor {
        monitor.abort();
    }
    control.stop().await;
    collecting.stop().await;
    verifying.stop().await;
    sending.stop().await;
    served.map_err(|error| Failure::new("the server stopped", error))
}

/// What is listened on, and its address: the socket that the init system passed goes before an address that was given.
async fn listener(listen: &str) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = match init::listener()? {
        Some(passed) => {
            passed.set_nonblocking(true)?;
            TcpListener::from_std(passed)?
        }
        None => TcpListener::bind(listen).await?,
    };
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// The store that is served.
fn open_store(settings: &Settings, data: &Path, bell: &Bell) -> Result<Sled, Failure> {
    // Who has mistyped the folder of what is only read is not to serve an empty one.
    let mut options = Options::new().create(!settings.is_read_only()).past_cache(true);
    if let Some(Time(grace)) = settings.retention.grace {
        options = options.grace(grace);
    }
    if let Some(Size(budget)) = settings.budget {
        options = options.budget(budget);
    }
    if !settings.events.is_empty() {
        let bell = bell.clone();
        options = options.events(Events::new().on_ready(move || bell.ring()));
    }
    if settings.is_cache() {
        let stay = [settings.pin.as_slice(), &settings.retention.immutable_tags].concat();
        options = options.when_full(WhenFull::Evict { pinned: policy::pinned(&stay) });
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

/// What clients may use of a store.
fn front(settings: &Settings) -> Front {
    if settings.is_read_only() {
        return Arc::new(|store| Arc::new(ReadOnly::new(store)));
    }
    match policy::pinned(&settings.retention.immutable_tags) {
        pinned if pinned.is_none() => Arc::new(|store| Arc::new(store)),
        pinned => Arc::new(move |store| Arc::new(ImmutableTags::new(store, pinned.clone()))),
    }
}

fn cannot_listen(on: &str, error: io::Error) -> Failure {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => "another process listens there: choose another port with --listen",
        io::ErrorKind::PermissionDenied => "ports below 1024 need privileges: choose another with --listen",
        _ => "give --listen an address of this machine and a port, for example 127.0.0.1:5000",
    };
    Failure::new(format!("cannot listen on {on}"), error).hint(hint)
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
        init::stopping();
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
