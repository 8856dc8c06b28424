//! Who did it: each request's changes and pulls, on behalf of whom they are made.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sledge::server::Audit;
use sledge::store::sled::Sled;
use sledge::store::{Initiator, Pulled, Store};

use super::Counts;

/// Puts the store that clients use together.
pub(crate) type Front = Arc<dyn Fn(Sled) -> Arc<dyn Store> + Send + Sync>;

pub(crate) struct Books {
    pub(crate) store: Sled,
    pub(crate) front: Front,
    pub(crate) pulls: bool,
    pub(crate) counts: Arc<Counts>,
}

impl Audit for Books {
    fn store(&self, by: Initiator) -> Arc<dyn Store> {
        (self.front)(self.store.initiated_by(by))
    }

    fn wants_pulls(&self) -> bool {
        self.pulls
    }

    /// Nobody goes without an image because it cannot be told of.
    fn pulled(&self, by: Initiator, pulled: &Pulled<'_>) {
        let told = self.store.initiated_by(by).pulled(pulled);
        if !matches!(told, Ok(true)) {
            self.counts.untold.fetch_add(1, Ordering::Relaxed);
        }
        if let Err(error) = told {
            tracing::debug!(%error, repository = %pulled.repository, digest = %pulled.digest, "a pull has no event");
        }
    }
}
