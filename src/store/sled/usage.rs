//! How much a store holds, and what that takes.

use serde::{Deserialize, Serialize};

use super::accounts;
use super::room;
use super::schema::{self, Repository};
use super::store::Sled;
use super::waiting;
use crate::error::{Error, Result};
use crate::oci::RepositoryName;

/// How much a store holds, and what its folder takes on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Usage {
    /// How many blobs, each counted once.
    pub blobs: u64,
    /// Their bytes.
    pub blob_bytes: u64,
    /// How many manifests, each counted in every repository that has it.
    pub manifests: u64,
    /// Their bytes.
    pub manifest_bytes: u64,
    /// What the files of blobs, large manifests and open upload sessions take, in bytes.
    pub in_files: u64,
    /// Of these, what open upload sessions take, and what is just being removed.
    pub in_uploads: u64,
    /// The bytes of blobs that nothing references, and which stay until their grace time has passed. Of many, the oldest alone are
    /// looked at.
    pub held_back: u64,
    /// Whether there may be more of these.
    pub held_back_more: bool,
    /// What the index takes, in bytes.
    pub in_index: u64,
    /// What all else in the folder takes, in bytes: the room that the store keeps for itself, and what is in quarantine.
    pub in_rest: u64,
    /// What the folder may take, in bytes, if there is a budget.
    pub budget: Option<u64>,
    /// What may still be pushed, in bytes, if there is a budget.
    pub free: Option<u64>,
}

/// How much a repository holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RepositoryUsage {
    /// How many blobs it links.
    pub blobs: u64,
    /// The bytes of those that no other repository links: what deleting the repository would give back.
    pub unique_bytes: u64,
    /// The bytes of those that others link too.
    pub shared_bytes: u64,
    /// How many manifests it has.
    pub manifests: u64,
    /// Their bytes.
    pub manifest_bytes: u64,
}

impl Sled {
    /// How much the store holds. It is counted as it changes, so that this reads a few records and looks at a few files.
    ///
    /// # Errors
    /// Only what the storage itself fails with.
    pub fn usage(&self) -> Result<Usage> {
        let core = &self.0.core;
        let totals = core.read(accounts::totals)?;
        let waiting = waiting::waiting(core)?;
        core.room.look_at_rest(&core.folder);
        let in_index = room::taken(&core.folder.index());
        Ok(Usage {
            blobs: totals.blobs,
            blob_bytes: totals.blob_bytes,
            manifests: totals.manifests,
            manifest_bytes: totals.manifest_bytes,
            in_files: core.room.in_files(),
            in_uploads: waiting.in_uploads,
            held_back: waiting.held_back,
            held_back_more: waiting.more,
            in_index,
            in_rest: core.room.in_rest(&core.folder),
            budget: core.options.budget,
            free: core.room.free(),
        })
    }

    /// How much a repository holds; it reads one record.
    ///
    /// # Errors
    /// [`Error::RepositoryUnknown`].
    pub fn repository_usage(&self, repository: &RepositoryName) -> Result<RepositoryUsage> {
        let held = self.0.core.read(|index| index.get::<Repository>(&schema::repository_key(repository)))?;
        let held = held.ok_or_else(|| Error::RepositoryUnknown(repository.clone()))?;
        Ok(RepositoryUsage {
            blobs: held.links,
            unique_bytes: held.blob_bytes.saturating_sub(held.shared_bytes),
            shared_bytes: held.shared_bytes,
            manifests: held.manifests,
            manifest_bytes: held.manifest_bytes,
        })
    }
}
