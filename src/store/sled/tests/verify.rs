//! Verification: each kind of damage has its finding, what can be repaired is, and health has none.

use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::time::Duration;

use serde_json::{Value, json};

use super::{entries, files, folder, noise};
use crate::error::{Error, Result};
use crate::oci::{Algorithm, Digest, Manifest, MediaType, RepositoryName, Tag};
use crate::store::sled::index::{Changes, Index};
use crate::store::sled::quarantine::{self, Owned};
use crate::store::sled::room::blocks;
use crate::store::sled::schema::{
    self, Kept, Layer, Leftover, Link, Manifest as ManifestRecord, Placement, Repository, TOTALS_KEY, Tree,
    Uptime,
};
use crate::store::sled::verify::Time;
use crate::store::sled::writer::Terms;
use crate::store::sled::{
    Fault, FaultKind, Inline, Options, Progress, Sled, SnapshotOptions, VerifyOptions, VerifyReport,
};
use crate::store::{
    Discover, Manage, MountSource, Pinned, Pull, Push, PutManifest, References, UploadOptions,
};

const EACH_INLINE: [Inline; 3] = [Inline::UpTo(0), Inline::UpTo(16 << 10), Inline::Everything];

fn open(folder: &tempfile::TempDir, inline: Inline) -> Sled {
    Options::new().inline(inline).reserve(1 << 20).open(folder.path()).unwrap()
}

fn verify_with(store: &Sled, options: &VerifyOptions) -> VerifyReport {
    store.verify(options, &mut |_| ControlFlow::Continue(())).unwrap()
}

fn verify(store: &Sled) -> VerifyReport {
    verify_with(store, &VerifyOptions::new())
}

fn name(name: &str) -> RepositoryName {
    name.parse().unwrap()
}

fn push(store: &Sled, repository: &str, content: &[u8]) -> Digest {
    let digest = Algorithm::Sha256.digest(content);
    let mut upload = store.start_upload(&name(repository), &UploadOptions::new()).unwrap();
    std::io::Write::write_all(&mut upload, content).unwrap();
    upload.commit(&digest).unwrap();
    digest
}

fn pointer(digest: &Digest) -> Value {
    json!({ "mediaType": "application/x", "digest": digest, "size": 1 })
}

fn put(store: &Sled, repository: &str, media_type: &str, document: &Value, tags: &[&str]) -> Digest {
    let manifest = Manifest::new(media_type.parse::<MediaType>().unwrap(), document.to_string().into_bytes());
    let tags: Vec<Tag> = tags.iter().map(|tag| tag.parse().unwrap()).collect();
    store.put_manifest(&name(repository), &manifest, &PutManifest::new().tags(&tags)).unwrap();
    *manifest.digest()
}

/// One of everything: blobs of each size, shared and unreferenced; images, an index, a referrer, with tags and without; an open
/// session.
struct Scene {
    config: Digest,
    /// Referenced by nothing.
    loose: Digest,
    image: Digest,
    referrer: Digest,
    session: uuid::Uuid,
}

fn scene(store: &Sled) -> Scene {
    let config = push(store, "a/b", b"{}");
    let layers: Vec<Digest> = [100, 5_000, 100_000].map(|size| push(store, "a/b", &noise(size, 1))).to_vec();
    let loose = push(store, "a/b", &noise(20_000, 2));
    store.mount(&name("c"), &config, &MountSource::Repository(&name("a/b"))).unwrap();
    let layers: Vec<Value> = layers.iter().map(pointer).collect();
    let document = json!({ "schemaVersion": 2, "config": pointer(&config), "layers": layers });
    let image = put(store, "a/b", MediaType::OCI_MANIFEST, &document, &["v1", "latest"]);
    let document = json!({ "schemaVersion": 2, "config": pointer(&config), "layers": [] });
    put(store, "c", MediaType::OCI_MANIFEST, &document, &[]);
    let document = json!({ "schemaVersion": 2, "manifests": [pointer(&image)],
        "annotations": { "long": "x".repeat(50_000) } });
    put(store, "a/b", MediaType::OCI_INDEX, &document, &["all"]);
    let document = json!({ "schemaVersion": 2, "config": pointer(&config), "layers": [],
        "artifactType": "application/signature", "subject": pointer(&image) });
    let referrer = put(store, "a/b", MediaType::OCI_MANIFEST, &document, &[]);
    let mut upload = store.start_upload(&name("a/b"), &UploadOptions::new()).unwrap();
    std::io::Write::write_all(&mut upload, &noise(40_000, 3)).unwrap();
    let session = upload.id();
    upload.suspend().unwrap();
    Scene { config, loose, image, referrer, session }
}

