//! The model of the disk: what a power cut may leave of what a process did.
//!
//! Of a file: all before its last sync, and of its later writes any subset of their 4 KiB blocks. Its length may be that of any
//! later write, what was not written reads as zeros. Of the names (creations, renames, removals, truncations): a prefix, at least
//! up to what was committed. A sync of a folder commits them all, a sync of a file those up to its own last truncation: that it
//! keeps the file's name, as many filesystems do, nobody promises.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::dice::Dice;
use super::record::Event;

const BLOCK: u64 = 4096;
/// What sled's segments are long, as the index sets it.
const SEGMENT: u64 = 4 << 20;

const O_CREAT: i64 = 0o100;
const O_TRUNC: i64 = 0o1000;

#[derive(Default)]
struct Node<'a> {
    folder: bool,
    /// What is durable.
    base: Vec<u8>,
    /// What came since, in order.
    pending: Vec<Pending<'a>>,
    /// How long the running system sees it.
    length: u64,
    /// The last truncation or extension of it.
    cut_at: u64,
}

enum Pending<'a> {
    /// `lost` if a sync of it failed: later syncs do not write it.
    Write { offset: u64, bytes: &'a [u8], lost: bool },
    /// A truncation, or an extension; it takes effect with the names up to it.
    Length { length: u64, change: u64 },
}

