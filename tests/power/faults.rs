//! Calls that fail: each operation succeeds or says what failed, nothing acknowledged goes, and when the calls work again, so
//! does the store, in the same process.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use sledge::Error;
use sledge::oci::{Algorithm, RepositoryName};
use sledge::store::{Discover, Manage, Push, UploadOptions};

use super::check;
use super::dice::{noise, setting};
use super::ledger::Ledger;
use super::shim::{self, Place};
use super::workload::{self, Actor, Life, Marks};

/// What can be made to fail, as the shim numbers it.
const WRITE: u32 = 1;
const SYNC: u32 = 2;
const OPEN: u32 = 4;
const READ: u32 = 8;
const RENAME: u32 = 16;
const UNLINK: u32 = 32;
const MAKE_FOLDER: u32 = 64;
const TRUNCATE: u32 = 128;
const SPACE: u32 = 256;
const ALLOCATE: u32 = 512;
/// `sync_file_range`, which is what sled calls a sync.
const RANGE: u32 = 1024;
const ALL: u32 = 2047;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// How a call fails.
const CLEANLY: u32 = 0;
const SHORT: u32 = 1;
const HALF_WAY: u32 = 2;

#[derive(Clone, Copy, Debug)]
struct Fault {
    set: u32,
    mode: u32,
    errno: i32,
    for_ever: bool,
}

/// One place after another at which a call fails, each with a store of its own.
pub(crate) fn child(root: &Path, marks: &Path, spec: &str) {
    let words: Vec<i64> = spec.split(' ').map(|word| word.parse().unwrap()).collect();
    let [set, mode, errno, for_ever, tries, seed] = words[..] else { panic!("{spec}") };
    // Without a fault: how many calls there are.
    let fault = |at: i64| format!("!fail {set} {at} {mode} {errno} {for_ever}");
    let (calls, _) = attempt(root, marks, &fault(i64::MAX), seed.cast_unsigned());
    let calls = i64::try_from(calls).unwrap();
    let step = (calls / tries.max(1)).max(1);
    let (mut tried, mut hits) = (0, 0);
    let mut at = 1 + seed % step;
    while at <= calls {
        println!("call {at} of {calls}");
        hits += attempt(root, marks, &fault(at), seed.cast_unsigned()).1;
        tried += 1;
        at += step;
    }
    println!("FIGURES {calls} {tried} {hits}");
}

/// A store is made and worked with while a call fails. Returns how many calls there were, and how many failed.
fn attempt(root: &Path, marks: &Path, fault: &str, seed: u64) -> (u64, u64) {
    let folder = workload::data(root);
    let marks = Arc::new(Marks::open(marks));
    marks.say(fault);
    let opened = check::options().open(&folder);
    let opened = opened.or_else(|_| {
        marks.say("!well");
        check::options().open(&folder).inspect(|_| marks.say(fault))
    });
    let store = match opened {
        Ok(store) => store,
        // sled takes a log that it could not read once for an empty one, and writes over it: that is told, and nothing was
        // acknowledged yet.
        Err(Error::Damaged { reason, .. }) if reason.contains("sled finds nothing") => {
            fs::remove_dir_all(folder).unwrap();
            let (calls, hits, _) = marks.ask();
            return (calls, hits);
        }
        Err(error) => panic!("{fault}: does not open: {error}"),
    };
    let life = Life {
        seed,
        number: 0,
        threads: 1,
        operations: 100,
        small: false,
        faulty: false,
        budget: 0,
        in_files: false,
    };
    Actor::new(&store, &marks, &life, 0).run();
    let (calls, hits, _) = marks.ask();
    marks.say("!well");

    // Who only reads does not have to wait for somebody who writes.
    while let Err(Error::Unavailable(_)) = store.repositories(None, 1) {
        std::thread::yield_now();
    }
    let mut ledger = marks.ledger().clone();
    let told = |error: String| -> String { format!("{fault}: {error}") };
    // The first to come may be told of the failure.
    let works = (0..2_u64).any(|n| check::push_image(&store, &mut ledger, 500_000 + n * 10).is_ok());
    assert!(works, "{fault}: it does not work again");
    check::examine(&store, &ledger, true).map_err(told).unwrap();
    drop(store);
    ledger.take("L");
    let store = check::options().open(&folder).unwrap_or_else(|error| panic!("{fault}: {error}"));
    let again = |error: String| told(format!("opened again: {error}"));
    let found = check::examine(&store, &ledger, true).map_err(again).unwrap();
    check::told(&store, &found).map_err(again).unwrap();
    check::push_image(&store, &mut ledger, 600_000).unwrap();
    drop(store);
    fs::remove_dir_all(folder).unwrap();
    (calls, hits)
}

