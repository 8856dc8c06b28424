//! One connection: which HTTP is spoken on it, and how it rests.
//!
//! A connection on which nothing is asked holds its socket and little else. HTTP/1.1 is taken down to that after a moment, and set up
//! again when something comes: what it holds to be ready, 50 KiB with its buffers, would be 500 MB for 10,000 connections.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::Response;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::sync::watch;
use tokio::time::timeout;

use super::body::Body;
use super::idle::Activity;
use super::options::ServerOptions;
use super::patience::Streams;
use super::route::{self, Peer, Service};

/// How many requests of one HTTP/2 connection are in flight, each of which can hold a blob's file open.
const STREAMS: u32 = 32;
/// How long a client may take to leave a connection on which it asked nothing.
const GOODBYE: Duration = Duration::from_secs(5);
/// How much of an answer HTTP/2 keeps until the client takes it, in bytes.
const SEND_BUFFER: usize = 128 << 10;
/// How a connection of HTTP/2 begins (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long nothing is asked before a connection of HTTP/1.1 rests.
const MOMENT: Duration = Duration::from_millis(100);

/// The stream, with what was read of it ahead.
struct Begun<T> {
    ahead: Bytes,
    stream: T,
}

/// How connections are spoken on.
pub(super) struct Speaking {
    http1: http1::Builder,
    http2: http2::Builder<Streams>,
    header_limit: Duration,
}

/// A server that stops.
pub(super) type Stopping = watch::Receiver<bool>;

impl Speaking {
    pub(super) fn new(options: &ServerOptions) -> Self {
        let mut http1 = http1::Builder::new();
        http1
            .timer(TokioTimer::new())
            .header_read_timeout(options.header_limit)
            .max_buf_size(usize::try_from(options.header_bytes).unwrap_or(usize::MAX))
            // Frames go to the kernel as they are: what a store maps into memory is never copied by this program.
            .writev(true);
        let mut http2 = http2::Builder::new(Streams { limit: options.silence_limit });
        http2
            .timer(TokioTimer::new())
            .keep_alive_interval(options.header_limit)
            .max_header_list_size(options.header_bytes)
            .max_concurrent_streams(STREAMS)
            .max_send_buf_size(SEND_BUFFER);
        Self { http1, http2, header_limit: options.header_limit }
    }

    /// Answers what comes on a connection, until the client has ended it, has been silent for too long, or the server stops and what
    /// was in flight is answered.
    pub(super) async fn on<T>(&self, stream: T, service: Arc<Service>, peer: Peer, mut stopping: Stopping)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let answering = Answering { service, peer: Arc::new(peer) };
        let mut begun = Begun { ahead: Bytes::new(), stream };
        let mut is_new = true;
        loop {
            let more = begun.more(if is_new { PREFACE } else { b"" });
            let came = tokio::select! {
                biased;
                _ = stopping.wait_for(|stopping| *stopping) => false,
                came = timeout(self.header_limit, more) => matches!(came, Ok(Ok(()))),
            };
            if !came {
                // TLS says goodbye.
                drop(timeout(GOODBYE, begun.stream.shutdown()).await);
                return;
            }
            // What both hold while they go on is on the heap, and so not here while the connection rests.
            if is_new && begun.ahead == PREFACE {
                return Box::pin(self.http2(begun, answering, &mut stopping)).await;
            }
            is_new = false;
            begun = match Box::pin(self.http1(begun, answering.clone(), &mut stopping)).await {
                Some(resting) => resting,
                None => return,
            };
        }
    }

    /// Until the connection ends, or is to rest.
    async fn http1<T>(
        &self,
        begun: Begun<T>,
        answering: Answering,
        stopping: &mut Stopping,
    ) -> Option<Begun<T>>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let activity = Activity::new();
        let service = answering.service(activity.clone());
        let mut serving = self.http1.serve_connection(TokioIo::new(begun), service);
        let stops = tokio::select! {
            biased;
            served = &mut serving => {
                log(served);
                return None;
            }
            _ = stopping.wait_for(|stopping| *stopping) => true,
            () = activity.rests(MOMENT) => false,
        };
        Pin::new(&mut serving).graceful_shutdown();
        if stops {
            log(serving.await);
            return None;
        }
        // All that was asked is answered, and nothing of a request that was answered is still to come: `Activity` says so. What may
        // have come of the next one is given back with the stream.
        if let Err(error) = poll_fn(|cx| serving.poll_without_shutdown(cx)).await {
            log(Err(error));
            return None;
        }
        let parts = serving.into_parts();
        let mut begun = parts.io.into_inner();
        begun.unread(&parts.read_buf);
        Some(begun)
    }

    async fn http2<T>(&self, begun: Begun<T>, answering: Answering, stopping: &mut Stopping)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let activity = Activity::new();
        let service = answering.service(activity.clone());
        let mut serving = self.http2.serve_connection(TokioIo::new(begun), service);
        // Pings that are answered are all that HTTP/2 itself asks of a connection.
        let goodbye = tokio::select! {
            biased;
            served = &mut serving => return log(served),
            // The drain limit is everybody's.
            _ = stopping.wait_for(|stopping| *stopping) => Duration::MAX,
            () = activity.idle(self.header_limit) => GOODBYE,
        };
        Pin::new(&mut serving).graceful_shutdown();
        if let Ok(served) = timeout(goodbye, serving).await {
            log(served);
        }
    }
}

