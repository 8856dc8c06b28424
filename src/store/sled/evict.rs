//! Making room in a cache: images that nobody asked for the longest time go, whole.

use std::collections::HashSet;
use std::sync::PoisonError;
use std::time::Duration;

use super::accounts;
use super::changes::Changes;
use super::collect::Candidate;
use super::content;
use super::desk::Desk;
use super::index::Index;
use super::keep;
use super::layers;
use super::manifests;
use super::options::WhenFull;
use super::schema::{self, Kept, Layer, Manifest as Recorded, Tree, Upload, Uptime};
use super::store::{Core, REMOVE, Shared};
use super::uploads;
use super::waiting;
use super::writer::Terms;
use crate::error::{Error, Result};
use crate::oci::{Digest, Manifest, RepositoryName, Tag};
use crate::store::Pinned;

/// Of an image that is used all the time, that is written down no more often than this.
const WRITTEN_EVERY: Duration = Duration::from_secs(60);

/// More than was asked for is made free, for those who come next: each round waits for files to go.
const SLACK: u64 = 4 << 20;

/// How many of an image's parts are removed in one piece of the writer's work.
const BATCH: usize = 32;

/// In a cache that is full, an upload session is over when nobody has gone on with it for so long.
const SESSION_IDLE: Duration = Duration::from_secs(5 * 60);

/// How many sessions are looked at each time.
const SESSIONS: usize = 1024;

/// ... and a blob goes that no image has come to use for so long, where the grace time is longer.
const BLOB_IDLE: Duration = Duration::from_secs(3600);

/// So many of an image's tags are told when it goes.
const TAGS_TOLD: usize = 10;

/// So many parts of images are told apart when it is counted what could go, which takes a few MiB: whether more is enough, is seen
/// when they go.
const PARTS: usize = 1 << 15;

/// How many entries of `used-1` are read at a time.
const PAGE: usize = 64;

/// Whether a use is to be written down of a manifest that was last used then.
pub(super) fn notes_use(core: &Core, used_at: Uptime) -> bool {
    !matches!(core.options.when_full, WhenFull::Refuse) && core.clock.now().since(used_at) >= WRITTEN_EVERY
}

/// Notes that a manifest was pulled, where that will matter. Nobody waits for it, and a power cut may forget it.
pub(super) fn note_use(shared: &Shared, repository: &RepositoryName, digest: &Digest, recorded: &Recorded) {
    if !notes_use(&shared.core, recorded.used_at) {
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

/// An image that a cache let go of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Evicted {
    /// Where it was.
    pub repository: RepositoryName,
    /// Its manifest or index.
    pub digest: Digest,
    /// The tags that pointed at it, the first ten.
    pub tags: Vec<Tag>,
    /// How long nobody had pushed or pulled it, by the store's own uptime.
    pub unused: Duration,
    /// The bytes of the manifests and blobs that went with it.
    pub bytes: u64,
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
    let mut looked_at = shared.evicting.lock().unwrap_or_else(PoisonError::into_inner);
    if !wait_for_files(shared)? {
        // A snapshot holds what is removed: to let images go would not make room.
        return core.room.check(more);
    }
    end_sessions(shared, &mut looked_at)?;
    collect(shared, wanted)?;
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
            if let Some(evicted) = evict(shared, used_at, &repository, &digest, pinned)? {
                core.options.on_evicted.tell(&evicted);
                if !wait_for_files(shared)? {
                    return core.room.check(more);
                }
                core.room.look_at_rest(&core.folder);
            }
        }
    }
    core.room.check(more)
}

/// Whether what is announced would fit if all went that may: then images go as its bytes come, and before that none does.
///
/// # Errors
/// [`Error::OverBudget`] where it would not.
pub(super) fn check_announced(shared: &Shared, bytes: u64, pinned: &Pinned) -> Result<()> {
    let core = &shared.core;
    core.room.check_alone(bytes)?;
    let needed = bytes.saturating_sub(core.room.free().unwrap_or(u64::MAX));
    if pinned.is_none() || needed == 0 {
        return Ok(());
    }
    match could_free(core, needed, pinned) {
        // What is damaged is for `verify`; whether the others are enough shows when they go.
        Ok(true) | Err(Error::Damaged { .. }) => Ok(()),
        Ok(false) => Err(core.room.refusal(bytes)),
        Err(error) => Err(error),
    }
}

