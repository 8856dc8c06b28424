//! What a crowd that does nothing costs those who work: 10,000 idle connections and 200 uploads that trickle.
//!
//! `cargo bench --bench crowd [-- CONNECTIONS UPLOADS]`. It needs two descriptors for each connection, one on either side, and raises its
//! own limit as far as it may. It ends with 1 where a request takes more than twice as long as in a quiet server, or
//! the server more than 150 MiB.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_precision_loss,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark stops at the first surprise, and prints what it measured"
)]

#[path = "../common/server.rs"]
mod server;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sledge::oci::Algorithm;

use crate::server::Server;

/// How often a byte comes of each upload.
const PACE: Duration = Duration::from_millis(500);
/// How many requests are timed, with and without the crowd.
const ASKED: usize = 20_000;
/// What holds.
const SLOWER: f64 = 2.0;
const MEMORY: u64 = 150 << 20;

fn main() -> ExitCode {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let (connections, uploads) = match numbers[..] {
        [connections, uploads] => (connections, uploads),
        _ => (10_000, 200),
    };
    allow_descriptors(connections + uploads + 100);
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let server = Server::sledge(folder.path(), &["--connections", "0", "--header-limit", "30m"]);
    let manifest = server.push();

    server.time(&manifest);
    let quiet = server.time(&manifest);
    let before = server.memory("VmRSS");
    // Each has asked once: a connection of which nothing came yet costs less.
    let mut idle: Vec<TcpStream> = (0..connections).map(|_| server.connect()).collect();
    for connection in &mut idle {
        ask(connection, &manifest);
    }
    let mut slow: Vec<TcpStream> = (0..uploads).map(|_| server.begin_upload()).collect();
    let over = Arc::new(AtomicBool::new(false));
    let trickling = {
        let over = Arc::clone(&over);
        thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                slow.iter_mut().for_each(|upload| upload.write_all(b"1\r\nx\r\n").unwrap());
                thread::sleep(PACE);
            }
        })
    };
    let crowded = server.time(&manifest);
    let after = server.memory("VmRSS");
    over.store(true, Ordering::Relaxed);
    trickling.join().unwrap();
    let still = idle.iter_mut().map(|connection| ask(connection, &manifest)).count();

    let ratio = crowded.median / quiet.median;
    println!("GET manifest, quiet     {quiet}");
    println!("GET manifest, crowded   {crowded}   {ratio:.2} times the median");
    println!(
        "memory                  {:.1} MiB, with {still} idle connections and {uploads} uploads {:.1} MiB: {:.1} KiB each",
        mebibytes(before),
        mebibytes(after),
        (after - before) as f64 / 1024.0 / (connections + uploads) as f64,
    );
    if ratio <= SLOWER && after <= MEMORY { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn allow_descriptors(wanted: usize) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = Some(wanted as u64);
    if current.is_some() && current < wanted {
        setrlimit(Resource::Nofile, Rlimit { current: wanted, maximum })
            .expect("more descriptors (ulimit -Hn)");
    }
}

struct Times {
    median: f64,
    slowest_of_100: f64,
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "median {:6.1} us   99th of 100 {:7.1} us", self.median, self.slowest_of_100)
    }
}

impl Server {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// An image without layers; the path of its manifest.
    fn push(&self) -> String {
        let config = Algorithm::Sha256.digest(b"{}");
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{config}","size":2}},"layers":[]}}"#
        );
        let mut connection = self.connect();
        let head = "Host: x\r\nContent-Type: application/vnd.oci.image.manifest.v1+json\r\n";
        for (method, path, body) in [
            ("POST", format!("/v2/a/blobs/uploads/?digest={config}"), "{}"),
            ("PUT", "/v2/a/manifests/latest".to_owned(), &manifest),
        ] {
            let length = body.len();
            write!(connection, "{method} {path} HTTP/1.1\r\n{head}Content-Length: {length}\r\n\r\n{body}")
                .unwrap();
            assert!(answer(&mut connection).starts_with("HTTP/1.1 201 "));
        }
        "/v2/a/manifests/latest".to_owned()
    }

    /// An upload that goes on: its head and first byte.
    fn begin_upload(&self) -> TcpStream {
        let mut connection = self.connect();
        write!(connection, "POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
            .unwrap();
        let head = answer(&mut connection);
        let location = head.lines().find_map(|line| line.strip_prefix("location: ")).unwrap();
        write!(
            connection,
            "PATCH {location} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"
        )
        .unwrap();
        connection
    }

    fn time(&self, path: &str) -> Times {
        let mut connection = self.connect();
        let mut times: Vec<f64> = (0..ASKED)
            .map(|_| {
                let began = Instant::now();
                ask(&mut connection, path);
                began.elapsed().as_secs_f64() * 1e6
            })
            .collect();
        times.sort_by(f64::total_cmp);
        Times { median: times[ASKED / 2], slowest_of_100: times[ASKED / 100 * 99] }
    }
}

fn ask(connection: &mut TcpStream, path: &str) {
    write!(connection, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert!(answer(connection).starts_with("HTTP/1.1 200 "));
}

/// Reads an answer, behind which nothing comes, and gives its head.
fn answer(connection: &mut TcpStream) -> String {
    let (mut bytes, mut filled) = ([0; 4096], 0);
    loop {
        let read = connection.read(&mut bytes[filled..]).unwrap();
        assert!(read > 0, "the server closed the connection");
        filled += read;
        let text = std::str::from_utf8(&bytes[..filled]).unwrap();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if body.len() == length.map_or(0, |length| length.parse().unwrap()) {
            return head.to_owned();
        }
    }
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / (1 << 20) as f64
}
