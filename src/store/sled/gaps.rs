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
//! What is missing at the end of a log has no mark behind it, and a segment that is missing as a whole leaves no gap. So an index
//! that is closed has the number of its last mark, and those of its segments, in a file of its own until the next opening.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::path::Path;

use super::folder::sync_folder;
use super::index::SEGMENT_SIZE;
use super::log::{self, Body, Header, LONGEST_HEADER, Message, SEGMENT_HEADER, Segment};
use super::schema::{SYNCED_KEY, number_of_synced};

/// A mark's message is not longer, where it stands alone or its page has nothing else.
const LONGEST_MARK: usize = 256;

/// The file beside the log of an index that was closed and has not been opened since: the number of the last mark, then those of
/// the segments by their places, a line each.
const SEALED: &str = "sealed";

/// Notes that the index in `folder` is closed, all of it durable up to this mark. The folder is the caller's to sync.
pub(super) fn note_sealed(folder: &Path, mark: u64) -> io::Result<()> {
    let mut lines = format!("{mark}\n");
    for number in numbers(&File::open(folder.join("db"))?)? {
        lines.push_str(&format!("{number}\n"));
    }
    let mut file = File::create(folder.join(SEALED))?;
    file.write_all(lines.as_bytes())?;
    file.sync_all()
}

/// What the segments' headers say, by their places; 0 where they say nothing.
fn numbers(file: &File) -> io::Result<Vec<u64>> {
    let places = (0..file.metadata()?.len()).step_by(SEGMENT_SIZE);
    let number = |header| if let Header::Number(number) = header { number } else { 0 };
    places.map(|start| log::header(file, start).map(number)).collect()
}

/// Looks whether the log lacks something of what was sealed. A segment's number only grows: one with a lower number was wiped, or
/// an older copy took its place.
fn find_unsealed(folder: &Path, file: &File, highest_mark: u64) -> io::Result<Option<Gap>> {
    let Ok(sealed) = fs::read_to_string(folder.join(SEALED)) else { return Ok(None) };
    let mut sealed = sealed.lines().map_while(|line| line.parse::<u64>().ok());
    let Some(mark) = sealed.next() else { return Ok(None) };
    // Of free segments at its end sled gives the room back whenever it comes to it.
    let older = sealed.zip(numbers(file)?).position(|(sealed, found)| found < sealed);
    let older = older.map(|place| Gap::Segment(place as u64 * SEGMENT_SIZE as u64));
    Ok(older.or_else(|| (highest_mark < mark).then_some(Gap::End)))
}

/// To be called before sled opens the log: from its next snapshot on, the last mark is looked for no more, and it wipes segments that
/// a power cut has torn. So it is gone for good when this returns.
pub(super) fn forget_sealed(folder: &Path) -> io::Result<()> {
    match fs::remove_file(folder.join(SEALED)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed.and_then(|()| sync_folder(folder)),
    }
}

/// Where the log of an index lacks what was synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gap {
    /// From this byte of the file `db` on.
    At(u64),
    /// At its end.
    End,
    /// It is about a page that there cannot be, from this byte of the file `db` on.
    Page(u64),
    /// The segment from this byte of the file `db` on is not the one that was there.
    Segment(u64),
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(offset) => write!(f, "byte {offset} of its file \"db\" went bad after it was written"),
            Self::Page(offset) => {
                write!(f, "byte {offset} of its file \"db\" went bad: it begins a page that there cannot be")
            }
            Self::Segment(offset) => write!(
                f,
                "what its file \"db\" has from byte {offset} on is older than it was when the store was closed, or was wiped"
            ),
            Self::End => {
                write!(f, "its file \"db\" lacks the end of what was written before the store was closed")
            }
        }
    }
}

