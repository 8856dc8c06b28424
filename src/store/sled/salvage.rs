//! What can still be read of a damaged index.
//!
//! It is read from a copy, for opening it writes. sled finds most damage by its checksums, and reports it; some of it it only
//! meets as a state that it takes for impossible, and panics. Both end the reading of one tree from one side, and nothing else.

use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use ::sled::{Config, Db, IVec};

use super::changes::Changes;
use super::index::SEGMENT_SIZE;
use super::log;
use super::rewrite::Rewrite;
use super::schema::{MAX_VALUE, SYNCED_KEY, Tree, number_of_synced};
use super::wal;
use crate::error::{Error, Result};

/// How much of an index could be read.
#[derive(Debug, Default)]
pub(super) struct Salvaged {
    pub(super) entries: u64,
    /// The number of the last mark, if sled opened.
    pub(super) mark: Option<u64>,
    /// What could not be read, in words. Empty if nothing was in the way.
    pub(super) damage: Vec<String>,
}

/// Copies what can be read of the index at `path`, which is a copy itself, into a new one.
pub(super) fn salvage(path: &Path, into: &Rewrite) -> Result<Salvaged> {
    let mut salvaged = Salvaged::default();
    if !path.join("db").is_file() {
        salvaged.damage.push("the index has no file \"db\"".to_owned());
        return Ok(salvaged);
    }
    let beyond = File::open(path.join("db")).and_then(|file| log::find_beyond(&file));
    if let Some(offset) = beyond.map_err(Error::io("reading the log of the index"))? {
        salvaged
            .damage
            .push(format!("byte {offset} of the index's file \"db\" begins a page that there cannot be"));
        return Ok(salvaged);
    }
    // A torn snapshot of sled's keeps it from opening; without any it reads its whole log instead.
    remove_snapshots(path, ".generating");
    let opened = open(path).or_else(|_| {
        remove_snapshots(path, "");
        open(path)
    });
    let db = match opened {
        Ok(db) => db,
        Err(reason) => {
            salvaged.damage.push(format!("the index does not open: {reason}"));
            return Ok(salvaged);
        }
    };
    let mark = catch_unwind(AssertUnwindSafe(|| db.get(SYNCED_KEY)));
    salvaged.mark = mark.ok().and_then(|mark| number_of_synced(&mark.ok()??));
    for tree in Tree::ALL {
        copy_tree(&db, tree, into, &mut salvaged)?;
    }
    // What failed inside may fail again while it is closed, and nothing of it is needed any more.
    if !salvaged.damage.is_empty() {
        std::mem::forget(db);
    }
    Ok(salvaged)
}

/// Makes the changes of the write-ahead log of the index at `path`: they are newer than whatever sled's log has.
pub(super) fn catch_up(path: &Path, into: &Rewrite, salvaged: &mut Salvaged) -> Result<()> {
    let window = match wal::read(path, None) {
        Ok(Some(window)) if salvaged.mark.is_none_or(|mark| window.number >= mark) => Ok(window),
        Ok(Some(_)) => Err("is older than its file \"db\"".to_owned()),
        Ok(None) => Err("has nothing that can be read".to_owned()),
        Err(error) => Err(format!("cannot be read: {error}")),
    };
    let window = match window {
        Ok(window) => window,
        Err(damage) => {
            salvaged.damage.push(format!("the index's file \"wal\" {damage}"));
            return Ok(());
        }
    };
    if let Some(offset) = window.gap {
        salvaged
            .damage
            .push(format!("byte {offset} of the index's file \"wal\" went bad after it was written"));
    }
    for (tree, key, value) in window.records.iter().flat_map(Changes::entries) {
        into.put(tree, key, value)?;
        salvaged.entries += u64::from(value.is_some());
    }
    Ok(())
}

fn remove_snapshots(path: &Path, ending: &str) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(ending) {
            // That it is still there will show when the index is opened.
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn open(path: &Path) -> std::result::Result<Db, String> {
    let config = Config::new().path(path).segment_size(SEGMENT_SIZE).flush_every_ms(None);
    match catch_unwind(AssertUnwindSafe(|| config.open())) {
        Ok(opened) => opened.map_err(|error| error.to_string()),
        Err(_) => Err("sled fails at its pages".to_owned()),
    }
}

fn copy_tree(db: &Db, tree: Tree, into: &Rewrite, salvaged: &mut Salvaged) -> Result<()> {
    let name = tree.name();
    if !db.tree_names().iter().any(|known| known.as_ref() == name.as_bytes()) {
        salvaged.damage.push(format!("{name} is missing"));
        return Ok(());
    }
    let opened = catch_unwind(AssertUnwindSafe(|| db.open_tree(name)));
    let Ok(Ok(opened)) = opened else {
        salvaged.damage.push(format!("{name} does not open"));
        return Ok(());
    };
    // From the beginning as far as it goes; and if that is not the end, from the end back as far as that goes.
    let mut last = None;
    let mut entries = opened.iter();
    let whole = copy_entries(
        || entries.next(),
        |key| {
            last = Some(key.clone());
            true
        },
        tree,
        into,
        salvaged,
    )?;
    if !whole {
        salvaged.damage.push(format!("a part of {name} cannot be read"));
        let mut entries = opened.iter();
        copy_entries(|| entries.next_back(), |key| Some(key) > last.as_ref(), tree, into, salvaged)?;
    }
    Ok(())
}

/// Copies entries until there are no more, or one is not wanted: then it is `true`; or until one cannot be read.
fn copy_entries(
    mut next: impl FnMut() -> Option<::sled::Result<(IVec, IVec)>>,
    mut wanted: impl FnMut(&IVec) -> bool,
    tree: Tree,
    into: &Rewrite,
    salvaged: &mut Salvaged,
) -> Result<bool> {
    loop {
        match catch_unwind(AssertUnwindSafe(&mut next)) {
            Ok(None) => return Ok(true),
            Ok(Some(Ok((key, _)))) if !wanted(&key) => return Ok(true),
            // A longer one is none of ours, and a new index would not take it.
            Ok(Some(Ok((key, value)))) if key.len() > MAX_VALUE || value.len() > MAX_VALUE => {}
            Ok(Some(Ok((key, value)))) => {
                into.put(tree, &key, Some(&value))?;
                salvaged.entries += 1;
            }
            Ok(Some(Err(_))) | Err(_) => return Ok(false),
        }
    }
}
