//! Restoring and compacting: everything or nothing, whenever it is cut short.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test stops at the first surprise, and says what it measured"
)]

use std::fs;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::Path;

use sledge::Error;
use sledge::oci::Manifest;
use sledge::store::sled::{Progress, RestoreOptions, RestoreReport, Sled, compact};
use sledge::store::{Manage, Pull, Push, UploadOptions};

use crate::images::{check_whole, content, image, name, number, on, open, push, put, read, snapshot, tag};

mod images;

/// A store of some images, with a snapshot beside it.
fn with_snapshot(folder: &Path) -> Vec<Manifest> {
    let store = open(&folder.join("store"));
    let images: Vec<Manifest> = (0..3).map(|number| image(&store, &name("a"), "x", number)).collect();
    for (n, image) in images.iter().enumerate() {
        put(&store, &name("a"), image, &[tag(&format!("t{n}"))]);
    }
    snapshot(&store, &folder.join("snapshot"));
    images
}

fn restore(snapshot: &Path, folder: &Path) -> Result<RestoreReport, Error> {
    sledge::store::sled::restore(snapshot, folder, &RestoreOptions::new(), &mut on)
}

#[test]
fn a_restored_store_has_all_and_shares_no_file() {
    let folder = tempfile::tempdir().unwrap();
    with_snapshot(folder.path());
    let (from, to) = (folder.path().join("snapshot"), folder.path().join("restored"));
    let report = restore(&from, &to).unwrap();
    assert_eq!((report.files.linked.files, report.files.bad), (0, 0));
    assert_eq!(report.files.copied.files + report.files.cloned.files, 3);
    assert!(content(&to).iter().all(|(name, inode)| content(&from)[name] != *inode));
    fs::remove_dir_all(&from).unwrap();
    let store = open(&to);
    assert_eq!(check_whole(&store), 3);
    assert_eq!(number(&store, &name("a"), &tag("t2")), Some(2));
    let next = image(&store, &name("a"), "x", 9);
    put(&store, &name("a"), &next, &[tag("t2")]);

    // A store that is there is not written over.
    drop(store);
    let from = folder.path().join("store");
    assert!(matches!(restore(&from, &to), Err(Error::NotEmpty { .. })));
    assert_eq!(number(&open(&to), &name("a"), &tag("t2")), Some(9));
    // Linked, because that was asked for.
    let linked = folder.path().join("linked");
    let report =
        sledge::store::sled::restore(&from, &linked, &RestoreOptions::new().link(true), &mut on).unwrap();
    assert_eq!((report.files.linked.files, report.files.copied.files), (3, 0));
}

#[test]
fn a_restoration_that_was_cut_short_is_no_store_and_is_begun_again() {
    let folder = tempfile::tempdir().unwrap();
    with_snapshot(folder.path());
    let (from, to) = (folder.path().join("snapshot"), folder.path().join("restored"));
    let mut watch = |_: &Progress| ControlFlow::Break(());
    let cut = sledge::store::sled::restore(&from, &to, &RestoreOptions::new(), &mut watch);
    assert!(matches!(cut, Err(Error::Interrupted(_))));
    assert!(to.join("unfinished-index").exists());
    // Its states in turn: the index beside, with the format in place, with content torn off.
    for step in 0..3 {
        match step {
            1 => drop(fs::copy(from.join("format"), to.join("format")).unwrap()),
            2 => fs::write(to.join("content/x"), b"torn").unwrap(),
            _ => {}
        }
        let refused = Sled::open(&to).map(drop).unwrap_err();
        assert!(
            matches!(&refused, Error::Damaged { reason, .. } if reason.contains("cut short")),
            "{refused}"
        );
    }
    restore(&from, &to).unwrap();
    assert_eq!(check_whole(&open(&to)), 3);
    // Cut short after its index got its name: then it is a store.
    fs::write(to.join("unfinished-store"), b"").unwrap();
    assert_eq!(check_whole(&open(&to)), 3);
    assert!(!to.join("unfinished-store").exists());
}

#[test]
fn what_a_snapshot_lacks_is_told_and_the_rest_restored() {
    let folder = tempfile::tempdir().unwrap();
    let images = with_snapshot(folder.path());
    let (from, to) = (folder.path().join("snapshot"), folder.path().join("restored"));
    let files: Vec<_> = content(&from).into_keys().collect();
    fs::remove_file(from.join("content").join(&files[0])).unwrap();
    fs::OpenOptions::new()
        .write(true)
        .open(from.join("content").join(&files[1]))
        .unwrap()
        .set_len(7)
        .unwrap();
    let report = restore(&from, &to).unwrap();
    let reasons: Vec<&str> = report.files.bad_content.iter().map(|bad| bad.reason.as_str()).collect();
    assert_eq!(report.files.bad, 2);
    assert!(reasons.contains(&"its file is missing"), "{reasons:?}");
    assert!(
        reasons.iter().any(|reason| reason.starts_with("its file has 7 bytes instead of ")),
        "{reasons:?}"
    );
    let store = open(&to);
    let layers = images.iter().map(|image| image.contents().unwrap().references[1].digest);
    assert_eq!(layers.filter(|layer| read(&store, &name("a"), layer).is_ok()).count(), 1);
}

