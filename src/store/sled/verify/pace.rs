//! How fast content is read.

use std::thread;
use std::time::{Duration, Instant};

/// A clock, and waiting by it.
pub(in crate::store::sled) trait Time {
    fn now(&self) -> Duration;
    fn sleep(&mut self, time: Duration);
}

/// The system's.
pub(super) struct System(Instant);

impl System {
    pub(super) fn new() -> Self {
        Self(Instant::now())
    }
}

impl Time for System {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn sleep(&mut self, time: Duration) {
        thread::sleep(time);
    }
}

/// Lets so many bytes go by in a second.
pub(super) struct Pace<'a> {
    rate: Option<u64>,
    time: &'a mut dyn Time,
    /// When the next byte may go by.
    free_at: Duration,
}

impl<'a> Pace<'a> {
    /// The longest that anybody waits without being asked whether to go on.
    const BREATH: Duration = Duration::from_millis(200);

    pub(super) fn new(rate: Option<u64>, time: &'a mut dyn Time) -> Self {
        let free_at = time.now();
        Self { rate: rate.map(|rate| rate.max(1)), time, free_at }
    }

    pub(super) fn now(&self) -> Duration {
        self.time.now()
    }

    /// Counts bytes that went by. What was not used is lost: a disk that was slow is not hurried afterwards.
    pub(super) fn took(&mut self, bytes: u64) {
        let Some(rate) = self.rate else { return };
        // Both fit: a piece is far below 2^34 bytes.
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
        let time = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.free_at = self.free_at.max(self.time.now()).saturating_add(time);
    }

    /// Waits a little; `false` when nothing more is to be waited for.
    pub(super) fn wait(&mut self) -> bool {
        let left = self.free_at.saturating_sub(self.time.now());
        if self.rate.is_none() || left.is_zero() {
            return false;
        }
        self.time.sleep(left.min(Self::BREATH));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Fake {
        now: Duration,
        longest: Duration,
    }

    impl Time for Fake {
        fn now(&self) -> Duration {
            self.now
        }

        fn sleep(&mut self, time: Duration) {
            self.now += time;
            self.longest = self.longest.max(time);
        }
    }

    #[test]
    fn so_many_bytes_go_by_in_a_second() {
        for (rate, piece, pieces, seconds) in [(1 << 20, 1 << 18, 40, 10), (100, 1000, 3, 30), (0, 1, 2, 2)] {
            let mut time = Fake::default();
            let mut pace = Pace::new(Some(rate), &mut time);
            for _ in 0..pieces {
                pace.took(piece);
                while pace.wait() {}
            }
            assert_eq!(time.now, Duration::from_secs(seconds), "{rate} bytes a second");
            assert!(time.longest <= Pace::BREATH);
        }
        let mut time = Fake::default();
        let mut pace = Pace::new(None, &mut time);
        pace.took(u64::MAX);
        assert!(!pace.wait());
    }
}
