//! The write-ahead log in front of sled: what is acknowledged is in here, synced, before sled hears of it (D12).
//!
//! It is one file that never grows, so that to sync it is to write one block. It has two areas, and a *window* is written into
//! the one or the other in turn: records one after another from the area's beginning. When a window is full, sled takes over all
//! of it and is synced, and the next one begins in the other area. So a record that is torn by a power cut is never where the last
//! word was.
//!
//! A record says whose it is, of which window, where it stands, and up to where the window was durable when it was written. The first
//! that is not whole is where the window ends, as a kill or a power cut leaves it; unless a later one says that it had been
//! durable beyond that: then it went bad since (D10). Whose it is, is a number drawn by chance that no client is told: what somebody
//! pushes stands in records as it came, and is not to be taken for one (D11).

use std::fs::File;
use std::io::{self, Cursor, Write as _};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use uuid::Uuid;

use super::changes::Changes;
use super::entry;

/// The file, in the folder of the index.
pub(super) const FILE: &str = "wal";

/// What a window's records may take: twice what may enter sled at once, for entries that are changed again and again.
const AREA: usize = 128 << 10;

/// The head of a record: CRC-32 of what follows, its length without the head, whose it is, the window, where it stands in the area,
/// where the area was durable up to, and the CRC-32 of the record before it.
const HEAD: usize = 40;

/// Records begin at multiples of this.
const ALIGNED: usize = 8;

/// The log as the writer's thread has it.
pub(super) struct Wal {
    file: File,
    id: u64,
    state: Mutex<State>,
}

/// The window that is open.
struct State {
    number: u64,
    /// Not in the file yet.
    pending: Vec<u8>,
    /// How much of the area is in the file, and how much of it durable.
    written: usize,
    durable: usize,
    /// The checksum of the last record.
    last: u32,
}

impl Wal {
    /// Makes the log of an index whose last window was this one. The folder is the caller's to sync.
    pub(super) fn create(folder: &Path, last: u64) -> io::Result<(Self, u64)> {
        let id = Uuid::new_v4().as_u64_pair().1;
        let mut file =
            File::options().read(true).write(true).create(true).truncate(true).open(folder.join(FILE))?;
        file.write_all(&[0; 2 * AREA])?;
        let wal = Self::over(file, id, last);
        wal.close()?;
        // The file is longer than what was written of it just now.
        wal.file.sync_all()?;
        wal.begin_next();
        Ok((wal, id))
    }

    /// Goes on behind the last window, all of which sled has durably.
    pub(super) fn open(folder: &Path, id: u64, last: u64) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(folder.join(FILE))?;
        Ok(Self::over(file, id, last.saturating_add(1)))
    }

    const fn over(file: File, id: u64, number: u64) -> Self {
        Self { file, id, state: Mutex::new(State::begin(number)) }
    }

    /// Whether changes fit the window that is open.
    pub(super) fn has_room(&self, changes: &Changes) -> bool {
        // What they are counted as is more than they take here.
        self.with(|state| state.end() + HEAD + changes.size() + ALIGNED <= AREA)
    }

    /// Adds changes, to be made all or not at all. They are nowhere but in memory before [`Wal::write`].
    pub(super) fn append(&self, changes: &Changes) -> io::Result<()> {
        self.with(|state| {
            let begin = state.pending.len();
            let offset = state.end();
            state.pending.resize(begin + HEAD, 0);
            for (tree, key, value) in changes.entries() {
                entry::write(&mut state.pending, tree, key, value)?;
            }
            let record = state.pending.get_mut(begin..).unwrap_or_default();
            let head = Head {
                length: record.len() - HEAD,
                id: self.id,
                window: state.number,
                offset,
                durable: state.durable,
                previous: state.last,
            };
            state.last = head.seal(record)?;
            let padded = state.pending.len().next_multiple_of(ALIGNED);
            state.pending.resize(padded, 0);
            Ok(())
        })
    }

    /// Hands all of it to the system: it survives the process, and not yet the machine.
    pub(super) fn write(&self) -> io::Result<()> {
        self.with(|state| {
            if state.pending.is_empty() {
                return Ok(());
            }
            self.file.write_all_at(&state.pending, (area(state.number) + state.written) as u64)?;
            state.written += state.pending.len();
            state.pending.clear();
            Ok(())
        })
    }

    /// Makes all of it durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.write()?;
        self.with(|state| {
            if state.durable < state.written {
                self.file.sync_data()?;
                state.durable = state.written;
            }
            Ok(())
        })
    }

    /// Makes the window durable, with a record even where nothing was changed, before sled hears of it; its number.
    pub(super) fn close(&self) -> io::Result<u64> {
        if self.with(|state| state.end()) == 0 {
            self.append(&Changes::new())?;
        }
        self.sync()?;
        Ok(self.with(|state| state.number))
    }

    /// To be called when sled has durably what the window says.
    pub(super) fn begin_next(&self) {
        self.with(|state| *state = State::begin(state.number.saturating_add(1)));
    }

    /// The file, for making the system forget its pages.
    pub(super) const fn file(&self) -> &File {
        &self.file
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    const fn begin(number: u64) -> Self {
        Self { number, pending: Vec::new(), written: 0, durable: 0, last: 0 }
    }

    const fn end(&self) -> usize {
        self.written + self.pending.len()
    }
}

