//! The durable store: records and small content in sled, larger content in files that never move.
//!
//! DESIGN.md argues the rules (D1 to D12) that the code in here refers to.

mod accounts;
mod carry;
mod carve;
mod changes;
mod clock;
mod collect;
mod compact;
mod content;
mod desk;
mod direct;
mod discover;
mod entry;
mod events;
mod evict;
mod finder;
mod folder;
mod forecast;
mod gaps;
mod hot;
mod index;
mod journal;
mod keep;
mod layers;
mod leftovers;
mod log;
mod making;
mod manifests;
mod map;
mod memtable;
mod opened;
mod options;
mod orphans;
mod outbox;
mod progress;
mod quarantine;
mod reread;
mod rescue;
mod reserve;
mod restore;
mod retain;
mod rewrite;
mod room;
mod salvage;
mod schema;
mod sessions;
mod snapshot;
mod staged;
mod store;
mod uploads;
mod usage;
mod verify;
mod waiting;
mod waker;
mod wal;
mod writer;

#[cfg(test)]
mod tests;

pub use carry::{BadContent, Carried, Files};
pub use collect::{CollectOptions, Collected, Untagged};
pub use compact::{CompactReport, compact};
pub use events::{Event, EventPage, Events};
pub use evict::Evicted;
pub use options::{Durability, Inline, Options, WhenFull};
pub use progress::{Progress, Watch};
pub use rescue::{Incomplete, RESCUED, RescueReport, rescue};
pub use restore::{RestoreOptions, RestoreReport, restore};
pub use retain::{MOST_KEPT_LAST, Retention};
pub use schema::EventKind;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub use schema::check::check_schema;
pub use snapshot::{SnapshotOptions, SnapshotReport};
pub use store::Sled;
pub use usage::{RepositoryUsage, Usage};
pub use verify::{Fault, FaultKind, Missing, Orphan, Quarantined, Read, VerifyOptions, VerifyReport};
