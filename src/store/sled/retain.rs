//! Retention: which tags go when there are newer ones.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::desk::Desk;
use super::discover;
use super::index::Index;
use super::manifests;
use super::schema::{self, Tag as Recorded, Tree, Uptime};
use super::store::{Core, REMOVE, Shared};
use crate::error::Result;
use crate::oci::{RepositoryName, Tag};

/// How many tags are read, and how many are removed in one piece of the writer's work.
const PAGE: usize = 256;
const BATCH: usize = 32;

/// The most that [`Retention::keep_last`] takes: so many times are held in memory while a repository is looked at.
pub const MOST_KEPT_LAST: usize = 100_000;

type Admits<T> = Arc<dyn Fn(&T) -> bool + Send + Sync>;

/// A rule for the tags of certain repositories: each goes that none of its conditions keeps. Its manifest stays, and is one
/// without a tag if it had no other.
///
/// Ages are by the store's own clock, as with [`CollectOptions`](super::CollectOptions).
#[derive(Clone)]
#[must_use = "a rule does nothing until a collection has it"]
pub struct Retention {
    repositories: Admits<RepositoryName>,
    keep_last: usize,
    keep_younger: Duration,
    keep: Admits<Tag>,
}

impl Retention {
    /// A rule for the repositories that the predicate names, that keeps nothing: say what it is to keep.
    pub fn of(repositories: impl Fn(&RepositoryName) -> bool + Send + Sync + 'static) -> Self {
        Self {
            repositories: Arc::new(repositories),
            keep_last: 0,
            keep_younger: Duration::ZERO,
            keep: Arc::new(|_| false),
        }
    }

    /// Keeps the tags that were set last, so many of those that [`Retention::keep`] does not keep; at most [`MOST_KEPT_LAST`].
    pub fn keep_last(mut self, tags: usize) -> Self {
        self.keep_last = tags.min(MOST_KEPT_LAST);
        self
    }

    /// Keeps tags that were set less than so long ago.
    pub const fn keep_younger(mut self, age: Duration) -> Self {
        self.keep_younger = age;
        self
    }

    /// Keeps the tags that the predicate names.
    pub fn keep(mut self, tags: impl Fn(&Tag) -> bool + Send + Sync + 'static) -> Self {
        self.keep = Arc::new(tags);
        self
    }

    pub(super) fn admits(&self, repository: &RepositoryName) -> bool {
        (self.repositories)(repository)
    }
}

impl fmt::Debug for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retention")
            .field("keep_last", &self.keep_last)
            .field("keep_younger", &self.keep_younger)
            .finish_non_exhaustive()
    }
}

/// The repositories after one, a page of them.
pub(super) fn repositories(core: &Core, after: Option<&RepositoryName>) -> Result<Vec<RepositoryName>> {
    core.read(|index| discover::repositories(index, after, PAGE)).map(|page| page.items)
}

/// A tag, and what is recorded of it.
type Entry = (Tag, Recorded);

/// Has the tags of one repository removed that the rule does not keep, some at a time; how many were.
pub(super) fn apply(
    core: &Core,
    rule: &Retention,
    repository: &RepositoryName,
    remove: &mut dyn FnMut(&[Entry]) -> Result<u64>,
) -> Result<u64> {
    // Those that were set last, the oldest of them on top: what is older than that one goes.
    let mut last = BinaryHeap::new();
    each_page(core, repository, |page| {
        for (_, recorded) in page.into_iter().filter(|(tag, _)| !(rule.keep)(tag)) {
            last.push(Reverse(recorded.updated_uptime));
            if last.len() > rule.keep_last {
                last.pop();
            }
        }
        Ok(())
    })?;
    let oldest_kept = last.peek().filter(|_| last.len() >= rule.keep_last).map(|Reverse(time)| *time);

    let mut found = 0;
    each_page(core, repository, |page| {
        let now = core.clock.now();
        let goes = |(tag, recorded): &Entry| {
            // Of several that were set in the same moment all stay.
            let among_the_last = match oldest_kept {
                Some(oldest) => recorded.updated_uptime >= oldest,
                None => rule.keep_last > 0,
            };
            !among_the_last && now.since(recorded.updated_uptime) >= rule.keep_younger && !(rule.keep)(tag)
        };
        let going: Vec<_> = page.into_iter().filter(goes).collect();
        for batch in going.chunks(BATCH) {
            found += remove(batch)?;
        }
        Ok(())
    })?;
    Ok(found)
}

/// Removes tags unless they were set again since; which.
pub(super) fn remove(shared: &Shared, repository: &RepositoryName, tags: &[Entry]) -> Result<Vec<Tag>> {
    let (repository, tags) = (repository.clone(), tags.to_vec());
    shared.writer.run(REMOVE, move |desk| {
        let mut removed = Vec::new();
        for (tag, seen) in tags {
            if remove_one(desk, &repository, &tag, seen.updated_uptime)? {
                removed.push(tag);
            }
        }
        Ok(removed)
    })
}

fn remove_one(desk: &mut Desk<'_>, repository: &RepositoryName, tag: &Tag, seen: Uptime) -> Result<bool> {
    let recorded = desk.index().get::<Recorded>(&schema::tag_within(repository, tag))?;
    if recorded.is_none_or(|recorded| recorded.updated_uptime != seen) {
        return Ok(false);
    }
    manifests::delete_tag(desk, repository, tag).map(|()| true)
}

fn each_page(
    core: &Core,
    repository: &RepositoryName,
    mut each: impl FnMut(Vec<Entry>) -> Result<()>,
) -> Result<()> {
    let mut after: Option<Tag> = None;
    loop {
        let page = core.read(|index| page(index, repository, after.as_ref()))?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = Some(last.clone());
        each(page)?;
    }
}

fn page(index: &Index, repository: &RepositoryName, after: Option<&Tag>) -> Result<Vec<Entry>> {
    let prefix = schema::within(repository);
    let after = after.map(|tag| tag.as_str().as_bytes());
    let entries = index.scan(Tree::Tags, &prefix, after)?.take(PAGE);
    let tag = |entry: Result<_>| {
        let (key, value): (::sled::IVec, ::sled::IVec) = entry?;
        Ok((schema::tag_after(Tree::Tags, &key, &prefix)?, schema::decode(&value)?))
    };
    entries.map(tag).collect()
}
