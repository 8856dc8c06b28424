//! What only the inside shows: the bounds of a window, what is left behind, what is believed after a restart.

mod collect;
mod events;
mod evict;
mod forecast;
mod forged;
mod hot;
mod leftovers;
mod verify;
mod windows;

use std::fs;
use std::io::Write as _;
use std::path::Path;

use super::changes::Changes;
use super::index::WINDOW;
use super::schema::{self, Tree, Upload as Record};
use super::writer::Terms;
use super::{Inline, Options, Sled};
use crate::error::{Error, Result};
use crate::oci::{Algorithm, Digest, MAX_MANIFEST_SIZE, Manifest, MediaType, Reference, RepositoryName, Tag};
use crate::store::{Condition, Discover, Manage, Pinned, Pull, Push, PutManifest, References, UploadOptions};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn open(folder: &Path, inline: Inline) -> Sled {
    // A test's filesystem may be smaller than the default reserve.
    Options::new().inline(inline).reserve(1 << 20).open(folder).unwrap()
}

fn repository() -> RepositoryName {
    "a/b".parse().unwrap()
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

fn push(store: &Sled, content: &[u8]) -> Result<Digest> {
    let digest = Algorithm::Sha256.digest(content);
    let mut upload = store.start_upload(&repository(), &UploadOptions::new())?;
    upload.write_all(content).map_err(Error::io("writing"))?;
    upload.commit(&digest)?;
    Ok(digest)
}

/// An image of just under the largest size, with that many references to layers that nobody has.
fn large_manifest(references: usize, size: usize) -> Manifest {
    let pointer = |n: usize| serde_json::json!({ "mediaType": "application/x", "digest": Algorithm::Sha256.digest(&n.to_le_bytes()), "size": n });
    let layers: Vec<_> = (1..references).map(pointer).collect();
    let mut document =
        serde_json::json!({ "schemaVersion": 2, "config": pointer(0), "layers": layers }).to_string();
    let room = size.checked_sub(document.len()).unwrap();
    document.insert_str(document.len() - 1, &" ".repeat(room));
    Manifest::new(MediaType::OCI_MANIFEST.parse().unwrap(), document.into_bytes())
}

fn entries(store: &Sled, tree: Tree) -> usize {
    store.0.core.read(|index| Ok(index.scan(tree, &[], None)?.count())).unwrap()
}

fn most_entered(store: &Sled) -> usize {
    store.0.core.read(|index| Ok(index.most_entered())).unwrap()
}

fn files(folder: &Path) -> usize {
    fs::read_dir(folder.join("content")).unwrap().count()
}

#[test]
fn no_window_between_two_syncs_exceeds_its_bytes() {
    for inline in [Inline::default(), Inline::Everything] {
        let folder = folder();
        let store = open(folder.path(), inline);
        let manifest = large_manifest(10_000, MAX_MANIFEST_SIZE);
        let tags: Vec<Tag> = (0..32).map(|n| format!("{n:0>128}").parse().unwrap()).collect();
        let put = PutManifest::new().tags(&tags).references(References::MayBeAbsent);
        store.put_manifest(&repository(), &manifest, &put).unwrap();
        push(&store, &noise(50 << 20, 1)).unwrap();
        for n in 0..200 {
            let tag = format!("{n:x>128}").parse().unwrap();
            store.tag(&repository(), manifest.digest(), &tag, &Condition::Any).unwrap();
        }
        store.delete_manifest(&repository(), manifest.digest(), &Pinned::none()).unwrap();
        // The counter is the index's own, fed by every change; the bound is the desk's.
        let most = most_entered(&store);
        assert!((1..=WINDOW).contains(&most), "{inline:?}: {most} bytes");
        drop(store);
        assert_eq!(entries(&open(folder.path(), inline), Tree::References), 0);
    }
}

#[test]
fn the_bound_holds_while_it_is_being_reached() {
    let folder = folder();
    let store = open(folder.path(), Inline::Everything);
    let manifest = large_manifest(10_000, MAX_MANIFEST_SIZE);
    let put = PutManifest::new().references(References::MayBeAbsent);
    store.put_manifest(&repository(), &manifest, &put).unwrap();
    push(&store, &noise(50 << 20, 1)).unwrap();
    let most = most_entered(&store);
    // Close to the bound, or this would not have tried it; and never above.
    assert!((WINDOW / 2..=WINDOW).contains(&most), "{most} bytes");
    assert_eq!(entries(&store, Tree::References), 10_000);
}

#[test]
fn a_torn_snapshot_does_not_keep_the_store_from_opening() {
    // sled writes `snap.<n>.generating` while it opens, and after a cut takes it for its newest snapshot.
    let folder = folder();
    let store = open(folder.path(), Inline::default());
    let digest = push(&store, b"kept").unwrap();
    drop(store);
    for torn in [&b""[..], b"half a snapshot"] {
        fs::write(folder.path().join("index/snap.FFFFFFFFFFFFFFFF.generating"), torn).unwrap();
        let store = open(folder.path(), Inline::default());
        assert_eq!(store.stat(&repository(), &digest).unwrap().size, 4);
    }
}

#[test]
fn deletion_leaves_nothing_behind() {
    for inline in [Inline::UpTo(0), Inline::default(), Inline::Everything] {
        let folder = folder();
        let store = open(folder.path(), inline);
        let mut digests = Vec::new();
        for size in [0, 1, 5_000, 40_000, 3 << 20] {
            let content = noise(size, 7);
            digests.push(push(&store, &content).unwrap());
            // A second time: its bytes are superfluous at once.
            push(&store, &content).unwrap();
        }
        let manifest = large_manifest(2_000, 1 << 20);
        let subject = Algorithm::Sha256.digest(b"s");
        let referrer = serde_json::json!({ "schemaVersion": 2, "manifests": [],
            "subject": { "mediaType": "a/b", "digest": subject, "size": 1 } });
        let referrer =
            Manifest::new(MediaType::OCI_INDEX.parse().unwrap(), referrer.to_string().into_bytes());
        for manifest in [&manifest, &referrer] {
            let put = PutManifest::new().references(References::MayBeAbsent);
            store.put_manifest(&repository(), manifest, &put).unwrap();
            store.put_manifest(&repository(), manifest, &put).unwrap();
            // More tags than one transaction holds.
            for n in 0..100 {
                let tag = format!("{n:y>128}").parse().unwrap();
                store.tag(&repository(), manifest.digest(), &tag, &Condition::Any).unwrap();
            }
        }
        let refused = store.put_manifest(&repository(), &large_manifest(3, 100_000), &PutManifest::new());
        assert!(matches!(refused, Err(Error::ReferencesMissing { .. })));
        let mut cancelled = store.start_upload(&repository(), &UploadOptions::new()).unwrap();
        cancelled.write_all(&noise(100_000, 3)).unwrap();
        cancelled.cancel().unwrap();
        let mut suspended = store.start_upload(&repository(), &UploadOptions::new()).unwrap();
        suspended.write_all(&noise(100_000, 3)).unwrap();
        let id = suspended.id();
        suspended.suspend().unwrap();
        store.cancel_upload(&repository(), id).unwrap();
        let mut wrong = store.start_upload(&repository(), &UploadOptions::new()).unwrap();
        wrong.write_all(&noise(100_000, 3)).unwrap();
        assert!(matches!(wrong.commit(&subject), Err(Error::DigestMismatch(_))));

        for digest in &digests {
            store.delete_blob(&repository(), digest).unwrap();
        }
        for manifest in [&manifest, &referrer] {
            store.delete_manifest(&repository(), manifest.digest(), &Pinned::none()).unwrap();
        }
        // What readers see is gone at once; dropping the store waits for the rest.
        assert!(store.repositories(None, 10).unwrap().items.is_empty());
        drop(store);
        assert_eq!(files(folder.path()), 0, "{inline:?}");
        let store = open(folder.path(), inline);
        for tree in Tree::ALL.into_iter().filter(|tree| *tree != Tree::Meta) {
            assert_eq!(entries(&store, tree), 0, "{} with {inline:?}", tree.name());
        }
    }
}

#[test]
fn a_deletion_that_was_cut_short_is_finished_by_the_next_opening() {
    let folder = folder();
    let store = open(folder.path(), Inline::Everything);
    let manifest = large_manifest(1_000, 500_000);
    let tags: Vec<Tag> = (0..20).map(|n| format!("v{n}").parse().unwrap()).collect();
    let put = PutManifest::new().tags(&tags).references(References::MayBeAbsent);
    store.put_manifest(&repository(), &manifest, &put).unwrap();
    // As a kill right after the deletion's first transaction leaves it: the manifest's record is gone, the rest is there.
    let (_, recorded) = store
        .0
        .core
        .read(|index| super::manifests::find(index, &repository(), &Reference::Digest(*manifest.digest())))
        .unwrap();
    let digest = *manifest.digest();
    let cut = move |desk: &mut super::desk::Desk<'_>| {
        let mut changes = Changes::new();
        changes.remove(Tree::Manifests, schema::digest_within(&repository(), &digest));
        super::leftovers::retire(&mut changes, recorded.content, Some((&repository(), &digest)))?;
        desk.apply(&changes)
    };
    store.0.writer.run(Terms { durable: true, ..Terms::default() }, cut).unwrap();
    assert!(
        store.tags(&repository(), None, 100).unwrap().items.is_empty(),
        "tags without a manifest are not shown"
    );
    drop(store);

    let store = open(folder.path(), Inline::Everything);
    // Before anything else: a manifest that is pushed again must not get its old tags back.
    store
        .put_manifest(&repository(), &manifest, &PutManifest::new().references(References::MayBeAbsent))
        .unwrap();
    assert!(store.tags(&repository(), None, 100).unwrap().items.is_empty());
    drop(store);
    let store = open(folder.path(), Inline::Everything);
    // The old content is gone and the new is whole, its references with it.
    assert_eq!(entries(&store, Tree::References), 1_000);
    assert_eq!(entries(&store, Tree::Leftovers), 0);
    let found = store.manifest(&repository(), &Reference::Digest(*manifest.digest())).unwrap();
    assert_eq!(found, manifest);
}

