//! Collection: removing what nothing keeps, while the store is in use.
//!
//! There is no mark phase and no time in which anybody must wait. Who abandoned what is written among the candidates
//! ([`keep`](super::keep)); collection takes those whose time has passed, a few in each piece of the writer's work, and looks
//! again there, where nothing can come in between: what was referenced or pushed again meanwhile stays.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::accounts::Others;
use super::changes::Changes;
use super::desk::Desk;
use super::forecast::{Forecast, NAMED};
use super::index::Index;
use super::keep;
use super::layers;
use super::leftovers;
use super::manifests;
use super::orphans::{self, Searcher};
use super::progress::{Steps, Watch};
use super::retain::{self, Retention};
use super::schema::{self, Kept, Layer, Manifest, Tree, Upload, Uptime};
use super::store::{Core, REMOVE, Shared, Sled};
use super::uploads;
use super::verify::Orphan;
use crate::error::{Error, Result};
use crate::oci::{Digest, RepositoryName};
use crate::store::Pinned;

/// How many candidates are read at a time.
const PAGE: usize = 256;

/// How many are removed in one piece of the writer's work: who pushes waits for no more than these.
const BATCH: usize = 32;

/// What one collection does.
///
/// Times are those during which the store was open: they do not pass while it is closed, and no clock that jumps moves them.
#[derive(Clone, Debug)]
#[must_use = "options do nothing until `Sled::collect`"]
pub struct CollectOptions {
    dry_run: bool,
    grace: Option<Duration>,
    untagged: Untagged,
    uploads_after: Duration,
    retention: Vec<Retention>,
}

impl Default for CollectOptions {
    fn default() -> Self {
        Self {
            dry_run: false,
            grace: None,
            untagged: Untagged::Keep,
            uploads_after: Duration::from_secs(7 * 24 * 3600),
            retention: Vec::new(),
        }
    }
}

impl CollectOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether to count and name only, and remove nothing: what would go in one run, if nobody changed anything. It takes some twenty
    /// bytes of memory for each thing that would go. Default: no.
    pub const fn dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }

    /// For how long a blob must have been unreferenced. Default: the store's [`Options::grace`](super::Options::grace), which
    /// is what clients rely on that were told that a blob is there. A shorter time is for when nobody pushes.
    pub const fn grace(mut self, grace: Duration) -> Self {
        self.grace = Some(grace);
        self
    }

    /// What becomes of manifests that nothing keeps. Default: they stay.
    pub const fn untagged(mut self, untagged: Untagged) -> Self {
        self.untagged = untagged;
        self
    }

    /// After what time without a byte an upload session is over. Default: a week.
    pub const fn uploads_after(mut self, silence: Duration) -> Self {
        self.uploads_after = silence;
        self
    }

    /// Adds a rule for tags. The first that names a repository is the one for it. Default: no tag goes.
    pub fn retention(mut self, rule: Retention) -> Self {
        self.retention.push(rule);
        self
    }
}

/// What becomes of manifests without a tag. The children of an index and the referrers of a manifest that is there are kept by
/// these, tagged or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Untagged {
    /// They stay.
    #[default]
    Keep,
    /// They go when nothing has kept them for so long, and never before the grace time has passed.
    DeleteAfter(Duration),
}

/// What a collection removed, or would remove.
///
/// What a removed manifest referenced is abandoned only then: its own grace time begins, and a later collection takes it. Where there
/// is none, this one does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Collected {
    /// Tags that no rule kept.
    pub tags: u64,
    /// Upload sessions that were silent for too long.
    pub uploads: u64,
    /// Manifests that nothing kept.
    pub manifests: u64,
    /// Blobs that went out of a repository.
    pub links: u64,
    /// Of these, blobs that no repository linked any more, so that their bytes went.
    pub blobs: u64,
    /// Files and pieces of content that no record named, which a life that was cut off left.
    pub orphans: u64,
    /// The bytes of these blobs, of the manifests, of the sessions and of the orphans.
    pub bytes: u64,
    /// Candidates that turned out to be kept when they were looked at.
    pub kept: u64,
    /// What could not be judged because its records are damaged: `verify` tells what is wrong with them.
    pub damaged: u64,
    /// The first hundred tags and the first hundred manifests that went, or would go, as `repository:tag` and `repository@digest`.
    pub names: Vec<String>,
}

