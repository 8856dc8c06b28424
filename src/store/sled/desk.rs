//! What the writer's work is done on: it decides by what the index says, and changes it within the bounds of D4.

use std::sync::Arc;

use uuid::Uuid;

use super::changes::Changes;
use super::hot::Hot;
use super::index::{Index, MARK_SIZE, WINDOW};
use super::journal::Journal;
use super::leftovers::Retired;
use super::outbox::{Outbox, Told};
use super::schema::{Uptime, damaged};
use crate::error::{Error, Result};
use crate::store::Initiator;

/// What a snapshot that is being taken needs of the writer.
#[derive(Default)]
pub(super) struct Copying {
    /// Hears of every change that is made. It ends with the index it tells of: what was made before a failure may be gone.
    pub(super) journal: Option<Journal>,
    /// How many wait for files that records named a moment ago: meanwhile nothing is removed.
    pub(super) holds: usize,
}

impl Copying {
    /// Ends a journal, if it is still being kept.
    pub(super) fn end_journal(&mut self, id: Uuid) -> Option<Journal> {
        self.journal.take_if(|journal| journal.id == id)
    }
}

/// The writer's place of work. Whoever has it is alone in changing the index, and can look before writing.
pub(super) struct Desk<'a> {
    index: &'a Index,
    now: Uptime,
    reopened: u64,
    /// Bytes that entered since the last data sync.
    entered: &'a mut usize,
    retired: &'a mut Vec<Retired>,
    copying: &'a mut Copying,
    /// How many entries were removed since the index was last rewritten, or that was last tried.
    removed: &'a mut u64,
    outbox: &'a Outbox,
    hot: &'a Hot,
    /// On whose behalf the work is done that is being done.
    by: Option<Arc<Initiator>>,
    /// The first failure of the index itself. What comes after it is refused: the index must be opened again (D8).
    failure: Option<Error>,
}

impl<'a> Desk<'a> {
    pub(super) const fn new(
        index: &'a Index,
        (now, reopened): (Uptime, u64),
        entered: &'a mut usize,
        retired: &'a mut Vec<Retired>,
        copying: &'a mut Copying,
        removed: &'a mut u64,
        (outbox, hot): (&'a Outbox, &'a Hot),
    ) -> Self {
        Self {
            index,
            now,
            reopened,
            entered,
            retired,
            copying,
            removed,
            outbox,
            hot,
            by: None,
            failure: None,
        }
    }

    pub(super) const fn index(&self) -> &Index {
        self.index
    }

    /// The store's own time, the same for all that is done in one go.
    pub(super) const fn now(&self) -> Uptime {
        self.now
    }

    /// Refuses to build on what was written before the index was opened again, of which the end may be gone.
    pub(super) fn check_reopened(&self, expected: u64) -> Result<()> {
        if self.reopened == expected {
            return Ok(());
        }
        Err(Error::Unavailable(
            "its index was opened again after a failure: go on from the session's offset".to_owned(),
        ))
    }

    /// From here on what is done is done on somebody's behalf.
    pub(super) fn works_for(&mut self, by: Option<Arc<Initiator>>) {
        self.by = by;
    }

    /// Adds to `changes` that receivers are to be told of them, where events are on: told is what is made, and nothing else.
    pub(super) fn tell(&self, changes: &mut Changes, told: &Told<'_>) -> Result<()> {
        self.outbox.tell(changes, told, self.by.as_deref())
    }

    /// Makes changes, all or none, syncing first what was made before if both together would not fit one window.
    pub(super) fn apply(&mut self, changes: &Changes) -> Result<()> {
        if changes.size() > WINDOW - MARK_SIZE {
            return Err(damaged("a change of the index", "it is larger than one window between two syncs"));
        }
        if *self.entered + changes.size() > WINDOW - MARK_SIZE {
            self.sync()?;
        }
        self.check()?;
        let numbered = self.outbox.number(changes);
        let changes = numbered.as_ref().unwrap_or(changes);
        *self.entered += changes.size();
        *self.removed += changes.entries().filter(|(_, _, value)| value.is_none()).count() as u64;
        let changing = self.hot.changing(changes);
        let outcome = self.index.apply(changes);
        drop(changing);
        self.noting(outcome)?;
        self.outbox.made(changes);
        if let Some(journal) = &mut self.copying.journal {
            journal.add(changes);
        }
        Ok(())
    }

    /// Makes all changes durable.
    pub(super) fn sync(&mut self) -> Result<()> {
        self.check()?;
        let outcome = self.index.sync();
        self.noting(outcome)?;
        *self.entered = 0;
        self.outbox.synced();
        Ok(())
    }

    /// Whether anything entered that is not yet durable.
    pub(super) const fn is_settled(&self) -> bool {
        *self.entered == 0
    }

    /// Bytes of keys and values that entered and are not yet durable.
    pub(super) const fn entered(&self) -> usize {
        *self.entered
    }

    fn check(&self) -> Result<()> {
        match &self.failure {
            Some(failure) => Err(Error::Unavailable(failure.to_string())),
            None => Ok(()),
        }
    }

    fn noting(&mut self, outcome: Result<()>) -> Result<()> {
        outcome.map_err(|error| {
            let told = Error::Unavailable(error.to_string());
            self.failure.get_or_insert(error);
            told
        })
    }

    /// The failure of the index that happened at this desk.
    pub(super) fn into_failure(self) -> Option<Error> {
        self.failure
    }

    pub(super) const fn copying(&mut self) -> &mut Copying {
        self.copying
    }

    /// Whether content is among what was handed over to be removed.
    pub(super) fn is_retiring(&self, content: Uuid) -> bool {
        self.retired.iter().any(|retired| retired.content() == content)
    }

    /// Whether anything waits to be removed.
    pub(super) const fn is_retiring_any(&self) -> bool {
        !self.retired.is_empty()
    }

    /// What was handed over last of what waits to be removed, in the order in which it was handed over.
    pub(super) fn last_retiring(&self) -> Option<Uuid> {
        self.retired.last().map(Retired::content)
    }

    /// Takes all that waits to be removed; the caller hands over again what is left.
    pub(super) fn take_retired(&mut self) -> Vec<Retired> {
        std::mem::take(self.retired)
    }

    /// Hands over content that no reader can reach any more, to be removed when nothing else is to be done. Its
    /// [`Leftover`](super::schema::Leftover) record has been written.
    pub(super) fn retire(&mut self, retired: Retired) {
        self.retired.push(retired);
    }
}

/// Changes that may be made in several steps, because nothing visible depends on them: cut where a window would be exceeded.
pub(super) struct Steps<'d, 'a> {
    desk: &'d mut Desk<'a>,
    changes: Changes,
}

impl<'d, 'a> Steps<'d, 'a> {
    pub(super) fn new(desk: &'d mut Desk<'a>) -> Self {
        Self { desk, changes: Changes::new() }
    }

    /// The changes so far, for adding at most one more entry; those before it are applied when they fill half a window.
    pub(super) fn next(&mut self) -> Result<&mut Changes> {
        if self.changes.size() > WINDOW / 2 {
            self.desk.apply(&std::mem::take(&mut self.changes))?;
        }
        Ok(&mut self.changes)
    }

    /// The same, for changes that depend on what is in the index.
    pub(super) fn next_at_desk(&mut self) -> Result<(&Desk<'a>, &mut Changes)> {
        self.next()?;
        Ok((self.desk, &mut self.changes))
    }

    pub(super) fn finish(self) -> Result<()> {
        if self.changes.is_empty() { Ok(()) } else { self.desk.apply(&self.changes) }
    }
}
