//! The one seam between async and blocking code.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep_until};
use tracing::Span;

use super::arriving::Arriving;
use crate::error::{Error, Result};
use crate::store::Upload;
use crate::store::buffers::{BLOCK, Buffer, SMALL};
use crate::wire::Refusal;

/// Runs a store's operation on a thread that may block. It runs to its end, whether or not anybody still waits for it.
pub(super) async fn blocking<T: Send + 'static>(
    operation: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let span = traced();
    spawn_blocking(move || span.in_scope(operation)).await.map_err(broken_off)?
}

/// The span of an operation, where its request has one.
fn traced() -> Span {
    let request = Span::current();
    if request.is_none() { request } else { tracing::info_span!(parent: &request, "store") }
}

/// How long what came of an upload waits for more, before it is handed to the store all the same.
const MOMENT: Duration = Duration::from_millis(100);

/// How many operations run at once that hold a large manifest, or many manifests, taken apart, which costs several times what they
/// are long; or that unpack a layer, which can become a thousand times as long.
const HEAVY: usize = 4;
/// How many large manifests are on their way at once, each of which is held as it comes, up to its largest size.
const LARGE: usize = 32;

/// The way of heavy operations to the store.
#[derive(Clone)]
pub(super) struct Heavy {
    turns: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

/// A large manifest's place.
pub(super) struct Place(#[expect(dead_code, reason = "it is held until it is dropped")] OwnedSemaphorePermit);

impl Heavy {
    pub(super) fn new() -> Self {
        Self { turns: Arc::new(Semaphore::new(HEAVY)), places: Arc::new(Semaphore::new(LARGE)) }
    }

    /// A place for a large manifest that comes. Nobody waits for one: those who send slowly would keep everybody else waiting.
    ///
    /// # Errors
    /// [`Error::TooManyRequests`].
    pub(super) fn place(&self) -> Result<Place> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        place.map(Place).map_err(|_| Error::TooManyRequests { retry_after: Duration::from_secs(1) })
    }

    /// As [`blocking`], when it is its turn.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        operation: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let turn = self.turn().await?;
        blocking(move || {
            // Given back when it has run, not when nobody waits for it any more.
            let _turn = turn;
            operation()
        })
        .await
    }

    /// Waits for a turn, which is over when it is dropped.
    pub(super) async fn turn(&self) -> Result<OwnedSemaphorePermit> {
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        turn.map_err(|_| Error::Unavailable("the server stops".to_owned()))
    }
}

fn broken_off(error: JoinError) -> Error {
    Error::Io { doing: "an operation of the store was broken off".to_owned(), source: error.into() }
}

/// What becomes of an upload that is dropped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Dropped {
    Suspended,
    /// For a session that nobody else knows of: nobody could go on with it.
    Cancelled,
}

/// An upload that is never dropped on an async thread: that suspends or cancels it, and may block.
pub(super) struct Held {
    upload: Option<Box<dyn Upload>>,
    /// Where it stood when it was taken up.
    offset: u64,
    dropped: Dropped,
}

impl Held {
    /// Blocks.
    pub(super) fn new(upload: Box<dyn Upload>, dropped: Dropped) -> Self {
        let offset = upload.offset();
        Self { upload: Some(upload), offset, dropped }
    }

    /// Blocks.
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(upload) = &mut self.upload else { return Ok(()) };
        write(upload.as_mut(), bytes)
    }
}

/// Appends bytes to an upload. Blocks.
pub(super) fn write(upload: &mut dyn Upload, bytes: &[u8]) -> Result<()> {
    upload.write_all(bytes).map_err(|error| match error.downcast::<Error>() {
        Ok(error) => error,
        Err(source) => Error::Io { doing: "writing to an upload".to_owned(), source },
    })
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(upload) = self.upload.take() else { return };
        let leaving = Leaving { upload: Some(upload), dropped: self.dropped };
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || drop(leaving))),
            Err(_) => drop(leaving),
        }
    }
}

/// An upload on its way out. It ends as it should also where a runtime that stops drops the operation that it is in.
struct Leaving {
    upload: Option<Box<dyn Upload>>,
    dropped: Dropped,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let Some(upload) = self.upload.take().filter(|_| self.dropped == Dropped::Cancelled) else { return };
        if let Err(error) = upload.cancel() {
            tracing::warn!(%error, "an upload that nobody can go on with could not be cancelled");
        }
    }
}

/// Bytes of an upload that are yet to be written. They lie across blocks of memory as they will in a file, so that the store can
/// write them from where they are.
struct Batch {
    began: Instant,
    buffer: Buffer,
    begin: usize,
    end: usize,
}

