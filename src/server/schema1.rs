//! Docker's signed manifests: pushed as one document with their signatures, and sent so to clients that accept them.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, HeaderMap};

use super::pull::Document;
use crate::oci::{Algorithm, Manifest, MediaType, RepositoryName};
use crate::store::Store;
use crate::wire::Refusal;
#[cfg(feature = "schema1")]
use {
    super::bridge::blocking,
    crate::error::Result,
    crate::oci::{Digest, ManifestError, Reference, SignedManifest},
    crate::store::{PutManifest, signed},
};

/// Whether a push is one of a signed manifest. Docker before 1.10 stated no media type.
#[cfg(feature = "schema1")]
pub(super) fn is_meant(stated: Option<&MediaType>, bytes: &[u8]) -> bool {
    match stated.map(MediaType::as_str) {
        Some(stated) => matches!(stated, MediaType::DOCKER_SCHEMA1 | MediaType::DOCKER_SCHEMA1_SIGNED),
        None => {
            matches!(Manifest::media_type_of(bytes), Err(ManifestError::SchemaVersion { found: Some(1), .. }))
        }
    }
}

/// Puts a signed manifest. Blocks.
#[cfg(feature = "schema1")]
pub(super) fn put(
    store: &dyn Store,
    repository: &RepositoryName,
    reference: &Reference,
    bytes: &[u8],
    options: &PutManifest<'_>,
) -> Result<Digest> {
    signed::put(store, repository, reference, &SignedManifest::parse(bytes)?, options)
}

/// A schema 1 manifest as the client takes it: with those signatures that hold, or else what was signed.
pub(super) async fn document(
    store: &Arc<dyn Store>,
    repository: &RepositoryName,
    manifest: &Manifest,
    headers: &HeaderMap,
) -> Result<Document<'static>, Refusal> {
    let (with, without) = accepted(headers);
    let digest = *manifest.digest();
    let of = |media_type: &'static str, bytes: Bytes| {
        let entity = Algorithm::Sha256.digest(&bytes);
        Document { digest, media_type, bytes, entity }
    };
    if with && let Some(document) = signed_document(store, repository, manifest).await? {
        return Ok(of(MediaType::DOCKER_SCHEMA1_SIGNED, document));
    }
    if without {
        return Ok(of(MediaType::DOCKER_SCHEMA1, Bytes::from_owner(Arc::clone(manifest.bytes()))));
    }
    Err(Refusal::NotAccepted(digest))
}

#[cfg(feature = "schema1")]
async fn signed_document(
    store: &Arc<dyn Store>,
    repository: &RepositoryName,
    manifest: &Manifest,
) -> Result<Option<Bytes>, Refusal> {
    let (store, repository, manifest) = (Arc::clone(store), repository.clone(), manifest.clone());
    let found = blocking(move || signed::get(store.as_ref(), &repository, &manifest)).await?;
    Ok(found.map(|signed| signed.to_bytes().into()))
}

#[cfg(not(feature = "schema1"))]
async fn signed_document(
    _: &Arc<dyn Store>,
    _: &RepositoryName,
    _: &Manifest,
) -> Result<Option<Bytes>, Refusal> {
    Ok(None)
}

/// Whether the client takes a document with signatures, and whether it takes one without. Docker before 1.10 sent no `Accept`.
fn accepted(headers: &HeaderMap) -> (bool, bool) {
    if !headers.contains_key(ACCEPT) {
        return (true, true);
    }
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let (mut with, mut without) = (false, false);
    for range in values.flat_map(|value| value.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
        // A weight of zero is how a client says that it does not take something.
        let is_refused = parts
            .filter_map(|parameter| parameter.strip_prefix("q="))
            .any(|weight| weight.parse::<f32>().is_ok_and(|weight| weight <= 0.0));
        if is_refused {
            continue;
        }
        match media_type.as_str() {
            "*/*" | "application/*" | "application/json" => (with, without) = (true, true),
            MediaType::DOCKER_SCHEMA1_SIGNED => with = true,
            MediaType::DOCKER_SCHEMA1 => without = true,
            _ => {}
        }
    }
    (with, without)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_accepts_is_read_from_its_header() {
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(ACCEPT, value.parse().unwrap());
            }
            accepted(&headers)
        };
        let (signed, payload) = (MediaType::DOCKER_SCHEMA1_SIGNED, MediaType::DOCKER_SCHEMA1);
        assert_eq!(of(&[]), (true, true));
        assert_eq!(of(&["*/*"]), (true, true));
        assert_eq!(of(&["text/html, application/json"]), (true, true));
        assert_eq!(of(&[MediaType::OCI_MANIFEST]), (false, false));
        assert_eq!(of(&[MediaType::OCI_MANIFEST, signed]), (true, false));
        assert_eq!(of(&[&format!("{}, {payload};q=0.5", MediaType::OCI_MANIFEST)]), (false, true));
        assert_eq!(of(&[&format!("{signed};q=0, {payload}; q=0.0, */*;q=0")]), (false, false));
        assert_eq!(of(&[""]), (false, false));
    }
}
