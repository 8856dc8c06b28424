//! Snapshots of a store in use: whole, of one moment, and independent of the store that they were taken of.
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
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use sledge::Error;
use sledge::oci::{Manifest, MediaType, Tag};
use sledge::store::sled::{CollectOptions, Progress, Sled, SnapshotOptions, VerifyOptions, compact};
use sledge::store::{Condition, Discover, Manage, MountSource, Pinned, Pull, Push, UploadOptions};

use crate::images::{check_whole, content, image, name, number, on, open, push, put, read, snapshot, tag};

mod images;

#[test]
fn a_snapshot_of_a_store_in_use_is_the_state_at_one_moment() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("store"));
    let busy = name("busy");
    // Something to scan, so that there is a while in which things change.
    for many in 0..150_u64 {
        let manifest = image(&store, &name("still"), "still", many);
        let tags: Vec<Tag> = (0..32).map(|n| tag(&format!("t-{many}-{n}"))).collect();
        put(&store, &name("still"), &manifest, &tags);
    }
    let stop = AtomicBool::new(false);
    // By thread: the last image whose both tags were acknowledged, and the last that was begun.
    let acknowledged: Vec<AtomicU64> = (0..8).map(|_| AtomicU64::new(0)).collect();
    let begun: Vec<AtomicU64> = (0..8).map(|_| AtomicU64::new(0)).collect();

    let outcome = thread::scope(|scope| {
        for who in 0..8 {
            let (store, busy, stop, acknowledged, begun) = (&store, &busy, &stop, &acknowledged, &begun);
            scope.spawn(move || {
                let mut before: Option<Manifest> = None;
                for round in 1.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let manifest = image(store, busy, &who.to_string(), round);
                    begun[who].store(round, Ordering::SeqCst);
                    // At once, and one after the other.
                    put(store, busy, &manifest, &[tag(&format!("left-{who}")), tag(&format!("right-{who}"))]);
                    store
                        .tag(busy, manifest.digest(), &tag(&format!("first-{who}")), &Condition::Any)
                        .unwrap();
                    store
                        .tag(busy, manifest.digest(), &tag(&format!("second-{who}")), &Condition::Any)
                        .unwrap();
                    put(store, busy, &manifest, &[tag(&format!("only-{who}-{round}"))]);
                    if let Some(before) = before.replace(manifest) {
                        store.delete_manifest(busy, before.digest(), &Pinned::none()).unwrap();
                        for reference in before.contents().unwrap().references {
                            store.delete_blob(busy, &reference.digest).unwrap();
                        }
                    }
                    acknowledged[who].store(round, Ordering::SeqCst);
                }
            });
        }
        let load = |of: &[AtomicU64]| -> Vec<u64> { of.iter().map(|n| n.load(Ordering::SeqCst)).collect() };
        let taken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            while load(&acknowledged).iter().any(|number| *number < 3) {
                thread::yield_now();
            }
            let mut taken = Vec::new();
            for n in 0..4 {
                let target = folder.path().join(format!("snapshot-{n}"));
                let least = load(&acknowledged);
                let report = snapshot(&store, &target);
                taken.push((target, report, least, load(&begun)));
            }
            taken
        }));
        stop.store(true, Ordering::Relaxed);
        taken
    });
    let taken = outcome.unwrap();
    drop(store);
    fs::remove_dir_all(folder.path().join("store")).unwrap();

    for (target, report, least, most) in taken {
        println!(
            "{} records, {} changes meanwhile, {:?}, writer held {:?}",
            report.records, report.changes, report.took, report.held
        );
        assert!(report.changes > 0, "nothing was changed meanwhile: the test shows nothing");
        assert_eq!(report.files.bad, 0, "{:?}", report.files.bad_content);
        let copy = open(&target);
        assert!(check_whole(&copy) >= 158);
        for who in 0..8 {
            let of = |kind: &str| number(&copy, &busy, &tag(&format!("{kind}-{who}"))).unwrap_or_default();
            let (left, right, first, second) = (of("left"), of("right"), of("first"), of("second"));
            assert_eq!(left, right, "set in one piece");
            assert!(
                (least[who]..=most[who]).contains(&left),
                "{left} is not in {}..={}",
                least[who],
                most[who]
            );
            // Deleting the one before takes its tags: then there is none for a moment, but never one out of order.
            assert!(first == left || first + 1 == left || first == 0, "{first} after {left}");
            assert!(second == first || second + 1 == first || second == 0, "{second} after {first}");
            for gone in 1..least[who] {
                assert_eq!(number(&copy, &busy, &tag(&format!("only-{who}-{gone}"))), None, "deleted before");
            }
        }
        // Nothing is left of what was on its way in or out.
        drop(copy);
        let copy = open(&target);
        let named = 2 * (150 + 8 * 2);
        assert!(content(&target).len() <= named, "{} files", content(&target).len());
        drop(copy);
    }
}

