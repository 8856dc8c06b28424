//! The server from outside: raw HTTP on a socket, over every store.
#![cfg(feature = "server")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test stops at the first surprise, and says where it was"
)]

mod client;
mod connections;
mod damage;
mod failures;
mod fixture;
mod hostile;
mod listings;
mod manifests;
mod offstage;
mod pull;
mod refusals;
mod table;
mod uploads;
