//! Bytes that are not their digest's.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};

use super::super::{entries, files, folder, noise};
use super::*;
use crate::oci::{Algorithm, Digest, MediaType};
use crate::store::sled::quarantine::{self};
use crate::store::sled::room::{self, blocks};
use crate::store::sled::schema::{self, Placement, Tree};
use crate::store::sled::writer::Terms;
use crate::store::sled::{CollectOptions, Options, Sled};
use crate::store::{Discover, Manage, Pinned, Pull};

#[test]
fn what_is_good_when_it_is_looked_at_again_is_left_alone() {
    for inline in EACH_INLINE {
        let folder = folder();
        let store = open(&folder, inline);
        let scene = scene(&store);
        for owned in [owned_blob(&store, &scene.loose), owned_manifest(&store, "a/b", &scene.image)] {
            assert_eq!(quarantine::doubt(&store.0, &owned).unwrap(), None);
            // Nor is anything done for content that has gone, or that other content has replaced.
            let mut other = owned;
            other.content.placement = Placement::File(uuid::Uuid::nil());
            assert_eq!(quarantine::doubt(&store.0, &other).unwrap(), None);
        }
        assert!(verify(&store).is_well());
    }
}

/// What the files in `content/` and in `quarantine/` take is what is counted.
fn assert_counted(store: &Sled, folder: &tempfile::TempDir) {
    // What was retired is removed when nothing else is to be done.
    while entries(store, Tree::Leftovers) > 0 {
        std::thread::yield_now();
    }
    let files = fs::read_dir(folder.path().join("content")).unwrap();
    let taken: u64 = files.map(|file| blocks(file.unwrap().metadata().unwrap().len())).sum();
    let usage = store.usage().unwrap();
    assert_eq!(usage.in_files, taken);
    let beside =
        ["quarantine", "format", "lock", "reserve"].map(|name| room::taken(&folder.path().join(name)));
    assert_eq!(usage.in_rest, beside.iter().sum::<u64>());
}

/// Of what is in quarantine every group of writes asked the system for the size of each file.
#[test]
fn what_is_in_quarantine_is_looked_at_once_and_counted_from_then_on() {
    let folder = folder();
    let open = || Options::new().reserve(1 << 20).budget(64 << 20).open(folder.path()).unwrap();
    let store = open();
    // A file that comes behind its back: where it counts, the folder was looked at again.
    let in_rest = store.usage().unwrap().in_rest;
    store.0.core.folder.make_quarantine().unwrap();
    fs::write(store.0.core.folder.quarantined(uuid::Uuid::from_u128(1)), noise(9 << 20, 1)).unwrap();
    let free = store.usage().unwrap().free;
    push(&store, "a/b", b"small");
    let usage = store.usage().unwrap();
    assert_eq!((usage.in_rest, usage.free), (in_rest, free));
    drop(store);
    let store = open();
    let usage = store.usage().unwrap();
    assert_eq!(usage.in_rest, in_rest + (9 << 20));
    assert!(usage.free.unwrap() <= free.unwrap() - (9 << 20));

    // What is put there, healed and deleted counts, and takes nothing from what others may push.
    let free = usage.free;
    let blob = push(&store, "a/b", &noise(1 << 20, 2));
    flip(&store, &owned_blob(&store, &blob), 7);
    let bad = owned_blob(&store, &blob);
    assert!(quarantine::doubt(&store.0, &bad).unwrap().is_some());
    assert_counted(&store, &folder);
    assert_eq!(store.usage().unwrap().free, free.map(|free| free - (1 << 20)));
    // Moved on, what is there is not counted twice.
    quarantine::put_aside(&store.0, &bad).unwrap();
    assert_counted(&store, &folder);
    store.delete_blob(&name("a/b"), &blob).unwrap();
    assert_counted(&store, &folder);
    assert_eq!(store.usage().unwrap().free, free);
}