/// What a connection's requests have in common.
#[derive(Clone)]
struct Answering {
    service: Arc<Service>,
    peer: Arc<Peer>,
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl Answering {
    fn service(
        self,
        activity: Activity,
    ) -> impl hyper::service::Service<
        http::Request<Incoming>,
        Response = Response<Body>,
        Error = Infallible,
        Future = Answer,
    > + Unpin {
        service_fn(move |request| -> Answer {
            let (Self { service, peer }, in_flight) = (self.clone(), activity.request());
            Box::pin(async move { Ok(route::answer(&service, &peer, request, in_flight).await) })
        })
    }
}

fn log(served: hyper::Result<()>) {
    if let Err(error) = served {
        tracing::debug!(%error, "a connection broke off");
    }
}

impl<T: AsyncRead + Unpin> Begun<T> {
    /// Waits for the first byte, or as long as what comes begins like `begin`.
    ///
    /// # Errors
    /// When the stream ends before.
    async fn more(&mut self, begin: &[u8]) -> io::Result<()> {
        while self.ahead.is_empty() || self.ahead.len() < begin.len() && begin.starts_with(&self.ahead) {
            let mut room = [0; PREFACE.len()];
            let wanted = begin.len().max(1) - self.ahead.len();
            let came = self.stream.read(room.get_mut(..wanted).unwrap_or_default()).await?;
            if came == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.unread_behind(room.get(..came).unwrap_or_default());
        }
        Ok(())
    }

    fn unread_behind(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.ahead = [&self.ahead, bytes].concat().into();
        }
    }

