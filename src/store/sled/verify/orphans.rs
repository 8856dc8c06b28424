//! Content that no record names.
//!
//! Files and chunks are listed first, then the records in the order in which content goes from one to the next: an upload or a
//! leftover becomes a manifest's or a blob's, and theirs becomes a leftover, which is looked at once more. What is named nowhere
//! along this way, and is still there at its end, is nobody's.

use std::collections::HashSet;
use std::fs;
use std::io;

use uuid::Uuid;

use super::super::desk::Desk;
use super::super::leftovers;
use super::super::schema::{self, Content, Layer, Leftover, Manifest, Placement, Tree, Upload};
use super::super::store::Core;
use super::{Orphan, Run};
use crate::error::{Error, Result};

/// How many ids are looked at at a time, about. Tests have several partitions.
const PARTITION: u64 = if cfg!(test) { 4 } else { 1 << 19 };

impl Run<'_> {
    pub(super) fn orphans(&mut self) -> Result<()> {
        let mut count = 0;
        self.ids(|_| count += 1)?;
        let partitions = count / PARTITION + 1;
        for partition in 0..partitions {
            let mut nobodys = HashSet::new();
            // What a record names that cannot be read is not known: then all that seems to be nobody's may be its.
            let mut certain = true;
            // The low bits are random; the high ones are the time.
            self.ids(|id| {
                if id.as_u128() % u128::from(partitions) == u128::from(partition) {
                    nobodys.insert(id);
                }
            })?;
            for tree in [Tree::Uploads, Tree::Leftovers, Tree::Manifests, Tree::Layers, Tree::Leftovers] {
                if nobodys.is_empty() {
                    break;
                }
                self.pages(tree, |_, page| {
                    for (key, value) in page {
                        match content_of(tree, &key, &value) {
                            Ok(id) => {
                                nobodys.remove(&id);
                            }
                            Err(_) => certain = false,
                        }
                    }
                    Ok(())
                })?;
            }
            for id in nobodys {
                let found = places(self.core(), id)?;
                let removes = self.repair && certain && found.iter().any(|orphan| !orphan.is_quarantined);
                if removes {
                    self.at_desk(move |core, desk| remove(core, desk, id))?;
                }
                for Place { place, bytes, is_quarantined } in found {
                    self.report.add_orphan(Orphan { place, bytes, removed: removes && !is_quarantined });
                }
            }
        }
        Ok(())
    }

    /// Shows the ids of all content that there is.
    fn ids(&mut self, mut see: impl FnMut(Uuid)) -> Result<()> {
        let failed = |error: io::Error| Error::io("listing content")(error);
        for (number, id) in self.core().folder.ids().map_err(failed)?.enumerate() {
            see(id.map_err(failed)?);
            if number % super::PAGE == 0 {
                self.done(0)?;
            }
        }
        let mut after: Option<Vec<u8>> = None;
        loop {
            let next = self.core().read(|index| {
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
fn remove(core: &Core, desk: &mut Desk<'_>, id: Uuid) -> Result<()> {
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

struct Place {
    place: String,
    bytes: u64,
    is_quarantined: bool,
}

/// Where content still is that nobody names.
fn places(core: &Core, id: Uuid) -> Result<Vec<Place>> {
    let name = id.simple();
    let mut found = Vec::new();
    let files = [
        (core.folder.content(id), format!("content/{name}"), false),
        (core.folder.quarantined(id), format!("quarantine/{name}"), true),
    ];
    for (path, place, is_quarantined) in files {
        if let Ok(metadata) = fs::metadata(path) {
            found.push(Place { place, bytes: metadata.len(), is_quarantined });
        }
    }
    let bytes = core.read(|index| {
        let chunks = index.scan(Tree::Chunks, &schema::id_key(id), None)?;
        chunks.map(|entry| entry.map(|(_, chunk)| chunk.len() as u64)).sum::<Result<u64>>()
    })?;
    if bytes > 0 {
        found.push(Place { place: format!("{} {id}", Tree::Chunks.name()), bytes, is_quarantined: false });
    }
    Ok(found)
}
