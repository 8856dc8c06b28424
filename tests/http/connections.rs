//! What goes on below the requests: continuing, shutting down, HTTP/2.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use sledge::server::ServerOptions;
use sledge::store::UploadOptions;

use crate::fixture::{Fixture, bytes, each, image, push_blob, put, sha256, stores, watched};

#[test]
fn a_body_is_asked_for_only_where_it_is_wanted() {
    each(|fixture| {
        let mut client = fixture.client();
        for size in [10, 200_000] {
            let content = bytes(size);
            let digest = sha256(&content);
            let headers = [("Content-Length", &*size.to_string()), ("Expect", "100-continue")];
            client.head("POST", &format!("/v2/a/blobs/uploads/?digest={digest}"), &headers);
            assert_eq!(client.answer("POST").status, 100);
            client.write(&content);
            client.answer("POST").expect(201);
        }
        let headers = [("Content-Length", "200000"), ("Expect", "100-continue")];
        let path = "/v2/a/blobs/uploads/6b3c9a93-af5d-473f-a4cf-9710022185cd";
        client.head("PATCH", path, &headers);
        client.answer("PATCH").refused(404, "BLOB_UPLOAD_UNKNOWN");
        assert!(client.is_closed());
    });
}

#[test]
fn a_request_in_flight_is_finished_before_the_server_stops() {
    for (_, store) in stores() {
        let mut fixture = Fixture::new(store, ServerOptions::new());
        let mut idle = fixture.client();
        idle.get("/v2/").expect(200);
        let silent = fixture.client();
        let mut client = fixture.client();
        let content = bytes(300_000);
        let digest = sha256(&content);
        let headers = [("Content-Length", "300000"), ("Expect", "100-continue")];
        client.head("POST", &format!("/v2/a/blobs/uploads/?digest={digest}"), &headers);
        assert_eq!(client.answer("POST").status, 100);
        client.write(&content[..200_000]);
        fixture.shut_down();
        // The connections that wait for nothing are closed, which shows that the server was told.
        assert!(idle.is_closed());
        client.write(&content[200_000..]);
        client.answer("POST").expect(201);
        assert!(client.is_closed());
        drop(silent);
        fixture.wait();
        let stat = fixture.store.stat(&"a".parse().unwrap(), &digest.parse().unwrap()).unwrap();
        assert_eq!(stat.size, 300_000);
    }
}

#[test]
fn what_outlasts_the_drain_limit_is_broken_off_and_can_be_resumed() {
    for (_, store) in stores() {
        let mut fixture = Fixture::new(store, ServerOptions::new().drain_limit(Duration::ZERO));
        let mut client = fixture.client();
        let at = client.send("POST", "/v2/a/blobs/uploads/", &[], b"").expect(202);
        let at = at.header("location").unwrap();
        client.head("PATCH", at, &[("Content-Length", "300000"), ("Expect", "100-continue")]);
        assert_eq!(client.answer("PATCH").status, 100);
        client.write(bytes(200_000));
        fixture.shut_down();
        fixture.wait();
        let (repository, id) = ("a".parse().unwrap(), at.rsplit_once('/').unwrap().1.parse().unwrap());
        let upload = fixture.store.resume_upload(&repository, id, &UploadOptions::new()).unwrap();
        assert!(upload.offset() <= 200_000);
    }
}

#[test]
fn a_client_that_falls_silent_is_let_go_and_can_resume() {
    for (_, store) in stores() {
        let options = ServerOptions::new().silence_limit(Duration::from_millis(1));
        let fixture = Fixture::new(store, options);
        let mut client = fixture.client();
        let at = client.send("POST", "/v2/a/blobs/uploads/", &[], b"").expect(202);
        let at = at.header("location").unwrap();
        client.head("PATCH", at, &[("Content-Length", "300000")]);
        client.answer("PATCH").refused(400, "UNSUPPORTED");
        let (repository, id) = ("a".parse().unwrap(), at.rsplit_once('/').unwrap().1.parse().unwrap());
        assert_eq!(fixture.store.resume_upload(&repository, id, &UploadOptions::new()).unwrap().offset(), 0);
    }
}

/// A client that connects and says nothing, or not enough, is not kept.
#[test]
fn a_connection_without_a_request_is_let_go() {
    for (_, store) in stores() {
        let options = ServerOptions::new().header_limit(Duration::from_millis(50));
        let fixture = Fixture::new(store, options);
        // The beginning of HTTP/2's preface, of a request line, and nothing.
        for said in ["PR", "GET /v2/ HTTP/1.1\r\nHost", ""] {
            let mut client = fixture.client();
            client.write(said);
            assert!(client.is_closed(), "{said:?}");
        }
    }
}

