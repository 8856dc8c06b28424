//! Content that went bad on the disk: no reading passes it off as the whole, and what is pushed again heals it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]

use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sledge::oci::{Digest, Manifest, MediaType, Reference, RepositoryName};
use sledge::store::sled::{CollectOptions, Inline, Options, Sled, Untagged, VerifyOptions, VerifyReport};
use sledge::store::{
    Discover, Manage, MountSource, Pinned, Pull, Push, PutManifest, References, UploadOptions,
};
use sledge::{Error, Registry, Result};

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

fn open(folder: &Path, inline: Inline) -> Sled {
    // A test's filesystem may be smaller than the default reserve.
    Options::new().inline(inline).reserve(1 << 20).open(folder).unwrap()
}

fn name(name: &str) -> RepositoryName {
    name.parse().unwrap()
}

fn files(folder: &Path, of: &str) -> Vec<PathBuf> {
    fs::read_dir(folder.join(of))
        .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
        .unwrap_or_default()
}

/// What can happen to a file.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Flipped(u64),
    Cut,
    Longer,
    Removed,
}

const DAMAGE: [Damage; 5] =
    [Damage::Flipped(0), Damage::Flipped(40_000), Damage::Cut, Damage::Longer, Damage::Removed];

impl Damage {
    fn strike(self, file: &Path) {
        let open = || OpenOptions::new().read(true).write(true).open(file).unwrap();
        match self {
            Self::Flipped(at) => {
                let at = at.min(open().metadata().unwrap().len() - 1);
                let mut byte = [0];
                open().read_exact_at(&mut byte, at).unwrap();
                open().write_all_at(&[byte[0] ^ 1], at).unwrap();
            }
            Self::Cut => open().set_len(open().metadata().unwrap().len() - 1).unwrap(),
            Self::Longer => open().set_len(open().metadata().unwrap().len() + 1).unwrap(),
            Self::Removed => fs::remove_file(file).unwrap(),
        }
    }
}

/// All that a reader got, and whether it was told that this is the whole.
fn read(registry: &Registry, repository: &str, digest: &Digest) -> (Vec<u8>, bool) {
    let mut found = Vec::new();
    let whole = match registry.repository(repository).unwrap().layers().fetch(digest) {
        Ok(mut layer) => layer.read_to_end(&mut found).is_ok(),
        Err(Error::BlobUnknown { .. }) => panic!("nobody has noticed yet"),
        Err(_) => false,
    };
    (found, whole)
}

#[test]
fn a_bad_blob_fails_to_be_read_and_is_unknown_until_it_is_pushed_again() -> Result<()> {
    // What is looked at as it is opened, and what is as it is read.
    for size in [1_000, 60_000, 100_000, 3 << 20] {
        for damage in DAMAGE {
            let told = format!("{damage:?} of {size} bytes");
            let folder = tempfile::tempdir().unwrap();
            let store = open(folder.path(), Inline::UpTo(0));
            let registry = Registry::over(store.clone());
            let content = noise(size, 1);
            let digest = registry.repository("a")?.layers().put(&content)?.digest;
            store.mount(&name("b"), &digest, &MountSource::Repository(&name("a")))?;
            damage.strike(&files(folder.path(), "content")[0]);

            let (found, whole) = read(&registry, "b", &digest);
            assert!(!whole && found.len() < size, "{told}: {} bytes", found.len());
            for repository in ["a", "b"] {
                let layers = registry.repository(repository)?.layers();
                assert!(!layers.exists(&digest)?, "{told}");
                assert!(matches!(layers.fetch(&digest), Err(Error::BlobUnknown { .. })), "{told}");
            }
            assert_eq!(files(folder.path(), "content").len(), 0, "{told}");
            let aside = usize::from(!matches!(damage, Damage::Removed));
            assert_eq!(files(folder.path(), "quarantine").len(), aside, "{told}");

            drop((registry, store));
            let store = open(folder.path(), Inline::UpTo(0));
            let registry = Registry::over(store.clone());
            assert!(store.stat(&name("a"), &digest).is_err(), "{told}: it is known after a restart too");
            registry.repository("b")?.layers().put(&content)?;
            for repository in ["a", "b"] {
                let (found, whole) = read(&registry, repository, &digest);
                assert!(whole && found == content, "{told}");
            }
            drop((registry, store));
            assert_eq!(
                files(folder.path(), "quarantine").len(),
                0,
                "{told}: the bad bytes go with the healing"
            );
        }
    }
    Ok(())
}

