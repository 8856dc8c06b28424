//! Connections on which nothing is asked: over HTTP/2 one that answers pings alone would keep its place for ever.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// How many requests are in flight on a connection.
#[derive(Clone)]
pub(super) struct Activity(watch::Sender<usize>);

/// A request that is in flight until this is dropped, with the last of its answer.
pub(super) struct InFlight(watch::Sender<usize>);

impl Activity {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    pub(super) fn request(&self) -> InFlight {
        self.0.send_modify(|requests| *requests += 1);
        InFlight(self.0.clone())
    }

    /// Resolves when nothing was in flight for so long.
    pub(super) fn idle(&self, limit: Duration) -> impl Future<Output = ()> + use<> {
        let mut requests = self.0.subscribe();
        async move {
            loop {
                // A request that came and went meanwhile is a change too.
                let is_quiet = *requests.borrow_and_update() == 0;
                let changed = if is_quiet {
                    timeout(limit, requests.changed()).await
                } else {
                    Ok(requests.changed().await)
                };
                match changed {
                    Ok(Ok(())) => {}
                    Err(_) => return,
                    // Nobody can ask any more: the connection has ended.
                    Ok(Err(_)) => return,
                }
            }
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.send_modify(|requests| *requests -= 1);
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
            let (activity, began) = (Activity::new(), tokio::time::Instant::now());
            let idle = tokio::spawn(activity.idle(LIMIT));
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
}
