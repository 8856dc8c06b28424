//! Every key and every record of the index, and nothing else. This is the longest-lived interface of the crate.
//!
//! ```text
//! layers-1        digest                          -> Layer         a blob's bytes: where they are, how many
//! chunks-1        content id, number (u32, BE)    -> bytes         at most 4,096 of them (D1)
//! links-1         repository 00 digest            -> Link          a blob is visible in this repository
//! uses-1          digest repository               -> ()            the reverse of links
//! manifests-1     repository 00 digest            -> Manifest      a manifest is visible in this repository
//! references-1    repository 00 digest manifest   -> ()            the manifest references the digest
//! tags-1          repository 00 tag               -> Tag
//! tagged-1        repository 00 digest tag        -> ()            the reverse of tags
//! referrers-1     repository 00 subject manifest  -> Referrer
//! uploads-1       session id                      -> Upload        a suspended or checkpointed session
//! leftovers-1     content id                      -> Leftover      prepared and not published, or retired and not yet gone
//! candidates-1    kind, since, repository 00 digest -> ()          a link or manifest that nothing keeps, since that uptime
//! used-1          when, repository 00 digest      -> ()            a manifest was pushed or pulled then, about
//! events-2        number (u64, BE)                -> Event         a change that receivers are to be told of
//! repositories-1  repository                      -> Repository    exists while a counter is above zero
//! meta-1          name                            -> Uptime, Totals, Verifying, Cut, Receivers
//! (sled's own)    synced                          -> number        what stands before it in the log was synced (D10)
//! (sled's own)    wal                             -> number        whose write-ahead log is the index's (D12)
//! ```
//!
//! A digest is one byte for the algorithm and then the raw hash, so that the order of keys is the order of the text forms and
//! a digest inside a key ends where its algorithm says. Records are bincode (variable-length integers, nothing may follow).

#[cfg(any(test, fuzzing))]
pub(super) mod check;
mod keys;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bincode::Options as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::oci::{Algorithm, Digest};
use crate::store::Initiator;

pub(super) use keys::*;
use keys::{push_digest, take_digest};

/// The format of the data folder as a whole. It is raised when a tree's name or the layout of the folder changes.
pub(super) const FORMAT: u32 = 4;

/// The format before, whose index has no write-ahead log: opening the store gives it one, and it is of the new format from then on.
pub(super) const FORMAT_WITHOUT_WAL: u32 = 3;

/// The longest value in any tree (D1).
pub(super) const MAX_VALUE: usize = 4096;

/// The trees. Each name carries the version of its keys and records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Tree {
    Layers,
    Chunks,
    Links,
    Uses,
    Manifests,
    References,
    Tags,
    Tagged,
    Referrers,
    Uploads,
    Leftovers,
    Candidates,
    Used,
    Events,
    Repositories,
    Meta,
}

impl Tree {
    pub(super) const ALL: [Self; 16] = [
        Self::Layers,
        Self::Chunks,
        Self::Links,
        Self::Uses,
        Self::Manifests,
        Self::References,
        Self::Tags,
        Self::Tagged,
        Self::Referrers,
        Self::Uploads,
        Self::Leftovers,
        Self::Candidates,
        Self::Used,
        Self::Events,
        Self::Repositories,
        Self::Meta,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Layers => "layers-1",
            Self::Chunks => "chunks-1",
            Self::Links => "links-1",
            Self::Uses => "uses-1",
            Self::Manifests => "manifests-1",
            Self::References => "references-1",
            Self::Tags => "tags-1",
            Self::Tagged => "tagged-1",
            Self::Referrers => "referrers-1",
            Self::Uploads => "uploads-1",
            Self::Leftovers => "leftovers-1",
            Self::Candidates => "candidates-1",
            Self::Used => "used-1",
            Self::Events => "events-2",
            Self::Repositories => "repositories-1",
            Self::Meta => "meta-1",
        }
    }

    /// The tree's number in logs, which are read by later versions too: its place in [`Tree::ALL`], where new ones come last.
    pub(super) fn number(self) -> u8 {
        Self::ALL
            .iter()
            .zip(0..)
            .find_map(|(tree, number)| (*tree == self).then_some(number))
            .unwrap_or(u8::MAX)
    }

    pub(super) fn numbered(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

/// A value that has a tree of its own.
pub(super) trait Record: Serialize + DeserializeOwned {
    const TREE: Tree;
}

macro_rules! records {
    ($($record:ident in $tree:ident),*) => { $( impl Record for $record { const TREE: Tree = Tree::$tree; } )* };
}

records!(Layer in Layers, Link in Links, Manifest in Manifests, Tag in Tags, Referrer in Referrers, Upload in Uploads,
    Leftover in Leftovers, Repository in Repositories, Uptime in Meta, Totals in Meta,
    Verifying in Meta, Cut in Meta, Event in Events, Receivers in Meta);

/// Where content is kept. An id is never used twice (D7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Placement {
    /// In `chunks-1`.
    Inline(Uuid),
    /// In the file `content/<id>`.
    File(Uuid),
}

