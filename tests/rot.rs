//! Blocks of the index that go bad on the disk: nothing that was acknowledged is gone without a word.
//!
//! `ROT_IMAGES=4000 ROT_EVERY=17 cargo test --release --test rot -- --nocapture` is the long form: every 17th block of a log of
//! several segments.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test stops at the first surprise, and says what it measured"
)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use sledge::Error;
use sledge::oci::{Digest, Reference, RepositoryName};
use sledge::store::sled::{Options, Sled, rescue};
use sledge::store::{Manage, Pull};

use crate::images::{copy_folder, image, name, on, open, put, read, tag};

mod images;

const BLOCK: usize = 4096;

/// The filesystems' unit, gone bad in some way.
fn bad_blocks() -> [Vec<u8>; 2] {
    let mut noise = 1_u64;
    let garbage = (0..BLOCK).map(|_| {
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        noise.to_le_bytes()[7]
    });
    [garbage.collect(), vec![0; BLOCK]]
}

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

fn images() -> u64 {
    setting("ROT_IMAGES", 24) as u64
}

/// What was acknowledged: where tags point, and those that are gone.
#[derive(Default)]
struct Acknowledged {
    tags: BTreeMap<String, Option<Digest>>,
}

impl Acknowledged {
    fn repository() -> RepositoryName {
        name("a/b")
    }

    fn push(&mut self, store: &Sled, number: u64) {
        let repository = Self::repository();
        let manifest = image(store, &repository, "x", number);
        let tags = [format!("t{number}"), format!("moved{}", number % 3)];
        put(store, &repository, &manifest, &tags.clone().map(|name| tag(&name)));
        self.tags.extend(tags.map(|tag| (tag, Some(*manifest.digest()))));
    }

    fn delete(&mut self, store: &Sled, number: u64) {
        let deleted = format!("t{number}");
        store.delete_tag(&Self::repository(), &tag(&deleted)).unwrap();
        self.tags.insert(deleted, None);
    }

    /// What of it a store does not have, though it says nothing of damage.
    fn missing(&self, store: &Sled) -> Vec<String> {
        let repository = Self::repository();
        let mut missing = Vec::new();
        for (name, digest) in &self.tags {
            let found = match store.resolve(&repository, &Reference::Tag(tag(name))) {
                Ok(descriptor) => Some(descriptor.digest),
                Err(Error::ManifestUnknown { .. } | Error::RepositoryUnknown(_)) => None,
                // That is a word.
                Err(_) => continue,
            };
            if found != *digest {
                missing.push(format!("{name} is {found:?}, and was {digest:?}"));
            }
            let manifest =
                found.and_then(|digest| store.manifest(&repository, &Reference::Digest(digest)).ok());
            for reference in manifest.iter().flat_map(|manifest| manifest.contents().unwrap().references) {
                if let Err(Error::BlobUnknown { .. }) = read(store, &repository, &reference.digest) {
                    missing.push(format!("{} of {name}", reference.digest));
                }
            }
        }
        missing
    }
}

/// Several lives of a store, each of which goes on with the log of the one before.
fn lives(folder: &Path) -> Acknowledged {
    let mut acknowledged = Acknowledged::default();
    let images = images();
    for life in 0..3 {
        let store = open(folder);
        for number in images * life / 3..images * (life + 1) / 3 {
            acknowledged.push(&store, number);
            if number % 4 == 3 {
                acknowledged.delete(&store, number - 2);
            }
        }
    }
    acknowledged
}

