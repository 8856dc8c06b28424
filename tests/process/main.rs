//! What only a process of its own shows: kills, locks, memory.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test stops at the first surprise, and says what it measured"
)]

mod access;
mod backup;
mod config;
mod control;
mod convert;
mod events;
mod gc;
mod init;
mod kill;
mod memory;
mod server;
#[cfg(feature = "traces")]
mod traces;
mod verify;