#[test]
fn a_resumed_session_reads_none_of_its_bytes() -> Result<()> {
    let folder = folder();
    let content = noise(300_000, 5);
    let store = open(folder.path(), Inline::default());
    let mut upload = store.start_upload(&repository(), &UploadOptions::new())?;
    upload.write_all(&content[..200_000]).unwrap();
    let id = upload.id();
    upload.suspend()?;
    drop(store);

    // Bytes that changed behind the store's back would give another digest if they were read to resume or to commit.
    let file = fs::read_dir(folder.path().join("content")).unwrap().next().unwrap().unwrap().path();
    let mut stored = fs::read(&file).unwrap();
    stored[1000] ^= 1;
    fs::write(&file, &stored).unwrap();
    let store = open(folder.path(), Inline::default());
    let mut upload = store.resume_upload(&repository(), id, &UploadOptions::new())?;
    assert_eq!(upload.offset(), 200_000);
    upload.write_all(&content[200_000..]).unwrap();
    upload.commit(&Algorithm::Sha256.digest(&content))?;
    Ok(())
}

#[test]
fn after_a_power_cut_a_session_stands_at_its_last_checkpoint() -> Result<()> {
    for inline in [Inline::default(), Inline::Everything] {
        let folder = folder();
        let content = noise(70 << 20, 5);
        let store = open(folder.path(), inline);
        let mut upload = store.start_upload(&repository(), &UploadOptions::new())?;
        for part in content.chunks(1 << 20) {
            upload.write_all(part).unwrap();
        }
        let id = upload.id();
        upload.suspend()?;
        assert_eq!(store.upload_status(&repository(), id)?.offset, 70 << 20);
        // What a power cut changes that a test can change: the machine comes up with another boot.
        let key = schema::id_key(id);
        let mut record = store.0.core.read(|index| index.get::<Record>(&key))?.unwrap();
        let durable = record.durable.offset;
        // One is due every 64 MiB, and now and then in between: by the clock.
        assert!(durable + (64 << 20) > 70 << 20, "the last checkpoint was at {durable}");
        record.boot = Some(uuid::Uuid::max());
        let mut changes = Changes::new();
        changes.set(key, &record)?;
        store.0.writer.run(Terms::default(), move |desk| desk.apply(&changes))?;
        drop(store);

        let store = open(folder.path(), inline);
        assert_eq!(store.upload_status(&repository(), id)?.offset, durable);
        let mut upload = store.resume_upload(&repository(), id, &UploadOptions::new())?;
        assert_eq!(upload.offset(), durable);
        upload.write_all(&content[usize::try_from(durable).unwrap()..]).unwrap();
        let digest = Algorithm::Sha256.digest(&content);
        upload.commit(&digest)?;
        let blob = store.blob(&repository(), &digest)?;
        let mut found = vec![0; content.len()];
        blob.content.read_at(0, &mut found).unwrap();
        assert!(found == content, "{inline:?}");
    }
    Ok(())
}

