//! Content whose bytes are not its digest's: found out for certain, written down, and put aside.
//!
//! First the record says so, durably: from then on the blob or manifest counts as absent, clients push it again, and that heals it
//! (`Finished::publish` and `Put::publish` put the new content in the place of the old). Then the bytes move to `quarantine/<id>`,
//! for people to look at, until the blob is healed or deleted: then they go as all retired content does. A kill in between
//! leaves them where they were, and the next verification moves them.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;

use super::accounts::{self, Tally};
use super::changes::Changes;
use super::content;
use super::desk::Desk;
use super::index::{Index, WINDOW};
use super::schema::{self, Content, Layer, MAX_VALUE, Manifest, Placement, Timestamp, Tree, damaged};
use super::store::{Core, REMOVE, Shared};
use crate::error::{Error, Result};
use crate::oci::{self, Digest, Hasher, RepositoryName};

/// Whose content it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Blob(Digest),
    Manifest(RepositoryName, Digest),
}

/// Content, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owned {
    pub(super) owner: Owner,
    pub(super) content: Content,
}

impl Owned {
    pub(super) const fn blob(digest: &Digest, layer: &Layer) -> Self {
        Self { owner: Owner::Blob(*digest), content: layer.content }
    }

    pub(super) fn manifest(repository: &RepositoryName, digest: &Digest, manifest: &Manifest) -> Self {
        Self { owner: Owner::Manifest(repository.clone(), *digest), content: manifest.content }
    }

    pub(super) const fn digest(&self) -> &Digest {
        match &self.owner {
            Owner::Blob(digest) | Owner::Manifest(_, digest) => digest,
        }
    }

    /// How messages call it.
    pub(super) fn name(&self) -> String {
        match &self.owner {
            Owner::Blob(digest) => format!("blob {digest}"),
            Owner::Manifest(repository, digest) => format!("manifest {digest} in {repository}"),
        }
    }

    /// What the index says of it: `None` where another content or none has taken its place, and else whether it is quarantined.
    pub(super) fn quarantined(&self, index: &Index) -> Result<Option<bool>> {
        let (content, quarantined_at) = match &self.owner {
            Owner::Blob(digest) => match index.get::<Layer>(&schema::digest_key(digest))? {
                Some(layer) => (layer.content, layer.quarantined_at),
                None => return Ok(None),
            },
            Owner::Manifest(repository, digest) => {
                match index.get::<Manifest>(&schema::digest_within(repository, digest))? {
                    Some(manifest) => (manifest.content, manifest.quarantined_at),
                    None => return Ok(None),
                }
            }
        };
        Ok((content == self.content).then_some(quarantined_at.is_some()))
    }

    /// Writes down that the bytes are bad, if the record still names them and does not say so yet.
    pub(super) fn mark(&self, desk: &mut Desk<'_>) -> Result<bool> {
        if self.quarantined(desk.index())? != Some(false) {
            return Ok(false);
        }
        let (tree, key) = match &self.owner {
            Owner::Blob(digest) => (Tree::Layers, schema::digest_key(digest)),
            Owner::Manifest(repository, digest) => {
                (Tree::Manifests, schema::digest_within(repository, digest))
            }
        };
        desk.apply(&marking(desk.index(), tree, &key)?)?;
        Ok(true)
    }
}

/// The changes that write down in a blob's or a manifest's record, which does not say so yet, that its bytes are bad.
pub(super) fn marking(index: &Index, tree: Tree, key: &[u8]) -> Result<Changes> {
    let quarantined_at = Some(Timestamp::now());
    let (mut changes, mut tally) = (Changes::new(), Tally::new());
    if tree == Tree::Layers {
        if let Some(layer) = index.get::<Layer>(key)? {
            tally.quarantined(&layer.content);
            changes.set(key.to_vec(), &Layer { quarantined_at, ..layer })?;
        }
    } else if let Some(manifest) = index.get::<Manifest>(key)? {
        tally.quarantined(&manifest.content);
        changes.set(key.to_vec(), &Manifest { quarantined_at, ..manifest })?;
    }
    tally.add_to(index, &mut changes)?;
    Ok(changes)
}

/// What reading content from its first byte to its last has shown.
#[derive(Debug)]
pub(super) enum Reading {
    Good,
    /// Its bytes are not the digest's, or not all there; the words say how that shows.
    Bad(String),
    /// It could not be read, which says nothing about its bytes.
    Failed(Error),
    /// `pause` did not want to go on.
    Stopped,
}