/// Counts what letting go would give, in the order in which things go, until it is enough. What pinned images use too is counted
/// as if it went.
fn could_free(core: &Core, needed: u64, pinned: &Pinned) -> Result<bool> {
    let waiting = waiting::waiting(core)?;
    if waiting.more {
        return Ok(true);
    }
    let mut most = waiting.in_uploads.saturating_add(waiting.held_back);
    let mut seen = HashSet::new();
    let mut after: Option<Vec<u8>> = None;
    while most < needed {
        let page = core.read(|index| page(index, after.as_deref()))?;
        let Some(last) = page.last() else { return Ok(false) };
        after = Some(last.clone());
        for key in &page {
            if most >= needed || seen.len() >= PARTS {
                return Ok(true);
            }
            let Ok((_, repository, digest)) = schema::used_of_key(key) else { continue };
            let root = Part { repository, digest, seen: None };
            // What is part of another goes with that one, or stays with it.
            let stays = core.read(|index| {
                Ok(manifests::pinned_by(index, &root.repository, &digest, pinned)?.is_some()
                    || keep::is_part_of_another(index, &root.repository, &digest)?)
            })?;
            let mut parts = if stays { Vec::new() } else { vec![root] };
            while let Some(part) = parts.pop() {
                if most < needed && seen.len() < PARTS {
                    most = most.saturating_add(part.in_files(core, &mut seen, &mut parts)?);
                }
            }
        }
    }
    Ok(true)
}

/// Upload sessions that nobody has gone on with for a while go before anything does. Of very many some are looked at, and those that
/// follow the next time: `after` says where.
fn end_sessions(shared: &Shared, after: &mut Option<Vec<u8>>) -> Result<()> {
    let core = &shared.core;
    let found = core.read(|index| {
        let sessions = index.scan(Tree::Uploads, &[], after.as_deref())?.take(SESSIONS);
        sessions.map(|entry| entry.map(|(key, value)| (key.to_vec(), value))).collect::<Result<Vec<_>>>()
    })?;
    *after = found.last().filter(|_| found.len() == SESSIONS).map(|(key, _)| key.clone());
    let mut ended = false;
    for (key, value) in found {
        // What is damaged is for `verify`.
        let (Ok(id), Ok(upload)) = (schema::session_of_key(&key), schema::decode::<Upload>(&value)) else {
            continue;
        };
        if core.clock.now().since(upload.updated_at) >= SESSION_IDLE {
            let expired = uploads::expire_idle(shared, id, &upload, SESSION_IDLE);
            ended |= matches!(expired, Ok(true));
            passing_over_damage(expired.map(drop))?;
        }
    }
    if ended {
        wait_for_files(shared)?;
    }
    Ok(())
}

/// Blobs that no image came to use go before any image does, as far as they have to: those whose grace time has passed, and others
/// that have waited for a manifest for long.
fn collect(shared: &Shared, wanted: u64) -> Result<()> {
    let core = &shared.core;
    let age = core.options.grace.min(BLOB_IDLE);
    let prefix = schema::candidates(Kept::Link);
    let mut after: Option<Vec<u8>> = None;
    while core.room.check(wanted).is_err() {
        let page = core.read(|index| {
            let keys = index.scan(Tree::Candidates, &prefix, after.as_deref())?.take(BATCH);
            keys.map(|entry| entry.map(|(key, _)| key.to_vec())).collect::<Result<Vec<_>>>()
        })?;
        let Some(last) = page.last() else { break };
        after = last.get(prefix.len()..).map(<[u8]>::to_vec);
        let now = core.clock.now();
        // In the order of their age; what is damaged is for `verify`.
        let candidates = page.iter().filter_map(|key| Candidate::of_key(Kept::Link, key).ok());
        let due: Vec<_> = candidates.take_while(|candidate| now.since(candidate.since) >= age).collect();
        if due.is_empty() {
            break;
        }
        shared.writer.run(REMOVE, move |desk| {
            for candidate in due {
                passing_over_damage(candidate.remove(desk, age).map(drop))?;
            }
            Ok(())
        })?;
        if !wait_for_files(shared)? {
            break;
        }
    }
    Ok(())
}

