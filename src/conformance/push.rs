//! Manifests and tags: what is checked before anything is written (C2), and that all of it is written or nothing.

use std::thread;

use serde_json::json;

use super::Harness;
use super::scene::{
    CONFIG_TYPE, Scene, absent, assert_error, descriptor, image, image_document, index, index_document,
    manifest, media_type, tag, unique,
};
use crate::error::Error;
use crate::oci::{Digest, MAX_MANIFEST_SIZE, Manifest, MediaType, ReferenceRole, RepositoryName};
use crate::store::{Condition, MAX_TAGS_PER_PUSH, Pinned, PutManifest, References};

const THREADS: u8 = 8;

/// C2: every missing reference is reported, once a digest, in the document's order, and nothing is stored.
pub fn all_missing_references_are_reported(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    let (config, first, present, last) = (absent(), absent(), scene.push(&unique(9)), absent());
    let broken = image(&config, &[first, present, first, last, config]);
    assert_error!(
        scene.put(&broken, &["latest"]),
        Error::ReferencesMissing { repository, missing } if repository == scene.name
            && missing == [
                (ReferenceRole::Config, config),
                (ReferenceRole::Layer(0), first),
                (ReferenceRole::Layer(3), last),
            ]
    );
    assert!(!scene.has(&broken));
    assert_eq!(scene.at("latest"), None);

    let child = scene.image(&[]);
    let sparse = index(&[first, *child.digest(), last, first]);
    assert_error!(
        scene.put(&sparse, &[]),
        Error::ReferencesMissing { missing, .. }
            if missing == [(ReferenceRole::Manifest(0), first), (ReferenceRole::Manifest(2), last)]
    );
}

/// C2: a blob is no child manifest, a manifest is no layer, and what another repository has does not count.
pub fn references_count_only_in_their_own_repository(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    let other = scene.elsewhere();
    let (foreign_child, child, blob) = (other.image(&[]), scene.image(&[]), scene.push(&unique(8)));
    for absent in [*foreign_child.digest(), blob] {
        assert_error!(
            scene.put(&index(&[*child.digest(), absent]), &[]),
            Error::ReferencesMissing { missing, .. } if missing == [(ReferenceRole::Manifest(1), absent)]
        );
    }
    assert_error!(
        scene.put(&image(&blob, &[*child.digest()]), &[]),
        Error::ReferencesMissing { missing, .. } if missing == [(ReferenceRole::Layer(0), *child.digest())]
    );
}

/// [`References::MayBeAbsent`]: a mirror takes a manifest before its layers, and an index without its children.
pub fn references_may_be_absent_on_request(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    for early in [image(&absent(), &[absent(), absent()]), index(&[absent(), absent()])] {
        let options = PutManifest::new().references(References::MayBeAbsent);
        scene.put_with(&early, &["mirrored"], &options).unwrap();
        assert_eq!(scene.at("mirrored").as_ref(), Some(early.digest()));
    }
}

/// C2: a layer that is fetched from elsewhere may be absent; the config beside it may not.
pub fn non_distributable_layers_may_be_absent(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    for layer_type in [
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ] {
        let mut document = image_document(&scene.push(&unique(7)), &[]);
        document["layers"] = json!([descriptor(layer_type, &absent())]);
        scene.put(&manifest(&document), &[]).unwrap();
        let config = absent();
        document["config"] = descriptor(CONFIG_TYPE, &config);
        assert_error!(
            scene.put(&manifest(&document), &[]),
            Error::ReferencesMissing { missing, .. } if missing == [(ReferenceRole::Config, config)]
        );
    }
}

/// C2: a referrer may come before its subject, and alone.
pub fn a_subject_may_be_absent(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    let subject = absent();
    for mut document in [image_document(&scene.push(b"{}"), &[]), index_document(&[])] {
        document["subject"] = descriptor(MediaType::OCI_MANIFEST, &subject);
        let referrer = manifest(&document);
        scene.put(&referrer, &[]).unwrap();
        assert!(scene.has(&referrer));
    }
    assert_eq!(scene.referrers(&subject).len(), 2);
}

/// Indexes hold indexes, and nothing at all; Docker's media types are served alike.
pub fn indexes_nest_and_may_be_empty(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    let mut child = index(&[]);
    scene.put(&child, &["empty"]).unwrap();
    for depth in 0..5 {
        let parent = index(&[*child.digest(), *child.digest()]);
        scene.put(&parent, &[&format!("depth-{depth}")]).unwrap();
        child = parent;
    }
    let mut list = index_document(&[*child.digest()]);
    list["mediaType"] = json!(MediaType::DOCKER_LIST);
    let list = manifest(&list);
    scene.put(&list, &["list"]).unwrap();
    assert_eq!(scene.resolve("list").unwrap().media_type.as_str(), MediaType::DOCKER_LIST);
    assert_eq!(scene.resolve("list").unwrap(), list.descriptor());
}

