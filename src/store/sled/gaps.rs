//! Whether sled, opening its log, would pass over something that had been synced (D10).
//!
//! When it opens, sled makes the messages of its log again, from where the last opening had come to. At a place that is damaged it
//! stops, or goes on with the next segment, and says nothing: that is what a power cut leaves at the end of a log, where nothing
//! was acknowledged. A block that goes bad later, in what was acknowledged long ago, looks the same to it; what was behind it is
//! gone, and is soon written over.
//!
//! Here they are told apart. The first change after each data sync has a *mark* in front of it, an entry whose number grows by
//! one. So what stands before a mark in the log, and before a later one, was synced when that later one was written: no power cut
//! leaves a gap there. One kind of gap is no damage all the same: a segment that is free is written over in pieces. Of that one no
//! page is in use.
//!
//! What is missing at the end of a log has no mark behind it. So an index that is closed has the number of its last mark in a
//! file of its own, until the next opening.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::fs::{self, File};
use std::io::Write as _;
use std::io::{self, ErrorKind};
use std::path::Path;

use uuid::Uuid;

use super::index::SEGMENT_SIZE;
use super::log::{self, Body, Header, LONGEST_HEADER, Message, SEGMENT_HEADER, Segment};
use super::schema::{SYNCED_KEY, number_of_synced};

/// A mark's message is not longer, where it stands alone or its page has nothing else.
const LONGEST_MARK: usize = 256;

/// The file beside the log in which its secret is. Behind a gap any bytes are read, those of blobs that somebody pushed among
/// them: without the secret he could write marks there, and a store that was cut off would not open again.
const SECRET: &str = "secret";

/// The secret that the marks of the index in `folder` have, if there is one.
pub(super) fn secret(folder: &Path) -> io::Result<Option<Uuid>> {
    match fs::read(folder.join(SECRET)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        // One that went bad is as good as none: from here on there is another.
        text => Ok(std::str::from_utf8(&text?).ok().and_then(|text| text.parse().ok())),
    }
}

/// Makes one. The folder is the caller's to sync.
pub(super) fn make_secret(folder: &Path) -> io::Result<Uuid> {
    let secret = Uuid::new_v4();
    let mut file = File::create(folder.join(SECRET))?;
    file.write_all(secret.to_string().as_bytes())?;
    file.sync_all()?;
    Ok(secret)
}

/// The file beside the log in which the number of the last mark is, of an index that was closed and has not been opened since.
const SEALED: &str = "sealed";

/// Notes that the index in `folder` is closed, all of it durable up to this mark. The folder is the caller's to sync.
pub(super) fn note_sealed(folder: &Path, number: u64) -> io::Result<()> {
    let mut file = File::create(folder.join(SEALED))?;
    file.write_all(number.to_string().as_bytes())?;
    file.sync_all()
}

/// To be called before sled opens the log: from its next snapshot on, the last mark is looked for no more.
pub(super) fn forget_sealed(folder: &Path) -> io::Result<()> {
    match fs::remove_file(folder.join(SEALED)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Where the log of an index lacks what was synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gap {
    /// From this byte of the file `db` on.
    At(u64),
    /// At its end.
    End,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(offset) => write!(f, "byte {offset} of its file \"db\" went bad after it was written"),
            Self::End => {
                write!(f, "its file \"db\" lacks the end of what was written before the store was closed")
            }
        }
    }
}

/// Looks whether the log of the index in `folder` lacks something that was synced; where it has no secret yet, nobody can tell.
pub(super) fn find(folder: &Path) -> io::Result<Option<Gap>> {
    secret(folder)?.map_or(Ok(None), |secret| find_gap(folder, secret))
}

/// It reads what sled itself reads to open it, a segment at a time.
fn find_gap(folder: &Path, secret: Uuid) -> io::Result<Option<Gap>> {
    let file = match File::open(folder.join("db")) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let segments = segments(&file, recovered(folder)? / SEGMENT_SIZE as u64)?;
    let mut gaps = Vec::new();
    let mut marks = Marks::default();
    for (number, place) in &segments {
        let segment = Segment::read(&file, place.start)?;
        let position = |at: usize| number * SEGMENT_SIZE as u64 + at as u64;
        let mut end = Some(SEGMENT_HEADER);
        let mut gap = place.headless.then_some(0);
        for message in segment.messages(*number) {
            gap = gap.or(message.gap);
            end = (!message.is_cap()).then_some(message.end);
            if let Some(number) = mark(&message, secret) {
                marks.add(position(message.begin), number);
            }
        }
        if let Some(at) = gap.or(end).filter(|at| *at < SEGMENT_SIZE - LONGEST_HEADER) {
            gaps.push(Suspect { segment: *number, position: position(at), offset: place.start + at as u64 });
        }
    }
    gaps.retain(|gap| gap.position < marks.synced);
    if let Some(offset) = first_in_use(&file, &segments, &gaps)? {
        return Ok(Some(Gap::At(offset)));
    }
    let sealed = fs::read_to_string(folder.join(SEALED)).ok().and_then(|number| number.parse::<u64>().ok());
    Ok(sealed.filter(|sealed| marks.highest < *sealed).map(|_| Gap::End))
}

