//! Repository names, tags and references (distribution-spec, "Pulling manifests").

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use super::digest::{Digest, DigestError, shorten};

/// The name of a repository, for example `library/debian`.
///
/// - One or more components separated by `/`; each is lower-case letters and digits, with single `.`, `_`, double
///   `__`, or any number of `-` between them.
/// - At most 255 characters. (Clients count the host too; a registry cannot know by which name it is called.)
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct RepositoryName(String);

impl RepositoryName {
    /// The longest name, in characters.
    pub const MAX_LENGTH: usize = 255;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RepositoryName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        if name.len() > Self::MAX_LENGTH {
            return Err(NameError::TooLong(name.len()));
        }
        if name.split('/').all(is_component) {
            Ok(Self(name.to_owned()))
        } else {
            Err(NameError::Form(shorten(name)))
        }
    }
}

impl<'de> Deserialize<'de> for RepositoryName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`: runs of letters and digits with a separator between each two.
fn is_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut rest = component.as_bytes();
    loop {
        let run = rest.iter().take_while(|b| alphanumeric(**b)).count();
        let (_, after) = rest.split_at(run);
        if run == 0 {
            return false;
        }
        let separator = after.iter().take_while(|b| !alphanumeric(**b)).count();
        let (separator, next) = after.split_at(separator);
        match separator {
            b"" => return true,
            b"." | b"_" | b"__" => {}
            dashes if dashes.iter().all(|b| *b == b'-') => {}
            _ => return false,
        }
        rest = next;
    }
}

/// Why a text is not a repository name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Does not match the spec's grammar.
    #[error(
        "{0:?} is not a repository name: use lower-case letters and digits, separated by '.', '_', '__' or '-', in components separated by '/'"
    )]
    Form(String),
    /// Longer than [`RepositoryName::MAX_LENGTH`]; the length is given.
    #[error("a repository name has at most 255 characters, this one has {0}")]
    TooLong(usize),
}

/// A tag: a human's name for a manifest in one repository, for example `v1.2`.
///
/// - Starts with a letter, a digit or `_`, goes on with those, `.` and `-`; at most 128 characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Tag(String);

impl Tag {
    /// The longest tag, in characters.
    pub const MAX_LENGTH: usize = 128;

    /// The tag as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = TagError;

    fn from_str(tag: &str) -> Result<Self, TagError> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let well_formed =
            tag.bytes().enumerate().all(|(at, b)| word(b) || (at > 0 && (b == b'.' || b == b'-')));
        if tag.is_empty() || tag.len() > Self::MAX_LENGTH || !well_formed {
            return Err(TagError(shorten(tag)));
        }
        Ok(Self(tag.to_owned()))
    }
}

/// Why a text is not a tag.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a tag: use at most 128 letters, digits, '_', '.' and '-', not starting with '.' or '-'"
)]
pub struct TagError(String);

/// What a manifest is asked for by: a tag or a digest. Whatever contains a `:` is meant as a digest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reference {
    /// By tag.
    Tag(Tag),
    /// By digest.
    Digest(Digest),
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.contains(':') {
            text.parse().map(Self::Digest).map_err(ReferenceError::Digest)
        } else {
            text.parse().map(Self::Tag).map_err(ReferenceError::Tag)
        }
    }
}

impl From<Tag> for Reference {
    fn from(tag: Tag) -> Self {
        Self::Tag(tag)
    }
}

impl From<Digest> for Reference {
    fn from(digest: Digest) -> Self {
        Self::Digest(digest)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

/// Why a text is neither a tag nor a digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Meant as a tag.
    #[error(transparent)]
    Tag(TagError),
    /// Meant as a digest.
    #[error(transparent)]
    Digest(DigestError),
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_grammar() {
        let longest = "a".repeat(255);
        for good in ["a", "library/debian", "a.b_c__d-e---f/0", "a/b/c/d/e", &longest] {
            assert_eq!(good.parse::<RepositoryName>().unwrap().as_str(), good);
        }
        for bad in [
            "", "/", "a/", "/a", "a//b", "A", "a..b", "a___b", "a._b", "a-.b", "-a", "a-", "_oci",
            "_catalog", "a/_b", "a b", "a\0b", "é", "../a", "a/..", "a\n", "a%2fb",
        ] {
            assert!(matches!(bad.parse::<RepositoryName>(), Err(NameError::Form(_))), "{bad:?}");
        }
        assert_eq!("a".repeat(256).parse::<RepositoryName>(), Err(NameError::TooLong(256)));
    }

    #[test]
    fn tags_follow_the_grammar() {
        for good in ["latest", "_", "v1.2-rc.1", "0", &"T".repeat(128)] {
            assert_eq!(good.parse::<Tag>().unwrap().as_str(), good);
        }
        for bad in ["", ".a", "-a", "a/b", "a:b", "a b", "ä", &"t".repeat(129)] {
            assert!(bad.parse::<Tag>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_colon_decides_between_tag_and_digest() {
        assert!(matches!("latest".parse(), Ok(Reference::Tag(_))));
        assert!(matches!("sha256:baddigeststring".parse::<Reference>(), Err(ReferenceError::Digest(_))));
        assert!(matches!("-".parse::<Reference>(), Err(ReferenceError::Tag(_))));
    }
}
