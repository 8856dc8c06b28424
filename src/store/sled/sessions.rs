//! Which upload sessions this process has in hand, and who writes to each (C7).

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::staged::State;
use crate::error::{Error, Result};
use crate::oci::RepositoryName;
use crate::store::UploadStatus;

/// How many sessions without bytes are remembered. They promise nothing; the oldest is forgotten first.
const EMPTY_SESSIONS: usize = 10_000;

/// The sessions in hand: those with a writer, and those without bytes, which are written down nowhere.
pub(super) struct Sessions {
    silence: Duration,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    sessions: HashMap<Uuid, Arc<Session>>,
    /// Sessions in the order in which they were started, for forgetting the oldest empty ones.
    started: VecDeque<Uuid>,
}

/// One session.
pub(super) struct Session {
    pub(super) id: Uuid,
    pub(super) repository: RepositoryName,
    /// For those who only ask; never held while anything waits. `None` until the session was loaded.
    status: Mutex<Option<UploadStatus>>,
    /// Held by whoever writes, across the writing: so a second writer is told apart from one that only holds a claim.
    held: Mutex<Held>,
}

/// What only the writer may touch.
#[derive(Default)]
pub(super) struct Held {
    /// `None` where the session is not in hand: not loaded yet, suspended, or over.
    pub(super) state: Option<State>,
    /// Since when the writer has been silent, if there is one.
    active_at: Option<Instant>,
    /// How often it was claimed; the last claim's number.
    claims: u64,
}

impl Held {
    fn claim(&mut self) -> u64 {
        self.claims += 1;
        self.active_at = Some(Instant::now());
        self.claims
    }

    pub(super) fn release(&mut self) {
        self.active_at = None;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Session {
    fn new(id: Uuid, repository: &RepositoryName) -> Self {
        Self { id, repository: repository.clone(), status: Mutex::default(), held: Mutex::default() }
    }

    pub(super) fn unknown(&self) -> Error {
        Error::UploadUnknown { repository: self.repository.clone(), id: self.id }
    }

    pub(super) fn status(&self) -> Option<UploadStatus> {
        *lock(&self.status)
    }

    /// To be called by the writer after each change.
    pub(super) fn publish_status(&self, state: &State) {
        *lock(&self.status) = Some(state.status());
    }

    /// What the session is, for the writer with this claim.
    pub(super) fn hold(&self, claim: u64) -> Result<MutexGuard<'_, Held>> {
        let mut held = lock(&self.held);
        if held.claims != claim {
            // Somebody else has it, or has had it since: for this writer it makes no difference.
            return Err(Error::UploadBusy(self.id));
        }
        if held.active_at.is_none() {
            return Err(self.unknown());
        }
        held.active_at = Some(Instant::now());
        Ok(held)
    }

    /// Claims the session for a new writer, unless one is alive; `None` where it is not in hand any more.
    fn take(&self, silence: Duration, adopt: impl FnOnce(&mut State)) -> Result<Option<u64>> {
        let mut held = match self.held.try_lock() {
            Ok(held) => held,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(Error::UploadBusy(self.id)),
        };
        if held.state.is_some() && held.active_at.is_some_and(|active_at| active_at.elapsed() < silence) {
            return Err(Error::UploadBusy(self.id));
        }
        let Some(state) = &mut held.state else { return Ok(None) };
        adopt(state);
        Ok(Some(held.claim()))
    }
}

impl Sessions {
    pub(super) fn new(silence: Duration) -> Self {
        Self { silence, table: Mutex::default() }
    }

    /// A new session in the hands of its first writer.
    pub(super) fn start(&self, repository: &RepositoryName, state: State) -> (Arc<Session>, u64) {
        let session = Session::new(Uuid::new_v4(), repository);
        session.publish_status(&state);
        let claim = {
            let mut held = lock(&session.held);
            held.state = Some(state);
            held.claim()
        };
        let session = Arc::new(session);
        let mut table = lock(&self.table);
        table.sessions.insert(session.id, Arc::clone(&session));
        table.started.push_back(session.id);
        table.forget_oldest();
        (session, claim)
    }

    pub(super) fn get(&self, id: Uuid) -> Option<Arc<Session>> {
        lock(&self.table).sessions.get(&id).cloned()
    }