/// A client of HTTP/2 that asked once and from then on answered pings alone kept its place for ever: 512 of them shut out everybody.
#[test]
fn a_connection_of_http_2_on_which_nothing_is_asked_is_let_go() {
    for (_, store) in stores() {
        let fixture = Fixture::new(store, ServerOptions::new().header_limit(Duration::from_millis(200)));
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let stream = tokio::net::TcpStream::connect(fixture.address).await.unwrap();
            let builder = Builder::new(TokioExecutor::new());
            let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
            let connection = tokio::spawn(connection);
            let asked = sender.send_request(request("GET", "/v2/", Full::<Bytes>::default())).await.unwrap();
            assert_eq!(asked.status(), 200);
            drop(asked);
            // It says goodbye, which is no error; the client would go on answering pings.
            let ended = tokio::time::timeout(Duration::from_secs(60), connection).await;
            ended.expect("the connection is still there").unwrap().unwrap();
            drop(sender);
        });
    }
}

pub(crate) async fn connect<B>(fixture: &Fixture) -> SendRequest<B>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    connect_as(fixture, &Builder::new(TokioExecutor::new())).await
}

async fn connect_as<B>(fixture: &Fixture, builder: &Builder<TokioExecutor>) -> SendRequest<B>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = tokio::net::TcpStream::connect(fixture.address).await.unwrap();
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

pub(crate) fn request<B>(method: &str, path: &str, body: B) -> Request<B> {
    Request::builder().method(method).uri(format!("http://registry{path}")).body(body).unwrap()
}

pub(crate) async fn body(response: Response<Incoming>) -> Bytes {
    response.into_body().collect().await.unwrap().to_bytes()
}

#[test]
fn http_2_is_spoken_to_who_begins_with_it() {
    each(|fixture| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let mut sender = connect::<Full<Bytes>>(fixture).await;
            for size in [0, 100, 3 << 20] {
                let content = Bytes::from(bytes(size));
                let digest = sha256(&content);
                let path = format!("/v2/a/blobs/uploads/?digest={digest}");
                let response =
                    sender.send_request(request("POST", &path, content.clone().into())).await.unwrap();
                assert_eq!(response.status(), 201);
                let path = format!("/v2/a/blobs/{digest}");
                let head = sender.send_request(request("HEAD", &path, Full::default())).await.unwrap();
                assert_eq!(head.status(), 200);
                assert_eq!(head.headers()["content-length"], size.to_string());
                let get = sender.send_request(request("GET", &path, Full::default())).await.unwrap();
                assert_eq!(get.headers()["docker-content-digest"], digest);
                assert!(body(get).await == content);
            }
            let response =
                sender.send_request(request("PATCH", "/v2/_catalog", vec![1; 300_000].into())).await;
            assert_eq!(response.unwrap().status(), 405);
        });
    });
}

/// Some bytes, and then nothing, not even an end.
struct Stalling(Option<Bytes>);

impl http_body::Body for Stalling {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.take().map_or(Poll::Pending, |bytes| Poll::Ready(Some(Ok(Frame::data(bytes)))))
    }
}

#[test]
fn an_http_2_reset_in_the_middle_of_an_upload_keeps_what_came() {
    each(|fixture| {
        let mut client = fixture.client();
        let at = client.send("POST", "/v2/a/blobs/uploads/", &[], b"").expect(202);
        let at = at.header("location").unwrap();
        let content = bytes(200_000);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let mut sender = runtime.block_on(connect::<Stalling>(fixture));
        let stalling = request("PATCH", at, Stalling(Some(Bytes::from(content[..100_000].to_vec()))));
        let sending = runtime.spawn(sender.send_request(stalling));
        // All that was sent is with the store although its request goes on.
        while client.get(at).expect(204).header("range") != Some("0-99999") {}
        sending.abort();
        let rest = &content[100_000..];
        loop {
            let answer = client.send("PATCH", at, &[("Content-Range", "100000-199999")], rest);
            if answer.status != 409 {
                answer.expect(202);
                break;
            }
        }
        let digest = sha256(&content);
        client.send("PUT", &format!("{at}?digest={digest}"), &[], b"").expect(201);
        drop(sender);
    });
}

