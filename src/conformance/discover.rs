//! Listings: lexical, by pages, and in the midst of change (C8).

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::json;

use super::Harness;
use super::scene::{
    CONFIG_TYPE, Scene, absent, assert_error, descriptor, image_document, index, index_document, manifest,
    media_type, tag, texts, unique,
};
use crate::error::Error;
use crate::oci::{Algorithm, Descriptor, Digest, Manifest, MediaType, RepositoryName, Tag};
use crate::store::Condition;

/// Walks a listing by pages and checks that each fits the limit and brings the walk nearer to its end.
fn walk<T, K: Clone + Ord + fmt::Debug>(
    limit: usize,
    key: impl Fn(&T) -> K,
    page: impl Fn(Option<&K>) -> crate::store::Page<T>,
) -> Vec<T> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let found = page(after.as_ref());
        assert!(found.items.len() <= limit, "{} entries on a page of {limit}", found.items.len());
        assert!(
            !found.more || !found.items.is_empty(),
            "an empty page that claims more can never be followed"
        );
        for entry in found.items {
            let here = key(&entry);
            assert!(after.as_ref() < Some(&here), "{here:?} is listed after {after:?}");
            after = Some(here);
            all.push(entry);
        }
        if !found.more {
            return all;
        }
    }
}

fn walk_tags(scene: &Scene, limit: usize) -> Vec<String> {
    let tags = walk(
        limit,
        |tagged: &crate::store::Tagged| tagged.tag.clone(),
        |after: Option<&Tag>| scene.store.tags(&scene.name, after, limit).unwrap(),
    );
    tags.iter().map(|tagged| tagged.tag.to_string()).collect()
}

/// C8: tags in the order of their bytes, whatever the page; each with the manifest it points at.
pub fn tags_are_listed_in_order_and_by_pages(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    // In the order of their bytes: digits, capitals, '_', small letters; a tag before those it begins.
    let sorted = ["0", "10", "9", "A", "Z", "_", "a", "a-", "a-b", "a.b", "a0", "aB", "a_", "ab", "z"];
    let (odd, even) = (scene.image(&[]), scene.image(&[]));
    for (at, name) in sorted.iter().enumerate().rev() {
        let to = if at % 2 == 0 { &even } else { &odd };
        scene.store.tag(&scene.name, to.digest(), &tag(name), &Condition::Any).unwrap();
    }
    for limit in [1, 2, 7, sorted.len() - 1, sorted.len(), sorted.len() + 1, usize::MAX] {
        assert_eq!(walk_tags(&scene, limit), sorted, "by pages of {limit}");
    }
    let all = scene.store.tags(&scene.name, None, usize::MAX).unwrap();
    for (at, tagged) in all.items.iter().enumerate() {
        assert_eq!(&tagged.digest, if at % 2 == 0 { even.digest() } else { odd.digest() });
    }
}

/// A limit of zero gives an empty page that claims nothing more.
pub fn a_page_of_none_is_the_last(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    let image = scene.image(&["latest"]);
    let store = &scene.store;
    assert_eq!(store.tags(&scene.name, None, 0).unwrap(), crate::store::Page::default());
    assert_eq!(store.manifests(&scene.name, None, 0).unwrap(), crate::store::Page::default());
    assert_eq!(store.repositories(None, 0).unwrap(), crate::store::Page::default());
    let referrers = store.referrers(&scene.name, image.digest(), None, None, 0).unwrap();
    assert_eq!(referrers, crate::store::Page::default());
}

/// C8: the name to go on after need not exist, nor ever have existed.
pub fn listing_goes_on_after_a_name_that_is_gone(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    scene.image(&["b", "d", "f"]);
    let after = |name: &str| texts(&scene.store.tags(&scene.name, Some(&tag(name)), 9).unwrap());
    assert_eq!(after("0"), ["b", "d", "f"]);
    assert_eq!(after("b"), ["d", "f"]);
    assert_eq!(after("c"), ["d", "f"]);
    assert_eq!(after("f"), Vec::<String>::new());
    assert_eq!(after("z"), Vec::<String>::new());
    scene.store.delete_tag(&scene.name, &tag("b")).unwrap();
    scene.store.delete_tag(&scene.name, &tag("d")).unwrap();
    assert_eq!(after("b"), ["f"]);
    assert_eq!(after("d"), ["f"]);
}

