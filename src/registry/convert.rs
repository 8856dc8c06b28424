//! Old images in today's form.

use super::Repository;
use crate::error::{Error, Result};
use crate::oci::{BlobSum, Digest, MediaType, Reference, Schema1Image, Tag, UnpackedLayer};
use crate::store::{Condition, PutManifest};

/// Stores the OCI image that a schema 1 image is, and points a tag at it.
pub(super) fn convert(repository: &Repository, reference: Reference, tag: &Tag) -> Result<Digest> {
    let old = repository.manifests().get(reference)?;
    if old.media_type().as_str() != MediaType::DOCKER_SCHEMA1 {
        let words = format!("manifest {} is a {}, and no schema 1 image", old.digest(), old.media_type());
        return Err(Error::Unsupported(words));
    }
    let image = Schema1Image::parse(old.bytes())?;
    let layers =
        image.layers.iter().map(|layer| unpack(repository, &layer.blob_sum)).collect::<Result<Vec<_>>>()?;
    let converted = image.convert(&layers)?;
    repository.layers().put(&converted.config)?;
    // No tag moves: what it pointed at could have nothing else that keeps it.
    let options = PutManifest::new().tags(std::slice::from_ref(tag)).condition(Condition::Unmoved);
    repository.manifests().put_with(&converted.manifest, &options)
}

fn unpack(repository: &Repository, blob_sum: &BlobSum) -> Result<UnpackedLayer> {
    let layers = repository.layers();
    let digest = match blob_sum {
        BlobSum::Digest(digest) => *digest,
        BlobSum::TarSum(tar_sum) => layers.find(tar_sum)?.digest,
    };
    let layer = layers.fetch(&digest)?;
    let size = layer.len();
    UnpackedLayer::read(layer, digest, size).map_err(Error::io(format!("unpacking layer {digest}")))
}