#[test]
fn bad_bytes_are_found_and_put_aside_wherever_they_are() {
    for inline in EACH_INLINE {
        let folder = folder();
        let store = open(&folder, inline);
        let scene = scene(&store);
        let large = noise(100_000, 1);
        let bad = [
            owned_blob(&store, &scene.config),
            owned_blob(&store, &Algorithm::Sha256.digest(&large)),
            owned_manifest(&store, "a/b", &scene.image),
        ];
        for owned in &bad {
            flip(&store, owned, usize::try_from(owned.content.size).unwrap() - 1);
        }
        let before = files(folder.path());
        assert_counted(&store, &folder);
        let first = verify(&store);
        assert_counted(&store, &folder);
        drop(store);
        let store = open(&folder, inline);
        assert_counted(&store, &folder);
        let again = verify(&store);
        for report in [&first, &again] {
            let found: BTreeSet<Digest> = report.bad.iter().map(|bad| bad.digest).collect();
            assert_eq!(found, bad.iter().map(|owned| *owned.digest()).collect(), "{inline:?}: {report}");
            assert_eq!(
                (report.fault_count, report.orphan_count, report.is_well()),
                (0, 0, false),
                "{report}"
            );
            let of_config = report.bad.iter().find(|bad| bad.digest == scene.config).unwrap();
            assert_eq!(of_config.repositories, [name("a/b"), name("c")]);
        }
        assert!(first.bad[0].why.contains("digest"), "{first}");
        let in_files =
            bad.iter().filter(|owned| matches!(owned.content.placement, Placement::File(_))).count();
        assert_eq!(files(folder.path()), before - in_files);
        for owned in &bad {
            let aside = fs::read(store.0.core.folder.quarantined(owned.content.placement.id())).unwrap();
            assert_eq!(aside.len() as u64, owned.content.size);
            let prefix = schema::id_key(owned.content.placement.id());
            let chunks = store.0.core.read(|index| Ok(index.scan(Tree::Chunks, &prefix, None)?.count()));
            assert_eq!(chunks.unwrap(), 0);
        }
        assert!(store.stat(&name("c"), &scene.config).is_err());
        assert!(
            store
                .tags(&name("a/b"), None, 9)
                .unwrap()
                .items
                .iter()
                .all(|tagged| tagged.digest != scene.image)
        );

        // All of it is pushed again, and the bad bytes are gone.
        push(&store, "c", b"{}");
        push(&store, "a/b", &large);
        let layers: Vec<Value> =
            [100, 5_000, 100_000].map(|size| pointer(&Algorithm::Sha256.digest(&noise(size, 1)))).to_vec();
        let document = json!({ "schemaVersion": 2, "config": pointer(&scene.config), "layers": layers });
        assert_eq!(put(&store, "a/b", MediaType::OCI_MANIFEST, &document, &[]), scene.image);
        let report = verify(&store);
        assert!(report.is_well(), "{inline:?}: {report}");
        assert_counted(&store, &folder);
        drop(store);
        let store = open(&folder, inline);
        assert_counted(&store, &folder);
        let report = verify(&store);
        assert!(report.is_well() && report.orphan_count == 0, "{inline:?}: {report}");
        assert_eq!(fs::read_dir(folder.path().join("quarantine")).unwrap().count(), 0);
    }
}

#[test]
fn a_manifest_whose_bytes_are_bad_is_deleted_with_all_its_references() {
    for inline in EACH_INLINE {
        let folder = folder();
        let store = open(&folder, inline);
        let scene = scene(&store);
        flip(&store, &owned_manifest(&store, "a/b", &scene.image), 5);
        assert_eq!(verify(&store).bad_count, 1);
        store.delete_manifest(&name("a/b"), &scene.image, &Pinned::none()).unwrap();
        drop(store);
        let report = verify(&open(&folder, inline));
        assert!(report.is_well() && report.orphan_count == 0, "{inline:?}: {report}");
    }
}

#[test]
fn what_a_kill_left_half_way_to_quarantine_is_moved_on() {
    for inline in EACH_INLINE {
        let folder = folder();
        let store = open(&folder, inline);
        let scene = scene(&store);
        let owned = owned_blob(&store, &scene.loose);
        let marking = owned.clone();
        assert!(store.0.writer.run(Terms::default(), move |desk| marking.mark(desk)).unwrap());
        let report = verify(&store);
        assert_eq!((report.bad_count, report.fault_count, report.orphan_count), (1, 0, 0), "{report}");
        assert!(store.0.core.folder.quarantined(owned.content.placement.id()).exists(), "{inline:?}");
    }
}

/// Verification passed over it, and a rescue said that it was lost.
#[test]
fn a_file_that_is_not_the_stores_is_told_and_left() {
    let folder = folder();
    let store = open(&folder, Inline::UpTo(0));
    scene(&store);
    let at = |path: &str| folder.path().join(path);
    fs::write(at("content/notes.txt"), b"mine").unwrap();
    fs::create_dir_all(at("quarantine")).unwrap();
    fs::write(at("quarantine/why.txt"), b"mine").unwrap();
    // An id, but not as the store writes it.
    let named = uuid::Uuid::from_u128(7).to_string();
    fs::write(at("content").join(&named), b"mine").unwrap();
    drop(store);
    let store = open(&folder, Inline::UpTo(0));
    let report = verify_with(&store, &VerifyOptions::new().repair(true));
    assert!(report.is_well(), "{report}");
    let mut strays: Vec<_> =
        report.orphans.iter().map(|orphan| (orphan.place.as_str(), orphan.stray)).collect();
    strays.sort_unstable();
    let named = format!("content/{named}");
    let mut expected = [(&*named, true), ("content/notes.txt", true), ("quarantine/why.txt", true)];
    expected.sort_unstable();
    assert_eq!(strays, expected);
    assert!(report.orphans.iter().all(|orphan| !orphan.removed && orphan.bytes == 4));
    assert!(report.to_string().contains("orphan: content/notes.txt (4 bytes), not the store's"), "{report}");

    // Nor does a collection that looks for what a life left that was cut off.
    let mut changes = Changes::new();
    changes.set(schema::CUT_KEY.to_vec(), &schema::Cut { ended: false, orphans: true }).unwrap();
    store.0.writer.run(Terms::default(), move |desk| desk.apply(&changes)).unwrap();
    for dry_run in [true, false] {
        let options = CollectOptions::new().dry_run(dry_run);
        let collected = store.collect(&options, &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(collected.orphans, 0, "{collected}");
    }
    assert!(at("content/notes.txt").exists() && at("quarantine/why.txt").exists() && at(&named).exists());
}
