//! sled's log by its form: for what sled itself does not tell.
//!
//! The file is a row of segments, in each of which stand messages, one after the other: a header with the number of the segment
//! in the log's order, the page that it is about, and its length; then a page's new entries all together, or one entry that is
//! set or removed. A message counts when its checksum is right and it belongs to its segment; behind a place that is no message,
//! only where its form is right too, for a checksum alone is met by chance now and then.
//!
//! The values in it are other people's bytes, and so are parts of keys; a segment is used again without being wiped. So behind the
//! end of the log, and behind a damaged place, may stand what somebody pushed to be read as messages, with checksums that are
//! right (D11). It is not, because he cannot know the segment's number: a log of ours begins at one drawn by chance out of 2^39, and
//! nobody is told what it is. sled looks at it in every message that it reads, and so does all that is here.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::index::SEGMENT_SIZE;
use super::schema::MAX_VALUE;

/// What a segment begins with, before its first message.
pub(super) const SEGMENT_HEADER: usize = 20;

/// The longest header of a message: where less is left of a segment, no message begins.
pub(super) const LONGEST_HEADER: usize = 32;

const CAP: u8 = 2;
const FREE: u8 = 4;
const COUNTER: u8 = 5;
const META: u8 = 6;
const NODE: u8 = 8;
const LINK: u8 = 10;
/// The last of the kinds of messages.
const LAST_KIND: u8 = 11;

/// No page that is ours is longer: sixteen entries of the longest.
const LONGEST_PAGE: usize = 256 << 10;

/// The least number of a log's first segment, and how many there are above it to draw from. Positions in the log are signed and
/// count bytes: behind the highest of them there is room for as much again, some exabytes.
const FIRST: u64 = 1 << 39;

/// No two segments of one log are further apart: it would be 64 TiB long.
const LONGEST_LOG: u64 = 1 << 24;

/// Makes the file of a new log in an empty folder: the header of its first segment, in which sled finds no messages, and goes on.
/// sled on its own begins at zero.
pub(super) fn begin(folder: &Path) -> io::Result<()> {
    let number = FIRST | (Uuid::new_v4().as_u64_pair().1 & (FIRST - 1));
    let position = ((number * SEGMENT_SIZE as u64) ^ (u64::MAX >> 1)).to_le_bytes();
    // The segment's own position, and up to where the log is stable.
    let rest = [position, position].concat();
    let mut file = File::create_new(folder.join("db"))?;
    file.write_all(&(!crc32fast::hash(&rest)).to_le_bytes())?;
    file.write_all(&rest)?;
    file.sync_all()
}

/// A segment, as far as the file has it.
pub(super) struct Segment {
    bytes: Vec<u8>,
}

/// What a segment's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Header {
    /// The segment's number in the log. What is left of the segment's former life has a lower one.
    Number(u64),
    /// Nothing has been written there, or it has been wiped.
    Blank,
    Damaged,
}

/// Reads the header of the segment that begins at `start`.
pub(super) fn header(file: &File, start: u64) -> io::Result<Header> {
    let mut bytes = [0; SEGMENT_HEADER];
    let filled = fill(file, &mut bytes, start)?;
    if bytes.iter().all(|byte| *byte == 0) || filled < bytes.len() {
        return Ok(Header::Blank);
    }
    let mut rest = bytes.as_slice();
    let checksum = rest.split_off(..4).and_then(|sum| sum.try_into().ok()).map(u32::from_le_bytes);
    let position = rest.first_chunk().map(|position| u64::from_le_bytes(*position) ^ (u64::MAX >> 1));
    let size = SEGMENT_SIZE as u64;
    Ok(match position {
        Some(position) if checksum == Some(!crc32fast::hash(rest)) && position % size == 0 => {
            Header::Number(position / size)
        }
        _ => Header::Damaged,
    })
}

/// The position in the log that the last opening came to, by the name of sled's snapshot; `None` where there is none.
pub(super) fn recovered(folder: &Path) -> io::Result<Option<u64>> {
    let mut newest = None;
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let position = name.to_str().and_then(|name| name.strip_prefix("snap."));
        newest = newest.max(position.and_then(|position| u64::from_str_radix(position, 16).ok()));
    }
    Ok(newest)
}