/// How much is read at once, in bytes.
const PIECE: usize = 256 << 10;

/// Reads all of the content. `pause` is told of each piece.
pub(super) fn read_all(core: &Core, owned: &Owned, pause: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Reading {
    let outcome = try_read_all(core, owned, pause);
    match outcome {
        Ok(reading) => reading,
        Err(Error::Damaged { reason, .. }) => Reading::Bad(reason),
        Err(error) => Reading::Failed(error),
    }
}

fn try_read_all(
    core: &Core,
    owned: &Owned,
    pause: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<Reading> {
    let Content { placement, size } = owned.content;
    let file = match placement {
        Placement::Inline(_) => None,
        Placement::File(id) => {
            let file = content::open_file(core, id)?;
            content::check_length(id, &file, size)?;
            Some(file)
        }
    };
    let mut hasher = Hasher::new(owned.digest().algorithm());
    let mut buffer = vec![0; usize::try_from(size).map_or(PIECE, |size| size.min(PIECE))];
    let mut position = 0;
    while position < size {
        let left = usize::try_from(size - position).unwrap_or(PIECE);
        let Some(piece) = buffer.get_mut(..left.min(PIECE)) else { break };
        let id = placement.id();
        match &file {
            Some(file) => file.read_exact_at(piece, position).map_err(|error| match error.kind() {
                // It was cut since its length was looked at.
                ErrorKind::UnexpectedEof => damaged(&format!("content {id}"), "it ends before its end"),
                _ => Error::io(format!("reading content {id}"))(error),
            })?,
            None => core.read(|index| content::read_chunks(index, id, position, piece))?,
        }
        hasher.update(piece);
        position += piece.len() as u64;
        if pause(piece.len() as u64).is_break() {
            return Ok(Reading::Stopped);
        }
    }
    let found = hasher.finish();
    Ok(if found == *owned.digest() {
        Reading::Good
    } else {
        Reading::Bad(format!("its bytes have the digest {found}"))
    })
}

/// Looks again at content that somebody found bad, and quarantines it if that is so: then says why. A disk that fails to read it
/// twice in a row has lost it; any other failure to read says nothing about it, and so does content that is no longer anybody's.
///
/// # Errors
/// What writing that down or putting it aside fails with.
pub(super) fn doubt(shared: &Shared, owned: &Owned) -> Result<Option<String>> {
    if shared.core.read(|index| owned.quarantined(index))? != Some(false) {
        return Ok(None);
    }
    let again = || {
        forget_pages(&shared.core, owned);
        read_all(&shared.core, owned, &mut |_| ControlFlow::Continue(()))
    };
    let reading = match again() {
        Reading::Failed(error) if content::is_damage(&error) => again(),
        reading => reading,
    };
    let why = match reading {
        Reading::Bad(why) => why,
        Reading::Failed(error) if content::is_damage(&error) => error.to_string(),
        Reading::Failed(_) | Reading::Good | Reading::Stopped => return Ok(None),
    };
    let marking = owned.clone();
    if !shared.writer.run(REMOVE, move |desk| marking.mark(desk))? {
        // Somebody else did, or it is not anybody's any more.
        return Ok(None);
    }
    shared.core.room.shrink(accounts::file_bytes(&owned.content, None));
    // Bytes that cannot be moved now stay where they are, and the next verification moves them.
    let _ = put_aside(shared, owned);
    Ok(Some(why))
}

/// Before a blob is pushed: if it is there and does not look whole, though nobody has noticed yet, it is quarantined, so that what
/// is pushed takes its place.
pub(super) fn notice_blob(shared: &Shared, digest: &Digest) -> Result<()> {
    let core = &shared.core;
    match core.read(|index| index.get::<Layer>(&schema::digest_key(digest)))? {
        Some(layer) if !content::looks_whole(core, digest, &layer.content)? => {
            doubt(shared, &Owned::blob(digest, &layer)).map(|_| ())
        }
        _ => Ok(()),
    }
}

/// The same before a manifest is put, whose bytes are known.
pub(super) fn notice_manifest(
    shared: &Shared,
    repository: &RepositoryName,
    manifest: &oci::Manifest,
) -> Result<()> {
    let core = &shared.core;
    let key = schema::digest_within(repository, manifest.digest());
    let Some(recorded) = core.read(|index| index.get::<Manifest>(&key))? else { return Ok(()) };
    match core.read(|index| content::read_whole(index, core, &recorded.content)) {
        Ok(bytes) if bytes == **manifest.bytes() => Ok(()),
        Err(error) if !content::is_damage(&error) => Err(error),
        _ => doubt(shared, &Owned::manifest(repository, manifest.digest(), &recorded)).map(|_| ()),
    }
}

/// What was bad in memory only is good when it is read from the disk.
fn forget_pages(core: &Core, owned: &Owned) {
    if let Placement::File(id) = owned.content.placement
        && let Ok(file) = File::open(core.folder.content(id))
    {
        // Advice only.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
    }
}

/// Moves the bytes of quarantined content out of the way, as far as they are there; moves on what a kill left half-way.
pub(super) fn put_aside(shared: &Shared, owned: &Owned) -> Result<()> {
    let (folder, room) = (&shared.core.folder, &shared.core.room);
    let id = owned.content.placement.id();
    let aside = folder.quarantined(id);
    let failed = |error| Error::io(format!("moving content {id} to quarantine"))(error);
    match owned.content.placement {
        Placement::File(_) => {
            if !folder.content(id).exists() {
                return Ok(());
            }
            folder.make_quarantine().map_err(failed)?;
            match room.quarantine(&aside, || fs::rename(folder.content(id), &aside)) {
                // Healed, and removed, a moment ago.
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                outcome => outcome.map_err(failed)?,
            }
            folder.sync_quarantine().map_err(failed)?;
            folder.sync_content().map_err(failed)
        }
        Placement::Inline(_) => {
            let chunks =
                |index: &Index| Ok(index.scan(Tree::Chunks, &schema::id_key(id), None)?.next().is_some());
            if !shared.core.read(chunks)? {
                return Ok(());
            }
            let available = folder.available()?;
            let needed = shared.core.options.reserve.saturating_add(owned.content.size);
            if available < needed {
                return Err(Error::DiskFull { needed, available });
            }
            folder.make_quarantine().map_err(failed)?;
            // Of its length from the beginning: so much is counted, and removed if it is healed meanwhile.
            let file = room.quarantine(&aside, || {
                let file = File::create(&aside)?;
                file.set_len(owned.content.size).map(|()| file)
            });
            file.and_then(|file| write_out(shared, &owned.content, &file)).map_err(failed)?;
            folder.sync_quarantine().map_err(failed)?;
            if remove_chunks(shared, owned)? {
                return Ok(());
            }
            // Healed meanwhile: whoever removed the old content may not have seen the file.
            room.quarantine(&aside, || fs::remove_file(&aside))
                .or_else(|error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) })
                .map_err(failed)
        }
    }
}

