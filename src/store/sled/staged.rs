//! An upload session's bytes and hash, and what of both is written down when.
//!
//! What is acknowledged survives a kill of the process: the bytes are in the system's hands and the record is flushed when a
//! session is suspended. A power cut may take a session back to its last checkpoint: the record holds two offsets, and the later
//! one is believed only by the boot of the machine that wrote it.

use std::fs::OpenOptions;
use std::io::Cursor;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::changes::Changes;
use super::content;
use super::desk::Steps;
use super::direct::Written;
use super::evict;
use super::layers::Finished;
use super::leftovers;
use super::options::Inline;
use super::reread::{self, Reread};
use super::room::{Promise, blocks, check_disk, write_error};
use super::schema::{
    self, Checkpoint, Content, MAX_VALUE, Placement, Timestamp, Tree, Upload as Record, damaged,
};
use super::sessions::Session;
use super::store::{Core, Shared};
use super::writer::Terms;
use crate::error::{Error, Result};
use crate::oci::{Algorithm, Digest, Hasher, RepositoryName};
use crate::store::{UploadOptions, UploadStatus};

/// A session is made durable whenever so many bytes came, or so much time went by, since that was last done.
const CHECKPOINT_BYTES: u64 = 64 << 20;
const CHECKPOINT_TIME: Duration = Duration::from_secs(5);

/// So many bytes are written to files between two looks at the free space.
const LOOK_AT_SPACE: u64 = 8 << 20;

/// The boot of this machine, where the system tells: `/proc/sys/kernel/random/boot_id`.
pub(super) fn boot_id() -> Option<Uuid> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().parse().ok()
}

/// A session's bytes so far, and what is needed to go on.
pub(super) struct State {
    started_at: Timestamp,
    hasher: Hasher,
    offset: u64,
    bytes: Bytes,
    /// The last durable checkpoint.
    durable: Checkpoint,
    checked_at: Instant,
    /// Whether the index may have a record of the session.
    recorded: bool,
    /// How many bytes may come before the free space is looked at again.
    room: u64,
}

enum Bytes {
    /// Few, and nowhere but here.
    Held(Vec<u8>),
    /// In a file; `new` until its folder was synced.
    /// Counted are so many bytes of it as what the store takes.
    File { id: Uuid, written: Written, new: bool, counted: u64 },
    /// Inside the index, but for what does not fill a chunk yet: in the index as it was when it had been opened again so often.
    Chunks { id: Uuid, tail: Vec<u8>, reopened: u64 },
}

impl State {
    pub(super) fn new(algorithm: Algorithm) -> Self {
        let hasher = Hasher::new(algorithm);
        Self {
            started_at: Timestamp::now(),
            durable: Checkpoint { offset: 0, hash_state: hasher.save() },
            hasher,
            offset: 0,
            bytes: Bytes::Held(Vec::new()),
            checked_at: Instant::now(),
            recorded: false,
            room: 0,
        }
    }

    /// Takes up a session where its record says it stands; no byte of it is read to do that, but a part of a chunk.
    pub(super) fn load(core: &Core, record: &Record) -> Result<Self> {
        let state = |checkpoint: &Checkpoint, bytes: Bytes| -> Result<Self> {
            let hasher = Hasher::restore(record.algorithm, &checkpoint.hash_state)
                .map_err(|error| damaged("an upload session", &error.to_string()))?;
            Ok(Self {
                started_at: record.started_at,
                hasher,
                offset: checkpoint.offset,
                bytes,
                durable: record.durable.clone(),
                checked_at: Instant::now(),
                recorded: true,
                room: 0,
            })
        };
        let checkpoint = standing(core, record);
        match record.placement {
            Placement::File(id) => {
                // Nothing is created where bytes are expected, and a session that stands at its beginning needs no old file.
                let file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create(checkpoint.offset == 0)
                    .truncate(false)
                    .open(core.folder.content(id));
                let file = file.map_err(Error::io(format!("opening content {id} of an upload session")))?;
                let length = file.metadata().map_err(Error::io(format!("looking at content {id}")))?.len();
                if length < checkpoint.offset {
                    let reason =
                        format!("it has {length} bytes instead of {}: cancel the session", checkpoint.offset);
                    return Err(damaged(&format!("content {id} of an upload session"), &reason));
                }
                file.set_len(checkpoint.offset).map_err(Error::io(format!("cutting content {id}")))?;
                let counted = blocks(checkpoint.offset);
                core.room.shrink(blocks(length) - counted);
                let written = Written::new(file, core.options.past_cache);
                state(checkpoint, Bytes::File { id, written, new: true, counted })
            }
            Placement::Inline(id) => {
                let reopened = core.reopened();
                let tail = read_tail(core, id, checkpoint.offset)?;
                state(checkpoint, Bytes::Chunks { id, tail, reopened })
            }
        }
    }