/// A manifest may have thousands of references: present ones, repeated ones, and missing ones, all of them told.
pub fn ten_thousand_references_are_one_manifest(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    let config = scene.push(&unique(6));
    let present: Vec<Digest> = (0..3).map(|_| scene.push(&unique(6))).collect();
    let repeated: Vec<Digest> = present.iter().copied().cycle().take(10_000).collect();
    let repeated = image(&config, &repeated);
    scene.put(&repeated, &["repeated"]).unwrap();
    assert_eq!(scene.store.manifest(&scene.name, &tag("repeated").into()).unwrap(), repeated);

    let distinct: Vec<Digest> = (0..10_000).map(|_| absent()).collect();
    let distinct_image = image(&config, &distinct);
    assert_error!(
        scene.put(&distinct_image, &[]),
        Error::ReferencesMissing { missing, .. }
            if missing.iter().map(|(_, digest)| digest).eq(&distinct)
    );
    let options = PutManifest::new().references(References::MayBeAbsent);
    scene.put_with(&distinct_image, &["distinct"], &options).unwrap();
    assert_eq!(scene.store.manifest(&scene.name, &tag("distinct").into()).unwrap(), distinct_image);
    scene.store.delete_manifest(&scene.name, distinct_image.digest(), &Pinned::none()).unwrap();
    assert!(scene.has(&repeated) && !scene.has(&distinct_image));
}

/// A manifest of [`MAX_MANIFEST_SIZE`] is accepted and comes back; one byte more is refused.
pub fn the_largest_manifest_is_accepted(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    let mut document = index_document(&[]);
    document["annotations"] = json!({ "unique": uuid::Uuid::new_v4().to_string(), "padding": "" });
    let room = MAX_MANIFEST_SIZE - document.to_string().len();
    document["annotations"]["padding"] = json!("x".repeat(room));
    let largest = manifest(&document);
    assert_eq!(largest.bytes().len(), MAX_MANIFEST_SIZE);
    scene.put(&largest, &["largest"]).unwrap();
    assert!(scene.store.manifest(&scene.name, &tag("largest").into()).unwrap() == largest);
    document["annotations"]["padding"] = json!("x".repeat(room + 1));
    assert_error!(scene.put(&manifest(&document), &["larger"]), Error::ManifestInvalid(_));
    assert_eq!(scene.tags(), ["largest"]);
}

