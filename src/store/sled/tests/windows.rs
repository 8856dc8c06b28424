//! Windows: what is in the write-ahead log, what is in sled, and that the two fit.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::folder;
use crate::store::sled::changes::Changes;
use crate::store::sled::index::Index;
use crate::store::sled::schema::Tree;

const CACHE: u64 = 1 << 20;

fn set(index: &Index, key: &[u8], value: &[u8]) {
    let mut changes = Changes::new();
    changes.set_value(Tree::Tags, key.to_vec(), value.to_vec());
    index.apply(&changes).unwrap();
}

fn get(index: &Index, key: &[u8]) -> Option<Vec<u8>> {
    index.value(Tree::Tags, key).unwrap().map(|value| value.to_vec())
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file())
    {
        fs::copy(&entry, to.join(entry.file_name().unwrap())).unwrap();
    }
}

#[test]
fn a_kill_at_any_step_of_a_window_leaves_its_outcome() {
    let folder = folder();
    let (path, killed) = (folder.path().join("index"), folder.path().join("killed"));
    let index = Index::create(&path, CACHE).unwrap();
    set(&index, b"before", b"1");
    set(&index, b"goes", b"1");
    index.turn().unwrap();
    set(&index, b"before", b"2");
    set(&index, b"new", b"2");
    let mut removal = Changes::new();
    removal.remove(Tree::Tags, b"goes".to_vec());
    index.apply(&removal).unwrap();
    index.flush().unwrap();
    // What sled had heard of it: nothing, a part, all of it.
    let steps: [&dyn Fn(); 4] = [
        &|| (),
        &|| index.put(Tree::Tags, b"new", Some(b"2")).unwrap(),
        &|| index.put(Tree::Tags, b"before", Some(b"1.5")).unwrap(),
        &|| index.turn().unwrap(),
    ];
    for (number, step) in steps.iter().enumerate() {
        step();
        let killed = killed.join(number.to_string());
        copy(&path, &killed);
        let index = Index::open(&killed, CACHE).unwrap();
        assert_eq!(get(&index, b"before").unwrap(), b"2", "step {number}");
        assert_eq!(get(&index, b"new").unwrap(), b"2");
        assert_eq!(get(&index, b"goes"), None);
    }
}

#[test]
fn a_file_of_another_time_or_another_index_is_told() {
    let folder = folder();
    let [path, old, other, tried] = ["index", "old", "other", "tried"].map(|name| folder.path().join(name));
    drop(Index::create(&other, CACHE).unwrap());
    let index = Index::create(&path, CACHE).unwrap();
    set(&index, b"key", b"1");
    index.flush().unwrap();
    copy(&path, &old);
    for number in 2..5_u8 {
        index.turn().unwrap();
        set(&index, b"key", &[number]);
    }
    index.sync().unwrap();
    let attempt = |from: &Path, names: &[&str]| {
        let _ = fs::remove_dir_all(&tried);
        copy(&path, &tried);
        for entry in fs::read_dir(&tried).unwrap().map(|entry| entry.unwrap()) {
            if names.iter().any(|name| entry.file_name().to_string_lossy().starts_with(name)) {
                fs::remove_file(entry.path()).unwrap();
            }
        }
        for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
            if names.iter().any(|name| entry.file_name().to_string_lossy().starts_with(name)) {
                fs::copy(entry.path(), tried.join(entry.file_name())).unwrap();
            }
        }
        match Index::open(&tried, CACHE) {
            Ok(index) => Ok(get(&index, b"key").unwrap()),
            Err(error) => Err(error.to_string()),
        }
    };
    assert_eq!(attempt(&path, &[]), Ok(vec![4]));
    for (from, names, word) in [
        (&old, ["wal"].as_slice(), "its file \"wal\" is older"),
        (&old, &["db", "snap"], "its file \"db\" is older"),
        (&other, &["wal"], "is not the one that it had"),
        (&other, &["db", "snap"], "is not the one that it had"),
        (&folder.path().to_owned(), &["wal"], "its file \"wal\" is missing"),
    ] {
        let found = attempt(from, names);
        assert!(found.as_ref().is_err_and(|error| error.contains(word)), "{names:?}: {found:?}");
    }
}

/// An entry is in memory until sled has it: there is no moment at which a reader meets it in neither, or an older value.
#[test]
fn nobody_meets_a_moment_between_the_log_and_sled() {
    let folder = folder();
    let index = Index::create(&folder.path().join("index"), CACHE).unwrap();
    set(&index, b"key", &0_u32.to_be_bytes());
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for by_scan in [false, true] {
            let (index, done) = (&index, &done);
            scope.spawn(move || {
                let mut last = 0;
                while !done.load(Ordering::Relaxed) {
                    let found = if by_scan {
                        index
                            .scan(Tree::Tags, b"k", None)
                            .unwrap()
                            .next()
                            .map(|entry| entry.unwrap().1.to_vec())
                    } else {
                        get(index, b"key")
                    };
                    let found = found.unwrap_or_else(|| panic!("gone after {last}"));
                    let number = u32::from_be_bytes(found.try_into().unwrap());
                    assert!(number >= last, "{number} after {last}");
                    last = number;
                }
            });
        }
        for number in 1..400_u32 {
            set(&index, b"key", &number.to_be_bytes());
            index.turn().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn the_ends_of_a_tree_are_what_both_say() {
    let folder = folder();
    let index = Index::create(&folder.path().join("index"), CACHE).unwrap();
    let ends = || index.ends(Tree::Tags).unwrap().map(|(first, last)| (first.to_vec(), last.to_vec()));
    let pair = |first: &[u8], last: &[u8]| Some((first.to_vec(), last.to_vec()));
    let remove = |key: &[u8]| {
        let mut changes = Changes::new();
        changes.remove(Tree::Tags, key.to_vec());
        index.apply(&changes).unwrap();
    };
    assert_eq!(ends(), None);
    set(&index, b"b", b"");
    assert_eq!(ends(), pair(b"b", b"b"));
    [b"c", b"d", b"e"].iter().for_each(|key| set(&index, *key, b""));
    index.turn().unwrap();
    assert_eq!(ends(), pair(b"b", b"e"));
    set(&index, b"a", b"");
    remove(b"e");
    remove(b"d");
    assert_eq!(ends(), pair(b"a", b"c"));
    set(&index, b"f", b"");
    assert_eq!(ends(), pair(b"a", b"f"));
    [b"a", b"b", b"c", b"f"].iter().for_each(|key| remove(*key));
    assert_eq!(ends(), None);
}
