//! The small world in which collisions are the rule, and what can be seen of it.

use std::fmt::Debug;

use sledge::oci::{Algorithm, Digest, Manifest, MediaType, Reference, RepositoryName, Tag};
use sledge::store::Store;
use sledge::{Error, Result};

/// What there is to push, and where.
pub struct World {
    pub(super) repositories: Vec<RepositoryName>,
    pub(super) tags: Vec<Tag>,
    pub(super) blobs: Vec<(Digest, Vec<u8>)>,
    pub(super) manifests: Vec<Manifest>,
}

impl World {
    /// The same each time.
    #[must_use]
    pub fn new() -> Self {
        // Around the size of a chunk, of what is inline by default, of what is held in memory, and of what is read at once.
        let sizes = [0, 1, 4095, 4096, 4097, 16_384, 16_385, 32_769, 65_536, 200_000];
        let mut blobs = Vec::new();
        for (at, size) in sizes.into_iter().enumerate() {
            let content: Vec<u8> =
                (0..size).map(|n| u8::try_from((n * 31 + at * 7) % 251).unwrap()).collect();
            let algorithm = if at % 3 == 0 { Algorithm::Sha512 } else { Algorithm::Sha256 };
            blobs.push((algorithm.digest(&content), content));
        }
        let mut manifests: Vec<Manifest> = Vec::new();
        for n in 0..12_usize {
            let pointer = |(digest, content): &(Digest, Vec<u8>)| serde_json::json!({ "mediaType": "application/x", "digest": digest, "size": content.len() });
            let child = |manifest: &Manifest| serde_json::to_value(manifest.descriptor()).unwrap();
            let mut document = match n % 3 {
                0 | 1 => serde_json::json!({ "schemaVersion": 2, "config": pointer(&blobs[n % blobs.len()]),
                    "layers": [pointer(&blobs[(n + 3) % blobs.len()]), pointer(&blobs[(n * 5 + 1) % blobs.len()])] }),
                _ => {
                    serde_json::json!({ "schemaVersion": 2, "manifests": [child(&manifests[n - 1]), child(&manifests[n - 2])] })
                }
            };
            if n > 5 {
                document["subject"] = child(&manifests[n - 5]);
                document["annotations"] =
                    serde_json::json!({ "n": n.to_string(), "pad": "x".repeat(n * 3000) });
            }
            let media_type = if n % 3 == 2 { MediaType::OCI_INDEX } else { MediaType::OCI_MANIFEST };
            let bytes = document.to_string().into_bytes();
            let algorithm = if n % 4 == 3 { Algorithm::Sha512 } else { Algorithm::Sha256 };
            let digest = algorithm.digest(&bytes);
            manifests.push(Manifest::verified(media_type.parse().unwrap(), bytes, &digest).unwrap());
        }
        Self {
            repositories: ["a", "a/b", "b"].iter().map(|name| name.parse().unwrap()).collect(),
            tags: ["1", "2", "latest", "v0.1"].iter().map(|tag| tag.parse().unwrap()).collect(),
            blobs,
            manifests,
        }
    }
}

/// An answer as text: what was returned, or which error with what in it. Times and session ids differ and are left out.
pub(super) fn answer<T: Debug>(result: Result<T>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(Error::UploadUnknown { .. }) => "UploadUnknown".to_owned(),
        Err(Error::UploadBusy(_)) => "UploadBusy".to_owned(),
        Err(error) => format!("{error:?}"),
    }
}

pub(super) fn read(
    store: &dyn Store,
    repository: &RepositoryName,
    digest: &Digest,
) -> Result<(Digest, Vec<u8>)> {
    let blob = store.blob(repository, digest)?;
    let mut content = vec![0; usize::try_from(blob.content.len()).unwrap()];
    blob.content.read_at(0, &mut content).expect("a blob that opens can be read");
    Ok((blob.stat.digest, content))
}

/// All that a reader can see, page by page.
pub(super) fn everything(store: &dyn Store, world: &World, page: usize) -> String {
    let mut seen = String::new();
    let mut after = None;
    loop {
        let found = store.repositories(after.as_ref(), page).unwrap();
        seen += &format!("{:?}\n", found.items);
        if !found.more {
            break;
        }
        after = found.items.last().cloned();
    }
    for repository in &world.repositories {
        for (digest, content) in &world.blobs {
            let found = read(store, repository, digest).map(|(digest, found)| (digest, found == *content));
            seen += &format!("{}\n", answer(found));
            seen +=
                &format!("{}\n", answer(store.stat(repository, digest).map(|stat| (stat.digest, stat.size))));
        }
        let mut after: Option<Tag> = None;
        loop {
            let found = store.tags(repository, after.as_ref(), page);
            let more = found.as_ref().is_ok_and(|found| found.more);
            after = found.as_ref().ok().and_then(|found| found.items.last()).map(|tagged| tagged.tag.clone());
            seen += &answer(
                found.map(|found| found.items.into_iter().map(|t| (t.tag, t.digest)).collect::<Vec<_>>()),
            );
            if !more {
                break;
            }
        }
        let mut after = None;
        loop {
            let found = store.manifests(repository, after.as_ref(), page);
            let more = found.as_ref().is_ok_and(|found| found.more);
            after =
                found.as_ref().ok().and_then(|found| found.items.last()).map(|descriptor| descriptor.digest);
            seen += &answer(found.map(|found| found.items));
            if !more {
                break;
            }
        }
        for manifest in &world.manifests {
            let reference = Reference::Digest(*manifest.digest());
            seen += &answer(store.manifest(repository, &reference).map(|found| found == *manifest));
            seen += &answer(store.resolve(repository, &reference));
            let mut after = None;
            loop {
                let found =
                    store.referrers(repository, manifest.digest(), None, after.as_ref(), page).unwrap();
                seen += &format!("{:?}\n", found.items);
                if !found.more {
                    break;
                }
                after = found.items.last().map(|descriptor| descriptor.digest);
            }
        }
        for tag in &world.tags {
            seen += &answer(store.resolve(repository, &Reference::Tag(tag.clone())));
        }
    }
    seen
}
