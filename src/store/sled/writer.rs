//! The one thread that changes the index (D5): it takes what waits, does each piece of work in its own transaction, syncs once
//! for all of them, and only then answers.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam::channel::{self, Receiver, RecvTimeoutError, Sender};

use super::changes::Changes;
use super::clock::Clock;
use super::compact;
use super::desk::{Copying, Desk};
use super::index::Index;
use super::leftovers::{self, Retired};
use super::options::Durability;
use super::orphans;
use super::progress::{Progress, Watch};
use super::schema::UPTIME_KEY;
use super::store::Core;
use crate::error::{Error, Result};
use crate::store::Initiator;

/// The most pieces of work that one sync answers. Far more than can wait with blocking callers; a bound all the same.
const GROUP: usize = 1024;

/// What the filesystem must have left for the index to take back or remove something: two of sled's segments.
const ROOM_TO_REMOVE: u64 = 8 << 20;

/// How much retired content may wait for the writer to have nothing else to do. Where that never comes, the disk would fill with it.
const RETIRED_AT_MOST: usize = 64;

/// What a new index may take that is made in the place of one beyond its share, in bytes: meanwhile nobody writes.
const SMALL_INDEX: u64 = 64 << 20;
/// What it takes at least.
const LEAST_INDEX: u64 = 12 << 20;
/// So many entries are removed at least between two attempts to make one.
const REMOVED_AT_LEAST: u64 = 4096;

/// How long an index that could not be opened again is left alone where nobody writes.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// Events that nobody who writes waits for are made durable after so long.
const TELL_WITHIN: Duration = Duration::from_millis(500);

/// What must be true before a piece of work is answered, and done.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Terms {
    /// It survives a power cut; otherwise only the process.
    pub(super) durable: bool,
    /// It names a file that was made in `content/` since that folder was last synced.
    pub(super) new_file: bool,
    /// It adds to what the disk holds.
    pub(super) adds: bool,
}

