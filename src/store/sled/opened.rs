//! Reads that fail loudly: whoever reads all of a blob has its bytes looked at as they go by, each time, and whoever meets bad ones
//! has the store look again.
//!
//! The first time since the store was opened they are hashed. From then on the checksum that they had is enough: it tells bytes
//! that went bad on the disk from those that were good, at a tenth of the cost. It does not tell bytes that somebody made to have
//! it; who can do that can write to the folder.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use uuid::Uuid;

use super::quarantine::{self, Owned};
use super::schema::damaged;
use super::store::{Core, Shared};
use crate::error::Result;
use crate::oci::{Digest, Hasher};
use crate::store::Check;

/// The content that was seen whole and good since the store was opened, by id, and the CRC-32 that it had. What is forgotten is
/// hashed once more.
#[derive(Default)]
pub(super) struct Seen(Mutex<Generations>);

/// Two sets: when the younger is full, the older is forgotten. So what is read again and again is kept.
#[derive(Default)]
struct Generations {
    young: HashMap<Uuid, u32>,
    old: HashMap<Uuid, u32>,
}

impl Seen {
    /// How many ids a set holds: both take three MiB at most.
    const MOST: usize = 1 << 15;

    fn checksum(&self, id: Uuid) -> Option<u32> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(checksum) = seen.young.get(&id) {
            return Some(*checksum);
        }
        let known = seen.old.get(&id).copied();
        if let Some(checksum) = known {
            seen.add(id, checksum);
        }
        known
    }

    fn add(&self, id: Uuid, checksum: u32) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).add(id, checksum);
    }
}

impl Generations {
    fn add(&mut self, id: Uuid, checksum: u32) {
        if self.young.len() >= Seen::MOST {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(id, checksum);
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

    /// Sees all of it go by.
    pub(super) fn check(self: &Arc<Self>) -> Box<dyn Check> {
        let seen = self.core.seen.checksum(self.owned.content.placement.id());
        let known = match seen {
            Some(checksum) => Known::Checksum(checksum),
            None => Known::Digest(Box::new(Hasher::new(self.owned.digest().algorithm()))),
        };
        Box::new(Watching { opened: Arc::clone(self), known, checksum: crc32fast::Hasher::new() })
    }
}

struct Watching {
    opened: Arc<Opened>,
    known: Known,
    checksum: crc32fast::Hasher,
}

/// By what the bytes are known to be good.
enum Known {
    Digest(Box<Hasher>),
    Checksum(u32),
}

impl Check for Watching {
    fn update(&mut self, piece: &[u8]) {
        self.checksum.update(piece);
        if let Known::Digest(hasher) = &mut self.known {
            hasher.update(piece);
        }
    }

    fn takes_long(&self) -> bool {
        matches!(self.known, Known::Digest(_))
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        let Self { opened, known, checksum } = *self;
        let checksum = checksum.finalize();
        let failure = match known {
            Known::Digest(hasher) => {
                let found = hasher.finish();
                (found != *opened.owned.digest()).then(|| opened.mismatch(&found))
            }
            Known::Checksum(known) => (checksum != known)
                .then(|| damaged(&opened.owned.name(), "its bytes are not those that were read before")),
        };
        if let Some(failure) = failure {
            return Err(opened.met(io::Error::new(ErrorKind::InvalidData, failure)));
        }
        opened.core.seen.add(opened.owned.content.placement.id(), checksum);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_remembered_within_bounds() {
        let seen = Seen::default();
        let hot = Uuid::from_u128(u128::MAX);
        seen.add(hot, 7);
        for n in 0..5 * Seen::MOST as u128 {
            seen.add(Uuid::from_u128(n), 7);
            assert!(n % 1000 != 0 || seen.checksum(hot) == Some(7), "{n}");
        }
        let held = seen.0.lock().unwrap();
        assert!(held.young.len() + held.old.len() <= 2 * Seen::MOST);
        drop(held);
        assert_eq!(seen.checksum(Uuid::from_u128(0)), None);
    }
}
