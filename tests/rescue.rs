//! Stores whose index is gone or damaged: what can be read of them is saved, and what cannot is told.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test stops at the first surprise, and says what it measured"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use sledge::Error;
use sledge::oci::{Algorithm, Manifest, Reference};
use sledge::store::sled::{Inline, Options, RESCUED, RescueReport, Sled, rescue};
use sledge::store::{Discover, Manage, Pull, Push, UploadOptions};

use crate::images::{check_whole, copy_folder, image, name, number, on, open, push, put, read, tag};

mod images;

/// Every file below a folder, with its bytes.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                drop(found.insert(path.clone(), fs::read(path).unwrap()));
            }
        }
    }
    found
}

fn fill(store: &Sled, images: u64) -> Vec<Manifest> {
    let mut put_images = Vec::new();
    for n in 0..images {
        let repository = name(&format!("r/{}", n % 3));
        let manifest = image(store, &repository, "x", n);
        put(store, &repository, &manifest, &[tag(&format!("t{n}")), tag(&format!("u{n}"))]);
        put_images.push(manifest);
    }
    push(store, &name("r/0"), b"");
    put_images
}

/// Rescues, and looks whether the old folder is as it was.
fn rescued(folder: &Path) -> (PathBuf, RescueReport) {
    let (old, new) = (folder.join("store"), folder.join("new"));
    let before = files(&old);
    let report = rescue(&old, &new, &mut on).unwrap();
    assert_eq!(files(&old), before, "the old folder was changed");
    assert_eq!(fs::read_dir(folder).unwrap().count(), 2, "something is left beside");
    (new, report)
}

#[test]
fn with_a_readable_index_everything_is_saved() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("store"));
    let images = fill(&store, 10);
    let content = vec![9; 100_000];
    let odd = Algorithm::Sha512.digest(&content);
    let mut upload =
        store.start_upload(&name("odd"), &UploadOptions::new().algorithm(Algorithm::Sha512)).unwrap();
    upload.write_all(&content).unwrap();
    upload.commit(&odd).unwrap();
    store.mount(&name("other"), &odd, &sledge::store::MountSource::Repository(&name("odd"))).unwrap();
    let mut upload = store.start_upload(&name("odd"), &UploadOptions::new()).unwrap();
    upload.write_all(&[7; 100_000]).unwrap();
    upload.suspend().unwrap();
    drop(store);

    let (new, report) = rescued(folder.path());
    assert_eq!((report.manifests, report.whole, report.tags, report.unnamed), (10, 10, 20, 0), "{report:?}");
    assert!(report.lost.is_empty() && report.damage.is_empty() && report.incomplete.is_empty(), "{report:?}");
    assert_eq!((report.files.linked.files, report.files.bad), (11, 0));
    fs::remove_dir_all(folder.path().join("store")).unwrap();
    let store = open(&new);
    assert_eq!(check_whole(&store), 10);
    for (n, manifest) in images.iter().enumerate() {
        let repository = name(&format!("r/{}", n % 3));
        assert_eq!(number(&store, &repository, &tag(&format!("u{n}"))), Some(n as u64));
        let found = store.manifest(&repository, &Reference::Digest(*manifest.digest())).unwrap();
        assert_eq!(found.media_type(), manifest.media_type());
    }
    assert_eq!(read(&store, &name("other"), &odd).unwrap(), content);
    assert_eq!(read(&store, &name("r/0"), &Algorithm::Sha256.digest(b"")).unwrap(), b"");
}

#[test]
fn bytes_that_are_blobs_of_two_algorithms_are_saved_as_both() {
    // The bytes of either are found in one of the two files, and a second blob of that file kept the rescue from ending.
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("store"));
    let content = vec![3; 100_000];
    let digests = [Algorithm::Sha256, Algorithm::Sha512].map(|algorithm| algorithm.digest(&content));
    for digest in &digests {
        let options = UploadOptions::new().algorithm(digest.algorithm());
        let mut upload = store.start_upload(&name("a"), &options).unwrap();
        upload.write_all(&content).unwrap();
        upload.commit(digest).unwrap();
    }
    drop(store);
    let (new, report) = rescued(folder.path());
    assert_eq!((report.blobs, report.unnamed, report.files.linked.files), (2, 0, 2), "{report:?}");
    let store = open(&new);
    let [first, second] = digests;
    // Each has content of its own: that the one goes is nothing to the other.
    store.delete_blob(&name("a"), &first).unwrap();
    drop(store);
    assert_eq!(read(&open(&new), &name("a"), &second).unwrap(), content);
}

