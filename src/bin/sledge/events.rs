//! Telling receivers what happened: each has a thread, which sends what the store has kept for it, in order, until it is taken.
//!
//! The store notes that an event was taken after the receiver has said so. So each receiver gets each event at least once; what it
//! gets again has the same id.

pub(crate) mod books;
pub(crate) mod endpoint;
pub(crate) mod envelope;

use std::cmp;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use sledge::store::sled::{EventPage, Sled};
use tokio::sync::mpsc;
use tokio::time::timeout;
use ureq::Agent;
use uuid::Uuid;

use endpoint::Endpoint;
use envelope::{Source, envelope};

/// How many events one request has at most.
const BATCH: usize = 64;

/// A receiver that does not answer is asked again after this time, at the latest.
const LONGEST_BACKOFF: Duration = Duration::from_secs(5 * 60);

/// How long a server that stops waits for receivers.
const GOODBYE: Duration = Duration::from_secs(5);

/// The header that says how many events before those of the request are missing.
const MISSING: &str = "Sledge-Events-Missing";

/// Wakes those who send when there is something to send, or nothing any more.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bell(Arc<(Mutex<Rung>, Condvar)>);

#[derive(Clone, Copy, Debug, Default)]
struct Rung {
    times: u64,
    stopping: bool,
}

impl Bell {
    pub(crate) fn ring(&self) {
        self.state().times += 1;
        self.0.1.notify_all();
    }

    fn stop(&self) {
        self.state().stopping = true;
        self.0.1.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, Rung> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it was rung again since it had been so often. Whether to go on.
    fn wait(&self, times: u64) -> bool {
        let unchanged = |rung: &mut Rung| !rung.stopping && rung.times == times;
        let rung = self.0.1.wait_while(self.state(), unchanged);
        !rung.unwrap_or_else(PoisonError::into_inner).stopping
    }

    /// Waits for a time. Whether to go on.
    fn pause(&self, time: Duration) -> bool {
        let rung = self.0.1.wait_timeout_while(self.state(), time, |rung| !rung.stopping);
        !rung.unwrap_or_else(PoisonError::into_inner).0.stopping
    }
}

/// What is counted, for metrics.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Requests that receivers have taken.
    pub(crate) taken: AtomicU64,
    /// Requests that failed.
    pub(crate) failed: AtomicU64,
    /// Events that were let go before receivers had them, each counted for each.
    pub(crate) missing: AtomicU64,
    /// Pulls that have no event.
    pub(crate) untold: AtomicU64,
}

/// The store, until it is to be closed. Nobody holds it while a receiver is waited for.
type Place = Arc<Mutex<Option<Sled>>>;

/// The threads that send.
pub(crate) struct Senders {
    bell: Bell,
    store: Place,
    /// Ends with the last thread.
    ended: mpsc::Receiver<()>,
}

impl Senders {
    /// Goes on where each receiver stood. The bell is rung by the store.
    pub(crate) fn start(
        store: &Sled,
        endpoints: &[Endpoint],
        source: &Source,
        (bell, counts): (Bell, &Arc<Counts>),
    ) -> io::Result<Self> {
        let place = Arc::new(Mutex::new(Some(store.clone())));
        let (running, ended) = mpsc::channel(1);
        if !endpoints.is_empty() {
            let names: Vec<&str> = endpoints.iter().map(|endpoint| endpoint.name.as_str()).collect();
            let positions = store.event_receivers(&names).map_err(io::Error::other)?;
            for (endpoint, position) in endpoints.iter().zip(positions) {
                let mut sender = Sender {
                    store: Arc::clone(&place),
                    counts: Arc::clone(counts),
                    agent: endpoint.agent().map_err(io::Error::other)?,
                    endpoint: endpoint.clone(),
                    source: source.clone(),
                    position,
                    missing: 0,
                };
                let (bell, running) = (bell.clone(), running.clone());
                let thread = thread::Builder::new().name("sledge-events".to_owned());
                thread.spawn(move || {
                    sender.run(&bell);
                    drop(running);
                })?;
            }
        }
        Ok(Self { bell, store: place, ended })
    }

