//! Every key: made of what it stands for, and read back.

use uuid::Uuid;

use super::{RawDigest, Tree, Uptime, damaged};
use crate::error::{Error, Result};
use crate::oci::{Algorithm, Digest, RepositoryName, Tag as TagName};

pub(super) fn push_digest(key: &mut Vec<u8>, digest: &Digest) {
    key.push(match digest.algorithm() {
        Algorithm::Sha256 => 1,
        Algorithm::Sha512 => 2,
    });
    key.extend_from_slice(digest.as_bytes());
}

pub(super) fn take_digest(key: &[u8]) -> Option<(Digest, &[u8])> {
    let (code, rest) = key.split_first()?;
    let algorithm = match code {
        1 => Algorithm::Sha256,
        2 => Algorithm::Sha512,
        _ => return None,
    };
    let (hash, rest) = rest.split_at_checked(algorithm.size())?;
    Some((Digest::from_bytes(algorithm, hash).ok()?, rest))
}

/// The key in `layers-1`, and the prefix of a blob's keys in `uses-1`.
pub(in crate::store::sled) fn digest_key(digest: &Digest) -> Vec<u8> {
    RawDigest::from(digest).0
}

pub(in crate::store::sled) fn use_key(digest: &Digest, repository: &RepositoryName) -> Vec<u8> {
    let mut key = digest_key(digest);
    key.extend_from_slice(repository.as_str().as_bytes());
    key
}

/// The repository at the end of a key in `uses-1`.
pub(in crate::store::sled) fn repository_of_use(key: &[u8]) -> Result<RepositoryName> {
    take_digest(key)
        .and_then(|(_, repository)| repository_name(repository))
        .ok_or_else(|| damaged_key(Tree::Uses))
}

/// The key in `repositories-1`.
pub(in crate::store::sled) fn repository_key(repository: &RepositoryName) -> Vec<u8> {
    repository.as_str().as_bytes().to_vec()
}

pub(in crate::store::sled) fn repository_of_key(key: &[u8]) -> Result<RepositoryName> {
    repository_name(key).ok_or_else(|| damaged_key(Tree::Repositories))
}

fn repository_name(text: &[u8]) -> Option<RepositoryName> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// What all the keys of one repository begin with, in the trees that have a repository first.
pub(in crate::store::sled) fn within(repository: &RepositoryName) -> Vec<u8> {
    let mut key = Vec::with_capacity(repository.as_str().len() + 1 + 65 + 65);
    key.extend_from_slice(repository.as_str().as_bytes());
    key.push(0);
    key
}

/// The key in `links-1` and `manifests-1`; the prefix in `references-1`, `tagged-1` and `referrers-1`.
pub(in crate::store::sled) fn digest_within(repository: &RepositoryName, digest: &Digest) -> Vec<u8> {
    let mut key = within(repository);
    push_digest(&mut key, digest);
    key
}

/// The key in `references-1` and `referrers-1`: first what is pointed at, then the manifest that points.
pub(in crate::store::sled) fn pointer_within(
    repository: &RepositoryName,
    at: &Digest,
    manifest: &Digest,
) -> Vec<u8> {
    let mut key = digest_within(repository, at);
    push_digest(&mut key, manifest);
    key
}

/// The key in `tags-1`.
pub(in crate::store::sled) fn tag_within(repository: &RepositoryName, tag: &TagName) -> Vec<u8> {
    let mut key = within(repository);
    key.extend_from_slice(tag.as_str().as_bytes());
    key
}

/// The key in `tagged-1`.
pub(in crate::store::sled) fn tagged_within(
    repository: &RepositoryName,
    digest: &Digest,
    tag: &TagName,
) -> Vec<u8> {
    let mut key = digest_within(repository, digest);
    key.extend_from_slice(tag.as_str().as_bytes());
    key
}

/// What a candidate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store::sled) enum Kept {
    /// A link that no manifest references.
    Link,
    /// A manifest without tag, index or subject.
    Manifest,
}

impl Kept {
    const fn code(self) -> u8 {
        match self {
            Self::Link => 1,
            Self::Manifest => 2,
        }
    }
}

/// What an entry in `candidates-1` stands for.
pub(in crate::store::sled) fn kind_of_candidate(key: &[u8]) -> Result<Kept> {
    let kinds = [Kept::Link, Kept::Manifest];
    let code = key.first();
    kinds.into_iter().find(|kind| code == Some(&kind.code())).ok_or_else(|| damaged_key(Tree::Candidates))
}

