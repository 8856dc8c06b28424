//! The binary as a process of its own, and just enough of a client.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

/// A `sledge serve` of its own, on a free port. Dropping it kills it as a kill -9 does.
pub(crate) struct Server {
    process: Child,
    pub(crate) address: String,
    log: Mutex<Receiver<String>>,
}

impl Server {
    pub(crate) fn start(folder: &Path) -> Self {
        Self::start_with(folder, &[])
    }

    pub(crate) fn start_with(folder: &Path, arguments: &[&str]) -> Self {
        Self::start_in(folder, arguments, &[])
    }

    pub(crate) fn start_in(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let data = folder.to_str().unwrap();
        let usual = ["--listen", "127.0.0.1:0", "--log", "error", "--data", data];
        Self::start_as(&[&usual, arguments].concat(), environment)
    }

    /// With these arguments alone.
    pub(crate) fn start_as(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_sledge"))
            .arg("serve")
            .args(arguments)
            .envs(environment.iter().copied())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        log.read_line(&mut line).unwrap();
        let address = line.split("://").nth(1).unwrap_or_else(|| panic!("unexpected first line: {line}"));
        let address = address.split(',').next().unwrap().to_owned();
        let (say, hear) = mpsc::channel();
        // To its end: a server whose log nobody reads would stop at a full pipe.
        std::thread::spawn(move || log.lines().map_while(Result::ok).for_each(|line| drop(say.send(line))));
        Self { process, address, log: Mutex::new(hear) }
    }

    /// Waits until the log has a line with these words, and gives it.
    pub(crate) fn hear(&self, words: &str) -> String {
        loop {
            match self.log.lock().unwrap().recv_timeout(Duration::from_secs(60)) {
                Ok(line) if line.contains(words) => return line,
                Ok(_) => {}
                Err(error) => panic!("the server did not say {words:?}: {error}"),
            }
        }
    }

    /// Sends a signal, such as HUP.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &id]).status().unwrap().success());
    }

    pub(crate) fn request(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        self.request_as(None, method, path, body)
    }

    /// As a user whose name and password are in base64.
    pub(crate) fn request_as(&self, user: Option<&str>, method: &str, path: &str, body: &[u8]) -> Answer {
        send(&self.address, user, method, path, body)
    }

    /// Where a session stands: the `Range` of an empty one and of one with a single byte are the same, and no test needs either.
    pub(crate) fn offset(&self, location: &str) -> u64 {
        let answer = self.request("GET", location, b"");
        assert_eq!(answer.status, 204);
        answer.header("range").strip_prefix("0-").unwrap().parse::<u64>().unwrap() + 1
    }

    /// Bytes that the process has read from files so far; what it receives from sockets is not among them.
    pub(crate) fn bytes_read(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/io", self.process.id())).unwrap();
        text.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
    }

    /// A line of `/proc/<pid>/status`, in bytes.
    pub(crate) fn memory(&self, key: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = text.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
    }

    /// Stops it as a person or an init system does, and waits until it has.
    pub(crate) fn stop(mut self) {
        self.signal("TERM");
        assert!(self.process.wait().unwrap().success());
    }

    /// Kills it while others use it.
    pub(crate) fn signal_kill(&self) {
        let signalled =
            Command::new("kill").args(["-KILL", &self.process.id().to_string()]).status().unwrap();
        assert!(signalled.success());
    }

    pub(crate) fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already gone after `kill`.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Asks somebody else than a registry.
pub(crate) fn request_to(address: &str, method: &str, path: &str) -> Answer {
    send(address, None, method, path, b"")
}

fn send(address: &str, user: Option<&str>, method: &str, path: &str, body: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    let user = user.map_or_else(String::new, |user| format!("Authorization: Basic {user}\r\n"));
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{user}Content-Length: {length}\r\n\r\n"
    )
    .unwrap();
    stream.write_all(body).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    Answer::of(&answer)
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("an answer has a head");
        let headers = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let status = headers.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, headers, body: bytes[end + 4..].to_vec() }
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .unwrap_or_else(|| panic!("no {name} in {}", self.headers))
            .1
    }
}

pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut x = 0x9E37_79B9_7F4A_7C15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        bytes.extend_from_slice(&x.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
