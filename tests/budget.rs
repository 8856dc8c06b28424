//! The budget: one number that the folder does not grow beyond, whatever is pushed, and the counts that it rests on.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]

use std::fs;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use sledge::oci::{Algorithm, Digest, Manifest, MediaType, Reference, RepositoryName};
use sledge::store::sled::{CollectOptions, Inline, Options, Sled, Untagged};
use sledge::store::{
    Discover, Manage, MountSource, Pinned, Pull, Push, PutManifest, References, Upload, UploadOptions,
};
use sledge::{Error, Result};

const BUDGET: u64 = 96 << 20;
/// What is kept for the index, and what one push may have in hand.
const UNUSED_AT_MOST: u64 = 26 << 20;

fn repository() -> RepositoryName {
    "a/b".parse().unwrap()
}

fn open(folder: &Path) -> Sled {
    Options::new().reserve(1 << 20).budget(BUDGET).open(folder).unwrap()
}

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        bytes.extend_from_slice(&x.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// What the system says that the folder takes.
fn taken(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| {
            let found = fs::symlink_metadata(&path);
            // Files go while we look.
            found.map_or(0, |found| if found.is_dir() { taken(&path) } else { found.blocks() * 512 })
        })
        .sum()
}

fn push(store: &Sled, content: &[u8], options: &UploadOptions) -> Result<Digest> {
    let digest = Algorithm::Sha256.digest(content);
    let mut upload = store.start_upload(&repository(), options)?;
    if let Err(error) = upload.write_all(content) {
        upload.cancel()?;
        return Err(error.downcast::<Error>().unwrap());
    }
    upload.commit(&digest)?;
    Ok(digest)
}

fn over_budget<T>(outcome: &Result<T>) -> bool {
    over_budget_of(BUDGET, outcome)
}

fn over_budget_of<T>(of: u64, outcome: &Result<T>) -> bool {
    matches!(outcome, Err(Error::OverBudget { budget, .. }) if *budget == of)
}

/// Waits for what deletions left to do.
fn settled(store: &Sled, in_files: u64) {
    while store.usage().unwrap().in_files > in_files {
        std::thread::yield_now();
    }
}

#[test]
fn the_folder_does_not_grow_beyond_its_budget_and_deleting_makes_room() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let mut digests = Vec::new();
    // Of sizes that fill no block, so that what is counted is what they take and not what they say.
    for n in 0.. {
        match push(&store, &noise((3 << 20) + 1, n), &UploadOptions::new()) {
            Ok(digest) => digests.push(digest),
            outcome => {
                assert!(over_budget(&outcome));
                break;
            }
        }
        assert!(taken(folder.path()) <= BUDGET);
    }
    let full = taken(folder.path());
    assert!(full <= BUDGET && full + UNUSED_AT_MOST > BUDGET, "{full} bytes");
    // What is there can be read; small content, a manifest and a mount are refused as well: the index grows by them.
    let mut found = vec![0; (3 << 20) + 1];
    store.blob(&repository(), &digests[0])?.content.read_at(0, &mut found).unwrap();
    assert!(found == noise((3 << 20) + 1, 0));

    for digest in &digests[..4] {
        store.delete_blob(&repository(), digest)?;
    }
    settled(&store, full - (10 << 20));
    for n in 100..103 {
        push(&store, &noise(3 << 20, n), &UploadOptions::new())?;
    }
    assert!(taken(folder.path()) <= BUDGET);
    // What is counted is what is there, also after a restart.
    let before = store.usage()?;
    drop(store);
    let store = open(folder.path());
    assert_eq!(store.usage()?.in_files, before.in_files);
    assert_eq!(before.in_files, taken(&folder.path().join("content")));
    Ok(())
}

