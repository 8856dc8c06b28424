//! What a verification found, for people and for programs.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::oci::{Digest, RepositoryName};

/// How many of each kind of finding a report lists; all are counted.
const LISTED: usize = 1000;

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Whether it went on where an earlier one was ended: then content that that one read was not read again.
    pub resumed: bool,
    /// Blobs that were read.
    pub blobs: Read,
    /// Manifests that were read.
    pub manifests: Read,
    /// Records that were looked at.
    pub records: u64,
    /// How many blobs and manifests are bad, each until it is pushed again.
    pub bad_count: u64,
    /// The first thousand of these.
    pub bad: Vec<Quarantined>,
    /// How many records do not agree with others.
    pub fault_count: u64,
    /// How many of these were repaired.
    pub repaired_count: u64,
    /// The first thousand of these.
    pub faults: Vec<Fault>,
    /// How many blobs and manifests are not in the repository of a manifest that references them, each for each manifest: they were
    /// deleted, or never pushed. It is no damage; who pulls the image does not get all of it.
    pub missing_count: u64,
    /// The first thousand of these.
    pub missing: Vec<Missing>,
    /// Content that no record names, and what is among it and not the store's. It is no damage: a power cut during an upload can leave
    /// some.
    pub orphan_count: u64,
    /// Its bytes.
    pub orphan_bytes: u64,
    /// The first thousand of these.
    pub orphans: Vec<Orphan>,
    /// How many things could not be looked at, which says nothing about them.
    pub unchecked_count: u64,
    /// The first thousand of these, and why.
    pub unchecked: Vec<String>,
}

/// Content that was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Read {
    /// How many are their digest's.
    pub ok: u64,
    /// The bytes of these.
    pub bytes: u64,
}

/// A blob or a manifest whose bytes are bad. It counts as absent, and is in quarantine, as far as it is there at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Quarantined {
    /// Its digest.
    pub digest: Digest,
    /// Whether it is a manifest, and not a blob.
    pub manifest: bool,
    /// How it shows.
    pub why: String,
    /// Where it is missed: the first hundred of the repositories.
    pub repositories: Vec<RepositoryName>,
}

/// What makes an image incomplete: a config, a layer or a manifest that one of its repository references is not there. Layers that
/// may not be distributed are never among them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Missing {
    /// The repository.
    pub repository: RepositoryName,
    /// The manifest that references it.
    pub manifest: Digest,
    /// What is not there.
    pub digest: Digest,
}

/// A record that does not agree with others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Fault {
    /// The tree that the record is in, or would be in.
    pub tree: String,
    /// Its key, as far as it can be read.
    pub record: String,
    /// What is wrong.
    pub kind: FaultKind,
    /// Whether it was repaired.
    pub repaired: bool,
}

/// Content that no record names, or what is among content and is not the store's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Orphan {
    /// Where it is: a path in the data folder, or a tree and a key.
    pub place: String,
    /// How many bytes it has.
    pub bytes: u64,
    /// Whether it is in quarantine, where it stays for people to look at.
    pub quarantined: bool,
    /// Whether it is not the store's, as no content has a name like this: it stays.
    pub stray: bool,
    /// Whether it was removed.
    pub removed: bool,
}

macro_rules! kinds {
    ($($(#[doc = $doc:literal])* $kind:ident: $text:literal,)*) => {
        /// What is wrong with a record.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        #[non_exhaustive]
        pub enum FaultKind {
            $($(#[doc = $doc])* $kind,)*
        }

        impl fmt::Display for FaultKind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$kind => $text,)* })
            }
        }
    };
}

kinds! {
    /// The key or the value is not one.
    Unreadable: "it cannot be read",
    /// A link to a blob that the store does not have: it counts as absent until it is pushed again.
    LayerMissing: "the blob that it links has no record",
    /// A link without its reverse.
    UseMissing: "its reverse in uses-1 is missing",
    /// A reverse of no link.
    LinkMissing: "it is the reverse of no link",
    /// A blob that no repository links.
    LayerUnused: "no repository links it",
    /// A leftover that would have content removed which is in use.
    LeftoverInUse: "its content is in use and also among what is to be removed",
    /// A stamp without a place among the candidates.
    CandidateMissing: "its place among the candidates is missing",
    /// A place among the candidates without that stamp.
    CandidateOutdated: "what it stands for does not have its stamp",
    /// A manifest without a place among the used.
    UsedMissing: "its place in used-1 is missing",
    /// A place among the used of no manifest.
    UsedOutdated: "it is the place of no manifest",
    /// Nothing keeps it, and nobody will collect it.
    StampMissing: "nothing keeps it, and it has no stamp",
    /// A repository that holds something and is not counted.
    RepositoryMissing: "its repository has no record",
    /// A repository's counts are not what it holds.
    CountersWrong: "its counts are not what it holds",
    /// The store's counts are not what it holds.
    TotalsWrong: "the store's counts are not what it holds",
    /// A manifest's subject does not know it.
    ReferrerMissing: "its record in referrers-1 is missing",
    /// A manifest's bytes reference what its records do not.
    ReferenceMissing: "a reference in its bytes has no record",
    /// A record of a reference that the manifest's bytes do not have.
    ReferenceUnfounded: "the manifest's bytes do not have this reference",
    /// It belongs to a manifest that is not there.
    ManifestMissing: "its manifest is missing",
    /// A tag without its reverse.
    TaggedMissing: "its reverse in tagged-1 is missing",
    /// A reverse of no tag.
    TagMissing: "it is the reverse of no tag",
    /// An upload session whose bytes are not all there.
    UploadShort: "the session's bytes are not all there",
}