/// The prefix in `candidates-1` of all of a kind, the oldest first.
pub(in crate::store::sled) fn candidates(kind: Kept) -> Vec<u8> {
    vec![kind.code()]
}

/// The key in `candidates-1`.
pub(in crate::store::sled) fn candidate_key(
    kind: Kept,
    since: Uptime,
    repository: &RepositoryName,
    digest: &Digest,
) -> Vec<u8> {
    let mut key = candidates(kind);
    key.extend_from_slice(&since.0.to_be_bytes());
    key.extend_from_slice(&digest_within(repository, digest));
    key
}

/// The key in `used-1`.
pub(in crate::store::sled) fn used_key(at: Uptime, repository: &RepositoryName, digest: &Digest) -> Vec<u8> {
    [&at.0.to_be_bytes()[..], &digest_within(repository, digest)].concat()
}

/// What a key in `used-1` says.
pub(in crate::store::sled) fn used_of_key(key: &[u8]) -> Result<(Uptime, RepositoryName, Digest)> {
    dated(Tree::Used, key)
}

/// What a key in `candidates-1` says.
pub(in crate::store::sled) fn candidate_of_key(key: &[u8]) -> Result<(Uptime, RepositoryName, Digest)> {
    dated(Tree::Candidates, key.get(1..).unwrap_or_default())
}

fn dated(tree: Tree, key: &[u8]) -> Result<(Uptime, RepositoryName, Digest)> {
    let parts = || {
        let (since, rest) = key.split_first_chunk()?;
        let end = rest.iter().position(|byte| *byte == 0)?;
        let repository = repository_name(rest.get(..end)?)?;
        match take_digest(rest.get(end + 1..)?)? {
            (digest, b"") => Some((Uptime(u64::from_be_bytes(*since)), repository, digest)),
            _ => None,
        }
    };
    parts().ok_or_else(|| damaged_key(tree))
}

/// The keys in `meta-1`.
pub(in crate::store::sled) const UPTIME_KEY: &[u8] = b"uptime";
pub(in crate::store::sled) const TOTALS_KEY: &[u8] = b"totals";
pub(in crate::store::sled) const VERIFYING_KEY: &[u8] = b"verifying";
pub(in crate::store::sled) const CUT_KEY: &[u8] = b"cut";
pub(in crate::store::sled) const RECEIVERS_KEY: &[u8] = b"receivers";

/// The keys in sled's own tree, which belongs to the index and not to the store: no copy brings it along. They are looked for in
/// the log, where nobody says which tree an entry is of: no repository's name is like them.
pub(in crate::store::sled) const SYNCED_KEY: &[u8] = b"\0synced";
/// It is there only while an index is being sealed.
pub(in crate::store::sled) const SEAL_KEY: &[u8] = b"\0seal";