/// What is no manifest of its media type leaves nothing behind, not even the repository.
pub fn what_is_no_manifest_is_refused(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    let mut typed_otherwise = index_document(&[]);
    typed_otherwise["mediaType"] = json!(MediaType::DOCKER_LIST);
    let mut bad_digest = index_document(&[]);
    bad_digest["manifests"] =
        json!([{ "mediaType": MediaType::OCI_INDEX, "digest": "sha256:baddigeststring", "size": 1 }]);
    for (media, document) in [
        (MediaType::OCI_INDEX, String::new()),
        (MediaType::OCI_INDEX, "[]".to_owned()),
        (MediaType::OCI_INDEX, r#"{"schemaVersion":1,"manifests":[]}"#.to_owned()),
        (MediaType::OCI_INDEX, typed_otherwise.to_string()),
        (MediaType::OCI_INDEX, bad_digest.to_string()),
        (MediaType::OCI_MANIFEST, r#"{"schemaVersion":2,"layers":[]}"#.to_owned()),
        ("application/json", index_document(&[]).to_string()),
    ] {
        let refused = Manifest::new(media_type(media), document.clone().into_bytes());
        let options = PutManifest::new().references(References::MayBeAbsent);
        assert_error!(scene.put_with(&refused, &["latest"], &options), Error::ManifestInvalid(_));
        assert!(!scene.has(&refused), "{document}");
    }
    assert_error!(scene.store.tags(&scene.name, None, 1), Error::RepositoryUnknown(_));
}

/// Putting a manifest that is there already is a success, and sets the tags of the new push beside those it has.
pub fn putting_a_manifest_again_sets_its_tags(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    let manifest = scene.image(&["first"]);
    scene.put(&manifest, &["second"]).unwrap();
    scene.put(&manifest, &[]).unwrap();
    assert_eq!(scene.tags(), ["first", "second"]);
    assert_eq!(scene.store.manifests(&scene.name, None, 9).unwrap().items, [manifest.descriptor()]);
}

/// A push sets up to [`MAX_TAGS_PER_PUSH`] tags; a tag that is named twice is set once.
pub fn many_tags_are_set_at_once(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    let mut names: Vec<String> = (10..10 + MAX_TAGS_PER_PUSH).map(|n| format!("t{n}")).collect();
    let tags: Vec<&str> = names.iter().map(String::as_str).collect();
    let tagged = scene.image(&tags);
    assert_eq!(scene.tags(), names);
    assert!(names.iter().all(|name| scene.at(name).as_ref() == Some(tagged.digest())));

    let twice = index(&[]);
    scene.put_with(&twice, &["twice", "twice"], &PutManifest::new().condition(Condition::Absent)).unwrap();
    names.push("twice".to_owned());
    assert_eq!(scene.tags(), names);
    assert_eq!(scene.at("twice").as_ref(), Some(twice.digest()));
}

/// One push takes the last tag from each of [`MAX_TAGS_PER_PUSH`] manifests, where all names are as long as they may be: what
/// that changes does not grow out of what is changed at once.
pub fn the_longest_tags_are_taken_from_as_many_manifests(harness: &dyn Harness) {
    let short = Scene::new(harness);
    let scene = short.with_suffix(&"/a".repeat((RepositoryName::MAX_LENGTH - short.name.as_str().len()) / 2));
    let names: Vec<String> =
        (10..10 + MAX_TAGS_PER_PUSH).map(|n| format!("{n}{}", "t".repeat(126))).collect();
    let before: Vec<Manifest> = names.iter().map(|name| scene.image(&[name])).collect();
    let tags: Vec<&str> = names.iter().map(String::as_str).collect();
    let tagged = scene.image(&tags);
    assert!(names.iter().all(|name| scene.at(name).as_ref() == Some(tagged.digest())));
    assert!(before.iter().all(|manifest| scene.has(manifest)));
}

/// More tags than [`MAX_TAGS_PER_PUSH`] are refused together with the manifest.
pub fn too_many_tags_set_none(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    scene.image(&["before"]);
    let names: Vec<String> = (0..=MAX_TAGS_PER_PUSH).map(|n| format!("t{n}")).collect();
    let tags: Vec<&str> = names.iter().map(String::as_str).collect();
    let refused = index(&[]);
    assert_error!(scene.put(&refused, &tags), Error::TooManyTags(count) if count == MAX_TAGS_PER_PUSH + 1);
    assert!(!scene.has(&refused));
    assert_eq!(scene.tags(), ["before"]);
}

/// A tag that is set again points at the new manifest; the old one stays.
pub fn a_tag_moves(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    let (old, new) = (scene.image(&["latest"]), scene.image(&["latest"]));
    assert_eq!(scene.at("latest").as_ref(), Some(new.digest()));
    assert!(scene.has(&old));
    scene.store.tag(&scene.name, old.digest(), &tag("latest"), &Condition::Any).unwrap();
    assert_eq!(scene.at("latest").as_ref(), Some(old.digest()));
    // The manifest that lost the tag must not take it along when it goes.
    scene.store.delete_manifest(&scene.name, new.digest(), &Pinned::none()).unwrap();
    assert_eq!(scene.at("latest").as_ref(), Some(old.digest()));
}

/// A tag points only at a manifest of its own repository.
pub fn a_tag_needs_a_manifest(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    scene.image(&[]);
    let foreign = scene.elsewhere().image(&[]);
    for digest in [absent(), *foreign.digest(), scene.push(&unique(5))] {
        assert_error!(
            scene.store.tag(&scene.name, &digest, &tag("latest"), &Condition::Any),
            Error::ManifestUnknown { .. }
        );
    }
    assert_eq!(scene.tags(), Vec::<String>::new());
}

/// A condition is asked of each tag; where one fails, no tag is set and the manifest is not stored.
pub fn conditions_hold_for_every_tag_or_nothing_is_written(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    let old = scene.image(&["taken"]);
    let new = index(&[]);
    let absent_tags = PutManifest::new().condition(Condition::Absent);
    assert_error!(
        scene.put_with(&new, &["free", "taken"], &absent_tags),
        Error::TagCondition { tag, found } if tag.as_str() == "taken" && found.as_ref() == Some(old.digest())
    );
    let same = PutManifest::new().condition(Condition::Is(*old.digest()));
    assert_error!(
        scene.put_with(&new, &["taken", "free"], &same),
        Error::TagCondition { tag, found } if tag.as_str() == "free" && found.is_none()
    );
    assert!(!scene.has(&new));
    assert_eq!(scene.tags(), ["taken"]);
    assert_eq!(scene.at("taken").as_ref(), Some(old.digest()));

    scene.put_with(&new, &["free"], &absent_tags).unwrap();
    scene.put_with(&new, &["taken"], &same).unwrap();
    assert_eq!(scene.at("taken").as_ref(), Some(new.digest()));
    // Without tags there is nothing that could fail to meet a condition.
    let untagged = index(&[]);
    scene.put_with(&untagged, &[], &PutManifest::new().condition(Condition::Is(absent()))).unwrap();
    assert!(scene.has(&untagged));
}

/// [`Push::tag`](crate::store::Push::tag) asks the same conditions.
pub fn conditions_hold_for_a_single_tag(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    let (a, b) = (scene.image(&[]), scene.image(&[]));
    let latest = tag("latest");
    let set = |to: &Manifest, condition| scene.store.tag(&scene.name, to.digest(), &latest, &condition);
    assert_error!(set(&a, Condition::Is(*a.digest())), Error::TagCondition { found: None, .. });
    set(&a, Condition::Absent).unwrap();
    assert_error!(
        set(&b, Condition::Absent),
        Error::TagCondition { found: Some(found), .. } if found == *a.digest()
    );
    assert_error!(set(&b, Condition::Is(*b.digest())), Error::TagCondition { .. });
    assert_eq!(scene.at("latest").as_ref(), Some(a.digest()));
    set(&b, Condition::Is(*a.digest())).unwrap();
    assert_eq!(scene.at("latest").as_ref(), Some(b.digest()));
}

/// A condition is decided where the write is decided: of many that would be first, one is.
pub fn of_racing_first_writers_one_wins(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    let manifests: Vec<Manifest> = (0..THREADS).map(|_| index(&[])).collect();
    let winners = race(&scene, &manifests, Condition::Absent);
    assert_eq!(winners.len(), 1, "of {THREADS} pushes with Condition::Absent");
    assert_eq!(scene.at("raced").as_ref(), Some(&winners[0]));
    let present = manifests.iter().filter(|manifest| scene.has(manifest)).count();
    assert_eq!(present, 1, "a push that lost left its manifest");
}

/// Of many that would replace the same manifest, one does.
pub fn of_racing_replacements_one_wins(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    let mut current = *scene.image(&["raced"]).digest();
    for _ in 0..5 {
        let manifests: Vec<Manifest> = (0..THREADS).map(|_| index(&[])).collect();
        let winners = race(&scene, &manifests, Condition::Is(current));
        assert_eq!(winners.len(), 1, "of {THREADS} pushes with Condition::Is");
        assert_eq!(scene.at("raced").as_ref(), Some(&winners[0]));
        current = winners[0];
    }
}

/// A pinned tag is set where it is absent, set again to where it points, and moved nowhere; others of the same push are not
/// bound by it, and with it nothing is written.
pub fn a_pinned_tag_is_set_once(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    let pinned = PutManifest::new().pinned(Pinned::tags(|tag| tag.as_str().starts_with('v')));
    let (old, new) = (index(&[]), scene.image(&["latest"]));
    scene.put_with(&old, &["v1", "latest"], &pinned).unwrap();
    scene.put_with(&old, &["v1"], &pinned).unwrap();
    let refused = index(&[*old.digest()]);
    assert_error!(
        scene.put_with(&refused, &["latest", "v2", "v1"], &pinned),
        Error::TagImmutable { tag, found } if tag.as_str() == "v1" && found == *old.digest()
    );
    assert!(!scene.has(&refused));
    assert_eq!(scene.tags(), ["latest", "v1"]);
    scene.put_with(&new, &["latest", "v2"], &pinned).unwrap();
    assert_eq!(scene.at("v1").as_ref(), Some(old.digest()));
    let unmoved = |digest, name| scene.store.tag(&scene.name, digest, &tag(name), &Condition::Unmoved);
    unmoved(old.digest(), "v1").unwrap();
    unmoved(old.digest(), "v3").unwrap();
    assert_error!(unmoved(new.digest(), "v1"), Error::TagCondition { found: Some(found), .. } if found == *old.digest());
}

/// Puts all manifests under one tag at the same time; those that succeeded.
fn race(scene: &Scene, manifests: &[Manifest], condition: Condition) -> Vec<Digest> {
    thread::scope(|threads| {
        let pushes: Vec<_> = manifests
            .iter()
            .map(|manifest| {
                let options = PutManifest::new().condition(condition);
                threads.spawn(move || match scene.put_with(manifest, &["raced"], &options) {
                    Ok(()) => Some(*manifest.digest()),
                    Err(Error::TagCondition { found: Some(_), .. }) => None,
                    Err(error) => panic!("a push that loses a race fails with its condition, not: {error:?}"),
                })
            })
            .collect();
        pushes.into_iter().filter_map(|push| push.join().unwrap()).collect()
    })
}
