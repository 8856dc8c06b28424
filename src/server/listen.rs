//! Connections: taking them, and letting them end.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::admission::Gate;
use super::bridge::Heavy;
use super::patience::Streams;
use super::route::{self, Peer, Service};
use super::stall::Stalling;
use crate::access::CurrentAccess;
use crate::store::Store;

/// How long nothing is accepted after the system had no descriptor or memory for a connection.
const BREATHER: Duration = Duration::from_millis(100);

/// How many requests of one HTTP/2 connection are in flight, each of which can hold a blob's file open.
const STREAMS: u32 = 32;
/// How much of an answer HTTP/2 keeps until the client takes it, in bytes.
const SEND_BUFFER: usize = 128 << 10;

/// How a [`Server`] treats its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct ServerOptions {
    drain_limit: Duration,
    header_limit: Duration,
    pub(super) silence_limit: Duration,
}

impl ServerOptions {
    /// The defaults.
    pub const fn new() -> Self {
        Self {
            drain_limit: Duration::from_secs(30),
            header_limit: Duration::from_secs(60),
            silence_limit: Duration::from_secs(120),
        }
    }

    /// How long requests in flight may take after the server was told to shut down; 30 s by default. What is not answered by then is
    /// broken off, and its uploads are suspended.
    pub const fn drain_limit(mut self, limit: Duration) -> Self {
        self.drain_limit = limit;
        self
    }

    /// How long a client may take to send a request's head, also the first one of a connection and the next one of a
    /// connection that is kept alive; 60 s by default.
    pub const fn header_limit(mut self, limit: Duration) -> Self {
        self.header_limit = limit;
        self
    }

    /// How long a client may send nothing in the middle of a request's body, and how long it may read nothing of an answer; 120 s
    /// by default. An upload is then suspended, as if the connection had been cut, and an answer is broken off: over HTTP/2 that one
    /// stream is reset.
    pub const fn silence_limit(mut self, limit: Duration) -> Self {
        self.silence_limit = limit;
        self
    }
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// A registry over a store.
///
/// It runs on a tokio runtime with I/O and time enabled, and calls the store on the runtime's blocking threads: their limit
/// (`max_blocking_threads`) is how many operations the store sees at once.
pub struct Server {
    store: Arc<dyn Store>,
    access: Option<Arc<CurrentAccess>>,
    options: ServerOptions,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Server {
    /// A server of this store, with which everyone who reaches it may do everything. Several can share one.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, options: ServerOptions) -> Self {
        Self { store, access: None, options }
    }

    /// Asks this who may do what. It can be replaced while the server runs.
    #[must_use]
    pub fn access(mut self, access: Arc<CurrentAccess>) -> Self {
        self.access = Some(access);
        self
    }

    /// Serves connections until `shutdown` resolves; then takes no more, and returns when the requests in flight are answered or
    /// the drain limit is over.
    ///
    /// # Errors
    /// When the listener is no listener. Failures of single connections, and of the system to take more of them, are
    /// logged and survived.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) -> io::Result<()> {
        listener.local_addr()?;
        let graceful = GracefulShutdown::new();
        let mut connections = JoinSet::new();
        let builder = self.builder();
        let service = Arc::new(Service {
            store: self.store,
            access: self.access,
            gate: Gate::new(),
            heavy: Heavy::new(),
            options: self.options,
        });
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, address)) => {
                        let (service, watcher) = (Arc::clone(&service), graceful.watcher());
                        connections.spawn(connection(builder.clone(), stream, Peer { address, certificate: None }, watcher, service));
                    }
                    Err(error) if is_the_client_s(&error) => {}
                    Err(error) => {
                        tracing::error!(%error, "no connection can be taken");
                        tokio::select! {
                            () = &mut shutdown => break,
                            () = sleep(BREATHER) => {}
                        }
                    }
                },
            }
        }
        drop(listener);
        if timeout(self.options.drain_limit, graceful.shutdown()).await.is_err() {
            tracing::warn!(connections = connections.len(), "requests in flight are broken off");
        }
        connections.shutdown().await;
        Ok(())
    }

    fn builder(&self) -> auto::Builder<Streams> {
        let mut builder = auto::Builder::new(Streams { limit: self.options.silence_limit });
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.options.header_limit)
            // Frames go to the kernel as they are: what a store maps into memory is never copied by this program.
            .writev(true);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(self.options.header_limit)
            .max_concurrent_streams(STREAMS)
            .max_send_buf_size(SEND_BUFFER);
        builder
    }
}

async fn connection(
    builder: auto::Builder<Streams>,
    stream: TcpStream,
    peer: Peer,
    watcher: Watcher,
    service: Arc<Service>,
) {
    let options = service.options;
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "small answers will be late");
    }
    let began = Arc::new(AtomicBool::new(false));
    let service = {
        let began = Arc::clone(&began);
        service_fn(move |request| {
            began.store(true, Ordering::Relaxed);
            let (service, peer) = (Arc::clone(&service), peer.clone());
            async move { Ok::<_, Infallible>(route::answer(&service, &peer, request).await) }
        })
    };
    let serving = builder
        .serve_connection(Stalling::new(TokioIo::new(stream), options.silence_limit), service)
        .into_owned();
    let mut serving = pin!(watcher.watch(serving));
    // HTTP's own time limits begin when it is known which version is spoken; who never says so is let go here.
    let served = match timeout(options.header_limit, serving.as_mut()).await {
        Ok(served) => served,
        Err(_) if began.load(Ordering::Relaxed) => serving.await,
        Err(_) => return,
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection broke off");
    }
}

/// Whether a connection was lost before it could be taken, which says nothing of the next one.
fn is_the_client_s(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}
