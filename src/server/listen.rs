//! Connections: taking them, and letting them end.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use http::request::Parts;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::Span;

use super::admission::Gate;
use super::audit::Audit;
use super::bridge::Heavy;
use super::connection::{Speaking, Stopping};
use super::door::Door;
use super::limits::{Client, Limits};
use super::metrics::{Limit, Metrics};
use super::options::ServerOptions;
use super::route::{Ids, Peer, Service, Spans};
use super::stall::Stalling;
use super::tls::{Secure, Tls};
use crate::access::CurrentAccess;
use crate::store::Store;

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
    spans: Option<Spans>,
    audit: Option<Arc<dyn Audit>>,
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
        Self { store, access: None, options, tls: None, metrics: Metrics::new(), spans: None, audit: None }
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

    /// Has books kept of who changes and pulls what. By default nobody does.
    #[must_use]
    pub fn audit(mut self, audit: Arc<dyn Audit>) -> Self {
        self.audit = Some(audit);
        self
    }

    /// Has each request run in a span, made for it from its head and its endpoint, a word of those that metrics have. It ends with the
    /// last of the answer. Operations of the store are spans in it, named `store`, from their being handed over on. Of its
    /// fields, `http.response.status_code`, `client.address` and `enduser.id` are recorded. By default there are no spans.
    #[must_use]
    pub fn spans(mut self, make: impl Fn(&Parts, &'static str) -> Span + Send + Sync + 'static) -> Self {
        self.spans = Some(Box::new(make));
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
        let shared = Arc::new(Shared {
            speaking: Speaking::new(&self.options),
            tls: self.tls,
            service: Arc::new(Service {
                store: self.store,
                access: self.access,
                gate: Gate::new(),
                heavy: Heavy::new(),
                limits: Limits::new(&self.options),
                metrics: self.metrics.clone(),
                ids: Ids::new(),
                spans: self.spans,
                audit: self.audit,
                options: self.options,
            }),
        });
        let serving = self.metrics.serving();
        let open = |stream, address: SocketAddr| {
            let Some(share) = shared.service.limits.connection(Client::from(address.ip())) else {
                self.metrics.refused(Limit::Connections);
                return None;
            };
            let counted = self.metrics.connection();
            let (shared, stopping) = (Arc::clone(&shared), stopping.clone());
            Some(async move {
                shared.connection(stream, address, stopping).await;
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
}

/// What all connections have.
struct Shared {
    speaking: Speaking,
    tls: Option<Tls>,
    service: Arc<Service>,
}

impl Shared {
    async fn connection(&self, stream: TcpStream, address: SocketAddr, stopping: Stopping) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "small answers will be late");
        }
        match &self.tls {
            None => {
                let stream = Stalling::new(stream, self.service.options.silence_limit);
                let peer = Peer { address, encrypted: false, certificate: None };
                self.speaking.on(stream, Arc::clone(&self.service), peer, stopping).await;
            }
            // On the heap: it is large, and the room would be taken for each connection without it.
            Some(tls) => Box::pin(self.secured(tls, stream, address, stopping)).await,
        }
    }

    async fn secured(&self, tls: &Tls, stream: TcpStream, address: SocketAddr, mut stopping: Stopping) {
        let ServerOptions { header_limit, silence_limit, .. } = self.service.options;
        // Nobody waits for a handshake when the server stops: there is no request in flight.
        let secured = tokio::select! {
            biased;
            _ = stopping.wait_for(|stopping| *stopping) => return,
            secured = timeout(header_limit, tls.accept(stream, silence_limit)) => secured,
        };
        match secured {
            Ok(Ok(Some(Secure { stream, certificate }))) => {
                let peer = Peer { address, encrypted: true, certificate };
                return self.speaking.on(stream, Arc::clone(&self.service), peer, stopping).await;
            }
            Ok(Ok(None)) => tracing::debug!(client = %address, "a client spoke without TLS"),
            Ok(Err(error)) => tracing::debug!(client = %address, %error, "no TLS with a client"),
            Err(_) => tracing::debug!(client = %address, "a client did not finish its handshake in time"),
        }
        self.service.metrics.handshake_failed();
    }
}
