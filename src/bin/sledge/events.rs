//! Telling receivers what happened: each has a thread, which sends what the store has kept for it, in order, until it is taken.
//!
//! The store notes that an event was taken after the receiver has said so. So each receiver gets each event at least once; what it
//! gets again has the same id.

pub(crate) mod endpoint;
pub(crate) mod envelope;

use std::cmp;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use sledge::store::sled::{EventPage, Sled};
use tokio::task::spawn_blocking;
use ureq::Agent;
use uuid::Uuid;

use endpoint::Endpoint;
use envelope::{Source, envelope};

/// How many events one request has at most.
const BATCH: usize = 64;

/// A receiver that does not answer is asked again after this time, at the latest.
const LONGEST_BACKOFF: Duration = Duration::from_secs(5 * 60);

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

/// The threads that send.
pub(crate) struct Senders {
    bell: Bell,
    threads: Vec<JoinHandle<()>>,
}

impl Senders {
    /// Goes on where each receiver stood. The bell is rung by the store.
    pub(crate) fn start(
        store: &Sled,
        endpoints: &[Endpoint],
        source: &Source,
        bell: Bell,
    ) -> io::Result<Self> {
        let mut threads = Vec::new();
        if !endpoints.is_empty() {
            let names: Vec<&str> = endpoints.iter().map(|endpoint| endpoint.name.as_str()).collect();
            let positions = store.event_receivers(&names).map_err(io::Error::other)?;
            for (endpoint, position) in endpoints.iter().zip(positions) {
                let mut sender = Sender {
                    store: store.clone(),
                    agent: endpoint.agent().map_err(io::Error::other)?,
                    endpoint: endpoint.clone(),
                    source: source.clone(),
                    position,
                    missing: 0,
                };
                let bell = bell.clone();
                let thread = thread::Builder::new().name("sledge-events".to_owned());
                threads.push(thread.spawn(move || sender.run(&bell))?);
            }
        }
        Ok(Self { bell, threads })
    }

    /// Waits for requests under way, each for no longer than its time. What was not taken stays in the store.
    pub(crate) async fn stop(self) {
        self.bell.stop();
        for thread in self.threads {
            // A panic in there has been printed.
            let _ = spawn_blocking(move || thread.join()).await;
        }
    }
}

struct Sender {
    store: Sled,
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
        loop {
            let Rung { times, stopping } = *bell.state();
            if stopping {
                return;
            }
            let goes_on = match self.send() {
                Ok(true) => {
                    failures = 0;
                    true
                }
                Ok(false) => bell.wait(times),
                Err(error) => {
                    let pause = backoff(self.endpoint.backoff(), failures);
                    failures = failures.saturating_add(1);
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
        let page = self.store.events(self.position, BATCH).map_err(|error| error.to_string())?;
        let EventPage { mut events, up_to, missing, .. } = page;
        if up_to == self.position {
            return Ok(false);
        }
        events.retain(|event| self.endpoint.is_told(event));
        let missing = self.missing + missing;
        if !events.is_empty() {
            self.endpoint.post(&self.agent, &envelope(&events, &self.source), missing)?;
        }
        if missing > self.missing {
            tracing::warn!(
                receiver = %self.endpoint.name,
                missing = missing - self.missing,
                "too many events waited: the oldest were let go"
            );
        }
        self.missing = if events.is_empty() { missing } else { 0 };
        // From here on they are not sent again in this life, though it may not be written down.
        self.position = up_to;
        let noted = self.store.events_taken(self.endpoint.name.as_str(), up_to);
        noted.map_err(|error| format!("they were taken, which could not be written down: {error}"))?;
        tracing::debug!(receiver = %self.endpoint.name, events = events.len(), up_to, "events were taken");
        Ok(true)
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