/// The position in the log that the last opening came to; `0` if there is nothing to tell.
fn recovered(folder: &Path) -> io::Result<u64> {
    let mut newest = 0;
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let position = name.to_str().and_then(|name| name.strip_prefix("snap."));
        newest =
            newest.max(position.and_then(|position| u64::from_str_radix(position, 16).ok()).unwrap_or(0));
    }
    Ok(newest)
}

struct Place {
    start: u64,
    /// Its messages tell its number and its header does not: sled does not know of it.
    headless: bool,
}

/// The segments from that number on, by their numbers.
fn segments(file: &File, first: u64) -> io::Result<BTreeMap<u64, Place>> {
    let mut segments = BTreeMap::new();
    let mut headless = Vec::new();
    for start in (0..file.metadata()?.len()).step_by(SEGMENT_SIZE) {
        match log::header(file, start)? {
            Header::Number(number) if number >= first => {
                segments.insert(number, Place { start, headless: false });
            }
            Header::Number(_) => {}
            Header::Blank | Header::Damaged => headless.push(start),
        }
    }
    for start in headless {
        if let Some(number) = Segment::read(file, start)?.number().filter(|number| *number >= first) {
            segments.entry(number).or_insert(Place { start, headless: true });
        }
    }
    Ok(segments)
}

struct Suspect {
    segment: u64,
    position: u64,
    offset: u64,
}

#[derive(Default)]
struct Marks {
    highest: u64,
    last: u64,
    /// What stands before this position was synced before the highest mark was written.
    synced: u64,
}

impl Marks {
    /// By their positions.
    const fn add(&mut self, position: u64, number: u64) {
        if number > self.highest {
            self.highest = number;
            self.synced = self.last;
        }
        self.last = position;
    }
}

/// The number of the mark that a message writes.
fn mark(message: &Message<'_>, secret: Uuid) -> Option<u64> {
    if message.length() > LONGEST_MARK {
        return None;
    }
    let value = match message.body() {
        Body::Set(SYNCED_KEY, value) => Some(value),
        Body::Node(prefix, entries) => {
            entries.into_iter().find(|(key, _)| [prefix, key].concat() == SYNCED_KEY).map(|(_, value)| value)
        }
        _ => None,
    };
    value.and_then(|value| number_of_synced(value, secret))
}

/// The first of the gaps that is in a segment of which a page is in use: one that no later segment has anew.
fn first_in_use(file: &File, segments: &BTreeMap<u64, Place>, gaps: &[Suspect]) -> io::Result<Option<u64>> {
    let Some(first) = gaps.first() else { return Ok(None) };
    // By page, the gaps in whose segments it is in use, as far as is known.
    let mut pages: HashMap<u64, BTreeSet<usize>> = HashMap::new();
    for (number, place) in segments.range(first.segment..) {
        let gap = gaps.iter().position(|gap| gap.segment == *number);
        let segment = Segment::read(file, place.start)?;
        let mut empty = true;
        for message in segment.messages(*number).filter(Message::has_page) {
            empty = false;
            if message.frees() {
                pages.remove(&message.page);
            } else if message.replaces()
                && let Some(gaps) = pages.get_mut(&message.page)
            {
                gaps.retain(|of_page| Some(*of_page) == gap);
            }
            if let Some(gap) = gap.filter(|_| !message.frees()) {
                pages.entry(message.page).or_default().insert(gap);
            }
        }
        // Of a segment that has nothing left, nobody can say that it was free.
        if let Some(gap) = gap.filter(|_| empty).and_then(|gap| gaps.get(gap)) {
            return Ok(Some(gap.offset));
        }
    }
    let in_use = pages.into_values().flatten().min();
    Ok(in_use.and_then(|gap| gaps.get(gap)).map(|gap| gap.offset))
}

#[cfg(test)]
mod tests {
    use super::super::index::Index;
    use super::super::schema::Tree;
    use super::*;

    /// Somebody pushed blobs whose bytes were messages of sled's with marks in them; after a kill the store did not open.
    #[test]
    fn a_mark_counts_only_with_the_secret_of_its_index() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index");
        Index::create(&path).unwrap();
        let index = Index::open(&path, 1 << 20).unwrap();
        for number in 0..40_u8 {
            index.put(Tree::Tags, &[number], Some(&[7; 1000])).unwrap();
        }
        index.seal().unwrap();
        drop(index);
        let secret = secret(&path).unwrap().unwrap();
        assert_eq!(find_gap(&path, secret).unwrap(), None);

        let mut log = fs::read(path.join("db")).unwrap();
        log[8192..12288].fill(b'#');
        fs::write(path.join("db"), log).unwrap();
        assert!(matches!(find_gap(&path, secret).unwrap(), Some(Gap::At(_))));
        assert_eq!(find_gap(&path, Uuid::new_v4()).unwrap(), Some(Gap::End));
        forget_sealed(&path).unwrap();
        assert_eq!(find_gap(&path, Uuid::new_v4()).unwrap(), None);
    }
}
