//! Content that no record names.
//!
//! A store that is closed leaves none. One that was cut off in an upload can: the file is there, and its record was not synced;
//! so whether the last life ended by itself is written down ([`Cut`]), and the next collection looks, once.
//!
//! Files and chunks are listed first, then the records in the order in which content goes from one to the next: an upload or a
//! leftover becomes a manifest's or a blob's, and theirs becomes a leftover, which is looked at once more. What is named nowhere
//! along this way, and is still there at its end, is nobody's.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::sync::Arc;

use ::sled::IVec;
use uuid::Uuid;

use super::changes::Changes;
use super::desk::Desk;
use super::folder;
use super::index::Index;
use super::leftovers;
use super::rewrite::page;
use super::schema::{self, CUT_KEY, Content, Cut, Layer, Leftover, Manifest, Placement, Tree, Upload};
use super::store::{Core, REMOVE, Shared};
use super::verify::Orphan;
use crate::error::{Error, Result};

/// How many ids are looked at at a time, about. Tests have several partitions.
const PARTITION: u64 = if cfg!(test) { 4 } else { 1 << 19 };

/// How many files are listed between two breaths.
const BREATH: usize = 256;

/// Who has orphans looked for.
pub(super) trait Searcher {
    /// So many records were looked at. An error ends the search.
    fn looked_at(&mut self, records: u64) -> Result<()>;
    fn found(&mut self, orphan: Orphan);
}

/// Looks for all orphans, on a store in use, and removes them where it is told to and every record could be read. What is in
/// quarantine stays for people to look at.
pub(super) fn search(shared: &Arc<Shared>, remove: bool, searcher: &mut dyn Searcher) -> Result<()> {
    let core = &shared.core;
    strays(core, searcher)?;
    let mut count = 0;
    ids(core, searcher, |_| count += 1)?;
    let partitions = count / PARTITION + 1;
    for partition in 0..partitions {
        let mut nobodys = HashSet::new();
        // The low bits are random; the high ones are the time.
        ids(core, searcher, |id| {
            if id.as_u128() % u128::from(partitions) == u128::from(partition) {
                nobodys.insert(id);
            }
        })?;
        let certain = take_out_named(core, searcher, &mut nobodys)?;
        for id in nobodys {
            let found = places(core, id)?;
            let removes = remove && certain && found.iter().any(|orphan| !orphan.quarantined);
            if removes {
                let core = Arc::clone(core);
                shared.writer.run(REMOVE, move |desk| give_up(&core, desk, id))?;
            }
            for orphan in found {
                searcher.found(Orphan { removed: removes && !orphan.quarantined, ..orphan });
            }
        }
    }
    Ok(())
}

/// Takes out the ids that a record names. Whether all records could be read: what one names that cannot be is not known, and then
/// all that seems to be nobody's may be its.
fn take_out_named(core: &Core, searcher: &mut dyn Searcher, nobodys: &mut HashSet<Uuid>) -> Result<bool> {
    let mut certain = true;
    for tree in [Tree::Uploads, Tree::Leftovers, Tree::Manifests, Tree::Layers, Tree::Leftovers] {
        let mut after: Option<IVec> = None;
        while !nobodys.is_empty() {
            let entries = core.read(|index| page(index, tree, after.as_deref()))?;
            let Some((last, _)) = entries.last() else { break };
            after = Some(last.clone());
            for (key, value) in &entries {
                match content_of(tree, key, value) {
                    Ok(id) => {
                        nobodys.remove(&id);
                    }
                    Err(_) => certain = false,
                }
            }
            searcher.looked_at(entries.len() as u64)?;
        }
    }
    Ok(certain)
}

/// Tells of what is among content and is not the store's: that is never removed.
fn strays(core: &Core, searcher: &mut dyn Searcher) -> Result<()> {
    for (number, entry) in core.folder.entries().map_err(unlisted)?.enumerate() {
        let entry = entry.map_err(unlisted)?;
        if folder::id_of(&entry).is_none() {
            let path = entry.path();
            let place = path.strip_prefix(core.folder.path()).unwrap_or(&path).display().to_string();
            let quarantined = !path.starts_with(core.folder.content_folder());
            let bytes = entry.metadata().map_or(0, |found| found.len());
            searcher.found(Orphan { place, bytes, quarantined, stray: true, removed: false });
        }
        if number % BREATH == 0 {
            searcher.looked_at(0)?;
        }
    }
    Ok(())
}

fn unlisted(error: io::Error) -> Error {
    Error::io("listing content")(error)
}

