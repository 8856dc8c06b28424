//! How a server treats its clients.

use std::time::Duration;

/// How a [`Server`](super::Server) treats its clients.
///
/// A client is told by its address; of IPv6, whose users have whole networks, by the first 64 bits of it. Behind a proxy all are
/// one client, so that no limit *per client* is set by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct ServerOptions {
    pub(super) drain_limit: Duration,
    pub(super) header_limit: Duration,
    pub(super) silence_limit: Duration,
    pub(super) header_bytes: u32,
    pub(super) connections: usize,
    pub(super) connections_per_client: usize,
    pub(super) uploads_per_client: usize,
    pub(super) requests_per_second: u32,
    pub(super) requests_at_once: u32,
}

impl ServerOptions {
    /// The defaults.
    pub const fn new() -> Self {
        Self {
            drain_limit: Duration::from_secs(30),
            header_limit: Duration::from_secs(60),
            silence_limit: Duration::from_secs(120),
            header_bytes: 64 << 10,
            connections: 512,
            connections_per_client: 0,
            uploads_per_client: 0,
            requests_per_second: 0,
            requests_at_once: 0,
        }
    }

    /// How long requests in flight may take after the server was told to shut down; 30 s by default. What is not answered by then is
    /// broken off, and its uploads are suspended.
    pub const fn drain_limit(mut self, limit: Duration) -> Self {
        self.drain_limit = limit;
        self
    }

    /// How long a client may take to send a request's head, from its first byte on, and how long a connection may be idle before that,
    /// be it new or kept alive; 60 s by default. With TLS the handshake may take as long again.
    pub const fn header_limit(mut self, limit: Duration) -> Self {
        self.header_limit = limit;
        self
    }

    /// How long a client may send nothing in the middle of a request's body, and how long it may read nothing of an answer; 120 s
    /// by default. An upload is then suspended, as if the connection had been cut, and an answer is broken off: over HTTP/2 that one
    /// stream is reset.
    ///
    /// There is no least pace: a link that is slow and steady may take days. Who means ill holds a place as well at any pace that
    /// could be asked for; what limits that is how many places a client gets.
    pub const fn silence_limit(mut self, limit: Duration) -> Self {
        self.silence_limit = limit;
        self
    }

    /// How many bytes a request's head may have: 64 KiB by default, and 8 KiB at least. A larger one is answered with 431, and
    /// so is one of more than 100 fields over HTTP/1.1; a path of more than 64 KiB that fits is answered with 414.
    pub const fn header_bytes(mut self, most: u32) -> Self {
        self.header_bytes = if most < LEAST_HEADER_BYTES { LEAST_HEADER_BYTES } else { most };
        self
    }

    /// How many connections there are at once; 512 by default, 0 for any number. More are not taken: they wait in the system's
    /// queue until one ends, be it for having been idle for the header limit. A connection needs a descriptor for itself and mostly
    /// one for a file, over HTTP/2 up to 32: have the process's limit in mind.
    pub const fn connections(mut self, most: usize) -> Self {
        self.connections = most;
        self
    }

    /// How many of these one client has; any number by default and with 0. More are closed at once.
    pub const fn connections_per_client(mut self, most: usize) -> Self {
        self.connections_per_client = most;
        self
    }

    /// How many requests that push one client has in flight; any number by default and with 0. More are answered with 429. What
    /// counts are bodies on their way, not sessions at rest.
    pub const fn uploads_per_client(mut self, most: usize) -> Self {
        self.uploads_per_client = most;
        self
    }

    /// How many requests a second one client makes in the long run, and how many of them at once after it was quiet; any number by
    /// default and with 0. More are answered with 429 and when to come again.
    pub const fn requests_per_client(mut self, per_second: u32, at_once: u32) -> Self {
        self.requests_per_second = per_second;
        self.requests_at_once = at_once;
        self
    }
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// What HTTP/1.1 wants for its buffer.
const LEAST_HEADER_BYTES: u32 = 8 << 10;
