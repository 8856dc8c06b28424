//! How content is added: what is known of it beforehand, and what must hold for it to be written.

use std::fmt;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::oci::{Algorithm, Digest, RepositoryName, Tag};

/// What is known of an upload beforehand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UploadOptions {
    /// The algorithm of the digest to come; sha256 if nothing is said. Another one costs a second read at the commit.
    pub algorithm: Option<Algorithm>,
    /// The size of the whole in bytes, for admission. It is a hint, not a promise.
    pub size: Option<u64>,
    /// How many bytes are about to be written, for admission too, where the size of the whole is not known.
    pub coming: Option<u64>,
}

impl UploadOptions {
    /// Nothing is known.
    #[must_use]
    pub const fn new() -> Self {
        Self { algorithm: None, size: None, coming: None }
    }

    /// The algorithm of the digest to come.
    #[must_use]
    pub const fn algorithm(mut self, algorithm: Algorithm) -> Self {
        self.algorithm = Some(algorithm);
        self
    }

    /// The size of the whole in bytes.
    #[must_use]
    pub const fn size(mut self, size: u64) -> Self {
        self.size = Some(size);
        self
    }

    /// How many bytes are about to be written.
    #[must_use]
    pub const fn coming(mut self, bytes: u64) -> Self {
        self.coming = Some(bytes);
        self
    }
}

/// How a manifest is put.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct PutManifest<'a> {
    /// The tags to point at it, at most [`MAX_TAGS_PER_PUSH`](super::MAX_TAGS_PER_PUSH).
    pub tags: &'a [Tag],
    /// What must hold of each of the tags.
    pub condition: Condition,
    /// Which of the tags may be set where they are absent, and not moved.
    pub pinned: Pinned,
    /// Whether what it references must be there.
    pub references: References,
}

impl<'a> PutManifest<'a> {
    /// No tags, no condition, and references must exist.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The tags to point at it.
    #[must_use]
    pub fn tags(mut self, tags: &'a [Tag]) -> Self {
        self.tags = tags;
        self
    }

    /// What must hold of each of the tags.
    #[must_use]
    pub fn condition(mut self, condition: Condition) -> Self {
        self.condition = condition;
        self
    }

    /// Which of the tags may be set where they are absent, and not moved.
    #[must_use]
    pub fn pinned(mut self, pinned: Pinned) -> Self {
        self.pinned = pinned;
        self
    }

    /// Whether what it references must be there.
    #[must_use]
    pub fn references(mut self, references: References) -> Self {
        self.references = references;
        self
    }
}

/// What must hold of a tag for it to be set. Decided where the write is decided: nothing comes in between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    #[default]
    Any,
    /// It does not exist.
    Absent,
    /// It points at this manifest.
    Is(Digest),
    /// It does not exist, or points already where it is to be set to.
    Unmoved,
}

impl Condition {
    /// Whether a tag that points at `found` meets it, when it is to point at `to`.
    #[must_use]
    pub fn admits(&self, found: Option<&Digest>, to: &Digest) -> bool {
        match self {
            Self::Any => true,
            Self::Absent => found.is_none(),
            Self::Is(digest) => found == Some(digest),
            Self::Unmoved => found.is_none_or(|found| found == to),
        }
    }
}

/// Tags that stay where they point. As with a [`Condition`], the store asks where the write is decided: nothing comes in between.
#[derive(Clone, Default)]
pub struct Pinned(Option<Arc<TagPredicate>>);

type TagPredicate = dyn Fn(&Tag) -> bool + Send + Sync;

impl Pinned {
    /// None is pinned.
    #[must_use]
    pub const fn none() -> Self {
        Self(None)
    }

    /// Those that the predicate names are. It is asked by the thread that all writes wait for, and is to answer at once.
    #[must_use]
    pub fn tags(predicate: impl Fn(&Tag) -> bool + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(predicate)))
    }

    /// Whether any can be.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// Whether this one is.
    #[must_use]
    pub fn contains(&self, tag: &Tag) -> bool {
        self.0.as_ref().is_some_and(|pinned| pinned(tag))
    }
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_none() { "Pinned(none)" } else { "Pinned(some)" })
    }
}

/// What both stores decide about a tag that points at `found` and is to point at `to`.
pub(crate) fn check_tag(
    tag: &Tag,
    found: Option<Digest>,
    to: &Digest,
    condition: &Condition,
    pinned: &Pinned,
) -> Result<()> {
    if !condition.admits(found.as_ref(), to) {
        return Err(Error::TagCondition { tag: tag.clone(), found });
    }
    match found {
        Some(found) if found != *to && pinned.contains(tag) => {
            Err(Error::TagImmutable { tag: tag.clone(), found })
        }
        _ => Ok(()),
    }
}

/// Whether what a manifest references must be there when it is put.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum References {
    /// All must exist (C2).
    #[default]
    MustExist,
    /// They may come later, or never: a mirror takes a manifest before its layers, and a sparse index names more than it has.
    MayBeAbsent,
}

/// Where a mounted blob may come from.
#[derive(Clone, Copy)]
pub enum MountSource<'a> {
    /// From this repository.
    Repository(&'a RepositoryName),
    /// From any repository that the predicate admits.
    Any(&'a (dyn Fn(&RepositoryName) -> bool + Send + Sync)),
}

impl fmt::Debug for MountSource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repository(name) => f.debug_tuple("Repository").field(name).finish(),
            Self::Any(_) => f.write_str("Any"),
        }
    }
}