    /// Whether its bytes are few, and nowhere but here.
    pub(super) const fn is_held(&self) -> bool {
        matches!(self.bytes, Bytes::Held(_))
    }

    pub(super) fn status(&self) -> UploadStatus {
        UploadStatus { offset: self.offset, started_at: self.started_at.time() }
    }

    /// The algorithm can be chosen as long as there is nothing to hash.
    pub(super) fn adopt(&mut self, options: &UploadOptions) {
        if let Some(algorithm) = options.algorithm
            && self.offset == 0
            && algorithm != self.hasher.algorithm()
        {
            self.hasher = Hasher::new(algorithm);
            self.durable.hash_state = self.hasher.save();
        }
    }

    /// Takes in bytes; all or an error, after which the session stands where it stood.
    /// Room for them may have been promised.
    pub(super) fn append(
        &mut self,
        shared: &Shared,
        session: &Session,
        bytes: &[u8],
        mut promise: Option<&mut Promise>,
    ) -> Result<()> {
        let hold = match shared.core.options.inline {
            Inline::UpTo(most) => most,
            Inline::Everything => Inline::MOST,
        };
        if let Some(promise) = &mut promise {
            promise.keep_ahead(shared)?;
        }
        if let Bytes::Held(held) = &mut self.bytes {
            if held.len() + bytes.len() <= hold {
                held.extend_from_slice(bytes);
                self.took(bytes);
                return Ok(());
            }
            self.spill(shared, session, promise.as_deref_mut())?;
        }
        let has_room = promise.as_ref().is_some_and(|promise| promise.covers(bytes.len() as u64));
        self.look_at_space(shared, bytes.len() as u64, has_room)?;
        self.check_reopened(shared, session)?;
        match &mut self.bytes {
            Bytes::Held(_) => {}
            Bytes::File { id, written, counted, .. } => {
                let needed = blocks(self.offset + bytes.len() as u64);
                if needed > *counted {
                    shared.core.room.grow(needed - *counted, promise.as_deref_mut())?;
                    *counted = needed;
                }
                written.write_all_at(bytes, self.offset, &mut self.hasher).map_err(|error| {
                    *counted = shared.core.room.recount(&shared.core.folder.content(*id), *counted);
                    write_error(&shared.core, *id, bytes.len(), error)
                })?;
                self.offset += bytes.len() as u64;
            }
            Bytes::Chunks { id, tail, reopened } => {
                let first = chunk_number(self.offset)?;
                let whole = (tail.len() + bytes.len()) / MAX_VALUE * MAX_VALUE;
                let mut joined = Vec::with_capacity(tail.len() + bytes.len());
                joined.extend_from_slice(tail);
                joined.extend_from_slice(bytes);
                let rest = joined.split_off(whole);
                if !joined.is_empty() {
                    append_chunks(shared, *id, first, joined, *reopened)?;
                }
                *tail = rest;
                self.took(bytes);
            }
        }
        if let Some(promise) = promise {
            // Whether it must is for those who come next.
            promise.try_to_keep_ahead();
        }
        Ok(())
    }

    fn took(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.offset += bytes.len() as u64;
    }

    fn look_at_space(&mut self, shared: &Shared, length: u64, has_room: bool) -> Result<()> {
        if self.room < length {
            check_disk(&shared.core, length)?;
            // Whether it did is decided where the bytes are counted.
            if !has_room
                && let Err(error) = evict::make_room(shared, length.max(LOOK_AT_SPACE))
                && !matches!(error, Error::OverBudget { .. })
            {
                return Err(error);
            }
            self.room = LOOK_AT_SPACE.max(length);
        }
        self.room -= length;
        Ok(())
    }