fn change(store: &Sled, change: impl FnOnce(&Index, &mut Changes) -> Result<()> + Send + 'static) {
    store
        .0
        .writer
        .run(Terms::default(), move |desk| {
            let mut changes = Changes::new();
            change(desk.index(), &mut changes)?;
            desk.apply(&changes)
        })
        .unwrap();
}

#[test]
fn nothing_is_found_on_a_healthy_store() {
    for inline in EACH_INLINE {
        let folder = folder();
        let store = open(&folder, inline);
        let nothing = verify(&store);
        assert_eq!((nothing.is_well(), nothing.records), (true, 0), "{nothing}");
        let scene = scene(&store);
        for _ in 0..2 {
            let report = verify(&store);
            assert!(report.is_well() && !report.resumed, "{inline:?}: {report}");
            assert_eq!((report.blobs.ok, report.manifests.ok, report.orphan_count), (5, 4, 0), "{report}");
            assert_eq!(report.blobs.bytes, 2 + 100 + 5_000 + 100_000 + 20_000);
        }
        store.delete_manifest(&name("a/b"), &scene.image, &Pinned::none()).unwrap();
        store.delete_blob(&name("a/b"), &scene.config).unwrap();
        store.cancel_upload(&name("a/b"), scene.session).unwrap();
        let report = verify(&store);
        assert!(report.is_well() && report.orphan_count == 0, "{inline:?}: {report}");
        drop(store);
        let report = verify(&open(&folder, inline));
        assert!(report.is_well() && report.orphan_count == 0, "{inline:?}: {report}");
    }
}

type Damage = Box<dyn FnOnce(&Index, &mut Changes) -> Result<()> + Send>;

fn removed(tree: Tree, key: Vec<u8>) -> Damage {
    Box::new(move |index, changes| {
        assert!(index.contains(tree, &key)?, "there is nothing to damage in {}", tree.name());
        changes.remove(tree, key);
        Ok(())
    })
}

fn added(tree: Tree, key: Vec<u8>) -> Damage {
    Box::new(move |index, changes| {
        assert!(!index.contains(tree, &key)?, "there is something already in {}", tree.name());
        changes.set_value(tree, key, Vec::new());
        Ok(())
    })
}