impl Placement {
    pub(super) const fn id(self) -> Uuid {
        match self {
            Self::Inline(id) | Self::File(id) => id,
        }
    }
}

/// Content: where it is and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Content {
    pub(super) placement: Placement,
    pub(super) size: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Layer {
    pub(super) content: Content,
    pub(super) created_at: Timestamp,
    /// Since when its bytes are known to be bad: until it is pushed again, the blob counts as absent.
    pub(super) quarantined_at: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Link {
    pub(super) linked_at: Timestamp,
    /// The link's place among the candidates, if it has one. A link that nothing references has one; of one that is referenced,
    /// collection takes it away when it comes by.
    pub(super) unreferenced_since: Option<Uptime>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) content: Content,
    pub(super) media_type: String,
    pub(super) subject: Option<RawDigest>,
    pub(super) pushed_at: Timestamp,
    /// As [`Link::unreferenced_since`]. What keeps a manifest is a tag, an index that names it, or the subject it refers to.
    pub(super) unkept_since: Option<Uptime>,
    /// Its place in `used-1`.
    pub(super) used_at: Uptime,
    /// As [`Layer::quarantined_at`].
    pub(super) quarantined_at: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tag {
    pub(super) digest: RawDigest,
    pub(super) updated_at: Timestamp,
    /// The same by the store's own clock, which orders tags and tells their age though the machine's may jump.
    pub(super) updated_uptime: Uptime,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Referrer {
    pub(super) artifact_type: Option<String>,
}

/// An upload session that has bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Upload {
    pub(super) repository: String,
    pub(super) started_at: Timestamp,
    pub(super) updated_at: Uptime,
    pub(super) algorithm: Algorithm,
    pub(super) placement: Placement,
    /// Where the session stood when this was written. Good while the machine that wrote it has not restarted.
    pub(super) current: Checkpoint,
    /// Up to here the bytes were on the disk before this was written. Good whatever happened.
    pub(super) durable: Checkpoint,
    /// The boot of the machine in which `current` was written, where the system tells.
    pub(super) boot: Option<Uuid>,
}

/// An offset and the hash of the bytes up to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Checkpoint {
    pub(super) offset: u64,
    pub(super) hash_state: Vec<u8>,
}

/// Content that nothing visible names, and what goes with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Leftover {
    pub(super) content: Content,
    /// If the content is a manifest's: where it was or was to be visible. Its references and tags go too.
    pub(super) manifest: Option<(String, RawDigest)>,
}

/// How much a repository holds; exact, as it changes in the transactions that change what it counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Repository {
    pub(super) links: u64,
    pub(super) manifests: u64,
    /// The bytes of the blobs that it links.
    pub(super) blob_bytes: u64,
    /// Of these, the bytes of blobs that another repository links too.
    pub(super) shared_bytes: u64,
    pub(super) manifest_bytes: u64,
}

/// How much the whole store holds, each blob once; exact as [`Repository`] is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Totals {
    pub(super) blobs: u64,
    pub(super) blob_bytes: u64,
    pub(super) manifests: u64,
    pub(super) manifest_bytes: u64,
    /// What the files of blobs and manifests in `content/` take on the disk, in whole blocks of [`BLOCK`].
    pub(super) file_bytes: u64,
}

/// Where a verification stands that was not finished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Verifying {
    /// Whether it reads manifests, and all blobs were read.
    pub(super) manifests: bool,
    /// The key of the last that was read; empty at the beginning.
    pub(super) after: Vec<u8>,
}

/// How the store's lives end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cut {
    /// Whether the last life ended by itself. While it lasts: no.
    pub(super) ended: bool,
    /// Whether lives that were cut off may have left content that no record names.
    pub(super) orphans: bool,
}