    /// Moves what is held in memory to where it can grow and survive.
    pub(super) fn spill(
        &mut self,
        shared: &Shared,
        session: &Session,
        promise: Option<&mut Promise>,
    ) -> Result<()> {
        let Bytes::Held(held) = &self.bytes else { return Ok(()) };
        check_disk(&shared.core, held.len() as u64)?;
        let mut held = held.clone();
        let id = content::new_id();
        let reopened = shared.core.reopened();
        let in_file = matches!(shared.core.options.inline, Inline::UpTo(_));
        // The record comes first: bytes that no record names would be nobody's after a kill, and nobody would find them.
        let placement = if in_file { Placement::File(id) } else { Placement::Inline(id) };
        let start = Checkpoint { offset: 0, hash_state: Hasher::new(self.hasher.algorithm()).save() };
        self.record(shared, session, placement, &start, Terms { adds: true, ..Terms::default() }, None)?;
        self.bytes = if in_file {
            let failed = |error| write_error(&shared.core, id, held.len(), error);
            let counted = blocks(held.len() as u64);
            shared.core.room.grow(counted, promise)?;
            // These bytes are hashed already, and few.
            let written = content::create_file(&shared.core, id).and_then(|file| {
                file.write_all_at(&held, 0).map(|()| Written::new(file, shared.core.options.past_cache))
            });
            let written = written.map_err(|error| {
                shared.core.room.recount(&shared.core.folder.content(id), counted);
                failed(error)
            })?;
            Bytes::File { id, written, new: true, counted }
        } else {
            let tail = held.split_off(held.len() / MAX_VALUE * MAX_VALUE);
            append_chunks(shared, id, 0, held, reopened)?;
            Bytes::Chunks { id, tail, reopened }
        };
        Ok(())
    }

    /// How often the index that has the bytes had been opened again, if it has them.
    const fn reopened(&self) -> Option<u64> {
        match self.bytes {
            Bytes::Chunks { reopened, .. } => Some(reopened),
            Bytes::Held(_) | Bytes::File { .. } => None,
        }
    }

    fn checkpoint(&self) -> Checkpoint {
        Checkpoint { offset: self.offset, hash_state: self.hasher.save() }
    }

    /// Makes the session durable where it stands, if that is due.
    pub(super) fn checkpoint_if_due(&mut self, shared: &Shared, session: &Session) -> Result<()> {
        let due = self.offset - self.durable.offset >= CHECKPOINT_BYTES
            || self.checked_at.elapsed() >= CHECKPOINT_TIME;
        if due && !matches!(self.bytes, Bytes::Held(_)) { self.save(shared, session, true) } else { Ok(()) }
    }

    /// Writes the session down where it stands: to survive a power cut, or only the process.
    pub(super) fn save(&mut self, shared: &Shared, session: &Session, durable: bool) -> Result<()> {
        self.spill(shared, session, None)?;
        if durable {
            self.sync_file(shared, session)?;
        }
        self.check_reopened(shared, session)?;
        let checkpoint = self.checkpoint();
        let mut terms = Terms { durable, new_file: false, adds: true };
        let (placement, tail) = match &self.bytes {
            Bytes::Held(_) => return Ok(()),
            Bytes::File { id, new, .. } => {
                terms.new_file = durable && *new;
                (Placement::File(*id), None)
            }
            Bytes::Chunks { id, tail, .. } => (Placement::Inline(*id), Some(tail.clone())),
        };
        let before = self.durable.clone();
        if durable {
            self.durable = checkpoint.clone();
        }
        if let Err(error) = self.record(shared, session, placement, &checkpoint, terms, tail) {
            // The file's name may not have been synced: later records must not call durable what is not.
            self.durable = before;
            return Err(error);
        }
        if let Bytes::File { new, .. } = &mut self.bytes
            && durable
        {
            *new = false;
        }
        self.checked_at = Instant::now();
        Ok(())
    }

    /// Where the index that has the bytes was opened again since, the last of them may be gone: the session goes back to its last
    /// checkpoint, and all that came after it has to come again.
    fn check_reopened(&mut self, shared: &Shared, session: &Session) -> Result<()> {
        let Bytes::Chunks { id, reopened, .. } = &self.bytes else { return Ok(()) };
        let (id, now) = (*id, shared.core.reopened());
        if *reopened == now {
            return Ok(());
        }
        let last = self.durable.clone();
        let tail = read_tail(&shared.core, id, last.offset)?;
        self.go_back(session, &last)?;
        self.bytes = Bytes::Chunks { id, tail, reopened: now };
        let terms = Terms { adds: true, ..Terms::default() };
        self.record(shared, session, Placement::Inline(id), &last, terms, None)?;
        let words = format!("its index was opened again after a failure: go on from byte {}", last.offset);
        Err(Error::Unavailable(words))
    }

