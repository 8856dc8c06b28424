//! Listings: each reads as many entries as it returns, and a few more.

use super::index::Index;
use super::manifests::{descriptor, is_visible};
use super::schema::{self, Manifest as Recorded, Referrer, Repository, Tag as RecordedTag, Tree};
use super::store::Sled;
use crate::error::{Error, Result};
use crate::oci::{Descriptor, Digest, MediaType, Reference, RepositoryName, Tag};
use crate::store::{Page, Pull, Tagged};

/// A page of referrers ends when their annotations have grown to so many bytes: they are read into memory.
const PAGE_BYTES: usize = 2 << 20;

pub(super) fn repositories(
    index: &Index,
    after: Option<&RepositoryName>,
    limit: usize,
) -> Result<Page<RepositoryName>> {
    let after = after.map(schema::repository_key);
    let mut page = Page::default();
    for entry in index.scan(Tree::Repositories, &[], after.as_deref())? {
        let (key, _) = entry?;
        if page.items.len() == limit {
            page.more = limit > 0;
            break;
        }
        page.items.push(schema::repository_of_key(&key)?);
    }
    Ok(page)
}

fn check_repository(index: &Index, repository: &RepositoryName) -> Result<()> {
    match index.get::<Repository>(&schema::repository_key(repository))? {
        Some(_) => Ok(()),
        None => Err(Error::RepositoryUnknown(repository.clone())),
    }
}

pub(super) fn manifests(
    index: &Index,
    repository: &RepositoryName,
    after: Option<&Digest>,
    limit: usize,
) -> Result<Page<Descriptor>> {
    check_repository(index, repository)?;
    let prefix = schema::within(repository);
    let after = after.map(schema::digest_key);
    let mut page = Page::default();
    for entry in index.scan(Tree::Manifests, &prefix, after.as_deref())? {
        let (key, value) = entry?;
        let recorded = schema::decode::<Recorded>(&value)?;
        if recorded.quarantined_at.is_some() {
            continue;
        }
        if page.items.len() == limit {
            page.more = limit > 0;
            break;
        }
        let digest = schema::digest_after(Tree::Manifests, &key, &prefix)?;
        page.items.push(descriptor(digest, &recorded)?);
    }
    Ok(page)
}

pub(super) fn tags(
    index: &Index,
    repository: &RepositoryName,
    after: Option<&Tag>,
    limit: usize,
) -> Result<Page<Tagged>> {
    check_repository(index, repository)?;
    let prefix = schema::within(repository);
    let after = after.map(|tag| tag.as_str().as_bytes());
    let mut page = Page::default();
    let mut visible = None;
    for entry in index.scan(Tree::Tags, &prefix, after)? {
        let (key, value) = entry?;
        let recorded = schema::decode::<RecordedTag>(&value)?;
        let digest = recorded.digest.digest()?;
        // A manifest that is being deleted, or whose bytes are bad, has taken its tags out of sight; neighbours often share one.
        if visible != Some(digest) {
            if !is_visible(index, &schema::digest_within(repository, &digest))? {
                continue;
            }
            visible = Some(digest);
        }
        if page.items.len() == limit {
            page.more = limit > 0;
            break;
        }
        let tag = schema::tag_after(Tree::Tags, &key, &prefix)?;
        page.items.push(Tagged { tag, digest, updated_at: recorded.updated_at.time() });
    }
    Ok(page)
}

pub(super) fn referrers(
    store: &Sled,
    repository: &RepositoryName,
    subject: &Digest,
    artifact_type: Option<&MediaType>,
    after: Option<&Digest>,
    limit: usize,
) -> Result<Page<Descriptor>> {
    let prefix = schema::digest_within(repository, subject);
    let mut after = after.map(schema::digest_key);
    let mut page = Page::default();
    let mut size = 0;
    loop {
        // The next one is found with the index open; its manifest is read after that.
        let next = store.0.core.read(|index| {
            for entry in index.scan(Tree::Referrers, &prefix, after.as_deref())? {
                let (key, value) = entry?;
                let referrer = schema::decode::<Referrer>(&value)?;
                if artifact_type
                    .is_none_or(|wanted| referrer.artifact_type.as_deref() == Some(wanted.as_str()))
                {
                    return schema::digest_after(Tree::Referrers, &key, &prefix).map(Some);
                }
            }
            Ok(None)
        })?;
        let Some(digest) = next else { return Ok(page) };
        if page.items.len() == limit || size > PAGE_BYTES {
            page.more = limit > 0;
            return Ok(page);
        }
        after = Some(schema::digest_key(&digest));
        let manifest = match store.manifest(repository, &Reference::Digest(digest)) {
            // Deleted while the listing runs.
            Err(Error::ManifestUnknown { .. }) => continue,
            manifest => manifest?,
        };
        let contents = manifest.contents()?;
        size += contents.annotations.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
        page.items.push(Descriptor {
            artifact_type: contents.artifact_type,
            annotations: contents.annotations,
            ..manifest.descriptor()
        });
    }
}
