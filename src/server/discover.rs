//! Listings.

use std::sync::Arc;

use http::header::LINK;
use http::{Response, StatusCode};
use serde_json::json;

use super::body::Body;
use super::bridge::{Heavy, blocking};
use super::reply::{FILTERS_APPLIED, Reply, path};
use crate::error::{Error, Result};
use crate::oci::{Digest, MAX_MANIFEST_SIZE, MediaType, RepositoryName, Tag};
use crate::store::{Page, Store};
use crate::wire::{Refusal, Request};

/// The entries of a page where the client names no number.
const PAGE: usize = 1000;
/// The most entries of a page, whatever the client asks for.
const LONGEST_PAGE: usize = 10_000;
/// The same for referrers, which are larger.
const REFERRERS_PAGE: usize = 500;
/// How many referrers are asked of the store at once: each can carry megabytes of annotations.
const REFERRERS_STEP: usize = 16;

pub(super) fn version() -> Response<Body> {
    Reply::new(StatusCode::OK).bytes("application/json", "{}")
}

pub(super) async fn repositories(
    store: &Arc<dyn Store>,
    n: Option<usize>,
    last: Option<RepositoryName>,
) -> Result<Response<Body>, Refusal> {
    let store = Arc::clone(store);
    Ok(blocking(move || {
        let n = n.unwrap_or(PAGE).min(LONGEST_PAGE);
        let page = if n == 0 { Page::default() } else { store.repositories(last.as_ref(), n)? };
        let next = next(&page, |last| Request::Repositories { n: Some(n), last: Some(last.clone()) });
        Ok(listing(StatusCode::OK, next.as_ref(), &json!({ "repositories": page.items })))
    })
    .await?)
}

pub(super) async fn tags(
    store: &Arc<dyn Store>,
    repository: RepositoryName,
    n: Option<usize>,
    last: Option<Tag>,
) -> Result<Response<Body>, Refusal> {
    let store = Arc::clone(store);
    Ok(blocking(move || {
        let n = n.unwrap_or(PAGE).min(LONGEST_PAGE);
        // No tags are asked for, but whether there is such a repository still is.
        let mut page = store.tags(&repository, last.as_ref(), n.max(1))?;
        if n == 0 {
            page = Page::default();
        }
        let next = next(&page, |last| Request::Tags {
            repository: repository.clone(),
            n: Some(n),
            last: Some(last.tag.clone()),
        });
        let tags: Vec<&Tag> = page.items.iter().map(|tagged| &tagged.tag).collect();
        Ok(listing(StatusCode::OK, next.as_ref(), &json!({ "name": repository, "tags": tags })))
    })
    .await?)
}

pub(super) async fn referrers(
    store: &Arc<dyn Store>,
    heavy: &Heavy,
    repository: RepositoryName,
    digest: Digest,
    artifact_type: Option<MediaType>,
    n: Option<usize>,
    last: Option<Digest>,
) -> Result<Response<Body>, Refusal> {
    let store = Arc::clone(store);
    Ok(heavy
        .blocking(move || {
            let n = n.unwrap_or(REFERRERS_PAGE).min(REFERRERS_PAGE);
            let (entries, next) =
                referrers_page(store.as_ref(), &repository, &digest, artifact_type.as_ref(), n, last)?;
            let mut reply = Reply::new(StatusCode::OK);
            if let Some(last) = next {
                let next = Request::Referrers {
                    repository,
                    digest,
                    artifact_type: artifact_type.clone(),
                    n: Some(n),
                    last: Some(last),
                };
                reply = reply.header(LINK, link(&next));
            }
            if artifact_type.is_some() {
                reply = reply.header(FILTERS_APPLIED, "artifactType");
            }
            let index = format!(
                "{{\"schemaVersion\":2,\"mediaType\":\"{}\",\"manifests\":[{}]}}",
                MediaType::OCI_INDEX,
                entries.join(",")
            );
            Ok(reply.bytes(MediaType::OCI_INDEX, index))
        })
        .await?)
}

/// At most `n` entries that fit into the largest manifest that clients read, or one that does not; and the last one's digest, if
/// there are more.
fn referrers_page(
    store: &dyn Store,
    repository: &RepositoryName,
    subject: &Digest,
    artifact_type: Option<&MediaType>,
    n: usize,
    mut last: Option<Digest>,
) -> Result<(Vec<String>, Option<Digest>)> {
    let mut entries = Vec::new();
    // What stands around the entries takes about a hundred bytes.
    let mut size = 128;
    while entries.len() < n {
        let step = REFERRERS_STEP.min(n - entries.len());
        let page = store.referrers(repository, subject, artifact_type, last.as_ref(), step)?;
        if page.items.is_empty() {
            return Ok((entries, None));
        }
        for descriptor in page.items {
            let entry = serde_json::to_string(&descriptor).map_err(|error| Error::Io {
                doing: format!("listing referrer {}", descriptor.digest),
                source: error.into(),
            })?;
            size += entry.len() + 1;
            if size > MAX_MANIFEST_SIZE && !entries.is_empty() {
                return Ok((entries, last));
            }
            entries.push(entry);
            last = Some(descriptor.digest);
        }
        if !page.more {
            return Ok((entries, None));
        }
    }
    Ok((entries, last.filter(|_| n > 0)))
}

/// The request for the page that follows.
fn next<T>(page: &Page<T>, request: impl FnOnce(&T) -> Request) -> Option<Request> {
    page.items.last().filter(|_| page.more).map(request)
}

fn link(next: &Request) -> String {
    format!("<{}>; rel=\"next\"", path(next))
}

fn listing(status: StatusCode, next: Option<&Request>, listing: &serde_json::Value) -> Response<Body> {
    let mut reply = Reply::new(status);
    if let Some(next) = next {
        reply = reply.header(LINK, link(next));
    }
    reply.bytes("application/json", listing.to_string())
}