/// C8: whatever comes and goes while a listing runs, what stays is listed once and in order.
pub fn listings_tolerate_change(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    let stay: Vec<String> = (0..20).map(|n| format!("{n:02}-stays")).collect();
    let come: Vec<String> = (0..20).map(|n| format!("{n:02}-comes")).collect();
    let names: Vec<&str> = stay.iter().map(String::as_str).collect();
    let image = scene.image(&names);
    let done = AtomicBool::new(false);
    thread::scope(|threads| {
        threads.spawn(|| {
            for name in come.iter().cycle().take(60) {
                scene.store.tag(&scene.name, image.digest(), &tag(name), &Condition::Any).unwrap();
                if name < &come[10] {
                    scene.store.delete_tag(&scene.name, &tag(name)).unwrap();
                }
            }
            done.store(true, Ordering::Release);
        });
        let mut last_walk = false;
        while !last_walk {
            last_walk = done.load(Ordering::Acquire);
            let listed = walk_tags(&scene, 3);
            assert!(listed.is_sorted_by(|a, b| a < b), "out of order or twice: {listed:?}");
            let staying: Vec<&String> = listed.iter().filter(|name| name.ends_with("-stays")).collect();
            assert!(staying.iter().copied().eq(&stay), "not all that stayed: {staying:?}");
        }
    });
    let expected = come.iter().skip(10).chain(&stay);
    let mut expected: Vec<&String> = expected.collect();
    expected.sort();
    assert!(walk_tags(&scene, 3).iter().eq(expected));
}

/// The catalog has each repository that holds a blob or a manifest, in order, by pages, and none that was only begun.
pub fn repositories_are_those_that_hold_anything(harness: &dyn Harness) {
    let base = Scene::new(harness);
    // '-' and '.' come before '/', and letters after it: an order by path components would be another.
    let sorted = ["-b", ".c", "/a", "/a-b", "/a/b", "/a0", "0", "_d", "b"];
    let list = |limit: usize| -> Vec<RepositoryName> {
        let mut after = Some(base.name.clone());
        let mut all = Vec::new();
        loop {
            let page = base.store.repositories(after.as_ref(), limit).unwrap();
            assert!(page.items.len() <= limit);
            for name in page.items {
                assert!(after.as_ref() < Some(&name), "{name} is listed after {after:?}");
                if !name.as_str().starts_with(base.name.as_str()) {
                    return all;
                }
                after = Some(name.clone());
                all.push(name);
            }
            if !page.more {
                return all;
            }
        }
    };
    for (at, suffix) in sorted.iter().enumerate().rev() {
        let scene = base.with_suffix(suffix);
        if at % 2 == 0 {
            scene.push(b"blob");
        } else {
            scene.put(&index(&[]), &[]).unwrap();
        }
    }
    let begun = base.with_suffix("/begun");
    let mut upload = begun.start();
    upload.write_all(b"begun").unwrap();
    let expected: Vec<RepositoryName> = sorted.iter().map(|suffix| base.with_suffix(suffix).name).collect();
    for limit in [1, 2, 100] {
        assert_eq!(list(limit), expected, "by pages of {limit}");
    }
    upload.cancel().unwrap();
}

/// Manifests, tagged or not, by the text of their digests, as descriptors without type and annotations.
pub fn manifests_are_listed_by_digest(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    let mut expected = Vec::new();
    for at in 0..9_u8 {
        let plain = index(&[]);
        let algorithm = if at % 3 == 0 { Algorithm::Sha512 } else { Algorithm::Sha256 };
        let digest = algorithm.digest(plain.bytes());
        let named = Manifest::verified(plain.media_type().clone(), plain.bytes().to_vec(), &digest).unwrap();
        scene.put(&named, if at % 2 == 0 { &["tagged"] } else { &[] }).unwrap();
        expected.push(named.descriptor());
    }
    expected.sort_by_key(|descriptor| descriptor.digest.to_string());
    for limit in [1, 2, 9, usize::MAX] {
        let listed = walk(
            limit,
            |descriptor: &Descriptor| descriptor.digest,
            |after: Option<&Digest>| scene.store.manifests(&scene.name, after, limit).unwrap(),
        );
        assert_eq!(listed, expected, "by pages of {limit}");
    }
    // A digest of sha512 sorts after all of sha256, and a digest to go on after need not exist.
    let between = Digest::from_bytes(Algorithm::Sha512, &[0; 64]).unwrap();
    let late = scene.store.manifests(&scene.name, Some(&between), 9).unwrap();
    assert_eq!(late.items, expected[6..]);
}

