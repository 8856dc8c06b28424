//! What happened in a store, told to others: reading events, and forgetting them when everybody has them.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use uuid::Uuid;

use super::changes::Changes;
use super::desk::{Desk, Steps};
use super::outbox::{self, Outbox, Told};
use super::schema::{self, EventKind, RECEIVERS_KEY, Tree, damaged};
use super::store::{REMOVE, Sled};
use super::writer::Terms;
use crate::error::{Error, Result};
use crate::oci::{Digest, MediaType, RepositoryName, Tag};
use crate::store::{Initiator, Pulled};

/// How events are written ([`Options::events`](super::Options::events)).
#[derive(Clone, Debug)]
#[must_use = "options do nothing until `Options::events`"]
pub struct Events {
    pub(super) most: u64,
    pub(super) on_ready: OnReady,
}

impl Default for Events {
    fn default() -> Self {
        Self { most: 100_000, on_ready: OnReady::default() }
    }
}

impl Events {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// The most events that are kept for who has not taken them, at least 1: each new one beyond lets the oldest go, so that
    /// nobody who pushes waits for who listens. With a budget also no more than one for each 64 KiB of it. An event takes some
    /// 400 bytes of the index, 4 KiB at most. Default: 100,000.
    pub fn most(mut self, events: u64) -> Self {
        self.most = events.max(1);
        self
    }

    /// Who is told that there are new events, when they are durable. It is called by the store's only writer, which waits for it: it
    /// must return at once, and must not use the store.
    pub fn on_ready(mut self, tell: impl Fn() + Send + Sync + 'static) -> Self {
        self.on_ready = OnReady(Some(Arc::new(tell)));
        self
    }
}

#[derive(Clone, Default)]
pub(super) struct OnReady(Option<Arc<dyn Fn() + Send + Sync>>);

impl OnReady {
    pub(super) fn tell(&self) {
        if let Some(tell) = &self.0 {
            tell();
        }
    }
}

impl fmt::Debug for OnReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "OnReady(_)" } else { "OnReady" })
    }
}

/// A change that was made, by a client or by the store itself, and is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// Events are numbered in the order of the changes, from 1 and without gaps, in all lives of the store.
    pub number: u64,
    /// Tells it from every other event, of other stores too.
    pub id: Uuid,
    /// When it happened, by the machine's clock.
    pub at: SystemTime,
    /// What happened.
    pub kind: EventKind,
    /// Where.
    pub repository: RepositoryName,
    /// The blob or manifest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// A manifest's media type.
    pub media_type: Option<MediaType>,
    /// The tags that were set or deleted. A manifest that was pushed with more than eight has an event for each eight.
    pub tags: Vec<Tag>,
    /// The repository that a blob was mounted from.
    pub from: Option<RepositoryName>,
    /// Who asked for it ([`Sled::initiated_by`]); none where the store did it by itself.
    pub by: Option<Initiator>,
}

/// Events that follow others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventPage {
    /// The events, in their order.
    pub events: Vec<Event>,
    /// Up to this number all that there is to be had is in this page: what [`Sled::events_taken`] is told when it was taken.
    pub up_to: u64,
    /// How many up to there cannot be had any more: they were let go as too many waited, or their records are damaged.
    pub missing: u64,
}

/// The most receivers, and the most bytes of their names: they share one record.
const MOST_RECEIVERS: usize = 16;
const LONGEST_NAME: usize = 128;

impl Sled {
    /// The events after a number (0: all that there are), at most so many. Only what is durable is told: no power cut takes it back.
    ///
    /// # Errors
    /// [`Error::Unavailable`] and what reading the index fails with.
    pub fn events(&self, after: u64, limit: usize) -> Result<EventPage> {
        let core = &self.0.core;
        core.read(|index| {
            let durable = core.outbox.durable();
            let mut page = EventPage { up_to: after.max(durable), ..EventPage::default() };
            let mut seen = after;
            for entry in index.scan(Tree::Events, &[], Some(&schema::event_key(after)))? {
                let (key, value) = entry?;
                // A key that cannot be read is no event's; verification finds it.
                let Ok(number) = schema::number_of_event(&key) else { continue };
                if number > durable {
                    break;
                }
                if page.events.len() == limit {
                    page.up_to = seen;
                    break;
                }
                if let Ok(event) = schema::decode(&value).and_then(|record| read(&key, &record)) {
                    page.events.push(event);
                }
                seen = number;
            }
            page.missing = (page.up_to - after).saturating_sub(page.events.len() as u64);
            Ok(page)
        })
    }

    /// The same store, whose changes are made on somebody's behalf: events tell of it. It costs nothing where there are none.
    #[must_use]
    pub fn initiated_by(&self, initiator: Initiator) -> Self {
        Self(Arc::clone(&self.0), Some(Arc::new(initiator)))
    }

