//! Removing content, and mounting what is there: what goes, and what stays (C1, C9).

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::Harness;
use super::scene::{Scene, absent, assert_error, descriptor, image_document, index, manifest, tag, unique};
use crate::error::Error;
use crate::oci::{Algorithm, MediaType, RepositoryName};
use crate::store::{MountSource, Pinned};

/// C1: the manifest and its other tags stay.
pub fn deleting_a_tag_leaves_the_manifest(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    let image = scene.image(&["a", "b"]);
    scene.store.delete_tag(&scene.name, &tag("a")).unwrap();
    assert_eq!(scene.at("a"), None);
    assert_eq!(scene.tags(), ["b"]);
    scene.store.delete_tag(&scene.name, &tag("b")).unwrap();
    assert!(scene.has(&image), "the manifest went with its last tag");
    assert_eq!(scene.store.manifests(&scene.name, None, 9).unwrap().items, [image.descriptor()]);
    assert_eq!(scene.tags(), Vec::<String>::new());
}

/// C1: all of its tags go, those of other manifests stay, and so do the blobs.
pub fn deleting_a_manifest_removes_its_tags(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    let deleted = scene.image(&["a", "b", "d", "moved"]);
    let other = scene.image(&["c", "moved"]);
    scene.store.delete_manifest(&scene.name, deleted.digest(), &Pinned::none()).unwrap();
    assert!(!scene.has(&deleted));
    for gone in ["a", "b", "d"] {
        assert_error!(scene.resolve(gone), Error::ManifestUnknown { .. });
        assert_error!(scene.store.manifest(&scene.name, &tag(gone).into()), Error::ManifestUnknown { .. });
    }
    assert_eq!(scene.tags(), ["c", "moved"]);
    assert_eq!(scene.at("moved").as_ref(), Some(other.digest()));
    assert_eq!(scene.store.manifests(&scene.name, None, 9).unwrap().items, [other.descriptor()]);
    for reference in deleted.contents().unwrap().references {
        scene.store.stat(&scene.name, &reference.digest).unwrap();
    }
    // What is put again comes without its old tags.
    scene.put(&deleted, &[]).unwrap();
    assert_eq!(scene.tags(), ["c", "moved"]);
}

/// A manifest that a pinned tag points at stays, with all its tags; one whose tags are free goes.
pub fn a_pinned_tag_keeps_its_manifest(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    let pinned = Pinned::tags(|tag| tag.as_str() == "b");
    let (kept, free) = (scene.image(&["a", "b"]), scene.image(&["c"]));
    assert_error!(
        scene.store.delete_manifest(&scene.name, kept.digest(), &pinned),
        Error::TagImmutable { tag, found } if tag.as_str() == "b" && found == *kept.digest()
    );
    assert!(scene.has(&kept));
    scene.store.delete_manifest(&scene.name, free.digest(), &pinned).unwrap();
    assert_eq!(scene.tags(), ["a", "b"]);
}

/// C1: no reader, at no time, sees a tag of a manifest that is gone, or a manifest whose tag went with it.
pub fn a_manifest_and_its_tags_vanish_at_once(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    scene.image(&[]);
    for _ in 0..10 {
        let doomed = scene.image(&["x", "y"]);
        let done = AtomicBool::new(false);
        thread::scope(|threads| {
            for _ in 0..2 {
                threads.spawn(|| {
                    let mut last_look = false;
                    while !last_look {
                        last_look = done.load(Ordering::Acquire);
                        // Whatever is gone at one look must not have left anything for the next.
                        if scene.at("x").is_none() {
                            assert!(!scene.has(&doomed), "the tag went before its manifest");
                        }
                        if !scene.has(&doomed) {
                            assert_eq!(scene.at("y"), None, "a tag outlived its manifest");
                            assert_eq!(
                                scene.tags(),
                                Vec::<String>::new(),
                                "a listed tag outlived its manifest"
                            );
                        }
                    }
                });
            }
            scene.store.delete_manifest(&scene.name, doomed.digest(), &Pinned::none()).unwrap();
            assert_eq!(scene.at("x"), None);
            done.store(true, Ordering::Release);
        });
    }
}

