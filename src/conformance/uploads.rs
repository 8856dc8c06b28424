//! Upload sessions: what is promised before, at and after a commit (C4 to C7).

use std::io::Read;
use std::sync::Arc;
use std::thread;

use uuid::Uuid;

use super::Harness;
use super::scene::{Scene, assert_error, tag, unique};
use crate::error::Error;
use crate::oci::{Algorithm, DigestMismatch};
use crate::store::{Pinned, Upload, UploadOptions};

const BOTH: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];

fn assert_ended(scene: &Scene, id: Uuid) {
    assert_error!(
        scene.store.upload_status(&scene.name, id),
        Error::UploadUnknown { repository, id: named } if repository == scene.name && named == id
    );
    assert_error!(scene.resume(id), Error::UploadUnknown { .. });
}

/// C4: until the commit there is no blob, and no repository; after it the session is gone.
pub fn nothing_is_visible_before_the_commit(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    let bytes = unique(70_000);
    let digest = Algorithm::Sha256.digest(&bytes);
    let mut upload = scene.start();
    let (id, started_at) = (upload.id(), upload.started_at());
    assert_eq!(upload.offset(), 0);
    upload.write_all(&bytes).unwrap();
    upload.flush().unwrap();
    assert_eq!(upload.offset(), 70_000);
    let status = scene.store.upload_status(&scene.name, id).unwrap();
    assert_eq!((status.offset, status.started_at), (70_000, started_at));
    assert_error!(scene.blob(&digest), Error::BlobUnknown { .. });
    assert_error!(scene.store.stat(&scene.name, &digest), Error::BlobUnknown { .. });
    assert_error!(scene.store.tags(&scene.name, None, 1), Error::RepositoryUnknown(_));
    let stat = upload.commit(&digest).unwrap();
    assert_eq!((stat.digest, stat.size), (digest, 70_000));
    assert_eq!(scene.read(&digest), bytes);
    assert_ended(&scene, id);
}

/// C5: the error says what was found, by the algorithm that was asked for; nothing is visible under either digest.
pub fn a_wrong_digest_ends_the_session(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    for announced in BOTH {
        for asked in BOTH {
            for size in [0, 100, 70_000] {
                let (bytes, wrong) = (unique(size), asked.digest(&unique(16)));
                let options = UploadOptions::new().algorithm(announced);
                let mut upload = scene.store.start_upload(&scene.name, &options).unwrap();
                let id = upload.id();
                upload.write_all(&bytes).unwrap();
                let right = asked.digest(&bytes);
                assert_error!(
                    upload.commit(&wrong),
                    Error::DigestMismatch(DigestMismatch { expected, found }) if expected == wrong && found == right
                );
                for digest in [wrong, right] {
                    assert_error!(scene.store.stat(&scene.name, &digest), Error::BlobUnknown { .. });
                }
                assert_ended(&scene, id);
            }
        }
    }
    assert_error!(scene.store.tags(&scene.name, None, 1), Error::RepositoryUnknown(_));
}

/// C6: a session goes on at its offset, however often and wherever it was dropped or suspended.
pub fn a_dropped_upload_is_resumed_where_it_stood(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    let bytes = unique(200_000);
    for algorithm in BOTH {
        let options = UploadOptions::new().algorithm(algorithm);
        let mut upload = scene.store.start_upload(&scene.name, &options).unwrap();
        let (id, started_at) = (upload.id(), upload.started_at());
        let mut position = 0;
        // Around the blocks of both algorithms, a page, and where small content ends; twice where nothing was written.
        for (turn, cut) in
            [0, 1, 63, 64, 129, 129, 4096, 65_535, 65_536, 65_537, 200_000].into_iter().enumerate()
        {
            upload.write_all(&bytes[position..cut]).unwrap();
            position = cut;
            assert_eq!(upload.offset(), cut as u64);
            if turn % 2 == 0 {
                drop(upload);
            } else {
                upload.suspend().unwrap();
            }
            assert_eq!(scene.store.upload_status(&scene.name, id).unwrap().offset, cut as u64);
            upload = scene.resume(id).unwrap();
            assert_eq!((upload.id(), upload.offset()), (id, cut as u64));
            assert_eq!(upload.started_at(), started_at);
        }
        let digest = algorithm.digest(&bytes);
        upload.commit(&digest).unwrap();
        assert_eq!(scene.read(&digest), bytes);
    }
}