#[test]
fn the_index_is_opened_again_in_place() -> Result<()> {
    let folder = folder();
    let store = open(folder.path(), Inline::default());
    let digest = push(&store, b"before")?;
    store.0.core.reopen(|_| Ok(()))?;
    assert_eq!(store.stat(&repository(), &digest)?.size, 6);
    push(&store, b"after")?;
    Ok(())
}

#[test]
fn a_failed_piece_of_work_does_not_take_others_with_it() {
    let folder = folder();
    let store = open(folder.path(), Inline::default());
    let failed: Result<()> =
        store.0.writer.run(Terms::default(), |_| Err(Error::RequestInvalid("no".to_owned())));
    assert!(matches!(failed, Err(Error::RequestInvalid(_))));
    // A change that no window could hold is refused before it enters.
    let too_large = |desk: &mut super::desk::Desk<'_>| {
        let mut changes = Changes::new();
        for n in 0..32 {
            changes.set_value(Tree::Chunks, schema::chunk_key(uuid::Uuid::nil(), n), vec![0; 4096]);
        }
        desk.apply(&changes)
    };
    assert!(store.0.writer.run(Terms::default(), too_large).is_err());
    assert_eq!(entries(&store, Tree::Chunks), 0);
    push(&store, b"still").unwrap();
}

