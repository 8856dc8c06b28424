//! What is to be changed in the index.

use std::ops::Range;

use super::schema::{self, Record, Tree};
use crate::error::Result;

/// A set of changes, made all at once or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    entries: Vec<(Tree, Vec<u8>, Option<Vec<u8>>)>,
    /// Records of events, which get their numbers when the changes are made.
    told: Vec<Vec<u8>>,
    size: usize,
}

impl Changes {
    /// What one entry costs besides its key and value, about.
    pub(super) const OVERHEAD: usize = 16;
    /// So many old events may go for each new one: more than one, so that their number comes down to its bound.
    pub(super) const DROPPED_FOR_EACH: usize = 2;

    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Sets a raw value; at most [`schema::MAX_VALUE`] bytes.
    pub(super) fn set_value(&mut self, tree: Tree, key: Vec<u8>, value: Vec<u8>) {
        debug_assert!(value.len() <= schema::MAX_VALUE);
        self.size += key.len() + value.len() + Self::OVERHEAD;
        self.entries.push((tree, key, Some(value)));
    }

    pub(super) fn set<R: Record>(&mut self, key: Vec<u8>, record: &R) -> Result<()> {
        self.set_value(R::TREE, key, schema::encode(record)?);
        Ok(())
    }

    pub(super) fn remove(&mut self, tree: Tree, key: Vec<u8>) {
        self.size += key.len() + Self::OVERHEAD;
        self.entries.push((tree, key, None));
    }

    /// Adds an event's record, and the room for the removal of [`Changes::DROPPED_FOR_EACH`] others that it may cost.
    pub(super) fn tell(&mut self, event: &schema::Event) -> Result<()> {
        let value = schema::encode(event)?;
        let entry = schema::event_key(0).len() + Self::OVERHEAD;
        self.size += value.len() + entry * (1 + Self::DROPPED_FOR_EACH);
        self.told.push(value);
        Ok(())
    }

    pub(super) const fn told(&self) -> usize {
        self.told.len()
    }

    /// The same with the events as entries, numbered from `next` on, and without the oldest ones.
    pub(super) fn numbered(&self, next: u64, dropped: Range<u64>) -> Self {
        let mut entries = self.entries.clone();
        let events = (next..).zip(&self.told);
        entries.extend(
            events.map(|(number, value)| (Tree::Events, schema::event_key(number), Some(value.clone()))),
        );
        entries.extend(dropped.map(|number| (Tree::Events, schema::event_key(number), None)));
        Self { entries, told: Vec::new(), size: self.size }
    }

    /// Bytes of keys and values, as D4 counts them.
    pub(super) const fn size(&self) -> usize {
        self.size
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entries; without a value one is removed.
    pub(super) fn entries(&self) -> impl Iterator<Item = (Tree, &[u8], Option<&[u8]>)> {
        self.entries.iter().map(|(tree, key, value)| (*tree, key.as_slice(), value.as_deref()))
    }
}