#[test]
fn what_is_done_before_its_moment_is_in_it_and_what_is_done_after_it_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let (data, target) = (folder.path().join("store"), folder.path().join("snapshot"));
    let store = open(&data);
    let repository = name("a");
    let images: Vec<Manifest> = (0..3).map(|n| image(&store, &repository, "x", n)).collect();
    put(&store, &repository, &images[0], &[tag("moved"), tag("gone")]);
    put(&store, &repository, &images[1], &[tag("kept")]);
    let layer = images[1].contents().unwrap().references[1].digest;
    let mut watch = |progress: &Progress| {
        match (progress.doing.as_str(), progress.done) {
            // Its moment is yet to come.
            ("copying records", 0) => {
                put(&store, &repository, &images[1], &[tag("moved")]);
                store.delete_manifest(&repository, images[0].digest(), &Pinned::none()).unwrap();
                put(&store, &repository, &images[2], &[tag("new")]);
            }
            // Its moment has passed, and no file has been linked yet: none may be removed, whatever else the writer has time for.
            ("bringing files", 0) => {
                put(&store, &repository, &images[2], &[tag("moved"), tag("later")]);
                store.delete_manifest(&repository, images[1].digest(), &Pinned::none()).unwrap();
                store.delete_blob(&repository, &layer).unwrap();
                for n in 0..200_u32 {
                    push(&store, &name("others"), &n.to_le_bytes());
                }
                assert_eq!(content(&data).len(), 3);
            }
            _ => {}
        }
        ControlFlow::Continue(())
    };
    let report = store.snapshot(&target, &SnapshotOptions::new(), &mut watch).unwrap();
    assert_eq!((report.files.linked.files, report.files.bad), (3, 0));
    // Afterwards what was put off is done.
    drop(store);
    assert_eq!(content(&data).len(), 2);

    let copy = open(&target);
    let found = |tag_name: &str| number(&copy, &repository, &tag(tag_name));
    assert_eq!(["moved", "gone", "kept", "new", "later"].map(found), [Some(1), None, Some(1), Some(2), None]);
    assert_eq!(check_whole(&copy), 2);
    assert!(!copy.repositories(None, 10).unwrap().items.contains(&name("others")));
}

#[test]
fn a_snapshot_shares_its_files_and_outlives_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let (data, target) = (folder.path().join("store"), folder.path().join("snapshot"));
    let store = open(&data);
    let manifest = image(&store, &name("a"), "x", 1);
    put(&store, &name("a"), &manifest, &[tag("latest")]);
    // A session, whose bytes are in a file, and which is no part of a snapshot.
    let mut upload = store.start_upload(&name("a"), &UploadOptions::new()).unwrap();
    upload.write_all(&[7; 100_000]).unwrap();
    let session = upload.id();
    upload.suspend().unwrap();
    assert_eq!(content(&data).len(), 2);

    let report = snapshot(&store, &target);
    assert_eq!((report.files.linked.files, report.files.copied.files, report.files.bad), (1, 0, 0));
    let shared = content(&target);
    assert_eq!(shared.len(), 1);
    assert!(shared.iter().all(|(name, inode)| content(&data)[name] == *inode));
    assert!(!folder.path().join("snapshot.unfinished").exists());

    // Whatever happens to the store now is nothing to the snapshot, and the other way round.
    store.delete_manifest(&name("a"), manifest.digest(), &Pinned::none()).unwrap();
    let copy = open(&target);
    assert_eq!(check_whole(&copy), 1);
    assert!(matches!(copy.upload_status(&name("a"), session), Err(Error::UploadUnknown { .. })));
    assert!(store.upload_status(&name("a"), session).is_ok());
    for reference in manifest.contents().unwrap().references {
        copy.delete_blob(&name("a"), &reference.digest).unwrap();
        assert!(read(&store, &name("a"), &reference.digest).is_ok());
    }
    let next = image(&copy, &name("a"), "x", 2);
    put(&copy, &name("a"), &next, &[tag("latest")]);
    drop((store, copy));
    fs::remove_dir_all(&data).unwrap();
    assert_eq!(number(&open(&target), &name("a"), &tag("latest")), Some(2));
}

