//! Reads that fail loudly: content is hashed as it is read for the first time, and whoever meets bad bytes has the store look
//! again.

use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use uuid::Uuid;

use super::quarantine::{self, Owned};
use super::schema::damaged;
use super::store::{Core, Shared};
use crate::error::Result;
use crate::oci::{Digest, Hasher};
use crate::store::Check;

/// The content that was seen whole and good since the store was opened. What is forgotten is hashed once more.
#[derive(Default)]
pub(super) struct Seen(Mutex<Generations>);

/// Two sets: when the younger is full, the older is forgotten. So what is read again and again is kept.
#[derive(Default)]
struct Generations {
    young: HashSet<Uuid>,
    old: HashSet<Uuid>,
}

impl Seen {
    /// How many ids a set holds: both take two MiB at most.
    const MOST: usize = 1 << 15;

    fn contains(&self, id: Uuid) -> bool {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.young.contains(&id) {
            return true;
        }
        let known = seen.old.contains(&id);
        if known {
            seen.add(id);
        }
        known
    }

    pub(super) fn add(&self, id: Uuid) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).add(id);
    }
}

impl Generations {
    fn add(&mut self, id: Uuid) {
        if self.young.len() >= Seen::MOST {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(id);
    }
}

/// What an open blob knows of the store that it is of.
pub(super) struct Opened {
    core: Arc<Core>,
    /// An open blob does not keep the store open.
    store: Weak<Shared>,
    owned: Owned,
}

impl Opened {
    pub(super) fn new(store: &Arc<Shared>, owned: Owned) -> Self {
        Self { core: Arc::clone(&store.core), store: Arc::downgrade(store), owned }
    }

    pub(super) const fn core(&self) -> &Arc<Core> {
        &self.core
    }

    pub(super) const fn owned(&self) -> &Owned {
        &self.owned
    }

    /// Whether these bytes, which are all of it, are the digest's.
    pub(super) fn judge(&self, bytes: &[u8]) -> Result<()> {
        let found = self.owned.digest().algorithm().digest(bytes);
        if found == *self.owned.digest() { Ok(()) } else { Err(self.mismatch(&found)) }
    }

    fn mismatch(&self, found: &Digest) -> crate::Error {
        damaged(&self.owned.name(), &format!("its bytes have the digest {found}"))
    }

    /// To be told of each failure to read: passes it on, after the store has looked for itself.
    pub(super) fn met(&self, error: io::Error) -> io::Error {
        if let Some(store) = self.store.upgrade() {
            // What comes of it shows in the store; the reader has failed in any case.
            let _ = quarantine::doubt(&store, &self.owned);
        }
        error
    }

    pub(super) fn check(self: &Arc<Self>) -> Option<Box<dyn Check>> {
        let seen = self.core.seen.contains(self.owned.content.placement.id());
        let hasher = Hasher::new(self.owned.digest().algorithm());
        (!seen).then(|| Box::new(Hashing { opened: Arc::clone(self), hasher }) as _)
    }
}

struct Hashing {
    opened: Arc<Opened>,
    hasher: Hasher,
}

impl Check for Hashing {
    fn update(&mut self, piece: &[u8]) {
        self.hasher.update(piece);
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        let found = self.hasher.finish();
        if found == *self.opened.owned.digest() {
            self.opened.core.seen.add(self.opened.owned.content.placement.id());
            return Ok(());
        }
        Err(self.opened.met(io::Error::new(ErrorKind::InvalidData, self.opened.mismatch(&found))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_remembered_within_bounds() {
        let seen = Seen::default();
        let hot = Uuid::from_u128(u128::MAX);
        seen.add(hot);
        for n in 0..5 * Seen::MOST as u128 {
            seen.add(Uuid::from_u128(n));
            assert!(n % 1000 != 0 || seen.contains(hot), "{n}");
        }
        let held = seen.0.lock().unwrap();
        assert!(held.young.len() + held.old.len() <= 2 * Seen::MOST);
        drop(held);
        assert!(!seen.contains(Uuid::from_u128(0)));
    }
}
