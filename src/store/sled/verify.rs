//! Verification: every byte against its digest, every record against those that it must agree with, while the store is in use.
//!
//! Nothing is locked and nobody waits. So what is seen first may be half of a change that is just being made: each finding is
//! looked at again in the writer's thread, where nothing can come in between, before it is one. Memory is bounded by pages and
//! partitions; how fast content is read is the caller's to say.

mod contents;
mod counters;
mod incomplete;
mod joins;
mod pace;
mod records;
mod references;
mod repair;
mod report;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::sled::IVec;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use report::{Fault, FaultKind, Missing, Orphan, Quarantined, Read, VerifyReport};

pub(super) use self::pace::Time;
use self::pace::{Pace, System};
#[cfg(test)]
pub(super) use self::references::TAKEN_APART;
use super::desk::Desk;
use super::orphans::{self, Searcher};
use super::progress::{EVERY, Progress, Watch};
use super::schema::{self, Content, Layer, Manifest, Tree};
use super::store::{Core, REMOVE, Shared, Sled};
use crate::error::{Error, Result};

/// How many entries are looked at between two breaths.
const PAGE: usize = 256;

/// Of how many entries the content is read in the order in which it is stored, and how many bytes of content these may have.
const BATCH: usize = 64 * PAGE;
const BATCH_BYTES: u64 = 16 << 20;

/// What one verification does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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

    /// Whether records that follow from others are made to: reverse records, stamps, counters; and whether content that no record
    /// names is removed, if all records can be read. What nothing tells is left as it is.
    /// Default: no.
    pub const fn repair(mut self, repair: bool) -> Self {
        self.repair = repair;
        self
    }

    /// Whether [`VerifyOptions::repair`] was asked for.
    #[must_use]
    pub const fn repairs(&self) -> bool {
        self.repair
    }

    /// Whether to begin from the beginning though the last verification was ended early. Default: no.
    pub const fn restart(mut self, restart: bool) -> Self {
        self.restart = restart;
        self
    }
}

impl Sled {
    /// Reads all content, and looks at all records, on a store in use: content whose bytes are bad is quarantined (it counts as
    /// absent until it is pushed again), and what else is wrong is reported. Of what others change meanwhile nothing is reported
    /// that is not wrong.
    ///
    /// Whoever breaks off ends it with [`Error::Interrupted`]. Where content was being read it goes on the next time, also after a
    /// kill; records are always looked at from the beginning.
    ///
    /// Bytes that the system holds in memory are read from there: of the disk that proves nothing. To verify the disk itself,
    /// verify after a restart of the machine.
    ///
    /// # Errors
    /// [`Error::RequestInvalid`] while the store is being verified already, [`Error::Interrupted`], and what the storage itself
    /// fails with. Damage is no error but what is reported.
    ///
    /// # Durability
    /// What was put into quarantine or repaired survives a power cut.
    pub fn verify(&self, options: &VerifyOptions, watch: Watch<'_>) -> Result<VerifyReport> {
        self.verify_in(options, &mut System::new(), watch)
    }

    pub(super) fn verify_in(
        &self,
        options: &VerifyOptions,
        time: &mut dyn Time,
        watch: Watch<'_>,
    ) -> Result<VerifyReport> {
        let _alone = Alone::take(&self.0.core.verifying)?;
        let mut run = Run {
            shared: &self.0,
            repair: options.repair,
            told: time.now(),
            pace: Pace::new(options.rate, time),
            watch,
            progress: Progress { doing: String::new(), done: 0, of: None },
            reasons: BTreeMap::new(),
            lacking: Vec::new(),
            report: VerifyReport::default(),
        };
        run.all(options.restart)?;
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

struct Run<'a> {
    shared: &'a Arc<Shared>,
    repair: bool,
    pace: Pace<'a>,
    watch: Watch<'a>,
    progress: Progress,
    /// When the watch was last told.
    told: Duration,
    /// What this run found to be bad in content, by its id; as many as are reported.
    reasons: BTreeMap<Uuid, String>,
    /// Entries of `references-1` that point at what is not there, until their manifests are looked at.
    lacking: Vec<Vec<u8>>,
    report: VerifyReport,
}

impl Run<'_> {
    fn all(&mut self, restart: bool) -> Result<()> {
        self.contents(restart)?;
        // First: what follows from links may be removed only where each has its reverse.
        self.begin("comparing records", None)?;
        self.joins()?;
        self.begin("looking at records", None)?;
        self.records()?;
        self.confirm_missing()?;
        self.begin("comparing references", None)?;
        self.references()?;
        self.begin("counting", None)?;
        self.counters()?;
        self.begin("looking for what nobody names", None)?;
        let (shared, repair) = (Arc::clone(self.shared), self.repair);
        orphans::search(&shared, repair, self)?;
        // Only now: whoever is ended while records are looked at need not read all content again.
        self.note(None)
    }

