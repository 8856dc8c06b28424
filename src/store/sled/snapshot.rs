//! A copy of a store in use, as it was at one moment.
//!
//! The writer tells a [`Journal`] of every change from now on, while all trees are scanned into a new index, a page at a time;
//! then the journal is ended by a piece of work of the writer's, and its changes are made over what was scanned. The end of the
//! journal is the moment that the snapshot is of. Nobody waits for the scan: readers never, and writers for two short pieces of
//! work and a line in the journal each.
//!
//! From before the scan until all files have been brought over, the writer puts off removing what is retired: each file that a
//! record names at that moment is there to be linked. Open sessions are no part of a snapshot; what is theirs, and what is
//! being prepared or removed, is swept out of it by opening it once as the store that it is to be.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::carry::{Carried, Carrier, Outcome, Share, content_of};
use super::folder;
use super::journal::{self, Journal};
use super::making::Beside;
use super::options::Options;
use super::progress::{Steps, Watch};
use super::quarantine;
use super::restore;
use super::rewrite::{self, Rewrite};
use super::schema::{self, Content, Layer, Leftover, Manifest, Placement, Tree, Upload};
use super::store::{Core, Shared, Sled};
use super::writer::{Terms, Writer};
use crate::error::{Error, Result};

/// How a snapshot is taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SnapshotOptions {
    /// An earlier snapshot beside which the new one is made: where the store itself is on another filesystem, files that it has
    /// are linked from there instead of being copied again. It must be one still ([`Sled::is_snapshot`]), and not be open.
    pub since: Option<PathBuf>,
}

impl SnapshotOptions {
    /// No earlier snapshot.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An earlier snapshot to share files with.
    #[must_use]
    pub fn since(mut self, since: impl Into<PathBuf>) -> Self {
        self.since = Some(since.into());
        self
    }
}

/// What a snapshot holds and what it cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SnapshotReport {
    /// Where it is.
    pub folder: PathBuf,
    /// The records and chunks that were copied.
    pub records: u64,
    /// The changes that were made meanwhile, and are in it.
    pub changes: u64,
    /// How the files came to it.
    pub files: Carried,
    /// For how long in all the store's writer was kept from other work.
    pub held: Duration,
    /// How long it took.
    pub took: Duration,
}

impl Sled {
    /// Makes a copy of this store, as it is at one moment, in a folder that is new or empty. The copy is a store of its own, and
    /// the folder has its name only when it is whole and durable. Reads and writes go on meanwhile; what is deleted gives its
    /// room back when the snapshot is done.
    ///
    /// Files are linked where the copy is on the same filesystem, so that it costs no room for them: neither store ever changes
    /// a committed file. What was acknowledged before the call is in it; open upload sessions are not.
    ///
    /// # Errors
    /// [`Error::NotEmpty`] where the folder holds something; [`Error::Locked`] where a snapshot is being taken there, or
    /// `since` is open; [`Error::Unsupported`] for a folder inside the store's or in one that is not there, for a second snapshot of this
    /// store at once, and for a `since` that is no snapshot, or none any more ([`Sled::is_snapshot`]); [`Error::Interrupted`]; what reading and writing fail with. Nothing is left then but a folder beside it
    /// whose name ends in `.unfinished`, if even that, which the next snapshot there removes.
    pub fn snapshot(
        &self,
        folder: impl AsRef<Path>,
        options: &SnapshotOptions,
        mut watch: Watch<'_>,
    ) -> Result<SnapshotReport> {
        take(&self.0, folder.as_ref(), options, &mut watch)
    }

    /// Whether this store is a snapshot to which nothing was pushed, and from which nothing was deleted or collected, since it was
    /// taken. The first change that is asked for makes it a store like any other, durably and before the change; reading, verifying
    /// and compacting do not.
    #[must_use]
    pub fn is_snapshot(&self) -> bool {
        self.0.core.folder.is_snapshot()
    }
}

