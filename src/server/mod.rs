//! The distribution-spec's HTTP API over any [`Store`](crate::store::Store), on HTTP/1.1 and HTTP/2, with TLS or without it.
//!
//! Async code moves bytes, and every call of the store runs on a thread that may block: `bridge` is the seam between the
//! two. What a connection holds in memory is bounded: an upload by two batches of 1 MiB, a download by two pieces of 1 MiB, a
//! manifest by its largest size; over HTTP/2, a stream's answer by 384 KiB and a manifest; a request's head by
//! [`ServerOptions::header_bytes`].

mod admission;
mod arriving;
mod audit;
mod body;
mod bridge;
mod certificate;
mod connection;
mod discover;
mod door;
mod idle;
mod limits;
mod listen;
mod manage;
mod metrics;
mod monitor;
mod options;
mod patience;
mod pull;
mod push;
mod reply;
mod route;
mod schema1;
mod stall;
mod tls;
mod token;

pub use audit::Audit;
pub use listen::Server;
pub use metrics::{Metrics, Reading};
pub use monitor::Monitor;
pub use options::ServerOptions;
pub use tls::{ClientCertificates, Tls, TlsError, TlsOptions};
