//! How long operations say how far they have come, and are told to stop.

use std::fmt;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How far a long operation has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Progress {
    /// What is being done.
    pub doing: String,
    /// How much of that is done, in what the words name.
    pub done: u64,
    /// How much there is, where that is known.
    pub of: Option<u64>,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.of {
            Some(of) => write!(f, "{}: {} of {of}", self.doing, self.done),
            None => write!(f, "{}: {}", self.doing, self.done),
        }
    }
}

/// Told how far a long operation has come: when it begins with something, and a few times a second. Whoever breaks off ends the
/// operation with [`Error::Interrupted`].
pub type Watch<'a> = &'a mut (dyn FnMut(&Progress) -> ControlFlow<()> + 'a);

/// So much time goes by between two words about it.
pub(super) const EVERY: Duration = Duration::from_millis(200);

/// Counts, and tells.
pub(super) struct Steps<'w, 'a> {
    watch: &'w mut Watch<'a>,
    progress: Progress,
    told: Instant,
}

impl<'w, 'a> Steps<'w, 'a> {
    pub(super) fn begin(watch: &'w mut Watch<'a>, doing: &str, of: Option<u64>) -> Result<Self> {
        let mut steps =
            Self { watch, progress: Progress { doing: doing.to_owned(), done: 0, of }, told: Instant::now() };
        steps.tell()?;
        Ok(steps)
    }

    pub(super) fn done(&mut self, more: u64) -> Result<()> {
        self.progress.done += more;
        if self.told.elapsed() < EVERY { Ok(()) } else { self.tell() }
    }

    fn tell(&mut self) -> Result<()> {
        self.told = Instant::now();
        match (self.watch)(&self.progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Interrupted(self.progress.doing.clone())),
        }
    }
}