enum Change<'a> {
    Create(&'a str, usize),
    Rename(&'a str, &'a str),
    Link(&'a str, &'a str),
    Remove(&'a str),
    Length,
}

type Names = BTreeMap<String, usize>;

pub(crate) struct Image<'a> {
    nodes: Vec<Node<'a>>,
    /// By the number of the opening, in this life.
    open: HashMap<u64, usize>,
    /// As the running system sees them.
    names: Names,
    /// As the disk has them for certain.
    committed: Names,
    pending: Vec<(u64, Change<'a>)>,
    changes: u64,
    segments: BTreeMap<u64, usize>,
    pub(crate) segments_reused: usize,
}

fn apply(names: &mut Names, change: &Change<'_>) {
    match *change {
        Change::Create(path, node) => {
            names.insert(path.to_owned(), node);
        }
        Change::Link(from, to) => {
            names.insert(to.to_owned(), names[from]);
        }
        Change::Remove(path) => {
            names.remove(path);
        }
        Change::Rename(from, to) => {
            let below = format!("{from}/");
            let moved: Vec<String> =
                names.keys().filter(|path| *path == from || path.starts_with(&below)).cloned().collect();
            for path in moved {
                let node = names.remove(&path).unwrap();
                names.insert(format!("{to}{}", &path[from.len()..]), node);
            }
        }
        Change::Length => {}
    }
}

fn put(content: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let start = usize::try_from(offset).unwrap();
    let end = start + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[start..end].copy_from_slice(bytes);
}

/// A write, cut where blocks end.
fn blocks(offset: u64, bytes: &[u8]) -> Vec<(u64, &[u8])> {
    let mut cut = Vec::new();
    let (mut at, mut rest) = (offset, bytes);
    while !rest.is_empty() {
        let length = usize::try_from(BLOCK - at % BLOCK).unwrap().min(rest.len());
        let (now, later) = rest.split_at(length);
        cut.push((at, now));
        at += length as u64;
        rest = later;
    }
    cut
}

/// How much of what a file was not yet synced of is on the disk.
#[derive(Clone, Copy)]
enum Taste {
    All,
    None,
    /// Each block with this chance in a hundred.
    Some(usize),
    /// The writes up to one, which is torn.
    Upto(usize),
    /// All but one block in twenty.
    Holes,
}

impl<'a> Image<'a> {
    pub(crate) fn new() -> Self {
        let root = Node { folder: true, ..Node::default() };
        let names = Names::from([(String::new(), 0)]);
        Self {
            nodes: vec![root],
            open: HashMap::new(),
            committed: names.clone(),
            names,
            pending: Vec::new(),
            changes: 0,
            segments: BTreeMap::new(),
            segments_reused: 0,
        }
    }

    /// A folder that there is, all of it durable.
    pub(crate) fn of(root: &Path) -> Self {
        let mut image = Self::new();
        let mut known = HashMap::new();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                let below = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                let next = image.nodes.len();
                let node = *known.entry(fs::metadata(&path).unwrap().ino()).or_insert(next);
                if node == next {
                    let base = if path.is_dir() { Vec::new() } else { fs::read(&path).unwrap() };
                    let length = base.len() as u64;
                    image.nodes.push(Node { folder: path.is_dir(), base, length, ..Node::default() });
                }
                image.names.insert(below, node);
                if path.is_dir() {
                    folders.push(path);
                }
            }
        }
        image.committed = image.names.clone();
        image
    }

    fn change(&mut self, change: Change<'a>) -> u64 {
        self.changes += 1;
        apply(&mut self.names, &change);
        self.pending.push((self.changes, change));
        self.changes
    }

    fn create(&mut self, path: &'a str, folder: bool) -> usize {
        let node = self.nodes.len();
        self.nodes.push(Node { folder, ..Node::default() });
        self.change(Change::Create(path, node));
        node
    }

    fn set_length(&mut self, node: usize, length: u64) {
        let change = self.change(Change::Length);
        let node = &mut self.nodes[node];
        node.length = length;
        node.cut_at = change;
        node.pending.push(Pending::Length { length, change });
    }

    pub(crate) fn take(&mut self, event: Event<'a>) {
        match event {
            Event::Life => self.open.clear(),
            Event::Mark { .. } => {}
            Event::Open { file, flags, path } => {
                let node = match self.names.get(path) {
                    Some(node) => *node,
                    None if flags & O_CREAT != 0 => self.create(path, false),
                    None => panic!("{path:?} was opened and is not in the image"),
                };
                if flags & O_TRUNC != 0 && self.nodes[node].length > 0 {
                    self.set_length(node, 0);
                }
                self.open.insert(file, node);
            }
            Event::Write { file, offset, bytes } => {
                let node = self.open[&file];
                if offset % SEGMENT == 0
                    && bytes.iter().any(|byte| *byte != 0)
                    && self.names.get("data/index/db") == Some(&node)
                {
                    let lives = self.segments.entry(offset).or_default();
                    *lives += 1;
                    self.segments_reused += usize::from(*lives > 1);
                }
                let node = &mut self.nodes[node];
                node.length = node.length.max(offset + bytes.len() as u64);
                node.pending.push(Pending::Write { offset, bytes, lost: false });
            }
            Event::Truncate { file, length } => self.set_length(self.open[&file], length),
            Event::Allocate { file, end } => {
                let node = self.open[&file];
                if end > self.nodes[node].length {
                    self.set_length(node, end);
                }
            }
            Event::Rename { from, to } => {
                self.change(Change::Rename(from, to));
            }
            Event::Link { from, to } => {
                self.change(Change::Link(from, to));
            }
            Event::Unlink { path } | Event::RemoveFolder { path } => {
                self.change(Change::Remove(path));
            }
            Event::MakeFolder { path } => {
                self.create(path, true);
            }
            Event::Sync { file } => self.sync(self.open[&file]),
            Event::Reverted { file, offset: at } => {
                let node = &mut self.nodes[self.open[&file]];
                let pending = std::mem::take(&mut node.pending);
                for pending in pending {
                    match pending {
                        Pending::Write { offset, bytes, lost: true } => node.pending.extend(
                            blocks(offset, bytes)
                                .into_iter()
                                .filter(|(offset, _)| offset / BLOCK != at / BLOCK)
                                .map(|(offset, bytes)| Pending::Write { offset, bytes, lost: true }),
                        ),
                        other => node.pending.push(other),
                    }
                }
            }
            Event::FailedSync { file } => {
                for pending in &mut self.nodes[self.open[&file]].pending {
                    if let Pending::Write { lost, .. } = pending {
                        *lost = true;
                    }
                }
            }
        }
    }

    fn sync(&mut self, node: usize) {
        let upto = if self.nodes[node].folder { self.changes } else { self.nodes[node].cut_at };
        let committed = self.pending.iter().take_while(|(change, _)| *change <= upto).count();
        for (_, change) in self.pending.drain(..committed) {
            apply(&mut self.committed, &change);
        }
        let node = &mut self.nodes[node];
        let pending = std::mem::take(&mut node.pending);
        // A block is written as a whole, if anything in it is: with what an earlier sync lost of it.
        let any_lost = pending.iter().any(|pending| matches!(pending, Pending::Write { lost: true, .. }));
        let written: HashSet<u64> = pending
            .iter()
            .filter(|_| any_lost)
            .flat_map(|pending| match *pending {
                Pending::Write { offset, bytes, lost: false } => blocks(offset, bytes),
                _ => Vec::new(),
            })
            .map(|(offset, _)| offset / BLOCK)
            .collect();
        for pending in pending {
            match pending {
                Pending::Write { offset, bytes, lost: false } => put(&mut node.base, offset, bytes),
                Pending::Write { offset, bytes, lost: true } => {
                    for (offset, bytes) in blocks(offset, bytes) {
                        if written.contains(&(offset / BLOCK)) {
                            put(&mut node.base, offset, bytes);
                        } else {
                            node.pending.push(Pending::Write { offset, bytes, lost: true });
                        }
                    }
                }
                Pending::Length { length, .. } => node.base.resize(usize::try_from(length).unwrap(), 0),
            }
        }
    }

    /// The folder as the running system sees it must be the folder: then no call was missed.
    pub(crate) fn compare(&self, root: &Path) {
        let mut found = Names::new();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            let below = folder.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            found.insert(below, 0);
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let below = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                let node = *self.names.get(&below).unwrap_or_else(|| panic!("{below} is not in the image"));
                let content = self.nodes[node].content();
                assert!(content == fs::read(&path).unwrap(), "{below} has other bytes than the image");
                found.insert(below, 0);
            }
        }
        assert!(self.names.keys().eq(found.keys()), "names: {:?} and {:?}", self.names.keys(), found.keys());
    }

    /// The files below a folder, as the running system sees them.
    pub(crate) fn below(&self, folder: &str) -> BTreeMap<String, Vec<u8>> {
        let below = format!("{folder}/");
        let files = self.names.iter().filter(|(path, _)| path.starts_with(&below));
        files.map(|(path, node)| (path.clone(), self.nodes[*node].content())).collect()
    }

    /// One of the states that a power cut may leave here, put into an empty folder.
    pub(crate) fn cut(&self, dice: &mut Dice, into: &Path) -> String {
        let kept = match dice.roll(5) {
            0 => 0,
            1 | 2 => self.pending.len(),
            _ => dice.roll(self.pending.len() + 1),
        };
        let mut names = self.committed.clone();
        let mut upto = 0;
        for (change, what) in &self.pending[..kept] {
            apply(&mut names, what);
            upto = *change;
        }
        let surely = self.pending.first().map_or(self.changes, |(change, _)| change - 1);
        let upto = upto.max(surely);

        let mut said = format!("{kept} of {} changes of names", self.pending.len());
        for (path, node) in &names {
            let node = &self.nodes[*node];
            if node.folder {
                if !path.is_empty() {
                    fs::create_dir(into.join(path)).unwrap();
                }
                continue;
            }
            let (content, how) = node.torn(dice, upto);
            if !how.is_empty() {
                said.push_str(&format!("; {path}: {how}"));
            }
            let mut file = fs::File::create(into.join(path)).unwrap();
            if content.iter().all(|byte| *byte == 0) {
                file.set_len(content.len() as u64).unwrap();
            } else {
                file.write_all(&content).unwrap();
            }
        }
        said
    }
}

