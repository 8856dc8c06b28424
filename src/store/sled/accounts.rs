//! What each repository and the whole store hold: counted in the transactions that change it, so that the counts are exact.

use std::collections::BTreeMap;

use super::changes::Changes;
use super::index::Index;
use super::schema::{
    self, BLOCK, Content, Layer, Manifest, Placement, Record, Repository, TOTALS_KEY, Timestamp, Totals, Tree,
};
use crate::error::Result;
use crate::oci::{Digest, RepositoryName};

/// Which other repositories link a blob, as far as it matters for the counts of each.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Others {
    None,
    One(RepositoryName),
    More,
}

impl Others {
    /// Those that link a blob besides `repository`. Looks at three records at most.
    pub(super) fn of(index: &Index, digest: &Digest, repository: &RepositoryName) -> Result<Self> {
        let mut others = Self::None;
        for entry in index.scan(Tree::Uses, &schema::digest_key(digest), None)?.take(3) {
            let name = schema::repository_of_use(&entry?.0)?;
            if name == *repository {
                continue;
            }
            others = match others {
                Self::None => Self::One(name),
                Self::One(_) | Self::More => return Ok(Self::More),
            };
        }
        Ok(others)
    }
}

/// What a set of changes adds to and takes from the counts. Each set of changes has one, or the last would win.
#[derive(Debug, Default)]
pub(super) struct Tally {
    repositories: BTreeMap<RepositoryName, Difference>,
    totals: Difference,
}

#[derive(Debug, Default)]
struct Difference {
    links: i64,
    blobs: i64,
    blob_bytes: i64,
    shared_bytes: i64,
    manifests: i64,
    manifest_bytes: i64,
    file_bytes: i64,
}

#[derive(Clone, Copy)]
enum Sign {
    Plus,
    Minus,
}

impl Sign {
    fn of(self, amount: u64) -> i64 {
        let amount = i64::try_from(amount).unwrap_or(i64::MAX);
        match self {
            Self::Plus => amount,
            Self::Minus => -amount,
        }
    }
}

impl Tally {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn blob_added(&mut self, layer: &Layer) {
        self.blob(Sign::Plus, layer);
    }

    pub(super) fn blob_removed(&mut self, layer: &Layer) {
        self.blob(Sign::Minus, layer);
    }

    fn blob(&mut self, sign: Sign, layer: &Layer) {
        self.totals.blobs += sign.of(1);
        self.totals.blob_bytes += sign.of(layer.content.size);
        self.totals.file_bytes += sign.of(file_bytes(&layer.content, layer.quarantined_at));
    }

    /// The content of a blob or manifest goes out of `content/`.
    pub(super) fn quarantined(&mut self, content: &Content) {
        self.totals.file_bytes += Sign::Minus.of(file_bytes(content, None));
    }

    pub(super) fn linked(&mut self, repository: &RepositoryName, size: u64, others: Others) {
        self.link(Sign::Plus, repository, size, others);
    }

    pub(super) fn unlinked(&mut self, repository: &RepositoryName, size: u64, others: Others) {
        self.link(Sign::Minus, repository, size, others);
    }

    fn link(&mut self, sign: Sign, repository: &RepositoryName, size: u64, others: Others) {
        let own = self.repositories.entry(repository.clone()).or_default();
        own.links += sign.of(1);
        own.blob_bytes += sign.of(size);
        if others != Others::None {
            own.shared_bytes += sign.of(size);
        }
        // With this link the one other repository begins or ceases to share.
        if let Others::One(other) = others {
            self.repositories.entry(other).or_default().shared_bytes += sign.of(size);
        }
    }

    pub(super) fn manifest_added(&mut self, repository: &RepositoryName, manifest: &Manifest) {
        self.manifest(Sign::Plus, repository, manifest);
    }

    pub(super) fn manifest_removed(&mut self, repository: &RepositoryName, manifest: &Manifest) {
        self.manifest(Sign::Minus, repository, manifest);
    }

    fn manifest(&mut self, sign: Sign, repository: &RepositoryName, manifest: &Manifest) {
        let own = self.repositories.entry(repository.clone()).or_default();
        for counts in [own, &mut self.totals] {
            counts.manifests += sign.of(1);
            counts.manifest_bytes += sign.of(manifest.content.size);
        }
        self.totals.file_bytes += sign.of(file_bytes(&manifest.content, manifest.quarantined_at));
    }

    /// Adds the new counts to `changes`; the record of a repository that holds nothing goes.
    pub(super) fn add_to(&self, index: &Index, changes: &mut Changes) -> Result<()> {
        for (name, difference) in &self.repositories {
            let key = schema::repository_key(name);
            let held = index.get::<Repository>(&key)?.unwrap_or_default();
            let held = Repository {
                links: held.links.saturating_add_signed(difference.links),
                manifests: held.manifests.saturating_add_signed(difference.manifests),
                blob_bytes: held.blob_bytes.saturating_add_signed(difference.blob_bytes),
                shared_bytes: held.shared_bytes.saturating_add_signed(difference.shared_bytes),
                manifest_bytes: held.manifest_bytes.saturating_add_signed(difference.manifest_bytes),
            };
            if held.links == 0 && held.manifests == 0 {
                changes.remove(Repository::TREE, key);
            } else {
                changes.set(key, &held)?;
            }
        }
        let held = totals(index)?;
        let difference = &self.totals;
        let now = Totals {
            blobs: held.blobs.saturating_add_signed(difference.blobs),
            blob_bytes: held.blob_bytes.saturating_add_signed(difference.blob_bytes),
            manifests: held.manifests.saturating_add_signed(difference.manifests),
            manifest_bytes: held.manifest_bytes.saturating_add_signed(difference.manifest_bytes),
            file_bytes: held.file_bytes.saturating_add_signed(difference.file_bytes),
        };
        if now == Totals::default() {
            changes.remove(Totals::TREE, TOTALS_KEY.to_vec());
            Ok(())
        } else if now == held {
            Ok(())
        } else {
            changes.set(TOTALS_KEY.to_vec(), &now)
        }
    }
}

/// How much the whole store holds.
pub(super) fn totals(index: &Index) -> Result<Totals> {
    Ok(index.get::<Totals>(TOTALS_KEY)?.unwrap_or_default())
}

/// What content takes in `content/`: what is in quarantine is not there.
pub(super) const fn file_bytes(content: &Content, quarantined_at: Option<Timestamp>) -> u64 {
    match content.placement {
        _ if quarantined_at.is_some() => 0,
        Placement::Inline(_) => 0,
        Placement::File(_) => content.size.div_ceil(BLOCK).saturating_mul(BLOCK),
    }
}
