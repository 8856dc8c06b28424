//! Verification: every byte against its digest, every record against those that it must agree with, while the store is in use.
//!
//! Nothing is locked and nobody waits. So what is seen first may be half of a change that is just being made: each finding is
//! looked at again in the writer's thread, where nothing can come in between, before it is one. Memory is bounded by pages and
//! partitions; how fast content is read is the caller's to say.

mod contents;
mod counters;
mod orphans;
mod pace;
mod records;
mod references;
mod repair;
mod report;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ::sled::IVec;
use uuid::Uuid;

pub use report::{BadContent, Fault, FaultKind, Orphan, Read, VerifyReport};

pub(super) use self::pace::Time;
use self::pace::{Pace, System};
use super::desk::Desk;
use super::schema::Tree;
use super::store::{Core, REMOVE, Shared, Sled};
use crate::error::{Error, Result};

/// How many entries are looked at between two breaths.
const PAGE: usize = 256;

/// What one verification does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "options do nothing until `Sled::verify`"]
pub struct VerifyOptions {
    rate: Option<u64>,
    repair: bool,
    restart: bool,
}

impl VerifyOptions {
    /// As fast as it goes, going on where the last one was ended, and repairing nothing.
    pub const fn new() -> Self {
        Self { rate: None, repair: false, restart: false }
    }

    /// How many bytes of content are read in a second, at most. Default: as many as it goes.
    pub const fn rate(mut self, bytes: u64) -> Self {
        self.rate = Some(bytes);
        self
    }

    /// Whether records that follow from others are made to: reverse records, stamps, counters. What nothing tells is left as it is.
    /// Default: no.
    pub const fn repair(mut self, repair: bool) -> Self {
        self.repair = repair;
        self
    }

    /// Whether to begin from the beginning though the last verification was ended early. Default: no.
    pub const fn restart(mut self, restart: bool) -> Self {
        self.restart = restart;
        self
    }
}

/// How far a verification is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyProgress {
    /// Bytes of content that were read.
    pub bytes: u64,
    /// Bytes of content that there were at the beginning.
    pub of_bytes: u64,
    /// Records that were looked at.
    pub records: u64,
}

impl Sled {
    /// Reads all content, and looks at all records, on a store in use: content whose bytes are bad is quarantined (it counts as
    /// absent until it is pushed again), and what else is wrong is reported. Of what others change meanwhile nothing is reported
    /// that is not wrong.
    ///
    /// `progress` is told of each piece and each page, and can end it there. Where content was being read it goes on the next
    /// time, also after a kill; records are always looked at from the beginning.
    ///
    /// Bytes that the system holds in memory are read from there: of the disk that proves nothing. To verify the disk itself,
    /// verify after a restart of the machine.
    ///
    /// # Errors
    /// [`Error::RequestInvalid`] while the store is being verified already, and what the storage itself fails with. Damage is no
    /// error but what is reported.
    ///
    /// # Durability
    /// What was put into quarantine or repaired survives a power cut.
    pub fn verify(
        &self,
        options: &VerifyOptions,
        progress: &mut dyn FnMut(&VerifyProgress) -> ControlFlow<()>,
    ) -> Result<VerifyReport> {
        self.verify_in(options, &mut System::new(), progress)
    }

    pub(super) fn verify_in(
        &self,
        options: &VerifyOptions,
        time: &mut dyn Time,
        progress: &mut dyn FnMut(&VerifyProgress) -> ControlFlow<()>,
    ) -> Result<VerifyReport> {
        let _alone = Alone::take(&self.0.core.verifying)?;
        let mut run = Run {
            shared: &self.0,
            repair: options.repair,
            pace: Pace::new(options.rate, time),
            progress,
            at: VerifyProgress::default(),
            reasons: BTreeMap::new(),
            report: VerifyReport::default(),
        };
        match run.all(options.restart) {
            Ok(()) => run.report.complete = true,
            Err(Halt::Stopped) => {}
            Err(Halt::Failed(error)) => return Err(error),
        }
        Ok(run.report)
    }
}

/// Two at once would take each other's places.
struct Alone<'a>(&'a AtomicBool);

impl<'a> Alone<'a> {
    fn take(taken: &'a AtomicBool) -> Result<Self> {
        if taken.swap(true, Ordering::AcqRel) {
            return Err(Error::RequestInvalid(
                "the store is being verified already: wait for that".to_owned(),
            ));
        }
        Ok(Self(taken))
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Why a verification ends before its end.
enum Halt {
    /// `progress` said so.
    Stopped,
    Failed(Error),
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

type Step<T = ()> = Result<T, Halt>;

struct Run<'a> {
    shared: &'a Arc<Shared>,
    repair: bool,
    pace: Pace<'a>,
    progress: &'a mut dyn FnMut(&VerifyProgress) -> ControlFlow<()>,
    at: VerifyProgress,
    /// What this run found to be bad in content, by its id; as many as are reported.
    reasons: BTreeMap<Uuid, String>,
    report: VerifyReport,
}

impl Run<'_> {
    fn all(&mut self, restart: bool) -> Step {
        self.contents(restart)?;
        self.records()?;
        self.references()?;
        self.counters()?;
        self.orphans()?;
        // Only now: whoever is ended while records are looked at need not read all content again.
        self.note(None)
    }

    fn core(&self) -> &Arc<Core> {
        &self.shared.core
    }

    fn tell(&mut self) -> Step {
        match (self.progress)(&self.at) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Halt::Stopped),
        }
    }

    /// Shows all entries of a tree, a page at a time, to `see`.
    fn pages(&mut self, tree: Tree, mut see: impl FnMut(&mut Self, Vec<(Vec<u8>, IVec)>) -> Step) -> Step {
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = page(self.core(), tree, after.as_deref())?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            let count = page.len() as u64;
            see(self, page)?;
            self.at.records += count;
            self.report.records += count;
            self.tell()?;
        }
    }

    /// Does the second look, where nothing can come in between.
    fn at_desk<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Core, &mut Desk<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let core = Arc::clone(self.core());
        self.shared.writer.run(REMOVE, move |desk| look(&core, desk))
    }
}

fn page(core: &Core, tree: Tree, after: Option<&[u8]>) -> Result<Vec<(Vec<u8>, IVec)>> {
    core.read(|index| {
        let entries = index.scan(tree, &[], after)?.take(PAGE);
        entries.map(|entry| entry.map(|(key, value)| (key.to_vec(), value))).collect()
    })
}
