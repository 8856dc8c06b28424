//! A client that costs little itself: a blocking socket, and no more of HTTP/1.1 than registries speak.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// What is read at once, in bytes.
const PIECE: usize = 256 << 10;

/// What clients of images say they take.
const ACCEPT: &str = "Accept: application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.v2+json\r\n";
const BINARY: &str = "Content-Type: application/octet-stream\r\n";
const MANIFEST: &str = "Content-Type: application/vnd.oci.image.manifest.v1+json\r\n";

pub(crate) struct Client {
    address: String,
    stream: Option<BufReader<TcpStream>>,
    buffer: Vec<u8>,
}

struct Answer {
    status: u16,
    location: String,
    length: u64,
}

impl Client {
    pub(crate) fn new(address: &str) -> Self {
        Self { address: address.to_owned(), stream: None, buffer: vec![0; PIECE] }
    }

    /// A blob, in one piece.
    pub(crate) fn push(&mut self, repository: &str, digest: &str, content: &[u8]) {
        let at = self.start(repository);
        self.expect(201, "PUT", &with_digest(&at, digest), BINARY, content);
    }

    /// A blob, in chunks of so many bytes.
    pub(crate) fn push_chunks(&mut self, repository: &str, digest: &str, content: &[u8], chunk: usize) {
        let (mut at, mut position) = (self.start(repository), 0);
        for part in content.chunks(chunk) {
            let end = position + part.len();
            let headers = format!("{BINARY}Content-Range: {position}-{}\r\n", end - 1);
            at = self.expect(202, "PATCH", &at, &headers, part).location;
            position = end;
        }
        self.expect(201, "PUT", &with_digest(&at, digest), "", b"");
    }

    fn start(&mut self, repository: &str) -> String {
        self.expect(202, "POST", &format!("/v2/{repository}/blobs/uploads/"), "", b"").location
    }

    pub(crate) fn put_manifest(&mut self, repository: &str, tag: &str, manifest: &str) {
        let path = format!("/v2/{repository}/manifests/{tag}");
        self.expect(201, "PUT", &path, MANIFEST, manifest.as_bytes());
    }

    /// Reads what is there to its end, and says how long it was.
    pub(crate) fn get(&mut self, path: &str) -> u64 {
        self.expect(200, "GET", path, ACCEPT, b"").length
    }

    pub(crate) fn head(&mut self, path: &str) {
        self.expect(200, "HEAD", path, ACCEPT, b"");
    }

    fn expect(&mut self, status: u16, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        let answer = self.ask(method, path, headers, body);
        assert_eq!(answer.status, status, "{method} {path}");
        answer
    }

    fn ask(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        let path = path.strip_prefix("http://").map_or(path, |rest| &rest[rest.find('/').unwrap()..]);
        let mut head = String::new();
        write!(head, "{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.address).unwrap();
        write!(head, "Content-Length: {}\r\n{headers}\r\n", body.len()).unwrap();
        let stream = self.stream.get_or_insert_with(|| {
            let stream = TcpStream::connect(&self.address).unwrap();
            stream.set_nodelay(true).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
            BufReader::with_capacity(PIECE, stream)
        });
        let mut head = head.into_bytes();
        let (together, rest) = body.split_at(if body.len() <= PIECE { body.len() } else { 0 });
        head.extend_from_slice(together);
        stream.get_mut().write_all(&head).unwrap();
        stream.get_mut().write_all(rest).unwrap();

        let mut answer = Answer { status: 0, location: String::new(), length: 0 };
        let (mut chunked, mut closes) = (false, false);
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        answer.status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("an answer");
        loop {
            line.clear();
            stream.read_line(&mut line).unwrap();
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "content-length" => answer.length = value.parse().unwrap(),
                "location" => value.clone_into(&mut answer.location),
                "transfer-encoding" => chunked = true,
                "connection" => closes = value.eq_ignore_ascii_case("close"),
                _ => {}
            }
        }
        if method != "HEAD" && chunked {
            loop {
                line.clear();
                stream.read_line(&mut line).unwrap();
                let length = u64::from_str_radix(line.trim(), 16).unwrap();
                skip(stream, length, &mut self.buffer);
                stream.read_line(&mut line).unwrap();
                answer.length += length;
                if length == 0 {
                    break;
                }
            }
        } else if method != "HEAD" {
            skip(stream, answer.length, &mut self.buffer);
        }
        if closes {
            self.stream = None;
        }
        answer
    }
}

fn with_digest(at: &str, digest: &str) -> String {
    format!("{at}{}digest={digest}", if at.contains('?') { '&' } else { '?' })
}

/// Reads so many bytes and throws them away.
fn skip(stream: &mut BufReader<TcpStream>, length: u64, buffer: &mut [u8]) {
    let mut left = length;
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let read = stream.read(&mut buffer[..wanted]).unwrap();
        assert!(read > 0, "the answer ended {left} bytes early");
        left -= read as u64;
    }
}
