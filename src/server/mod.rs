//! The distribution-spec's HTTP API over any [`Store`](crate::store::Store), on HTTP/1.1 and HTTP/2 without TLS.
//!
//! Async code moves bytes, and every call of the store runs on a thread that may block: `bridge` is the seam between the
//! two. What a connection holds in memory is bounded: an upload by two batches of 1 MiB, a download by two pieces of 1 MiB, a
//! manifest by its largest size; over HTTP/2, a stream's answer by 384 KiB and a manifest.

mod admission;
mod arriving;
mod body;
mod bridge;
mod discover;
mod listen;
mod manage;
mod patience;
mod pull;
mod push;
mod reply;
mod route;
mod stall;
mod token;

pub use listen::{Server, ServerOptions};