/// Where the area of a window begins.
const fn area(window: u64) -> usize {
    if window.is_multiple_of(2) { 0 } else { AREA }
}

#[derive(Clone, Copy)]
struct Head {
    length: usize,
    id: u64,
    window: u64,
    offset: usize,
    durable: usize,
    previous: u32,
}

impl Head {
    /// Writes it in front of the record's entries, for which there is room; the record's checksum.
    fn seal(&self, record: &mut [u8]) -> io::Result<u32> {
        let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes();
        let mut head = Vec::with_capacity(HEAD);
        head.extend_from_slice(&[0; 4]);
        head.extend_from_slice(&number(self.length));
        head.extend_from_slice(&self.id.to_le_bytes());
        head.extend_from_slice(&self.window.to_le_bytes());
        head.extend_from_slice(&number(self.offset));
        head.extend_from_slice(&number(self.durable));
        head.extend_from_slice(&self.previous.to_le_bytes());
        (&mut *record).write_all(&head)?;
        let checksum = crc32fast::hash(record.get(4..).unwrap_or_default());
        (&mut *record).write_all(&checksum.to_le_bytes())?;
        Ok(checksum)
    }

    /// The whole record at this place of an area: its head, its entries, its checksum.
    fn read(bytes: &[u8], offset: usize) -> Option<(Self, &[u8], u32)> {
        let record = bytes.get(offset..)?;
        let (head, rest) = record.split_first_chunk::<HEAD>()?;
        let word = |at: usize| Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?));
        let long = |at: usize| Some(u64::from_le_bytes(head.get(at..at + 8)?.try_into().ok()?));
        let (length, offset_said, durable) = (word(4)? as usize, word(24)? as usize, word(28)? as usize);
        let entries = rest.get(..length).filter(|_| offset_said == offset && durable <= offset)?;
        let (id, window, previous) = (long(8)?, long(16)?, word(32)?);
        let checksum = crc32fast::hash(record.get(4..HEAD + length)?);
        (word(0)? == checksum).then_some((
            Self { length, id, window, offset, durable, previous },
            entries,
            checksum,
        ))
    }

    const fn end(&self) -> usize {
        (self.offset + HEAD + self.length).next_multiple_of(ALIGNED)
    }
}

/// What a log holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) number: u64,
    /// What was to be changed, one record after another.
    pub(super) records: Vec<Changes>,
    /// Where in the file something of it is missing that had been durable; what follows that is among the records all the same.
    pub(super) gap: Option<u64>,
}

