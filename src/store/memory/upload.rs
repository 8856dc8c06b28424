//! Upload sessions in memory, and their one writer (C7).

use std::io;
use std::time::{Instant, SystemTime};

use uuid::Uuid;

use super::{Memory, State};
use crate::error::{Error, Result};
use crate::oci::{Algorithm, Digest, DigestMismatch, Hasher, RepositoryName};
use crate::store::{BlobStat, Upload, UploadOptions, UploadStatus};

pub(super) struct Session {
    repository: RepositoryName,
    started_at: SystemTime,
    bytes: Vec<u8>,
    /// Has taken in exactly `bytes`.
    hasher: Hasher,
    /// Counts the writers that the session has had; the last one's number is its title to the session.
    claim: u64,
    /// When the present writer last showed itself; nothing where there is none.
    active_at: Option<Instant>,
}

impl Session {
    pub(super) fn status(&self) -> UploadStatus {
        UploadStatus { offset: self.bytes.len() as u64, started_at: self.started_at }
    }
}

impl State {
    pub(super) fn session(&mut self, repository: &RepositoryName, id: Uuid) -> Result<&mut Session> {
        match self.uploads.get_mut(&id) {
            Some(session) if session.repository == *repository => Ok(session),
            _ => Err(Error::UploadUnknown { repository: repository.clone(), id }),
        }
    }
}

pub(super) struct MemoryUpload {
    store: Memory,
    repository: RepositoryName,
    id: Uuid,
    started_at: SystemTime,
    offset: u64,
    claim: u64,
}

impl MemoryUpload {
    pub(super) fn start(store: &Memory, repository: &RepositoryName, options: &UploadOptions) -> Self {
        let id = Uuid::new_v4();
        let session = Session {
            repository: repository.clone(),
            started_at: SystemTime::now(),
            bytes: Vec::new(),
            hasher: Hasher::new(options.algorithm.unwrap_or(Algorithm::Sha256)),
            claim: 0,
            active_at: Some(Instant::now()),
        };
        let upload = Self::writer(store, id, &session);
        store.state().uploads.insert(id, session);
        upload
    }

    pub(super) fn resume(
        store: &Memory,
        repository: &RepositoryName,
        id: Uuid,
        options: &UploadOptions,
    ) -> Result<Self> {
        let mut state = store.state();
        let session = state.session(repository, id)?;
        if session.active_at.is_some_and(|at| at.elapsed() < store.silence) {
            return Err(Error::UploadBusy(id));
        }
        if let Some(algorithm) = options.algorithm.filter(|_| session.bytes.is_empty()) {
            session.hasher = Hasher::new(algorithm);
        }
        session.claim += 1;
        session.active_at = Some(Instant::now());
        Ok(Self::writer(store, id, session))
    }

    /// The value in the hands of the session's present writer.
    fn writer(store: &Memory, id: Uuid, session: &Session) -> Self {
        Self {
            store: store.clone(),
            repository: session.repository.clone(),
            id,
            started_at: session.started_at,
            offset: session.bytes.len() as u64,
            claim: session.claim,
        }
    }

    /// The session, if this is still its writer.
    fn session<'a>(&self, state: &'a mut State) -> Result<&'a mut Session> {
        let session = state.session(&self.repository, self.id)?;
        if session.claim == self.claim { Ok(session) } else { Err(Error::UploadBusy(self.id)) }
    }

    fn release(&self) -> Result<()> {
        self.session(&mut self.store.state()).map(|session| session.active_at = None)
    }
}

impl io::Write for MemoryUpload {
    fn write(&mut self, content: &[u8]) -> io::Result<usize> {
        let mut state = self.store.state();
        let session = self.session(&mut state).map_err(io::Error::other)?;
        session.bytes.extend_from_slice(content);
        session.hasher.update(content);
        session.active_at = Some(Instant::now());
        self.offset = session.bytes.len() as u64;
        Ok(content.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Upload for MemoryUpload {
    fn id(&self) -> Uuid {
        self.id
    }

    fn started_at(&self) -> SystemTime {
        self.started_at
    }

    fn offset(&self) -> u64 {
        self.offset
    }

    fn suspend(self: Box<Self>) -> Result<()> {
        self.release()
    }

    fn commit(self: Box<Self>, digest: &Digest) -> Result<BlobStat> {
        let mut state = self.store.state();
        self.session(&mut state)?;
        let Some(session) = state.uploads.remove(&self.id) else {
            return Err(Error::UploadUnknown { repository: self.repository.clone(), id: self.id });
        };
        let found = if session.hasher.algorithm() == digest.algorithm() {
            session.hasher.finish()
        } else {
            digest.algorithm().digest(&session.bytes)
        };
        if found != *digest {
            return Err(DigestMismatch { expected: *digest, found }.into());
        }
        Ok(state.add_blob(&self.repository, digest, session.bytes))
    }

    fn cancel(self: Box<Self>) -> Result<()> {
        let mut state = self.store.state();
        match self.session(&mut state) {
            Ok(_) => state.uploads.remove(&self.id),
            // Ended already, by its id: cancelling is idempotent (C6).
            Err(Error::UploadUnknown { .. }) => None,
            Err(error) => return Err(error),
        };
        Ok(())
    }
}

impl Drop for MemoryUpload {
    fn drop(&mut self) {
        // Fails where the session has ended or has another writer: then there is nothing to release.
        let _ = self.release();
    }
}
