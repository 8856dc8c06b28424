//! The one seam between async and blocking code.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinHandle, spawn_blocking};
use tracing::Span;

use super::arriving::Arriving;
use crate::error::{Error, Result};
use crate::store::Upload;
use crate::wire::Refusal;

/// How much of an upload is gathered before it is handed to the store, in bytes. As much again can be with the store.
const BATCH: usize = 1 << 20;
/// The same in frames, as a client can make them small.
const BATCH_FRAMES: usize = 1024;

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

/// How many operations run at once that hold a large manifest, or many manifests, taken apart: that costs several times what they
/// are long.
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
        let permit = Arc::clone(&self.turns).acquire_owned().await;
        let permit = permit.map_err(|_| Error::Unavailable("the server stops".to_owned()))?;
        blocking(move || {
            // Given back when it has run, not when nobody waits for it any more.
            let _permit = permit;
            operation()
        })
        .await
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
    dropped: Dropped,
}

impl Held {
    pub(super) fn new(upload: Box<dyn Upload>, dropped: Dropped) -> Self {
        Self { upload: Some(upload), dropped }
    }

    /// Blocks.
    fn write(&mut self, frames: &[Bytes]) -> Result<()> {
        let Some(upload) = &mut self.upload else { return Ok(()) };
        frames.iter().try_for_each(|frame| write(upload.as_mut(), frame))
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

/// The way of a request's body into an upload: one batch is gathered while another is written, so a client that is slow
/// holds no thread and one that is fast no more than two batches.
///
/// Dropping it, as happens when the connection is cut, drops the upload; if that is to be suspended, what was gathered is written
/// before.
pub(super) struct Sink {
    state: State,
    dropped: Dropped,
    gathered: Vec<Bytes>,
    /// The length of what is gathered.
    size: usize,
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
    pub(super) const fn new(upload: Held) -> Self {
        let dropped = upload.dropped;
        Self { state: State::Idle(upload), dropped, gathered: Vec::new(), size: 0 }
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
            // The body comes first, so that what is handed over is as much as there is.
            tokio::select! {
                biased;
                frame = body.next(), if !self.is_full() => {
                    let Some(frame) = frame? else { return Ok(received) };
                    received += frame.len() as u64;
                    if received > limit {
                        return Err(Error::SizeMismatch { declared: limit, received }.into());
                    }
                    self.size += frame.len();
                    self.gathered.push(frame);
                }
                result = self.state.written(), if writing => {
                    if let Err(error) = result {
                        // What follows a gap must not be written.
                        self.gathered.clear();
                        return Err(error.into());
                    }
                }
                () = std::future::ready(()), if !writing && !self.gathered.is_empty() => self.hand_over(),
            }
        }
    }

    const fn is_full(&self) -> bool {
        self.size >= BATCH || self.gathered.len() >= BATCH_FRAMES
    }

    fn hand_over(&mut self) {
        self.size = 0;
        let frames = mem::take(&mut self.gathered);
        self.state = match mem::replace(&mut self.state, State::Gone) {
            State::Idle(mut held) => State::Writing(spawn_blocking(move || {
                let result = held.write(&frames);
                (held, result)
            })),
            state => state,
        };
    }

    /// Writes what is left, and gives the upload and how that went to `operation`, on a thread that may block.
    pub(super) async fn end<T: Send + 'static>(
        mut self,
        operation: impl FnOnce(Box<dyn Upload>, Result<()>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let written = self.state.written().await;
        let frames = mem::take(&mut self.gathered);
        let gone = || Error::Unavailable("the upload is gone".to_owned());
        let State::Idle(mut held) = mem::replace(&mut self.state, State::Gone) else {
            return Err(written.err().unwrap_or_else(gone));
        };
        blocking(move || {
            let written = written.and_then(|()| held.write(&frames));
            operation(held.upload.take().ok_or_else(gone)?, written)
        })
        .await
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let mut frames = mem::take(&mut self.gathered);
        if self.dropped == Dropped::Cancelled {
            frames.clear();
        }
        let state = mem::replace(&mut self.state, State::Gone);
        let Ok(runtime) = Handle::try_current() else { return };
        match state {
            State::Idle(mut held) if !frames.is_empty() => {
                drop(runtime.spawn_blocking(move || held.write(&frames)));
            }
            State::Writing(writing) if !frames.is_empty() => drop(runtime.spawn(async move {
                if let Ok((mut held, Ok(()))) = writing.await {
                    drop(spawn_blocking(move || held.write(&frames)));
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