/// Reads the last window of the log in a folder; `None` where there is none. Without an `id`, the log is whosever it is.
pub(super) fn read(folder: &Path, id: Option<u64>) -> io::Result<Option<Window>> {
    let mut bytes = vec![0; 2 * AREA];
    let file = File::open(folder.join(FILE))?;
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX).min(bytes.len());
    bytes.truncate(length);
    file.read_exact_at(&mut bytes, 0)?;
    parse(&bytes, id)
}

fn parse(bytes: &[u8], id: Option<u64>) -> io::Result<Option<Window>> {
    let (first_area, second_area) = bytes.split_at(AREA.min(bytes.len()));
    let areas = [(0, first_area), (AREA, second_area)];
    let first = |(_, bytes): &(usize, &[u8])| Head::read(bytes, 0).map(|(head, ..)| head);
    let id = match id {
        Some(id) => id,
        None => match areas.iter().filter_map(first).max_by_key(|head| head.window) {
            Some(head) => head.id,
            None => return Ok(None),
        },
    };
    let windows = areas.iter().map(|(start, bytes)| last_window(*start, bytes, id));
    let windows = windows.collect::<io::Result<Vec<_>>>()?;
    Ok(windows.into_iter().flatten().max_by_key(|window| window.number))
}

/// The last window that an area has, if anything of it had been durable or its first record is whole.
fn last_window(start: usize, bytes: &[u8], id: u64) -> io::Result<Option<Window>> {
    let heads = heads(bytes, id);
    let counts = heads.iter().filter(|(head, ..)| head.offset == 0 || head.durable > 0);
    let Some(number) = counts.map(|(head, ..)| head.window).max() else { return Ok(None) };
    let mut window = Window { number, ..Window::default() };
    let (mut end, mut last) = (0, 0);
    for (head, entries, checksum) in heads.iter().filter(|(head, ..)| head.window == number) {
        if head.offset != end || head.previous != last {
            if head.durable <= end && window.gap.is_none() {
                // What a kill or a power cut left behind the end, or an earlier attempt at this window.
                break;
            }
            window.gap.get_or_insert((start + end) as u64);
        }
        (end, last) = (head.end(), *checksum);
        let mut entries = Cursor::new(entries);
        let mut record = Changes::new();
        while let Some((tree, key, value)) = entry::read(&mut entries)? {
            match value {
                Some(value) => record.set_value(tree, key, value),
                None => record.remove(tree, key),
            }
        }
        window.records.push(record);
    }
    Ok(Some(window))
}