    /// The session in the hands of a new writer. `load` is asked where it is not in hand; meanwhile it counts as busy.
    /// `adopt` sees its state before anybody writes.
    pub(super) fn resume(
        &self,
        repository: &RepositoryName,
        id: Uuid,
        load: impl FnOnce() -> Result<State>,
        adopt: impl Fn(&mut State),
    ) -> Result<(Arc<Session>, u64)> {
        loop {
            let known = self.get(id);
            if let Some(session) = known {
                if session.repository != *repository {
                    // Where it belongs is not known before it was loaded: somebody may have asked in the wrong place.
                    return Err(match session.status() {
                        Some(_) => Error::UploadUnknown { repository: repository.clone(), id },
                        None => Error::UploadBusy(id),
                    });
                }
                match session.take(self.silence, &adopt)? {
                    Some(claim) => return Ok((session, claim)),
                    None => self.forget(&session),
                }
            }

            let session = Arc::new(Session::new(id, repository));
            // Locked before anybody can see it: whoever comes while it is being loaded finds it busy.
            let mut held = lock(&session.held);
            {
                let mut table = lock(&self.table);
                if table.sessions.contains_key(&id) {
                    continue;
                }
                table.sessions.insert(id, Arc::clone(&session));
            }
            match load() {
                Ok(mut state) => {
                    adopt(&mut state);
                    session.publish_status(&state);
                    held.state = Some(state);
                    let claim = held.claim();
                    drop(held);
                    return Ok((session, claim));
                }
                Err(error) => {
                    self.forget(&session);
                    return Err(error);
                }
            }
        }
    }

    /// Ends a session, whoever writes to it; a write in progress is waited for. `discard` has the session to itself: until it
    /// has returned, it counts as busy, so that nobody takes it up from a record that is about to go. It is over when `discard`
    /// has taken its state.
    pub(super) fn end(
        &self,
        repository: &RepositoryName,
        id: Uuid,
        discard: impl FnOnce(&Session, &mut Held) -> Result<()>,
    ) -> Result<()> {
        loop {
            let session = {
                let mut table = lock(&self.table);
                let new = || Arc::new(Session::new(id, repository));
                Arc::clone(table.sessions.entry(id).or_insert_with(new))
            };
            if session.repository != *repository && session.status().is_some() {
                return Ok(());
            }
            let mut held = lock(&session.held);
            let in_hand = self.get(id).is_some_and(|known| Arc::ptr_eq(&known, &session));
            if !in_hand || session.repository != *repository {
                continue;
            }
            let outcome = discard(&session, &mut held);
            if held.state.is_none() {
                self.forget(&session);
            }
            return outcome;
        }
    }

    /// Ends a session that nobody has in hand, and waits for nobody: whoever makes room may have another one in hand. Until
    /// `discard` has returned it counts as busy.
    pub(super) fn end_idle(
        &self,
        repository: &RepositoryName,
        id: Uuid,
        discard: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let session = Arc::new(Session::new(id, repository));
        let held = lock(&session.held);
        {
            let mut table = lock(&self.table);
            if table.sessions.contains_key(&id) {
                return Ok(());
            }
            table.sessions.insert(id, Arc::clone(&session));
        }
        let outcome = discard();
        self.forget(&session);
        drop(held);
        outcome
    }

    /// Takes the session out of hand. To be called with the session held, or somebody could come in between.
    pub(super) fn forget(&self, session: &Arc<Session>) {
        let mut table = lock(&self.table);
        if table.sessions.get(&session.id).is_some_and(|known| Arc::ptr_eq(known, session)) {
            table.sessions.remove(&session.id);
        }
    }
}

impl Table {
    fn forget_oldest(&mut self) {
        while self.started.len() > EMPTY_SESSIONS {
            let Some(id) = self.started.pop_front() else { return };
            let idle = self.sessions.get(&id).is_some_and(|session| {
                session.held.try_lock().is_ok_and(|mut held| {
                    let idle = held.active_at.is_none()
                        && held.state.as_ref().is_some_and(|state| state.status().offset == 0);
                    if idle {
                        held.state = None;
                    }
                    idle
                })
            });
            if idle {
                self.sessions.remove(&id);
            }
        }
    }
}
