//! Upload sessions in memory, and their one writer (C7).

use std::io;
use std::time::{Instant, SystemTime};

use uuid::Uuid;

use super::Memory;
use super::state::State;
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

    fn bytes(&self) -> Result<Box<dyn io::Read + Send>> {
        let mut state = self.store.state();
        Ok(Box::new(io::Cursor::new(self.session(&mut state)?.bytes.clone())))
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::Push;

    fn started(store: &Memory) -> (RepositoryName, Box<dyn Upload>) {
        let name: RepositoryName = "a".parse().unwrap();
        let upload = store.start_upload(&name, &UploadOptions::new()).unwrap();
        (name, upload)
    }

    /// What a write failed with, in the crate's own terms.
    fn told(upload: &mut dyn Upload) -> Error {
        upload.write(b"late").unwrap_err().downcast().unwrap()
    }

    #[test]
    fn a_replaced_writer_is_told_who_has_the_session() {
        let store = Memory::with_writer_silence(Duration::ZERO);
        let (name, mut silent) = started(&store);
        let next = store.resume_upload(&name, silent.id(), &UploadOptions::new()).unwrap();
        assert!(matches!(told(&mut *silent), Error::UploadBusy(id) if id == next.id()));
        assert!(matches!(silent.suspend(), Err(Error::UploadBusy(_))));
        assert_eq!(store.upload_status(&name, next.id()).unwrap().offset, 0);
    }

    #[test]
    fn a_replaced_writer_does_not_release_the_session() {
        let patient = Memory::new();
        let (name, silent) = started(&patient);
        let id = silent.id();
        // The same store, seen by one who waits for nobody.
        let impatient = Memory { silence: Duration::ZERO, ..patient.clone() };
        let next = impatient.resume_upload(&name, id, &UploadOptions::new()).unwrap();
        drop(silent);
        let refused = patient.resume_upload(&name, id, &UploadOptions::new());
        assert!(matches!(refused.map(drop), Err(Error::UploadBusy(_))));
        drop(next);
        assert!(patient.resume_upload(&name, id, &UploadOptions::new()).is_ok());
    }

    #[test]
    fn a_cancelled_writer_is_told_that_the_session_is_gone() {
        let store = Memory::new();
        let (name, mut upload) = started(&store);
        store.cancel_upload(&name, upload.id()).unwrap();
        assert!(matches!(told(&mut *upload), Error::UploadUnknown { id, .. } if id == upload.id()));
    }
}