/// Shows the ids of all content that there is.
fn ids(core: &Core, searcher: &mut dyn Searcher, mut see: impl FnMut(Uuid)) -> Result<()> {
    for (number, entry) in core.folder.entries().map_err(unlisted)?.enumerate() {
        if let Some(id) = folder::id_of(&entry.map_err(unlisted)?) {
            see(id);
        }
        if number % BREATH == 0 {
            searcher.looked_at(0)?;
        }
    }
    let mut after: Option<Vec<u8>> = None;
    loop {
        let next = core.read(|index| {
            let mut chunks = index.scan(Tree::Chunks, &[], after.as_deref())?;
            chunks.next().transpose().map(|entry| entry.map(|(key, _)| key.to_vec()))
        })?;
        let Some(key) = next else { return Ok(()) };
        match schema::chunk_of_key(&key).map(|(id, _)| id) {
            Ok(id) => {
                see(id);
                // After the last chunk that it could have.
                after = Some(schema::chunk_key(id, u32::MAX));
            }
            Err(_) => after = Some(key),
        }
    }
}

fn content_of(tree: Tree, key: &[u8], value: &[u8]) -> Result<Uuid> {
    Ok(match tree {
        Tree::Uploads => schema::decode::<Upload>(value)?.placement.id(),
        Tree::Manifests => schema::decode::<Manifest>(value)?.content.placement.id(),
        Tree::Layers => schema::decode::<Layer>(value)?.content.placement.id(),
        _ => schema::session_of_key(key)?,
    })
}

/// Has content removed that nobody names, as what is left over is.
fn give_up(core: &Core, desk: &mut Desk<'_>, id: Uuid) -> Result<()> {
    for placement in [Placement::File(id), Placement::Inline(id)] {
        let there = match placement {
            Placement::File(id) => core.folder.content(id).exists(),
            Placement::Inline(id) => {
                desk.index().scan(Tree::Chunks, &schema::id_key(id), None)?.next().transpose()?.is_some()
            }
        };
        if there {
            let leftover = Leftover { content: Content { placement, size: 0 }, manifest: None };
            leftovers::reserve(desk, &leftover)?;
            leftovers::give_up(desk, leftover)?;
        }
    }
    Ok(())
}

/// Where content still is that nobody names.
fn places(core: &Core, id: Uuid) -> Result<Vec<Orphan>> {
    let name = id.simple();
    let mut found = Vec::new();
    let files = [
        (core.folder.content(id), format!("content/{name}"), false),
        (core.folder.quarantined(id), format!("quarantine/{name}"), true),
    ];
    for (path, place, quarantined) in files {
        if let Ok(metadata) = fs::metadata(path) {
            found.push(Orphan { place, bytes: metadata.len(), quarantined, stray: false, removed: false });
        }
    }
    let bytes = core.read(|index| {
        let chunks = index.scan(Tree::Chunks, &schema::id_key(id), None)?;
        chunks.map(|entry| entry.map(|(_, chunk)| chunk.len() as u64)).sum::<Result<u64>>()
    })?;
    if bytes > 0 {
        let place = format!("{} {id}", Tree::Chunks.name());
        found.push(Orphan { place, bytes, quarantined: false, stray: false, removed: false });
    }
    Ok(found)
}

/// Notes at an opening that a life begins, which may be cut off: and if the one before was, that there may be orphans until a
/// collection has looked.
pub(super) fn begin_life(desk: &mut Desk<'_>) -> Result<()> {
    // A store that has just been made has none.
    let before = desk.index().get::<Cut>(CUT_KEY)?;
    let orphans = before.is_some_and(|before| before.orphans || !before.ended);
    note(desk, &Cut { ended: false, orphans })
}

/// Notes that a life ends by itself, when nothing else will be changed.
pub(super) fn end_life(desk: &mut Desk<'_>) -> Result<()> {
    let orphans = may_be_there(desk.index())?;
    note(desk, &Cut { ended: true, orphans })
}

/// Removes what lives that were cut off may have left, or only looks; nothing where none was since it was done last.
pub(super) fn clear(shared: &Arc<Shared>, dry_run: bool, searcher: &mut dyn Searcher) -> Result<()> {
    let reopened = shared.core.reopened();
    if !shared.core.read(may_be_there)? {
        return Ok(());
    }
    search(shared, !dry_run, searcher)?;
    if dry_run {
        return Ok(());
    }
    shared.writer.run(REMOVE, move |desk| match desk.check_reopened(reopened) {
        Ok(()) => note(desk, &Cut { ended: false, orphans: false }),
        // An index that was opened again meanwhile may have lost the records of more.
        Err(_) => Ok(()),
    })
}

fn may_be_there(index: &Index) -> Result<bool> {
    Ok(index.get::<Cut>(CUT_KEY)?.is_some_and(|cut| cut.orphans))
}

fn note(desk: &mut Desk<'_>, cut: &Cut) -> Result<()> {
    let mut changes = Changes::new();
    changes.set(CUT_KEY.to_vec(), cut)?;
    desk.apply(&changes)
}
