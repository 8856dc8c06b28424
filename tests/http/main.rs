//! The server from outside: raw HTTP on a socket, over every store.
#![cfg(feature = "server")]

mod client;
mod connections;
mod fixture;
mod listings;
mod manifests;
mod pull;
mod refusals;
mod uploads;