fn take(
    shared: &Shared,
    folder: &Path,
    options: &SnapshotOptions,
    watch: &mut Watch<'_>,
) -> Result<SnapshotReport> {
    let begun = Instant::now();
    let core = &shared.core;
    // Nobody may open it meanwhile.
    let (since, _since_lock) = options.since.as_deref().map(earlier).transpose()?.unzip();
    let mut target = Beside::prepare(folder, core.folder.path())?;
    let hold = Hold::begin(&shared.writer, Journal::create(&target.path.join(JOURNAL))?)?;

    let new = Rewrite::begin(&target.path.join(folder::NEW_INDEX))?;
    let records = new.copy(&mut Steps::begin(watch, "copying records", None)?, |tree, after| {
        // What pushes leave free is not for the snapshot either, where both are on one filesystem.
        check_reserve(core)?;
        // Events are told by the store in which they happened.
        if tree == Tree::Events {
            return Ok(Vec::new());
        }
        core.read(|index| rewrite::page(index, tree, after))
    })?;
    let (journal, held) = hold.end_journal()?;
    let mut changes = 0;
    let mut steps = Steps::begin(watch, "adding what was changed meanwhile", None)?;
    journal::replay(journal, |tree, key, value| {
        changes += 1;
        steps.done(1)?;
        if tree == Tree::Events { Ok(()) } else { new.put(tree, key, value) }
    })?;
    fs::remove_file(target.path.join(JOURNAL)).map_err(Error::io("removing the journal of a snapshot"))?;
    end_sessions(&new)?;

    let to = content_of(&target.path);
    let mut carrier = Carrier::new(core.folder.content_folder().to_owned(), since, to, Share::Files);
    bring_files(&new, &mut carrier, watch)?;
    drop(hold);
    let files = carrier.finish()?;
    new.finish()?;
    // Dropping the store finishes what is to be removed, and what that did is durable.
    drop(target.open(options_of_a_copy())?);
    folder::mark_snapshot(&target.path).map_err(Error::io(format!("marking {}", folder.display())))?;
    target.finish()?;
    Ok(SnapshotReport { folder: folder.to_owned(), records, changes, files, held, took: begun.elapsed() })
}

fn check_reserve(core: &Core) -> Result<()> {
    let (needed, available) = (core.options.reserve, core.folder.available()?);
    if available < needed { Err(Error::DiskFull { needed, available }) } else { Ok(()) }
}

/// How a new copy of a store is opened to be swept: it needs no room beside the index itself.
pub(super) fn options_of_a_copy() -> Options {
    Options::new().reserve(0)
}

/// The content folder of an earlier snapshot, and what keeps others from opening it.
fn earlier(since: &Path) -> Result<(PathBuf, Option<File>)> {
    let lock = restore::lock_shared(since)?;
    // What has this is whole, and what is linked from it was synced: of a store that was copied by other means nobody knows.
    if since.join(folder::SNAPSHOT_FILE).is_file() && content_of(since).is_dir() {
        return Ok((content_of(since), lock));
    }
    Err(Error::Unsupported(format!(
        "{} is no snapshot as it was taken: name one to which nothing was pushed and from which nothing was deleted or collected \
         since, or none",
        since.display()
    )))
}

/// Makes leftovers of the sessions that a copy has: their bytes are not brought along, or are chunks to be removed. A verification
/// that was begun where it comes from has seen nothing of its files, and how lives ended there tells nothing of them: only what a
/// record names was brought. Nor does a copy tell anybody of what happened there.
pub(super) fn end_sessions(new: &Rewrite) -> Result<()> {
    let uploads: Vec<_> = new.index().scan(Tree::Uploads, &[], None)?.collect::<Result<_>>()?;
    for (key, value) in uploads {
        let upload: Upload = schema::decode(&value)?;
        let content = Content { placement: upload.placement, size: upload.current.offset };
        let leftover = schema::encode(&Leftover { content, manifest: None })?;
        new.put(Tree::Uploads, &key, None)?;
        new.put(Tree::Leftovers, &schema::id_key(content.placement.id()), Some(&leftover))?;
    }
    let events: Vec<_> = new.index().scan(Tree::Events, &[], None)?.collect::<Result<_>>()?;
    events.iter().try_for_each(|(key, _)| new.put(Tree::Events, key, None))?;
    new.put(Tree::Meta, schema::RECEIVERS_KEY, None)?;
    new.put(Tree::Meta, schema::CUT_KEY, None)?;
    new.put(Tree::Meta, schema::VERIFYING_KEY, None)
}