    /// Gives back what was read. Only that is kept: a part of a buffer would keep all of it.
    fn unread(&mut self, bytes: &[u8]) {
        let behind = std::mem::replace(&mut self.ahead, Bytes::copy_from_slice(bytes));
        self.unread_behind(&behind);
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Begun<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, into);
        }
        let length = self.ahead.len().min(into.remaining());
        into.put_slice(self.ahead.get(..length).unwrap_or_default());
        self.ahead.advance(length);
        if self.ahead.is_empty() {
            self.ahead = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Begun<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::DuplexStream;
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::oci::Algorithm;
    use crate::server::admission::Gate;
    use crate::server::bridge::Heavy;
    use crate::server::limits::Limits;
    use crate::server::metrics::Metrics;
    use crate::server::route::Ids;
    use crate::store::memory::Memory;

    const GET: &[u8] = b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n";

    /// A connection to a server, whose clock stands still until everybody waits for it.
    struct Client {
        stream: DuplexStream,
        service: Arc<Service>,
        stop: watch::Sender<bool>,
    }

    fn with_a_client<T: Future<Output = ()>>(test: impl FnOnce(Client) -> T) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(async {
            let options = ServerOptions::new().header_limit(Duration::from_secs(60));
            let service = Arc::new(Service {
                store: Arc::new(Memory::new()),
                access: None,
                gate: Gate::new(),
                heavy: Heavy::new(),
                limits: Limits::new(&options),
                metrics: Metrics::new(),
                ids: Ids::new(),
                spans: None,
                audit: None,
                options,
            });
            let (stream, other) = tokio::io::duplex(1 << 16);
            let (stop, stopping) = watch::channel(false);
            let serving = Arc::clone(&service);
            tokio::spawn(async move {
                let peer =
                    Peer { address: (Ipv4Addr::LOCALHOST, 1).into(), encrypted: false, certificate: None };
                Speaking::new(&options).on(other, serving, peer, stopping).await;
            });
            test(Client { stream, service, stop }).await;
        });
    }

    impl Client {
        async fn say(&mut self, bytes: &[u8]) {
            self.stream.write_all(bytes).await.unwrap();
        }

        /// What has come within a second, by the first lines of the answers.
        async fn hear(&mut self) -> Vec<String> {
            let mut text = Vec::new();
            while let Ok(Ok(1..)) = timeout(Duration::from_secs(1), self.stream.read_buf(&mut text)).await {}
            let text = String::from_utf8(text).unwrap();
            text.split("HTTP/1.1 ").skip(1).map(|answer| answer[..3].to_owned()).collect()
        }

        /// Whether there is nothing of HTTP: that would have the service too.
        fn rests(&self) -> bool {
            Arc::strong_count(&self.service) == 2
        }

        /// After how many seconds the connection is closed, if nothing is said.
        async fn closes_after(&mut self) -> u64 {
            let began = Instant::now();
            let closed = self.stream.read_u8().await.unwrap_err();
            assert_eq!(closed.kind(), io::ErrorKind::UnexpectedEof);
            began.elapsed().as_secs()
        }
    }

    #[test]
    fn a_connection_rests_and_goes_on() {
        with_a_client(|mut client| async move {
            sleep(Duration::from_secs(1)).await;
            assert!(client.rests());
            for _ in 0..3 {
                client.say(GET).await;
                sleep(Duration::from_millis(50)).await;
                assert!(!client.rests(), "too early");
                assert_eq!(client.hear().await, ["200"]);
                assert!(client.rests());
            }
            // A body that was read to its end is no hindrance.
            let digest = Algorithm::Sha256.digest(b"x");
            let head = format!("POST /v2/a/blobs/uploads/?digest={digest} HTTP/1.1\r\nHost: x\r\n");
            client
                .say(format!("{head}Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n").as_bytes())
                .await;
            assert_eq!(client.hear().await, ["201"]);
            assert!(client.rests());
            client.say(GET).await;
            assert_eq!(client.hear().await, ["200"]);
        });
    }

    #[test]
    fn what_has_come_of_the_next_request_is_kept() {
        with_a_client(|mut client| async move {
            let (begin, end) = GET.split_at(10);
            client.say(&[GET, GET, begin].concat()).await;
            assert_eq!(client.hear().await, ["200", "200"]);
            client.say(end).await;
            assert_eq!(client.hear().await, ["200"]);
            // A head that comes slowly is under the limit as a whole: resting does not wind it up again.
            client.say(begin).await;
            assert_eq!(client.closes_after().await, 60);
        });
    }

    /// What is left of a body would be taken for a request.
    #[test]
    fn a_connection_does_not_rest_in_the_middle_of_a_body() {
        with_a_client(|mut client| async move {
            let head =
                format!("PUT /v2/_catalog HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", GET.len());
            client.say(head.as_bytes()).await;
            assert_eq!(client.hear().await, ["405"]);
            assert!(!client.rests());
            client.say(GET).await;
            assert_eq!(client.hear().await, [""; 0]);
            client.say(GET).await;
            assert_eq!(client.hear().await, ["200"]);
        });
        // One that nobody reads any more ends the connection.
        with_a_client(|mut client| async move {
            let head =
                format!("PUT /v2/_catalog HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", GET.len());
            client.say(head.as_bytes()).await;
            assert_eq!(client.hear().await, ["405"]);
            sleep(Duration::from_secs(60)).await;
            drop(client.stream.write_all(GET).await);
            assert_eq!(client.hear().await, [""; 0]);
        });
    }

    #[test]
    fn a_connection_ends_where_its_requests_say_so() {
        for ends in ["GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "GET /v2/ HTTP/1.0\r\n\r\n"]
        {
            with_a_client(|mut client| async move {
                client.say(ends.as_bytes()).await;
                client.hear().await;
                assert_eq!(client.closes_after().await, 0);
            });
        }
        with_a_client(|mut client| async move {
            client.say(GET).await;
            client.hear().await;
            client.stop.send_replace(true);
            assert_eq!(client.closes_after().await, 0);
        });
        with_a_client(|mut client| async move {
            client.say(GET).await;
            client.hear().await;
            assert!(client.rests());
            assert_eq!(client.closes_after().await, 59);
        });
    }
}
