//! Connections on which nothing is asked.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tracing::Span;

/// What is asked on a connection.
#[derive(Clone)]
pub(super) struct Activity(Arc<Mutex<State>>);

struct State {
    /// How many requests are in flight.
    in_flight: usize,
    /// Since when it is as it is.
    since: Instant,
    /// Whether the last request was read to its end, and what is read next begins another. At first something has come that is none yet.
    between_requests: bool,
}

/// A request that is in flight until this is dropped, with the last of its answer.
pub(super) struct InFlight {
    activity: Activity,
    /// What it is seen as where requests are traced.
    span: Span,
}

impl Activity {
    pub(super) fn new() -> Self {
        let state = State { in_flight: 0, since: Instant::now(), between_requests: false };
        Self(Arc::new(Mutex::new(state)))
    }

    /// A request has come.
    pub(super) fn request(&self) -> InFlight {
        let mut state = self.state();
        state.in_flight += 1;
        state.between_requests = false;
        InFlight { activity: self.clone(), span: Span::none() }
    }

    /// Resolves when nothing was in flight for so long.
    pub(super) async fn idle(self, limit: Duration) {
        loop {
            let (quiet, since) = {
                let state = self.state();
                (state.in_flight == 0, state.since)
            };
            let now = Instant::now();
            let until = if quiet { since + limit } else { now + limit };
            if until <= now {
                return;
            }
            sleep_until(until).await;
        }
    }

    /// Resolves when the connection was between two requests for so long. It is only for where requests are answered by the
    /// task that waits: nothing else wakes it.
    pub(super) async fn rests(self, limit: Duration) {
        let mut timer = pin!(sleep_until(Instant::now() + limit));
        poll_fn(|cx| {
            loop {
                let since = {
                    let state = self.state();
                    if state.in_flight > 0 || !state.between_requests {
                        return Poll::Pending;
                    }
                    state.since
                };
                // Only when it has run down is it looked at whether it should have begun later: a request winds up no clock.
                ready!(timer.as_mut().poll(cx));
                let until = since + limit;
                if until <= Instant::now() {
                    return Poll::Ready(());
                }
                timer.as_mut().reset(until);
            }
        })
        .await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InFlight {
    /// All of the request has been read, and neither it nor its answer ends the connection.
    pub(super) fn leaves_it_between_requests(&self) {
        self.activity.state().between_requests = true;
    }

    /// Ends a span when the request ends.
    pub(super) fn traced(&mut self, span: Span) {
        self.span = span;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut state = self.activity.state();
        state.in_flight -= 1;
        state.since = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The clock of these tests stands still until everybody waits for it.
    fn with_a_clock(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(test);
    }

    const LIMIT: Duration = Duration::from_secs(60);

    #[test]
    fn a_connection_is_idle_when_nothing_was_in_flight_for_the_limit() {
        with_a_clock(async {
            let (activity, began) = (Activity::new(), Instant::now());
            let idle = tokio::spawn(activity.clone().idle(LIMIT));
            tokio::time::sleep(Duration::from_secs(50)).await;
            let slow = activity.request();
            tokio::time::sleep(Duration::from_secs(500)).await;
            assert!(!idle.is_finished(), "a request was in flight");
            drop(slow);
            tokio::time::sleep(Duration::from_secs(50)).await;
            // Over before anybody could look.
            drop(activity.request());
            idle.await.unwrap();
            assert_eq!(began.elapsed().as_secs(), 50 + 500 + 50 + 60);
        });
    }

    /// Answers requests in the task that waits, as a connection does: each takes so many seconds, after so many.
    async fn rested(requests: &[(u64, u64, bool)]) -> u64 {
        let (activity, began) = (Activity::new(), Instant::now());
        let answering = async {
            for (after, takes, whole) in requests {
                tokio::time::sleep(Duration::from_secs(*after)).await;
                let request = activity.request();
                tokio::time::sleep(Duration::from_secs(*takes)).await;
                if *whole {
                    request.leaves_it_between_requests();
                }
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            () = answering => {}
            () = activity.clone().rests(LIMIT) => {}
            () = tokio::time::sleep(Duration::from_secs(100_000)) => {}
        }
        began.elapsed().as_secs()
    }

    #[test]
    fn a_connection_rests_between_two_requests_alone() {
        with_a_clock(async {
            // A head that does not come to its end is under another limit, which would begin anew.
            assert_eq!(rested(&[]).await, 100_000);
            assert_eq!(rested(&[(59, 0, true)]).await, 59 + 60);
            assert_eq!(rested(&[(59, 500, true), (59, 1, true)]).await, 59 + 500 + 59 + 1 + 60);
            // Of the last request not all was read: what comes next would be taken for a request.
            assert_eq!(rested(&[(1, 1, true), (1, 1, false)]).await, 100_000);
            assert_eq!(rested(&[(1, 1, false), (70, 1, true)]).await, 1 + 1 + 70 + 1 + 60);
        });
    }
}