#[test]
fn a_declared_size_is_admitted_or_refused_before_the_first_byte() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    assert!(over_budget(&store.start_upload(&repository(), &UploadOptions::new().size(BUDGET))));
    // Of two that fit alone and not together the second is refused before its first byte, when half of the first has come.
    let half = UploadOptions::new().size(50 << 20);
    let content = noise(50 << 20, 7);
    let (begin, end) = content.split_at(25 << 20);
    let mut first = store.start_upload(&repository(), &half)?;
    write(first.as_mut(), begin)?;
    assert!(over_budget(&store.start_upload(&repository(), &half)));
    // What has come half is kept its room to the last byte, whatever others bring meanwhile.
    while push(&store, &noise(1 << 20, store.usage()?.blobs), &UploadOptions::new()).is_ok() {}
    write(first.as_mut(), end)?;
    first.commit(&Algorithm::Sha256.digest(&content))?;
    assert!(taken(folder.path()) <= BUDGET);
    Ok(())
}

fn write(upload: &mut dyn Upload, content: &[u8]) -> Result<()> {
    let written = content.chunks(1 << 20).try_for_each(|part| upload.write_all(part));
    written.map_err(|error| error.downcast::<Error>().unwrap())
}

/// A header alone, of nearly the whole budget, kept everybody else from pushing for as long as a client may be silent.
#[test]
fn who_says_much_and_brings_nothing_keeps_no_room_from_others() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let free = store.usage()?.free.unwrap();
    let silent: Vec<_> = (0..4)
        .map(|_| store.start_upload(&repository(), &UploadOptions::new().size(free - (8 << 20))))
        .collect::<Result<_>>()?;
    push(&store, &noise(40 << 20, 1), &UploadOptions::new().size(40 << 20))?;
    drop(silent);
    Ok(())
}

#[test]
fn of_two_that_do_not_both_fit_one_comes_to_its_end() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let content = noise(55 << 20, 7);
    let options = UploadOptions::new().size(55 << 20);
    let mut uploads =
        vec![store.start_upload(&repository(), &options)?, store.start_upload(&repository(), &options)?];
    for (came, part) in (1_u64..).zip(content.chunks(1 << 20)) {
        for mut upload in std::mem::take(&mut uploads) {
            match write(upload.as_mut(), part) {
                Ok(()) => uploads.push(upload),
                refused => {
                    assert!(over_budget(&refused));
                    // Neither was let bring more than that in vain.
                    assert!(came < 30, "{came} MiB");
                    upload.cancel()?;
                    settled(&store, came << 20);
                }
            }
        }
    }
    assert_eq!(uploads.len(), 1);
    uploads.remove(0).commit(&Algorithm::Sha256.digest(&content))?;
    assert!(taken(folder.path()) <= BUDGET);
    Ok(())
}

#[test]
fn sessions_and_what_was_refused_are_counted_and_given_back() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let empty = store.usage()?.in_files;
    let mut open_session = store.start_upload(&repository(), &UploadOptions::new())?;
    let mut written = 0;
    let refused = loop {
        match open_session.write_all(&noise(1 << 20, 1)) {
            Ok(()) => written += 1 << 20,
            Err(error) => break error.downcast::<Error>().unwrap(),
        }
        assert!(taken(folder.path()) <= BUDGET);
    };
    assert!(matches!(refused, Error::OverBudget { .. }), "{refused}");
    // The session stands where it stood.
    assert_eq!(open_session.offset(), written);
    let id = open_session.id();
    open_session.suspend()?;
    drop(store);
    let store = open(folder.path());
    assert_eq!(store.usage()?.in_files, taken(&folder.path().join("content")));
    assert!(over_budget(&push(&store, &noise(1 << 20, 2), &UploadOptions::new())));
    let manifest = format!(
        "{{\"schemaVersion\":2,\"manifests\":[],\"annotations\":{{\"a\":\"{}\"}}}}",
        "x".repeat(1 << 20)
    );
    let manifest = Manifest::new(MediaType::OCI_INDEX.parse()?, manifest.into_bytes());
    assert!(over_budget(&store.put_manifest(&repository(), &manifest, &PutManifest::new())));
    store.cancel_upload(&repository(), id)?;
    settled(&store, empty);
    store.put_manifest(&repository(), &manifest, &PutManifest::new())?;
    store.delete_manifest(&repository(), manifest.digest(), &Pinned::none())?;
    settled(&store, empty);
    assert_eq!(taken(&folder.path().join("content")), 0);
    Ok(())
}