impl Collected {
    /// Whether nothing was removed, or nothing would be.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.tags + self.uploads + self.manifests + self.links + self.orphans == 0
    }
}

impl fmt::Display for Collected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tags, uploads, manifests, links, blobs, orphans, bytes, damaged, .. } = self;
        write!(
            f,
            "{tags} tags, {manifests} manifests, {links} links, {blobs} blobs, {uploads} upload sessions and {orphans} orphans, \
             {bytes} bytes"
        )?;
        if *damaged > 0 { write!(f, "; {damaged} with damaged records left alone") } else { Ok(()) }
    }
}

impl std::ops::AddAssign for Collected {
    fn add_assign(&mut self, other: Self) {
        self.tags += other.tags;
        self.uploads += other.uploads;
        self.manifests += other.manifests;
        self.links += other.links;
        self.blobs += other.blobs;
        self.orphans += other.orphans;
        self.bytes += other.bytes;
        self.kept += other.kept;
        self.damaged += other.damaged;
        self.names.extend(other.names);
    }
}

impl Sled {
    /// Removes what nothing keeps and what nobody goes on with. Others push, pull and delete meanwhile; what they were told is
    /// there stays for the grace time.
    ///
    /// It costs as much as there is to remove, a look at every upload session, and with rules for tags a look at these. The first
    /// collection after the store was cut off (by a kill, a power cut, or a failure of the disk) lists all content besides, and
    /// the records that name it.
    /// `watch` can end it at any step: what was removed until then is removed.
    ///
    /// # Errors
    /// [`Error::Unavailable`] and what the storage fails with. Damaged records are counted and passed over.
    ///
    /// # Durability
    /// Each removal survives a power cut when it is counted.
    pub fn collect(&self, options: &CollectOptions, mut watch: Watch<'_>) -> Result<Collected> {
        let shared = &self.0;
        if !options.dry_run {
            shared.core.folder.changes()?;
        }
        let grace = options.grace.unwrap_or(shared.core.options.grace);
        let steps = Steps::begin(&mut watch, "looking at what nothing keeps", None)?;
        let untagged = match options.untagged {
            Untagged::Keep => None,
            Untagged::DeleteAfter(age) => Some(age.max(grace)),
        };
        let forecast = options
            .dry_run
            .then(|| Forecast::new(untagged.is_some_and(|age| age.is_zero()), grace.is_zero()));
        let mut run = Run { shared, forecast, steps, so_far: Collected::default() };
        run.uploads(options.uploads_after)?;
        if !options.retention.is_empty() {
            run.tags(&options.retention)?;
        }
        if grace.is_zero() {
            run.settle()?;
        }
        while let Some(age) = untagged {
            let before = run.so_far.manifests;
            run.candidates(Kept::Manifest, age)?;
            let removed = run.so_far.manifests > before;
            // What they referenced goes in this run, if no time need pass.
            if removed && grace.is_zero() {
                run.settle()?;
            }
            if !removed || !age.is_zero() {
                break;
            }
        }
        run.candidates(Kept::Link, grace)?;
        orphans::clear(shared, options.dry_run, &mut run)?;
        let mut collected = run.so_far;
        if let Some(forecast) = run.forecast {
            collected += forecast.found;
        }
        Ok(collected)
    }
}

struct Run<'s, 'w> {
    shared: &'s Arc<Shared>,
    /// What would go, in a dry run.
    forecast: Option<Forecast>,
    steps: Steps<'s, 'w>,
    so_far: Collected,
}

/// An entry of `candidates-1`.
#[derive(Clone)]
pub(super) struct Candidate {
    kind: Kept,
    pub(super) since: Uptime,
    repository: RepositoryName,
    digest: Digest,
}

impl Run<'_, '_> {
    fn add(&mut self, mut found: Collected, looked_at: usize) -> Result<()> {
        // Those of tags have been added.
        found
            .names
            .truncate(usize::try_from(NAMED.saturating_sub(self.so_far.manifests)).unwrap_or(usize::MAX));
        self.so_far += found;
        self.steps.done(looked_at as u64)
    }

