//! A repository to try a rule in, and short words for what the rules do there.

use std::sync::Arc;

use serde_json::{Value, json};
use uuid::Uuid;

use super::Harness;
use crate::error::Result;
use crate::oci::{Algorithm, Descriptor, Digest, Manifest, MediaType, RepositoryName, Tag};
use crate::store::{Blob, BlobStat, Page, PutManifest, Store, Tagged, Upload, UploadOptions};

pub(super) const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
pub(super) const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Asserts that a result is this error.
macro_rules! assert_error {
    ($result:expr, $pattern:pat $(if $guard:expr)?) => {
        match $result.map(drop) {
            Err($pattern) $(if $guard)? => {}
            other => panic!("expected {}, found {other:?}", stringify!($pattern $(if $guard)?)),
        }
    };
}
pub(super) use assert_error;

/// A store and one repository in it that nobody else uses.
#[derive(Clone)]
pub(super) struct Scene {
    pub(super) store: Arc<dyn Store>,
    pub(super) name: RepositoryName,
}

impl Scene {
    pub(super) fn new(harness: &dyn Harness) -> Self {
        Self::over(harness.store())
    }

    pub(super) fn over(store: Arc<dyn Store>) -> Self {
        Self { store, name: format!("conformance/{}", Uuid::new_v4()).parse().unwrap() }
    }

    /// Another repository of the same store, of which nothing but the name is known yet.
    pub(super) fn elsewhere(&self) -> Self {
        Self::over(Arc::clone(&self.store))
    }

    /// The repository whose name is this one's with something after it.
    pub(super) fn with_suffix(&self, suffix: &str) -> Self {
        Self { store: Arc::clone(&self.store), name: format!("{}{suffix}", self.name).parse().unwrap() }
    }

    pub(super) fn start(&self) -> Box<dyn Upload> {
        self.store.start_upload(&self.name, &UploadOptions::new()).unwrap()
    }

    pub(super) fn resume(&self, id: Uuid) -> Result<Box<dyn Upload>> {
        self.store.resume_upload(&self.name, id, &UploadOptions::new())
    }

    /// Pushes a blob under its digest by an algorithm that was announced.
    pub(super) fn push_by(&self, algorithm: Algorithm, content: &[u8]) -> BlobStat {
        let options = UploadOptions::new().algorithm(algorithm).size(content.len() as u64);
        let mut upload = self.store.start_upload(&self.name, &options).unwrap();
        upload.write_all(content).unwrap();
        upload.commit(&algorithm.digest(content)).unwrap()
    }

    pub(super) fn push(&self, content: &[u8]) -> Digest {
        self.push_by(Algorithm::Sha256, content).digest
    }

    pub(super) fn blob(&self, digest: &Digest) -> Result<Blob> {
        self.store.blob(&self.name, digest)
    }

    pub(super) fn read(&self, digest: &Digest) -> Vec<u8> {
        let blob = self.blob(digest).unwrap();
        let mut bytes = vec![0; usize::try_from(blob.content.len()).unwrap()];
        blob.content.read_at(0, &mut bytes).unwrap();
        bytes
    }

    pub(super) fn put(&self, manifest: &Manifest, tags: &[&str]) -> Result<()> {
        self.put_with(manifest, tags, &PutManifest::new())
    }

    pub(super) fn put_with(
        &self,
        manifest: &Manifest,
        tags: &[&str],
        options: &PutManifest<'_>,
    ) -> Result<()> {
        let tags: Vec<Tag> = tags.iter().map(|text| tag(text)).collect();
        self.store.put_manifest(&self.name, manifest, &options.clone().tags(&tags))
    }

    /// Puts an image of its own kind, which no other call makes.
    pub(super) fn image(&self, tags: &[&str]) -> Manifest {
        let manifest = image(&self.push(&unique(20)), &[self.push(&unique(30))]);
        self.put(&manifest, tags).unwrap();
        manifest
    }

    pub(super) fn resolve(&self, reference: &str) -> Result<Descriptor> {
        self.store.resolve(&self.name, &reference.parse().unwrap())
    }

    /// What a tag points at.
    pub(super) fn at(&self, tag: &str) -> Option<Digest> {
        self.resolve(tag).ok().map(|descriptor| descriptor.digest)
    }

    pub(super) fn has(&self, manifest: &Manifest) -> bool {
        self.store.resolve(&self.name, &(*manifest.digest()).into()).is_ok()
    }

    pub(super) fn tags(&self) -> Vec<String> {
        texts(&self.store.tags(&self.name, None, usize::MAX).unwrap())
    }

    pub(super) fn referrers(&self, subject: &Digest) -> Vec<Descriptor> {
        self.store.referrers(&self.name, subject, None, None, usize::MAX).unwrap().items
    }
}

pub(super) fn texts(page: &Page<Tagged>) -> Vec<String> {
    page.items.iter().map(|tagged| tagged.tag.to_string()).collect()
}

pub(super) fn tag(text: &str) -> Tag {
    text.parse().unwrap()
}

pub(super) fn media_type(text: &str) -> MediaType {
    text.parse().unwrap()
}

/// Bytes without a pattern, that no other call gives: a stream of xorshift from a random seed.
pub(super) fn unique(size: usize) -> Vec<u8> {
    let (mut state, other) = Uuid::new_v4().as_u64_pair();
    state = (state ^ other.rotate_left(32)) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// The digest of content that is in no store.
pub(super) fn absent() -> Digest {
    Algorithm::Sha256.digest(&unique(16))
}

pub(super) fn descriptor(media_type: &str, digest: &Digest) -> Value {
    json!({ "mediaType": media_type, "digest": digest, "size": 1 })
}

pub(super) fn image_document(config: &Digest, layers: &[Digest]) -> Value {
    let layers: Vec<Value> = layers.iter().map(|layer| descriptor(LAYER_TYPE, layer)).collect();
    json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OCI_MANIFEST,
        "config": descriptor(CONFIG_TYPE, config),
        "layers": layers,
    })
}

pub(super) fn index_document(children: &[Digest]) -> Value {
    let children: Vec<Value> =
        children.iter().map(|child| descriptor(MediaType::OCI_MANIFEST, child)).collect();
    json!({ "schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": children })
}

/// A manifest of the media type that the document states.
pub(super) fn manifest(document: &Value) -> Manifest {
    let media_type = media_type(document["mediaType"].as_str().unwrap());
    Manifest::new(media_type, document.to_string().into_bytes())
}

pub(super) fn image(config: &Digest, layers: &[Digest]) -> Manifest {
    manifest(&image_document(config, layers))
}

/// An index, told apart from all others by an annotation.
pub(super) fn index(children: &[Digest]) -> Manifest {
    let mut document = index_document(children);
    document["annotations"] = json!({ "unique": Uuid::new_v4().to_string() });
    manifest(&document)
}
