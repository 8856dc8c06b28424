//! Placeholder.
mod error;
pub mod oci;
#[cfg(feature = "server")]
pub mod server;
pub mod store;
#[cfg(feature = "server")]
pub mod wire;
pub use error::{Error, ErrorCode, Result};