/// C1: a manifest that an index names can be deleted; the index stays.
pub fn an_index_outlives_its_children(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    let child = scene.image(&[]);
    let parent = index(&[*child.digest()]);
    scene.put(&parent, &["parent"]).unwrap();
    scene.store.delete_manifest(&scene.name, child.digest(), &Pinned::none()).unwrap();
    assert!(!scene.has(&child));
    assert_eq!(scene.store.manifest(&scene.name, &tag("parent").into()).unwrap(), parent);
    // As a new push it would be refused: its child is missing now.
    assert_error!(scene.put(&index(&[*child.digest()]), &[]), Error::ReferencesMissing { .. });
}

/// A referrer that is deleted is no longer listed; deleting the subject leaves its referrers.
pub fn a_deleted_referrer_is_not_listed(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    let subject = scene.image(&[]);
    let referrers = [(); 2].map(|()| {
        let mut document = image_document(&scene.push(&unique(11)), &[]);
        document["subject"] = descriptor(MediaType::OCI_MANIFEST, subject.digest());
        manifest(&document)
    });
    for referrer in &referrers {
        scene.put(referrer, &[]).unwrap();
    }
    let [stays, goes] = referrers;
    scene.store.delete_manifest(&scene.name, goes.digest(), &Pinned::none()).unwrap();
    scene.store.delete_manifest(&scene.name, subject.digest(), &Pinned::none()).unwrap();
    let listed = scene.referrers(subject.digest());
    assert_eq!(listed.iter().map(|found| found.digest).collect::<Vec<_>>(), [*stays.digest()]);
}

/// Deleting what is not there, or no longer, is an error that names it.
pub fn deleting_what_is_not_there_says_so(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    let image = scene.image(&["latest"]);
    let blob = scene.push(&unique(10));
    let unknown = scene.elsewhere();
    for (scene, digest) in [(&scene, absent()), (&unknown, *image.digest()), (&unknown, blob)] {
        assert_error!(
            scene.store.delete_manifest(&scene.name, &digest, &Pinned::none()),
            Error::ManifestUnknown { repository, reference }
                if repository == scene.name && reference == digest.into()
        );
        assert_error!(
            scene.store.delete_blob(&scene.name, &digest),
            Error::BlobUnknown { repository, digest: named } if repository == scene.name && named == digest
        );
        assert_error!(scene.store.delete_tag(&scene.name, &tag("absent")), Error::ManifestUnknown { .. });
    }
    scene.store.delete_tag(&scene.name, &tag("latest")).unwrap();
    assert_error!(scene.store.delete_tag(&scene.name, &tag("latest")), Error::ManifestUnknown { .. });
    scene.store.delete_manifest(&scene.name, image.digest(), &Pinned::none()).unwrap();
    assert_error!(
        scene.store.delete_manifest(&scene.name, image.digest(), &Pinned::none()),
        Error::ManifestUnknown { .. }
    );
    scene.store.delete_blob(&scene.name, &blob).unwrap();
    assert_error!(scene.store.delete_blob(&scene.name, &blob), Error::BlobUnknown { .. });
}

/// A blob goes from this repository alone, even from under a manifest; elsewhere it stays readable.
pub fn deleting_a_blob_unlinks_it_here_only(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    let other = scene.elsewhere();
    for size in [10, 70_000] {
        let bytes = unique(size);
        let digest = scene.push(&bytes);
        other.push(&bytes);
        let image = super::scene::image(&digest, &[]);
        scene.put(&image, &[]).unwrap();
        scene.store.delete_blob(&scene.name, &digest).unwrap();
        assert_error!(scene.blob(&digest), Error::BlobUnknown { .. });
        assert!(scene.has(&image));
        assert_eq!(other.read(&digest), bytes);
        other.store.delete_blob(&other.name, &digest).unwrap();
        assert_error!(other.store.stat(&other.name, &digest), Error::BlobUnknown { .. });
        assert_error!(
            scene.store.mount(&scene.name, &digest, &MountSource::Repository(&other.name)),
            Error::BlobUnknown { .. }
        );
    }
}

/// What was deleted can be pushed again, again and again, and is there each time, though others delete it elsewhere.
pub fn content_can_be_pushed_again_after_deletion(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    let other = scene.elsewhere();
    for size in [10, 70_000] {
        let bytes = unique(size);
        let digest = Algorithm::Sha256.digest(&bytes);
        let image = super::scene::image(&digest, &[]);
        thread::scope(|threads| {
            threads.spawn(|| {
                for _ in 0..10 {
                    other.push(&bytes);
                    other.store.delete_blob(&other.name, &digest).unwrap();
                }
            });
            for _ in 0..10 {
                scene.push(&bytes);
                scene.put(&image, &["latest"]).unwrap();
                assert!(scene.read(&digest) == bytes, "a blob that was pushed again reads as something else");
                assert_eq!(scene.at("latest").as_ref(), Some(image.digest()));
                scene.store.delete_manifest(&scene.name, image.digest(), &Pinned::none()).unwrap();
                scene.store.delete_blob(&scene.name, &digest).unwrap();
                assert_error!(scene.blob(&digest), Error::BlobUnknown { .. });
            }
        });
    }
}