/// A file that damage had shortened left what it was counted with in the count for ever.
#[test]
fn what_is_damaged_gives_back_what_it_was_counted_with() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let files = || fs::read_dir(folder.path().join("content")).unwrap().map(|entry| entry.unwrap().path());
    for damage in [
        |path: &Path| fs::remove_file(path),
        |path: &Path| fs::write(path, b"short"),
        |path: &Path| fs::write(path, noise(5 << 20, 1)),
    ] {
        let blob = push(&store, &noise(3 << 20, 1), &UploadOptions::new())?;
        files().try_for_each(|path| damage(&path)).unwrap();
        store.delete_blob(&repository(), &blob)?;
        settled(&store, 0);
    }
    // What it was counted with, and no more: there is another file.
    let other = push(&store, &noise(1 << 20, 2), &UploadOptions::new())?;
    let before: Vec<_> = files().collect();
    let blob = push(&store, &noise(3 << 20, 1), &UploadOptions::new())?;
    files()
        .filter(|path| !before.contains(path))
        .try_for_each(|path| fs::write(path, noise(5 << 20, 3)))
        .unwrap();
    store.delete_blob(&repository(), &blob)?;
    settled(&store, 1 << 20);
    assert_eq!(store.usage()?.in_files, 1 << 20);
    store.blob(&repository(), &other)?;
    Ok(())
}

#[test]
fn what_waits_is_told_to_who_is_refused_and_who_asks() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let mut session = store.start_upload(&repository(), &UploadOptions::new())?;
    write(session.as_mut(), &noise(8 << 20, 1))?;
    session.suspend()?;
    push(&store, &noise(4 << 20, 2), &UploadOptions::new())?;
    let usage = store.usage()?;
    assert_eq!((usage.in_uploads, usage.held_back, usage.held_back_more), (8 << 20, 4 << 20, false));
    let free = usage.free.unwrap();
    let refused = store.start_upload(&repository(), &UploadOptions::new().size(free + 1)).err().unwrap();
    let told = refused.to_string();
    for words in [
        "8388608 bytes are in upload sessions",
        "4194304 bytes are blobs that no manifest uses",
        "--grace 0s",
    ] {
        assert!(told.contains(words), "{told}");
    }
    store.start_upload(&repository(), &UploadOptions::new().size(free))?.cancel()
}

#[test]
fn a_budget_that_no_store_fits_in_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = Options::new().budget(1 << 20).open(folder.path()).map(drop);
    assert!(matches!(refused, Err(Error::Unsupported(_))));
}

/// Pushes small blobs from several threads until one is refused.
fn push_until_refused(store: &Sled, size: usize) -> Vec<Digest> {
    std::thread::scope(|threads| {
        let pushing: Vec<_> = (0..8)
            .map(|thread| {
                let until_refused = move || {
                    let mut digests = Vec::new();
                    for n in 0.. {
                        match push(store, &noise(size, thread * 1_000_000 + n), &UploadOptions::new()) {
                            Ok(digest) => digests.push(digest),
                            outcome => {
                                assert!(matches!(outcome, Err(Error::OverBudget { .. })), "{outcome:?}");
                                break;
                            }
                        }
                    }
                    digests
                };
                threads.spawn(until_refused)
            })
            .collect();
        pushing.into_iter().flat_map(|pushing| pushing.join().unwrap()).collect()
    })
}

