//! As much HTTP/1.1 as it takes to see what the server really sends.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection, StreamOwned};
use tokio::net::TcpSocket;

pub(crate) struct Client(BufReader<Box<dyn Wire>>);

/// A connection, with TLS or without it.
pub(crate) trait Wire: Read + Write + Send {
    fn socket(&self) -> &TcpStream;
}

impl Wire for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Wire for StreamOwned<ClientConnection, TcpStream> {
    fn socket(&self) -> &TcpStream {
        &self.sock
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self::on(TcpStream::connect(address).unwrap())
    }

    /// From another address of this machine than the others have.
    pub(crate) fn from(host: [u8; 4], address: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self::on(runtime.block_on(async {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind((host, 0).into()).unwrap();
            let stream = socket.connect(address).await.unwrap().into_std().unwrap();
            stream.set_nonblocking(false).unwrap();
            stream
        }))
    }

    fn on(stream: TcpStream) -> Self {
        Self::over(Box::new(prepared(stream)))
    }

    /// With TLS.
    pub(crate) fn secure(address: SocketAddr, config: Arc<ClientConfig>) -> Self {
        let stream = prepared(TcpStream::connect(address).unwrap());
        let connection = ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
        Self::over(Box::new(StreamOwned::new(connection, stream)))
    }

    fn over(wire: Box<dyn Wire>) -> Self {
        Self(BufReader::new(wire))
    }
}

fn prepared(stream: TcpStream) -> TcpStream {
    // A server that does not answer fails the test instead of stopping it.
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

impl Client {
    pub(crate) fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_write(bytes).unwrap();
    }

    /// Writes as much as the server takes.
    pub(crate) fn try_write(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.0.get_mut().write_all(bytes.as_ref())
    }

    /// Sends a request's head.
    pub(crate) fn head(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: registry\r\n");
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        self.write(head + "\r\n");
    }

    /// Sends a request with its body, and reads the answer.
    pub(crate) fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let length = body.len().to_string();
        let mut headers = headers.to_vec();
        if !body.is_empty() || matches!(method, "POST" | "PUT" | "PATCH") {
            headers.push(("Content-Length", &length));
        }
        self.head(method, path, &headers);
        self.write(body);
        self.answer(method)
    }

    /// The same with a body in chunks, and no length.
    pub(crate) fn send_chunked(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        chunks: &[&[u8]],
    ) -> Answer {
        let mut headers = headers.to_vec();
        headers.push(("Transfer-Encoding", "chunked"));
        self.head(method, path, &headers);
        for chunk in chunks {
            self.chunk(chunk);
        }
        self.write("0\r\n\r\n");
        self.answer(method)
    }

    /// An empty one would be the last one, so it is left out.
    pub(crate) fn chunk(&mut self, chunk: &[u8]) {
        if chunk.is_empty() {
            return;
        }
        self.write(format!("{:x}\r\n", chunk.len()));
        self.write(chunk);
        self.write("\r\n");
    }

    pub(crate) fn get(&mut self, path: &str) -> Answer {
        self.send("GET", path, &[], b"")
    }

    /// Reads an answer to a request of this method.
    pub(crate) fn answer(&mut self, method: &str) -> Answer {
        let line = self.line();
        let status =
            line.strip_prefix("HTTP/1.1 ").unwrap_or_else(|| panic!("{line:?}"))[..3].parse().unwrap();
        let mut headers = Vec::new();
        loop {
            let line = self.line();
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("{line:?}"));
            headers.push((name.to_lowercase(), value.to_owned()));
        }
        let mut answer = Answer { status, headers, body: Vec::new() };
        if method != "HEAD" && status >= 200 && status != 204 && status != 304 {
            let length = answer.header("content-length").expect("an answer has a length").parse().unwrap();
            answer.body.resize(length, 0);
            self.0.read_exact(&mut answer.body).unwrap();
        }
        answer
    }

    /// Reads an answer until the connection ends: its status, the length that it announced, and what came of it.
    pub(crate) fn broken_off(&mut self) -> (u16, usize, Vec<u8>) {
        let status = self.line().strip_prefix("HTTP/1.1 ").unwrap()[..3].parse().unwrap();
        let mut length = None;
        loop {
            let line = self.line().to_lowercase();
            if line.is_empty() {
                break;
            }
            length = line.strip_prefix("content-length: ").map(|value| value.parse().unwrap()).or(length);
        }
        let mut body = Vec::new();
        self.0.read_to_end(&mut body).unwrap();
        (status, length.expect("an answer has a length"), body)
    }

    /// Reads a line.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.strip_suffix("\r\n").unwrap_or_else(|| panic!("cut off at {line:?}")).to_owned()
    }

    /// Reads a line, if the connection was not reset or closed before.
    pub(crate) fn try_line(&mut self) -> Option<String> {
        let mut line = String::new();
        self.0.read_line(&mut line).ok()?;
        line.strip_suffix("\r\n").map(str::to_owned)
    }

    /// A second hand on the connection, by which it can be ended while somebody waits for an answer.
    pub(crate) fn socket(&self) -> TcpStream {
        self.0.get_ref().socket().try_clone().unwrap()
    }

    /// Says that nothing more will be sent.
    pub(crate) fn cut(&self) {
        self.0.get_ref().socket().shutdown(Shutdown::Both).unwrap();
    }

    /// Whether nothing has come so far.
    pub(crate) fn is_waiting(&mut self) -> bool {
        self.0.get_ref().socket().set_nonblocking(true).unwrap();
        let came = self.0.fill_buf().map(<[u8]>::len);
        self.0.get_ref().socket().set_nonblocking(false).unwrap();
        came.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    /// Sends a request, and reads its status where the server lets it come that far.
    pub(crate) fn try_get(&mut self, path: &str) -> std::io::Result<u16> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: registry\r\n\r\n");
        self.0.get_mut().write_all(request.as_bytes())?;
        self.status()
    }

    /// The status of an answer that may have nothing else, if there is one.
    pub(crate) fn try_answer(&mut self) -> Option<u16> {
        self.status().ok()
    }

    fn status(&mut self) -> std::io::Result<u16> {
        let mut status = [0; 12];
        self.0.read_exact(&mut status)?;
        Ok(std::str::from_utf8(&status[9..]).unwrap().parse().unwrap())
    }

    /// Whether the server has closed the connection, and sent nothing more before.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.0.fill_buf().is_ok_and(<[u8]>::is_empty)
    }
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(found, _)| found == name);
        let (_, value) = values.next()?;
        assert!(values.next().is_none(), "{name} is there twice");
        Some(value)
    }

    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(found, _)| found == name).map(|(_, value)| &**value).collect()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The codes of an error answer.
    pub(crate) fn codes(&self) -> Vec<String> {
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        let body: sledge::wire::ErrorBody = serde_json::from_slice(&self.body).unwrap();
        body.errors.into_iter().map(|error| error.code).collect()
    }

    /// The page that follows, from the `Link` header.
    pub(crate) fn next(&self) -> Option<&str> {
        let link = self.header("link")?;
        Some(link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\"")).unwrap())
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?} {}", String::from_utf8_lossy(&self.body));
        assert_eq!(self.header("docker-distribution-api-version"), Some("registry/2.0"));
        self
    }

    /// An error answer with one code.
    #[track_caller]
    pub(crate) fn refused(self, status: u16, code: &str) -> Self {
        let answer = self.expect(status);
        assert_eq!(answer.codes(), [code], "{answer:?}");
        answer
    }
}
