//! Events on their way out: each is written in the transaction that makes the change which it tells of. So there is an event
//! exactly of what was made and survived, whenever the process or the machine stops.
//!
//! They have numbers without gaps. Readers are shown those that are durable alone: a power cut takes back no event that somebody
//! has been told of, and gives its number to no other.

use std::sync::atomic::{AtomicU64, Ordering};

use super::changes::Changes;
use super::content;
use super::events::{Events, OnReady};
use super::index::Index;
use super::options::Options;
use super::schema::{self, Event, EventKind, RECEIVERS_KEY, Receivers, TAGS_PER_EVENT, Timestamp, Tree};
use crate::error::Result;
use crate::oci::{Digest, RepositoryName, Tag};
use crate::store::Initiator;

/// Of a budget, the events may take a 64th, each with its page's share counted as so many bytes.
const EACH: u64 = 1 << 10;

/// What is to be told of a change.
pub(super) struct Told<'a> {
    pub(super) kind: EventKind,
    pub(super) repository: &'a RepositoryName,
    pub(super) digest: &'a Digest,
    pub(super) size: u64,
    pub(super) media_type: Option<&'a str>,
    pub(super) tags: &'a [Tag],
    pub(super) from: Option<&'a RepositoryName>,
}

impl<'a> Told<'a> {
    pub(super) const fn of(
        kind: EventKind,
        repository: &'a RepositoryName,
        digest: &'a Digest,
        size: u64,
    ) -> Self {
        Self { kind, repository, digest, size, media_type: None, tags: &[], from: None }
    }
}

/// Which events there are. Only the writer's thread changes it.
pub(super) struct Outbox {
    /// The most that are kept; `None` where none are written.
    most: Option<u64>,
    on_ready: OnReady,
    /// The number of the oldest that is kept, if any is.
    first: AtomicU64,
    /// The number of the next.
    next: AtomicU64,
    /// Up to here all are durable.
    durable: AtomicU64,
}

impl Outbox {
    pub(super) fn new(options: &Options) -> Self {
        let events = options.events.clone();
        let share = options.budget.map_or(u64::MAX, |budget| budget / 64 / EACH);
        Self {
            most: events.as_ref().map(|Events { most, .. }| (*most).min(share)),
            on_ready: events.map(|events| events.on_ready).unwrap_or_default(),
            first: AtomicU64::new(1),
            next: AtomicU64::new(1),
            durable: AtomicU64::new(0),
        }
    }

    /// Looks which there are in an index that has just been opened: all of these are durable.
    pub(super) fn look(&self, index: &Index) -> Result<()> {
        let forgotten = receivers(index)?.forgotten;
        let (first, last) = match index.ends(Tree::Events)? {
            Some((first, last)) => (schema::number_of_event(&first)?, schema::number_of_event(&last)?),
            None => (forgotten.saturating_add(1), forgotten),
        };
        let last = last.max(forgotten);
        self.first.store(first, Ordering::Relaxed);
        self.next.store(last.saturating_add(1), Ordering::Relaxed);
        self.durable.store(last, Ordering::Release);
        Ok(())
    }

    pub(super) fn first(&self) -> u64 {
        self.first.load(Ordering::Relaxed)
    }

    pub(super) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// Whether there are events that are not durable yet.
    pub(super) fn waits_for_sync(&self) -> bool {
        self.next.load(Ordering::Relaxed) - 1 > self.durable()
    }

    /// How many events are there.
    pub(super) fn waiting(&self) -> u64 {
        self.next.load(Ordering::Relaxed).saturating_sub(self.first())
    }

    /// Whether there is room for what is no change of the store: that leaves the other half to changes.
    pub(super) fn has_room_for_pulls(&self) -> bool {
        self.most.is_some_and(|most| self.waiting() < most / 2)
    }

    /// Adds to `changes` what is told of them: one event, or as many as its tags need.
    pub(super) fn tell(&self, changes: &mut Changes, told: &Told<'_>, by: Option<&Initiator>) -> Result<()> {
        if self.most.is_none() {
            return Ok(());
        }
        let mut tags = told.tags.chunks(TAGS_PER_EVENT);
        let mut some = tags.next().unwrap_or_default();
        loop {
            changes.tell(&Event {
                id: content::new_id(),
                happened_at: Timestamp::now(),
                kind: told.kind,
                repository: told.repository.to_string(),
                digest: told.digest.into(),
                size: told.size,
                media_type: told.media_type.map(str::to_owned),
                tags: some.iter().map(ToString::to_string).collect(),
                from: told.from.map(ToString::to_string),
                by: by.cloned(),
            })?;
            match tags.next() {
                Some(more) => some = more,
                None => return Ok(()),
            }
        }
    }

    /// The changes with their events numbered, if they have any; the oldest go where there are too many.
    pub(super) fn number(&self, changes: &Changes) -> Option<Changes> {
        let told = changes.told() as u64;
        if told == 0 {
            return None;
        }
        let (first, next) = (self.first(), self.next.load(Ordering::Relaxed));
        let too_many = (next + told).saturating_sub(first).saturating_sub(self.most.unwrap_or(0));
        let dropped = too_many.min(next - first).min(told * Changes::DROPPED_FOR_EACH as u64);
        Some(changes.numbered(next, first..first + dropped))
    }

    /// Takes note of what was made of [`Outbox::number`]'s changes.
    pub(super) fn made(&self, changes: &Changes) {
        let (mut told, mut dropped) = (0, 0);
        for (_, _, value) in changes.entries().filter(|(tree, ..)| *tree == Tree::Events) {
            *(if value.is_some() { &mut told } else { &mut dropped }) += 1;
        }
        self.next.fetch_add(told, Ordering::Relaxed);
        self.first.fetch_add(dropped, Ordering::Relaxed);
    }

    /// All that was made is durable: readers may see it.
    pub(super) fn synced(&self) {
        let last = self.next.load(Ordering::Relaxed) - 1;
        if self.durable.swap(last, Ordering::AcqRel) < last {
            self.on_ready.tell();
        }
    }
}

/// Who is told. A record that cannot be read says nothing: receivers begin again at the oldest event that there is, and are told
/// again what they know by its id.
pub(super) fn receivers(index: &Index) -> Result<Receivers> {
    let value = index.value(Tree::Meta, RECEIVERS_KEY)?;
    Ok(value.and_then(|value| schema::decode(&value).ok()).unwrap_or_default())
}
