//! Making room in a cache: images that nobody asked for the longest time go, whole.

use std::sync::PoisonError;
use std::time::Duration;

use super::collect::Candidate;
use super::content;
use super::desk::Desk;
use super::index::{Changes, Index};
use super::keep;
use super::layers;
use super::manifests;
use super::options::WhenFull;
use super::schema::{self, Kept, Manifest as Recorded, Tree, Uptime};
use super::store::{Core, REMOVE, Shared};
use super::writer::Terms;
use crate::error::{Error, Result};
use crate::oci::{Digest, Manifest, RepositoryName};
use crate::store::Pinned;

/// Of an image that is used all the time, that is written down no more often than this.
const WRITTEN_EVERY: Duration = Duration::from_secs(60);

/// More than was asked for is made free, for those who come next: each round waits for files to go.
const SLACK: u64 = 4 << 20;

/// How many of an image's parts are removed in one piece of the writer's work.
const BATCH: usize = 32;

/// How many entries of `used-1` are read at a time.
const PAGE: usize = 64;

/// Notes that a manifest was pulled, where that will matter. Nobody waits for it, and a power cut may forget it.
pub(super) fn note_use(shared: &Shared, repository: &RepositoryName, digest: &Digest, recorded: &Recorded) {
    let core = &shared.core;
    if matches!(core.options.when_full, WhenFull::Refuse)
        || core.clock.now().since(recorded.used_at) < WRITTEN_EVERY
    {
        return;
    }
    let (repository, digest) = (repository.clone(), *digest);
    shared.writer.submit(Terms::default(), move |desk| {
        let key = schema::digest_within(&repository, &digest);
        let Some(recorded) = desk.index().get::<Recorded>(&key)? else { return Ok(()) };
        let mut changes = Changes::new();
        keep::move_use(&mut changes, Some(recorded.used_at), Some(desk.now()), &repository, &digest);
        changes.set(key, &Recorded { used_at: desk.now(), ..recorded })?;
        desk.apply(&changes)
    });
}

/// Sees to it that so many bytes more are within the budget, in a cache by letting images go.
///
/// # Errors
/// [`Error::OverBudget`] where that is not so, though in a cache all has gone that may.
pub(super) fn make_room(shared: &Shared, more: u64) -> Result<()> {
    let core = &shared.core;
    let (pinned, wanted) = match &core.options.when_full {
        WhenFull::Refuse => (None, more),
        WhenFull::Evict { pinned } => (Some(pinned), more.saturating_add(SLACK)),
    };
    if core.room.check(wanted).is_ok() {
        return Ok(());
    }
    if core.room.index_beyond_share().is_some() {
        // Before additions, the writer rewrites an index that holds little. What else becomes of this one is decided below.
        let _ = shared.writer.run(Terms { adds: true, ..Terms::default() }, |_| Ok(()));
    }
    let Some(pinned) = pinned else { return core.room.check(more) };
    if core.room.index_fills_budget() {
        // However many images went, the index would take the room of all of them.
        return core.room.check(more);
    }
    // What would not fit though all images went is refused before one does.
    core.room.check_alone(more)?;
    // One at a time: the second finds the room that the first has made.
    let _evicting = shared.evicting.lock().unwrap_or_else(PoisonError::into_inner);
    if !wait_for_files(shared)? {
        // A snapshot holds what is removed: to let images go would not make room.
        return core.room.check(more);
    }
    collect(shared)?;
    let mut after: Option<Vec<u8>> = None;
    while core.room.check(wanted).is_err() {
        let page = core.read(|index| page(index, after.as_deref()))?;
        let Some(last) = page.last() else { break };
        after = Some(last.clone());
        for key in &page {
            if core.room.check(wanted).is_ok() {
                break;
            }
            // What is damaged is for `verify`; here the next one goes.
            let Ok((used_at, repository, digest)) = schema::used_of_key(key) else { continue };
            if evict(shared, used_at, &repository, &digest, pinned)? {
                if !wait_for_files(shared)? {
                    return core.room.check(more);
                }
                core.room.look_at_rest(&core.folder);
            }
        }
    }
    core.room.check(more)
}

/// Blobs that no image came to use, whose grace time has passed, go before any image does.
fn collect(shared: &Shared) -> Result<()> {
    let core = &shared.core;
    let grace = core.options.grace;
    let due = core.read(|index| {
        let keys = index.scan(Tree::Candidates, &schema::candidates(Kept::Link), None)?;
        let candidates = keys.map(|entry| Candidate::of_key(Kept::Link, &entry?.0));
        let due = |candidate: &Result<Candidate>| {
            candidate.as_ref().map_or(true, |candidate| core.clock.now().since(candidate.since) >= grace)
        };
        Ok(candidates.take_while(due).take(PAGE).filter_map(Result::ok).collect::<Vec<_>>())
    })?;
    for batch in due.chunks(BATCH) {
        let batch = batch.to_vec();
        shared.writer.run(REMOVE, move |desk| {
            for candidate in batch {
                passing_over_damage(candidate.remove(desk, grace).map(drop))?;
            }
            Ok(())
        })?;
    }
    if !due.is_empty() {
        wait_for_files(shared)?;
    }
    Ok(())
}

