//! Images of which not all is there.

use serde_json::json;

use super::super::folder;
use super::*;
use crate::store::References;
use crate::store::sled::Missing;
use crate::store::sled::verify::TAKEN_APART;

#[test]
fn what_an_image_lacks_is_told_and_is_no_damage() {
    for inline in EACH_INLINE {
        let folder = folder();
        let store = open(&folder, inline);
        let scene = scene(&store);
        assert_eq!(verify(&store).missing_count, 0);

        // A mirror takes a manifest before its layers, and some layers never come.
        let nobody = Algorithm::Sha256.digest(b"nobody");
        let never = json!({ "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar",
            "digest": Algorithm::Sha256.digest(b"never"), "size": 1 });
        let document = json!({ "schemaVersion": 2, "config": pointer(&scene.config),
            "layers": [pointer(&nobody), never] });
        let manifest =
            Manifest::new(MediaType::OCI_MANIFEST.parse().unwrap(), document.to_string().into_bytes());
        let put = PutManifest::new().references(References::MayBeAbsent);
        store.put_manifest(&name("a/b"), &manifest, &put).unwrap();
        store.delete_manifest(&name("a/b"), &scene.image, &Pinned::none()).unwrap();
        store.delete_blob(&name("c"), &scene.config).unwrap();

        let report = verify(&store);
        assert!(report.is_well(), "{report}");
        let mut found: Vec<_> =
            report.missing.iter().map(|missing| (missing.repository.to_string(), missing.digest)).collect();
        let mut expected =
            vec![("a/b".to_owned(), scene.image), ("a/b".to_owned(), nobody), ("c".to_owned(), scene.config)];
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!((found, report.missing_count), (expected, 3), "{report}");
        let Missing { manifest: of, .. } =
            report.missing.iter().find(|missing| missing.digest == nobody).unwrap();
        assert_eq!(of, manifest.digest());
        let line = format!("incomplete: a/b@{of} lacks {nobody}; push that again\n");
        assert!(report.to_string().contains(&line), "{report}");

        push(&store, "a/b", b"nobody");
        push(&store, "c", b"{}");
        assert_eq!(verify(&store).missing_count, 1, "the index's child is still missing");
    }
}

/// Of an image that lacks a thousand layers the manifest was read and taken apart a thousand times.
#[test]
fn a_manifest_is_taken_apart_once_for_all_that_it_lacks() {
    let taken_apart = |layers: u64| {
        let folder = folder();
        let store = open(&folder, Inline::default());
        let layers: Vec<Value> =
            (0..layers).map(|n| pointer(&Algorithm::Sha256.digest(&n.to_le_bytes()))).collect();
        // In the order of what they lack, the entries of the two take turns.
        for n in 0..2 {
            let document =
                json!({ "schemaVersion": 2, "manifests": layers, "annotations": { "n": n.to_string() } });
            let manifest =
                Manifest::new(MediaType::OCI_INDEX.parse().unwrap(), document.to_string().into_bytes());
            let put = PutManifest::new().references(References::MayBeAbsent);
            store.put_manifest(&name("a"), &manifest, &put).unwrap();
        }
        let before = TAKEN_APART.get();
        assert_eq!(verify(&store).missing_count, 2 * layers.len() as u64);
        TAKEN_APART.get() - before
    };
    let once = taken_apart(1);
    assert!(once >= 2);
    assert_eq!(taken_apart(300), once);
}