#[test]
fn pushes_stop_before_the_disk_is_full_and_deletions_do_not() -> Result<()> {
    let folder = folder();
    let digest = push(&open(folder.path(), Inline::default()), b"there")?;
    // A reserve larger than any disk is a full disk.
    let store = Options::new().reserve(u64::MAX).open(folder.path())?;
    let refused = store.start_upload(&repository(), &UploadOptions::new().size(1)).map(drop);
    assert!(matches!(refused, Err(Error::DiskFull { .. })));
    let index = Manifest::new(MediaType::OCI_INDEX.parse()?, &b"{\"schemaVersion\":2,\"manifests\":[]}"[..]);
    let refused = store.put_manifest(&repository(), &index, &PutManifest::new());
    assert!(matches!(refused, Err(Error::DiskFull { .. })));
    // A manifest that needs a file, and was refused for room, leaves none.
    let put = PutManifest::new().references(References::MayBeAbsent);
    let refused = store.put_manifest(&repository(), &large_manifest(3, 1 << 20), &put);
    assert!(matches!(refused, Err(Error::DiskFull { .. })));
    assert_eq!(files(folder.path()), 0);
    assert!(store.stat(&repository(), &digest).is_ok());
    store.delete_blob(&repository(), &digest)
}

#[test]
fn who_ends_a_session_and_who_takes_it_up_at_once_do_not_both_succeed() -> Result<()> {
    // A cancellation looked for the session, found it suspended, and removed its record; a commit that had loaded the record
    // just before made a blob of a file that was then unlinked. Each was told that it had succeeded.
    let folder = folder();
    let store = open(folder.path(), Inline::default());
    let content = noise(30_000, 1);
    let digest = Algorithm::Sha256.digest(&content);
    let wrong = Algorithm::Sha256.digest(b"something else");
    let start = std::sync::Barrier::new(2);
    for round in 0..600 {
        let mut upload = store.start_upload(&repository(), &UploadOptions::new())?;
        upload.write_all(&content).unwrap();
        let id = upload.id();
        upload.suspend()?;
        let commit = |digest: &Digest| {
            let upload = store.resume_upload(&repository(), id, &UploadOptions::new())?;
            upload.commit(digest).map(drop)
        };
        let outcome = std::thread::scope(|threads| {
            let other = threads.spawn(|| {
                start.wait();
                match round % 2 {
                    0 => store.cancel_upload(&repository(), id),
                    _ => commit(&wrong),
                }
            });
            start.wait();
            // A little later each time, so that every place of the one meets every place of the other.
            (0..round % 50 * 100).for_each(|_| std::hint::spin_loop());
            let outcome = commit(&digest);
            other.join().unwrap().or_else(|error| match error {
                Error::DigestMismatch(_) | Error::UploadBusy(_) | Error::UploadUnknown { .. } => Ok(()),
                error => Err(error),
            })?;
            Ok::<_, Error>(outcome)
        })?;
        // Whoever lost the race to a busy session leaves it suspended.
        store.cancel_upload(&repository(), id)?;
        match outcome {
            Ok(()) => {
                let mut found = vec![0; content.len()];
                store.blob(&repository(), &digest)?.content.read_at(0, &mut found).unwrap();
                assert!(found == content, "round {round}");
                store.delete_blob(&repository(), &digest)?;
            }
            Err(Error::UploadBusy(_) | Error::UploadUnknown { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    drop(store);
    assert_eq!(files(folder.path()), 0);
    Ok(())
}

/// An index that cannot be replaced is closed, and the next that opens finds the old one: never an empty one in its place.
#[test]
fn a_replacement_of_the_index_that_fails_leaves_the_index_that_was() {
    let folder = folder();
    let store = open(folder.path(), Inline::default());
    let digest = push(&store, b"kept").unwrap();
    let core = &store.0.core;
    // There is no new one to put in its place.
    core.replace_index().unwrap_err();
    assert!(matches!(store.stat(&repository(), &digest), Err(Error::Unavailable(_))));
    // And here it was cut short between its two renames.
    fs::rename(folder.path().join("index"), folder.path().join("replaced-index")).unwrap();
    core.reopen(|_| Ok(())).unwrap();
    assert_eq!(store.stat(&repository(), &digest).unwrap().size, 4);
}