#[test]
fn without_an_index_the_files_tell_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("store");
    // All of it in files, but for one image whose layer another one shares.
    let store = Options::new().reserve(0).inline(Inline::UpTo(0)).open(&data).unwrap();
    let images = fill(&store, 5);
    let lost = images[4].contents().unwrap().references[0].digest;
    drop(store);
    fs::remove_dir_all(data.join("index")).unwrap();
    for entry in fs::read_dir(data.join("content")).unwrap() {
        let path = entry.unwrap().path();
        if Algorithm::Sha256.digest(&fs::read(&path).unwrap()) == lost {
            fs::remove_file(path).unwrap();
        }
    }
    assert!(matches!(Sled::open(&data), Err(Error::Damaged { .. })));

    let (new, report) = rescued(folder.path());
    assert_eq!((report.records, report.damage.len(), report.unnamed), (0, 1, 14), "{report:?}");
    assert_eq!((report.manifests, report.whole, report.tags), (5, 4, 0), "{report:?}");
    assert_eq!(report.incomplete.len(), 1);
    assert_eq!(report.incomplete[0].manifest, images[4].digest().to_string());
    assert_eq!(report.incomplete[0].missing, [lost.to_string()]);
    let store = open(&new);
    for manifest in &images[..4] {
        let found = store.manifest(&name(RESCUED), &Reference::Digest(*manifest.digest())).unwrap();
        for reference in found.contents().unwrap().references {
            read(&store, &name(RESCUED), &reference.digest).unwrap();
        }
    }
}

#[test]
fn bytes_that_are_not_what_their_record_says_are_lost_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("store");
    let store = open(&data);
    let images = fill(&store, 2);
    drop(store);
    let layer = images[0].contents().unwrap().references[1].digest;
    let file =
        files(&data.join("content")).into_iter().find(|(_, bytes)| Algorithm::Sha256.digest(bytes) == layer);
    let (path, mut bytes) = file.unwrap();
    bytes[20_000] ^= 1;
    fs::write(&path, &bytes).unwrap();

    let (new, report) = rescued(folder.path());
    assert_eq!((report.manifests, report.whole, report.unnamed), (2, 1, 1), "{report:?}");
    assert_eq!(report.lost, [format!("blob {layer} in r/0")]);
    let store = open(&new);
    assert!(matches!(read(&store, &name("r/0"), &layer), Err(Error::BlobUnknown { .. })));
    // What they are instead is kept too: somebody may know the digest.
    assert_eq!(read(&store, &name(RESCUED), &Algorithm::Sha256.digest(&bytes)).unwrap(), bytes);
}

/// A store with something in every tree, damaged in many ways: it is never a panic and never wrong bytes, and all files are saved.
#[test]
fn whatever_happened_to_the_index_the_files_are_saved() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    let images = fill(&open(&whole), 60);
    let length = fs::metadata(whole.join("index/db")).unwrap().len();
    let mut x = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    for kind in 0..12_u64 {
        let place = folder.path().join(format!("case-{kind}"));
        let data = place.join("store");
        copy_folder(&whole, &data);
        let db = data.join("index/db");
        let what = match kind {
            0 => {
                fs::write(data.join("index/conf"), b"noise").unwrap();
                "conf is noise".to_owned()
            }
            1 => {
                fs::remove_file(&db).unwrap();
                "no db".to_owned()
            }
            2 => {
                fs::write(&db, b"").unwrap();
                "an empty db".to_owned()
            }
            3..=5 => {
                let at = random() % length;
                fs::OpenOptions::new().write(true).open(&db).unwrap().set_len(at).unwrap();
                format!("cut at {at} of {length}")
            }
            _ => {
                let mut bytes = fs::read(&db).unwrap();
                let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64;
                let blocks = 1 << (kind - 6);
                for block in 0..blocks {
                    // One of them is near the beginning, where sled takes the log for ended.
                    let at = usize::try_from(if block == 0 { used / 8 } else { random() % used }).unwrap();
                    let end = bytes.len().min(at + 512);
                    bytes[at..end].iter_mut().for_each(|byte| *byte = random().to_le_bytes()[0]);
                }
                fs::write(&db, bytes).unwrap();
                format!("{blocks} x 512 bytes of noise in {used}")
            }
        };
        let (new, report) = rescued(&place);
        println!(
            "{what}: {} records, {} blobs, {} manifests, {} whole, {} tags, {} unnamed, {} lost; {:?}",
            report.records,
            report.blobs,
            report.manifests,
            report.whole,
            report.tags,
            report.unnamed,
            report.lost.len(),
            report.damage
        );
        let store = open(&new);
        // Each layer is in a file, and so in the new store, wherever its name is.
        let mut layers: Vec<_> =
            images.iter().map(|image| image.contents().unwrap().references[1].digest).collect();
        for repository in store.repositories(None, 100).unwrap().items {
            layers.retain(|layer| match read(&store, &repository, layer) {
                Ok(bytes) => {
                    assert_eq!(Algorithm::Sha256.digest(&bytes), *layer);
                    false
                }
                Err(Error::BlobUnknown { .. }) => true,
                Err(error) => panic!("{error}"),
            });
        }
        assert!(layers.is_empty(), "{} layers are lost", layers.len());
        if kind == 6 {
            assert!(
                report.whole >= 50 && report.tags >= 100,
                "what is behind one damaged place is lost: {report:?}"
            );
        }
        // Nothing has a name that it never had.
        let real: Vec<String> = ["r/0", "r/1", "r/2", RESCUED].map(str::to_owned).to_vec();
        for repository in store.repositories(None, 100).unwrap().items {
            assert!(real.contains(&repository.to_string()), "{repository}");
        }
        assert!(report.manifests <= 60 && report.tags <= 120, "{report:?}");
        // What is told to be whole is.
        let incomplete = report.incomplete.len() as u64;
        assert_eq!(report.manifests, report.whole + incomplete);
        if incomplete == 0 {
            assert_eq!(check_whole(&store) as u64, report.whole);
        }
    }
}

