//! Wakes a flush that sled would sleep in for ever.
//!
//! A thread that flushes sleeps until another one has written. When that write fails, sled 0.34.7 notes the failure and in one
//! place wakes nobody (`Log::exit_reservation`): the flush, and with it the writer, would wait for good. Whoever flushes next
//! finds the failure and wakes all. So a flush that takes long is joined by another one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ::sled::Db;
use crossbeam::channel::{self, Receiver, RecvTimeoutError, Sender};

/// How long a flush may take before it is joined by another.
const PATIENCE: Duration = Duration::from_millis(500);

/// Looks after the flushes of one database. Its thread has nothing to do, and sleeps, while nothing is flushed.
pub(super) struct Waker {
    /// Flushes begun and flushes ended: odd while one is under way, as only one thread flushes (D5).
    flushes: Arc<AtomicU64>,
    begun: Option<Sender<()>>,
    /// Never sent on; its end ends the thread.
    open: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Waker {
    pub(super) fn start(db: &Db) -> std::io::Result<Self> {
        let flushes = Arc::new(AtomicU64::new(0));
        let (begun, begins) = channel::bounded(1);
        let (open, closed) = channel::bounded(0);
        let (db, counted) = (db.clone(), Arc::clone(&flushes));
        let thread = thread::Builder::new()
            .name("sledge-waker".to_owned())
            .spawn(move || watch(&db, &counted, &begins, &closed))?;
        Ok(Self { flushes, begun: Some(begun), open: Some(open), thread: Some(thread) })
    }

    /// Runs a flush, and sees to it that it comes back.
    pub(super) fn watched<T>(&self, flush: impl FnOnce() -> T) -> T {
        self.flushes.fetch_add(1, Ordering::SeqCst);
        if let Some(begun) = &self.begun {
            // Full: the thread is awake already, or will be.
            let _ = begun.try_send(());
        }
        let outcome = flush();
        self.flushes.fetch_add(1, Ordering::SeqCst);
        outcome
    }
}

fn watch(db: &Db, flushes: &AtomicU64, begins: &Receiver<()>, closed: &Receiver<()>) {
    while begins.recv().is_ok() {
        let mut before = flushes.load(Ordering::SeqCst);
        while let Err(RecvTimeoutError::Timeout) = closed.recv_timeout(PATIENCE) {
            let now = flushes.load(Ordering::SeqCst);
            let under_way = now % 2 == 1;
            if now == before && under_way {
                let db = db.clone();
                // In a thread of its own: where nothing has failed, it waits like the one that it joins.
                let _ = thread::Builder::new().spawn(move || db.flush());
            } else if now == before {
                break;
            }
            before = now;
        }
    }
}

impl Drop for Waker {
    fn drop(&mut self) {
        self.begun = None;
        self.open = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