fn run(name: &str, fault: Fault) {
    let tries = setting("POWER_FAULTS", 4);
    let place = Place::new();
    let Fault { set, mode, errno, for_ever } = fault;
    let seed = setting("POWER_SEED", 3);
    let output = place
        .child(&format!("faults {set} {mode} {errno} {} {tries} {seed}", u8::from(for_ever)))
        .env("SHIM_DEADLINE", (60 + tries).to_string())
        .output()
        .unwrap();
    let text = shim::told(&output);
    assert!(output.status.success(), "{name}, {fault:?}: {text}");
    let figures =
        text.lines().find_map(|line| line.strip_prefix("FIGURES ")).expect("the child says its figures");
    let figures: Vec<u64> = figures.split(' ').map(|word| word.parse().unwrap()).collect();
    let panics = text.matches("panicked at").count();
    println!(
        "{name}: {} calls, {} stores, {} calls failed, {panics} panics in sled's threads",
        figures[0], figures[1], figures[2]
    );
    assert!(figures[2] > 0, "nothing failed");
}

/// `POWER_FAULTS=1000000 cargo test --test power fault -- --nocapture` tries each call.
#[test]
fn a_fault_of_any_call_is_told_and_over_when_it_is_over() {
    let once = |set, mode, errno| Fault { set, mode, errno, for_ever: false };
    let from_there = |set, errno| Fault { set, mode: CLEANLY, errno, for_ever: true };
    for (name, fault) in [
        ("a write fails", once(WRITE, CLEANLY, EIO)),
        ("a write is short", once(WRITE, SHORT, EIO)),
        ("a write fails half-way", once(WRITE, HALF_WAY, EIO)),
        ("a write finds the disk full", once(WRITE, HALF_WAY, ENOSPC)),
        ("writes find the disk full", from_there(WRITE | ALLOCATE | MAKE_FOLDER, ENOSPC)),
        ("a sync fails", once(SYNC, CLEANLY, EIO)),
        ("a sync of sled's fails", once(RANGE, CLEANLY, EIO)),
        ("syncs fail", from_there(SYNC | RANGE, EIO)),
        ("a read fails", once(READ, CLEANLY, EIO)),
        ("reads fail", from_there(READ, EIO)),
        ("opening fails", once(OPEN, CLEANLY, EIO)),
        ("a change of a name fails", once(RENAME | UNLINK | MAKE_FOLDER | TRUNCATE, CLEANLY, EIO)),
        ("free space is not told", once(SPACE, CLEANLY, EIO)),
        ("everything fails", from_there(ALL, EIO)),
    ] {
        run(name, fault);
    }
}

/// A disk that fills up, is emptied by deleting, filled by others to the last byte, and has room again; in one process. Where
/// `lies` is set, the system says that there is room until a write fails: then sled itself meets the full disk.
pub(crate) fn full(root: &Path, marks: &Path, lies: bool) {
    let folder = workload::data(root);
    let marks = Marks::open(marks);
    let options = || check::options().reserve(12 << 20);
    let repository: RepositoryName = "full".parse().unwrap();
    let mut store = options().open(&folder).unwrap();
    let mut ledger = Ledger::default();
    marks.say(&format!("!budget {} {}", 40 << 20, u8::from(lies)));

    let mut pushed = Vec::new();
    let mut refused = 0;
    for number in 0.. {
        let content = noise(number, if number % 2 == 0 { 9000 } else { 600_000 });
        let digest = Algorithm::Sha256.digest(&content);
        ledger.take(&format!("B {number} {}=1", check::key("b", &repository, digest)));
        match check::push(&store, &repository, &content, &digest) {
            Ok(()) => {
                ledger.take(&format!("A {number}"));
                pushed.push(digest);
            }
            Err(error) => {
                ledger.take(&format!("F {number}"));
                let told = matches!(error, Error::DiskFull { .. })
                    || lies && matches!(error, Error::Unavailable(_) | Error::Io { .. });
                assert!(told, "{error}");
                refused += 1;
            }
        }
        assert!(number < 5000, "a disk of 40 MiB is never full");
        if refused == 8 {
            break;
        }
    }
    assert!(pushed.len() > 20);
    // With an index that is closed, nobody reads; with room to open it, everybody.
    if !lies {
        check::examine(&store, &ledger, false).unwrap();
        // Others take what pushes leave alone: a deletion finds the room that the store kept for it.
        for (number, digest) in (10_000..).zip(pushed.drain(..4)) {
            marks.say("!budget 0 0");
            ledger.take(&format!("B {number} {}=-", check::key("b", &repository, digest)));
            store.delete_blob(&repository, &digest).unwrap();
            ledger.take(&format!("A {number}"));
            marks.say("!plenty");
            check::push_image(&store, &mut ledger, number * 100).unwrap();
        }
        // Stopped while there is no byte, it leaves what is kept for being opened again.
        marks.say("!budget 0 0");
        drop(store);
        assert!(folder.join("reserve").exists());
        marks.say("!budget 0 0");
        store = options().open(&folder).unwrap_or_else(|error| panic!("without a byte left: {error}"));
        check::examine(&store, &ledger, false).unwrap();
        let digest = pushed.pop().unwrap();
        ledger.take(&format!("B 20000 {}=-", check::key("b", &repository, digest)));
        store.delete_blob(&repository, &digest).unwrap();
        ledger.take("A 20000");
    }
    marks.say("!plenty");
    let works = (0..2_u64).any(|n| check::push_image(&store, &mut ledger, 30_000 + n * 10).is_ok());
    assert!(works, "space has returned, and pushes are refused");
    check::examine(&store, &ledger, false).unwrap();
    drop(store);
    assert!(folder.join("reserve").exists(), "the room is kept again");
    ledger.take("L");
    check::examine(&options().open(&folder).unwrap(), &ledger, false).unwrap();
    println!("FIGURES {} {refused}", pushed.len());
}

