//! The distribution-spec's protocol as values: requests, byte ranges and error answers. No sockets, no async, no store; a
//! server parses with it, a client writes with it.

mod errors;
mod range;
mod request;
mod token;

pub use errors::{ErrorAnswer, ErrorBody, ErrorEntry};
pub use range::{ByteRange, ChunkRange, ChunkRangeError};
#[cfg(feature = "schema1")]
pub use request::TarSumAct;
pub use request::{Refusal, Request};
pub use token::TokenRequest;