fn page(index: &Index, after: Option<&[u8]>) -> Result<Vec<Vec<u8>>> {
    let keys = index.scan(Tree::Used, &[], after)?.take(PAGE);
    keys.map(|entry| entry.map(|(key, _)| key.to_vec())).collect()
}

/// Removes an image and what only it uses, if it is one that may go; says what went.
fn evict(
    shared: &Shared,
    used_at: Uptime,
    repository: &RepositoryName,
    digest: &Digest,
    pinned: &Pinned,
) -> Result<Option<Evicted>> {
    let root = Part { repository: repository.clone(), digest: *digest, seen: Some(used_at) };
    let core = &shared.core;
    let tags = core.read(|index| keep::tags(index, repository, digest, TAGS_TOLD))?;
    let Some(removed) = root.remove_manifest(shared, pinned)? else { return Ok(None) };
    let Removed { mut bytes, mut parts } = removed;
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
            if let Some(removed) = part.remove_manifest(shared, pinned)? {
                bytes += removed.bytes;
                parts.extend(removed.parts);
            }
        }
        bytes += shared.writer.run(REMOVE, move |desk| {
            let mut bytes = 0;
            for part in &blobs {
                bytes += match part.unlink(desk) {
                    Err(Error::Damaged { .. }) => 0,
                    unlinked => unlinked?,
                };
            }
            Ok(bytes)
        })?;
    }
    let unused = core.clock.now().since(used_at);
    Ok(Some(Evicted { repository: repository.clone(), digest: *digest, tags, unused, bytes }))
}

/// What removing a manifest gave back, and what it was made of.
struct Removed {
    bytes: u64,
    parts: Vec<Part>,
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
    fn remove_manifest(&self, shared: &Shared, pinned: &Pinned) -> Result<Option<Removed>> {
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
        parts.extend(self.referrers(core)?);
        Ok(Some(Removed { bytes: recorded.content.size, parts }))
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

    /// How many bytes its file takes, if it has one and was not seen; and what goes with it.
    fn in_files(&self, core: &Core, seen: &mut HashSet<Vec<u8>>, parts: &mut Vec<Self>) -> Result<u64> {
        if let Some(recorded) = core.read(|index| index.get::<Recorded>(&self.key()))? {
            if !seen.insert(self.key()) {
                return Ok(0);
            }
            parts.extend(self.parts(core, &recorded));
            parts.extend(self.referrers(core)?);
            return Ok(accounts::file_bytes(&recorded.content, recorded.quarantined_at));
        }
        let key = schema::digest_key(&self.digest);
        let layer = core.read(|index| match index.contains(Tree::Links, &self.key())? {
            true => index.get::<Layer>(&key),
            false => Ok(None),
        })?;
        let Some(layer) = layer.filter(|_| seen.insert(key)) else { return Ok(0) };
        Ok(accounts::file_bytes(&layer.content, layer.quarantined_at))
    }

    fn referrers(&self, core: &Core) -> Result<Vec<Self>> {
        let found = core.read(|index| keep::referrers(index, &self.repository, &self.digest))?;
        Ok(found.into_iter().map(|digest| self.beside(digest)).collect())
    }

    fn beside(&self, digest: Digest) -> Self {
        Self { repository: self.repository.clone(), digest, seen: None }
    }

    /// Says how many bytes went. Runs on the writer's thread.
    fn unlink(&self, desk: &mut Desk<'_>) -> Result<u64> {
        let linked = desk.index().contains(Tree::Links, &self.key())?;
        if !linked || keep::is_part_of_another(desk.index(), &self.repository, &self.digest)? {
            return Ok(0);
        }
        let gone = layers::unlink(desk, &self.repository, &self.digest)?;
        Ok(gone.map_or(0, |content| content.size))
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