fn page(index: &Index, after: Option<&[u8]>) -> Result<Vec<Vec<u8>>> {
    let keys = index.scan(Tree::Used, &[], after)?.take(PAGE);
    keys.map(|entry| entry.map(|(key, _)| key.to_vec())).collect()
}

/// Removes an image and what only it uses, if it is one that may go; whether it did.
fn evict(
    shared: &Shared,
    used_at: Uptime,
    repository: &RepositoryName,
    digest: &Digest,
    pinned: &Pinned,
) -> Result<bool> {
    let root = Part { repository: repository.clone(), digest: *digest, seen: Some(used_at) };
    let Some(mut parts) = root.remove_manifest(shared, pinned)? else { return Ok(false) };
    // Each part is looked at once its own parent is gone; a manifest among them brings its own.
    while !parts.is_empty() {
        let batch = parts.split_off(parts.len().saturating_sub(BATCH));
        let mut manifests = Vec::new();
        let mut blobs = Vec::new();
        for part in batch {
            let is_manifest = shared.core.read(|index| index.contains(Tree::Manifests, &part.key()))?;
            if is_manifest { manifests.push(part) } else { blobs.push(part) }
        }
        for part in manifests {
            parts.extend(part.remove_manifest(shared, pinned)?.unwrap_or_default());
        }
        shared.writer.run(REMOVE, move |desk| {
            for part in &blobs {
                passing_over_damage(part.unlink(desk))?;
            }
            Ok(())
        })?;
    }
    Ok(true)
}

/// A manifest or a blob in a repository.
struct Part {
    repository: RepositoryName,
    digest: Digest,
    /// Of an image that was chosen: when it was used last.
    seen: Option<Uptime>,
}

impl Part {
    fn key(&self) -> Vec<u8> {
        schema::digest_within(&self.repository, &self.digest)
    }

    /// Removes the manifest, unless it is kept: says what it was made of. An image that was chosen is kept by an index, by its
    /// subject and by pinned tags, and by having been used meanwhile; what went with one is kept by any tag too.
    fn remove_manifest(&self, shared: &Shared, pinned: &Pinned) -> Result<Option<Vec<Self>>> {
        let core = &shared.core;
        let Some(recorded) = core.read(|index| index.get::<Recorded>(&self.key()))? else { return Ok(None) };
        let mut parts = self.parts(core, &recorded);
        let (repository, digest, seen, pinned) =
            (self.repository.clone(), self.digest, self.seen, pinned.clone());
        let outcome = shared.writer.run(REMOVE, move |desk| {
            let key = schema::digest_within(&repository, &digest);
            let Some(recorded) = desk.index().get::<Recorded>(&key)? else { return Ok(false) };
            let kept = match seen {
                Some(seen) => {
                    recorded.used_at != seen || keep::is_part_of_another(desk.index(), &repository, &digest)?
                }
                None => {
                    keep::is_tagged(desk.index(), &repository, &digest)?
                        || keep::is_part_of_another(desk.index(), &repository, &digest)?
                }
            };
            if kept {
                return Ok(false);
            }
            manifests::delete(desk, &repository, &digest, &pinned).map(|()| true)
        });
        match outcome {
            Ok(true) => {}
            Ok(false) | Err(Error::TagImmutable { .. } | Error::Damaged { .. }) => return Ok(None),
            Err(error) => return Err(error),
        }
        let referrers = core.read(|index| keep::referrers(index, &self.repository, &self.digest))?;
        parts.extend(referrers.into_iter().map(|digest| self.beside(digest)));
        Ok(Some(parts))
    }

    /// What the manifest references. Where its bytes are no longer there, collection finds what it leaves.
    fn parts(&self, core: &Core, recorded: &Recorded) -> Vec<Self> {
        let bytes = core.read(|index| content::read_whole(index, core, &recorded.content));
        let contents = bytes
            .ok()
            .and_then(|bytes| Manifest::new(recorded.media_type.parse().ok()?, bytes).contents().ok());
        let referenced = contents.map_or_else(Vec::new, |contents| manifests::referenced(&contents));
        referenced.into_iter().map(|digest| self.beside(digest)).collect()
    }

    fn beside(&self, digest: Digest) -> Self {
        Self { repository: self.repository.clone(), digest, seen: None }
    }

    /// Runs on the writer's thread.
    fn unlink(&self, desk: &mut Desk<'_>) -> Result<()> {
        let linked = desk.index().contains(Tree::Links, &self.key())?;
        if !linked || keep::is_part_of_another(desk.index(), &self.repository, &self.digest)? {
            return Ok(());
        }
        layers::unlink(desk, &self.repository, &self.digest).map(drop)
    }
}

fn passing_over_damage(outcome: Result<()>) -> Result<()> {
    match outcome {
        Err(Error::Damaged { .. }) => Ok(()),
        outcome => outcome,
    }
}

/// The room is there when the writer has removed the files, which it does when it has nothing else to do. `false` where it may not,
/// because a snapshot is being taken.
fn wait_for_files(shared: &Shared) -> Result<bool> {
    loop {
        let (waits, held) = shared
            .writer
            .run(Terms::default(), |desk| Ok((desk.is_retiring_any(), desk.copying().holds > 0)))?;
        if !waits || held {
            return Ok(!held);
        }
    }
}
