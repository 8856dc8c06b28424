//! Connections: taking them, and letting them end.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::admission::Gate;
use super::bridge::Heavy;
use super::door::Door;
use super::idle::Activity;
use super::limits::{Client, Limits};
use super::metrics::{Limit, Metrics};
use super::options::ServerOptions;
use super::patience::Streams;
use super::route::{self, Ids, Peer, Service};
use super::stall::Stalling;
use super::tls::{Secure, Tls};
use crate::access::CurrentAccess;
use crate::store::Store;

/// How many requests of one HTTP/2 connection are in flight, each of which can hold a blob's file open.
const STREAMS: u32 = 32;
/// How long a client may take to leave a connection on which it asked nothing.
const GOODBYE: Duration = Duration::from_secs(5);
/// How much of an answer HTTP/2 keeps until the client takes it, in bytes.
const SEND_BUFFER: usize = 128 << 10;

/// A registry over a store.
///
/// It runs on a tokio runtime with I/O and time enabled, and calls the store on the runtime's blocking threads: their limit
/// (`max_blocking_threads`) is how many operations the store sees at once.
pub struct Server {
    store: Arc<dyn Store>,
    access: Option<Arc<CurrentAccess>>,
    options: ServerOptions,
    tls: Option<Tls>,
    metrics: Metrics,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("Server");
        debug.field("options", &self.options).field("tls", &self.tls).finish_non_exhaustive()
    }
}

impl Server {
    /// A server of this store, with which everyone who reaches it may do everything. Several can share one.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, options: ServerOptions) -> Self {
        Self { store, access: None, options, tls: None, metrics: Metrics::new() }
    }

    /// Speaks TLS alone. By default there is none.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Records into these metrics. Several servers can share them.
    #[must_use]
    pub fn metrics(mut self, metrics: Metrics) -> Self {
        self.metrics = metrics;
        self
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
        let door = Door::new(listener, self.options.connections)?;
        let (stop, stopping) = watch::channel(false);
        let mut connections = JoinSet::new();
        let shared = Shared {
            builder: self.builder(),
            tls: self.tls,
            service: Arc::new(Service {
                store: self.store,
                access: self.access,
                gate: Gate::new(),
                heavy: Heavy::new(),
                limits: Limits::new(&self.options),
                metrics: self.metrics.clone(),
                ids: Ids::new(),
                options: self.options,
            }),
        };
        let serving = self.metrics.serving();
        let open = |stream, address: SocketAddr| {
            let Some(share) = shared.service.limits.connection(Client::from(address.ip())) else {
                self.metrics.refused(Limit::Connections);
                return None;
            };
            let counted = self.metrics.connection();
            let connection = shared.clone().connection(stream, address, stopping.clone());
            Some(async move {
                connection.await;
                drop((share, counted));
            })
        };
        door.open_until(shutdown, &mut connections, open).await;
        drop((serving, door));
        stop.send_replace(true);
        let ended = async { while connections.join_next().await.is_some() {} };
        if timeout(self.options.drain_limit, ended).await.is_err() {
            tracing::warn!(connections = connections.len(), "requests in flight are broken off");
        }
        connections.shutdown().await;
        Ok(())
    }

    fn builder(&self) -> auto::Builder<Streams> {
        let header_bytes = self.options.header_bytes;
        let mut builder = auto::Builder::new(Streams { limit: self.options.silence_limit });
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.options.header_limit)
            .max_buf_size(usize::try_from(header_bytes).unwrap_or(usize::MAX))
            // Frames go to the kernel as they are: what a store maps into memory is never copied by this program.
            .writev(true);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(self.options.header_limit)
            .max_header_list_size(header_bytes)
            .max_concurrent_streams(STREAMS)
            .max_send_buf_size(SEND_BUFFER);
        builder
    }
}

/// What all connections have.
#[derive(Clone)]
struct Shared {
    builder: auto::Builder<Streams>,
    tls: Option<Tls>,
    service: Arc<Service>,
}

impl Shared {
    async fn connection(self, stream: TcpStream, address: SocketAddr, mut stopping: watch::Receiver<bool>) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "small answers will be late");
        }
        let silence_limit = self.service.options.silence_limit;
        let Some(tls) = &self.tls else {
            let peer = Peer { address, encrypted: false, certificate: None };
            return self.http(Stalling::new(stream, silence_limit), peer, stopping).await;
        };
        // Nobody waits for a handshake when the server stops: there is no request in flight.
        let secured = tokio::select! {
            biased;
            _ = stopping.wait_for(|stopping| *stopping) => return,
            secured = timeout(self.service.options.header_limit, tls.accept(stream, silence_limit)) => secured,
        };
        match secured {
            Ok(Ok(Some(Secure { stream, certificate }))) => {
                self.http(stream, Peer { address, encrypted: true, certificate }, stopping).await;
            }
            Ok(Ok(None)) => {
                self.service.metrics.handshake_failed();
                tracing::debug!(client = %address, "a client spoke without TLS");
            }
            Ok(Err(error)) => {
                self.service.metrics.handshake_failed();
                tracing::debug!(client = %address, %error, "no TLS with a client");
            }
            Err(_) => self.service.metrics.handshake_failed(),
        }
    }

    async fn http<T>(&self, stream: T, peer: Peer, mut stopping: watch::Receiver<bool>)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let activity = Activity::new();
        let idle = activity.idle(self.service.options.header_limit);
        let service = {
            let (service, peer) = (Arc::clone(&self.service), Arc::new(peer));
            service_fn(move |request| {
                let (service, peer, in_flight) =
                    (Arc::clone(&service), Arc::clone(&peer), activity.request());
                async move {
                    let response = route::answer(&service, &peer, request).await;
                    Ok::<_, Infallible>(response.map(|body| body.holding(in_flight)))
                }
            })
        };
        let ending = GracefulShutdown::new();
        let serving = self.builder.serve_connection(TokioIo::new(stream), service).into_owned();
        let mut serving = pin!(ending.watch(serving));
        // HTTP's own time limits begin when it is known which version is spoken, and of a connection of HTTP/2 nothing but pings is
        // asked by them.
        let goodbye = tokio::select! {
            biased;
            served = serving.as_mut() => return log(served),
            // The drain limit is everybody's.
            _ = stopping.wait_for(|stopping| *stopping) => Duration::MAX,
            () = idle => GOODBYE,
        };
        let told = async {
            ending.shutdown().await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            served = serving.as_mut() => log(served),
            () = told => {}
            () = sleep(goodbye) => {}
        }
    }
}

fn log(served: Result<(), impl std::fmt::Display>) {
    if let Err(error) = served {
        tracing::debug!(%error, "a connection broke off");
    }
}