#[test]
fn on_another_filesystem_files_are_copied_once() {
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    if fs::metadata(folder.path()).unwrap().dev() == fs::metadata(elsewhere.path()).unwrap().dev() {
        println!("there is only one filesystem here");
        return;
    }
    let store = open(&folder.path().join("store"));
    for number in 0..5 {
        let manifest = image(&store, &name("a"), "x", number);
        put(&store, &name("a"), &manifest, &[tag(&format!("t{number}"))]);
    }
    let first = elsewhere.path().join("first");
    let report = snapshot(&store, &first);
    assert_eq!((report.files.linked.files, report.files.copied.files), (0, 5));
    for number in 5..7 {
        let manifest = image(&store, &name("a"), "x", number);
        put(&store, &name("a"), &manifest, &[tag(&format!("t{number}"))]);
    }
    let second = elsewhere.path().join("second");
    let since = SnapshotOptions::new().since(&first);
    let report = store.snapshot(&second, &since, &mut on).unwrap();
    assert_eq!((report.files.linked_since.files, report.files.copied.files, report.files.bad), (5, 2, 0));
    drop(store);
    fs::remove_dir_all(folder.path().join("store")).unwrap();
    fs::remove_dir_all(&first).unwrap();
    assert_eq!(check_whole(&open(&second)), 7);
}

/// What is done to a snapshot, by its name.
type Act<'a> = (&'a str, &'a dyn Fn(&Sled));

/// A store in use was taken for an earlier snapshot: what it removed while its files were linked was missing from the new one.
#[test]
fn only_a_snapshot_to_which_nothing_was_done_is_gone_on_from() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let store = open(&at("store"));
    let (a, made) = (name("a"), image(&store, &name("a"), "x", 1));
    put(&store, &a, &made, &[tag("latest")]);
    let config = made.contents().unwrap().references[0].digest;
    let since = |earlier: &Path| {
        let target = at("new");
        let taken = store.snapshot(&target, &SnapshotOptions::new().since(earlier), &mut on).map(drop);
        let _ = fs::remove_dir_all(target);
        taken
    };
    assert!(matches!(since(&at("store")), Err(Error::Locked(_))), "it is open");
    drop(open(&at("other")));
    assert!(matches!(since(&at("other")), Err(Error::Unsupported(_))), "it is a store, and no snapshot");

    let harmless: [Act<'_>; 3] = [
        ("nothing", &|_| ()),
        ("reading", &|copy| assert_eq!(check_whole(copy), 1)),
        ("verifying", &|copy| assert!(copy.verify(&VerifyOptions::new(), &mut on).unwrap().is_well())),
    ];
    let harmful: [Act<'_>; 8] = [
        ("put", &|copy| put(copy, &a, &made, &[])),
        ("tag", &|copy| copy.tag(&a, made.digest(), &tag("other"), &Condition::Any).unwrap()),
        ("upload", &|copy| {
            push(copy, &name("b"), b"x");
        }),
        ("mount", &|copy| {
            copy.mount(&name("b"), &config, &MountSource::Repository(&a)).unwrap();
        }),
        ("delete-tag", &|copy| copy.delete_tag(&a, &tag("latest")).unwrap()),
        ("delete-manifest", &|copy| copy.delete_manifest(&a, made.digest(), &Pinned::none()).unwrap()),
        ("delete-blob", &|copy| copy.delete_blob(&a, &config).unwrap()),
        ("collect", &|copy| drop(copy.collect(&CollectOptions::new(), &mut on).unwrap())),
    ];
    for ((what, act), stays) in
        harmless.into_iter().map(|case| (case, true)).chain(harmful.into_iter().map(|case| (case, false)))
    {
        snapshot(&store, &at(what));
        let copy = open(&at(what));
        assert!(copy.is_snapshot(), "{what}");
        copy.collect(&CollectOptions::new().dry_run(true), &mut on).unwrap();
        assert!(matches!(since(&at(what)), Err(Error::Locked(_))), "{what}");
        act(&copy);
        assert_eq!(copy.is_snapshot(), stays, "{what}");
        drop(copy);
        compact(at(what), &mut on).unwrap();
        assert_eq!(open(&at(what)).is_snapshot(), stays, "{what}");
        match since(&at(what)) {
            Ok(()) => assert!(stays, "{what}"),
            Err(Error::Unsupported(why)) => {
                assert!(!stays && why.contains("is no snapshot as it was taken"), "{what}: {why}");
            }
            Err(error) => panic!("{what}: {error}"),
        }
    }
    assert!(!store.is_snapshot());
}

