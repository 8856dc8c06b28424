//! Media types (image-spec, media-types.md; RFC 6838 section 4.2).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use super::digest::shorten;

/// A media type without parameters, for example `application/vnd.oci.image.manifest.v1+json`.
///
/// - `type/subtype`, each of at most 127 characters of RFC 6838's restricted names.
/// - Kept as it was written; two that differ in case are two.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct MediaType(String);

impl MediaType {
    /// An OCI image manifest.
    pub const OCI_MANIFEST: &'static str = "application/vnd.oci.image.manifest.v1+json";
    /// An OCI image index.
    pub const OCI_INDEX: &'static str = "application/vnd.oci.image.index.v1+json";
    /// A Docker image manifest, version 2, schema 2.
    pub const DOCKER_MANIFEST: &'static str = "application/vnd.docker.distribution.manifest.v2+json";
    /// A Docker manifest list.
    pub const DOCKER_LIST: &'static str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// A Docker image manifest, schema 1, without its signatures.
    pub const DOCKER_SCHEMA1: &'static str = "application/vnd.docker.distribution.manifest.v1+json";
    /// The same with its signatures.
    pub const DOCKER_SCHEMA1_SIGNED: &'static str =
        "application/vnd.docker.distribution.manifest.v1+prettyjws";

    /// The media type as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads a `Content-Type` header: the media type, its parameters ignored (distribution-spec, "Pushing Manifests").
    ///
    /// # Errors
    /// [`MediaTypeError`] when what is left is no media type.
    pub fn from_content_type(header: &str) -> Result<Self, MediaTypeError> {
        header.split(';').next().unwrap_or_default().trim().parse()
    }

    /// Whether content of this type may be absent from a registry (image-spec, layer.md, "Non-Distributable Layers").
    #[must_use]
    pub fn is_non_distributable(media_type: &str) -> bool {
        media_type.starts_with("application/vnd.oci.image.layer.nondistributable.")
            || media_type.starts_with("application/vnd.docker.image.rootfs.foreign.")
    }
}

impl FromStr for MediaType {
    type Err = MediaTypeError;

    fn from_str(text: &str) -> Result<Self, MediaTypeError> {
        match text.split_once('/') {
            Some((kind, subtype)) if is_restricted_name(kind) && is_restricted_name(subtype) => {
                Ok(Self(text.to_owned()))
            }
            _ => Err(MediaTypeError(shorten(text))),
        }
    }
}

fn is_restricted_name(name: &str) -> bool {
    name.len() <= 127
        && name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b))
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for MediaType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Why a text is not a media type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a media type: it must be type/subtype as in RFC 6838")]
pub struct MediaTypeError(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_follow_rfc_6838() {
        for good in [MediaType::OCI_MANIFEST, "a/b", "application/vnd.x.y+json"] {
            assert_eq!(good.parse::<MediaType>().unwrap().as_str(), good);
        }
        let long = format!("a/{}", "b".repeat(128));
        for bad in ["", "a", "/", "a/", "/b", "a/b/c", "a /b", "a/b;c=d", "a/\u{7f}", "+a/b", &long] {
            assert!(bad.parse::<MediaType>().is_err(), "{bad:?}");
        }
        let typed = MediaType::from_content_type("application/json; charset=utf-8").unwrap();
        assert_eq!(typed.as_str(), "application/json");
    }
}