/// sled's file does not shrink: 28,000 blobs of 16 KiB, pushed and deleted again, left a store in which not 100 bytes had room.
#[test]
fn small_blobs_that_are_gone_leave_their_room_to_others() -> Result<()> {
    for inline in [Inline::default(), Inline::Everything] {
        let folder = tempfile::tempdir().unwrap();
        let store = Options::new().reserve(1 << 20).budget(64 << 20).inline(inline).open(folder.path())?;
        let digests = push_until_refused(&store, 16 << 10);
        assert!(taken(folder.path()) <= 64 << 20);
        // The index leaves room for files, which give theirs back.
        let used = store.usage()?;
        let (least, in_files) = if inline == Inline::Everything { (700, 0) } else { (1_200, 12 << 20) };
        assert!(digests.len() > least && used.in_files >= in_files, "{inline:?}: {used:?}");
        let options = CollectOptions::new().grace(Duration::ZERO);
        let collected = store.collect(&options, &mut |_| ControlFlow::Continue(()))?;
        assert_eq!(collected.blobs, digests.len() as u64);
        for n in 0..20 {
            push(&store, &noise(100, n), &UploadOptions::new())?;
        }
        push(&store, &noise(8 << 20, 1), &UploadOptions::new())?;
        assert!(taken(folder.path()) <= 64 << 20);
        // What was rewritten is what there is after a restart too.
        drop(store);
        let store = Options::new().reserve(1 << 20).budget(64 << 20).inline(inline).open(folder.path())?;
        assert_eq!(store.usage()?.blobs, 21);
        let found = store.blob(&repository(), &Algorithm::Sha256.digest(&noise(100, 7)))?;
        assert_eq!(found.stat.size, 100);
    }
    Ok(())
}

/// Tags have no content: the index alone takes their room.
#[test]
fn tags_that_are_gone_leave_their_room_to_others() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let store = Options::new().reserve(1 << 20).budget(64 << 20).open(folder.path())?;
    let text = b"{\"schemaVersion\":2,\"manifests\":[]}".to_vec();
    let manifest = Manifest::new(MediaType::OCI_INDEX.parse()?, text);
    for put in 0.. {
        let tags: Vec<_> = (0..32).map(|n| format!("{:x>128}", put * 32 + n).parse().unwrap()).collect();
        match store.put_manifest(&repository(), &manifest, &PutManifest::new().tags(&tags)) {
            Ok(()) => {}
            Err(Error::OverBudget { .. }) => break,
            Err(error) => return Err(error),
        }
    }
    assert!(over_budget_of(64 << 20, &push(&store, b"one more", &UploadOptions::new())));
    store.delete_manifest(&repository(), manifest.digest(), &Pinned::none())?;
    push(&store, &noise(8 << 20, 1), &UploadOptions::new())?;
    assert!(taken(folder.path()) <= 64 << 20);
    Ok(())
}

#[test]
fn small_content_is_held_to_the_budget_by_what_the_index_takes() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let store =
        Options::new().reserve(1 << 20).budget(64 << 20).inline(Inline::Everything).open(folder.path())?;
    let mut pushed = 0;
    loop {
        match push(&store, &noise(200_000, pushed), &UploadOptions::new()) {
            Ok(_) => pushed += 1,
            Err(Error::OverBudget { .. }) => break,
            Err(error) => return Err(error),
        }
        assert!(taken(folder.path()) <= 64 << 20);
    }
    assert!(pushed > 50, "{pushed} were taken");
    // Deletion and collection still work, within the budget.
    let options = CollectOptions::new().grace(Duration::ZERO).untagged(Untagged::DeleteAfter(Duration::ZERO));
    let collected = store.collect(&options, &mut |_| ControlFlow::Continue(()))?;
    assert_eq!(collected.blobs, pushed);
    assert!(taken(folder.path()) <= 64 << 20);
    Ok(())
}