/// The newest of sled's snapshots, if its file is not as sled wrote it. sled then opens nothing, and does not say which file it is.
pub(super) fn find_bad_snapshot(folder: &Path) -> io::Result<Option<PathBuf>> {
    let mut newest = None;
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        if name.as_encoded_bytes().starts_with(b"snap.") {
            newest = newest.max(Some(name));
        }
    }
    let Some(path) = newest.map(|name| folder.join(name)) else { return Ok(None) };
    let mut file = BufReader::new(File::open(&path)?);
    // What it holds, how long that is in eight bytes, and its CRC-32.
    let length = file.get_ref().metadata()?.len().saturating_sub(12);
    let mut held = file.by_ref().take(length);
    let mut checksum = crc32fast::Hasher::new();
    loop {
        let piece = held.fill_buf()?;
        if piece.is_empty() {
            break;
        }
        checksum.update(piece);
        let read = piece.len();
        held.consume(read);
    }
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    let is_whole = length > 0 && end.last_chunk() == Some(&checksum.finalize().to_le_bytes());
    Ok((!is_whole).then_some(path))
}

/// The number of a segment that the log has had, whichever: for [`Segment::number`].
pub(super) fn known(folder: &Path, file: &File) -> io::Result<Option<u64>> {
    if let Some(position) = recovered(folder)? {
        return Ok(Some(position / SEGMENT_SIZE as u64));
    }
    for start in (0..file.metadata()?.len()).step_by(SEGMENT_SIZE) {
        if let Header::Number(number) = header(file, start)? {
            return Ok(Some(number));
        }
    }
    Ok(None)
}

/// The first byte of a message about a page that there cannot be.
pub(super) fn find_beyond(file: &File) -> io::Result<Option<u64>> {
    let length = file.metadata()?.len();
    for start in (0..length).step_by(SEGMENT_SIZE) {
        if let Header::Number(number) = header(file, start)?
            && let Some(found) =
                Segment::read(file, start)?.messages(number).find(|message| message.is_beyond(length))
        {
            return Ok(Some(start + found.begin as u64));
        }
    }
    Ok(None)
}

/// Reads as much as there is; how much it was.
fn fill(file: &File, bytes: &mut [u8], start: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, start + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

impl Segment {
    pub(super) fn read(file: &File, start: u64) -> io::Result<Self> {
        let mut bytes = vec![0; SEGMENT_SIZE];
        let filled = fill(file, &mut bytes, start)?;
        bytes.truncate(filled);
        Ok(Self { bytes })
    }

    /// The segment's number by its messages alone: one that may be of the log that has the segment `known`.
    pub(super) fn number(&self, known: Option<u64>) -> Option<u64> {
        let is_near = |number: u64| known.is_none_or(|known| number.abs_diff(known) < LONGEST_LOG);
        let mut at = SEGMENT_HEADER;
        let mut number = None;
        while let Some(rest) = self.bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let found = Message::at(rest, at).filter(|found| is_near(found.segment));
            match found.filter(Message::has_form).filter(Message::is_whole) {
                Some(found) => {
                    number = number.max(Some(found.segment));
                    at = found.end;
                }
                None => at += step(rest),
            }
        }
        number
    }

    /// The messages that belong to the segment by its number.
    pub(super) fn messages(&self, number: u64) -> impl Iterator<Item = Message<'_>> {
        let mut at = SEGMENT_HEADER;
        let mut gap = None;
        std::iter::from_fn(move || {
            while let Some(rest) = self.bytes.get(at..).filter(|rest| !rest.is_empty()) {
                let found = Message::at(rest, at)
                    .filter(|found| found.segment == number && (gap.is_none() || found.has_form()))
                    .filter(Message::is_whole);
                if let Some(found) = found {
                    at = found.end;
                    return Some(Message { gap: gap.take(), ..found });
                }
                gap.get_or_insert(at);
                at += step(rest);
            }
            None
        })
    }
}

/// How far behind a place where no message begins the next may.
fn step(bytes: &[u8]) -> usize {
    const BLANK: [u8; 4096] = [0; 4096];
    // A message has its kind behind its checksum, and that is not zero.
    if bytes.starts_with(&BLANK) { BLANK.len() - size_of::<u32>() } else { 1 }
}

