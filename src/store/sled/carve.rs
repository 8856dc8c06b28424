//! Reading sled's log by its form, where sled itself gives up: at the first message that is damaged it takes the log for ended,
//! and opens as it was before that, without a word.
//!
//! The file is a row of segments, in each of which stand messages, one after the other: a header with the number of the segment
//! in the log's order, the page that it is about, and its length; then a page's new entries all together, or one entry that is
//! set or removed. They are made again in that order, as far as they can be read, page by page; in the end the entries of all
//! pages are sorted into trees by the form of their keys and records. A message counts when its checksum and its form are right
//! and it belongs to its segment; what an entry then says is checked as everything in a rescue is, by its digest. Where what is
//! missing removed something, that is there again.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::index::SEGMENT_SIZE;
use super::rewrite::Rewrite;
use super::schema::{self, Link, MAX_VALUE, Manifest, Tag, Tree};
use crate::error::{Error, Result};

/// What a segment begins with, before its first message.
const SEGMENT_HEADER: usize = 20;

const FREE: u8 = 4;
const NODE: u8 = 8;
const LINK: u8 = 10;
/// The last of the kinds of messages.
const LAST_KIND: u8 = 11;

/// No page that is ours is longer: sixteen entries of the longest.
const LONGEST_PAGE: usize = 256 << 10;

/// Whether there are places in the log that are no messages and have messages behind them, so that what sled reads may not be
/// all there is. (It leaves such places itself where it goes on after it was opened.) Then the entries of all pages, by page and
/// key, are in `pages`, in its tree [`Tree::Chunks`].
pub(super) fn carve(db: &Path, pages: &Rewrite) -> Result<bool> {
    let failed = |error| Error::io(format!("reading {}", db.display()))(error);
    let file = match File::open(db) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        file => file.map_err(failed)?,
    };
    let length = file.metadata().map_err(failed)?.len();
    let mut order = Vec::new();
    let mut damaged = false;
    for start in (0..length).step_by(SEGMENT_SIZE) {
        let segment = read_segment(&file, start).map_err(failed)?;
        if let Some(number) = number_of(&segment) {
            order.push((number, start));
            damaged |= messages(&segment, number).any(|message| message.after_gap);
        }
    }
    if damaged {
        order.sort_unstable();
        let mut prefixes = BTreeMap::new();
        for (number, start) in order {
            let segment = read_segment(&file, start).map_err(failed)?;
            for message in messages(&segment, number) {
                apply(&message, &mut prefixes, pages)?;
            }
        }
    }
    Ok(damaged)
}

fn read_segment(file: &File, start: u64) -> std::io::Result<Vec<u8>> {
    let mut segment = vec![0; SEGMENT_SIZE];
    let mut filled = 0;
    while let Some(rest) = segment.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, start + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    segment.truncate(filled);
    Ok(segment)
}

/// A message, and what it says of its page.
struct Message<'a> {
    segment: u64,
    page: u64,
    body: Body<'a>,
    length: usize,
    /// Whether there is something in front of it that is no message.
    after_gap: bool,
}

enum Body<'a> {
    /// What the keys of the page begin with, and all its entries without that.
    Node(&'a [u8], Vec<(&'a [u8], &'a [u8])>),
    Set(&'a [u8], &'a [u8]),
    Remove(&'a [u8]),
    Free,
    Other,
}

/// The segment's number in the log. What is left of the segment's former life has a lower one.
fn number_of(segment: &[u8]) -> Option<u64> {
    let mut at = SEGMENT_HEADER;
    let mut number = None;
    while let Some(rest) = segment.get(at..).filter(|rest| !rest.is_empty()) {
        match message(rest).filter(Message::has_form) {
            Some(found) => {
                number = number.max(Some(found.segment));
                at += found.length;
            }
            None => at += 1,
        }
    }
    number
}

fn messages(segment: &[u8], number: u64) -> impl Iterator<Item = Message<'_>> {
    let mut at = SEGMENT_HEADER;
    let mut gap = false;
    std::iter::from_fn(move || {
        while let Some(rest) = segment.get(at..).filter(|rest| !rest.is_empty()) {
            let found = message(rest).filter(|found| found.segment == number && (!gap || found.has_form()));
            if let Some(found) = found {
                at += found.length;
                return Some(Message { after_gap: std::mem::take(&mut gap), ..found });
            }
            at += 1;
            gap = true;
        }
        None
    })
}

impl Message<'_> {
    /// Whether it can be told from any bytes at all: its checksum alone is met by chance now and then.
    const fn has_form(&self) -> bool {
        matches!(self.body, Body::Node(..) | Body::Set(..))
    }
}