/// A manifest that refers to `subject`.
fn referrer(scene: &Scene, subject: &Digest, artifact_type: Option<&str>) -> Manifest {
    let mut document = image_document(&scene.push(&unique(12)), &[]);
    document["subject"] = descriptor(MediaType::OCI_MANIFEST, subject);
    document["annotations"] = json!({ "org.example.kind": "test" });
    if let Some(artifact_type) = artifact_type {
        document["artifactType"] = json!(artifact_type);
    }
    let manifest = manifest(&document);
    scene.put(&manifest, &[]).unwrap();
    manifest
}

/// A referrer is listed with its `artifactType`, or its config's media type, and its annotations; an index without
/// type has none.
pub fn referrers_are_listed_with_type_and_annotations(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    let subject = *scene.image(&[]).digest();
    let stated = referrer(&scene, &subject, Some("application/vnd.example.sbom"));
    let by_config = referrer(&scene, &subject, None);
    let mut document = index_document(&[]);
    document["subject"] = descriptor(MediaType::OCI_MANIFEST, &subject);
    let untyped = manifest(&document);
    scene.put(&untyped, &["untyped"]).unwrap();
    let types = [
        (&stated, Some(media_type("application/vnd.example.sbom"))),
        (&by_config, Some(media_type(CONFIG_TYPE))),
        (&untyped, None),
    ];
    let listed = scene.referrers(&subject);
    assert_eq!(listed.len(), types.len());
    for (manifest, artifact_type) in types {
        let found = listed.iter().find(|found| found.digest == *manifest.digest()).unwrap();
        let annotations = manifest.contents().unwrap().annotations;
        assert_eq!(found, &Descriptor { artifact_type, annotations, ..manifest.descriptor() });
    }
    // The subject is not among its own referrers, and a descriptor elsewhere says no more than it must.
    assert!(listed.iter().all(|found| found.digest != subject));
    assert_eq!(scene.resolve(&stated.digest().to_string()).unwrap(), stated.descriptor());
}

/// Referrers by digest, by pages, of one type or of all.
pub fn referrers_are_filtered_and_paged(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    let (subject, other) = (absent(), absent());
    let types = ["application/vnd.example.a", "application/vnd.example.b"];
    let mut expected: Vec<(Digest, &str)> =
        (0..9).map(|at| (*referrer(&scene, &subject, Some(types[at % 2])).digest(), types[at % 2])).collect();
    referrer(&scene, &other, Some(types[0]));
    expected.sort();
    for limit in [1, 2, 5, 9, usize::MAX] {
        for asked in [None, Some(types[0]), Some(types[1]), Some("application/vnd.example.none")] {
            let artifact_type = asked.map(media_type);
            let listed = walk(
                limit,
                |descriptor: &Descriptor| descriptor.digest,
                |after: Option<&Digest>| {
                    let store = &scene.store;
                    store.referrers(&scene.name, &subject, artifact_type.as_ref(), after, limit).unwrap()
                },
            );
            let matching = expected.iter().filter(|(_, kind)| asked.is_none_or(|asked| asked == *kind));
            assert!(
                listed.iter().map(|found| &found.digest).eq(matching.map(|(digest, _)| digest)),
                "of type {asked:?} by pages of {limit}"
            );
        }
    }
}

/// A subject without referrers has none, whether it exists or not, in a repository that exists or not.
pub fn referrers_of_nothing_are_none(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    let image = scene.image(&[]);
    let other = scene.elsewhere();
    referrer(&other, image.digest(), None);
    assert_eq!(scene.referrers(image.digest()), []);
    assert_eq!(scene.referrers(&absent()), []);
    assert_eq!(scene.elsewhere().referrers(&absent()), []);
}

/// Tags and manifests of a repository that holds nothing are not empty but unknown; one with blobs alone has none.
pub fn listing_an_unknown_repository_says_so(harness: &dyn Harness) {
    let scene = Scene::new(harness);
    for limit in [0, 1] {
        assert_error!(
            scene.store.tags(&scene.name, None, limit),
            Error::RepositoryUnknown(name) if name == scene.name
        );
        assert_error!(scene.store.manifests(&scene.name, None, limit), Error::RepositoryUnknown(_));
    }
    scene.push(b"blob");
    assert_eq!(scene.tags(), Vec::<String>::new());
    assert_eq!(scene.store.manifests(&scene.name, None, 9).unwrap().items, []);
}