/// A repository whose last content is deleted is unknown again, and not in the catalog.
pub fn a_repository_ends_with_its_last_content(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    let name = &scene.name;
    let (empty, blob) = (index(&[]), scene.push(&unique(10)));
    scene.put(&empty, &["latest"]).unwrap();
    scene.store.delete_manifest(name, empty.digest(), &Pinned::none()).unwrap();
    assert_eq!(scene.tags(), Vec::<String>::new());
    let child = scene.with_suffix("/child");
    child.push(&unique(10));
    let next = || scene.store.repositories(Some(name), 1).unwrap().items;
    assert_eq!(next(), std::slice::from_ref(&child.name));
    scene.store.delete_blob(name, &blob).unwrap();
    assert_error!(scene.store.tags(name, None, 1), Error::RepositoryUnknown(_));
    assert_error!(scene.store.manifests(name, None, 1), Error::RepositoryUnknown(_));
    assert_eq!(next(), [child.name]);
}

/// A mounted blob is the same blob, independent of where it came from.
pub fn a_mount_links_without_bytes(harness: &dyn Harness) {
    let source = Scene::new(harness);
    for size in [0, 10, 70_000] {
        let target = source.elsewhere();
        let bytes = unique(size);
        let stat = source.push_by(Algorithm::Sha256, &bytes);
        let from = MountSource::Repository(&source.name);
        for _ in 0..2 {
            assert_eq!(target.store.mount(&target.name, &stat.digest, &from).unwrap(), stat);
        }
        assert_eq!(target.store.stat(&target.name, &stat.digest).unwrap(), stat);
        source.store.delete_blob(&source.name, &stat.digest).unwrap();
        assert_eq!(target.read(&stat.digest), bytes);
        target.put(&super::scene::image(&stat.digest, &[]), &["mounted"]).unwrap();
    }
}

/// A mount fails, and links nothing, unless the named source itself links the blob.
pub fn a_mount_needs_a_source_that_links_the_blob(harness: &dyn Harness) {
    let holder = Scene::new(harness);
    let (target, bystander) = (holder.elsewhere(), holder.elsewhere());
    let digest = holder.push(&unique(10));
    bystander.push(&unique(10));
    for (digest, source) in [(digest, &bystander), (digest, &holder.elsewhere()), (absent(), &holder)] {
        assert_error!(
            target.store.mount(&target.name, &digest, &MountSource::Repository(&source.name)),
            Error::BlobUnknown { digest: named, .. } if named == digest
        );
        assert_error!(target.blob(&digest), Error::BlobUnknown { .. });
    }
    assert_error!(target.store.tags(&target.name, None, 1), Error::RepositoryUnknown(_));
}

/// A mount from anywhere takes only a repository that the predicate admits.
pub fn a_mount_from_anywhere_asks_for_admission(harness: &dyn Harness) {
    let holder = Scene::new(harness);
    let (target, bystander, second) = (holder.elsewhere(), holder.elsewhere(), holder.elsewhere());
    let bytes = unique(10);
    let digest = holder.push(&bytes);
    bystander.push(&unique(10));
    let mount = |admits: &(dyn Fn(&RepositoryName) -> bool + Send + Sync)| {
        target.store.mount(&target.name, &digest, &MountSource::Any(admits))
    };
    assert_error!(mount(&|_| false), Error::BlobUnknown { .. });
    assert_error!(mount(&|name| *name == bystander.name), Error::BlobUnknown { .. });
    assert_error!(target.blob(&digest), Error::BlobUnknown { .. });
    second.push(&bytes);
    // The one that is admitted is found, though it is neither the first nor the only one that links the blob.
    for admitted in [&holder, &second] {
        mount(&|name| *name == admitted.name).unwrap();
        assert_eq!(target.read(&digest), bytes);
        target.store.delete_blob(&target.name, &digest).unwrap();
    }
    mount(&|_| true).unwrap();
    assert_eq!(target.read(&digest), bytes);
}