    /// Has receivers told that something was pulled; by itself a store tells of changes alone. Whether it was told: where events are off,
    /// or half of those that are kept already wait, it is not, so that pulls push out no event of a change.
    ///
    /// # Errors
    /// What writing fails with: whoever pulled need not care.
    ///
    /// # Durability
    /// When it returns, the event survives the process; within a second it is durable, and only then receivers see it.
    pub fn pulled(&self, pulled: &Pulled<'_>) -> Result<bool> {
        if !self.0.core.outbox.has_room_for_pulls() {
            return Ok(false);
        }
        let (digest, size) = (*pulled.digest, pulled.size);
        let (repository, media_type) = (pulled.repository.clone(), pulled.media_type.cloned());
        let tag = pulled.tag.cloned();
        self.write(Terms { adds: true, ..Terms::default() }, move |desk| {
            let kind = if media_type.is_some() { EventKind::ManifestPulled } else { EventKind::BlobPulled };
            let media_type = media_type.as_ref().map(MediaType::as_str);
            let told = Told::of(kind, &repository, &digest, size);
            let mut changes = Changes::new();
            desk.tell(&mut changes, &Told { media_type, tags: tag.as_slice(), ..told })?;
            desk.apply(&changes).map(|()| true)
        })
    }

    /// How many events are kept: what the slowest receiver has not taken, and what is being forgotten.
    #[must_use]
    pub fn events_waiting(&self) -> u64 {
        self.0.core.outbox.waiting()
    }

    /// Says who is to be told of events, at most 16 by names of at most 128 bytes, and returns up to which number each has them. Who is
    /// new begins at the oldest event that is kept. Who is not named any more is forgotten, and nothing waits for him.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for too many or too long names; what writing fails with.
    ///
    /// # Durability
    /// It survives a power cut.
    pub fn event_receivers(&self, names: &[&str]) -> Result<Vec<u64>> {
        if names.len() > MOST_RECEIVERS || names.iter().any(|name| name.len() > LONGEST_NAME) {
            return Err(Error::Unsupported(format!(
                "events go to at most {MOST_RECEIVERS} receivers, whose names have at most {LONGEST_NAME} bytes"
            )));
        }
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let core = Arc::clone(&self.0.core);
        self.0.writer.run(REMOVE, move |desk| {
            let mut receivers = outbox::receivers(desk.index())?;
            let before = receivers.taken;
            let oldest = core.outbox.first() - 1;
            let taken =
                |name: &String| before.iter().find(|(known, _)| known == name).map(|(_, taken)| *taken);
            receivers.taken =
                names.into_iter().map(|name| (taken(&name).unwrap_or(oldest), name)).map(swap).collect();
            let numbers = receivers.taken.iter().map(|(_, taken)| *taken).collect();
            keep(desk, &core.outbox, receivers)?;
            Ok(numbers)
        })
    }

    /// Takes note that a receiver has all events up to a number. What all receivers have is forgotten.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for who was not named to [`Sled::event_receivers`]; what writing fails with.
    ///
    /// # Durability
    /// It survives a power cut; of what was taken and not noted, the receiver is told again.
    pub fn events_taken(&self, receiver: &str, up_to: u64) -> Result<()> {
        let name = receiver.to_owned();
        let core = Arc::clone(&self.0.core);
        self.0.writer.run(REMOVE, move |desk| {
            let mut receivers = outbox::receivers(desk.index())?;
            let own = receivers.taken.iter_mut().find(|(known, _)| *known == name);
            let Some((_, taken)) = own else {
                return Err(Error::Unsupported(format!("nobody named {name:?} is told of events")));
            };
            // Nothing is taken that was not told.
            *taken = up_to.min(core.outbox.durable()).max(*taken);
            keep(desk, &core.outbox, receivers)
        })
    }
}

fn swap((taken, name): (u64, String)) -> (String, u64) {
    (name, taken)
}

/// Writes down who has what, and then removes what all have, in steps: what is left of that by a kill goes the next time.
fn keep(desk: &mut Desk<'_>, outbox: &Outbox, mut receivers: schema::Receivers) -> Result<()> {
    if let Some(by_all) = receivers.taken.iter().map(|(_, taken)| *taken).min() {
        receivers.forgotten = receivers.forgotten.max(by_all);
    }
    let mut steps = Steps::new(desk);
    steps.next()?.set(RECEIVERS_KEY.to_vec(), &receivers)?;
    for number in outbox.first()..=receivers.forgotten {
        steps.next()?.remove(Tree::Events, schema::event_key(number));
    }
    steps.finish()
}

/// What an event's record says.
pub(super) fn read(key: &[u8], record: &schema::Event) -> Result<Event> {
    let number = schema::number_of_event(key)?;
    let unreadable = |what: &str| damaged(&format!("event {number}"), &format!("its {what} is none"));
    let name = |text: &String| text.parse::<RepositoryName>().map_err(|_| unreadable("repository"));
    let tags = record.tags.iter().map(|tag| tag.parse().map_err(|_| unreadable("tag")));
    let media_type = record.media_type.as_ref().map(|text| text.parse()).transpose();
    Ok(Event {
        number,
        id: record.id,
        at: record.happened_at.time(),
        kind: record.kind,
        repository: name(&record.repository)?,
        digest: record.digest.digest()?,
        size: record.size,
        media_type: media_type.map_err(|_| unreadable("media type"))?,
        tags: tags.collect::<Result<_>>()?,
        from: record.from.as_ref().map(name).transpose()?,
        by: record.by.clone(),
    })
}