/// What happened to a repository. The order of the kinds is their number in records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum EventKind {
    /// A manifest was pushed, with the tags that came along.
    ManifestPushed,
    /// A tag was pointed at a manifest that was there.
    TagSet,
    /// A tag was deleted; its manifest is still there.
    TagDeleted,
    /// A manifest was deleted, and all its tags.
    ManifestDeleted,
    /// A blob was pushed.
    BlobPushed,
    /// A blob of another repository was linked.
    BlobMounted,
    /// A blob was deleted from the repository.
    BlobDeleted,
    /// A manifest was pulled ([`Sled::pulled`](super::Sled::pulled)).
    ManifestPulled,
    /// A blob was pulled, or a part of it.
    BlobPulled,
}

/// A change that receivers are to be told of, written in the transaction that makes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Event {
    /// Tells it from every other, of other stores and of other lives of this one too.
    pub(super) id: Uuid,
    pub(super) happened_at: Timestamp,
    pub(super) kind: EventKind,
    pub(super) repository: String,
    pub(super) digest: RawDigest,
    pub(super) size: u64,
    /// A manifest's.
    pub(super) media_type: Option<String>,
    /// At most [`TAGS_PER_EVENT`].
    pub(super) tags: Vec<String>,
    /// Where a mounted blob was.
    pub(super) from: Option<String>,
    /// Who asked for it; none where the store did it by itself.
    pub(super) by: Option<Initiator>,
}

/// The most tags that one event names, so that its record stays far below [`MAX_VALUE`].
pub(super) const TAGS_PER_EVENT: usize = 8;

/// Who is told of events, and up to which each has them. What all have is forgotten.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Receivers {
    /// All events up to this number are forgotten, or about to be; no number is given twice.
    pub(super) forgotten: u64,
    pub(super) taken: Vec<(String, u64)>,
}

/// The unit in which a file takes room on the disk, in bytes.
pub(super) const BLOCK: u64 = 4096;

/// Milliseconds during which the store has been open, in all its lives: unlike the wall clock it never jumps, and it stands still
/// while nobody can push. A kill takes it back to when it was last written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Uptime(u64);

impl Uptime {
    pub(super) const fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(millis(time)))
    }

    /// How long ago `earlier` was.
    pub(super) const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

const fn millis(time: Duration) -> u64 {
    let millis = time.as_millis();
    // A cast cannot cut what was compared before.
    #[expect(clippy::cast_possible_truncation, reason = "compared just here")]
    if millis > u64::MAX as u128 { u64::MAX } else { millis as u64 }
}

/// Milliseconds since 1970 by the system's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Timestamp(u64);

impl Timestamp {
    pub(super) fn now() -> Self {
        Self::of(SystemTime::now())
    }

    pub(super) fn of(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self(millis(since))
    }

    pub(super) fn time(self) -> SystemTime {
        UNIX_EPOCH.checked_add(Duration::from_millis(self.0)).unwrap_or(UNIX_EPOCH)
    }
}

/// A digest as it stands in keys: one byte for the algorithm, then the raw hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RawDigest(Vec<u8>);

impl RawDigest {
    pub(super) fn digest(&self) -> Result<Digest> {
        match take_digest(&self.0) {
            Some((digest, b"")) => Ok(digest),
            _ => Err(damaged("a digest in a record", "it has no known algorithm or the wrong length")),
        }
    }
}

impl From<&Digest> for RawDigest {
    fn from(digest: &Digest) -> Self {
        let mut raw = Vec::with_capacity(1 + digest.as_bytes().len());
        push_digest(&mut raw, digest);
        Self(raw)
    }
}

pub(super) fn encode<R: Serialize>(record: &R) -> Result<Vec<u8>> {
    let value = bincode::DefaultOptions::new()
        .serialize(record)
        .map_err(|error| damaged("a record to be written", &error.to_string()))?;
    // Reached only by a bug: every text in a record has a limit of its own far below.
    if value.len() > MAX_VALUE {
        return Err(damaged("a record to be written", "it is longer than 4,096 bytes"));
    }
    Ok(value)
}

pub(super) fn decode<R: Record>(value: &[u8]) -> Result<R> {
    bincode::DefaultOptions::new()
        .with_limit(MAX_VALUE as u64)
        .deserialize(value)
        .map_err(|error| damaged(&format!("a record in {}", R::TREE.name()), &error.to_string()))
}