    fn go_back(&mut self, session: &Session, to: &Checkpoint) -> Result<()> {
        self.hasher = Hasher::restore(self.hasher.algorithm(), &to.hash_state)
            .map_err(|error| damaged("an upload session", &error.to_string()))?;
        self.offset = to.offset;
        session.publish_status(self);
        Ok(())
    }

    /// Makes the bytes in a file durable. What a failed sync should have written counts as written ever after, and no later sync
    /// writes it: the session goes back to its last checkpoint, and all that came after it has to come again.
    fn sync_file(&mut self, shared: &Shared, session: &Session) -> Result<()> {
        let Bytes::File { id, written, .. } = &self.bytes else { return Ok(()) };
        let id = *id;
        let Err(error) = written.file.sync_data() else { return Ok(()) };
        let last = self.durable.clone();
        self.go_back(session, &last)?;
        // A record of more than that must not be believed by the next process. Should this fail too, it is written at the end
        // of the request.
        let terms = Terms { adds: true, ..Terms::default() };
        let _ = self.record(shared, session, Placement::File(id), &last, terms, None);
        Err(Error::io(format!("syncing content {id}"))(error))
    }

    fn record(
        &mut self,
        shared: &Shared,
        session: &Session,
        placement: Placement,
        current: &Checkpoint,
        terms: Terms,
        tail: Option<Vec<u8>>,
    ) -> Result<()> {
        let record = Record {
            repository: session.repository.to_string(),
            started_at: self.started_at,
            updated_at: shared.core.clock.now(),
            algorithm: self.hasher.algorithm(),
            placement,
            current: current.clone(),
            durable: self.durable.clone(),
            boot: shared.core.boot,
        };
        let mut changes = Changes::new();
        if let Some(tail) = tail.filter(|tail| !tail.is_empty()) {
            changes.set_value(
                Tree::Chunks,
                schema::chunk_key(placement.id(), chunk_number(current.offset)?),
                tail,
            );
        }
        changes.set(schema::id_key(session.id), &record)?;
        let unknown = session.unknown();
        let expected = self.reopened();
        let outcome = shared.writer.run(terms, move |desk| {
            if let Some(expected) = expected {
                desk.check_reopened(expected)?;
            }
            // Content that is on its way out is nobody's any more.
            if desk.index().contains(Tree::Leftovers, &schema::id_key(placement.id()))? {
                return Err(unknown);
            }
            desk.apply(&changes)
        });
        // What a full disk refused was not written; of other failures that is not certain.
        self.recorded |= !matches!(outcome, Err(Error::DiskFull { .. } | Error::OverBudget { .. }));
        outcome
    }

    /// The digest of all the bytes. Only for another algorithm than the one that was announced are they read again (C10).
    pub(super) fn digest(&self, core: &Arc<Core>, algorithm: Algorithm) -> Result<Digest> {
        if algorithm == self.hasher.algorithm() {
            return Ok(self.hasher.clone().finish());
        }
        let mut hasher = Hasher::new(algorithm);
        reread::each_piece(self.reread(core)?, |piece| hasher.update(piece))
            .map_err(Error::io("reading an upload again"))?;
        Ok(hasher.finish())
    }

    /// The bytes as they are now.
    pub(super) fn reread(&self, core: &Arc<Core>) -> Result<Reread> {
        Ok(match &self.bytes {
            Bytes::Held(held) => Reread::Held(Cursor::new(held.clone())),
            Bytes::File { id, written, .. } => {
                reread::file(&written.file, self.offset, format!("reading content {id}"))?
            }
            Bytes::Chunks { id, tail, .. } => Reread::Chunks {
                core: Arc::clone(core),
                id: *id,
                position: 0,
                end: self.offset - tail.len() as u64,
                tail: Cursor::new(tail.clone()),
            },
        })
    }

