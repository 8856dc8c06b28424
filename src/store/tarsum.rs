//! Layers by their TarSums, over any store.
//!
//! A layer that is put under a TarSum is stored under its sha256 digest, like all others. That it has the TarSum too is written down
//! in a manifest of its own, whose config is the layer, and which is tagged by the TarSum: so the name is found, kept, copied and
//! deleted like all else. Whoever puts such a manifest says what anybody could compute; a server computes it before it takes one.

use std::io::{self, Read};

use serde_json::json;

use super::{BlobStat, Condition, PutManifest, Store, Upload};
use crate::error::{Error, Result};
use crate::oci::{
    Algorithm, Contents, Digest, Hasher, Manifest, MediaType, Reference, ReferenceRole, RepositoryName, Tag,
    TarSum,
};

/// The artifact type of what names a layer.
const ARTIFACT: &str = "application/vnd.sledge.tarsum.v1";
/// The annotation that holds the TarSum.
const ANNOTATION: &str = "vnd.sledge.tarsum";

/// The blob of the repository that was put under a TarSum.
///
/// # Errors
/// [`Error::TarSumUnknown`].
pub fn find<S: Store + ?Sized>(store: &S, repository: &RepositoryName, tar_sum: &TarSum) -> Result<BlobStat> {
    let unknown = || Error::TarSumUnknown { repository: repository.clone(), tar_sum: tar_sum.clone() };
    let manifest = match store.manifest(repository, &Reference::Tag(tag(tar_sum)?)) {
        Err(Error::ManifestUnknown { .. } | Error::RepositoryUnknown(_)) => return Err(unknown()),
        manifest => manifest?,
    };
    let (named, digest) = manifest.contents().ok().as_ref().and_then(named).ok_or_else(unknown)?;
    if named != *tar_sum {
        return Err(unknown());
    }
    match store.stat(repository, &digest) {
        Err(Error::BlobUnknown { .. }) => Err(unknown()),
        stat => stat,
    }
}

/// Makes an upload's bytes a blob of the repository, under their sha256 digest and a TarSum. They are read again for that.
///
/// # Errors
/// [`Error::TarSumMismatch`] and [`Error::NoTarSum`], which cancel the session. Otherwise as [`Upload::commit`] and
/// [`Push::put_manifest`](super::Push::put_manifest); in the latter case the blob is there without the name.
///
/// # Durability
/// When it returns, the blob and its name survive a power cut.
pub fn commit<S: Store + ?Sized>(
    store: &S,
    repository: &RepositoryName,
    upload: Box<dyn Upload>,
    tar_sum: &TarSum,
) -> Result<BlobStat> {
    match check(upload.bytes()?, tar_sum) {
        Ok(digest) => {
            let stat = upload.commit(&digest)?;
            name(store, repository, tar_sum, &stat)?;
            Ok(stat)
        }
        Err(error @ (Error::TarSumMismatch { .. } | Error::NoTarSum(_))) => {
            upload.cancel()?;
            Err(error)
        }
        Err(error) => Err(error),
    }
}

/// Whether a manifest names a layer by a TarSum: to check that takes as long as the layer to read.
#[must_use]
pub fn is_name(contents: &Contents) -> bool {
    named(contents).is_some()
}

/// Looks whether a manifest that names a layer by a TarSum says the truth; of others there is nothing to say.
///
/// # Errors
/// [`Error::TarSumMismatch`] and [`Error::NoTarSum`] where it does not, [`Error::BlobUnknown`].
pub fn check_name<S: Store + ?Sized>(
    store: &S,
    repository: &RepositoryName,
    contents: &Contents,
) -> Result<()> {
    let Some((tar_sum, digest)) = named(contents) else { return Ok(()) };
    let blob = store.blob(repository, &digest)?;
    let (mut position, size) = (0, blob.stat.size);
    let bytes = Pieces(|buffer: &mut [u8]| {
        let left = usize::try_from(size - position).unwrap_or(usize::MAX);
        let count = left.min(buffer.len());
        let piece = buffer.get_mut(..count).unwrap_or_default();
        blob.content.read_at(position, piece)?;
        position += count as u64;
        Ok(count)
    });
    check(bytes, &tar_sum).map(drop)
}

struct Pieces<F>(F);

impl<F: FnMut(&mut [u8]) -> io::Result<usize>> Read for Pieces<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (self.0)(buffer)
    }
}

/// The sha256 digest of bytes that are to have a TarSum.
fn check(bytes: impl Read, expected: &TarSum) -> Result<Digest> {
    let mut seen = Seen { bytes, hasher: Hasher::new(Algorithm::Sha256), failed: None };
    // It reads all there is: what stands behind the end of a tar is a part of the blob.
    let found = TarSum::of(expected.version(), expected.algorithm(), &mut seen);
    if let Some(source) = seen.failed.take() {
        return Err(Error::Io { doing: format!("reading what is to be {expected}"), source });
    }
    let found = found?;
    if found != *expected {
        return Err(Error::TarSumMismatch { expected: expected.clone(), found });
    }
    Ok(seen.hasher.finish())
}

/// Bytes that are hashed as they are read. Whether it was reading that failed, or what was made of the bytes, is told apart here.
struct Seen<R> {
    bytes: R,
    hasher: Hasher,
    failed: Option<io::Error>,
}

impl<R: Read> Read for Seen<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.bytes.read(buffer) {
            Ok(count) => {
                self.hasher.update(buffer.get(..count).unwrap_or_default());
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let kind = error.kind();
                self.failed = Some(error);
                Err(kind.into())
            }
        }
    }
}

/// Writes down that a blob has a TarSum. Where it is written down of another blob, that stays: both have it.
fn name<S: Store + ?Sized>(
    store: &S,
    repository: &RepositoryName,
    tar_sum: &TarSum,
    stat: &BlobStat,
) -> Result<()> {
    let document = json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OCI_MANIFEST,
        "artifactType": ARTIFACT,
        "config": { "mediaType": ARTIFACT, "digest": stat.digest, "size": stat.size },
        "layers": [],
        "annotations": { ANNOTATION: tar_sum.to_string() },
    });
    let manifest = Manifest::new(MediaType::OCI_MANIFEST.parse()?, document.to_string().into_bytes());
    let tags = [tag(tar_sum)?];
    let put = |condition| {
        store.put_manifest(repository, &manifest, &PutManifest::new().tags(&tags).condition(condition))
    };
    match put(Condition::Unmoved) {
        Err(Error::TagCondition { .. }) if find(store, repository, tar_sum).is_ok() => Ok(()),
        Err(Error::TagCondition { .. }) => put(Condition::Any),
        outcome => outcome,
    }
}

/// The TarSum and the layer that a manifest brings together, if it is one of these.
fn named(contents: &Contents) -> Option<(TarSum, Digest)> {
    if contents.artifact_type.as_ref()?.as_str() != ARTIFACT {
        return None;
    }
    let tar_sum = contents.annotations.get(ANNOTATION)?.parse().ok()?;
    let layer = contents.references.first().filter(|reference| reference.role == ReferenceRole::Config)?;
    Some((tar_sum, layer.digest))
}

/// The longest tag.
const LONGEST_TAG: usize = 128;

/// The tag under which a TarSum is found: its text, with what a tag cannot have replaced, and cut where it is too long.
fn tag(tar_sum: &TarSum) -> Result<Tag> {
    let text = tar_sum.to_string().replace(['+', ':'], "-");
    Ok(text.get(..LONGEST_TAG).unwrap_or(&text).parse()?)
}
