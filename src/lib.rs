//! Placeholder.
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod error;
pub mod oci;
pub mod registry;
pub mod store;
pub use error::{Error, ErrorCode, Result};
