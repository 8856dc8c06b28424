//! The durable store: records and small content in sled, larger content in files that never move.
//!
//! DESIGN.md argues the rules (D1 to D9) that the code in here refers to.

mod content;
mod desk;
mod discover;
mod folder;
mod index;
mod layers;
mod leftovers;
mod manifests;
mod map;
mod options;
mod reserve;
mod schema;
mod sessions;
mod staged;
mod store;
mod uploads;
mod waker;
mod writer;

#[cfg(test)]
mod tests;

pub use options::{Durability, Inline, Options};
pub use store::Sled;