impl Node<'_> {
    /// As the running system sees it.
    fn content(&self) -> Vec<u8> {
        let mut content = self.base.clone();
        for pending in &self.pending {
            match *pending {
                Pending::Write { offset, bytes, .. } => put(&mut content, offset, bytes),
                Pending::Length { length, .. } => content.resize(usize::try_from(length).unwrap(), 0),
            }
        }
        content
    }

    fn torn(&self, dice: &mut Dice, upto: u64) -> (Vec<u8>, String) {
        let mut content = self.base.clone();
        if self.pending.is_empty() {
            return (content, String::new());
        }
        let writes = self.pending.iter().filter(|pending| matches!(pending, Pending::Write { .. })).count();
        let taste = match dice.roll(8) {
            0 => Taste::All,
            1 => Taste::None,
            2 | 3 => Taste::Some(*dice.of(&[5, 25, 50, 75, 95]).unwrap()),
            4 | 5 => Taste::Upto(dice.roll(writes + 1)),
            6 => Taste::Holes,
            _ => Taste::Some(50),
        };
        let (mut blocks, mut kept) = (0, 0);
        let mut number = 0;
        for pending in &self.pending {
            match *pending {
                Pending::Length { length, change } => {
                    if change <= upto {
                        content.resize(usize::try_from(length).unwrap(), 0);
                    }
                }
                Pending::Write { offset, bytes, .. } => {
                    for (at, bytes) in self::blocks(offset, bytes) {
                        let keep = match taste {
                            Taste::All => true,
                            Taste::None => false,
                            Taste::Some(percent) => dice.percent(percent),
                            Taste::Upto(last) => number < last || (number == last && dice.percent(50)),
                            Taste::Holes => dice.percent(95),
                        };
                        blocks += 1;
                        if keep {
                            kept += 1;
                            put(&mut content, at, bytes);
                        }
                    }
                    number += 1;
                }
            }
        }
        if dice.percent(25) && self.length > content.len() as u64 {
            content.resize(usize::try_from(self.length).unwrap(), 0);
        }
        (content, format!("{kept} of {blocks} blocks"))
    }
}
