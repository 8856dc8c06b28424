//! Reading: bytes come back as they were given (C3), and only where they are linked (C9).

use std::io;

use super::Harness;
use super::scene::{Scene, absent, assert_error, image, image_document, index, media_type, tag, unique};
use crate::error::Error;
use crate::oci::{Algorithm, Descriptor, Manifest, MediaType, Reference, RepositoryName, Tag};
use crate::store::{Condition, Content, Pinned};

/// Sizes of blobs at which a store may change its ways.
const SIZES: [usize; 13] = [
    // An upload without a single write, and the least that a session can hold.
    0,
    1,
    // A page, and the largest value that an embedded database takes.
    4095,
    4096,
    4097,
    // Where small content ends, and common sizes of buffers.
    16_384,
    16_385,
    32_768,
    32_769,
    65_535,
    65_536,
    65_537,
    // Several buffers, the last one not full.
    (1 << 20) + 3,
];

/// A blob of any size reads as it was written, from any position, by both algorithms; beyond its end nothing reads.
pub fn blobs_of_every_size_come_back(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    for size in SIZES {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let bytes = unique(size);
            let pushed = scene.push_by(algorithm, &bytes);
            assert_eq!((pushed.digest, pushed.size), (algorithm.digest(&bytes), size as u64), "size {size}");
            assert_eq!(scene.store.stat(&scene.name, &pushed.digest).unwrap(), pushed, "size {size}");
            let blob = scene.blob(&pushed.digest).unwrap();
            assert_eq!(blob.stat, pushed, "size {size}");
            check_content(&*blob.content, &bytes);
        }
    }
}

fn check_content(content: &dyn Content, bytes: &[u8]) {
    let size = bytes.len();
    assert_eq!((content.len(), content.is_empty()), (size as u64, size == 0), "size {size}");
    // A page's borders, the store's own borders and the ends, from each of them to each of them.
    let mut borders =
        vec![0, 1, 4095, 4096, 4097, 65_535, 65_536, 65_537, size / 2, size.saturating_sub(1), size];
    borders.retain(|border| *border <= size);
    for start in &borders {
        for end in borders.iter().filter(|end| *end >= start) {
            let mut buffer = vec![0xA5; end - start];
            content.read_at(*start as u64, &mut buffer).unwrap();
            assert!(buffer == bytes[*start..*end], "bytes {start}..{end} of {size}");
            buffer.fill(0xA5);
            let at_hand = content.read_at_hand(*start as u64, &mut buffer);
            assert!(buffer[..at_hand] == bytes[*start..start + at_hand], "at hand at {start} of {size}");
        }
        let mut beyond = vec![0; size - start + 1];
        let error = content.read_at(*start as u64, &mut beyond).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "from {start} beyond {size}");
        assert_eq!(content.read_at_hand(*start as u64, &mut beyond), 0, "from {start} beyond {size}");
    }
    for position in [size as u64 + 1, u64::from(u32::MAX), u64::MAX] {
        let error = content.read_at(position, &mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "at {position} of {size}");
    }
    if let Some(view) = content.view() {
        view.make_resident(0, size).unwrap();
        assert!(view.as_ref() == bytes, "the view of {size} bytes");
    }
}

/// A blob pushed under a sha512 digest is found by it.
pub fn a_sha512_blob_is_known_by_that_digest(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    let bytes = unique(100);
    let digest = Algorithm::Sha512.digest(&bytes);
    let mut upload = scene.start();
    upload.write_all(&bytes).unwrap();
    assert_eq!(upload.commit(&digest).unwrap().digest, digest);
    assert_eq!(scene.read(&digest), bytes);
}