#[test]
fn a_push_heals_what_nobody_has_noticed() -> Result<()> {
    for (size, damage) in [
        (60_000, Damage::Flipped(1)),
        (60_000, Damage::Removed),
        (3 << 20, Damage::Cut),
        (3 << 20, Damage::Longer),
        (3 << 20, Damage::Removed),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::over(open(folder.path(), Inline::UpTo(0)));
        let layers = registry.repository("a")?.layers();
        let content = noise(size, 1);
        let digest = layers.put(&content)?.digest;
        damage.strike(&files(folder.path(), "content")[0]);
        // As any client would that does not ask before.
        layers.put(&content)?;
        let (found, whole) = read(&registry, "a", &digest);
        assert!(whole && found == content, "{damage:?} of {size} bytes");
        drop((registry, layers));
        assert_eq!(files(folder.path(), "content").len(), 1, "{damage:?} of {size} bytes");
    }
    Ok(())
}

#[test]
fn a_quarantined_blob_can_be_deleted() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::over(open(folder.path(), Inline::default()));
    let layers = registry.repository("a")?.layers();
    let digest = layers.put(&noise(200_000, 1))?.digest;
    Damage::Flipped(7).strike(&files(folder.path(), "content")[0]);
    assert!(!read(&registry, "a", &digest).1);
    layers.delete(&digest)?;
    assert!(matches!(layers.delete(&digest), Err(Error::BlobUnknown { .. })));
    drop((registry, layers));
    assert_eq!(files(folder.path(), "quarantine").len() + files(folder.path(), "content").len(), 0);
    Ok(())
}

#[test]
fn a_layer_that_failed_stays_failed_also_where_it_was_read_well_before() -> Result<()> {
    for seen in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::over(open(folder.path(), Inline::default()));
        let layers = registry.repository("a")?.layers();
        let content = noise(200_000, 1);
        let digest = layers.put(&content)?.digest;
        if seen {
            let mut found = Vec::new();
            layers.fetch(&digest)?.read_to_end(&mut found).unwrap();
            assert!(found == content);
        }
        Damage::Flipped(199_999).strike(&files(folder.path(), "content")[0]);
        let mut bad = layers.fetch(&digest)?;
        let mut half = vec![0; 100_000];
        bad.read_exact(&mut half).unwrap();
        let mut rest = vec![0; 100_000];
        for _ in 0..3 {
            let error = bad.read_exact(&mut rest).unwrap_err();
            assert!(error.to_string().contains("damaged"), "{error}");
        }
        // Who seeks is told too, once it is known.
        bad.seek(SeekFrom::Start(1)).unwrap();
        assert!(bad.read(&mut rest).is_err());
    }
    Ok(())
}

