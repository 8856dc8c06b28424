//! Putting answers together.

use std::fmt::Display;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, Response, StatusCode};

use super::body::Body;
use crate::oci::{Digest, RepositoryName};
use crate::wire::{ErrorAnswer, Request};

pub(super) const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
pub(super) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
pub(super) const UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");
pub(super) const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
pub(super) const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
pub(super) const OCI_TAG: HeaderName = HeaderName::from_static("oci-tag");

/// An answer in the making.
pub(super) struct Reply(Response<Body>);

impl Reply {
    /// An answer without a body.
    pub(super) fn new(status: StatusCode) -> Self {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status;
        Self(response)
    }

    /// Sets a header. The values are made of validated words and numbers, so there is none that HTTP could not carry; if
    /// there were, the header would be missing.
    pub(super) fn header(mut self, name: HeaderName, value: impl Display) -> Self {
        if let Ok(value) = HeaderValue::try_from(value.to_string()) {
            self.0.headers_mut().append(name, value);
        }
        self
    }

    pub(super) fn body(mut self, body: Body) -> Response<Body> {
        *self.0.body_mut() = body;
        self.0
    }

    pub(super) fn bytes(self, content_type: impl Display, bytes: impl Into<Bytes>) -> Response<Body> {
        self.header(CONTENT_TYPE, content_type).body(Body::whole(bytes.into()))
    }

    pub(super) fn done(self) -> Response<Body> {
        self.0
    }
}

impl From<ErrorAnswer> for Reply {
    fn from(answer: ErrorAnswer) -> Self {
        let mut reply = Self::new(answer.status);
        if let Some(allow) = answer.allow {
            reply = reply.header(ALLOW, allow);
        }
        if let Some(seconds) = answer.retry_after {
            reply = reply.header(RETRY_AFTER, seconds);
        }
        if let Some(challenge) = answer.challenge {
            reply = reply.header(WWW_AUTHENTICATE, challenge);
        }
        let json = serde_json::to_vec(&answer.body).unwrap_or_default();
        Self(reply.bytes("application/json", json))
    }
}

/// Where a request is sent to, as the `Location` and `Link` headers have it.
pub(super) fn path(request: &Request) -> String {
    request.to_path().1
}

pub(super) fn blob_path(repository: &RepositoryName, digest: &Digest) -> String {
    path(&Request::BlobGet { repository: repository.clone(), digest: *digest })
}

/// The entity tag of content: its digest, which is as strong as they get.
pub(super) fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// The only value of a header; none where it is absent, given twice, or not text.
pub(super) fn only(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())?.to_str().ok()
}

/// Whether `If-None-Match` names the content: the client has it already.
pub(super) fn has_already(headers: &HeaderMap, digest: &Digest) -> bool {
    let etag = etag(digest);
    let values = headers.get_all(http::header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).any(|value| {
        // Weak comparison, as RFC 9110 has it for this header.
        value == "*" || value.strip_prefix("W/").unwrap_or(value) == etag
    })
}