/// C6: what a suspension acknowledged is there after a restart, with the state of the hash.
pub fn a_suspended_upload_outlives_a_restart(harness: &dyn Harness) {
    let mut scene = Scene::new(harness);
    let bytes = unique(150_001);
    for algorithm in BOTH {
        let options = UploadOptions::new().algorithm(algorithm);
        let mut upload = scene.store.start_upload(&scene.name, &options).unwrap();
        let id = upload.id();
        upload.write_all(&bytes[..70_001]).unwrap();
        upload.suspend().unwrap();
        let Some(after) = restarted(scene, harness) else { return };
        scene = after;
        assert_eq!(scene.store.upload_status(&scene.name, id).unwrap().offset, 70_001);
        let mut upload = scene.resume(id).unwrap();
        assert_eq!(upload.offset(), 70_001);
        upload.write_all(&bytes[70_001..]).unwrap();
        let digest = algorithm.digest(&bytes);
        upload.commit(&digest).unwrap();
        assert_eq!(scene.read(&digest), bytes);
    }
}

/// C4: blobs, manifests, tags and their removal are there after a restart; ended sessions are not.
pub fn what_was_committed_outlives_a_restart(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    let (small, large) = (unique(100), unique(1 << 20));
    let digests = [scene.push(&small), scene.push(&large)];
    let (kept, deleted) = (scene.image(&["kept", "dropped"]), scene.image(&["deleted"]));
    scene.store.delete_manifest(&scene.name, deleted.digest(), &Pinned::none()).unwrap();
    scene.store.delete_tag(&scene.name, &tag("dropped")).unwrap();
    let cancelled = scene.start();
    let id = cancelled.id();
    cancelled.cancel().unwrap();
    let Some(scene) = restarted(scene, harness) else { return };
    assert_eq!(scene.read(&digests[0]), small);
    assert_eq!(scene.read(&digests[1]), large);
    assert_eq!(scene.store.manifest(&scene.name, &tag("kept").into()).unwrap(), kept);
    assert_eq!(scene.tags(), ["kept"]);
    assert!(!scene.has(&deleted));
    assert_ended(&scene, id);
}

/// The same repository after a restart. Takes the scene, so that no handle to the old store is left.
fn restarted(scene: Scene, harness: &dyn Harness) -> Option<Scene> {
    let Scene { store, name } = scene;
    drop(store);
    harness.restart().then(|| Scene { store: harness.store(), name })
}

/// The bytes so far are read again as they came, at any size, also of a session that was taken up again, and as often as is asked;
/// what comes later is not among them.
pub fn what_a_session_took_in_can_be_read_again(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    for size in [0, 1, 5000, 70_000, 700_000] {
        let (bytes, more) = (unique(size), unique(3000));
        let mut upload = scene.start();
        upload.write_all(&bytes).unwrap();
        let mut before = upload.bytes().unwrap();
        for (part, expected) in [(&[][..], bytes.clone()), (&more[..], [&bytes[..], &more[..]].concat())] {
            upload.write_all(part).unwrap();
            for _ in 0..2 {
                let mut found = Vec::new();
                upload.bytes().unwrap().read_to_end(&mut found).unwrap();
                assert!(found == expected, "of {size} bytes {} came", found.len());
            }
        }
        let mut found = Vec::new();
        before.read_to_end(&mut found).unwrap();
        assert!(found == bytes, "what came later was among them");
        let id = upload.id();
        drop((before, upload));
        let upload = scene.resume(id).unwrap();
        let mut found = Vec::new();
        upload.bytes().unwrap().read_to_end(&mut found).unwrap();
        let whole = [bytes, more].concat();
        assert!(found == whole);
        let digest = Algorithm::Sha256.digest(&whole);
        upload.commit(&digest).unwrap();
        assert_eq!(scene.read(&digest), whole);
    }
    let upload = scene.start();
    scene.store.cancel_upload(&scene.name, upload.id()).unwrap();
    assert_error!(upload.bytes(), Error::UploadUnknown { .. });
}

/// A digest of any algorithm commits, whatever was announced, and though nothing was.
pub fn the_commit_decides_on_the_algorithm(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    for announced in [None, Some(Algorithm::Sha256), Some(Algorithm::Sha512)] {
        for named in BOTH {
            for size in [0, 1, 4097, 65_537, 200_000] {
                let bytes = unique(size);
                let options = UploadOptions { algorithm: announced, ..UploadOptions::new() };
                let mut upload = scene.store.start_upload(&scene.name, &options).unwrap();
                for piece in bytes.chunks(1000) {
                    upload.write_all(piece).unwrap();
                }
                let stat = upload.commit(&named.digest(&bytes)).unwrap();
                assert_eq!(stat.size, size as u64);
                assert_eq!(scene.read(&stat.digest), bytes, "{announced:?}, {named}, {size} bytes");
            }
        }
    }
}