/// All whole records of an area, in their order.
fn heads(bytes: &[u8], id: u64) -> Vec<(Head, &[u8], u32)> {
    let mut found = Vec::new();
    let mut offset = 0;
    while offset < bytes.len() {
        match Head::read(bytes, offset).filter(|(head, ..)| head.id == id) {
            Some(record) => {
                offset = record.0.end();
                found.push(record);
            }
            None => offset += ALIGNED,
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::schema::Tree;
    use super::*;

    const LAST: u64 = 6;

    fn changes(value: &[u8]) -> Changes {
        let mut changes = Changes::new();
        changes.set_value(Tree::Tags, b"key".to_vec(), value.to_vec());
        changes
    }

    fn values(window: &Window) -> Vec<Vec<u8>> {
        window
            .records
            .iter()
            .flat_map(Changes::entries)
            .filter_map(|(_, _, value)| value.map(<[u8]>::to_vec))
            .collect()
    }

    /// A log that was closed at [`LAST`], and has then got a window of synced records; its bytes.
    fn written(folder: &Path, records: &[&[u8]]) -> (Wal, u64, Vec<u8>) {
        let (wal, id) = Wal::create(folder, LAST).unwrap();
        for record in records {
            wal.append(&changes(record)).unwrap();
            wal.sync().unwrap();
        }
        let bytes = std::fs::read(folder.join(FILE)).unwrap();
        (wal, id, bytes)
    }

    #[test]
    fn what_was_written_is_read_and_nothing_of_an_earlier_window() {
        let folder = tempfile::tempdir().unwrap();
        let (wal, id, _) = written(folder.path(), &[b"1", b"2"]);
        for number in [LAST + 1, LAST + 2, LAST + 3] {
            let found = read(folder.path(), Some(id)).unwrap().unwrap();
            assert_eq!((found.number, values(&found).len(), found.gap), (number, 2, None));
            assert_eq!(read(folder.path(), None).unwrap().unwrap(), found);
            wal.begin_next();
            assert_eq!(read(folder.path(), Some(id)).unwrap().unwrap(), found, "nothing is written yet");
            wal.append(&changes(b"3")).unwrap();
            wal.append(&changes(b"4")).unwrap();
            wal.write().unwrap();
        }
        assert_eq!(read(folder.path(), Some(!id)).unwrap(), None);
        std::fs::remove_file(folder.path().join(FILE)).unwrap();
        assert_eq!(read(folder.path(), Some(id)).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    /// Each bit of what has another synced record behind it.
    #[test]
    fn what_went_bad_after_it_was_durable_is_told_and_a_torn_end_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (_, id, good) = written(folder.path(), &[b"first", b"second", b"third"]);
        let begin = area(LAST + 1);
        let ends = heads(&good[begin..][..AREA], id).iter().map(|(head, ..)| head.end()).collect::<Vec<_>>();
        let [_, vouched, end] = ends[..] else { panic!("{ends:?}") };
        for at in begin..begin + end {
            for bit in 0..8 {
                let mut bytes = good.clone();
                bytes[at] ^= 1 << bit;
                let found = parse(&bytes, Some(id)).unwrap();
                let Some(found) = found else { panic!("nothing is left") };
                // What fills a record up to its end says nothing.
                let same = values(&found) == [b"first".to_vec(), b"second".to_vec(), b"third".to_vec()];
                if at < begin + vouched {
                    assert!(found.gap.is_some() || same, "byte {at}, bit {bit}: {found:?}");
                } else {
                    assert_eq!(found.gap, None, "byte {at}, bit {bit}");
                    assert!(same || values(&found) == [b"first".to_vec(), b"second".to_vec()]);
                }
            }
        }
    }

    /// A group of records of which a power cut leaves any part: what had been durable is there, and nothing behind what is missing.
    #[test]
    fn of_a_torn_group_only_what_is_whole_from_its_beginning_counts() {
        let folder = tempfile::tempdir().unwrap();
        let (wal, id, before) = written(folder.path(), &[b"durable"]);
        let group = [vec![1; 3000], vec![2; 3000], vec![3; 3000]];
        group.iter().for_each(|value| wal.append(&changes(value)).unwrap());
        wal.write().unwrap();
        let after = std::fs::read(folder.path().join(FILE)).unwrap();
        let changed = (0..after.len()).step_by(512).filter(|at| before[*at..][..512] != after[*at..][..512]);
        let changed = changed.collect::<Vec<_>>();
        let mut seen = [false; 4];
        for seed in 1..2000_u32 {
            let mut bytes = before.clone();
            for (number, at) in (0..).zip(&changed) {
                if seed.wrapping_mul(0x9E37_79B9).rotate_left(number) & 7 != 0 {
                    bytes[*at..][..512].copy_from_slice(&after[*at..][..512]);
                }
            }
            let found = parse(&bytes, Some(id)).unwrap().unwrap();
            assert_eq!(found.gap, None);
            let whole = values(&found);
            assert_eq!(whole[0], b"durable");
            assert_eq!(whole[1..], group[..whole.len() - 1], "seed {seed}");
            seen[whole.len() - 1] = true;
        }
        assert_eq!(seen, [true; 4]);
    }

    /// A power cut in the first write of a window: the one before it, which the disk has, is the last word.
    #[test]
    fn the_window_before_is_there_until_the_next_one_is() {
        let folder = tempfile::tempdir().unwrap();
        let (wal, id, _) = written(folder.path(), &[b"first", b"second"]);
        for number in [LAST + 2, LAST + 3] {
            let before = read(folder.path(), Some(id)).unwrap().unwrap();
            wal.begin_next();
            wal.append(&changes(b"first")).unwrap();
            wal.append(&changes(b"second")).unwrap();
            wal.write().unwrap();
            let mut torn = std::fs::read(folder.path().join(FILE)).unwrap();
            assert_eq!(parse(&torn, Some(id)).unwrap().unwrap().number, number);
            torn[area(number) + HEAD + 1] ^= 1;
            assert_eq!(parse(&torn, Some(id)).unwrap().unwrap(), before);
        }
    }

    /// The first attempt at a window left its second record, and the second attempt's first one ends just in front of it.
    #[test]
    fn what_an_earlier_attempt_at_a_window_left_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let (wal, id, before) = written(folder.path(), &[]);
        wal.append(&changes(b"first")).unwrap();
        wal.append(&changes(b"never acknowledged")).unwrap();
        wal.write().unwrap();
        let mut torn = std::fs::read(folder.path().join(FILE)).unwrap();
        let begin = area(LAST + 1);
        let first = HEAD + 8;
        torn[begin..begin + first].copy_from_slice(&before[begin..begin + first]);
        assert_eq!(parse(&torn, Some(id)).unwrap().unwrap().number, LAST);
        std::fs::write(folder.path().join(FILE), torn).unwrap();
        let again = Wal::open(folder.path(), id, LAST).unwrap();
        again.append(&changes(b"other")).unwrap();
        again.sync().unwrap();
        assert_eq!(values(&read(folder.path(), Some(id)).unwrap().unwrap()), [b"other".to_vec()]);
    }

    /// What is pushed stands in records as it came.
    #[test]
    fn what_somebody_pushed_is_not_read_as_records() {
        let folder = tempfile::tempdir().unwrap();
        let (_, id, bytes) = written(folder.path(), &[b"mine"]);
        let end = area(LAST + 1) + HEAD + 24;
        for (guessed, is_taken) in [(!id, false), (0, false), (id, true)] {
            let mut forged = bytes.clone();
            for at in (end - area(LAST + 1)..AREA - 256).step_by(128) {
                let at = at.next_multiple_of(ALIGNED);
                let mut record = vec![0; HEAD];
                entry::write(&mut record, Tree::Tags, b"key", Some(b"theirs")).unwrap();
                let head = Head {
                    length: record.len() - HEAD,
                    id: guessed,
                    window: LAST + 1,
                    offset: at,
                    durable: at,
                    previous: 0,
                };
                head.seal(&mut record).unwrap();
                forged[area(LAST + 1) + at..][..record.len()].copy_from_slice(&record);
            }
            let found = parse(&forged, Some(id)).unwrap().unwrap();
            assert_eq!(found.gap.is_some(), is_taken, "{found:?}");
            assert_eq!(values(&found).len() == 1, !is_taken);
        }
    }

    #[test]
    fn a_window_takes_what_it_says_it_has_room_for() {
        let folder = tempfile::tempdir().unwrap();
        let (wal, id, _) = written(folder.path(), &[]);
        let mut number = 0;
        while wal.has_room(&changes(&[7; 1001])) {
            wal.append(&changes(&[7; 1001])).unwrap();
            number += 1;
        }
        wal.sync().unwrap();
        assert!(number > 100, "{number}");
        let found = read(folder.path(), Some(id)).unwrap().unwrap();
        assert_eq!((found.number, values(&found).len(), found.gap), (LAST + 1, number, None));
        // The area of the window before is as it was.
        assert!(Head::read(&std::fs::read(folder.path().join(FILE)).unwrap()[area(LAST)..], 0).is_some());
    }
}