/// C3: whitespace, order and unknown fields are the pusher's own.
pub fn manifests_come_back_byte_for_byte(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    let config = scene.push(&unique(10));
    let canonical = image_document(&config, &[]).to_string();
    let spaced = canonical.replace(',', " ,\r\n\t").replace(':', " : ").replace("sha256 : ", "sha256:");
    let unknown = canonical.replacen('{', r#"{"z":[1.50,{"a":"\u00e9é"}],"#, 1);
    let trailing = format!("\n {canonical} \n\n");
    for (at, document) in [canonical, spaced, unknown, trailing].into_iter().enumerate() {
        let pushed = Manifest::new(media_type(MediaType::OCI_MANIFEST), document.clone().into_bytes());
        let tag = format!("form-{at}");
        scene.put(&pushed, &[&tag]).unwrap();
        for reference in [tag.parse().unwrap(), Reference::Digest(*pushed.digest())] {
            let pulled = scene.store.manifest(&scene.name, &reference).unwrap();
            assert_eq!(std::str::from_utf8(pulled.bytes()), Ok(document.as_str()));
            assert_eq!(pulled, pushed);
            let descriptor = scene.store.resolve(&scene.name, &reference).unwrap();
            assert_eq!(descriptor, pushed.descriptor());
        }
    }
}

/// C3: a manifest is served under the digest and algorithm that it was pushed with, by its tags too.
pub fn a_manifest_keeps_the_algorithm_of_its_digest(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    let config = scene.push_by(Algorithm::Sha512, &unique(10)).digest;
    let bytes = image_document(&config, &[]).to_string().into_bytes();
    let digest = Algorithm::Sha512.digest(&bytes);
    let pushed = Manifest::verified(media_type(MediaType::OCI_MANIFEST), bytes, &digest).unwrap();
    scene.put(&pushed, &["latest"]).unwrap();
    for reference in ["latest".to_owned(), digest.to_string()] {
        assert_eq!(scene.resolve(&reference).unwrap().digest, digest);
        assert_eq!(scene.store.manifest(&scene.name, &reference.parse().unwrap()).unwrap(), pushed);
    }
    assert_eq!(scene.store.tags(&scene.name, None, 9).unwrap().items[0].digest, digest);
}

/// What was never pushed is unknown, in a repository that exists and in one that does not; the error names it.
pub fn what_is_not_there_is_unknown(harness: &dyn Harness) {
    let full = Scene::new(harness);
    let manifest = full.image(&["present"]);
    for scene in [&full, &full.elsewhere()] {
        let digest = absent();
        for asked in [Reference::Tag(tag("absent")), Reference::Digest(digest)] {
            assert_error!(
                scene.store.manifest(&scene.name, &asked),
                Error::ManifestUnknown { repository, reference } if repository == scene.name && reference == asked
            );
            assert_error!(scene.store.resolve(&scene.name, &asked), Error::ManifestUnknown { .. });
        }
        assert_error!(
            scene.blob(&digest),
            Error::BlobUnknown { repository, digest: named } if repository == scene.name && named == digest
        );
        assert_error!(scene.store.stat(&scene.name, &digest), Error::BlobUnknown { .. });
        // A manifest is no blob.
        assert_error!(scene.blob(manifest.digest()), Error::BlobUnknown { .. });
    }
}

/// A blob that is deleted while it is open stays readable, or fails: it never shows the bytes of another.
pub fn an_open_blob_never_shows_other_bytes(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    for size in [100, 70_000, 1 << 20] {
        let bytes = unique(size);
        let digest = scene.push(&bytes);
        let open = scene.blob(&digest).unwrap();
        scene.store.delete_blob(&scene.name, &digest).unwrap();
        for _ in 0..3 {
            scene.push(&unique(size));
        }
        let mut buffer = vec![0; size];
        if open.content.read_at(0, &mut buffer).is_ok() {
            assert!(buffer == bytes, "a deleted blob of {size} bytes reads as something else");
        }
    }
}

/// C9: a blob of another repository can neither be read nor referenced, and its digest says nothing about it.
pub fn a_blob_is_readable_only_where_it_is_linked(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    let (bytes, other) = (unique(50), scene.elsewhere());
    let digest = scene.push(&bytes);
    let own = other.push(&unique(5));
    assert_error!(other.blob(&digest), Error::BlobUnknown { .. });
    assert_error!(other.store.stat(&other.name, &digest), Error::BlobUnknown { .. });
    assert_error!(other.store.delete_blob(&other.name, &digest), Error::BlobUnknown { .. });
    assert_error!(
        other.put(&image(&own, &[digest]), &[]),
        Error::ReferencesMissing { missing, .. } if missing.len() == 1 && missing[0].1 == digest
    );
    other.push(&bytes);
    assert_eq!(other.read(&digest), bytes);
    assert_eq!(scene.read(&digest), bytes);
}

/// A repository's name of 255 characters and a tag of 128 go everywhere that short ones go.
pub fn names_of_full_length_work(harness: &dyn Harness) {
    let short = Scene::new(harness);
    let fill = RepositoryName::MAX_LENGTH - short.name.as_str().len() - 1;
    let scene = short.with_suffix(&format!("/{}", "n".repeat(fill)));
    assert_eq!(scene.name.as_str().len(), RepositoryName::MAX_LENGTH);
    let long = "T".repeat(Tag::MAX_LENGTH);
    let manifest = scene.image(&[&long, "b"]);
    let referrer = {
        let mut document = image_document(&scene.push(b"{}"), &[]);
        document["subject"] = super::scene::descriptor(MediaType::OCI_MANIFEST, manifest.digest());
        super::scene::manifest(&document)
    };
    scene.put(&referrer, &[]).unwrap();
    assert_eq!(scene.at(&long).as_ref(), Some(manifest.digest()));
    assert_eq!(scene.tags(), [long.as_str(), "b"]);
    assert_eq!(scene.store.tags(&scene.name, Some(&tag(&long)), 9).unwrap().items.len(), 1);
    assert_eq!(scene.referrers(manifest.digest()).len(), 1);
    let listed = scene.store.repositories(Some(&short.name), 1).unwrap();
    assert_eq!(listed.items, std::slice::from_ref(&scene.name));
    scene.store.delete_tag(&scene.name, &tag(&long)).unwrap();
    scene.store.delete_manifest(&scene.name, manifest.digest(), &Pinned::none()).unwrap();
    assert_eq!(scene.tags(), Vec::<String>::new());
    assert!(scene.has(&referrer));
}

/// Names of which one begins with another share nothing.
pub fn neighbouring_names_are_kept_apart(harness: &dyn Harness) {
    let base = Scene::new(harness);
    let scenes: Vec<Scene> = ["", "-a", "/a", "/a/b", "0", "a"].iter().map(|s| base.with_suffix(s)).collect();
    let subject = absent();
    let mut manifests = Vec::new();
    for (at, scene) in scenes.iter().enumerate() {
        let mut document: serde_json::Value = serde_json::from_slice(index(&[]).bytes()).unwrap();
        document["subject"] = super::scene::descriptor(MediaType::OCI_MANIFEST, &subject);
        let manifest = super::scene::manifest(&document);
        scene.put(&manifest, &["a", &format!("only-{at}")]).unwrap();
        manifests.push(manifest);
    }
    for (at, (scene, manifest)) in scenes.iter().zip(&manifests).enumerate() {
        assert_eq!(scene.tags(), ["a".to_owned(), format!("only-{at}")], "{}", scene.name);
        assert_eq!(scene.at("a").as_ref(), Some(manifest.digest()), "{}", scene.name);
        let listed = scene.store.manifests(&scene.name, None, usize::MAX).unwrap().items;
        assert_eq!(listed, [manifest.descriptor()], "{}", scene.name);
        let referrers: Vec<Descriptor> = scene.referrers(&subject);
        assert_eq!(referrers.len(), 1, "{}", scene.name);
        assert_eq!(referrers[0].digest, *manifest.digest(), "{}", scene.name);
    }
    base.store.delete_manifest(&base.name, manifests[0].digest(), &Pinned::none()).unwrap();
    for (scene, manifest) in scenes.iter().zip(&manifests).skip(1) {
        assert!(scene.has(manifest), "{} lost what {} deleted", scene.name, base.name);
    }
}

/// What a store answers at once is what it answers when it is asked: after each change, and however often it was asked before.
pub fn what_is_at_hand_is_what_is_there(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    let (store, name) = (&scene.store, &scene.name);
    let image = scene.image(&["a", "b"]);
    let config = image.contents().unwrap().references.first().unwrap().digest;
    let references: [Reference; 3] = [tag("a").into(), tag("b").into(), (*image.digest()).into()];
    let look = |after: &str| {
        // The first time something may be at hand of before the change, and from then on of what was just asked.
        for _ in 0..3 {
            for reference in &references {
                let at_hand = store.manifest_at_hand(name, reference);
                let there = store.manifest(name, reference).ok();
                assert!(at_hand.is_none() || at_hand == there, "manifest {reference} after {after}");
                let at_hand = store.resolve_at_hand(name, reference);
                let there = store.resolve(name, reference).ok();
                assert!(at_hand.is_none() || at_hand == there, "descriptor of {reference} after {after}");
            }
            let at_hand = store.stat_at_hand(name, &config);
            let there = store.stat(name, &config).ok();
            assert!(at_hand.is_none() || at_hand == there, "the blob after {after}");
            let at_hand = store.tags_at_hand(name, None, 9);
            let there = store.tags(name, None, 9).ok();
            assert!(at_hand.is_none() || at_hand == there, "the tags after {after}");
        }
    };
    look("a push");
    store.delete_tag(name, &tag("a")).unwrap();
    look("the end of a tag");
    scene.image(&["a", "b"]);
    look("moving a tag");
    store.tag(name, image.digest(), &tag("b"), &Condition::Any).unwrap();
    look("moving it back");
    store.delete_blob(name, &config).unwrap();
    look("the end of a blob");
    store.delete_manifest(name, image.digest(), &Pinned::none()).unwrap();
    look("the end of a manifest");
    let elsewhere = scene.elsewhere();
    assert_eq!(elsewhere.store.manifest_at_hand(&elsewhere.name, &tag("a").into()), None);
    assert_eq!(elsewhere.store.stat_at_hand(&elsewhere.name, &config), None);
}