#[test]
fn a_full_disk_refuses_pushes_keeps_everything_and_recovers_without_a_restart() {
    for lies in ["0", "1"] {
        let output = Place::new().child(&format!("full {lies}")).output().unwrap();
        assert!(output.status.success(), "lies: {lies}: {}", shim::told(&output));
    }
}

/// An upload whose sync fails is committed again, as a client does that is told of a failure.
pub(crate) fn again(root: &Path, marks: &Path) {
    let marks = Marks::open(marks);
    let store = check::options().open(workload::data(root)).unwrap();
    let repository: RepositoryName = "again".parse().unwrap();
    let content = noise(1, 100_000);
    let digest = Algorithm::Sha256.digest(&content);
    marks.say(&format!("B 1 {}=1", check::key("b", &repository, digest)));
    let mut upload = store.start_upload(&repository, &UploadOptions::new()).unwrap();
    let id = upload.id();
    upload.write_all(&content).unwrap();
    marks.say(&format!("!fail {SYNC} 1 {CLEANLY} {EIO} 0"));
    let error = upload.commit(&digest).unwrap_err();
    assert!(error.to_string().starts_with("syncing content"), "{error}");
    let mut upload = store.resume_upload(&repository, id, &UploadOptions::new()).unwrap();
    let offset = usize::try_from(upload.offset()).unwrap();
    upload.write_all(&content[offset..]).unwrap();
    upload.commit(&digest).unwrap();
    marks.say("A 1");
}

/// The first sync of a small blob, which is the index's, or of a large manifest, which is its file's, fails.
pub(crate) fn unsynced(root: &Path, marks: &Path, large: bool) {
    let marks = Marks::open(marks);
    let store = check::options().open(workload::data(root)).unwrap();
    let repository: RepositoryName = "unsynced".parse().unwrap();
    // More than a page: a page that later bytes come to as well is written with them.
    let content = noise(1, 12_000);
    let digest = Algorithm::Sha256.digest(&content);
    let manifest = check::image(&[(digest, 12_000)], 100_000);
    let put = || store.put_manifest(&repository, &manifest, &check::sparse());
    let key = if large {
        check::key("m", &repository, manifest.digest())
    } else {
        check::key("b", &repository, digest)
    };
    marks.say(&format!("B 1 {key}=1"));
    marks.say(&format!("!fail {SYNC} 1 {CLEANLY} {EIO} 0"));
    let outcome = if large { put() } else { check::push(&store, &repository, &content, &digest) };
    // Said as it was answered, true or not: the cut tells.
    marks.say(if outcome.is_ok() { "A 1" } else { "F 1" });
    // What comes after it is synced.
    let other = noise(2, 300);
    let digest = Algorithm::Sha256.digest(&other);
    marks.say(&format!("B 2 {}=1", check::key("b", &repository, digest)));
    check::push(&store, &repository, &other, &digest).unwrap();
    marks.say("A 2");
    println!("FIGURES {}", marks.ask().1);
}

#[test]
fn nothing_is_acknowledged_that_a_failed_sync_should_have_written() {
    for large in ["0", "1"] {
        let place = Place::new();
        let output = place
            .child(&format!("unsynced {large}"))
            .env("SHIM_LOG", place.log())
            .env("SHIM_UNDO", "1")
            .output()
            .unwrap();
        let text = shim::told(&output);
        assert!(output.status.success() && text.contains("FIGURES 1"), "{text}");
        let failures = super::cuts::at_the_end(&fs::read(place.log()).unwrap(), 12);
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    }
}

#[test]
fn a_commit_that_is_tried_again_after_its_sync_failed_is_durable() {
    // The second sync succeeded and wrote nothing, for the system took the lost pages for written: the blob was acknowledged, and
    // a power cut left zeros in its place.
    let place = Place::new();
    let output = place.child("again -").env("SHIM_LOG", place.log()).env("SHIM_UNDO", "1").output().unwrap();
    assert!(output.status.success(), "{}", shim::told(&output));
    let log = fs::read(place.log()).unwrap();
    let states = 12;
    let failures = super::cuts::at_the_end(&log, states);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