    /// Ends sessions that have been silent for too long.
    fn uploads(&mut self, silence: Duration) -> Result<()> {
        let core = &self.shared.core;
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = core.read(|index| {
                let sessions = index.scan(Tree::Uploads, &[], after.as_deref())?.take(PAGE);
                sessions
                    .map(|entry| entry.map(|(key, value)| (key.to_vec(), value)))
                    .collect::<Result<Vec<_>>>()
            })?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            for (key, value) in page {
                let found = schema::session_of_key(&key)
                    .and_then(|id| Ok((id, schema::decode::<Upload>(&value)?)))
                    .and_then(|(id, upload)| {
                        if core.clock.now().since(upload.updated_at) < silence {
                            return Ok(Collected::default());
                        }
                        let expired =
                            self.forecast.is_some() || uploads::expire(self.shared, id, &upload, silence)?;
                        let bytes = if expired { upload.current.offset } else { 0 };
                        Ok(Collected { uploads: expired.into(), bytes, ..Collected::default() })
                    });
                self.add(passing_over(found)?, 1)?;
            }
        }
    }

    /// Removes tags that no rule keeps.
    fn tags(&mut self, rules: &[Retention]) -> Result<()> {
        let mut after = None;
        loop {
            let page = retain::repositories(&self.shared.core, after.as_ref())?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            for repository in &page {
                let Some(rule) = rules.iter().find(|rule| rule.admits(repository)) else { continue };
                let (shared, forecast) = (self.shared, &mut self.forecast);
                let (names, mut named) = (&mut self.so_far.names, self.so_far.tags);
                let found = retain::apply(&shared.core, rule, repository, &mut |batch| match forecast {
                    Some(forecast) => shared.core.read(|index| {
                        batch.iter().try_for_each(|(tag, recorded)| {
                            forecast.tag((&shared.core, index), repository, tag, &recorded.digest.digest()?)
                        })?;
                        Ok(0)
                    }),
                    None => {
                        let removed = retain::remove(shared, repository, batch)?;
                        for tag in &removed {
                            if named < NAMED {
                                names.push(format!("{repository}:{tag}"));
                            }
                            named += 1;
                        }
                        Ok(removed.len() as u64)
                    }
                });
                let found = found.map(|tags| Collected { tags, ..Collected::default() });
                self.add(passing_over(found)?, 1)?;
            }
        }
    }

    /// Has all removed that was deleted until now, and with it the records of what it referenced: only then is that abandoned.
    fn settle(&self) -> Result<()> {
        let retiring = |desk: &mut Desk<'_>| Ok(desk.last_retiring());
        let Some(last) = self.shared.writer.run(REMOVE, retiring)? else { return Ok(()) };
        loop {
            let core = Arc::clone(&self.shared.core);
            let goes_on = self
                .shared
                .writer
                .run(REMOVE, move |desk| Ok(desk.is_retiring(last) && leftovers::sweep_at(desk, &core)?))?;
            if !goes_on {
                return Ok(());
            }
        }
    }

    /// Removes candidates of one kind that have been abandoned for so long.
    fn candidates(&mut self, kind: Kept, age: Duration) -> Result<()> {
        let core = &self.shared.core;
        let prefix = schema::candidates(kind);
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = core.read(|index| {
                let keys = index.scan(Tree::Candidates, &prefix, after.as_deref())?.take(PAGE);
                keys.map(|entry| entry.map(|(key, _)| key.to_vec())).collect::<Result<Vec<_>>>()
            })?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.get(prefix.len()..).map(<[u8]>::to_vec);
            for keys in page.chunks(BATCH) {
                let mut batch = Vec::with_capacity(keys.len());
                let mut found = Collected::default();
                let now = core.clock.now();
                let mut reached_the_young = false;
                for key in keys {
                    match Candidate::of_key(kind, key) {
                        // They are in the order of their age: those that follow are younger.
                        Ok(candidate) if now.since(candidate.since) < age => {
                            reached_the_young = true;
                            break;
                        }
                        Ok(candidate) => batch.push(candidate),
                        Err(_) => found.damaged += 1,
                    }
                }
                found += self.remove(batch, age)?;
                self.add(found, keys.len())?;
                if reached_the_young {
                    return Ok(());
                }
            }
        }
    }

    fn remove(&mut self, batch: Vec<Candidate>, age: Duration) -> Result<Collected> {
        let mut found = Collected::default();
        if batch.is_empty() {
            return Ok(found);
        }
        if let Some(forecast) = &mut self.forecast {
            let core = &self.shared.core;
            for candidate in &batch {
                let judged = core.read(|index| candidate.foresee(core, index, forecast));
                found += passing_over(judged.map(|()| Collected::default()))?;
            }
            return Ok(found);
        }
        self.shared.writer.run(REMOVE, move |desk| {
            for candidate in &batch {
                found += passing_over(candidate.remove(desk, age))?;
            }
            Ok(found)
        })
    }
}