#[test]
fn a_place_that_is_taken_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("store");
    let store = open(&data);
    push(&store, &name("a"), b"x");
    let take = |target: &Path| store.snapshot(target, &SnapshotOptions::new(), &mut on);

    let full = folder.path().join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("thesis.tex"), b"precious").unwrap();
    assert!(matches!(take(&full), Err(Error::NotEmpty { found, .. }) if found == "thesis.tex"));
    assert_eq!(fs::read(full.join("thesis.tex")).unwrap(), b"precious");
    assert!(matches!(take(&data.join("inside")), Err(Error::Unsupported(_))));
    assert!(matches!(take(&data), Err(Error::NotEmpty { .. })));
    let since = SnapshotOptions::new().since(&full);
    let nothing = store.snapshot(folder.path().join("b"), &since, &mut on);
    assert!(matches!(nothing, Err(Error::Unsupported(_))));

    // What somebody else keeps under the name that an unfinished one has.
    let unfinished = folder.path().join("new.unfinished");
    fs::create_dir(&unfinished).unwrap();
    fs::write(unfinished.join("thesis.tex"), b"precious").unwrap();
    assert!(matches!(take(&folder.path().join("new")), Err(Error::NotEmpty { .. })));
    assert_eq!(fs::read(unfinished.join("thesis.tex")).unwrap(), b"precious");
}

/// It did all its work, and then could not give the link's name to it.
#[test]
fn a_snapshot_goes_where_a_link_leads() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("store"));
    let manifest = image(&store, &name("a"), "x", 1);
    put(&store, &name("a"), &manifest, &[tag("latest")]);
    let (link, disk) = (folder.path().join("latest"), folder.path().join("disk"));
    std::os::unix::fs::symlink(&disk, &link).unwrap();
    let refused = store.snapshot(&link, &SnapshotOptions::new(), &mut on).unwrap_err();
    assert!(matches!(refused, Error::Io { .. }), "{refused}");
    assert!(!disk.exists());

    fs::create_dir(&disk).unwrap();
    snapshot(&store, &link);
    assert!(link.is_symlink());
    assert_eq!(check_whole(&open(&disk)), 1);
}

#[test]
fn one_that_was_cut_short_is_no_snapshot_and_is_begun_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("store"));
    let manifest = image(&store, &name("a"), "x", 1);
    put(&store, &name("a"), &manifest, &[tag("latest")]);
    let target = folder.path().join("snapshot");
    let unfinished = folder.path().join("snapshot.unfinished");

    // Interrupted at each thing that it says it does: nothing is left, and nothing is held back any more.
    for after in 0.. {
        let mut told = 0;
        let mut watch = |_: &Progress| {
            told += 1;
            if told > after { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        match store.snapshot(&target, &SnapshotOptions::new(), &mut watch) {
            Err(Error::Interrupted(_)) => assert!(!target.exists() && !unfinished.exists()),
            outcome => {
                outcome.unwrap();
                assert!(after >= 3, "it says what it does");
                break;
            }
        }
    }
    // Nothing is held back after those that were interrupted.
    let layer = push(&store, &name("a"), &[5; 50_000]);
    store.delete_blob(&name("a"), &layer).unwrap();
    drop(store);
    assert_eq!(content(&folder.path().join("store")).len(), 1);
    let store = open(&folder.path().join("store"));
    fs::rename(&target, &unfinished).unwrap();
    // As a kill leaves it: at its very end, without its format, with its index still unfinished.
    for step in 0..4 {
        match step {
            1 => fs::remove_file(unfinished.join("format")).unwrap(),
            2 => fs::rename(unfinished.join("index"), unfinished.join("unfinished-index")).unwrap(),
            3 => fs::write(unfinished.join("unfinished-journal"), b"torn").unwrap(),
            _ => {}
        }
        snapshot(&store, &target);
        assert_eq!(check_whole(&open(&target)), 1);
        fs::remove_dir_all(&unfinished).ok();
        fs::rename(&target, &unfinished).unwrap();
    }
}

#[test]
fn a_missing_file_does_not_keep_the_rest_from_being_saved() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("store");
    let store = open(&data);
    let lost = push(&store, &name("a"), &[1; 50_000]);
    let file = content(&data).into_keys().next().unwrap();
    let kept = push(&store, &name("a"), &[2; 50_000]);
    fs::remove_file(data.join("content").join(file)).unwrap();
    let target = folder.path().join("snapshot");
    let report = snapshot(&store, &target);
    assert_eq!((report.files.linked.files, report.files.bad), (1, 1));
    assert_eq!(report.files.bad_content[0].digest, format!("blob {lost}"));
    assert_eq!(report.files.bad_content[0].reason, "its file is missing");
    assert_eq!(read(&open(&target), &name("a"), &kept).unwrap(), [2; 50_000]);
}