/// What is damaged, how, what that is found as and where, and whether a repair makes it good.
type Case = (&'static str, Damage, Vec<(Tree, FaultKind)>, bool);

fn damages(scene: &Scene) -> Vec<Case> {
    let (a, c) = (name("a/b"), name("c"));
    let nobody = Algorithm::Sha256.digest(b"nobody");
    let (config, loose, image, referrer) = (scene.config, scene.loose, scene.image, scene.referrer);
    let tag: Tag = "v1".parse().unwrap();
    let at = Uptime::default().after(Duration::from_secs(12345));
    vec![
        (
            "a link is gone",
            removed(Tree::Links, schema::digest_within(&a, &loose)),
            vec![
                (Tree::Uses, FaultKind::LinkMissing),
                (Tree::Candidates, FaultKind::CandidateOutdated),
                (Tree::Repositories, FaultKind::CountersWrong),
            ],
            true,
        ),
        (
            "a use is gone",
            removed(Tree::Uses, schema::use_key(&config, &c)),
            vec![(Tree::Links, FaultKind::UseMissing), (Tree::Repositories, FaultKind::CountersWrong)],
            true,
        ),
        (
            "a blob's record is gone",
            removed(Tree::Layers, schema::digest_key(&loose)),
            vec![
                (Tree::Links, FaultKind::LayerMissing),
                (Tree::Repositories, FaultKind::CountersWrong),
                (Tree::Meta, FaultKind::TotalsWrong),
            ],
            false,
        ),
        (
            "a blob that nobody links",
            Box::new({
                let (a, loose) = (a.clone(), loose);
                move |index, changes| {
                    let key = schema::digest_within(&a, &loose);
                    let since = index.get::<Link>(&key)?.unwrap().unreferenced_since.unwrap();
                    changes.remove(Tree::Candidates, schema::candidate_key(Kept::Link, since, &a, &loose));
                    changes.remove(Tree::Links, key);
                    changes.remove(Tree::Uses, schema::use_key(&loose, &a));
                    Ok(())
                }
            }),
            vec![(Tree::Layers, FaultKind::LayerUnused), (Tree::Repositories, FaultKind::CountersWrong)],
            true,
        ),
        (
            "a stamp is gone",
            Box::new({
                let (a, loose) = (a.clone(), loose);
                move |index, changes| {
                    let key = schema::digest_within(&a, &loose);
                    let link = index.get::<Link>(&key)?.unwrap();
                    let since = link.unreferenced_since.unwrap();
                    changes.remove(Tree::Candidates, schema::candidate_key(Kept::Link, since, &a, &loose));
                    changes.set(key, &Link { unreferenced_since: None, ..link })
                }
            }),
            vec![(Tree::Links, FaultKind::StampMissing)],
            true,
        ),
        (
            "a candidate is gone",
            Box::new({
                let (a, loose) = (a.clone(), loose);
                move |index, changes| {
                    let link = index.get::<Link>(&schema::digest_within(&a, &loose))?.unwrap();
                    let since = link.unreferenced_since.unwrap();
                    changes.remove(Tree::Candidates, schema::candidate_key(Kept::Link, since, &a, &loose));
                    Ok(())
                }
            }),
            vec![(Tree::Links, FaultKind::CandidateMissing)],
            true,
        ),
        (
            "a candidate without a stamp",
            added(Tree::Candidates, schema::candidate_key(Kept::Manifest, at, &a, &image)),
            vec![(Tree::Candidates, FaultKind::CandidateOutdated)],
            true,
        ),
        (
            "a manifest's record is gone",
            removed(Tree::Manifests, schema::digest_within(&a, &image)),
            vec![
                (Tree::References, FaultKind::ManifestMissing),
                (Tree::Tags, FaultKind::ManifestMissing),
                (Tree::Used, FaultKind::UsedOutdated),
                (Tree::Repositories, FaultKind::CountersWrong),
                (Tree::Meta, FaultKind::TotalsWrong),
            ],
            false,
        ),
        (
            "a referrer's manifest is gone",
            removed(Tree::Manifests, schema::digest_within(&a, &referrer)),
            vec![
                (Tree::References, FaultKind::ManifestMissing),
                (Tree::Referrers, FaultKind::ManifestMissing),
                (Tree::Candidates, FaultKind::CandidateOutdated),
                (Tree::Used, FaultKind::UsedOutdated),
                (Tree::Repositories, FaultKind::CountersWrong),
                (Tree::Meta, FaultKind::TotalsWrong),
            ],
            true,
        ),
        (
            "a place among the used too many",
            added(Tree::Used, schema::used_key(at, &a, &image)),
            vec![(Tree::Used, FaultKind::UsedOutdated)],
            true,
        ),
        (
            "a place among the used is gone",
            Box::new({
                let a = a.clone();
                move |index, changes| {
                    let manifest = index.get::<ManifestRecord>(&schema::digest_within(&a, &image))?.unwrap();
                    changes.remove(Tree::Used, schema::used_key(manifest.used_at, &a, &image));
                    Ok(())
                }
            }),
            vec![(Tree::Manifests, FaultKind::UsedMissing)],
            true,
        ),
        (
            "a reference is gone",
            removed(Tree::References, schema::pointer_within(&a, &config, &image)),
            vec![(Tree::References, FaultKind::ReferenceMissing)],
            true,
        ),
        (
            "a reference too many",
            added(Tree::References, schema::pointer_within(&a, &nobody, &image)),
            vec![(Tree::References, FaultKind::ReferenceUnfounded)],
            true,
        ),
        (
            "a reference of nobody",
            added(Tree::References, schema::pointer_within(&a, &config, &nobody)),
            vec![(Tree::References, FaultKind::ManifestMissing)],
            true,
        ),
        (
            "a tag is gone",
            removed(Tree::Tags, schema::tag_within(&a, &tag)),
            vec![(Tree::Tagged, FaultKind::TagMissing)],
            true,
        ),
        (
            "a tag's reverse is gone",
            removed(Tree::Tagged, schema::tagged_within(&a, &image, &tag)),
            vec![(Tree::Tags, FaultKind::TaggedMissing)],
            true,
        ),
        (
            "a reverse too many",
            added(Tree::Tagged, schema::tagged_within(&a, &referrer, &tag)),
            vec![(Tree::Tagged, FaultKind::TagMissing)],
            true,
        ),
        (
            "a referrer is gone",
            removed(Tree::Referrers, schema::pointer_within(&a, &image, &referrer)),
            vec![(Tree::Manifests, FaultKind::ReferrerMissing)],
            true,
        ),
        (
            "a referrer too many",
            Box::new({
                let a = a.clone();
                move |_, changes| {
                    let key = schema::pointer_within(&a, &nobody, &referrer);
                    changes.set(key, &schema::Referrer { artifact_type: None })
                }
            }),
            vec![(Tree::Referrers, FaultKind::ManifestMissing)],
            true,
        ),
        (
            "a repository's record is gone",
            removed(Tree::Repositories, schema::repository_key(&c)),
            vec![
                (Tree::Links, FaultKind::RepositoryMissing),
                // Until the repair of the first has made it.
                (Tree::Manifests, FaultKind::RepositoryMissing),
            ],
            true,
        ),
        (
            "a repository is counted wrong",
            Box::new({
                let c = c.clone();
                move |index, changes| {
                    let key = schema::repository_key(&c);
                    let held = index.get::<Repository>(&key)?.unwrap();
                    changes.set(key, &Repository { shared_bytes: held.shared_bytes + 1, ..held })
                }
            }),
            vec![(Tree::Repositories, FaultKind::CountersWrong)],
            true,
        ),
        (
            "a repository that holds nothing",
            Box::new(|_, changes| changes.set(b"d".to_vec(), &Repository::default())),
            vec![(Tree::Repositories, FaultKind::CountersWrong)],
            true,
        ),
        (
            "the store is counted wrong",
            removed(Tree::Meta, TOTALS_KEY.to_vec()),
            vec![(Tree::Meta, FaultKind::TotalsWrong)],
            true,
        ),
        (
            "content in use is to be removed",
            Box::new(move |index, changes| {
                let layer = index.get::<Layer>(&schema::digest_key(&config))?.unwrap();
                let leftover = Leftover { content: layer.content, manifest: None };
                changes.set(schema::id_key(layer.content.placement.id()), &leftover)
            }),
            vec![(Tree::Layers, FaultKind::LeftoverInUse)],
            true,
        ),
        (
            "a session's bytes are gone",
            Box::new({
                let session = schema::id_key(scene.session);
                move |index, changes| {
                    let upload = index.get::<schema::Upload>(&session)?.unwrap();
                    let placement = match upload.placement {
                        Placement::File(_) => Placement::File(uuid::Uuid::nil()),
                        Placement::Inline(_) => Placement::Inline(uuid::Uuid::nil()),
                    };
                    changes.set(session, &schema::Upload { placement, ..upload })
                }
            }),
            vec![(Tree::Uploads, FaultKind::UploadShort)],
            false,
        ),
    ]
}

#[test]
fn each_kind_of_damage_is_found_and_what_others_tell_is_repaired() {
    for inline in EACH_INLINE {
        let count = damages(&scene(&open(&folder(), inline))).len();
        for number in 0..count {
            let folder = folder();
            let store = open(&folder, inline);
            let (what, damage, expected, repairable) = damages(&scene(&store)).remove(number);
            change(&store, damage);
            let expected: BTreeSet<_> =
                expected.iter().map(|(tree, kind)| (tree.name().to_owned(), *kind)).collect();
            let found = |report: &VerifyReport| -> BTreeSet<_> {
                report.faults.iter().map(|fault| (fault.tree.clone(), fault.kind)).collect()
            };
            let report = verify(&store);
            assert!(!report.is_well() && report.repaired_count == 0, "{what}: {report}");
            assert_eq!(found(&report), expected, "{what}, {inline:?}: {report}");

            let report = verify_with(&store, &VerifyOptions::new().repair(true));
            assert_eq!(report.is_well(), repairable, "{what}: {report}");
            assert!(found(&report).is_subset(&expected) || repairable, "{what}: {report}");
            let report = verify(&store);
            assert_eq!(report.is_well(), repairable, "{what}, repaired, {inline:?}: {report}");
        }
    }
}

#[test]
fn an_entry_that_cannot_be_read_is_found_in_every_tree() {
    // Chunks have no form but their key's, and those of nobody are orphans; what is in `meta-1` is counted or of no consequence.
    for tree in Tree::ALL.into_iter().filter(|tree| ![Tree::Chunks, Tree::Meta].contains(tree)) {
        let folder = folder();
        let store = open(&folder, Inline::default());
        scene(&store);
        change(&store, move |_, changes| {
            changes.set_value(tree, b"\xff\xff junk".to_vec(), b"\xff junk".to_vec());
            Ok(())
        });
        for repair in [false, true] {
            let report = verify_with(&store, &VerifyOptions::new().repair(repair));
            let found: Vec<_> = report.faults.iter().map(|fault| (fault.tree.clone(), fault.kind)).collect();
            assert_eq!(found, [(tree.name().to_owned(), FaultKind::Unreadable)], "{report}");
        }
    }
}

#[test]
fn a_record_that_cannot_be_read_is_found_and_ends_nothing() {
    for tree in [
        Tree::Layers,
        Tree::Links,
        Tree::Manifests,
        Tree::Tags,
        Tree::Referrers,
        Tree::Uploads,
        Tree::Leftovers,
    ] {
        let folder = folder();
        let store = open(&folder, Inline::UpTo(0));
        scene(&store);
        change(&store, move |index, changes| {
            let first = index.scan(tree, &[], None)?.next().transpose()?;
            let key = first.map_or_else(|| vec![7; 16], |(key, _)| key.to_vec());
            changes.set_value(tree, key, b"\xff\xff\xff junk".to_vec());
            Ok(())
        });
        for repair in [false, true] {
            let report = verify_with(&store, &VerifyOptions::new().repair(repair));
            let found = |fault: &Fault| fault.tree == tree.name() && fault.kind == FaultKind::Unreadable;
            assert!(report.faults.iter().any(found), "{}: {report}", tree.name());
            assert!(!report.is_well(), "{}: {report}", tree.name());
        }
    }
}

#[test]
fn content_that_nobody_names_is_an_orphan_and_no_damage() {
    for inline in EACH_INLINE {
        let folder = folder();
        let store = open(&folder, inline);
        scene(&store);
        let [file, chunk, aside] = [1, 2, 3].map(uuid::Uuid::from_u128);
        fs::write(store.0.core.folder.content(file), [0; 77]).unwrap();
        store.0.core.folder.make_quarantine().unwrap();
        fs::write(store.0.core.folder.quarantined(aside), [0; 7]).unwrap();
        change(&store, move |_, changes| {
            changes.set_value(Tree::Chunks, schema::chunk_key(chunk, 0), vec![0; 777]);
            Ok(())
        });
        let found = |options: &VerifyOptions| {
            let report = verify_with(&store, options);
            assert!(report.is_well(), "{report}");
            let mut found: Vec<_> =
                report.orphans.iter().map(|orphan| (orphan.bytes, orphan.removed)).collect();
            found.sort_unstable();
            assert_eq!(found.iter().map(|(bytes, _)| bytes).sum::<u64>(), report.orphan_bytes);
            found
        };
        assert_eq!(found(&VerifyOptions::new()), [(7, false), (77, false), (777, false)], "{inline:?}");
        let repair = VerifyOptions::new().repair(true);
        assert_eq!(found(&repair), [(7, false), (77, true), (777, true)], "{inline:?}");
        // What is in quarantine is for people to look at.
        while entries(&store, Tree::Leftovers) > 0 {
            std::thread::yield_now();
        }
        assert_eq!(found(&repair), [(7, false)], "{inline:?}");
    }
}

#[test]
fn what_seems_to_be_nobodys_stays_while_a_record_cannot_be_read() {
    let folder = folder();
    let store = open(&folder, Inline::UpTo(0));
    let scene = scene(&store);
    let key = schema::digest_key(&scene.loose);
    let before = fs::read_dir(folder.path().join("content")).unwrap().count();
    change(&store, move |_, changes| {
        changes.set_value(Tree::Layers, key, b"\xff\xff".to_vec());
        Ok(())
    });
    let report = verify_with(&store, &VerifyOptions::new().repair(true));
    assert_eq!((report.orphan_count, report.orphans[0].removed), (1, false), "{report}");
    drop(store);
    assert_eq!(fs::read_dir(folder.path().join("content")).unwrap().count(), before);
}

/// Makes one byte of a blob or manifest another one, wherever it is.
fn flip(store: &Sled, owned: &Owned, at: usize) {
    let id = owned.content.placement.id();
    match owned.content.placement {
        Placement::File(_) => {
            let path = store.0.core.folder.content(id);
            let mut bytes = fs::read(&path).unwrap();
            bytes[at] ^= 1;
            fs::write(&path, bytes).unwrap();
        }
        Placement::Inline(_) => change(store, move |index, changes| {
            let key = schema::chunk_key(id, u32::try_from(at / schema::MAX_VALUE).unwrap());
            let mut chunk = index.value(Tree::Chunks, &key)?.unwrap().to_vec();
            chunk[at % schema::MAX_VALUE] ^= 1;
            changes.set_value(Tree::Chunks, key, chunk);
            Ok(())
        }),
    }
}

fn owned_blob(store: &Sled, digest: &Digest) -> Owned {
    let key = schema::digest_key(digest);
    let layer = store.0.core.read(|index| index.get::<Layer>(&key)).unwrap().unwrap();
    Owned::blob(digest, &layer)
}

fn owned_manifest(store: &Sled, repository: &str, digest: &Digest) -> Owned {
    let key = schema::digest_within(&name(repository), digest);
    let manifest = store.0.core.read(|index| index.get::<schema::Manifest>(&key)).unwrap().unwrap();
    Owned::manifest(&name(repository), digest, &manifest)
}

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

/// What the files in `content/` take is what is counted.
fn assert_counted(store: &Sled, folder: &tempfile::TempDir) {
    // What was retired is removed when nothing else is to be done.
    while super::entries(store, Tree::Leftovers) > 0 {
        std::thread::yield_now();
    }
    let files = fs::read_dir(folder.path().join("content")).unwrap();
    let taken: u64 = files.map(|file| blocks(file.unwrap().metadata().unwrap().len())).sum();
    assert_eq!(store.usage().unwrap().in_files, taken);
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

/// Verifies by a clock of its own, until `go_on` has had enough: it is asked at each piece and each page.
fn verify_until(
    store: &Sled,
    options: VerifyOptions,
    mut go_on: impl FnMut(&Progress) -> bool,
) -> Result<VerifyReport> {
    // So slow that it tells of each piece.
    store.verify_in(&options.rate(1), &mut Waiting::default(), &mut |progress| {
        if go_on(progress) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })
}

fn interrupted(outcome: &Result<VerifyReport>) -> bool {
    matches!(outcome, Err(Error::Interrupted(_)))
}

#[test]
fn a_verification_that_was_ended_goes_on_where_it_stood() {
    let folder = folder();
    let store = open(&folder, Inline::UpTo(0));
    let digests: BTreeSet<Digest> = (0..30).map(|n| push(&store, "a", &noise(50_000, n + 1))).collect();
    let bad: Vec<Digest> = digests.iter().copied().step_by(10).collect();
    for digest in &bad {
        flip(&store, &owned_blob(&store, digest), 1);
    }
    drop(store);
    for round in 0..3 {
        // As a kill would: nothing is kept but what is in the folder.
        let store = open(&folder, Inline::UpTo(0));
        // In the middle of the seventh it has had enough.
        let ended = verify_until(&store, VerifyOptions::new(), |progress| {
            assert_eq!(progress.of, Some(30 * 50_000));
            progress.done < 7 * 50_000
        });
        assert!(interrupted(&ended), "round {round}");
    }
    let store = open(&folder, Inline::UpTo(0));
    let report = verify(&store);
    // Six were read in each round; of the other twelve one is bad.
    assert_eq!((report.resumed, report.blobs.ok), (true, 11), "{report}");
    let found: Vec<Digest> = report.bad.iter().map(|bad| bad.digest).collect();
    assert_eq!(found, bad, "all are reported, whoever found them");
    assert_eq!((verify(&store).resumed, verify(&store).blobs.ok), (false, 27));

    assert!(interrupted(&verify_until(&store, VerifyOptions::new(), |_| false)));
    let report = verify(&store);
    assert_eq!((report.resumed, report.blobs.ok), (false, 27), "what had read nothing goes on nowhere");
    assert!(interrupted(&verify_until(&store, VerifyOptions::new(), |progress| progress.done < 500_000)));
    let report = verify_with(&store, &VerifyOptions::new().restart(true));
    assert_eq!((report.resumed, report.blobs.ok), (false, 27));
}

#[test]
fn one_that_was_ended_among_the_records_does_not_read_again() {
    let folder = folder();
    let store = open(&folder, Inline::default());
    scene(&store);
    let ended =
        verify_until(&store, VerifyOptions::new(), |progress| progress.doing != "comparing references");
    assert!(interrupted(&ended));
    let report = verify(&store);
    assert_eq!((report.resumed, report.blobs.ok, report.is_well()), (true, 0, true));
    assert_eq!(verify(&store).blobs.ok, 5);
}

#[test]
fn a_copy_of_a_store_is_verified_from_the_beginning() {
    let folder = folder();
    let store = open(&folder, Inline::UpTo(0));
    scene(&store);
    let ended =
        verify_until(&store, VerifyOptions::new(), |progress| progress.doing != "comparing references");
    assert!(interrupted(&ended));
    let target = tempfile::tempdir().unwrap();
    let copy = target.path().join("copy");
    store.snapshot(&copy, &SnapshotOptions::new(), &mut |_| ControlFlow::Continue(())).unwrap();
    let copy = Options::new().reserve(1 << 20).open(&copy).unwrap();
    let report = verify(&copy);
    assert_eq!((report.resumed, report.blobs.ok, report.is_well()), (false, 5, true), "{report}");
    assert!(verify(&store).resumed);
}

#[test]
fn two_verifications_at_once_are_refused() {
    let folder = folder();
    let store = open(&folder, Inline::default());
    scene(&store);
    let mut refused = 0;
    let report = store.verify(&VerifyOptions::new(), &mut |_| {
        let second = store.verify(&VerifyOptions::new(), &mut |_| ControlFlow::Continue(()));
        refused += usize::from(second.is_err());
        ControlFlow::Continue(())
    });
    assert!(report.unwrap().is_well() && refused > 0);
    assert!(verify(&store).is_well());
}

/// A clock that goes only while somebody waits.
#[derive(Default)]
struct Waiting(Duration);

impl Time for Waiting {
    fn now(&self) -> Duration {
        self.0
    }

    fn sleep(&mut self, time: Duration) {
        self.0 += time;
    }
}

#[test]
fn content_is_read_no_faster_than_is_wanted() {
    let folder = folder();
    let store = open(&folder, Inline::default());
    push(&store, "a", &noise(3 << 20, 1));
    push(&store, "a", &noise(1 << 20, 2));
    let mut time = Waiting::default();
    let options = VerifyOptions::new().rate(1 << 18);
    let report = store.verify_in(&options, &mut time, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(report.is_well());
    assert_eq!(time.0, Duration::from_secs(16));
}

#[test]
fn references_of_more_manifests_than_a_page_holds_are_compared() {
    let folder = folder();
    let store = open(&folder, Inline::Everything);
    for n in 0..600 {
        let document = json!({ "schemaVersion": 2, "manifests": [pointer(&Algorithm::Sha256.digest(&[1]))],
            "annotations": { "n": n.to_string() } });
        let manifest =
            Manifest::new(MediaType::OCI_INDEX.parse().unwrap(), document.to_string().into_bytes());
        let put = PutManifest::new().references(References::MayBeAbsent);
        store.put_manifest(&name("a"), &manifest, &put).unwrap();
    }
    let report = verify(&store);
    assert!(report.is_well(), "{report}");
}