#[test]
fn many_clients_push_and_pull_the_same_blob_at_once() {
    each(|fixture| {
        let content = Arc::new(bytes(700_000));
        std::thread::scope(|scope| {
            for n in 0..8 {
                let content = Arc::clone(&content);
                scope.spawn(move || {
                    let mut client = fixture.client();
                    let repository = format!("r{}", n % 3);
                    let digest = push_blob(&mut client, &repository, &content);
                    let answer = client.get(&format!("/v2/{repository}/blobs/{digest}")).expect(200);
                    assert!(answer.body == *content);
                });
            }
        });
    });
}

/// A client that asks and does not read is not kept, however well it keeps the connection.
#[test]
fn a_client_that_does_not_read_is_let_go() {
    for (_, store) in stores() {
        // More than the buffers on the way take, pushed through a server that has patience.
        let patient = Fixture::new(Arc::clone(&store), ServerOptions::new());
        let digest = push_blob(&mut patient.client(), "a", &bytes(32 << 20));
        let options = ServerOptions::new().silence_limit(Duration::from_millis(50));
        let mut fixture = Fixture::new(store, options);
        let mut client = fixture.client();
        client.head("GET", &format!("/v2/a/blobs/{digest}"), &[]);
        assert_eq!(client.line(), "HTTP/1.1 200 OK");
        fixture.shut_down();
        // The drain limit is far off: what ends the connection is its silence.
        fixture.wait();
    }
}

/// Nor is a stream that nobody reads, while the connection is busy all the time.
#[test]
fn a_stream_that_nobody_reads_is_reset_and_the_connection_lives() {
    for (name, store) in watched() {
        println!("store: {name}");
        let options = ServerOptions::new().silence_limit(Duration::from_millis(50));
        let fixture = Fixture::new(Arc::clone(&store) as _, options);
        let mut client = fixture.client();
        let large = push_blob(&mut client, "a", &bytes(1 << 20));
        let small = push_blob(&mut client, "a", &bytes(60_000));
        let fields = serde_json::json!({ "annotations": { "large": "x".repeat(1 << 20) } });
        let manifest = image(&mut client, "a", &fields);
        put(&mut client, "a", "large", &manifest).expect(201);
        let paths = [
            format!("/v2/a/blobs/{large}"),
            format!("/v2/a/blobs/{small}"),
            "/v2/a/manifests/large".to_owned(),
        ];
        let runtime = tokio::runtime::Runtime::new().unwrap();
        // No window, one that ends in the first piece, and one that ends in a later one.
        for window in [0, 1, 40_000, 300_000] {
            runtime.block_on(async {
                let mut builder = Builder::new(TokioExecutor::new());
                builder.initial_stream_window_size(window);
                let mut sender = connect_as::<Full<Bytes>>(&fixture, &builder).await;
                let mut unread = Vec::new();
                for path in &paths {
                    let response = sender.send_request(request("GET", path, Full::default())).await.unwrap();
                    assert_eq!(response.status(), 200);
                    unread.push(response);
                }
                // The body of the client is not polled, so that its window stays shut, until the blob is closed.
                let patience = Instant::now() + Duration::from_secs(60);
                while store.seen().open.load(Ordering::SeqCst) > 0 {
                    assert!(Instant::now() < patience, "{window}");
                    let response = sender.send_request(request("HEAD", "/v2/", Full::default())).await;
                    assert_eq!(response.unwrap().status(), 200);
                }
                // What is not there to be taken opens no window: with none, all of them can be waited for.
                unread.truncate(if window == 0 { unread.len() } else { 1 });
                for response in unread {
                    let error = response.into_body().collect().await.unwrap_err();
                    assert!(format!("{error:?}").contains("Reset"), "{error:?}");
                }
            });
        }
    }
}

/// How long the whole takes says nothing: a client that goes on taking pieces is not given up.
#[test]
fn large_answers_over_http_2_come_whole() {
    each(|fixture| {
        let mut client = fixture.client();
        let fields = serde_json::json!({ "annotations": { "large": "x".repeat(3 << 20) } });
        let manifest = image(&mut client, "a", &fields);
        put(&mut client, "a", "large", &manifest).expect(201);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let mut sender = connect::<Full<Bytes>>(fixture).await;
            let get = request("GET", "/v2/a/manifests/large", Full::default());
            let response = sender.send_request(get).await.unwrap();
            assert_eq!(response.headers()["content-length"], manifest.len().to_string());
            assert!(body(response).await == manifest);
        });
    });
}