    /// Makes the bytes fit to be a blob's: durable, or in the hands of who writes the record.
    pub(super) fn finished(
        &mut self,
        shared: &Shared,
        session: &Session,
        digest: &Digest,
    ) -> Result<(Finished, Terms)> {
        if let Bytes::File { id, written, counted, .. } = &mut self.bytes {
            let failed = |error| Error::io(format!("cutting content {id}"))(error);
            // A write that failed half-way may have left more than was counted.
            if written.file.metadata().map_err(failed)?.len() != self.offset {
                written.file.set_len(self.offset).map_err(failed)?;
                *counted = shared.core.room.recount(&shared.core.folder.content(*id), *counted);
            }
            self.sync_file(shared, session)?;
        }
        self.check_reopened(shared, session)?;
        let reopened = self.reopened();
        let mut terms = Terms { durable: true, new_file: false, adds: true };
        let (placement, tail, tail_chunk) = match &mut self.bytes {
            Bytes::Held(held) => (Placement::Inline(content::new_id()), held.clone(), 0),
            Bytes::File { id, new, .. } => {
                terms.new_file = *new;
                (Placement::File(*id), Vec::new(), 0)
            }
            Bytes::Chunks { id, tail, .. } => {
                (Placement::Inline(*id), tail.clone(), chunk_number(self.offset)?)
            }
        };
        let finished = Finished {
            repository: session.repository.clone(),
            session: session.id,
            digest: *digest,
            content: Content { placement, size: self.offset },
            tail,
            tail_chunk,
            reopened,
        };
        Ok((finished, terms))
    }

    /// Drops the bytes and the record. After an error the session is as it was.
    pub(super) fn discard(&self, shared: &Shared, session: &Session) -> Result<()> {
        let placement = match &self.bytes {
            // A record can have outlived an attempt to write the bytes down that failed.
            Bytes::Held(_) if self.recorded => {
                return match record_of(&shared.core, &session.repository, session.id) {
                    Ok(record) => discard_recorded(shared, session.id, &record),
                    Err(Error::UploadUnknown { .. }) => Ok(()),
                    Err(error) => Err(error),
                };
            }
            Bytes::Held(_) => return Ok(()),
            Bytes::File { id, .. } => Placement::File(*id),
            Bytes::Chunks { id, .. } => Placement::Inline(*id),
        };
        retire(shared, session.id, Content { placement, size: self.offset })
    }
}

/// Where a record's session stands: at its last word if this boot of the machine heard it, and else at its last checkpoint.
pub(super) fn standing<'a>(core: &Core, record: &'a Record) -> &'a Checkpoint {
    if record.boot.is_some() && record.boot == core.boot { &record.current } else { &record.durable }
}

fn chunk_number(offset: u64) -> Result<u32> {
    u32::try_from(offset / MAX_VALUE as u64)
        .map_err(|_| Error::Unsupported("content inside the index has at most 16 TiB".to_owned()))
}

/// The part of a chunk that a session's last bytes are, as far as they fill none.
fn read_tail(core: &Core, id: Uuid, offset: u64) -> Result<Vec<u8>> {
    let tail = offset % MAX_VALUE as u64;
    let mut bytes = vec![0; usize::try_from(tail).unwrap_or(MAX_VALUE)];
    core.read(|index| content::read_chunks(index, id, offset - tail, &mut bytes))?;
    Ok(bytes)
}

fn append_chunks(shared: &Shared, id: Uuid, first: u32, bytes: Vec<u8>, reopened: u64) -> Result<()> {
    shared.writer.run(Terms { adds: true, ..Terms::default() }, move |desk| {
        desk.check_reopened(reopened)?;
        let mut steps = Steps::new(desk);
        content::write_chunks(&mut steps, id, first, &bytes)?;
        steps.finish()
    })
}

/// Whether a failed transaction may have been made all the same.
pub(super) const fn in_doubt(error: &Error) -> bool {
    error.code().is_none() && !matches!(error, Error::DiskFull { .. } | Error::OverBudget { .. })
}

pub(super) fn record_of(core: &Core, repository: &RepositoryName, id: Uuid) -> Result<Record> {
    let record = core.read(|index| index.get::<Record>(&schema::id_key(id)))?;
    record
        .filter(|record| record.repository == repository.as_str())
        .ok_or_else(|| Error::UploadUnknown { repository: repository.clone(), id })
}

/// Drops a session that is not in hand.
pub(super) fn discard_recorded(shared: &Shared, id: Uuid, record: &Record) -> Result<()> {
    retire(shared, id, Content { placement: record.placement, size: record.current.offset })
}

fn retire(shared: &Shared, id: Uuid, content: Content) -> Result<()> {
    let mut changes = Changes::new();
    changes.remove(Tree::Uploads, schema::id_key(id));
    let retired = leftovers::retire(&mut changes, content, None)?.of_upload();
    shared.writer.run(Terms { durable: true, ..Terms::default() }, move |desk| {
        desk.apply(&changes)?;
        desk.retire(retired);
        Ok(())
    })
}