impl Batch {
    /// For bytes from this position of the session on, of which so many may come.
    fn at(position: u64, coming: u64) -> Self {
        let begin = usize::try_from(position % BLOCK as u64).unwrap_or_default();
        let buffer = Buffer::of(coming.saturating_add(begin as u64).max(SMALL as u64));
        Self { began: Instant::now(), buffer, begin, end: begin }
    }

    fn gathered(&self) -> &[u8] {
        self.buffer.get(self.begin..self.end).unwrap_or_default()
    }

    fn is_full(&self) -> bool {
        self.end == self.buffer.len()
    }

    /// Whether there is enough for it to be worth the way to the store.
    fn is_worth_it(&self) -> bool {
        self.end >= self.buffer.len() / 2
    }

    /// Takes what there is room for from the beginning of a frame.
    fn take(&mut self, frame: &mut Bytes) {
        let room = self.buffer.get_mut(self.end..).unwrap_or_default();
        let now = frame.split_to(frame.len().min(room.len()));
        if let Some(room) = room.get_mut(..now.len()) {
            room.copy_from_slice(&now);
        }
        self.end += now.len();
    }
}

/// The way of a request's body into an upload: one batch is gathered while another is written, so a client that is slow
/// holds no thread and one that is fast no more than two batches.
///
/// Dropping it, as happens when the connection is cut, drops the upload; if that is to be suspended, what was gathered is written
/// before.
pub(super) struct Sink {
    state: State,
    dropped: Dropped,
    /// How many bytes are still to come, where that is known.
    coming: Option<u64>,
    /// The position of the next byte.
    position: u64,
    gathered: Gathered,
}

/// What came and was not handed over yet.
#[derive(Default)]
struct Gathered {
    batch: Option<Batch>,
    /// What did not fit.
    rest: Bytes,
}

impl Gathered {
    const fn is_empty(&self) -> bool {
        self.batch.is_none() && self.rest.is_empty()
    }

    /// Whether nothing more can come before some of it is handed over.
    fn is_full(&self) -> bool {
        !self.rest.is_empty() || self.batch.as_ref().is_some_and(Batch::is_full)
    }

    fn is_worth_it(&self) -> bool {
        self.is_full() || self.batch.as_ref().is_some_and(Batch::is_worth_it)
    }

    /// When it is handed over though it is little.
    fn due(&self) -> Option<Instant> {
        self.batch.as_ref().map(|batch| batch.began + MOMENT)
    }

    /// Blocks.
    fn write_to(&self, held: &mut Held) -> Result<()> {
        self.batch.as_ref().map_or(Ok(()), |batch| held.write(batch.gathered()))?;
        if self.rest.is_empty() { Ok(()) } else { held.write(&self.rest) }
    }
}

enum State {
    Idle(Held),
    Writing(JoinHandle<(Held, Result<()>)>),
    /// While it changes, and for good after a panic in the store.
    Gone,
}

impl State {
    /// Waits for the batch that is being written, if any.
    async fn written(&mut self) -> Result<()> {
        let Self::Writing(writing) = self else { return Ok(()) };
        match writing.await {
            Ok((held, result)) => {
                *self = Self::Idle(held);
                result
            }
            Err(error) => {
                *self = Self::Gone;
                Err(broken_off(error))
            }
        }
    }
}

impl Sink {
    /// Takes in so many bytes, where that is known.
    pub(super) fn new(upload: Held, coming: Option<u64>) -> Self {
        let (dropped, position) = (upload.dropped, upload.offset);
        Self { state: State::Idle(upload), dropped, coming, position, gathered: Gathered::default() }
    }

    /// Takes in a body to its end, and says how long it was. The last of it is not written before [`Sink::end`], which is to be
    /// called all the same when this fails: what came is kept.
    ///
    /// # Errors
    /// When the body breaks off or falls silent, when it is longer than `limit` (nothing beyond is written), and what
    /// writing fails with.
    pub(super) async fn take(&mut self, body: &mut Arriving, limit: u64) -> Result<u64, Refusal> {
        let mut received = 0;
        loop {
            let writing = matches!(self.state, State::Writing(_));
            let (worth_it, due) = (self.gathered.is_worth_it(), self.gathered.due());
            // The body comes first, so that what is handed over is as much as there is.
            tokio::select! {
                biased;
                frame = body.next(), if !self.gathered.is_full() => {
                    let Some(frame) = frame? else { return Ok(received) };
                    received += frame.len() as u64;
                    if received > limit {
                        return Err(Error::SizeMismatch { declared: limit, received }.into());
                    }
                    self.gather(frame);
                }
                result = self.state.written(), if writing => {
                    if let Err(error) = result {
                        // What follows a gap must not be written.
                        self.gathered = Gathered::default();
                        return Err(error.into());
                    }
                }
                () = std::future::ready(()), if !writing && worth_it => self.hand_over(),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if !writing && due.is_some() => self.hand_over(),
            }
        }
    }

