//! The store's own clock: how long it has been open, in all its lives together.

use std::time::{Duration, Instant};

use super::index::Index;
use super::schema::{UPTIME_KEY, Uptime};
use crate::error::Result;

/// Counts from what the last life wrote down.
pub(super) struct Clock {
    before: Uptime,
    opened: Instant,
    /// What a test lets pass.
    #[cfg(test)]
    pub(super) passed: std::sync::atomic::AtomicU64,
}

impl Clock {
    /// How long the uptime may go on without being written down: a kill loses as much of it, and what waits for a time to pass
    /// waits so much longer.
    pub(super) const WRITTEN_EVERY: Duration = Duration::from_secs(300);

    pub(super) fn open(index: &Index) -> Result<Self> {
        Ok(Self {
            before: index.get::<Uptime>(UPTIME_KEY)?.unwrap_or_default(),
            opened: Instant::now(),
            #[cfg(test)]
            passed: Default::default(),
        })
    }

    pub(super) fn now(&self) -> Uptime {
        let now = self.before.after(self.opened.elapsed());
        #[cfg(test)]
        let now = now.after(Duration::from_millis(self.passed.load(std::sync::atomic::Ordering::Relaxed)));
        now
    }
}
