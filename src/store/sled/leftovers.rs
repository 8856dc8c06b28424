//! Content that nothing visible names: prepared and not published, or retired and not yet gone.
//!
//! Its record is written in the transaction that retires it, or before it is prepared, and is removed in the transaction that
//! publishes it, or when the last of it is gone. So a kill at any moment leaves a record that says what is to be finished, and
//! nobody walks the store to find it.

use std::fs;

use uuid::Uuid;

use super::changes::Changes;
use super::content;
use super::desk::Desk;
use super::folder;
use super::index::Index;
use super::index::WINDOW;
use super::keep;
use super::room::blocks;
use super::schema::{self, Content, Kept, Leftover, Placement, Timestamp, Tree};
use super::store::Core;
use crate::error::Result;
use crate::oci::{self, Digest, RepositoryName};

/// How many bytes of the room a file is counted with: as many are given back when it has gone, whatever is left of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counted {
    Nothing,
    /// As many as its record says.
    Recorded,
    /// As many as it had when the store was opened, or was being written.
    Found,
    /// An upload's: the record may be older than the last of it.
    Either,
}

/// Retired content on its way out.
#[derive(Debug)]
pub(super) struct Retired {
    leftover: Leftover,
    counted: Counted,
    /// A manifest's references that are still recorded; `None` until they were read from its bytes.
    references: Option<Vec<Digest>>,
    /// How far the repository's references have been searched for the manifest's, where its bytes do not tell which they are;
    /// `None` when there is nothing to search for.
    search: Option<Vec<u8>>,
    /// How far a manifest's referrers, which lose their subject, have been told; `None` when all were.
    referrers: Option<Vec<u8>>,
}

impl Retired {
    pub(super) const fn new(leftover: Leftover) -> Self {
        Self {
            leftover,
            counted: Counted::Found,
            references: None,
            search: None,
            referrers: Some(Vec::new()),
        }
    }

    /// An upload's bytes.
    pub(super) fn of_upload(self) -> Self {
        Self { counted: Counted::Either, ..self }
    }

    /// What was never counted, as no record had named it.
    pub(super) fn uncounted(self) -> Self {
        Self { counted: Counted::Nothing, ..self }
    }

    /// With when the content was quarantined, if it was: since then it is not counted, even where its file was not yet moved.
    pub(super) fn was(self, quarantined_at: Option<Timestamp>) -> Self {
        if quarantined_at.is_some() { self.uncounted() } else { self }
    }

    pub(super) const fn content(&self) -> Uuid {
        self.leftover.content.placement.id()
    }
}

/// Adds to `changes` that content is to go, and says what [`Desk::retire`] is to be told when they were applied.
pub(super) fn retire(
    changes: &mut Changes,
    content: Content,
    manifest: Option<(&RepositoryName, &Digest)>,
) -> Result<Retired> {
    let manifest = manifest.map(|(repository, digest)| (repository.to_string(), digest.into()));
    let leftover = Leftover { content, manifest };
    changes.set(schema::id_key(content.placement.id()), &leftover)?;
    Ok(Retired { counted: Counted::Recorded, ..Retired::new(leftover) })
}

/// Writes down that content is to be removed, before it is written: [`give_up`] or the publishing transaction follows.
pub(super) fn reserve(desk: &mut Desk<'_>, leftover: &Leftover) -> Result<()> {
    let mut changes = Changes::new();
    changes.set(schema::id_key(leftover.content.placement.id()), leftover)?;
    desk.apply(&changes)
}

/// Has reserved content removed that was not published, if its record is still there and nobody is at it.
pub(super) fn give_up(desk: &mut Desk<'_>, leftover: Leftover) -> Result<()> {
    let id = leftover.content.placement.id();
    if is_reserved(desk, id)? {
        // Only a manifest's was counted: what else is given up are orphans, which no record had named.
        let retired = Retired::new(leftover);
        desk.retire(if retired.leftover.manifest.is_some() { retired } else { retired.uncounted() });
    }
    Ok(())
}

/// Whether content that was reserved may still be published: the index may have been opened again meanwhile, and what was
/// reserved then has been taken for what a killed process left.
pub(super) fn is_reserved(desk: &Desk<'_>, content: Uuid) -> Result<bool> {
    Ok(desk.index().contains(Tree::Leftovers, &schema::id_key(content))? && !desk.is_retiring(content))
}

/// After opening: takes up all that the last life left, and first of all removes tags whose manifest is gone (C1).
pub(super) fn recover(desk: &mut Desk<'_>) -> Result<()> {
    let leftovers: Vec<Leftover> = desk
        .index()
        .scan(Tree::Leftovers, &[], None)?
        .map(|entry| entry.and_then(|(_, value)| schema::decode(&value)))
        .collect::<Result<_>>()?;
    for leftover in leftovers {
        if let Some((repository, digest)) = manifest_of(&leftover)?
            && !is_visible(desk.index(), &repository, &digest)?
        {
            remove_tags(desk, &repository, &digest)?;
        }
        desk.retire(Retired::new(leftover));
    }
    Ok(())
}