pub(super) fn damaged(what: &str, reason: &str) -> Error {
    Error::Damaged { what: what.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{RepositoryName, Tag as TagName};

    #[test]
    fn keys_read_back_what_they_were_made_of() {
        let repository: RepositoryName = "a/b".parse().unwrap();
        let tag: TagName = "v1".parse().unwrap();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let digest = algorithm.digest(b"x");
            let subject = Algorithm::Sha256.digest(b"y");
            let prefix = digest_within(&repository, &subject);
            let pointer = pointer_within(&repository, &subject, &digest);
            assert_eq!(digest_after(Tree::References, &pointer, &prefix).unwrap(), digest);
            assert_eq!(repository_of_use(&use_key(&digest, &repository)).unwrap(), repository);
            let prefix = digest_within(&repository, &digest);
            let tagged = tagged_within(&repository, &digest, &tag);
            assert_eq!(tag_after(Tree::Tagged, &tagged, &prefix).unwrap(), tag);
            assert_eq!(RawDigest::from(&digest).digest().unwrap(), digest);
            let since = Uptime(1 << 40);
            let candidate = candidate_key(Kept::Link, since, &repository, &digest);
            assert_eq!(candidate_of_key(&candidate).unwrap(), (since, repository.clone(), digest));
            assert!(
                candidate
                    < candidate_key(Kept::Link, since.after(Duration::from_millis(1)), &repository, &digest)
            );
        }
    }

    #[test]
    fn bytes_that_are_no_key_and_no_record_are_damage_not_a_panic() {
        for junk in [&b""[..], b"\0", b"\x01short", b"\xff\xff\xff\xff\xff", &[1; 66]] {
            assert!(repository_of_use(junk).is_err());
            assert!(digest_after(Tree::Links, junk, b"").is_err());
            assert!(candidate_of_key(junk).is_err());
            assert!(decode::<Upload>(junk).is_err());
            assert!(decode::<Manifest>(junk).is_err());
        }
        // A length that claims the whole address space must not be believed.
        assert!(decode::<Tag>(&[253, 255, 255, 255, 255, 255, 255, 255, 127]).is_err());
    }

    /// What the fuzzer found worth keeping. The other targets' corpora are replayed by `tests/corpus.rs`, which sees only what is
    /// public.
    #[test]
    fn the_corpus_of_keys_and_records_is_read_and_written_alike() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/records");
        let inputs: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(!inputs.is_empty());
        for input in inputs {
            check::check_schema(&std::fs::read(&input).unwrap());
        }
    }

    #[test]
    fn records_end_where_they_end() {
        let mut value = encode(&Link { linked_at: Timestamp(7), unreferenced_since: None }).unwrap();
        assert_eq!(decode::<Link>(&value).unwrap().linked_at, Timestamp(7));
        value.push(0);
        assert!(decode::<Link>(&value).is_err());
    }

    /// Longer than what is kept of it.
    fn longest_initiator() -> Initiator {
        let word = &"w".repeat(300);
        let by = Initiator::new().with_user(word).with_request_id(word).with_client(word);
        by.with_host(word).with_method(word).with_user_agent(word)
    }

    #[test]
    fn the_longest_record_stays_far_below_the_limit() {
        let state = vec![255; 256];
        let upload = Upload {
            repository: "r".repeat(255),
            started_at: Timestamp(u64::MAX),
            updated_at: Uptime(u64::MAX),
            algorithm: Algorithm::Sha512,
            placement: Placement::File(Uuid::max()),
            current: Checkpoint { offset: u64::MAX, hash_state: state.clone() },
            durable: Checkpoint { offset: u64::MAX, hash_state: state },
            boot: Some(Uuid::max()),
        };
        assert!(encode(&upload).unwrap().len() < 1024);
        let event = Event {
            id: Uuid::max(),
            happened_at: Timestamp(u64::MAX),
            kind: EventKind::BlobDeleted,
            repository: "r".repeat(255),
            digest: RawDigest::from(&Algorithm::Sha512.digest(b"x")),
            size: u64::MAX,
            media_type: Some("m".repeat(255)),
            tags: vec!["t".repeat(128); TAGS_PER_EVENT],
            from: Some("f".repeat(255)),
            by: Some(longest_initiator()),
        };
        assert!(encode(&event).unwrap().len() < 3600);
    }
}
