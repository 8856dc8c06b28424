//! Requests are traced, with the trace that their client has begun.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use sledge::oci::Algorithm;

use crate::server::Server;

/// What a client calls its trace, and its own part of it.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// A collector of traces, which takes all.
struct Collector(TcpListener);

impl Collector {
    fn start() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    fn url(&self) -> String {
        format!("http://{}/v1/traces", self.0.local_addr().unwrap())
    }

    /// What it is sent until there is all of this.
    fn gather(&self, wanted: &[&[u8]]) -> Vec<u8> {
        let mut gathered = Vec::new();
        while !wanted.iter().all(|wanted| has(&gathered, wanted)) {
            let mut stream = BufReader::new(self.0.accept().unwrap().0);
            let mut length = 0;
            for line in stream.by_ref().lines().map(Result::unwrap).take_while(|line| !line.is_empty()) {
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
                    length = value.parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            let answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
            stream.into_inner().write_all(answer).unwrap();
            gathered.extend(body);
        }
        gathered
    }
}

fn has(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

fn start(collector: &Collector, folder: &Path) -> Server {
    // Sent at once, not every five seconds.
    let environment = [("SLEDGE_TRACES", &*collector.url()), ("OTEL_BSP_SCHEDULE_DELAY", "10")];
    let data = folder.to_str().unwrap();
    Server::start_as(&["--listen", "127.0.0.1:0", "--log", "error", "--data", data], &environment)
}

#[test]
fn a_request_is_traced_with_its_client_s_trace_and_tells_no_secret() {
    let (folder, collector) = (tempfile::tempdir().unwrap(), Collector::start());
    let server = start(&collector, folder.path());
    let digest = Algorithm::Sha256.digest(b"x");
    let push = format!("/v2/a/blobs/uploads/?digest={digest}");
    assert_eq!(server.request("POST", &push, b"x").status, 201);
    let mut client = TcpStream::connect(&server.address).unwrap();
    write!(
        client,
        "HEAD /v2/a/blobs/{digest}?token=query-secret HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         traceparent: 00-{TRACE}-{PARENT}-01\r\nAuthorization: Basic header-secret\r\nUser-Agent: curl-like\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");

    let (trace, parent) = (bytes(TRACE), bytes(PARENT));
    let name: &[u8] = b"HEAD blob";
    let sent =
        collector.gather(&[&trace, &parent, name, b"POST upload", b"store", b"curl-like", b"127.0.0.1"]);
    assert!(has(&sent, format!("/v2/a/blobs/{digest}").as_bytes()));
    assert!(!has(&sent, b"secret"));
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}