/// It said that all was restored, and the first pull failed.
#[test]
fn bytes_that_are_not_their_digest_s_are_told_where_they_are_copied_and_count_as_absent() {
    let folder = tempfile::tempdir().unwrap();
    let images = with_snapshot(folder.path());
    let (from, to) = (folder.path().join("snapshot"), folder.path().join("restored"));
    let file = content(&from).into_keys().next().unwrap();
    let path = from.join("content").join(file);
    let mut bytes = fs::read(&path).unwrap();
    bytes[10] ^= 1;
    // Under its own name alone: the store's file stays as it is.
    fs::remove_file(&path).unwrap();
    fs::write(&path, bytes).unwrap();

    let report = restore(&from, &to).unwrap();
    let (bad, unread) = (report.files.bad, report.files.unread());
    // A filesystem that clones does not read: then that is told.
    assert!((bad, unread) == (1, 0) || (bad, unread) == (0, 3), "{report:?}");
    let store = open(&to);
    let layers = images.iter().map(|image| image.contents().unwrap().references[1].digest);
    let good = layers.filter(|layer| store.stat(&name("a"), layer).is_ok()).count();
    assert_eq!(good, 3 - usize::try_from(bad).unwrap());
    assert_eq!(report.files.bad_content.len(), usize::try_from(bad).unwrap());
    for bad in &report.files.bad_content {
        assert!(bad.reason.starts_with("its bytes have the digest sha256:"), "{}", bad.reason);
    }
    // Pushed again, it is whole.
    for number in 0..3 {
        image(&store, &name("a"), "x", number);
    }
    assert_eq!(check_whole(&store), 3);
}

#[test]
fn only_a_store_that_is_not_in_use_and_of_this_format_is_restored() {
    let folder = tempfile::tempdir().unwrap();
    with_snapshot(folder.path());
    let (from, to) = (folder.path().join("snapshot"), folder.path().join("restored"));
    let missing = folder.path().join("missing");
    assert!(matches!(restore(&missing, &to), Err(Error::NoStore(_))));
    let store = open(&from);
    assert!(matches!(restore(&from, &to), Err(Error::Locked(_))));
    drop(store);
    fs::write(from.join("format"), "sledge store, format 99\n").unwrap();
    assert!(matches!(restore(&from, &to), Err(Error::FormatVersion { .. })));
    assert!(!missing.exists() && !to.exists());
}

#[test]
fn compacting_keeps_everything_in_less_room() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("store");
    let store = open(&data);
    let gone: Vec<_> = (0..2000_u32)
        .map(|n| push(&store, &name("gone"), &[n.to_le_bytes().as_slice(), &[1; 8000]].concat()))
        .collect();
    with_snapshot_into(&store);
    for digest in &gone {
        store.delete_blob(&name("gone"), digest).unwrap();
    }
    let mut upload = store.start_upload(&name("a"), &UploadOptions::new()).unwrap();
    upload.write_all(&[7; 100_000]).unwrap();
    let session = upload.id();
    upload.suspend().unwrap();
    assert!(matches!(compact(&data, &mut on), Err(Error::Locked(_))));
    drop(store);

    let report = compact(&data, &mut on).unwrap();
    println!(
        "{} records: {} bytes before, {} after, {:?}",
        report.records, report.before, report.after, report.took
    );
    assert!(report.after < report.before / 4, "{report:?}");
    let store = open(&data);
    assert_eq!(check_whole(&store), 3);
    assert_eq!(store.upload_status(&name("a"), session).unwrap().offset, 100_000);
    drop(store);
    assert!(matches!(compact(folder.path().join("missing"), &mut on), Err(Error::NoStore(_))));
}

fn with_snapshot_into(store: &Sled) {
    for n in 0..3 {
        let manifest = image(store, &name("a"), "x", n);
        put(store, &name("a"), &manifest, &[tag(&format!("t{n}"))]);
    }
}

#[test]
fn a_compaction_that_was_cut_short_anywhere_leaves_the_whole_store() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("store");
    with_snapshot_into(&open(&data));
    let index = |name: &str| data.join(name);
    // Interrupted at each thing that it says it does.
    for after in 0..2 {
        let mut told = 0;
        let mut watch = |_: &Progress| {
            told += 1;
            if told > after { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        assert!(matches!(compact(&data, &mut watch), Err(Error::Interrupted(_))));
        assert_eq!(check_whole(&open(&data)), 3);
        assert!(!index("unfinished-index").exists());
    }

    let copy = |from: &str, to: &str| images::copy_folder(&index(from), &index(to));
    // Cut before the first rename: both are there. A new index that is torn is nobody's.
    copy("index", "unfinished-index");
    fs::write(index("unfinished-index/conf"), b"torn").unwrap();
    assert_eq!(check_whole(&open(&data)), 3);
    assert!(!index("unfinished-index").exists());
    // Between the two renames: there is no index by its name.
    copy("index", "unfinished-index");
    fs::rename(index("index"), index("replaced-index")).unwrap();
    assert_eq!(check_whole(&open(&data)), 3);
    assert!(!index("unfinished-index").exists() && !index("replaced-index").exists());
    // After the second, and in the middle of removing the old one.
    copy("index", "replaced-index");
    fs::remove_file(index("replaced-index/conf")).unwrap();
    assert_eq!(check_whole(&open(&data)), 3);
    assert!(!index("replaced-index").exists());
    compact(&data, &mut on).unwrap();
    assert_eq!(check_whole(&open(&data)), 3);
}
