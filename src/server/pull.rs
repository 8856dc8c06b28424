//! Reading manifests and blobs.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, IF_RANGE,
    RANGE,
};
use http::request::Parts;
use http::{Response, StatusCode, Version};

use super::audit::PullTold;
use super::body::{self, Body, Way};
use super::bridge::blocking;
use super::reply::{CONTENT_DIGEST, Reply, etag, has_already, only};
use super::schema1;
use crate::error::Error;
use crate::oci::{Digest, Manifest, MediaType, Reference, RepositoryName};
use crate::store::{Content, Store};
use crate::wire::{ByteRange, ErrorAnswer, Refusal};
#[cfg(feature = "schema1")]
use crate::{oci::TarSum, store::tarsum};

/// Up to here a blob, or the part of it that is asked for, is read in the one hop that opens it, in bytes.
const SMALL: u64 = 64 << 10;

/// Content never changes, but it can be deleted, and who may read it can change: caches keep it and ask each time, which
/// an entity tag answers cheaply.
const REVALIDATE: &str = "no-cache";

enum Opened {
    Known,
    Small(Bytes),
    Large(Arc<dyn Content>),
}

pub(super) async fn blob(
    store: &Arc<dyn Store>,
    repository: RepositoryName,
    digest: Digest,
    parts: &Parts,
    (is_encrypted, told): (bool, Option<PullTold>),
) -> Result<Response<Body>, Refusal> {
    let store = Arc::clone(store);
    let known = has_already(&parts.headers, &digest);
    // A part of other content than the client has the rest of is of no use to it.
    let same = only(&parts.headers, IF_RANGE).is_none_or(|found| found == etag(&digest));
    let range = only(&parts.headers, RANGE).filter(|_| same).map(str::to_owned);
    let (opened, total, range) = blocking(move || {
        let blob = store.blob(&repository, &digest)?;
        let total = blob.stat.size;
        let range = range.map_or(ByteRange::Whole, |range| ByteRange::parse(&range, total));
        let (start, length) = extent(range, total);
        let opened = if known {
            Opened::Known
        } else if length <= SMALL {
            let bytes = body::read(blob.content.as_ref(), start, length);
            Opened::Small(
                bytes.map_err(|source| Error::Io { doing: format!("reading blob {digest}"), source })?,
            )
        } else {
            Opened::Large(blob.content)
        };
        if let Some(told) = told.filter(|_| !known && range != ByteRange::Unsatisfiable) {
            told.blob(&repository, &digest, total);
        }
        Ok((opened, total, range))
    })
    .await?;

    let (start, length) = extent(range, total);
    let body = match opened {
        Opened::Known => return Ok(not_modified(&digest)),
        Opened::Small(bytes) => Body::whole(bytes),
        Opened::Large(content) => {
            let way = match parts.version {
                // HTTP/2 looks at what it sends; HTTP/1.1 lets the kernel read it, but TLS has to encrypt it.
                Version::HTTP_2 => Way::Streams,
                _ if is_encrypted => Way::Program,
                _ => Way::Kernel,
            };
            Body::content(content, start, length, way)
        }
    };
    Ok(match range {
        ByteRange::Whole => blob_reply(StatusCode::OK, &digest).body(body),
        ByteRange::Part { start, length } => blob_reply(StatusCode::PARTIAL_CONTENT, &digest)
            .header(CONTENT_RANGE, format!("bytes {start}-{}/{total}", start + length - 1))
            .body(body),
        ByteRange::Unsatisfiable => Reply::from(ErrorAnswer::from(&Refusal::Range { total }))
            .header(ACCEPT_RANGES, "bytes")
            .header(CONTENT_RANGE, format!("bytes */{total}"))
            .done(),
    })
}

const fn extent(range: ByteRange, total: u64) -> (u64, u64) {
    match range {
        ByteRange::Whole => (0, total),
        ByteRange::Part { start, length } => (start, length),
        ByteRange::Unsatisfiable => (0, 0),
    }
}

/// The digest of a blob that is asked for by its TarSum.
#[cfg(feature = "schema1")]
pub(super) async fn by_tar_sum(
    store: &Arc<dyn Store>,
    repository: &RepositoryName,
    tar_sum: TarSum,
) -> Result<Digest, Refusal> {
    let (store, repository) = (Arc::clone(store), repository.clone());
    Ok(blocking(move || tarsum::find(store.as_ref(), &repository, &tar_sum)).await?.digest)
}