/// The sending side. Dropping it lets the thread finish what waits, and end.
pub(super) struct Writer {
    jobs: Option<Sender<Box<dyn Job>>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Finishes what the last life left half-done, then starts the thread.
    pub(super) fn start(core: Arc<Core>) -> Result<Self> {
        // Opening may have given it up.
        let mut state = State { gave_up: true, ..State::default() };
        core.read(|index| state.recover(index, &core))?;
        let (jobs, waiting) = channel::bounded(GROUP);
        let thread = thread::Builder::new()
            .name("sledge-writer".to_owned())
            .spawn(move || Thread { core, waiting, state }.run())
            .map_err(Error::io("starting the writer's thread"))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Has work done by the writer's thread at some time, or not at all where too much else waits. Nobody is told.
    pub(super) fn submit<W>(&self, terms: Terms, work: W)
    where
        W: FnOnce(&mut Desk<'_>) -> Result<()> + Send + 'static,
    {
        let (answer, _) = channel::bounded(1);
        let job = Box::new(Typed { by: None, terms, work: Some(work), result: None, answer });
        if let Some(jobs) = &self.jobs {
            // As the words above say.
            let _ = jobs.try_send(job);
        }
    }

    /// Has work done by the writer's thread, and waits until it may be answered on these terms.
    pub(super) fn run<T, W>(&self, terms: Terms, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: FnOnce(&mut Desk<'_>) -> Result<T> + Send + 'static,
    {
        self.run_by(None, terms, work)
    }

    /// The same on behalf of somebody, of whom events tell.
    pub(super) fn run_by<T, W>(&self, by: Option<Arc<Initiator>>, terms: Terms, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: FnOnce(&mut Desk<'_>) -> Result<T> + Send + 'static,
    {
        let stopped = || Error::Unavailable("it has stopped".to_owned());
        let (answer, answered) = channel::bounded(1);
        let job = Box::new(Typed { by, terms, work: Some(work), result: None, answer });
        self.jobs.as_ref().ok_or_else(stopped)?.send(job).map_err(|_| stopped())?;
        answered.recv().map_err(|_| stopped())?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic in there has been printed, and every caller was told that the store has stopped.
            let _ = thread.join();
        }
    }
}

/// A piece of work whose result's type only its caller knows.
trait Job: Send {
    fn terms(&self) -> Terms;
    fn work(&mut self, desk: &mut Desk<'_>);
    fn refuse(&mut self, error: Error);
    fn answer(self: Box<Self>);
}

struct Typed<T, W> {
    by: Option<Arc<Initiator>>,
    terms: Terms,
    work: Option<W>,
    result: Option<Result<T>>,
    answer: Sender<Result<T>>,
}

impl<T: Send, W: FnOnce(&mut Desk<'_>) -> Result<T> + Send> Job for Typed<T, W> {
    fn terms(&self) -> Terms {
        self.terms
    }

    fn work(&mut self, desk: &mut Desk<'_>) {
        if let Some(work) = self.work.take() {
            desk.works_for(self.by.take());
            self.result = Some(work(desk));
        }
    }

    fn refuse(&mut self, error: Error) {
        self.work = None;
        // What was refused for a reason of its own keeps that reason.
        if !matches!(self.result, Some(Err(_))) {
            self.result = Some(Err(error));
        }
    }

    fn answer(self: Box<Self>) {
        if let Some(result) = self.result {
            // Nobody waits for it where the caller's thread is gone.
            let _ = self.answer.send(result);
        }
    }
}

/// What the writer keeps between groups.
struct State {
    /// Bytes that entered the index since the last data sync.
    entered: usize,
    /// Content to be removed when nothing else is to be done.
    retired: Vec<Retired>,
    /// Relaxed durability: when the next sync is due.
    due: Option<Instant>,
    /// When the uptime is to be written down, at the latest.
    uptime_due: Instant,
    copying: Copying,
    /// Entries that were removed from the index since it was last rewritten, or that was last tried.
    removed: u64,
    /// With how many of these it is tried again.
    rewritten_after: u64,
    /// The index is closed after a failure, and could not be opened again yet.
    closed: bool,
    /// The room that the store keeps on the disk may have been given up.
    gave_up: bool,
}

impl Default for State {
    fn default() -> Self {
        let uptime_due = Instant::now() + Clock::WRITTEN_EVERY;
        Self {
            entered: 0,
            retired: Vec::new(),
            due: None,
            uptime_due,
            copying: Copying::default(),
            removed: 0,
            rewritten_after: 0,
            closed: false,
            gave_up: false,
        }
    }
}

impl State {
    fn desk<'a>(&'a mut self, index: &'a Index, core: &'a Core) -> Desk<'a> {
        Desk::new(
            index,
            (core.clock.now(), core.reopened()),
            &mut self.entered,
            &mut self.retired,
            &mut self.copying,
            &mut self.removed,
            (&core.outbox, &core.hot),
        )
    }

    /// What this life knew of the index is no longer so. Whoever holds content back goes on to.
    fn reset(&mut self) {
        let copying = Copying { journal: None, holds: self.copying.holds };
        let Self { gave_up, rewritten_after, .. } = *self;
        *self = Self { copying, gave_up, rewritten_after, ..Self::default() };
    }

    fn recover(&mut self, index: &Index, core: &Core) -> Result<()> {
        self.reset();
        core.outbox.look(index)?;
        let mut desk = self.desk(index, core);
        orphans::begin_life(&mut desk)?;
        leftovers::recover(&mut desk)?;
        desk.sync()
    }
}

struct Thread {
    core: Arc<Core>,
    waiting: Receiver<Box<dyn Job>>,
    state: State,
}

/// What there is to do next.
enum Next {
    Work(Box<dyn Job>),
    Sweep,
    Sync,
    NoteUptime,
    Reopen,
    Stop,
}

impl Thread {
    fn run(mut self) {
        loop {
            match self.next() {
                Next::Work(job) => self.group(job),
                Next::Sweep => self.or_reopen(Self::sweep),
                Next::Sync => self.or_reopen(Self::sync),
                Next::NoteUptime => self.or_reopen(Self::note_uptime),
                Next::Reopen => self.reopen(),
                Next::Stop => break,
            }
        }
        // With nobody left to write, what a failure leaves is for the next opening: to open it again now would cost the room that
        // is kept for that.
        if self.end().is_err() {
            self.core.close();
        }
    }

    fn next(&self) -> Next {
        if self.state.closed {
            return match self.waiting.recv_timeout(TRY_AGAIN) {
                Ok(job) => Next::Work(job),
                Err(RecvTimeoutError::Timeout) => Next::Reopen,
                Err(RecvTimeoutError::Disconnected) => Next::Stop,
            };
        }
        let may_sweep = self.state.copying.holds == 0;
        if may_sweep && self.state.retired.len() >= RETIRED_AT_MOST {
            return Next::Sweep;
        }
        if may_sweep && !self.state.retired.is_empty() {
            return self.waiting.try_recv().map_or(Next::Sweep, Next::Work);
        }
        let due = self.state.due.unwrap_or(self.state.uptime_due);
        match self.waiting.recv_deadline(due.min(self.state.uptime_due)) {
            Ok(job) => Next::Work(job),
            Err(RecvTimeoutError::Timeout) if self.state.due.is_some() => Next::Sync,
            Err(RecvTimeoutError::Timeout) => Next::NoteUptime,
            Err(RecvTimeoutError::Disconnected) => Next::Stop,
        }
    }

    /// Writes down the uptime, and syncs it with all else that waits.
    fn note_uptime(&mut self) -> Result<()> {
        self.state.uptime_due = Instant::now() + Clock::WRITTEN_EVERY;
        let Self { core, state, .. } = self;
        if core.folder.available()? < ROOM_TO_REMOVE {
            // It is not worth what is kept for deletions: the next time it may be.
            return core.read(|index| state.desk(index, core).sync());
        }
        core.read(|index| {
            let mut desk = state.desk(index, core);
            let mut changes = Changes::new();
            changes.set(UPTIME_KEY.to_vec(), &desk.now())?;
            desk.apply(&changes)?;
            desk.sync()
        })
    }

    /// Writes down that this life ends by itself, and seals the index.
    fn end(&mut self) -> Result<()> {
        self.note_uptime()?;
        let Self { core, state, .. } = self;
        if core.folder.available()? < ROOM_TO_REMOVE {
            // All is durable; it is not worth what is kept for deletions.
            return Ok(());
        }
        core.read(|index| {
            orphans::end_life(&mut state.desk(index, core))?;
            index.seal()
        })
    }

    fn group(&mut self, first: Box<dyn Job>) {
        let mut group = vec![first];
        group.extend(self.waiting.try_iter().take(GROUP - 1));
        if let Err(error) = self.do_group(&mut group) {
            // What of this the disk has is not known, so nobody is told that it succeeded.
            let reason = error.to_string();
            for job in &mut group {
                job.refuse(Error::Unavailable(reason.clone()));
            }
            self.reopen();
        }
        for job in group {
            job.answer();
        }
    }

    /// Fails only if the index did.
    fn do_group(&mut self, group: &mut [Box<dyn Job>]) -> Result<()> {
        self.make_index_smaller(group)?;
        self.check_room(group);
        // Files before records: one sync of their folder for all (D7).
        if group.iter().any(|job| job.terms().new_file) {
            self.core.folder.sync_content().map_err(Error::io("syncing the content folder"))?;
        }
        let Self { core, state, .. } = self;
        let broken = core.read(|index| {
            let mut desk = state.desk(index, core);
            for job in group.iter_mut() {
                job.work(&mut desk);
            }
            Ok(desk.into_failure())
        })?;
        match broken {
            Some(error) => Err(error),
            None => self.settle(group.iter().any(|job| job.terms().durable)),
        }
    }

    /// Makes what was done as durable as it is to be before it is answered.
    fn settle(&mut self, durable: bool) -> Result<()> {
        let Self { core, state, .. } = self;
        if state.entered == 0 {
            return Ok(());
        }
        match core.options.durability {
            Durability::Strict if durable => {
                state.due = None;
                self.sync()
            }
            Durability::Strict => {
                // Nobody is told of what is not durable, and nobody else may come for long.
                if core.outbox.waits_for_sync() {
                    state.due.get_or_insert_with(|| Instant::now() + TELL_WITHIN);
                }
                core.read(Index::flush)
            }
            Durability::Relaxed(within) => {
                state.due.get_or_insert_with(|| Instant::now() + within);
                core.read(Index::flush)
            }
        }
    }

    /// D8: sled must not meet a full disk. Additions stop while there is still room for removals; for these the store gives up
    /// the room that it keeps, and takes it again with the first addition that finds plenty.
    fn check_room(&mut self, group: &mut [Box<dyn Job>]) {
        let reserve = self.core.options.reserve;
        let needed = |job: &dyn Job| if job.terms().adds { reserve } else { ROOM_TO_REMOVE };
        let mut available = self.core.folder.available();
        if matches!(available, Ok(available) if available < ROOM_TO_REMOVE)
            && group.iter().any(|job| !job.terms().adds)
        {
            self.state.gave_up = true;
            self.core.folder.make_room();
            available = self.core.folder.available();
        } else if self.state.gave_up && matches!(available, Ok(available) if available >= reserve) {
            self.state.gave_up = !self.core.folder.keep_room();
            self.core.room.look_at_rest(&self.core.folder);
        }
        let within_budget = self.core.room.check(0).is_ok();
        for job in group {
            let needed = needed(job.as_ref());
            match &available {
                Ok(available) if *available < needed => {
                    job.refuse(Error::DiskFull { needed, available: *available });
                }
                Ok(_) if !within_budget && job.terms().adds => job.refuse(self.core.room.refusal(0)),
                Ok(_) => {}
                Err(error) => job.refuse(Error::Unavailable(error.to_string())),
            }
        }
    }

    /// Before additions: rewrites an index that is beyond its share of the budget, where it holds little. That is not known before it
    /// is tried, so each attempt costs no more than a small index does, and no more than the removals since the last one have
    /// paid for: whoever copies a record again has had another one removed.
    ///
    /// Fails only if the index did.
    fn make_index_smaller(&mut self, group: &[Box<dyn Job>]) -> Result<()> {
        let Self { core, state, .. } = self;
        if !group.iter().any(|job| job.terms().adds) {
            return Ok(());
        }
        core.room.look_at_rest(&core.folder);
        let Some(before) = core.room.index_beyond_share() else { return Ok(()) };
        // Whoever copies the store reads the index as it is, and a journal ends with the index it tells of.
        if state.removed < state.rewritten_after || state.copying.journal.is_some() || state.copying.holds > 0
        {
            return Ok(());
        }
        if core.room.left() < LEAST_INDEX {
            // What deleting has taken of it is for this too.
            state.gave_up = true;
            core.folder.reserve.give_up();
            core.room.look_at_rest(&core.folder);
        }
        let most = (before / 2).min(SMALL_INDEX).min(core.room.left());
        let available = core.folder.available().unwrap_or(0);
        // Uploads go on meanwhile, and are not to take the room for both.
        let aside = core.room.set_aside(most).filter(|_| available >= most.saturating_add(ROOM_TO_REMOVE));
        let attempt = core.read(|index| {
            state.desk(index, core).sync()?;
            let mut unwatched = |_: &Progress| ControlFlow::Continue(());
            let attempt = aside
                .as_ref()
                .map(|_| compact::attempt(&core.folder, index, most, &mut (&mut unwatched as Watch<'_>)));
            // What kept it from being made is no failure of the index that there is.
            Ok(attempt.and_then(Result::ok).unwrap_or_default())
        })?;
        state.removed = 0;
        state.rewritten_after = attempt.records.max(REMOVED_AT_LEAST);
        if attempt.made {
            core.replace_index()?;
            core.room.look_at_rest(&core.folder);
        }
        drop(aside);
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        let Self { core, state, .. } = self;
        core.read(|index| state.desk(index, core).sync())
    }

    fn sweep(&mut self) -> Result<()> {
        let Self { core, state, .. } = self;
        let mut retired = std::mem::take(&mut state.retired);
        core.read(|index| leftovers::sweep(&mut state.desk(index, core), core, &mut retired))?;
        state.retired.append(&mut retired);
        Ok(())
    }

    fn or_reopen(&mut self, act: impl FnOnce(&mut Self) -> Result<()>) {
        if act(self).is_err() {
            self.reopen();
            // What is to be removed waits for the next opening: a failure that stays must not be met in a circle.
            self.state.retired.clear();
        }
        if self.state.entered == 0 {
            self.state.due = None;
        }
    }

    /// D8: after a failure nothing is written until the index has been closed, its cached pages dropped, and opened again.
    /// While that fails, each group that comes tries it again, and where none comes the clock: a store that is only read from
    /// needs its index too.
    fn reopen(&mut self) {
        self.state.reset();
        self.state.gave_up = true;
        let Self { core, state, .. } = self;
        // An index that does not open, or that fails again at once, answers everybody with the reason until it does.
        let opened = core.reopen(|index| state.recover(index, core));
        self.state.closed = opened.is_err();
    }
}