#[test]
fn a_bad_manifest_is_unknown_with_its_tags_until_it_is_put_again() -> Result<()> {
    for damage in DAMAGE {
        for noticed in [true, false] {
            let told = format!("{damage:?}, noticed: {noticed}");
            let folder = tempfile::tempdir().unwrap();
            let store = open(folder.path(), Inline::UpTo(0));
            let (repository, tag) = (name("a"), "v1".parse().unwrap());
            let document = serde_json::json!({ "schemaVersion": 2, "manifests": [],
                "annotations": { "x": "y".repeat(100_000) } });
            let media_type: MediaType = MediaType::OCI_INDEX.parse().unwrap();
            let manifest = Manifest::new(media_type.clone(), document.to_string().into_bytes());
            let parent = serde_json::json!({ "schemaVersion": 2, "manifests": [{ "mediaType": media_type,
                "digest": manifest.digest(), "size": manifest.bytes().len() }] });
            let parent = Manifest::new(media_type, parent.to_string().into_bytes());
            let tags = [tag];
            let put = || store.put_manifest(&repository, &manifest, &PutManifest::new().tags(&tags));
            put()?;
            damage.strike(&files(folder.path(), "content")[0]);
            let references = [Reference::Digest(*manifest.digest()), Reference::Tag("v1".parse().unwrap())];
            if noticed {
                let error = store.manifest(&repository, &references[1]).unwrap_err();
                assert!(matches!(error, Error::Damaged { .. }), "{told}: {error}");
                for reference in &references {
                    let unknown = store.resolve(&repository, reference);
                    assert!(matches!(unknown, Err(Error::ManifestUnknown { .. })), "{told}");
                    let unknown = store.manifest(&repository, reference);
                    assert!(matches!(unknown, Err(Error::ManifestUnknown { .. })), "{told}");
                }
                assert!(store.manifests(&repository, None, 9)?.items.is_empty(), "{told}");
                assert!(store.tags(&repository, None, 9)?.items.is_empty(), "{told}");
                let missing = store.put_manifest(&repository, &parent, &PutManifest::new());
                assert!(matches!(missing, Err(Error::ReferencesMissing { .. })), "{told}");
            }
            put()?;
            for reference in &references {
                assert!(store.manifest(&repository, reference)? == manifest, "{told}");
            }
            store.put_manifest(&repository, &parent, &PutManifest::new())?;
            assert_eq!(store.tags(&repository, None, 9)?.items.len(), 1, "{told}");
            drop(store);
            assert_eq!(files(folder.path(), "quarantine").len(), 0, "{told}");
            assert_eq!(files(folder.path(), "content").len(), 2, "{told}");
        }
    }
    Ok(())
}

#[test]
fn two_readers_of_what_goes_bad_fail_and_the_healed_is_read_by_both() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::over(open(folder.path(), Inline::default()));
    let layers = registry.repository("a")?.layers();
    let content = noise(1 << 20, 1);
    let digest = layers.put(&content)?.digest;
    Damage::Flipped(500_000).strike(&files(folder.path(), "content")[0]);
    let readers = [layers.fetch(&digest)?, layers.fetch(&digest)?];
    std::thread::scope(|threads| {
        for mut reader in readers {
            threads.spawn(move || assert!(reader.read_to_end(&mut Vec::new()).is_err()));
        }
    });
    layers.put(&content)?;
    for _ in 0..2 {
        let (found, whole) = read(&registry, "a", &digest);
        assert!(whole && found == content);
    }
    Ok(())
}