/// Every block of every file of the index goes bad in turn; how many there were, how often it was told at the opening, and what was
/// lost without a word.
fn attack(store: &Path, copy: &Path, acknowledged: &Acknowledged) -> (usize, usize, Vec<String>) {
    let (mut attacks, mut told, mut lost) = (0, 0, Vec::new());
    for file in fs::read_dir(store.join("index")).unwrap().map(|entry| entry.unwrap().path()) {
        // A directory of sled's, for values that a store has none of.
        let Ok(bytes) = File::open(&file).and_then(|_| fs::read(&file)) else { continue };
        let blank = |block: &[u8]| block.iter().all(|byte| *byte == 0);
        let mut before: &[u8] = &[1];
        for (at, block) in bytes.chunks(BLOCK).enumerate().step_by(setting("ROT_EVERY", 1)) {
            // Of what has not been written yet, the first.
            if blank(std::mem::replace(&mut before, block)) && blank(block) {
                continue;
            }
            for bad in bad_blocks().iter().filter(|bad| bad[..block.len()] != *block) {
                let index = copy.join("index");
                let _ = fs::remove_dir_all(&index);
                copy_folder(&store.join("index"), &index);
                let target = File::options().write(true).open(index.join(file.file_name().unwrap())).unwrap();
                target.write_all_at(&bad[..block.len()], (at * BLOCK) as u64).unwrap();
                attacks += 1;
                match Options::new().reserve(0).open(copy) {
                    Err(_) => told += 1,
                    Ok(store) => {
                        let missing = acknowledged.missing(&store);
                        if !missing.is_empty() {
                            let file = file.file_name().unwrap().display();
                            let kind = if bad[0] == 0 { "zeros" } else { "garbage" };
                            lost.push(format!("block {at} of {file}, {kind}: {missing:?}"));
                        }
                    }
                }
            }
        }
    }
    (attacks, told, lost)
}

/// A copy that has its own index, and shares the content.
fn copy_of(store: &Path, folder: &Path) -> PathBuf {
    let copy = folder.join("copy");
    copy_folder(store, &copy);
    copy
}

#[test]
fn a_block_that_went_bad_after_a_clean_stop_loses_nothing_without_a_word() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let acknowledged = lives(&store);
    let copy = copy_of(&store, folder.path());
    let (attacks, told, lost) = attack(&store, &copy, &acknowledged);
    println!(
        "{attacks} bad blocks after a clean stop: {told} told at the opening, {} lost something",
        lost.len()
    );
    assert!(lost.is_empty(), "{lost:#?}");
    assert!(told > 0);
}

/// All but the last two groups of writes: of those nothing that is written later tells that they had been synced.
#[test]
fn a_block_that_went_bad_after_a_kill_loses_nothing_but_the_last_writes_without_a_word() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let mut acknowledged = lives(&store);
    let open = open(&store);
    for number in images()..images() * 2 {
        acknowledged.push(&open, number);
    }
    let mut last = Acknowledged::default();
    for number in 0..2 {
        last.push(&open, 1_000_000 + number);
    }
    let acknowledged = Acknowledged {
        tags: acknowledged.tags.into_iter().filter(|(tag, _)| !last.tags.contains_key(tag)).collect(),
    };
    let copy = copy_of(&store, folder.path());
    let killed = folder.path().join("killed");
    copy_folder(&copy, &killed);
    drop(open);
    let (attacks, told, lost) = attack(&killed, &copy, &acknowledged);
    println!("{attacks} bad blocks after a kill: {told} told at the opening, {} lost something", lost.len());
    assert!(lost.is_empty(), "{lost:#?}");
    assert!(told > 0);
}

/// Opens a copy whose log was changed; what is lost without a word.
fn lost_with(log: &[u8], copy: &Path, acknowledged: &Acknowledged) -> Option<Vec<String>> {
    fs::write(copy.join("index/db"), log).unwrap();
    let store = Options::new().reserve(0).open(copy).ok()?;
    Some(acknowledged.missing(&store))
}

fn fresh(store: &Path, copy: &Path) {
    let _ = fs::remove_dir_all(copy.join("index"));
    copy_folder(&store.join("index"), &copy.join("index"));
}

/// A bit in the first message behind the place where the last opening found the log to end: sled took that for the end again, and
/// so did the look for gaps. All that the last life had acknowledged was gone.
#[test]
fn a_bit_that_flipped_anywhere_in_the_last_lifes_first_messages_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let acknowledged = lives(&store);
    let copy = copy_of(&store, folder.path());
    let snapshots = fs::read_dir(store.join("index")).unwrap().map(|entry| entry.unwrap().file_name());
    let position =
        snapshots.filter_map(|name| name.to_str()?.strip_prefix("snap.").map(str::to_owned)).next();
    let position = u64::from_str_radix(&position.unwrap(), 16).unwrap();
    let log = fs::read(store.join("index/db")).unwrap();
    // The log is in its first segment yet.
    assert!(log.len() <= 4 << 20);
    let position = usize::try_from(position % (4 << 20)).unwrap();
    for at in position..position + 100 {
        fresh(&store, &copy);
        let mut log = log.clone();
        log[at] ^= 1 << (at % 8);
        assert_eq!(lost_with(&log, &copy, &acknowledged), None, "byte {at} of {position}");
    }
}