    /// What a frame held is let go of at once: it is a part of the connection's buffer.
    fn gather(&mut self, mut frame: Bytes) {
        let coming = self.coming.unwrap_or(u64::MAX);
        let batch = self.gathered.batch.get_or_insert_with(|| Batch::at(self.position, coming));
        let before = frame.len();
        batch.take(&mut frame);
        let taken = (before - frame.len()) as u64;
        self.position += taken;
        self.coming = self.coming.map(|coming| coming.saturating_sub(taken));
        self.gathered.rest = frame;
    }

    fn hand_over(&mut self) {
        let Gathered { batch: Some(batch), rest } = mem::take(&mut self.gathered) else { return };
        self.state = match mem::replace(&mut self.state, State::Gone) {
            State::Idle(mut held) => State::Writing(spawn_blocking(move || {
                let result = held.write(batch.gathered());
                (held, result)
            })),
            state => state,
        };
        if !rest.is_empty() {
            self.gather(rest);
        }
    }

    /// Writes what is left, and gives the upload and how that went to `operation`, on a thread that may block.
    pub(super) async fn end<T: Send + 'static>(
        mut self,
        operation: impl FnOnce(Box<dyn Upload>, Result<()>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let written = self.state.written().await;
        let gathered = mem::take(&mut self.gathered);
        let gone = || Error::Unavailable("the upload is gone".to_owned());
        let State::Idle(mut held) = mem::replace(&mut self.state, State::Gone) else {
            return Err(written.err().unwrap_or_else(gone));
        };
        blocking(move || {
            let written = written.and_then(|()| gathered.write_to(&mut held));
            operation(held.upload.take().ok_or_else(gone)?, written)
        })
        .await
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let mut gathered = mem::take(&mut self.gathered);
        if self.dropped == Dropped::Cancelled {
            gathered = Gathered::default();
        }
        let state = mem::replace(&mut self.state, State::Gone);
        let Ok(runtime) = Handle::try_current() else { return };
        match state {
            State::Idle(mut held) if !gathered.is_empty() => {
                drop(runtime.spawn_blocking(move || gathered.write_to(&mut held)));
            }
            State::Writing(writing) if !gathered.is_empty() => drop(runtime.spawn(async move {
                if let Ok((mut held, Ok(()))) = writing.await {
                    drop(spawn_blocking(move || gathered.write_to(&mut held)));
                }
            })),
            State::Idle(_) | State::Writing(_) | State::Gone => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// So that a store can write it to a disk from where it is.
    #[test]
    fn a_batch_lies_across_blocks_of_memory_as_it_will_in_its_file() {
        for position in [0, 1, 4095, 4096, 70_001] {
            let mut batch = Batch::at(position, u64::MAX);
            let mut frame = Bytes::from(vec![7; 10_000]);
            batch.take(&mut frame);
            assert!(frame.is_empty());
            assert_eq!(batch.gathered(), [7; 10_000]);
            let offset = batch.gathered().as_ptr().align_offset(BLOCK) as u64;
            assert_eq!((position + offset) % BLOCK as u64, 0, "{position}");
            while !batch.is_full() {
                batch.take(&mut Bytes::from_static(&[7; 4096]));
            }
            // What is full ends where a block does, so that the next one begins there.
            assert_eq!((position + batch.gathered().len() as u64) % BLOCK as u64, 0, "{position}");
        }
    }

    #[tokio::test]
    async fn heavy_operations_run_four_at_once() {
        let heavy = Heavy::new();
        // Four must be there for any to go on, and each that is there is seen.
        let (four, inside, most) = (Barrier::new(HEAVY), AtomicUsize::new(0), AtomicUsize::new(0));
        let shared = Arc::new((four, inside, most));
        let running: Vec<_> = (0..8 * HEAVY)
            .map(|_| {
                let (heavy, shared) = (heavy.clone(), Arc::clone(&shared));
                tokio::spawn(async move {
                    let operation = move || {
                        let (four, inside, most) = &*shared;
                        most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        four.wait();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        Ok(())
                    };
                    heavy.blocking(operation).await.unwrap();
                })
            })
            .collect();
        for task in running {
            task.await.unwrap();
        }
        assert_eq!(shared.2.load(Ordering::SeqCst), HEAVY);
    }
}