/// Removes the tags of a manifest that is no longer visible, a window at a time.
pub(super) fn remove_tags(desk: &mut Desk<'_>, repository: &RepositoryName, digest: &Digest) -> Result<()> {
    loop {
        let mut changes = Changes::new();
        add_tags(desk.index(), &mut changes, repository, digest)?;
        if changes.is_empty() {
            return Ok(());
        }
        desk.apply(&changes)?;
    }
}

/// Adds to `changes` that a manifest's tags go: as many as fit half a window.
pub(super) fn add_tags(
    index: &Index,
    changes: &mut Changes,
    repository: &RepositoryName,
    digest: &Digest,
) -> Result<()> {
    let prefix = schema::digest_within(repository, digest);
    for entry in index.scan(Tree::Tagged, &prefix, None)? {
        if changes.size() > WINDOW / 2 {
            break;
        }
        let tag = schema::tag_after(Tree::Tagged, &entry?.0, &prefix)?;
        changes.remove(Tree::Tags, schema::tag_within(repository, &tag));
        changes.remove(Tree::Tagged, schema::tagged_within(repository, digest, &tag));
    }
    Ok(())
}

/// How many are finished in one go: who pushes waits for no more than these.
const BATCH: usize = 32;

/// Removes some of what waits, after one sync for all of it, and within one window. What is finished leaves the list.
pub(super) fn sweep(desk: &mut Desk<'_>, core: &Core, retired: &mut Vec<Retired>) -> Result<()> {
    // Records first, durable; then the bytes (D7).
    if !desk.is_settled() {
        desk.sync()?;
    }
    let mut finished = Changes::new();
    let mut done = 0;
    while let Some(next) = retired.get_mut(done).filter(|_| done < BATCH) {
        if desk.entered() + finished.size() > WINDOW / 2 {
            break;
        }
        if !next.remove_records(desk, core)? {
            if next.goes_on_at_once() {
                continue;
            }
            break;
        }
        done += 1;
        // A file that cannot be removed keeps its record, and is tried again after the next opening.
        if next.unlink(core) {
            finished.remove(Tree::Leftovers, schema::id_key(next.leftover.content.placement.id()));
        }
    }
    let files =
        retired.drain(..done).any(|gone| matches!(gone.leftover.content.placement, Placement::File(_)));
    if files && core.folder.sync_content().is_err() || core.folder.sync_changed_quarantine().is_err() {
        return Ok(());
    }
    desk.apply(&finished)
}

/// Sweeps as a piece of somebody's work; `false` while content is held back for a snapshot.
pub(super) fn sweep_at(desk: &mut Desk<'_>, core: &Core) -> Result<bool> {
    if desk.copying().holds > 0 {
        return Ok(false);
    }
    let mut retired = desk.take_retired();
    let outcome = sweep(desk, core, &mut retired);
    for retired in retired {
        desk.retire(retired);
    }
    outcome.map(|()| true)
}

impl Retired {
    /// Removes references and chunks, a window at most, and stamps what they alone kept; `true` when none are left.
    fn remove_records(&mut self, desk: &mut Desk<'_>, core: &Core) -> Result<bool> {
        let references = match self.references.take() {
            Some(references) => references,
            None => self.recorded_references(desk.index(), core)?.unwrap_or_else(|| {
                self.search = Some(Vec::new());
                Vec::new()
            }),
        };
        let references = self.references.insert(references);

        let mut changes = Changes::new();
        if let Some((repository, digest)) = manifest_of(&self.leftover)? {
            // Pushed again meanwhile: the same bytes, so the same references, and they are in use.
            if is_visible(desk.index(), &repository, &digest)? {
                references.clear();
                self.search = None;
                self.referrers = None;
            }
            while changes.size() < WINDOW / 2
                && let Some(referenced) = references.pop()
            {
                changes.remove(Tree::References, schema::pointer_within(&repository, &referenced, &digest));
                keep::stamp_if_abandoned(desk, &mut changes, &repository, &referenced, &digest)?;
            }
            search_references(desk, &mut changes, &repository, &digest, &mut self.search)?;
            if references.is_empty() && self.search.is_none() {
                stamp_referrers(desk, &mut changes, &repository, &digest, &mut self.referrers)?;
            }
        }
        // The bytes tell what is to be removed, so they go last.
        if references.is_empty() && self.search.is_none() && changes.is_empty() {
            let id = self.leftover.content.placement.id();
            let mut chunks = desk.index().scan(Tree::Chunks, &schema::id_key(id), None)?;
            while changes.size() < WINDOW / 2 {
                match chunks.next() {
                    Some(entry) => changes.remove(Tree::Chunks, entry?.0.to_vec()),
                    None => break,
                }
            }
        }
        let finished = changes.is_empty() && self.search.is_none();
        desk.apply(&changes)?;
        Ok(finished)
    }