/// A copy that ended early, a filesystem that lost a file's end: there is no mark behind what is missing.
#[test]
fn a_log_that_lost_its_end_after_a_clean_stop_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let acknowledged = lives(&store);
    let copy = copy_of(&store, folder.path());
    let log = fs::read(store.join("index/db")).unwrap();
    let end = log.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    assert_eq!(lost_with(&log, &copy, &acknowledged), Some(Vec::new()));
    for lost in [100, 1000, 5000, 10_000, 20_000, 40_000, end / 2] {
        let cut = &log[..end - lost];
        let wiped = [cut, &vec![0; log.len() - cut.len()]].concat();
        for log in [cut, &wiped] {
            fresh(&store, &copy);
            assert_eq!(lost_with(log, &copy, &acknowledged), None, "{lost} bytes");
        }
    }
}

/// Somebody ran a store for a year, a sector in the middle of its log went bad, and the machine restarted: it served last year's
/// tags, and the next push wrote over the rest.
#[test]
fn a_store_whose_log_went_bad_in_the_middle_does_not_open_and_can_be_rescued() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let acknowledged = lives(&store);
    let log = store.join("index").join("db");
    let bytes = fs::read(&log).unwrap();
    let written = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    let file = File::options().write(true).open(&log).unwrap();
    file.write_all_at(&bad_blocks()[0], (written - written / 8) as u64 / BLOCK as u64 * BLOCK as u64)
        .unwrap();
    let before = fs::read(&log).unwrap();

    let refused = Options::new().reserve(0).open(&store).unwrap_err();
    assert!(matches!(refused, Error::Damaged { .. }), "{refused}");
    assert!(refused.to_string().contains("/index is damaged: byte"), "{refused}");
    assert_eq!(fs::read(&log).unwrap(), before, "what is left is left as it was");

    let new = folder.path().join("new");
    let report = rescue(&store, &new, &mut on).unwrap();
    assert!(!report.damage.is_empty(), "{report:?}");
    // What the block said is lost, and what single changes behind it said of pages that were not written whole since; the earlier
    // lives are whole, but for tags that were moved or deleted since.
    let new = open(&new);
    let earlier = acknowledged.tags.iter().filter(|(tag, digest)| {
        digest.is_some()
            && tag.strip_prefix('t').is_some_and(|number| number.parse::<u64>().unwrap() < images() * 2 / 3)
    });
    let earlier = Acknowledged { tags: earlier.map(|(tag, digest)| (tag.clone(), *digest)).collect() };
    assert!(earlier.tags.len() >= 10);
    assert_eq!(earlier.missing(&new), <[String; 0]>::default());
}

/// Nobody could tell which of the files was meant, nor that all was still there.
#[test]
fn a_file_of_sleds_beside_its_log_that_went_bad_is_named_and_everything_is_rescued() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let acknowledged = lives(&store);
    let files = fs::read_dir(store.join("index")).unwrap().map(|entry| entry.unwrap().path());
    let file =
        files.into_iter().find(|file| file.file_name().unwrap().to_str().unwrap().starts_with("snap."));
    let file = file.unwrap();
    let bytes = fs::read(&file).unwrap();
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    let mut checksum = bytes.clone();
    *checksum.last_mut().unwrap() ^= 1;
    for (n, bad) in
        [&flipped[..], &checksum, &bytes[..bytes.len() - 1], &bytes[..12], b""].into_iter().enumerate()
    {
        fs::write(&file, bad).unwrap();
        let refused = Options::new().reserve(0).open(&store).unwrap_err();
        assert!(matches!(refused, Error::Damaged { .. }), "{refused}");
        let told = refused.to_string();
        assert!(told.contains(&file.display().to_string()) && told.contains("`sledge rescue`"), "{told}");
        assert_eq!(fs::read(&file).unwrap(), bad, "what is left is left as it was");
        let new = folder.path().join(format!("new-{n}"));
        rescue(&store, &new, &mut on).unwrap();
        assert_eq!(acknowledged.missing(&open(&new)), <[String; 0]>::default());
    }
    fs::write(&file, &bytes).unwrap();
    assert_eq!(acknowledged.missing(&open(&store)), <[String; 0]>::default());
}
