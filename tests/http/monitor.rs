//! What is seen from the side: metrics, health, and the names of requests.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use sledge::server::{Metrics, Monitor, Reading, Server, ServerOptions};
use sledge::store::Store;
use tokio::sync::oneshot;

use crate::client::{Answer, Client};
use crate::fixture::{Fixture, bytes, push_blob, stores, watched};

/// A monitor in this process, on a free port.
struct Side {
    address: SocketAddr,
    shutdown: Option<oneshot::Sender<()>>,
    serving: Option<JoinHandle<()>>,
}

impl Side {
    fn new(metrics: Metrics, store: Arc<dyn Store>) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (shutdown, told) = oneshot::channel();
        let serving = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
            runtime.unwrap().block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let monitor = Monitor::new(metrics, store);
                monitor.serve(listener, async { drop(told.await) }).await.unwrap();
            });
        });
        Self { address, shutdown: Some(shutdown), serving: Some(serving) }
    }

    fn get(&self, path: &str) -> Answer {
        Client::new(self.address).get(path)
    }

    fn text(&self) -> String {
        let answer = self.get("/metrics");
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
        String::from_utf8(answer.body).unwrap()
    }

    /// The number on the line that begins so.
    fn number(&self, series: &str) -> f64 {
        let text = self.text();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{series}: {text}")).parse().unwrap()
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        drop(self.shutdown.take());
        let ended = self.serving.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

fn fixture(store: Arc<dyn Store>, options: ServerOptions) -> (Fixture, Metrics, Side) {
    let metrics = Metrics::new();
    let side = Side::new(metrics.clone(), Arc::clone(&store));
    let server = Server::new(Arc::clone(&store), options).metrics(metrics.clone());
    (Fixture::serving(store, server), metrics, side)
}

#[test]
fn requests_and_bytes_are_counted_without_what_clients_chose() {
    for (name, store) in stores() {
        println!("store: {name}");
        let (fixture, metrics, side) = fixture(store, ServerOptions::new());
        metrics.readings(|| {
            vec![
                Reading::gauge("store_blob_bytes", "Bytes of blobs", 1.5),
                Reading::counter("evicted_images", "Images that the cache let go", 7.0),
            ]
        });
        let mut client = fixture.client();
        let content = bytes(1 << 20);
        let digest = push_blob(&mut client, "secret/name", &content);
        client.get(&format!("/v2/secret/name/blobs/{digest}")).expect(200);
        client.get("/v2/secret/name/manifests/secret-tag").expect(404);
        client.send("HEAD", "/v2/", &[], b"").expect(200);
        client.send("SECRET", "/v2/", &[], b"").expect(405);
        client.get("/secret").expect(404);

        let requests = |method, endpoint, status| {
            side.number(&format!(
                "sledge_http_requests_total{{method=\"{method}\",endpoint=\"{endpoint}\",status=\"{status}\"}}"
            ))
        };
        assert_eq!(requests("POST", "upload", "2xx"), 1.0);
        assert_eq!(requests("GET", "blob", "2xx"), 1.0);
        assert_eq!(requests("GET", "manifest", "4xx"), 1.0);
        assert_eq!(requests("HEAD", "version", "2xx"), 1.0);
        assert_eq!(requests("other", "none", "4xx"), 1.0);
        assert_eq!(requests("GET", "none", "4xx"), 1.0);
        let size = f64::from(1 << 20);
        assert_eq!(side.number("sledge_http_received_bytes_total"), size);
        let sent = side.number("sledge_http_sent_bytes_total");
        assert!((size..size + 10_000.0).contains(&sent), "{sent}");
        assert_eq!(side.number("sledge_http_request_duration_seconds_count{endpoint=\"blob\"}"), 1.0);
        assert_eq!(side.number("sledge_store_blob_bytes"), 1.5);
        assert_eq!(side.number("sledge_evicted_images_total"), 7.0);
        assert_eq!(side.number("sledge_connections"), 1.0);
        assert_eq!(side.number("sledge_uploads_in_progress"), 0.0);
        let text = side.text();
        assert!(!text.to_lowercase().contains("secret"), "{text}");
        // Each line is a comment or a number, which is how it is read.
        for line in text.lines().filter(|line| !line.starts_with("# ")) {
            let (_, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
}

#[test]
fn what_goes_on_and_what_was_refused_is_counted() {
    let options = ServerOptions::new().uploads_per_client(1).connections_per_client(2);
    let (fixture, _, side) = fixture(stores().remove(0).1, options);
    let (mut slow, mut client) = (fixture.client(), fixture.client());
    let at = slow.send("POST", "/v2/a/blobs/uploads/", &[], b"").expect(202);
    slow.head(
        "PATCH",
        at.header("location").unwrap(),
        &[("Content-Length", "200000"), ("Expect", "100-continue")],
    );
    assert_eq!(slow.answer("PATCH").status, 100);
    assert_eq!(side.number("sledge_uploads_in_progress"), 1.0);
    client.send("PUT", "/v2/a/manifests/x", &[], b"{}").refused(429, "TOOMANYREQUESTS");
    assert_eq!(side.number("sledge_refused_by_limit_total{limit=\"uploads\"}"), 1.0);
    assert!(fixture.client().try_get("/v2/").is_err());
    assert_eq!(side.number("sledge_refused_by_limit_total{limit=\"connections\"}"), 1.0);
    assert_eq!(side.number("sledge_connections"), 2.0);
    slow.cut();
    drop(client);
    while side.number("sledge_uploads_in_progress") > 0.0 || side.number("sledge_connections") > 0.0 {}
}

#[test]
fn a_server_is_ready_until_it_is_told_to_stop() {
    for (name, store) in stores() {
        println!("store: {name}");
        let (mut fixture, _, side) = fixture(store, ServerOptions::new());
        let mut client = fixture.client();
        client.get("/v2/").expect(200);
        assert_eq!(side.get("/readyz").status, 200);
        client.head(
            "POST",
            &format!("/v2/a/blobs/uploads/?digest={}", crate::fixture::sha256(b"12")),
            &[("Content-Length", "2"), ("Expect", "100-continue")],
        );
        assert_eq!(client.answer("POST").status, 100);
        fixture.shut_down();
        while side.get("/readyz").status == 200 {}
        // The request that is in flight is not hurried, and the process lives.
        assert_eq!(side.get("/readyz").status, 503);
        assert_eq!(side.get("/livez").status, 200);
        client.write(b"12");
        client.answer("POST").expect(201);
        fixture.wait();
        assert_eq!(side.get("/readyz").status, 503);
    }
}

/// Each look at a store that hangs would take one more of its threads, until there is none to answer with.
#[test]
fn a_store_that_hangs_is_not_ready_and_is_asked_once() {
    for (name, store) in watched() {
        println!("store: {name}");
        let (fixture, _, side) = fixture(Arc::clone(&store) as _, ServerOptions::new());
        fixture.client().get("/v2/").expect(200);
        let hanging = store.seen().listing.lock().unwrap();
        assert_eq!(side.get("/readyz").status, 503);
        assert_eq!(side.get("/readyz").status, 503);
        assert_eq!(side.get("/livez").status, 200);
        assert_eq!(store.seen().listings.load(Ordering::SeqCst), 1);
        drop(hanging);
        assert_eq!(side.get("/readyz").status, 200);
    }
}

#[test]
fn the_side_has_three_paths_and_two_methods() {
    let (_fixture, _, side) = fixture(stores().remove(0).1, ServerOptions::new());
    assert_eq!(side.get("/").status, 404);
    assert_eq!(side.get("/v2/").status, 404);
    let mut client = Client::new(side.address);
    assert_eq!(client.send("HEAD", "/livez", &[], b"").status, 200);
    let refused = client.send("POST", "/livez", &[], b"");
    assert_eq!((refused.status, refused.header("allow")), (405, Some("GET, HEAD")));
}

#[test]
fn a_request_keeps_its_name_or_gets_one() {
    let fixture = Fixture::new(stores().remove(0).1, ServerOptions::new());
    let mut client = fixture.client();
    let mut named = |id: &str| {
        let answer = client.send("GET", "/v2/", &[("X-Request-Id", id)], b"").expect(200);
        answer.header("x-request-id").unwrap().to_owned()
    };
    let longest = "x".repeat(128);
    for id in ["a", "7b0c7bd2-2f5e-4d0c-8d0e-6f7c9a3f0d11", "trace/1:2=", &longest] {
        assert_eq!(named(id), id);
    }
    for id in ["", "a b", "a\tb", "ä", &format!("{longest}x")] {
        let new = named(id);
        assert!(new.len() == 32 && new.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}: {new}");
    }
    let (one, other) = (client.get("/v2/"), client.get("/nothing"));
    assert!(one.header("x-request-id").is_some() && other.header("x-request-id").is_some());
    assert_ne!(one.header("x-request-id"), other.header("x-request-id"));
}