/// The algorithm may be told when a session is taken up; once there are bytes it only costs a second read.
pub fn an_algorithm_can_be_announced_late(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    let bytes = unique(5000);
    for before in [0, 1000] {
        let mut upload = scene.start();
        let id = upload.id();
        upload.write_all(&bytes[..before]).unwrap();
        drop(upload);
        let options = UploadOptions::new().algorithm(Algorithm::Sha512);
        let mut upload = scene.store.resume_upload(&scene.name, id, &options).unwrap();
        upload.write_all(&bytes[before..]).unwrap();
        let digest = Algorithm::Sha512.digest(&bytes);
        assert_eq!(upload.commit(&digest).unwrap().digest, digest);
        assert_eq!(scene.read(&digest), bytes);
    }
}

/// The size that was told beforehand is no promise: fewer and more bytes commit as well.
pub fn a_stated_size_is_a_hint(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    for stated in [0, 1, 99, 101, 100_000] {
        let bytes = unique(100);
        let options = UploadOptions::new().size(stated);
        let mut upload = scene.store.start_upload(&scene.name, &options).unwrap();
        upload.write_all(&bytes).unwrap();
        let stat = upload.commit(&Algorithm::Sha256.digest(&bytes)).unwrap();
        assert_eq!(stat.size, 100, "where {stated} were stated");
        assert_eq!(scene.read(&stat.digest), bytes);
    }
}

/// C6: a session is cancelled by its writer or by its id, once or twice; what was committed stays.
pub fn cancelling_is_idempotent(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    for by_writer in [true, false] {
        let mut upload = scene.start();
        let id = upload.id();
        upload.write_all(&unique(5000)).unwrap();
        if by_writer {
            upload.cancel().unwrap();
        } else {
            drop(upload);
        }
        for _ in 0..3 {
            scene.store.cancel_upload(&scene.name, id).unwrap();
            assert_ended(&scene, id);
        }
    }
    scene.store.cancel_upload(&scene.name, Uuid::new_v4()).unwrap();
    let mut upload = scene.start();
    let id = upload.id();
    upload.write_all(b"kept").unwrap();
    let digest = upload.commit(&Algorithm::Sha256.digest(b"kept")).unwrap().digest;
    scene.store.cancel_upload(&scene.name, id).unwrap();
    assert_eq!(scene.read(&digest), b"kept");
}

/// A session is cancelled whoever writes to it: the writer is told at its next write, and cannot commit.
pub fn a_session_is_cancelled_under_its_writer(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    let digest = Algorithm::Sha256.digest(b"part");
    for last_step in ["write", "commit", "cancel", "drop"] {
        let mut upload = scene.start();
        let id = upload.id();
        upload.write_all(b"part").unwrap();
        scene.store.cancel_upload(&scene.name, id).unwrap();
        match last_step {
            "write" => {
                upload.write_all(b"more").unwrap_err();
            }
            "commit" => assert_error!(upload.commit(&digest), Error::UploadUnknown { .. }),
            "cancel" => upload.cancel().unwrap(),
            _ => drop(upload),
        }
        assert_ended(&scene, id);
        assert_error!(scene.store.stat(&scene.name, &digest), Error::BlobUnknown { .. });
    }
}

/// A session is unknown in every repository but its own, and cannot be cancelled from there.
pub fn a_session_belongs_to_its_repository(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    let other = scene.elsewhere();
    let upload = scene.start();
    let id = upload.id();
    drop(upload);
    assert_ended(&other, id);
    other.store.cancel_upload(&other.name, id).unwrap();
    assert_eq!(scene.store.upload_status(&scene.name, id).unwrap().offset, 0);
    assert!(id != scene.start().id(), "two sessions have one id");
    scene.resume(id).unwrap().cancel().unwrap();
}