/// What each repository holds, recounted from what can be read of it.
fn recounted(store: &Sled, names: &[RepositoryName], blobs: &[(Digest, u64)]) -> Vec<[u64; 5]> {
    let links = |name: &RepositoryName, digest: &Digest| store.blob(name, digest).is_ok();
    let count = |name| {
        let (mut number, mut unique, mut shared) = (0, 0, 0);
        for (digest, size) in blobs.iter().filter(|(digest, _)| links(name, digest)) {
            number += 1;
            let others = names.iter().filter(|other| *other != name).any(|other| links(other, digest));
            *(if others { &mut shared } else { &mut unique }) += size;
        }
        let manifests = store.manifests(name, None, 1000).map_or(Vec::new(), |page| page.items);
        let manifest_bytes = manifests.iter().map(|manifest| manifest.size).sum();
        [number, unique, shared, manifests.len() as u64, manifest_bytes]
    };
    names.iter().map(count).collect()
}

#[test]
fn what_is_counted_for_each_repository_is_what_a_recount_finds() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let store = Options::new().reserve(1 << 20).open(folder.path())?;
    let names: Vec<RepositoryName> = ["a", "b", "c"].map(|name| name.parse().unwrap()).to_vec();
    let contents: Vec<Vec<u8>> = (0..6).map(|n| noise(1000 * (1 << (2 * n)), n as u64 + 1)).collect();
    let blobs: Vec<(Digest, u64)> =
        contents.iter().map(|content| (Algorithm::Sha256.digest(content), content.len() as u64)).collect();
    let manifests: Vec<Manifest> = (0..4)
        .map(|n| {
            let text = format!("{{\"schemaVersion\":2,\"manifests\":[],\"annotations\":{{\"n\":\"{n}\"}}}}");
            Manifest::new(MediaType::OCI_INDEX.parse().unwrap(), text.into_bytes())
        })
        .collect();
    let mut dice = 88_172_645_463_325_252_u64;
    let mut roll = move |sides: usize| {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        usize::try_from(dice % sides as u64).unwrap()
    };
    for step in 0..600 {
        let name = &names[roll(names.len())];
        let at = roll(blobs.len());
        let outcome = match roll(6) {
            0 => {
                let mut upload = store.start_upload(name, &UploadOptions::new())?;
                upload.write_all(&contents[at]).unwrap();
                upload.commit(&blobs[at].0).map(drop)
            }
            1 => store.mount(name, &blobs[at].0, &MountSource::Any(&|_| true)).map(drop),
            2 => store.delete_blob(name, &blobs[at].0),
            3 => store.put_manifest(
                name,
                &manifests[at % manifests.len()],
                &PutManifest::new().references(References::MayBeAbsent),
            ),
            4 => store.delete_manifest(name, manifests[at % manifests.len()].digest(), &Pinned::none()),
            _ => store.resolve(name, &Reference::Digest(*manifests[0].digest())).map(drop),
        };
        assert!(
            matches!(outcome, Ok(()) | Err(Error::BlobUnknown { .. } | Error::ManifestUnknown { .. })),
            "{outcome:?}"
        );
        if step % 20 == 0 {
            let counted: Vec<[u64; 5]> = names
                .iter()
                .map(|name| match store.repository_usage(name) {
                    Ok(held) => [
                        held.blobs,
                        held.unique_bytes,
                        held.shared_bytes,
                        held.manifests,
                        held.manifest_bytes,
                    ],
                    Err(_) => [0; 5],
                })
                .collect();
            assert_eq!(counted, recounted(&store, &names, &blobs), "step {step}");
            let there =
                |(digest, _): &&(Digest, u64)| names.iter().any(|name| store.blob(name, digest).is_ok());
            let bytes: u64 = blobs.iter().filter(there).map(|(_, size)| size).sum();
            assert_eq!(store.usage()?.blob_bytes, bytes);
            assert_eq!(store.usage()?.manifests, counted.iter().map(|held| held[3]).sum::<u64>());
        }
    }
    Ok(())
}