/// Writes the chunks that there are to a file of the content's length, each at its place.
fn write_out(shared: &Shared, content: &Content, file: &File) -> std::io::Result<()> {
    let prefix = schema::id_key(content.placement.id());
    let mut after: Option<Vec<u8>> = None;
    loop {
        let next = shared.core.read(|index| {
            let mut chunks = index.scan(Tree::Chunks, &prefix, after.as_deref())?;
            chunks.next().transpose()
        });
        let Some((key, chunk)) = next.map_err(std::io::Error::other)? else { return file.sync_all() };
        let number = key.strip_prefix(prefix.as_slice()).unwrap_or_default();
        // What is no chunk's key, or of no chunk of its, is left out here; verification reports it.
        if let Ok(number) = number.try_into().map(u32::from_be_bytes) {
            let at = u64::from(number) * MAX_VALUE as u64;
            let within = usize::try_from(content.size.saturating_sub(at)).unwrap_or(usize::MAX);
            file.write_all_at(chunk.get(..within).unwrap_or(&chunk), at)?;
        }
        after = Some(number.to_vec());
    }
}

/// Removes the chunks of quarantined content; `false` if it is not that any more.
fn remove_chunks(shared: &Shared, owned: &Owned) -> Result<bool> {
    loop {
        let owned = owned.clone();
        let left = shared.writer.run(REMOVE, move |desk| {
            if owned.quarantined(desk.index())? != Some(true) {
                return Ok(None);
            }
            let mut changes = Changes::new();
            for entry in
                desk.index().scan(Tree::Chunks, &schema::id_key(owned.content.placement.id()), None)?
            {
                if changes.size() > WINDOW / 2 {
                    break;
                }
                changes.remove(Tree::Chunks, entry?.0.to_vec());
            }
            desk.apply(&changes)?;
            Ok(Some(!changes.is_empty()))
        })?;
        match left {
            Some(true) => {}
            Some(false) => return Ok(true),
            None => return Ok(false),
        }
    }
}