    fn core(&self) -> &Arc<Core> {
        &self.shared.core
    }

    fn begin(&mut self, doing: &str, of: Option<u64>) -> Result<()> {
        self.progress = Progress { doing: doing.to_owned(), done: 0, of };
        self.tell()
    }

    /// Counts, and tells now and then.
    fn done(&mut self, more: u64) -> Result<()> {
        self.progress.done += more;
        if self.pace.now().saturating_sub(self.told) < EVERY { Ok(()) } else { self.tell() }
    }

    fn tell(&mut self) -> Result<()> {
        self.told = self.pace.now();
        match (self.watch)(&self.progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Interrupted(self.progress.doing.clone())),
        }
    }

    /// Shows all entries of a tree, a page at a time, to `see`, and counts them.
    fn pages(
        &mut self,
        tree: Tree,
        mut see: impl FnMut(&mut Self, Vec<(Vec<u8>, IVec)>) -> Result<()>,
    ) -> Result<()> {
        self.walk(tree, None, |run, page| {
            run.report.records += page.len() as u64;
            see(run, page).map(|()| true)
        })
        .map(drop)
    }

    /// Shows the entries of a tree after a key, or all, a page at a time, to `see`, as long as that wants more; whether it did to the
    /// end.
    fn walk(
        &mut self,
        tree: Tree,
        mut after: Option<Vec<u8>>,
        mut see: impl FnMut(&mut Self, Vec<(Vec<u8>, IVec)>) -> Result<bool>,
    ) -> Result<bool> {
        loop {
            let page = page(self.core(), tree, after.as_deref())?;
            let Some((last, _)) = page.last() else { return Ok(true) };
            after = Some(last.clone());
            let count = page.len() as u64;
            if !see(self, page)? {
                return Ok(false);
            }
            self.done(count)?;
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

impl Searcher for Run<'_> {
    fn looked_at(&mut self, records: u64) -> Result<()> {
        self.report.records += records;
        self.done(records)
    }

    fn found(&mut self, orphan: Orphan) {
        self.report.add_orphan(orphan);
    }
}

/// A blob's or manifest's entry, and its content; `None` if it cannot be read.
type Owning = (Vec<u8>, IVec, Option<Content>);

/// Entries of blobs or manifests, as many as may be read in any order: each read of the index brings some of what is beside it.
fn batch(
    core: &Core,
    tree: Tree,
    after: Option<&[u8]>,
    counts: impl Fn(&Content) -> bool,
) -> Result<Vec<Owning>> {
    let mut batch: Vec<Owning> = Vec::new();
    let mut bytes = 0;
    loop {
        let after = batch.last().map(|(key, ..)| key.as_slice()).or(after);
        let page = page(core, tree, after)?;
        if page.is_empty() {
            return Ok(batch);
        }
        for (key, value) in page {
            let content = match tree {
                Tree::Layers => schema::decode::<Layer>(&value).map(|layer| layer.content),
                _ => schema::decode::<Manifest>(&value).map(|manifest| manifest.content),
            };
            bytes +=
                content.iter().filter(|content| counts(content)).map(|content| content.size).sum::<u64>();
            batch.push((key, value, content.ok()));
            if batch.len() >= BATCH || bytes >= BATCH_BYTES {
                return Ok(batch);
            }
        }
    }
}

fn page(core: &Core, tree: Tree, after: Option<&[u8]>) -> Result<Vec<(Vec<u8>, IVec)>> {
    core.read(|index| {
        let entries = index.scan(tree, &[], after)?.take(PAGE);
        entries.map(|entry| entry.map(|(key, value)| (key.to_vec(), value))).collect()
    })
}