/// What happens in a registry all day, by one client.
fn work(store: &Sled, client: u64, rounds: u64) -> Result<()> {
    let shared = name("shared");
    let own = name(&format!("own{client}"));
    let registry = Registry::over(store.clone());
    for round in 0..rounds {
        let seed = client * 1_000_003 + round;
        for repository in [&shared, &own] {
            let layers = registry.repository_named(repository.clone()).layers();
            // Some of it is what others push and delete at the same time.
            let config = layers.put(&noise(10, round % 5))?;
            let small = layers.put(&noise(5_000, seed))?;
            let large = layers.put(&noise(70_000 + usize::try_from(round).unwrap(), round % 3))?;
            let pointers = [&small, &large].map(|layer| pointer(&layer.digest));
            let document = serde_json::json!({ "schemaVersion": 2, "config": pointer(&config.digest),
                "layers": pointers, "annotations": { "seed": seed.to_string() } });
            let image = Manifest::new(MediaType::OCI_MANIFEST.parse()?, document.to_string().into_bytes());
            let tags = [format!("t{}", round % 4).parse()?];
            let put = PutManifest::new().tags(&tags).references(References::MayBeAbsent);
            store.put_manifest(repository, &image, &put)?;
            let referrer = serde_json::json!({ "schemaVersion": 2, "manifests": [],
                "subject": pointer(image.digest()), "annotations": { "x": "y".repeat(20_000) } });
            let referrer = Manifest::new(MediaType::OCI_INDEX.parse()?, referrer.to_string().into_bytes());
            store.put_manifest(repository, &referrer, &PutManifest::new())?;
            let gone = |outcome: Result<()>| match outcome {
                Err(Error::BlobUnknown { .. } | Error::ManifestUnknown { .. }) => Ok(()),
                outcome => outcome,
            };
            if round % 2 == 0 {
                gone(store.delete_manifest(repository, image.digest(), &Pinned::none()))?;
                gone(store.delete_blob(repository, &small.digest))?;
                gone(store.delete_blob(repository, &large.digest))?;
            }
            if round % 3 == 0 {
                gone(store.delete_tag(repository, &tags[0]))?;
            }
            gone(store.mount(&own, &small.digest, &MountSource::Repository(&shared)).map(drop))?;
            let mut upload = layers.upload(&UploadOptions::new())?;
            upload.write_all(&noise(30_000, seed)).unwrap();
            let id = upload.id();
            upload.suspend()?;
            if round % 2 == 1 {
                layers.cancel(id)?;
            }
        }
    }
    Ok(())
}

fn pointer(digest: &Digest) -> serde_json::Value {
    serde_json::json!({ "mediaType": "application/x", "digest": digest, "size": 1 })
}

fn verify(store: &Sled) -> VerifyReport {
    store.verify(&VerifyOptions::new(), &mut |_| ControlFlow::Continue(())).unwrap()
}

#[test]
fn nothing_is_found_while_everybody_works() {
    for inline in [Inline::default(), Inline::UpTo(0), Inline::Everything] {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path(), inline);
        let mut verified = 0;
        std::thread::scope(|threads| {
            let store = &store;
            let workers: Vec<_> =
                (0..8).map(|client| threads.spawn(move || work(store, client, 20))).collect();
            let mut busy = true;
            while busy {
                busy = workers.iter().any(|worker| !worker.is_finished());
                let report = verify(store);
                assert!(report.is_well(), "{inline:?}: {report}");
                assert_eq!(report.orphan_count, 0, "{inline:?}: {report}");
                let options = CollectOptions::new().grace(Duration::ZERO);
                let options = options.untagged(Untagged::DeleteAfter(Duration::ZERO));
                store.collect(&options, &mut |_| ControlFlow::Continue(())).unwrap();
                verified += 1;
            }
            for worker in workers {
                worker.join().unwrap().unwrap();
            }
        });
        assert!(verified > 1);
        let report = verify(&store);
        assert!(report.is_well() && report.blobs.ok > 0 && report.manifests.ok > 0, "{report}");
    }
}

#[test]
fn the_references_of_a_deleted_manifest_go_though_its_bytes_are_bad() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), Inline::UpTo(0));
    let registry = Registry::over(store.clone());
    let repository = registry.repository("a")?;
    let config = repository.layers().put(b"{}")?;
    let document = serde_json::json!({ "schemaVersion": 2, "layers": [], "config": pointer(&config.digest) });
    let manifest = Manifest::new(MediaType::OCI_MANIFEST.parse()?, document.to_string().into_bytes());
    repository.manifests().put(&manifest, &[])?;
    for file in files(folder.path(), "content") {
        if fs::read(&file).unwrap() == **manifest.bytes() {
            Damage::Flipped(3).strike(&file);
        }
    }
    assert!(store.manifest(repository.name(), &Reference::Digest(*manifest.digest())).is_err());
    repository.manifests().delete(manifest.digest())?;
    drop((store, registry, repository));
    let report = verify(&open(folder.path(), Inline::UpTo(0)));
    assert!(report.is_well() && report.orphan_count == 0, "{report}");
    Ok(())
}
