//! Verification: each kind of damage has its finding, what can be repaired is, and health has none.

mod contents;
mod incomplete;
mod records;
mod running;

use std::fs;
use std::ops::ControlFlow;

use serde_json::{Value, json};

use super::{folder, noise};
use crate::error::Result;
use crate::oci::{Algorithm, Digest, Manifest, MediaType, RepositoryName, Tag};
use crate::store::sled::changes::Changes;
use crate::store::sled::index::Index;
use crate::store::sled::quarantine::Owned;
use crate::store::sled::schema::{self, Layer, Placement, Tree};
use crate::store::sled::writer::Terms;
use crate::store::sled::{Inline, Options, Sled, VerifyOptions, VerifyReport};
use crate::store::{Manage, MountSource, Pinned, Push, PutManifest, UploadOptions};

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