    /// What the manifest's bytes say it references, if they are what they should be: they are not where they were still being
    /// prepared (references are recorded only after them), or where they were found to be bad.
    fn recorded_references(&self, index: &Index, core: &Core) -> Result<Option<Vec<Digest>>> {
        let Some((_, digest)) = manifest_of(&self.leftover)? else { return Ok(Some(Vec::new())) };
        let Ok(bytes) = content::read_whole(index, core, &self.leftover.content) else { return Ok(None) };
        if digest.algorithm().digest(&bytes) != digest {
            return Ok(None);
        }
        // Which of the possible media types it was pushed with makes no difference to what it references.
        let contents = oci::Manifest::media_type_of(&bytes)
            .and_then(|media_type| oci::Manifest::new(media_type, bytes).contents());
        Ok(contents.ok().map(|contents| super::manifests::referenced(&contents)))
    }

    /// Whether what is left may follow what was just removed without a sync between: a file goes only after what its bytes
    /// tell of is gone for good, and a search takes long enough for somebody else to have waited.
    const fn goes_on_at_once(&self) -> bool {
        matches!(self.leftover.content.placement, Placement::Inline(_)) && self.search.is_none()
    }

    /// Removes the files, wherever they are; `true` if they are gone.
    fn unlink(&self, core: &Core) -> bool {
        let placement = self.leftover.content.placement;
        // In this order: what is put aside meanwhile is moved from the one to the other, never back.
        if let Placement::File(id) = placement {
            let path = core.folder.content(id);
            let found = fs::metadata(&path).map_or(0, |found| blocks(found.len()));
            if !folder::remove_file(&path) {
                return false;
            }
            let recorded = blocks(self.leftover.content.size);
            core.room.shrink(match self.counted {
                Counted::Nothing => 0,
                Counted::Recorded => recorded,
                Counted::Found => found,
                Counted::Either => found.max(recorded),
            });
        }
        let aside = core.folder.quarantined(placement.id());
        core.room.quarantine(&aside, || core.folder.remove_quarantined(placement.id()))
    }
}

/// How many references are looked at in one go: they are the whole repository's.
const SEARCH: usize = 4096;

/// Removes a manifest's references that are found from where `after` says, as many as fit half a window.
fn search_references(
    desk: &Desk<'_>,
    changes: &mut Changes,
    repository: &RepositoryName,
    manifest: &Digest,
    after: &mut Option<Vec<u8>>,
) -> Result<()> {
    let Some(mut begin) = after.take() else { return Ok(()) };
    let prefix = schema::within(repository);
    let from = Some(begin.as_slice()).filter(|begin| !begin.is_empty());
    for (number, entry) in desk.index().scan(Tree::References, &prefix, from)?.enumerate() {
        if number == SEARCH || changes.size() > WINDOW / 2 {
            *after = Some(begin);
            return Ok(());
        }
        let (key, _) = entry?;
        let (referenced, by) = schema::pointer_after(Tree::References, &key, &prefix)?;
        if by == *manifest {
            changes.remove(Tree::References, key.to_vec());
            keep::stamp_if_abandoned(desk, changes, repository, &referenced, manifest)?;
        }
        begin = key.strip_prefix(prefix.as_slice()).unwrap_or_default().to_vec();
    }
    Ok(())
}

/// Stamps the referrers of a manifest that is gone, from where `after` says, as many as fit half a window.
fn stamp_referrers(
    desk: &Desk<'_>,
    changes: &mut Changes,
    repository: &RepositoryName,
    subject: &Digest,
    after: &mut Option<Vec<u8>>,
) -> Result<()> {
    let Some(begin) = after else { return Ok(()) };
    let prefix = schema::digest_within(repository, subject);
    let begin = Some(begin.as_slice()).filter(|begin| !begin.is_empty());
    let mut last = None;
    for entry in desk.index().scan(Tree::Referrers, &prefix, begin)? {
        if changes.size() > WINDOW / 2 {
            // Where not one fitted beside what was there already, the place is as before.
            *after = last.or_else(|| after.take());
            return Ok(());
        }
        let referrer = schema::digest_after(Tree::Referrers, &entry?.0, &prefix)?;
        keep::stamp(desk, changes, Kept::Manifest, repository, &referrer)?;
        last = Some(schema::digest_key(&referrer));
    }
    *after = None;
    Ok(())
}

fn manifest_of(leftover: &Leftover) -> Result<Option<(RepositoryName, Digest)>> {
    leftover
        .manifest
        .as_ref()
        .map(|(repository, digest)| Ok((schema::repository_of_key(repository.as_bytes())?, digest.digest()?)))
        .transpose()
}

fn is_visible(index: &Index, repository: &RepositoryName, digest: &Digest) -> Result<bool> {
    index.contains(Tree::Manifests, &schema::digest_within(repository, digest))
}
