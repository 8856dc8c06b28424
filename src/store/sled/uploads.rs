//! Upload sessions as their writers have them.

use std::io::{self, ErrorKind, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use uuid::Uuid;

use super::evict;
use super::layers;
use super::options::WhenFull;
use super::quarantine;
use super::room::{Promise, check_disk};
use super::schema::{self, Content, Layer, Upload as Record};
use super::sessions::Session;
use super::staged::{State, discard_recorded, in_doubt, record_of, standing};
use super::store::Shared;
use super::waiting;
use crate::error::{Error, Result};
use crate::oci::{Algorithm, Digest, DigestMismatch, RepositoryName};
use crate::store::{BlobStat, Initiator, Upload, UploadOptions, UploadStatus};

pub(super) fn start(
    shared: &Arc<Shared>,
    by: Option<Arc<Initiator>>,
    repository: &RepositoryName,
    options: &UploadOptions,
) -> Result<Box<dyn Upload>> {
    let promise = promise(shared, options.coming.or(options.size))?;
    let state = State::new(options.algorithm.unwrap_or(Algorithm::Sha256));
    let (session, claim) = shared.sessions.start(repository, state);
    Ok(Box::new(Writing::new(shared, by, session, claim, promise)))
}

/// Admits who says how much will come, or refuses it before the first byte, and sets a first part of the room aside; who does not
/// say is refused when there is none at all.
fn promise(shared: &Shared, coming: Option<u64>) -> Result<Option<Promise>> {
    let core = &shared.core;
    // What the disk has no room for lets nothing go.
    check_disk(core, coming.unwrap_or(0))?;
    let promised = match coming {
        Some(bytes) => {
            // In a cache images go as the bytes come, and none for what cannot fit though all went.
            let fits = match &core.options.when_full {
                WhenFull::Refuse => evict::make_room(shared, bytes),
                WhenFull::Evict { pinned } => evict::check_announced(shared, bytes, pinned),
            };
            fits.and_then(|()| Promise::of(shared, bytes).map(Some))
        }
        None => evict::make_room(shared, 0).map(|()| None),
    };
    waiting::telling(core, promised)
}

pub(super) fn resume(
    shared: &Arc<Shared>,
    by: Option<Arc<Initiator>>,
    repository: &RepositoryName,
    id: Uuid,
    options: &UploadOptions,
) -> Result<Box<dyn Upload>> {
    let load = || State::load(&shared.core, &record_of(&shared.core, repository, id)?);
    let (session, claim) = shared.sessions.resume(repository, id, load, |state| state.adopt(options))?;
    let offset = session.status().map_or(0, |status| status.offset);
    let coming = options.coming.or_else(|| options.size.map(|size| size.saturating_sub(offset)));
    let mut upload = Writing::new(shared, by, session, claim, None);
    if let Some(bytes) = coming {
        // Refused, it is suspended again.
        upload.promise = promise(shared, Some(bytes))?;
    }
    Ok(Box::new(upload))
}

pub(super) fn status(shared: &Shared, repository: &RepositoryName, id: Uuid) -> Result<UploadStatus> {
    if let Some(session) = shared.sessions.get(id).filter(|session| session.repository == *repository)
        && let Some(status) = session.status()
    {
        return Ok(status);
    }
    let record = record_of(&shared.core, repository, id)?;
    Ok(UploadStatus { offset: standing(&shared.core, &record).offset, started_at: record.started_at.time() })
}

pub(super) fn cancel(shared: &Shared, repository: &RepositoryName, id: Uuid) -> Result<()> {
    shared.sessions.end(repository, id, |session, held| {
        match &held.state {
            Some(state) => state.discard(shared, session)?,
            None => match record_of(&shared.core, repository, id) {
                Ok(record) => discard_recorded(shared, id, &record)?,
                Err(Error::UploadUnknown { .. }) => {}
                Err(error) => return Err(error),
            },
        }
        held.release();
        held.state = None;
        Ok(())
    })
}

/// Ends a session that has been silent for so long, unless somebody has it in hand or has gone on with it; whether it did.
pub(super) fn expire(shared: &Shared, id: Uuid, record: &Record, silence: Duration) -> Result<bool> {
    let repository: RepositoryName = record.repository.parse()?;
    let mut expired = false;
    shared.sessions.end(&repository, id, |_, held| {
        if held.state.is_some() {
            return Ok(());
        }
        discard_silent(shared, &repository, id, silence).map(|discarded| expired = discarded)
    })?;
    Ok(expired)
}

/// The same, unless somebody has the session in hand; for that nobody is waited for.
pub(super) fn expire_idle(shared: &Shared, id: Uuid, record: &Record, silence: Duration) -> Result<bool> {
    let repository: RepositoryName = record.repository.parse()?;
    let mut expired = false;
    shared.sessions.end_idle(&repository, id, || {
        discard_silent(shared, &repository, id, silence).map(|discarded| expired = discarded)
    })?;
    Ok(expired)
}

/// Drops a session that is not in hand, and cannot be taken up meanwhile, if it has been silent for so long.
fn discard_silent(shared: &Shared, repository: &RepositoryName, id: Uuid, silence: Duration) -> Result<bool> {
    match record_of(&shared.core, repository, id) {
        Ok(record) if shared.core.clock.now().since(record.updated_at) >= silence => {
            discard_recorded(shared, id, &record).map(|()| true)
        }
        Ok(_) | Err(Error::UploadUnknown { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A session in the hands of its writer.
struct Writing {
    shared: Arc<Shared>,
    /// Who commits it, if it is committed.
    by: Option<Arc<Initiator>>,
    session: Arc<Session>,
    claim: u64,
    started_at: SystemTime,
    offset: u64,
    promise: Option<Promise>,
    /// Committed, cancelled or suspended: nothing is left for the drop to do.
    over: bool,
}

impl Writing {
    fn new(
        shared: &Arc<Shared>,
        by: Option<Arc<Initiator>>,
        session: Arc<Session>,
        claim: u64,
        promise: Option<Promise>,
    ) -> Self {
        let status = session.status();
        Self {
            shared: Arc::clone(shared),
            by,
            claim,
            started_at: status.map_or(SystemTime::UNIX_EPOCH, |status| status.started_at),
            offset: status.map_or(0, |status| status.offset),
            session,
            promise,
            over: false,
        }
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let mut held = self.session.hold(self.claim)?;
        let Some(state) = &mut held.state else { return Err(self.session.unknown()) };
        let appended = state.append(&self.shared, &self.session, bytes, self.promise.as_mut());
        waiting::telling(&self.shared.core, appended)?;
        let outcome = state.checkpoint_if_due(&self.shared, &self.session);
        self.offset = state.status().offset;
        self.session.publish_status(state);
        outcome
    }

    fn suspend_once(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.over, true) {
            return Ok(());
        }
        let Ok(mut held) = self.session.hold(self.claim) else { return Ok(()) };
        held.release();
        let Some(state) = &mut held.state else { return Ok(()) };
        if state.status().offset == 0 {
            // A session without bytes promises nothing, and stays where it is: in memory.
            return Ok(());
        }
        state.save(&self.shared, &self.session, false)?;
        // From here on the record is the session.
        held.state = None;
        self.shared.sessions.forget(&self.session);
        Ok(())
    }

    fn finish(&mut self, digest: &Digest) -> Result<BlobStat> {
        let mut held = self.session.hold(self.claim)?;
        let Some(state) = &mut held.state else { return Err(self.session.unknown()) };
        let found = state.digest(&self.shared.core, digest.algorithm())?;
        if found != *digest {
            // Where the session cannot be dropped, as on a disk that has no byte left for that, it stays and can be cancelled.
            let discarded = state.discard(&self.shared, &self.session);
            held.release();
            if discarded.is_ok() {
                held.state = None;
                self.shared.sessions.forget(&self.session);
            }
            self.over = true;
            return Err(DigestMismatch { expected: *digest, found }.into());
        }

        if state.is_held() {
            let size = state.status().offset;
            evict::make_room(&self.shared, size)?;
            if !self.shared.core.takes_inline(usize::try_from(size).unwrap_or(usize::MAX)) {
                state.spill(&self.shared, &self.session, self.promise.as_mut())?;
            }
        }
        quarantine::notice_blob(&self.shared, digest)?;
        let finished = state.finished(&self.shared, &self.session, digest);
        self.offset = state.status().offset;
        let (finished, terms) = finished?;
        let content = finished.content;
        let outcome =
            match self.shared.writer.run_by(self.by.clone(), terms, move |desk| finished.publish(desk)) {
                Err(error) if in_doubt(&error) => self.look_whether_committed(digest, &content, error),
                outcome => outcome.map_err(Failure::Stands),
            };
        match outcome {
            Err(Failure::Stands(error)) => return Err(error),
            Ok(_) | Err(Failure::Lost(_)) => {
                held.release();
                held.state = None;
                self.shared.sessions.forget(&self.session);
            }
        }
        self.over = true;
        outcome.map_err(|failure| match failure {
            Failure::Stands(error) | Failure::Lost(error) => error,
        })
    }

    /// After a failure of the index itself: what it has now that it was opened again is what the disk has. If that cannot be
    /// told, the session ends and its bytes are left alone, for they may have become a blob's.
    fn look_whether_committed(
        &self,
        digest: &Digest,
        content: &Content,
        error: Error,
    ) -> Result<BlobStat, Failure> {
        match self.shared.core.read(|index| index.get::<Layer>(&schema::digest_key(digest))) {
            Ok(Some(layer)) if layer.content == *content => Ok(layers::stat(digest, &layer)),
            Ok(_) => Err(Failure::Stands(error)),
            Err(_) => Err(Failure::Lost(error)),
        }
    }
}

enum Failure {
    /// The session is as it was.
    Stands(Error),
    /// Nobody knows what became of it.
    Lost(Error),
}

impl Write for Writing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.append(bytes).map_err(|error| match error {
            Error::Io { source, .. } => source,
            Error::DiskFull { .. } | Error::OverBudget { .. } => {
                io::Error::new(ErrorKind::StorageFull, error)
            }
            error => io::Error::other(error),
        })?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Upload for Writing {
    fn id(&self) -> Uuid {
        self.session.id
    }

    fn started_at(&self) -> SystemTime {
        self.started_at
    }

    fn offset(&self) -> u64 {
        self.offset
    }

    fn bytes(&self) -> Result<Box<dyn io::Read + Send>> {
        let held = self.session.hold(self.claim)?;
        let state = held.state.as_ref().ok_or_else(|| self.session.unknown())?;
        Ok(Box::new(state.reread(&self.shared.core)?))
    }

    fn suspend(mut self: Box<Self>) -> Result<()> {
        drop(self.session.hold(self.claim)?);
        self.suspend_once()
    }

    fn commit(mut self: Box<Self>, digest: &Digest) -> Result<BlobStat> {
        let finished = self.finish(digest);
        waiting::telling(&self.shared.core, finished)
    }

    fn cancel(mut self: Box<Self>) -> Result<()> {
        self.over = true;
        if let Err(Error::UploadBusy(id)) = self.session.hold(self.claim).map(drop) {
            return Err(Error::UploadBusy(id));
        }
        cancel(&self.shared, &self.session.repository, self.session.id)
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        // Whoever wants to know whether it worked calls `suspend`; what is not written down stays in hand.
        let _ = self.suspend_once();
    }
}