/// The value at [`SYNCED_KEY`].
pub(in crate::store::sled) const fn synced_value(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

pub(in crate::store::sled) fn number_of_synced(value: &[u8]) -> Option<u64> {
    value.try_into().ok().map(u64::from_be_bytes)
}

/// Whose write-ahead log is the index's.
pub(in crate::store::sled) const WAL_KEY: &[u8] = b"\0wal";

/// The value at [`WAL_KEY`].
pub(in crate::store::sled) const fn wal_value(id: u64) -> [u8; 8] {
    id.to_le_bytes()
}

pub(in crate::store::sled) fn wal_of_value(value: &[u8]) -> Result<u64> {
    value.try_into().map(u64::from_le_bytes).map_err(|_| damaged("the index", "its log has no number"))
}

/// The repository that a key begins with, and what follows.
fn of_repository(tree: Tree, key: &[u8]) -> Result<(RepositoryName, &[u8])> {
    let parts = || {
        let end = key.iter().position(|byte| *byte == 0)?;
        Some((repository_name(key.get(..end)?)?, key.get(end + 1..)?))
    };
    parts().ok_or_else(|| damaged_key(tree))
}

/// What a key in `links-1` or `manifests-1` says.
pub(in crate::store::sled) fn digest_of_key(tree: Tree, key: &[u8]) -> Result<(RepositoryName, Digest)> {
    let (repository, rest) = of_repository(tree, key)?;
    Ok((repository, digest_after(tree, rest, &[])?))
}

/// What a key in `references-1` or `referrers-1` says: what is pointed at, and the manifest that points.
pub(in crate::store::sled) fn pointer_of_key(
    tree: Tree,
    key: &[u8],
) -> Result<(RepositoryName, Digest, Digest)> {
    let (repository, rest) = of_repository(tree, key)?;
    let (at, manifest) = pointer_after(tree, rest, &[])?;
    Ok((repository, at, manifest))
}

/// What a key in `tags-1` says.
pub(in crate::store::sled) fn tag_of_key(key: &[u8]) -> Result<(RepositoryName, TagName)> {
    let (repository, rest) = of_repository(Tree::Tags, key)?;
    Ok((repository, tag_after(Tree::Tags, rest, &[])?))
}

/// What a key in `tagged-1` says.
pub(in crate::store::sled) fn tagged_of_key(key: &[u8]) -> Result<(RepositoryName, Digest, TagName)> {
    let (repository, rest) = of_repository(Tree::Tagged, key)?;
    let (digest, rest) = take_digest(rest).ok_or_else(|| damaged_key(Tree::Tagged))?;
    Ok((repository, digest, tag_after(Tree::Tagged, rest, &[])?))
}

/// What a key in `uses-1` says.
pub(in crate::store::sled) fn use_of_key(key: &[u8]) -> Result<(Digest, RepositoryName)> {
    let parts = || {
        let (digest, rest) = take_digest(key)?;
        Some((digest, repository_name(rest)?))
    };
    parts().ok_or_else(|| damaged_key(Tree::Uses))
}

/// A key of `layers-1` or `manifests-1` for people.
pub(in crate::store::sled) fn shown(key: &[u8]) -> String {
    match (take_digest(key), digest_of_key(Tree::Manifests, key)) {
        (Some((digest, b"")), _) => digest.to_string(),
        (_, Ok((repository, digest))) => format!("{digest} in {repository}"),
        _ => "with a damaged key".to_owned(),
    }
}

/// The digest that follows a prefix and ends a key.
pub(in crate::store::sled) fn digest_after(tree: Tree, key: &[u8], prefix: &[u8]) -> Result<Digest> {
    match key.strip_prefix(prefix).and_then(take_digest) {
        Some((digest, b"")) => Ok(digest),
        _ => Err(damaged_key(tree)),
    }
}

/// What is pointed at and the manifest that points, which follow a repository's prefix and end a key.
pub(in crate::store::sled) fn pointer_after(
    tree: Tree,
    key: &[u8],
    prefix: &[u8],
) -> Result<(Digest, Digest)> {
    let parts = || {
        let (at, rest) = take_digest(key.strip_prefix(prefix)?)?;
        match take_digest(rest)? {
            (manifest, b"") => Some((at, manifest)),
            _ => None,
        }
    };
    parts().ok_or_else(|| damaged_key(tree))
}

/// The tag that follows a prefix and ends a key.
pub(in crate::store::sled) fn tag_after(tree: Tree, key: &[u8], prefix: &[u8]) -> Result<TagName> {
    key.strip_prefix(prefix)
        .and_then(|tag| std::str::from_utf8(tag).ok())
        .and_then(|tag| tag.parse().ok())
        .ok_or_else(|| damaged_key(tree))
}

/// What a key in `chunks-1` says: the content that the chunk belongs to, and its number there.
pub(in crate::store::sled) fn chunk_of_key(key: &[u8]) -> Result<(Uuid, u32)> {
    let parts = || {
        let (id, number) = key.split_first_chunk::<16>()?;
        Some((Uuid::from_bytes(*id), u32::from_be_bytes(number.try_into().ok()?)))
    };
    parts().ok_or_else(|| damaged_key(Tree::Chunks))
}

/// The key in `uploads-1` and `leftovers-1`.
pub(in crate::store::sled) fn id_key(id: Uuid) -> Vec<u8> {
    id.as_bytes().to_vec()
}

/// The session in a key in `uploads-1`.
pub(in crate::store::sled) fn session_of_key(key: &[u8]) -> Result<Uuid> {
    Uuid::from_slice(key).map_err(|_| damaged_key(Tree::Uploads))
}

pub(in crate::store::sled) fn chunk_key(content: Uuid, number: u32) -> Vec<u8> {
    let mut key = id_key(content);
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// The key in `events-2`.
pub(in crate::store::sled) fn event_key(number: u64) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

/// The number in a key in `events-2`.
pub(in crate::store::sled) fn number_of_event(key: &[u8]) -> Result<u64> {
    key.try_into().map(u64::from_be_bytes).map_err(|_| damaged_key(Tree::Events))
}

fn damaged_key(tree: Tree) -> Error {
    damaged(&format!("a key in {}", tree.name()), "it does not have the tree's form")
}