/// Brings every file that a record of the new index names. What was quarantined after the moment that the new index is of, or is
/// found to be bad when it is copied, is quarantined there as well: its bytes were as bad then, and nobody is to find that out a
/// second time.
pub(super) fn bring_files(new: &Rewrite, carrier: &mut Carrier, watch: &mut Watch<'_>) -> Result<()> {
    let mut steps = Steps::begin(watch, "bringing files", None)?;
    let mut quarantined = Vec::new();
    let mut bring = |tree, key: &[u8], content: Content| {
        if let Placement::File(id) = content.placement {
            let kind = if tree == Tree::Layers { "blob" } else { "manifest" };
            let digest = match tree {
                Tree::Layers => schema::digest_after(tree, key, &[])?,
                _ => schema::digest_of_key(tree, key)?.1,
            };
            let shown = || format!("{kind} {}", schema::shown(key));
            let outcome = carrier.bring(id, content.size, &digest, shown)?;
            if outcome == Outcome::Quarantined {
                quarantined.push((tree, key.to_vec()));
            }
            steps.done(1)?;
        }
        Ok::<(), Error>(())
    };
    for entry in new.index().scan(Tree::Layers, &[], None)? {
        let (key, value) = entry?;
        let layer: Layer = schema::decode(&value)?;
        // Bytes that are known to be bad are not to be had: until it is pushed again, the blob counts as absent.
        if layer.quarantined_at.is_none() {
            bring(Tree::Layers, &key, layer.content)?;
        }
    }
    for entry in new.index().scan(Tree::Manifests, &[], None)? {
        let (key, value) = entry?;
        let manifest: Manifest = schema::decode(&value)?;
        if manifest.quarantined_at.is_none() {
            bring(Tree::Manifests, &key, manifest.content)?;
        }
    }
    for (tree, key) in quarantined {
        for (tree, key, value) in quarantine::marking(new.index(), tree, &key)?.entries() {
            new.put(tree, key, value)?;
        }
    }
    // What is left of a manifest that is gone is told by its bytes, so that they are needed to remove it. Some are still being
    // written: of those nothing hangs on the bytes yet.
    for entry in new.index().scan(Tree::Leftovers, &[], None)? {
        let leftover: Leftover = schema::decode(&entry?.1)?;
        if leftover.manifest.is_some()
            && let Placement::File(id) = leftover.content.placement
        {
            carrier.bring_if_there(id)?;
        }
    }
    Ok(())
}

const JOURNAL: &str = "unfinished-journal";

/// What keeps the writer telling of changes, and from removing anything.
struct Hold<'a> {
    writer: &'a Writer,
    journal: Uuid,
    /// For how long the writer was busy with it so far.
    held: Duration,
}

impl<'a> Hold<'a> {
    fn begin(writer: &'a Writer, journal: Journal) -> Result<Self> {
        let id = journal.id;
        let held = writer.run(Terms::default(), move |desk| {
            let begun = Instant::now();
            let copying = desk.copying();
            if copying.journal.is_some() {
                return Err(Error::Unsupported(
                    "a snapshot of this store is being taken already: wait for it".to_owned(),
                ));
            }
            copying.journal = Some(journal);
            copying.holds += 1;
            Ok(begun.elapsed())
        })?;
        Ok(Self { writer, journal: id, held })
    }

    /// Ends the journal: this is the moment that the snapshot is of. What was changed before it is durable in the store.
    fn end_journal(&self) -> Result<(File, Duration)> {
        let id = self.journal;
        let (journal, busy) = self.writer.run(Terms::default(), move |desk| {
            let begun = Instant::now();
            desk.sync()?;
            let journal = desk.copying().end_journal(id);
            Ok((journal, begun.elapsed()))
        })?;
        let reopened = || Error::Unavailable("its index was opened again meanwhile: try again".to_owned());
        let (file, spent) = journal.ok_or_else(reopened)?.finish()?;
        Ok((file, self.held + spent + busy))
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        // A writer that has stopped removes nothing any more either.
        let id = self.journal;
        let _ = self.writer.run(Terms::default(), move |desk| {
            let copying = desk.copying();
            copying.end_journal(id);
            copying.holds = copying.holds.saturating_sub(1);
            Ok(())
        });
    }
}
