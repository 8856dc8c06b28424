//! Reading sled's log where sled itself gives up: at the first message that is damaged it takes the log for ended, and opens as it
//! was before that, without a word.
//!
//! The messages are made again in their order, as far as they can be read, page by page; in the end the entries of all pages are
//! sorted into trees by the form of their keys and records. What an entry then says is checked as everything in a rescue is, by
//! its digest. Where what is missing removed something, that is there again.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;

use super::index::SEGMENT_SIZE;
use super::log::{self, Body, Message, Segment};
use super::rewrite::Rewrite;
use super::schema::{self, Link, Manifest, Tag, Tree};
use crate::error::{Error, Result};

/// Whether there are places in the log that are no messages and have messages behind them, so that what sled reads may not be
/// all there is (it leaves such places itself where it goes on after it was opened), or sled is known not to read it all. Then the entries of all pages, by page and
/// key, are in `pages`, in its tree [`Tree::Chunks`].
pub(super) fn carve(index: &Path, pages: &Rewrite, is_damaged: bool) -> Result<bool> {
    let failed = |error| Error::io(format!("reading the log of the index {}", index.display()))(error);
    let file = match File::open(index.join("db")) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        file => file.map_err(failed)?,
    };
    let length = file.metadata().map_err(failed)?.len();
    let known = log::known(index, &file).map_err(failed)?;
    let mut order = Vec::new();
    let mut damaged = is_damaged;
    for start in (0..length).step_by(SEGMENT_SIZE) {
        let segment = Segment::read(&file, start).map_err(failed)?;
        if let Some(number) = segment.number(known) {
            order.push((number, start));
            damaged |= segment.messages(number).any(|message| message.gap.is_some());
        }
    }
    if damaged {
        order.sort_unstable();
        let mut prefixes = BTreeMap::new();
        for (number, start) in order {
            let segment = Segment::read(&file, start).map_err(failed)?;
            for message in segment.messages(number) {
                apply(&message, &mut prefixes, pages)?;
            }
        }
    }
    Ok(damaged)
}

/// Makes a message's changes. Of a page whose entries have not been read all together, it is not known what the keys of single
/// ones begin with: those say nothing.
fn apply(message: &Message<'_>, prefixes: &mut BTreeMap<u64, Vec<u8>>, pages: &Rewrite) -> Result<()> {
    let page = message.page.to_be_bytes();
    let put = |prefix: &[u8], key: &[u8], value: Option<&[u8]>| {
        pages.put(Tree::Chunks, &[&page, prefix, key].concat(), value)
    };
    // Among what is missing, a page may have been written anew with another beginning.
    if message.gap.is_some() {
        prefixes.clear();
    }
    match (message.body(), prefixes.get(&message.page)) {
        (Body::Set(key, value), Some(prefix)) => put(prefix, key, Some(value)),
        (Body::Remove(key), Some(prefix)) => put(prefix, key, None),
        (Body::Node(prefix, entries), _) => {
            clear(&page, pages)?;
            prefixes.insert(message.page, prefix.to_vec());
            entries.iter().try_for_each(|(key, value)| put(prefix, key, Some(value)))
        }
        (Body::Free, _) => {
            prefixes.remove(&message.page);
            clear(&page, pages)
        }
        (Body::Other | Body::Set(..) | Body::Remove(_), _) => Ok(()),
    }
}

fn clear(page: &[u8], pages: &Rewrite) -> Result<()> {
    let before: Vec<_> = pages.index().scan(Tree::Chunks, page, None)?.collect::<Result<_>>()?;
    before.iter().try_for_each(|(key, _)| pages.put(Tree::Chunks, key, None))
}

/// Adds to an index the entries of pages that it lacks, and that name or are content, and tags that were set later than it knows;
/// how many there were.
pub(super) fn sort_in(pages: &Rewrite, index: &Rewrite) -> Result<u64> {
    let mut added = 0;
    for entry in pages.index().scan(Tree::Chunks, &[], None)? {
        let (key, value) = entry?;
        let Some((_, key)) = key.split_first_chunk::<8>() else { continue };
        let Some(tree) = tree_of(key, &value) else { continue };
        let before = index.index().value(tree, key)?;
        if before.is_none_or(|before| tree == Tree::Tags && is_later_tag(&before, &value)) {
            index.put(tree, key, Some(&value))?;
            added += 1;
        }
    }
    Ok(added)
}

fn is_later_tag(before: &[u8], value: &[u8]) -> bool {
    match (schema::decode::<Tag>(before), schema::decode::<Tag>(value)) {
        (Ok(before), Ok(tag)) => before.updated_at.time() < tag.updated_at.time(),
        (Err(_), Ok(_)) => true,
        (_, Err(_)) => false,
    }
}

/// The tree that has keys and records of this form, of those that a rescue looks at.
fn tree_of(key: &[u8], value: &[u8]) -> Option<Tree> {
    if value.is_empty() {
        let is_use = schema::use_of_key(key).is_ok();
        return if is_use { Some(Tree::Uses) } else { schema::tagged_of_key(key).ok().map(|_| Tree::Tagged) };
    }
    if let Ok((id, _)) = schema::chunk_of_key(key)
        && id.get_version_num() == 7
    {
        return Some(Tree::Chunks);
    }
    if schema::digest_of_key(Tree::Manifests, key).is_ok() {
        let is_manifest = schema::decode::<Manifest>(value).is_ok();
        let is_link = schema::decode::<Link>(value).is_ok();
        return if is_manifest { Some(Tree::Manifests) } else { is_link.then_some(Tree::Links) };
    }
    let is_tag = schema::tag_of_key(key).is_ok() && schema::decode::<Tag>(value).is_ok();
    is_tag.then_some(Tree::Tags)
}
