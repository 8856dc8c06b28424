//! Images to push, and what is found of them afterwards.
#![allow(dead_code, reason = "each test takes what it needs")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use sledge::oci::{Algorithm, Digest, Manifest, MediaType, Reference, RepositoryName, Tag};
use sledge::store::sled::{Options, Progress, Sled, SnapshotOptions, SnapshotReport};
use sledge::store::{Discover, Pull, Push, PutManifest, UploadOptions};
use sledge::{Error, Result};

pub(crate) fn name(text: &str) -> RepositoryName {
    text.parse().unwrap()
}

pub(crate) fn tag(text: &str) -> Tag {
    text.parse().unwrap()
}

pub(crate) fn open(folder: &Path) -> Sled {
    Options::new().reserve(0).open(folder).unwrap()
}

pub(crate) fn on(_: &Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

pub(crate) fn snapshot(store: &Sled, folder: &Path) -> SnapshotReport {
    store.snapshot(folder, &SnapshotOptions::new(), &mut on).unwrap()
}

pub(crate) fn push(store: &Sled, repository: &RepositoryName, content: &[u8]) -> Digest {
    let digest = Algorithm::Sha256.digest(content);
    let mut upload = store.start_upload(repository, &UploadOptions::new()).unwrap();
    upload.write_all(content).unwrap();
    upload.commit(&digest).unwrap();
    digest
}

/// An image of a config and a layer, told apart by its number; its layer is in a file.
pub(crate) fn image(store: &Sled, repository: &RepositoryName, who: &str, number: u64) -> Manifest {
    let config = format!("{{\"who\":{who:?},\"number\":{number}}}");
    let layer = format!("layer {who} {number} ").repeat(2500).into_bytes();
    push(store, repository, config.as_bytes());
    push(store, repository, &layer);
    let pointer = |kind: &str, content: &[u8]| serde_json::json!({ "mediaType": kind, "digest": Algorithm::Sha256.digest(content), "size": content.len() });
    let document = serde_json::json!({
        "schemaVersion": 2,
        "config": pointer("application/vnd.oci.image.config.v1+json", config.as_bytes()),
        "layers": [pointer("application/vnd.oci.image.layer.v1.tar", &layer)],
        "annotations": { "number": number.to_string() },
    });
    Manifest::new(MediaType::OCI_MANIFEST.parse().unwrap(), document.to_string().into_bytes())
}

pub(crate) fn put(store: &Sled, repository: &RepositoryName, manifest: &Manifest, tags: &[Tag]) {
    store.put_manifest(repository, manifest, &PutManifest::new().tags(tags)).unwrap();
}

/// The number of the image that a tag points at.
pub(crate) fn number(store: &Sled, repository: &RepositoryName, tag: &Tag) -> Option<u64> {
    let manifest = match store.manifest(repository, &Reference::Tag(tag.clone())) {
        Err(Error::ManifestUnknown { .. }) => return None,
        manifest => manifest.unwrap(),
    };
    let document: serde_json::Value = serde_json::from_slice(manifest.bytes()).unwrap();
    Some(document["annotations"]["number"].as_str().unwrap().parse().unwrap())
}

pub(crate) fn read(store: &Sled, repository: &RepositoryName, digest: &Digest) -> Result<Vec<u8>> {
    let blob = store.blob(repository, digest)?;
    let mut bytes = vec![0; usize::try_from(blob.stat.size).unwrap()];
    blob.content
        .read_at(0, &mut bytes)
        .map_err(|source| Error::Io { doing: "reading".to_owned(), source })?;
    Ok(bytes)
}

/// Reads every manifest, its blobs and every tag of every repository; how many manifests there are.
pub(crate) fn check_whole(store: &Sled) -> usize {
    let mut manifests = 0;
    for repository in store.repositories(None, 1000).unwrap().items {
        let mut after = None;
        loop {
            let page = store.manifests(&repository, after.as_ref(), 1000).unwrap();
            for descriptor in &page.items {
                let manifest = store.manifest(&repository, &Reference::Digest(descriptor.digest)).unwrap();
                for reference in manifest.contents().unwrap().references {
                    let bytes = read(store, &repository, &reference.digest).unwrap_or_else(|error| {
                        panic!("{} of {}: {error}", reference.digest, descriptor.digest)
                    });
                    assert_eq!(Algorithm::Sha256.digest(&bytes), reference.digest);
                }
                manifests += 1;
            }
            if !page.more {
                break;
            }
            after = page.items.last().map(|descriptor| descriptor.digest);
        }
        let mut after = None;
        loop {
            let page = store.tags(&repository, after.as_ref(), 1000).unwrap();
            for tagged in &page.items {
                store.resolve(&repository, &Reference::Tag(tagged.tag.clone())).unwrap();
            }
            if !page.more {
                break;
            }
            after = page.items.last().map(|tagged| tagged.tag.clone());
        }
    }
    manifests
}

pub(crate) fn content(folder: &Path) -> BTreeMap<PathBuf, u64> {
    let entries = fs::read_dir(folder.join("content")).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into(), entry.metadata().unwrap().ino())).collect()
}

/// Copies a folder and all below it.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(std::result::Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