/// A note that somebody had put beside the content was told to be lost, and the rescue was no success.
#[test]
fn what_is_not_the_stores_is_not_lost() {
    let folder = tempfile::tempdir().unwrap();
    let content = folder.path().join("store/content");
    fill(&open(&folder.path().join("store")), 2);
    fs::write(content.join("notes.txt"), b"mine").unwrap();
    fs::create_dir(content.join("lost+found")).unwrap();
    let (new, report) = rescued(folder.path());
    assert_eq!(
        (report.whole, report.unnamed, report.lost.len(), report.damage.len()),
        (2, 0, 0, 0),
        "{report:?}"
    );
    let strays = ["lost+found", "notes.txt"].map(|name| content.canonicalize().unwrap().join(name));
    assert_eq!(report.strays, strays.map(|path| path.display().to_string()));
    assert_eq!(fs::read_dir(new.join("content")).unwrap().count(), 2);
}

#[test]
fn what_was_deleted_from_a_store_that_is_well_does_not_come_back() {
    // Long enough a life that sled uses segments again: what it has left in them is no damage, and nobody's any more.
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("store");
    let store = open(&data);
    for round in 0..40_u32 {
        let gone: Vec<_> = (0..100_u32)
            .map(|n| {
                push(&store, &name("gone"), &[round.to_le_bytes(), n.to_le_bytes()].concat().repeat(500))
            })
            .collect();
        for digest in gone {
            store.delete_blob(&name("gone"), &digest).unwrap();
        }
    }
    fill(&store, 5);
    drop(store);
    let (_, report) = rescued(folder.path());
    assert_eq!((report.manifests, report.whole, report.tags, report.unnamed), (5, 5, 10, 0), "{report:?}");
    assert_eq!((report.blobs, report.lost.len(), report.damage.len()), (11, 0, 0), "{report:?}");
}

/// As a kill leaves it: the last changes are in the write-ahead log alone. What they removed does not come back either.
#[test]
fn what_sled_had_not_heard_of_yet_is_saved_too() {
    let (folder, living) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let images = {
        let store = open(living.path());
        fill(&store, 40)
    };
    let store = open(living.path());
    store.delete_tag(&name("r/0"), &tag("t0")).unwrap();
    let manifest = image(&store, &name("r/0"), "y", 1000);
    put(&store, &name("r/0"), &manifest, &[tag("last")]);
    copy_folder(living.path(), &folder.path().join("store"));
    fs::remove_file(folder.path().join("store/lock")).unwrap();

    // With an index that opens, and with one of which a block went bad.
    for spoil in [false, true] {
        if spoil {
            fs::remove_dir_all(folder.path().join("new")).unwrap();
            let db = folder.path().join("store/index/db");
            let mut bytes = fs::read(&db).unwrap();
            bytes[20_000..24_000].fill(0);
            fs::write(&db, bytes).unwrap();
        }
        let (new, report) = rescued(folder.path());
        assert_eq!(report.damage.is_empty(), !spoil, "{report:?}");
        let store = open(&new);
        assert_eq!(number(&store, &name("r/0"), &tag("last")), Some(1000), "{report:?}");
        assert_eq!(number(&store, &name("r/0"), &tag("t0")), None);
        assert_eq!(number(&store, &name("r/0"), &tag("u0")), Some(0));
        assert!(store.manifest(&name("r/0"), &Reference::Digest(*images[0].digest())).is_ok());
    }
}

#[test]
fn only_a_store_that_nobody_has_is_rescued() {
    let folder = tempfile::tempdir().unwrap();
    let (data, new) = (folder.path().join("store"), folder.path().join("new"));
    assert!(matches!(rescue(folder.path(), &new, &mut on), Err(Error::NoStore(_))));
    let store = open(&data);
    assert!(matches!(rescue(&data, &new, &mut on), Err(Error::Locked(_))));
    drop(store);
    assert!(matches!(rescue(&data, data.join("inside"), &mut on), Err(Error::Unsupported(_))));
    assert!(matches!(rescue(&data, &data, &mut on), Err(Error::NotEmpty { .. })));
    assert!(!new.exists());
}
