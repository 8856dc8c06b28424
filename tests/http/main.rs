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

mod access;
mod certificates;
mod client;
mod connections;
mod damage;
mod failures;
mod fixture;
mod guard;
mod hostile;
mod limits;
mod listings;
#[cfg(feature = "cli")]
mod logged;
mod manifests;
mod monitor;
mod oci_client;
mod offstage;
mod pull;
mod refusals;
#[cfg(feature = "schema1")]
mod schema1;
mod table;
#[cfg(feature = "schema1")]
mod tarsum;
mod tls;
mod tokens;
mod uploads;
