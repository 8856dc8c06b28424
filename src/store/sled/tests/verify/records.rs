//! Records that do not agree with others, and content that no record names.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use super::super::{entries, folder};
use super::*;
use crate::error::Result;
use crate::oci::{Algorithm, Tag};
use crate::store::sled::changes::Changes;
use crate::store::sled::index::Index;
use crate::store::sled::schema::{
    self, Kept, Layer, Leftover, Link, Manifest as ManifestRecord, Placement, Repository, TOTALS_KEY, Tree,
    Uptime,
};
use crate::store::sled::{Fault, FaultKind, Inline, VerifyOptions, VerifyReport};

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
            let each: BTreeSet<_> =
                report.faults.iter().map(|fault| (&fault.tree, &fault.record, fault.kind)).collect();
            assert_eq!(each.len() as u64, report.fault_count, "{what}: each is told once: {report}");

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
