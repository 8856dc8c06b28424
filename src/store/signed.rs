//! Docker's signed manifests (schema 1) over any store.
//!
//! What was signed is stored as a manifest of its own media type, under its own digest. Each signature is a referrer of it: an empty
//! index with the manifest as its subject and the signature among its annotations. So signatures that come from several signers, one
//! after the other, are kept apart, collected with their manifest, copied and verified like all else. Anybody who may push can push
//! such an index: when a manifest is read, its signatures are verified again.

use std::collections::BTreeSet;

use serde_json::json;

use super::{PutManifest, Store, tarsum};
use crate::error::{Error, Result};
use crate::oci::{
    BlobSum, Digest, Manifest, MediaType, Reference, ReferenceRole, RepositoryName, Signature,
    SignedManifest, SignedManifestFault,
};

/// The artifact type of a signature.
const ARTIFACT: &str = "application/vnd.sledge.schema1.signature.v1+json";
/// The annotation that holds it.
const ANNOTATION: &str = "vnd.sledge.schema1.signature";

/// How many referrers are looked at for signatures of one manifest.
const MOST_REFERRERS: usize = 256;

/// Puts a signed manifest, and points the tag at it that it was made for, beside those of the options.
///
/// # Errors
/// [`Error::SignedManifestRefused`] with all that is wrong: it was made for another repository, or for another tag or digest than it
/// is put as; signatures do not hold; layers are absent. Otherwise as [`Push::put_manifest`](super::Push::put_manifest); the signatures
/// may then have been stored.
///
/// # Durability
/// When it returns, the manifest, its signatures and the tags survive a power cut.
pub fn put<S: Store + ?Sized>(
    store: &S,
    repository: &RepositoryName,
    reference: &Reference,
    signed: &SignedManifest,
    options: &PutManifest<'_>,
) -> Result<Digest> {
    let (manifest, image) = (signed.manifest(), signed.image());
    let mut faults = Vec::new();
    if image.name != *repository {
        faults.push(SignedManifestFault::Name { stated: image.name.clone(), repository: repository.clone() });
    }
    match reference {
        Reference::Tag(asked) if *asked != image.tag => {
            faults.push(SignedManifestFault::Tag { stated: image.tag.clone(), asked: asked.clone() });
        }
        Reference::Digest(asked) if asked != manifest.digest() => {
            faults.push(SignedManifestFault::Digest { found: *manifest.digest(), asked: *asked });
        }
        _ => {}
    }
    faults.extend(signed.verify().into_iter().map(SignedManifestFault::Signature));
    if get(store, repository, manifest)?.is_some_and(|others| !others.fits(signed)) {
        faults.push(SignedManifestFault::Others);
    }
    let mut missing = Vec::new();
    for (at, blob_sum) in absent(store, repository, signed)? {
        match blob_sum {
            BlobSum::Digest(digest) => missing.push((ReferenceRole::Layer(at), digest)),
            BlobSum::TarSum(tar_sum) => faults.push(SignedManifestFault::Layer { at, tar_sum }),
        }
    }
    if !faults.is_empty() || !missing.is_empty() {
        return Err(Error::SignedManifestRefused { faults, missing });
    }

    // Before the manifest, which is what readers find: it is never without them.
    for signature in signed.signatures() {
        store.put_manifest(repository, &referrer(manifest, signature)?, &PutManifest::new())?;
    }
    let mut tags = options.tags.to_vec();
    if !tags.contains(&image.tag) {
        tags.push(image.tag.clone());
    }
    store.put_manifest(repository, manifest, &PutManifest { tags: &tags, ..options.clone() })?;
    Ok(*manifest.digest())
}

/// A manifest of the store with those of its signatures that hold; `None` where there are none.
///
/// # Errors
/// Only what the storage itself fails with.
pub fn get<S: Store + ?Sized>(
    store: &S,
    repository: &RepositoryName,
    manifest: &Manifest,
) -> Result<Option<SignedManifest>> {
    let artifact: MediaType = ARTIFACT.parse()?;
    let (mut signatures, mut seen, mut after) = (Vec::new(), 0, None);
    loop {
        let page = store.referrers(repository, manifest.digest(), Some(&artifact), after.as_ref(), 64)?;
        seen += page.items.len();
        after = page.items.last().map(|item| item.digest);
        let found = page.items.iter().filter_map(|item| item.annotations.get(ANNOTATION));
        let found = found.filter_map(|text| Signature::parse(text).ok());
        signatures.extend(found.filter(|signature| signature.verify(manifest).is_ok()));
        if !page.more || seen >= MOST_REFERRERS {
            break;
        }
    }
    Ok(SignedManifest::assemble(manifest.clone(), signatures).ok())
}

/// The layers that the repository does not have, each once, and where they are named.
fn absent<S: Store + ?Sized>(
    store: &S,
    repository: &RepositoryName,
    signed: &SignedManifest,
) -> Result<Vec<(usize, BlobSum)>> {
    let (mut absent, mut seen) = (Vec::new(), BTreeSet::new());
    for (at, layer) in signed.image().layers.iter().enumerate() {
        if !seen.insert(&layer.blob_sum) {
            continue;
        }
        let found = match &layer.blob_sum {
            BlobSum::Digest(digest) => store.stat(repository, digest),
            BlobSum::TarSum(tar_sum) => tarsum::find(store, repository, tar_sum),
        };
        match found {
            Ok(_) => {}
            Err(Error::BlobUnknown { .. } | Error::RepositoryUnknown(_) | Error::TarSumUnknown { .. }) => {
                absent.push((at, layer.blob_sum.clone()));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(absent)
}

fn referrer(manifest: &Manifest, signature: &Signature) -> Result<Manifest> {
    let index = json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OCI_INDEX,
        "artifactType": ARTIFACT,
        "manifests": [],
        "subject": manifest.descriptor(),
        "annotations": { ANNOTATION: signature.as_str() },
    });
    Ok(Manifest::new(MediaType::OCI_INDEX.parse()?, index.to_string().into_bytes()))
}