    /// Waits for requests under way, for some seconds. What was not taken stays in the store.
    pub(crate) async fn stop(mut self) {
        self.bell.stop();
        if timeout(GOODBYE, self.ended.recv()).await.is_err() {
            tracing::warn!(
                "a receiver of events is not waited for: it will be sent again what it was being sent"
            );
        }
        drop(self.store.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

struct Sender {
    store: Place,
    counts: Arc<Counts>,
    agent: Agent,
    endpoint: Endpoint,
    source: Source,
    /// All events up to this one were taken.
    position: u64,
    /// How many of them were missing, of which the receiver has not been told.
    missing: u64,
}

impl Sender {
    fn run(&mut self, bell: &Bell) {
        let mut failures = 0;
        let mut failing_since = None;
        loop {
            let Rung { times, stopping } = *bell.state();
            if stopping {
                return;
            }
            let goes_on = match self.send() {
                Ok(true) => {
                    if let Some(since) = failing_since.take() {
                        tracing::info!(
                            receiver = %self.endpoint.name,
                            failures,
                            seconds = Instant::elapsed(&since).as_secs(),
                            "events are sent again"
                        );
                    }
                    failures = 0;
                    true
                }
                Ok(false) => bell.wait(times),
                Err(error) => {
                    let pause = backoff(self.endpoint.backoff(), failures);
                    failures = failures.saturating_add(1);
                    failing_since.get_or_insert_with(Instant::now);
                    self.counts.failed.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(
                        receiver = %self.endpoint.name,
                        error,
                        failures,
                        again_after_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
                        "events could not be sent: they are kept"
                    );
                    bell.pause(pause)
                }
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Sends what comes next; whether there was anything. An error is for people, and says no secret.
    fn send(&mut self) -> Result<bool, String> {
        let Some(store) = self.store() else { return Ok(false) };
        let page = store.events(self.position, BATCH).map_err(|error| error.to_string())?;
        drop(store);
        let EventPage { mut events, up_to, missing, .. } = page;
        if up_to == self.position {
            return Ok(false);
        }
        events.retain(|event| self.endpoint.is_told(event));
        let missing = self.missing + missing;
        if !events.is_empty() {
            self.endpoint.post(&self.agent, &envelope(&events, &self.source), missing)?;
            self.counts.taken.fetch_add(1, Ordering::Relaxed);
        }
        if missing > self.missing {
            self.counts.missing.fetch_add(missing - self.missing, Ordering::Relaxed);
            tracing::warn!(
                receiver = %self.endpoint.name,
                missing = missing - self.missing,
                "too many events waited: the oldest were let go"
            );
        }
        self.missing = if events.is_empty() { missing } else { 0 };
        // From here on they are not sent again in this life, though it may not be written down.
        self.position = up_to;
        let Some(store) = self.store() else { return Ok(false) };
        let noted = store.events_taken(self.endpoint.name.as_str(), up_to);
        noted.map_err(|error| format!("they were taken, which could not be written down: {error}"))?;
        tracing::debug!(receiver = %self.endpoint.name, events = events.len(), up_to, "events were taken");
        Ok(true)
    }

    fn store(&self) -> Option<Sled> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How long to wait after so many failures before this one: between half of and all that it is doubled to, by chance, so that
/// those who failed together do not come again together.
fn backoff(shortest: Duration, failures: u32) -> Duration {
    let doubled = shortest.saturating_mul(1 << failures.min(20));
    let longest = cmp::min(doubled, cmp::max(LONGEST_BACKOFF, shortest));
    let [chance, ..] = Uuid::new_v4().into_bytes();
    longest / 2 + longest / 2 * u32::from(chance) / u32::from(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_waits_twice_as_long_up_to_some_minutes() {
        let second = Duration::from_secs(1);
        for (failures, seconds) in [(0, 1), (1, 2), (4, 16), (8, 256), (9, 300), (1_000_000, 300)] {
            let longest = Duration::from_secs(seconds);
            for _ in 0..100 {
                let pause = backoff(second, failures);
                assert!(pause >= longest / 2 && pause <= longest, "{pause:?} after {failures}");
            }
        }
        // By chance: not all of many are the same.
        assert!((0..100).any(|_| backoff(second, 9) != backoff(second, 9)));
        assert_eq!(backoff(Duration::ZERO, 7), Duration::ZERO);
    }
}
