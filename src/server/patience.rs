//! Streams of HTTP/2 whose client has stopped reading.
//!
//! TCP knows nothing of them: one stream waits for its window while the connection goes on. Each stream is a task of its own,
//! and a task that is dropped resets its stream and lets go of all that was held for it: the blob's file, what was read
//! ahead, and what HTTP keeps until the client takes it.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::Executor;
use tokio::time::{Sleep, sleep};

tokio::task_local! {
    /// Whether the stream that is being polled waits for its client.
    static WAIT: Cell<Wait>;
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// There is no answer yet, or more of it is being read.
    None,
    /// A piece of the answer was just handed out.
    Begins,
    /// The client has not yet taken it.
    GoesOn,
}

/// Says that the body of an answer was asked for more: the client has taken what it was given.
pub(super) fn took() {
    let _ = WAIT.try_with(|wait| wait.set(Wait::None));
}

/// Says that the body of an answer has handed out a piece, and waits for the client to take it.
pub(super) fn handed_out() {
    let _ = WAIT.try_with(|wait| wait.set(Wait::Begins));
}

/// Whether this is code of a stream of HTTP/2.
pub(super) fn in_stream() -> bool {
    WAIT.try_with(|_| ()).is_ok()
}

/// Runs the streams of HTTP/2, each until its client has taken nothing for too long.
#[derive(Clone, Copy)]
pub(super) struct Streams {
    pub(super) limit: Duration,
}

impl<F> Executor<F> for Streams
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let limit = self.limit;
        drop(tokio::spawn(Stream { stream: Box::pin(stream), limit, wait: Wait::None, timer: None }));
    }
}

struct Stream<F> {
    stream: Pin<Box<F>>,
    limit: Duration,
    wait: Wait,
    /// Runs while the client is waited for.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<F: Future> Future for Stream<F> {
    /// None if the client was given up.
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let (stream, before) = (this.stream.as_mut(), Cell::new(this.wait));
        let (polled, wait) = WAIT.sync_scope(before, || (stream.poll(cx), WAIT.with(Cell::get)));
        if let Poll::Ready(output) = polled {
            return Poll::Ready(Some(output));
        }
        this.wait = wait;
        match wait {
            Wait::None => this.timer = None,
            Wait::Begins => {
                this.wait = Wait::GoesOn;
                this.timer = Some(Box::pin(sleep(this.limit)));
            }
            Wait::GoesOn => {}
        }
        let Some(timer) = &mut this.timer else { return Poll::Pending };
        timer.as_mut().poll(cx).map(|()| {
            tracing::debug!("a stream is reset: its client took nothing of the answer for too long");
            None
        })
    }
}
