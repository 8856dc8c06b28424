//! Stores made of stores: each takes one and gives one that allows less.

mod immutable;
mod read_only;

pub use immutable::ImmutableTags;
pub use read_only::ReadOnly;