/// A message, and what it says of its page.
pub(super) struct Message<'a> {
    segment: u64,
    pub(super) page: u64,
    kind: u8,
    checksum: u32,
    header: &'a [u8],
    body: &'a [u8],
    /// Where it begins and ends in its segment.
    pub(super) begin: usize,
    pub(super) end: usize,
    /// Where what is in front of it begins, if that is no message.
    pub(super) gap: Option<usize>,
}

pub(super) enum Body<'a> {
    /// What the keys of the page begin with, and all its entries without that.
    Node(&'a [u8], Vec<(&'a [u8], &'a [u8])>),
    Set(&'a [u8], &'a [u8]),
    Remove(&'a [u8]),
    Free,
    Other,
}

impl<'a> Message<'a> {
    /// The message that some bytes begin with, if they look so.
    fn at(bytes: &'a [u8], begin: usize) -> Option<Self> {
        let (checksum, rest) = bytes.split_first_chunk()?;
        let kind = *rest.first()?;
        if !(1..=LAST_KIND).contains(&kind) {
            return None;
        }
        let mut body = rest.get(1..)?;
        let (length, segment, page) = (varint(&mut body)?, varint(&mut body)?, varint(&mut body)?);
        let header = rest.get(..rest.len() - body.len())?;
        let body = body.get(..usize::try_from(length).ok()?)?;
        let end = begin + checksum.len() + header.len() + body.len();
        let checksum = u32::from_le_bytes(*checksum);
        Some(Self { segment, page, kind, checksum, header, body, begin, end, gap: None })
    }

    fn is_whole(&self) -> bool {
        // sled adds up the body before the header, and undoes the inversion at the end.
        let mut sum = crc32fast::Hasher::new();
        sum.update(self.body);
        sum.update(self.header);
        !sum.finalize() == self.checksum
    }

    /// Whether it can be told from any bytes at all, even where its checksum is met by chance.
    fn has_form(&self) -> bool {
        self.body.len() <= LONGEST_PAGE && matches!(self.body(), Body::Node(..) | Body::Set(..))
    }

    /// Whether nothing stands behind it in its segment.
    pub(super) const fn is_cap(&self) -> bool {
        self.kind == CAP
    }

    /// Whether it is about a page that was given up with it.
    pub(super) const fn frees(&self) -> bool {
        self.kind == FREE
    }

    /// Whether what was said of its page before counts no more.
    pub(super) const fn replaces(&self) -> bool {
        matches!(self.kind, FREE | COUNTER | META | NODE)
    }

    /// Whether it is about a page, and not about the log.
    pub(super) const fn has_page(&self) -> bool {
        self.kind >= FREE
    }

    /// Whether it is about a page that a log of this length has no room for: each page has a message, and pages are numbered from
    /// zero. sled would make a table of all up to it.
    pub(super) const fn is_beyond(&self, length: u64) -> bool {
        self.has_page() && self.page > length / 8
    }

    /// How long it is without its header.
    pub(super) const fn length(&self) -> usize {
        self.body.len()
    }

    pub(super) fn body(&self) -> Body<'a> {
        let body = match self.kind {
            NODE => node(self.body),
            LINK => link(self.body),
            FREE => Some(Body::Free),
            _ => None,
        };
        body.unwrap_or(Body::Other)
    }
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

/// Messages that say what somebody wants them to.
#[cfg(test)]
pub(super) mod forged {
    use super::{FREE, LINK};

    fn number(number: u64) -> Vec<u8> {
        [&[255], number.to_le_bytes().as_slice()].concat()
    }

    fn message(kind: u8, segment: u64, page: u64, body: &[u8]) -> Vec<u8> {
        let header = [vec![kind], number(body.len() as u64), number(segment), number(page)].concat();
        let checksum = !crc32fast::hash(&[body, &header].concat());
        [checksum.to_le_bytes().as_slice(), &header, body].concat()
    }

    /// That a page is given up.
    pub(in crate::store::sled) fn free(segment: u64, page: u64) -> Vec<u8> {
        message(FREE, segment, page, &[])
    }

    /// That an entry of a page is set.
    pub(in crate::store::sled) fn set(segment: u64, page: u64, key: &[u8], value: &[u8]) -> Vec<u8> {
        let [key_length, length] = [key.len() as u64, value.len() as u64].map(number);
        message(LINK, segment, page, &[&[0], key_length.as_slice(), key, &length, value].concat())
    }
}