/// C7: while a session's writer is alive a second one is refused, and the first goes on undisturbed.
pub fn a_second_writer_is_refused(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    let mut upload = scene.start();
    let id = upload.id();
    for part in 1..=3 {
        upload.write_all(b"part").unwrap();
        assert_error!(scene.resume(id), Error::UploadBusy(named) if named == id);
        assert_eq!(scene.store.upload_status(&scene.name, id).unwrap().offset, part * 4);
    }
    // One that was resumed is a writer like one that was started.
    drop(upload);
    let upload = scene.resume(id).unwrap();
    assert_error!(scene.resume(id), Error::UploadBusy(_));
    upload.commit(&Algorithm::Sha256.digest(b"partpartpart")).unwrap();

    let barrier = std::sync::Barrier::new(8);
    let upload = scene.start();
    let id = upload.id();
    drop(upload);
    let writers: Vec<Option<Box<dyn Upload>>> = thread::scope(|threads| {
        let claims: Vec<_> = (0..8)
            .map(|_| {
                threads.spawn(|| {
                    barrier.wait();
                    scene.resume(id).ok()
                })
            })
            .collect();
        claims.into_iter().map(|claim| claim.join().unwrap()).collect()
    });
    assert_eq!(writers.iter().flatten().count(), 1, "of 8 that would write to one session");
}

/// C7: a second writer takes over from a silent one, which can do nothing to the session from then on.
pub fn a_silent_writer_is_replaced(harness: &dyn Harness) {
    let Some(store) = harness.impatient() else { return };
    let scene = Scene::over(store);
    for last_step in ["write", "commit", "suspend", "cancel", "drop"] {
        let mut silent = scene.start();
        let id = silent.id();
        silent.write_all(b"first").unwrap();
        let mut next = scene.resume(id).unwrap();
        assert_eq!(next.offset(), 5, "the next writer goes on where the silent one stood");
        let digest = Algorithm::Sha256.digest(b"first");
        match last_step {
            "write" => {
                silent.write_all(b"late").unwrap_err();
            }
            "commit" => assert_error!(silent.commit(&digest), Error::UploadBusy(named) if named == id),
            // What it is told is the store's affair; that it does nothing to the session is seen below.
            "suspend" => drop(silent.suspend()),
            "cancel" => drop(silent.cancel()),
            _ => drop(silent),
        }
        assert_error!(scene.store.stat(&scene.name, &digest), Error::BlobUnknown { .. });
        next.write_all(last_step.as_bytes()).unwrap();
        let whole = format!("first{last_step}");
        let digest = next.commit(&Algorithm::Sha256.digest(whole.as_bytes())).unwrap().digest;
        assert_eq!(scene.read(&digest), whole.as_bytes());
        assert_ended(&scene, id);
    }
}

/// C7: two sessions for one digest both succeed, whichever was first; the blob stays when one of them is cancelled.
pub fn sessions_for_one_digest_both_succeed(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    for size in [50, 70_000] {
        for first_started_commits_first in [true, false] {
            let bytes = unique(size);
            let digest = Algorithm::Sha256.digest(&bytes);
            let (mut one, mut two, mut three) = (scene.start(), scene.start(), scene.start());
            for upload in [&mut one, &mut two, &mut three] {
                upload.write_all(&bytes).unwrap();
            }
            let (first, second) = if first_started_commits_first { (one, two) } else { (two, one) };
            let committed = first.commit(&digest).unwrap();
            assert_eq!(scene.read(&digest), bytes);
            assert_eq!(second.commit(&digest).unwrap(), committed);
            three.cancel().unwrap();
            assert_eq!(scene.read(&digest), bytes);
        }
    }
}

/// C7: the same, from many threads at once, in one repository and in several.
pub fn concurrent_sessions_for_one_digest_all_succeed(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    let scenes = [scene.clone(), scene.elsewhere(), scene.elsewhere()];
    for size in [50, 70_000] {
        let bytes = unique(size);
        let barrier = std::sync::Barrier::new(8);
        thread::scope(|threads| {
            for scene in scenes.iter().cycle().take(8) {
                threads.spawn(|| {
                    barrier.wait();
                    let digest = scene.push(&bytes);
                    assert!(scene.read(&digest) == bytes, "a committed blob reads as something else");
                });
            }
        });
        let digest = Algorithm::Sha256.digest(&bytes);
        assert!(scenes.iter().all(|scene| scene.read(&digest) == bytes));
    }
}

/// Committing what is there already changes nothing of it, from whatever repository.
pub fn a_blob_is_as_old_as_its_first_commit(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    let bytes = unique(40);
    let first = scene.push_by(Algorithm::Sha256, &bytes);
    let other = Scene { store: Arc::clone(&scene.store), name: scene.elsewhere().name };
    for scene in [&scene, &other] {
        assert_eq!(scene.push_by(Algorithm::Sha256, &bytes), first);
        assert_eq!(scene.store.stat(&scene.name, &first.digest).unwrap(), first);
    }
}
