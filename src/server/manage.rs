//! Deleting.

use std::sync::Arc;

use http::{Response, StatusCode};

use super::body::Body;
use super::bridge::blocking;
use super::reply::Reply;
use crate::oci::{Digest, Reference, RepositoryName};
use crate::store::{Pinned, Store};
use crate::wire::Refusal;

pub(super) async fn delete_manifest(
    store: &Arc<dyn Store>,
    repository: RepositoryName,
    reference: Reference,
) -> Result<Response<Body>, Refusal> {
    let store = Arc::clone(store);
    blocking(move || match reference {
        Reference::Tag(tag) => store.delete_tag(&repository, &tag),
        Reference::Digest(digest) => store.delete_manifest(&repository, &digest, &Pinned::none()),
    })
    .await?;
    Ok(Reply::new(StatusCode::ACCEPTED).done())
}

pub(super) async fn delete_blob(
    store: &Arc<dyn Store>,
    repository: RepositoryName,
    digest: Digest,
) -> Result<Response<Body>, Refusal> {
    let store = Arc::clone(store);
    blocking(move || store.delete_blob(&repository, &digest)).await?;
    Ok(Reply::new(StatusCode::ACCEPTED).done())
}