#[test]
fn what_is_quarantined_while_files_are_brought_is_quarantined_in_the_snapshot_too() {
    // Its record was read when nobody knew, and its file was gone when it was to be linked: the copy had a blob that was neither
    // there nor known to be bad.
    let folder = tempfile::tempdir().unwrap();
    let (data, target) = (folder.path().join("store"), folder.path().join("snapshot"));
    let store = open(&data);
    let repository = name("a");
    let manifest = |n: u64| {
        let document =
            serde_json::json!({ "schemaVersion": 2, "manifests": [], "annotations": { "n": n.to_string() } });
        let document = format!("{document}{}", " ".repeat(50_000));
        Manifest::new(MediaType::OCI_INDEX.parse().unwrap(), document.into_bytes())
    };
    let (bad_manifest, good_manifest) = (manifest(1), manifest(2));
    let bad_blob = push(&store, &repository, &[1; 50_000]);
    put(&store, &repository, &bad_manifest, &[tag("bad")]);
    for file in content(&data).into_keys() {
        let path = data.join("content").join(file);
        let mut bytes = fs::read(&path).unwrap();
        bytes[77] ^= 1;
        fs::write(path, bytes).unwrap();
    }
    let good_blob = push(&store, &repository, &[2; 50_000]);
    put(&store, &repository, &good_manifest, &[tag("good")]);

    let verify = |store: &Sled| store.verify(&VerifyOptions::new().restart(true), &mut on).unwrap();
    let mut watch = |progress: &Progress| {
        if progress.doing == "bringing files" && progress.done == 0 {
            assert_eq!(verify(&store).bad_count, 2);
        }
        ControlFlow::Continue(())
    };
    let report = store.snapshot(&target, &SnapshotOptions::new(), &mut watch).unwrap();
    assert_eq!((report.files.linked.files, report.files.bad), (2, 2), "{report:?}");
    let mut bad: Vec<_> = report.files.bad_content.iter().map(|bad| (&*bad.digest, &*bad.reason)).collect();
    bad.sort_unstable();
    let reason = "it is in quarantine: its bytes are bad";
    let names = [format!("blob {bad_blob}"), format!("manifest {} in a", bad_manifest.digest())];
    assert_eq!(bad, [(&*names[0], reason), (&*names[1], reason)]);

    // The copy knows it as the store does: absent, counted as such, and healed by a push.
    let copy = open(&target);
    // Nothing of this looks at bytes: the records say so, before anybody meets them.
    assert!(matches!(copy.stat(&repository, &bad_blob), Err(Error::BlobUnknown { .. })));
    assert_eq!(copy.tags(&repository, None, 10).unwrap().items.len(), 1);
    let found = verify(&copy);
    assert_eq!((found.bad_count, found.fault_count, found.orphan_count), (2, 0, 0), "{found}");
    assert_eq!(read(&copy, &repository, &good_blob).unwrap(), [2; 50_000]);
    assert_eq!(push(&copy, &repository, &[1; 50_000]), bad_blob);
    put(&copy, &repository, &bad_manifest, &[]);
    let found = verify(&copy);
    assert_eq!((found.bad_count, found.fault_count), (0, 0), "{found}");
    assert_eq!(read(&copy, &repository, &bad_blob).unwrap(), [1; 50_000]);
}