/// Looks whether the log of the index in `folder` lacks something that was synced. It reads what sled itself reads to open it, a
/// segment at a time.
pub(super) fn find(folder: &Path) -> io::Result<Option<Gap>> {
    let file = match File::open(folder.join("db")) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let first = log::recovered(folder)?.unwrap_or(0) / SEGMENT_SIZE as u64;
    let segments = segments(&file, first, log::known(folder, &file)?)?;
    let length = file.metadata()?.len();
    let mut gaps = Vec::new();
    let mut marks = Marks::default();
    for (number, place) in &segments {
        let segment = Segment::read(&file, place.start)?;
        let position = |at: usize| number * SEGMENT_SIZE as u64 + at as u64;
        let mut end = Some(SEGMENT_HEADER);
        let mut gap = place.headless.then_some(0);
        for message in segment.messages(*number) {
            if message.is_beyond(length) {
                return Ok(Some(Gap::Page(place.start + message.begin as u64)));
            }
            gap = gap.or(message.gap);
            end = (!message.is_cap()).then_some(message.end);
            if let Some(number) = mark(&message) {
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
    find_unsealed(folder, &file, marks.highest)
}

struct Place {
    start: u64,
    /// Its messages tell its number and its header does not: sled does not know of it.
    headless: bool,
}

/// The segments from that number on, by their numbers.
fn segments(file: &File, first: u64, known: Option<u64>) -> io::Result<BTreeMap<u64, Place>> {
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
        if let Some(number) = Segment::read(file, start)?.number(known).filter(|number| *number >= first) {
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
fn mark(message: &Message<'_>) -> Option<u64> {
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
    value.and_then(number_of_synced)
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
    use std::os::unix::fs::FileExt;

    use super::super::index::Index;
    use super::super::log::forged::{free, set};
    use super::super::schema::{Tree, synced_value};
    use super::*;

    /// The index of a process that was killed, its file, and where in its only segment the log ends; and the segment's number.
    fn killed() -> (tempfile::TempDir, File, u64, u64) {
        let folder = tempfile::tempdir().unwrap();
        let index = Index::create(&folder.path().join("index"), 1 << 20).unwrap();
        for number in 0..40_u8 {
            index.put(Tree::Tags, &[number], Some(&[7; 1000])).unwrap();
        }
        index.turn().unwrap();
        drop(index);
        let file = File::options().read(true).write(true).open(folder.path().join("index/db")).unwrap();
        let Header::Number(number) = log::header(&file, 0).unwrap() else { panic!("the log has no header") };
        let end = Segment::read(&file, 0).unwrap().messages(number).last().unwrap().end as u64;
        (folder, file, end, number)
    }

    fn tags(folder: &tempfile::TempDir) -> Option<usize> {
        let index = Index::open(&folder.path().join("index"), 1 << 20).ok()?;
        let tags = index.scan(Tree::Tags, &[], None).ok()?;
        Some(tags.take_while(Result::is_ok).count())
    }

    /// Blobs were pushed whose bytes were messages of sled's. A segment is used again without being wiped: in one killed life of
    /// about a thousand such a message stood just where the log ended, and sled took it for the next.
    #[test]
    fn what_somebody_pushed_is_not_read_as_the_log() {
        let of_all_pages = |number: u64| (2..200).flat_map(|page| free(number, page)).collect::<Vec<_>>();
        for guessed in [0, 1, 2, 1000] {
            let (folder, file, end, _) = killed();
            file.write_all_at(&of_all_pages(guessed), end).unwrap();
            assert_eq!(tags(&folder), Some(40), "guessed {guessed}");
        }
        // They are good messages for who knows the number, which no two logs have in common.
        let (folder, file, end, number) = killed();
        file.write_all_at(&of_all_pages(number), end).unwrap();
        assert_ne!(tags(&folder), Some(40));
        assert_ne!(killed().3, number);
    }

    /// They were also marks, which made of a torn end a hole in what had been synced; the store did not open.
    #[test]
    fn what_somebody_pushed_is_not_read_as_marks() {
        let marks = |number| (50..60).flat_map(move |mark| set(number, 3, SYNCED_KEY, &synced_value(mark)));
        let (folder, file, end, number) = killed();
        let path = folder.path().join("index");
        file.write_all_at(&marks(0).collect::<Vec<_>>(), end + 100).unwrap();
        assert_eq!(find(&path).unwrap(), None);
        file.write_all_at(&marks(number).collect::<Vec<_>>(), end + 100).unwrap();
        assert_eq!(find(&path).unwrap(), Some(Gap::At(end)));
        // In a segment whose header is gone, the number is what its messages say.
        file.write_all_at(&[0; SEGMENT_HEADER], SEGMENT_SIZE as u64).unwrap();
        file.write_all_at(&vec![0; 2000], end).unwrap();
        file.write_all_at(&marks(number * 2).collect::<Vec<_>>(), SEGMENT_SIZE as u64 + 100).unwrap();
        assert_eq!(find(&path).unwrap(), None);
        file.write_all_at(&marks(number + 1).collect::<Vec<_>>(), SEGMENT_SIZE as u64 + 100).unwrap();
        assert!(find(&path).unwrap().is_some());
    }

    /// sled made a table of all pages up to the one that is named, asked for 72 PB, and took the process down.
    #[test]
    fn a_page_that_there_cannot_be_is_told() {
        let (folder, file, end, number) = killed();
        file.write_all_at(&free(number, 1 << 50), end).unwrap();
        assert_eq!(find(&folder.path().join("index")).unwrap(), Some(Gap::Page(end)));
        assert_eq!(tags(&folder), None);
    }

    #[test]
    fn an_index_without_its_log_is_damaged_and_not_a_new_one() {
        let (folder, ..) = killed();
        fs::remove_file(folder.path().join("index/db")).unwrap();
        assert_eq!(tags(&folder), None);
        assert!(!folder.path().join("index/db").exists());
    }

    /// A copy tool that skipped holes, a disk that lost what it had been given in one piece: no gap is left.
    #[test]
    fn a_segment_that_was_wiped_or_is_older_is_told_after_a_clean_stop() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index");
        let mut index = Index::create(&path, 1 << 20).unwrap();
        let mut logs = Vec::new();
        for life in 0..2_u8 {
            for number in 0..3000_u32 {
                let key = [&number.to_be_bytes(), [life].as_slice()].concat();
                index.put(Tree::Chunks, &key, Some(&[life; 4000])).unwrap();
                index.put(Tree::Chunks, &key, Some(&[7; 100])).unwrap();
            }
            index.seal().unwrap();
            drop(index);
            assert_eq!(find(&path).unwrap(), None);
            logs.push(fs::read(path.join("db")).unwrap());
            index = Index::open(&path, 1 << 20).unwrap();
        }
        drop(index);
        let [old, new] = logs.try_into().unwrap();
        let sealed = |log: &[u8]| {
            fs::write(path.join("db"), log).unwrap();
            note_sealed(&path, 1).unwrap();
        };
        let (mut wiped, mut older) = (0, 0);
        for start in (0..new.len()).step_by(SEGMENT_SIZE) {
            let end = new.len().min(start + SEGMENT_SIZE);
            let mut log = new.clone();
            log[start..end].fill(0);
            sealed(&new);
            fs::write(path.join("db"), &log).unwrap();
            assert!(find(&path).unwrap().is_some(), "wiped from {start} on");
            wiped += 1;
            let Some(before) = old.get(start..end) else { continue };
            if before[..SEGMENT_HEADER] == new[start..start + SEGMENT_HEADER] {
                continue;
            }
            log[start..end].copy_from_slice(before);
            fs::write(path.join("db"), &log).unwrap();
            assert!(find(&path).unwrap().is_some(), "older from {start} on");
            older += 1;
        }
        assert!(wiped > 3 && older > 0, "{wiped} wiped, {older} older");
    }
}