/// The message that some bytes begin with, if they do.
fn message(bytes: &[u8]) -> Option<Message<'_>> {
    let (checksum, rest) = bytes.split_first_chunk()?;
    let kind = *rest.first()?;
    if !(1..=LAST_KIND).contains(&kind) {
        return None;
    }
    let mut body = rest.get(1..)?;
    let (length, segment, page) = (varint(&mut body)?, varint(&mut body)?, varint(&mut body)?);
    let header = rest.get(..rest.len() - body.len())?;
    let body = body.get(..usize::try_from(length).ok()?)?;
    let length = checksum.len() + header.len() + body.len();
    // The form first: it is soon seen of most bytes that they have none.
    let meaning = match kind {
        NODE | LINK if body.len() > LONGEST_PAGE => return None,
        NODE => node(body)?,
        LINK => link(body)?,
        FREE => Body::Free,
        _ => Body::Other,
    };
    // sled adds up the body before the header, and undoes the inversion at the end.
    let sum = crc32(crc32(!0, body), header);
    (sum == u32::from_le_bytes(*checksum)).then_some(Message {
        segment,
        page,
        body: meaning,
        length,
        after_gap: false,
    })
}

/// Goes on with a checksum as zip files have it, before its last inversion.
fn crc32(sum: u32, bytes: &[u8]) -> u32 {
    #[expect(
        clippy::indexing_slicing,
        clippy::cast_possible_truncation,
        reason = "decided when it is compiled"
    )]
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut at = 0;
        while at < 256 {
            let (mut value, mut bit) = (at as u32, 0);
            while bit < 8 {
                value = if value & 1 == 1 { value >> 1 ^ 0xEDB8_8320 } else { value >> 1 };
                bit += 1;
            }
            table[at] = value;
            at += 1;
        }
        table
    };
    bytes.iter().fold(sum, |sum, byte| {
        let [low, ..] = sum.to_le_bytes();
        sum >> 8 ^ TABLE.get(usize::from(low ^ byte)).copied().unwrap_or_default()
    })
}

fn link(mut body: &[u8]) -> Option<Body<'_>> {
    let rest = &mut body;
    let found = match byte(rest)? {
        0 => Body::Set(counted(rest)?, counted(rest)?),
        1 => Body::Remove(counted(rest)?),
        // Pages that are merged say so in between.
        2 => {
            varint(rest)?;
            Body::Other
        }
        3 | 4 => Body::Other,
        _ => return None,
    };
    body.is_empty().then_some(found)
}

fn node(mut body: &[u8]) -> Option<Body<'_>> {
    let rest = &mut body;
    let (_next, _merging_child) = (varint(rest)?, varint(rest)?);
    let (merging, prefix) = (byte(rest)?, usize::from(byte(rest)?));
    let (low, _high) = (counted(rest)?, counted(rest)?);
    let (index, count) = (byte(rest)?, usize::try_from(varint(rest)?).ok()?);
    if merging > 1 || index > 1 || count > body.len() {
        return None;
    }
    let rest = &mut body;
    let prefix = low.get(..prefix)?;
    let keys = (0..count).map(|_| counted(rest)).collect::<Option<Vec<_>>>()?;
    if index == 1 {
        for _ in 0..count {
            varint(rest)?;
        }
        return body.is_empty().then_some(Body::Node(prefix, Vec::new()));
    }
    let values = (0..count).map(|_| counted(rest)).collect::<Option<Vec<_>>>()?;
    body.is_empty().then(|| Body::Node(prefix, keys.into_iter().zip(values).collect()))
}

fn byte(bytes: &mut &[u8]) -> Option<u8> {
    let (first, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(*first)
}

/// A number as sled writes it: the smaller it is, the shorter.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let first = byte(bytes)?;
    Some(match first {
        0..=240 => u64::from(first),
        241..=248 => 240 + 256 * (u64::from(first) - 241) + u64::from(byte(bytes)?),
        249 => 2288 + 256 * u64::from(byte(bytes)?) + u64::from(byte(bytes)?),
        _ => {
            let (number, rest) = bytes.split_at_checked(usize::from(first) - 247)?;
            *bytes = rest;
            let mut whole = [0; 8];
            whole.get_mut(..number.len())?.copy_from_slice(number);
            u64::from_le_bytes(whole)
        }
    })
}

fn counted<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(varint(bytes)?).ok().filter(|length| *length <= MAX_VALUE)?;
    let (found, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(found)
}

/// Makes a message's changes. Of a page whose entries have not been read all together, it is not known what the keys of single
/// ones begin with: those say nothing.
fn apply(message: &Message<'_>, prefixes: &mut BTreeMap<u64, Vec<u8>>, pages: &Rewrite) -> Result<()> {
    let page = message.page.to_be_bytes();
    let put = |prefix: &[u8], key: &[u8], value: Option<&[u8]>| {
        pages.put(Tree::Chunks, &[&page, prefix, key].concat(), value)
    };
    // Among what is missing, a page may have been written anew with another beginning.
    if message.after_gap {
        prefixes.clear();
    }
    match (&message.body, prefixes.get(&message.page)) {
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