impl Searcher for Run<'_, '_> {
    fn looked_at(&mut self, records: u64) -> Result<()> {
        self.steps.done(records)
    }

    fn found(&mut self, orphan: Orphan) {
        // In quarantine it stays for people to look at, and where a record cannot be read it may be that one's.
        if orphan.removed || self.forecast.is_some() && !orphan.quarantined && !orphan.stray {
            self.so_far += Collected { orphans: 1, bytes: orphan.bytes, ..Collected::default() };
        }
    }
}

/// Damage to one thing's records is no reason to leave everything else uncollected.
fn passing_over(found: Result<Collected>) -> Result<Collected> {
    match found {
        Err(Error::Damaged { .. }) => Ok(Collected { damaged: 1, ..Collected::default() }),
        found => found,
    }
}

/// What a candidate is, looked at now.
enum Judged {
    /// Its record is gone, or has another stamp: the entry is of no use.
    Outdated,
    Kept,
    Abandoned,
}

impl Candidate {
    pub(super) fn of_key(kind: Kept, key: &[u8]) -> Result<Self> {
        let (since, repository, digest) = schema::candidate_of_key(key)?;
        Ok(Self { kind, since, repository, digest })
    }

    fn judge(&self, index: &Index) -> Result<Judged> {
        let stamp = keep::stamp_of(index, self.kind, &self.repository, &self.digest)?;
        Ok(match stamp {
            Some(since) if since == self.since => {
                match keep::is_kept(index, self.kind, &self.repository, &self.digest)? {
                    true => Judged::Kept,
                    false => Judged::Abandoned,
                }
            }
            _ => Judged::Outdated,
        })
    }

    /// Runs on the writer's thread.
    pub(super) fn remove(&self, desk: &mut Desk<'_>, age: Duration) -> Result<Collected> {
        let mut found = Collected::default();
        match self.judge(desk.index())? {
            Judged::Abandoned if desk.now().since(self.since) < age => {}
            Judged::Abandoned => match self.kind {
                Kept::Manifest => {
                    let key = schema::digest_within(&self.repository, &self.digest);
                    let size =
                        desk.index().get::<Manifest>(&key)?.map_or(0, |manifest| manifest.content.size);
                    manifests::delete(desk, &self.repository, &self.digest, &Pinned::none())?;
                    found.names.push(format!("{}@{}", self.repository, self.digest));
                    found.manifests = 1;
                    found.bytes = size;
                }
                Kept::Link => {
                    found.links = 1;
                    if let Some(content) = layers::unlink(desk, &self.repository, &self.digest)? {
                        found.blobs = 1;
                        found.bytes = content.size;
                    }
                }
            },
            Judged::Kept => {
                let mut changes = Changes::new();
                keep::clear_stamp(desk.index(), &mut changes, self.kind, &self.repository, &self.digest)?;
                desk.apply(&changes)?;
                found.kept = 1;
            }
            Judged::Outdated => {
                let mut changes = Changes::new();
                keep::move_candidate(
                    &mut changes,
                    self.kind,
                    Some(self.since),
                    None,
                    &self.repository,
                    &self.digest,
                );
                desk.apply(&changes)?;
            }
        }
        Ok(found)
    }

    /// Of a link that nothing keeps: the bytes that go with it.
    pub(super) fn bytes_behind(&self, index: &Index) -> Result<u64> {
        let is_abandoned = matches!(self.judge(index)?, Judged::Abandoned);
        if !is_abandoned || Others::of(index, &self.digest, &self.repository)? != Others::None {
            return Ok(0);
        }
        let layer = index.get::<Layer>(&schema::digest_key(&self.digest))?;
        Ok(layer.map_or(0, |layer| layer.content.size))
    }

    fn foresee(&self, core: &Core, index: &Index, forecast: &mut Forecast) -> Result<()> {
        let stamp = keep::stamp_of(index, self.kind, &self.repository, &self.digest)?;
        if stamp != Some(self.since) {
            return Ok(());
        }
        forecast.candidate((core, index), self.kind, &self.repository, &self.digest)
    }
}
