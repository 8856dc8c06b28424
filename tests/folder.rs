//! Data folders that are not ours, not of this version, or cannot be used: each is told apart, and none is touched.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use sledge::oci::{Algorithm, RepositoryName};
use sledge::store::sled::{Inline, Options, RestoreOptions, Sled, restore};
use sledge::store::{Pull, Push, UploadOptions};
use sledge::{Error, Result};

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

fn push(store: &Sled, content: &[u8]) -> Result<()> {
    let repository: RepositoryName = "a".parse()?;
    let mut upload = store.start_upload(&repository, &UploadOptions::new())?;
    upload.write_all(content).unwrap();
    upload.commit(&Algorithm::Sha256.digest(content))?;
    Ok(())
}

fn has(store: &Sled, content: &[u8]) -> bool {
    store.stat(&"a".parse().unwrap(), &Algorithm::Sha256.digest(content)).is_ok()
}

fn refused(folder: &Path) -> Error {
    Sled::open(folder).map(drop).expect_err("the folder must be refused")
}

#[test]
fn a_store_is_made_where_there_is_nothing_yet() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let new = folder.path().join("several/levels/down");
    push(&Sled::open(&new)?, b"x")?;
    // What filesystems put into a fresh volume, and what a creation that was cut short leaves, is nobody's.
    let volume = folder.path().join("volume");
    fs::create_dir_all(volume.join("lost+found")).unwrap();
    fs::create_dir_all(volume.join("unfinished-index/blobs")).unwrap();
    fs::write(volume.join("unfinished-format"), b"sled").unwrap();
    push(&Sled::open(&volume)?, b"x")?;
    assert!(!volume.join("unfinished-index").exists());
    Ok(())
}

#[test]
fn a_folder_with_something_else_in_it_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("thesis.tex"), b"precious").unwrap();
    let before = files(folder.path());
    let error = refused(folder.path());
    assert!(matches!(&error, Error::NotAStore { found, .. } if found == "thesis.tex"), "{error}");
    assert_eq!(files(folder.path()), before);

    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("format"), b"\xff\xfe something else").unwrap();
    assert!(matches!(refused(folder.path()), Error::NotAStore { .. }));

    // A place where nobody can make a folder, not even root.
    let error = refused(Path::new("/proc/sledge-test"));
    assert!(error.to_string().starts_with("making the folder /proc/sledge-test: "), "{error}");
    // A file where the folder should be.
    let file = folder.path().join("format");
    assert!(matches!(refused(&file), Error::Io { .. }));
}

#[test]
fn another_format_is_refused_before_anything_is_opened() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    push(&Sled::open(folder.path())?, b"x")?;
    let format = fs::read_to_string(folder.path().join("format")).unwrap();
    for other in ["1", "2", "0", "99-beta"] {
        fs::write(folder.path().join("format"), format!("sledge store, format {other}\n")).unwrap();
        let before = files(folder.path());
        let error = refused(folder.path());
        assert!(matches!(&error, Error::FormatVersion { found, .. } if found == other), "{error}");
        assert!(error.to_string().contains("use a version that fits"), "{error}");
        assert_eq!(files(folder.path()), before);
    }
    fs::write(folder.path().join("format"), format).unwrap();
    push(&Sled::open(folder.path())?, b"y")
}

