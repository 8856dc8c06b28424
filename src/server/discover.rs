//! Listings.

use std::sync::Arc;

use http::header::LINK;
use http::{Response, StatusCode};
use serde::Serialize;
use serde_json::json;

use super::admission::Caller;
use super::body::Body;
use super::bridge::{Heavy, blocking};
use super::reply::{FILTERS_APPLIED, Reply, path};
use crate::error::{Error, Result};
use crate::oci::{Digest, MAX_MANIFEST_SIZE, MediaType, RepositoryName, Tag};
use crate::store::{Page, Store, Tagged};
use crate::wire::{Refusal, Request};

/// The entries of a page where the client names no number.
const PAGE: usize = 1000;
/// The most entries of a page, whatever the client asks for.
const LONGEST_PAGE: usize = 10_000;
/// The same for referrers, which are larger.
const REFERRERS_PAGE: usize = 500;
/// How many referrers are asked of the store at once: each can carry megabytes of annotations.
const REFERRERS_STEP: usize = 16;

/// How many repositories are asked of the store at once, at least.
const REPOSITORIES_STEP: usize = 100;
/// How many repositories are looked at for one answer, beside those that are in it: of many, a caller may know few.
const LOOKED_AT: usize = 5000;

pub(super) fn version() -> Response<Body> {
    Reply::new(StatusCode::OK).bytes("application/json", "{}")
}

pub(super) async fn repositories(
    store: &Arc<dyn Store>,
    caller: &Caller,
    n: Option<usize>,
    last: Option<RepositoryName>,
    place: Option<String>,
) -> Result<Response<Body>, Refusal> {
    let n = n.unwrap_or(PAGE).min(LONGEST_PAGE);
    let after = match place {
        Some(place) => Some(caller.unseal(&place).ok_or_else(|| {
            Error::RequestInvalid(
                "parameter place: this server did not make it: begin again without it".to_owned(),
            )
        })?),
        None => last,
    };
    let (store, caller) = (Arc::clone(store), caller.clone());
    Ok(blocking(move || {
        let (found, stop) = if n == 0 {
            (Vec::new(), Stop::End)
        } else {
            repositories_page(store.as_ref(), |name| caller.lists(name), after, n)?
        };
        let next = match stop {
            Stop::End => None,
            Stop::Full => found.last().cloned().map(|last| Request::Repositories {
                n: Some(n),
                last: Some(last),
                place: None,
            }),
            // Where it stopped may be a repository that the caller is not to know.
            Stop::Early(at) => caller.seal(&at).map(|place| Request::Repositories {
                n: Some(n),
                last: None,
                place: Some(place),
            }),
        };
        let json = json!({ "repositories": found }).to_string().into_bytes();
        Ok(listing(StatusCode::OK, next.as_ref(), json))
    })
    .await?)
}

/// Why a page of repositories has no more entries.
enum Stop {
    /// There are none.
    End,
    /// It has as many as were asked for, and there are more.
    Full,
    /// Enough were looked at. There may be more behind this one.
    Early(RepositoryName),
}

/// At most `n` repositories of those that are listed, after a name.
fn repositories_page(
    store: &dyn Store,
    listed: impl Fn(&RepositoryName) -> bool,
    mut after: Option<RepositoryName>,
    n: usize,
) -> Result<(Vec<RepositoryName>, Stop)> {
    let mut found = Vec::new();
    let mut looked_at = 0;
    loop {
        // One more than fits tells whether there is one.
        let step = (n + 1 - found.len()).clamp(REPOSITORIES_STEP, LONGEST_PAGE);
        let page = store.repositories(after.as_ref(), step)?;
        looked_at += page.items.len();
        for name in &page.items {
            if !listed(name) {
                continue;
            }
            if found.len() == n {
                return Ok((found, Stop::Full));
            }
            found.push(name.clone());
        }
        match page.items.into_iter().next_back() {
            Some(last) if page.more && looked_at > LOOKED_AT + n => return Ok((found, Stop::Early(last))),
            Some(last) if page.more => after = Some(last),
            _ => return Ok((found, Stop::End)),
        }
    }
}

pub(super) async fn tags(
    store: &Arc<dyn Store>,
    repository: RepositoryName,
    n: Option<usize>,
    last: Option<Tag>,
) -> Result<Response<Body>, Refusal> {
    let n = n.unwrap_or(PAGE).min(LONGEST_PAGE);
    // No tags may be asked for, but whether there is such a repository still is.
    let limit = n.max(1);
    if let Some(page) = store.tags_at_hand(&repository, last.as_ref(), limit) {
        return Ok(tags_reply(repository, n, page));
    }
    let store = Arc::clone(store);
    Ok(blocking(move || {
        let page = store.tags(&repository, last.as_ref(), limit)?;
        Ok(tags_reply(repository, n, page))
    })
    .await?)
}

fn tags_reply(repository: RepositoryName, n: usize, mut page: Page<Tagged>) -> Response<Body> {
    if n == 0 {
        page = Page::default();
    }
    let listed = TagList { name: &repository, tags: page.items.iter().map(|tagged| &tagged.tag).collect() };
    let json = serde_json::to_vec(&listed).unwrap_or_default();
    let next = next(&page, |last| Request::Tags { repository, n: Some(n), last: Some(last.tag.clone()) });
    listing(StatusCode::OK, next.as_ref(), json)
}

/// As the spec has it.
#[derive(Serialize)]
struct TagList<'a> {
    name: &'a RepositoryName,
    tags: Vec<&'a Tag>,
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
            let filtered = artifact_type.is_some();
            let next = next.map(|last| Request::Referrers {
                repository,
                digest,
                artifact_type,
                n: Some(n),
                last: Some(last),
            });
            Ok(referrers_reply(&entries, next.as_ref(), filtered))
        })
        .await?)
}

/// What is answered where a manifest has no referrers, or is not there.
pub(super) fn no_referrers(artifact_type: Option<&MediaType>) -> Response<Body> {
    referrers_reply(&[], None, artifact_type.is_some())
}

fn referrers_reply(entries: &[String], next: Option<&Request>, filtered: bool) -> Response<Body> {
    let mut reply = Reply::new(StatusCode::OK);
    if let Some(next) = next {
        reply = reply.header(LINK, link(next));
    }
    if filtered {
        reply = reply.header(FILTERS_APPLIED, "artifactType");
    }
    let index = format!(
        "{{\"schemaVersion\":2,\"mediaType\":\"{}\",\"manifests\":[{}]}}",
        MediaType::OCI_INDEX,
        entries.join(",")
    );
    reply.bytes(MediaType::OCI_INDEX, index)
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

fn listing(status: StatusCode, next: Option<&Request>, listing: Vec<u8>) -> Response<Body> {
    let mut reply = Reply::new(status);
    if let Some(next) = next {
        reply = reply.header(LINK, link(next));
    }
    reply.bytes("application/json", listing)
}