impl VerifyReport {
    /// Whether nothing is bad or wrong that was not repaired, and everything could be looked at. Orphans, and images that are
    /// incomplete, are no damage.
    #[must_use]
    pub const fn is_well(&self) -> bool {
        self.bad_count == 0 && self.fault_count == self.repaired_count && self.unchecked_count == 0
    }

    pub(super) fn add_bad(&mut self, bad: Quarantined) {
        self.bad_count += 1;
        list(&mut self.bad, bad);
    }

    pub(super) fn add_fault(&mut self, fault: Fault) {
        self.fault_count += 1;
        self.repaired_count += u64::from(fault.repaired);
        list(&mut self.faults, fault);
    }

    pub(super) fn add_missing(&mut self, missing: Missing) {
        self.missing_count += 1;
        list(&mut self.missing, missing);
    }

    pub(super) fn add_orphan(&mut self, orphan: Orphan) {
        self.orphan_count += 1;
        self.orphan_bytes += orphan.bytes;
        list(&mut self.orphans, orphan);
    }

    pub(super) fn add_unchecked(&mut self, what: String) {
        self.unchecked_count += 1;
        list(&mut self.unchecked, what);
    }
}

fn list<T>(list: &mut Vec<T>, found: T) {
    if list.len() < LISTED {
        list.push(found);
    }
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for bad in &self.bad {
            writeln!(f, "bad: {bad}")?;
        }
        for fault in &self.faults {
            writeln!(f, "wrong: {fault}")?;
        }
        for what in &self.unchecked {
            writeln!(f, "not checked: {what}")?;
        }
        for Missing { repository, manifest, digest } in &self.missing {
            writeln!(f, "incomplete: {repository}@{manifest} lacks {digest}; push that again")?;
        }
        for orphan in &self.orphans {
            let told = match orphan {
                Orphan { removed: true, .. } => ", removed",
                Orphan { stray: true, .. } => ", not the store's: move it elsewhere",
                _ => "",
            };
            writeln!(f, "orphan: {} ({} bytes){told}", orphan.place, orphan.bytes)?;
        }
        let listed = [
            (self.bad_count, self.bad.len()),
            (self.fault_count, self.faults.len()),
            (self.unchecked_count, self.unchecked.len()),
            (self.missing_count, self.missing.len()),
            (self.orphan_count, self.orphans.len()),
        ];
        let unlisted: u64 = listed.iter().map(|(count, listed)| count - *listed as u64).sum();
        if unlisted > 0 {
            writeln!(f, "and {unlisted} more")?;
        }
        let Self { blobs, manifests, records, bad_count, fault_count, repaired_count, .. } = self;
        let Self { missing_count, orphan_count, .. } = self;
        let words =
            if self.resumed { "verified from where the last verification was ended" } else { "verified" };
        write!(
            f,
            "{words}: {} blobs and {} manifests ({} bytes) are good, {bad_count} are bad; of {records} records {fault_count} \
             are wrong, {repaired_count} were repaired; {missing_count} parts of images are missing; {orphan_count} orphans",
            blobs.ok,
            manifests.ok,
            blobs.bytes + manifests.bytes,
        )
    }
}

impl fmt::Display for Quarantined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.manifest { "manifest" } else { "blob" };
        write!(f, "{what} {}: {}; push it again to", self.digest, self.why)?;
        for (number, repository) in self.repositories.iter().enumerate() {
            write!(f, "{}{repository}", if number == 0 { " " } else { ", " })?;
        }
        Ok(())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tree, record, kind, repaired } = self;
        write!(f, "{tree} {record}: {kind}{}", if *repaired { " (repaired)" } else { "" })
    }
}