/// What an older version had written, and what it would write: no file "wal", and the number of the format.
#[test]
fn a_store_of_the_format_before_is_upgraded_when_it_is_opened() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    push(&Sled::open(&store)?, b"x")?;
    fs::remove_file(store.join("index/wal")).unwrap();
    assert!(matches!(refused(&store), Error::Damaged { .. }));
    let format = fs::read_to_string(store.join("format")).unwrap();
    let before = "sledge store, format 3\n";
    fs::write(store.join("format"), before).unwrap();
    // A snapshot by an older version is only read.
    let (snapshot, restored) = (folder.path().join("snapshot"), folder.path().join("restored"));
    for (file, bytes) in files(&store) {
        let target = snapshot.join(file.strip_prefix(&store).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::write(target, bytes).unwrap();
    }
    fs::create_dir_all(snapshot.join("content")).unwrap();
    let begun = files(&snapshot);
    restore(&snapshot, &restored, &RestoreOptions::new(), &mut |_| ControlFlow::Continue(()))?;
    assert_eq!(files(&snapshot), begun);
    for store in [&store, &restored] {
        assert!(has(&Sled::open(store)?, b"x"));
        assert_eq!(fs::read_to_string(store.join("format")).unwrap(), format);
        // Once, and not each time.
        let wal = fs::read(store.join("index/wal")).unwrap();
        assert!(has(&Sled::open(store)?, b"x"));
        let id = |wal: &[u8]| wal[8..16].to_vec();
        assert!(wal.len() > 4096 && id(&wal) == id(&fs::read(store.join("index/wal")).unwrap()));
    }
    // One whose upgrade was cut short behind the file, before the format.
    fs::write(store.join("index/wal"), [7; 5000]).unwrap();
    fs::write(store.join("format"), before).unwrap();
    assert!(has(&Sled::open(&store)?, b"x"));
    Ok(())
}

#[test]
fn a_store_that_is_open_is_locked() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let store = Sled::open(folder.path())?;
    assert!(matches!(refused(folder.path()), Error::Locked(_)));
    // An upload keeps the store open: its bytes would have nowhere to go.
    let upload = store.start_upload(&"a".parse()?, &UploadOptions::new())?;
    drop(store);
    assert!(matches!(refused(folder.path()), Error::Locked(_)));
    drop(upload);
    Sled::open(folder.path()).map(drop)
}

#[test]
fn a_creation_that_was_cut_short_is_begun_again() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    Sled::open(folder.path())?;
    // The index is renamed into place last: without it there is no store yet, whatever else is there.
    fs::rename(folder.path().join("index"), folder.path().join("unfinished-index")).unwrap();
    push(&Sled::open(folder.path())?, b"x")
}

#[test]
fn content_without_an_index_is_not_taken_for_a_new_store() -> Result<()> {
    // A backup that was restored in part opened as an empty registry, beside the content of the old one.
    let folder = tempfile::tempdir().unwrap();
    push(&Sled::open(folder.path())?, &vec![7; 100_000])?;
    fs::remove_dir_all(folder.path().join("index")).unwrap();
    let before = files(folder.path());
    let error = refused(folder.path());
    assert!(matches!(&error, Error::Damaged { reason, .. } if reason.contains("is missing")), "{error}");
    assert_eq!(files(folder.path()), before);
    Ok(())
}

#[test]
fn damage_on_disk_is_an_error_and_never_other_bytes() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let repository: RepositoryName = "a".parse()?;
    let content = vec![7; 100_000];
    let digest = Algorithm::Sha256.digest(&content);
    push(&Sled::open(folder.path())?, &content)?;
    let file = fs::read_dir(folder.path().join("content")).unwrap().next().unwrap().unwrap().path();
    fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(99_999).unwrap();
    let store = Sled::open(folder.path())?;
    // Whoever meets it is told; from then on it counts as absent, and can be pushed again.
    assert!(matches!(store.blob(&repository, &digest), Err(Error::Damaged { .. })));
    assert!(matches!(store.blob(&repository, &digest), Err(Error::BlobUnknown { .. })));
    push(&store, &content)?;
    let file = fs::read_dir(folder.path().join("content")).unwrap().next().unwrap().unwrap().path();
    fs::remove_file(&file).unwrap();
    let error = store.blob(&repository, &digest).unwrap_err();
    assert!(error.to_string().ends_with("is damaged: its file is missing"), "{error}");
    assert!(matches!(store.blob(&repository, &digest), Err(Error::BlobUnknown { .. })));
    drop(store);

    // An index of noise: an error that names it, and no panic.
    fs::write(folder.path().join("index/conf"), b"noise that is no configuration of anything").unwrap();
    assert!(matches!(refused(folder.path()), Error::Damaged { .. } | Error::Io { .. }));
    Ok(())
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = Options::new().inline(Inline::UpTo(Inline::MOST + 1)).open(folder.path());
    assert!(matches!(refused, Err(Error::Unsupported(_))));
    assert!(files(folder.path()).is_empty());
}