pub(super) async fn blob_head(
    store: &Arc<dyn Store>,
    repository: RepositoryName,
    digest: Digest,
    parts: &Parts,
) -> Result<Response<Body>, Refusal> {
    let stat = match store.stat_at_hand(&repository, &digest) {
        Some(stat) => stat,
        None => {
            let store = Arc::clone(store);
            blocking(move || store.stat(&repository, &digest)).await?
        }
    };
    if has_already(&parts.headers, &digest) {
        return Ok(not_modified(&digest));
    }
    Ok(blob_reply(StatusCode::OK, &digest).header(CONTENT_LENGTH, stat.size).done())
}

fn blob_reply(status: StatusCode, digest: &Digest) -> Reply {
    named(status, digest, digest)
        .header(ACCEPT_RANGES, "bytes")
        .header(CONTENT_TYPE, "application/octet-stream")
}

/// A manifest as it is sent.
pub(super) struct Document<'a> {
    pub(super) digest: Digest,
    pub(super) media_type: &'a str,
    pub(super) bytes: Bytes,
    /// The digest of the bytes.
    pub(super) entity: Digest,
}

impl<'a> Document<'a> {
    async fn of(
        store: &Arc<dyn Store>,
        repository: &RepositoryName,
        manifest: &'a Manifest,
        headers: &HeaderMap,
    ) -> Result<Self, Refusal> {
        if manifest.media_type().as_str() == MediaType::DOCKER_SCHEMA1 {
            return schema1::document(store, repository, manifest, headers).await;
        }
        Ok(Self {
            digest: *manifest.digest(),
            media_type: manifest.media_type().as_str(),
            bytes: Bytes::from_owner(Arc::clone(manifest.bytes())),
            entity: *manifest.digest(),
        })
    }

    fn reply(&self, status: StatusCode) -> Reply {
        named(status, &self.digest, &self.entity)
    }
}

pub(super) async fn manifest(
    store: &Arc<dyn Store>,
    repository: RepositoryName,
    reference: Reference,
    parts: &Parts,
    told: Option<PullTold>,
) -> Result<Response<Body>, Refusal> {
    let manifest = find(store, &repository, &reference).await?;
    let document = Document::of(store, &repository, &manifest, &parts.headers).await?;
    if has_already(&parts.headers, &document.entity) {
        return Ok(document.reply(StatusCode::NOT_MODIFIED).done());
    }
    if let Some(told) = told {
        let manifest = manifest.clone();
        let tell = move || {
            told.manifest(&repository, &manifest, &reference);
            Ok(())
        };
        blocking(tell).await?;
    }
    Ok(document.reply(StatusCode::OK).bytes(document.media_type, document.bytes))
}

async fn find(
    store: &Arc<dyn Store>,
    repository: &RepositoryName,
    reference: &Reference,
) -> Result<Manifest, Refusal> {
    if let Some(manifest) = store.manifest_at_hand(repository, reference) {
        return Ok(manifest);
    }
    let (store, repository, reference) = (Arc::clone(store), repository.clone(), reference.clone());
    Ok(blocking(move || store.manifest(&repository, &reference)).await?)
}

pub(super) async fn manifest_head(
    store: &Arc<dyn Store>,
    repository: RepositoryName,
    reference: Reference,
    parts: &Parts,
) -> Result<Response<Body>, Refusal> {
    let descriptor = match store.resolve_at_hand(&repository, &reference) {
        Some(descriptor) => descriptor,
        None => {
            let (store, name) = (Arc::clone(store), repository.clone());
            blocking(move || store.resolve(&name, &reference)).await?
        }
    };
    if descriptor.media_type.as_str() == MediaType::DOCKER_SCHEMA1 {
        // With its signatures it is another document, and longer: what a GET is answered with tells.
        return manifest(store, repository, descriptor.digest.into(), parts, None).await;
    }
    if has_already(&parts.headers, &descriptor.digest) {
        return Ok(not_modified(&descriptor.digest));
    }
    Ok(named(StatusCode::OK, &descriptor.digest, &descriptor.digest)
        .header(CONTENT_TYPE, descriptor.media_type)
        .header(CONTENT_LENGTH, descriptor.size)
        .done())
}

fn not_modified(digest: &Digest) -> Response<Body> {
    named(StatusCode::NOT_MODIFIED, digest, digest).done()
}

/// An answer that is about content, whose bytes have the digest `entity`.
fn named(status: StatusCode, digest: &Digest, entity: &Digest) -> Reply {
    Reply::new(status)
        .header(CONTENT_DIGEST, digest)
        .header(ETAG, etag(entity))
        .header(CACHE_CONTROL, REVALIDATE)
}
