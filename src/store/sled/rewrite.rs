//! A new index, made beside whatever there is: for a snapshot, a compaction, a store that is restored.
//!
//! It is no store's before [`Rewrite::finish`] has returned and its folder was renamed into place (D3), and nobody is told
//! anything on its word before that: a crash throws it away. So it is filled without a single data sync. What D4 bounds is how
//! much of what was *acknowledged* hangs on segments that sled uses again before the disk has their successors; here nothing is
//! acknowledged until one data sync of the whole file, after which there is no window at all.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use ::sled::IVec;

use super::folder::sync_tree;
use super::index::Index;
use super::progress::Steps;
use super::schema::Tree;
use crate::error::{Error, Result};

/// So many entries are read from an index that is in use before it is let go for a moment. With values of 4 KiB it is 1 MiB.
const PAGE: usize = 256;

/// The memory that it takes, about.
pub(super) const CACHE: u64 = 16 << 20;

/// An index that is being made.
pub(super) struct Rewrite {
    path: PathBuf,
    index: Index,
}

impl Rewrite {
    /// Begins anew, whatever an attempt that was cut short has left at this place.
    pub(super) fn begin(path: &Path) -> Result<Self> {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(Error::io(format!("removing {}", path.display()))(error));
            }
            _ => {}
        }
        Ok(Self { path: path.to_owned(), index: Index::create(path, CACHE)? })
    }

    /// Goes on with an index that was copied here as files.
    pub(super) fn adopt(path: &Path) -> Result<Self> {
        Ok(Self { path: path.to_owned(), index: Index::open(path, CACHE)? })
    }

    pub(super) const fn index(&self) -> &Index {
        &self.index
    }

    pub(super) fn put(&self, tree: Tree, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        self.index.put(tree, key, value)
    }

    /// Takes over all trees. `read` gives the entries of a tree after a key, as many as it likes, and none at its end.
    pub(super) fn copy(
        &self,
        steps: &mut Steps<'_, '_>,
        read: impl Fn(Tree, Option<&[u8]>) -> Result<Vec<(IVec, IVec)>>,
    ) -> Result<u64> {
        let mut records = 0;
        for tree in Tree::ALL {
            let mut after: Option<IVec> = None;
            loop {
                let entries = read(tree, after.as_deref())?;
                for (key, value) in &entries {
                    self.put(tree, key, Some(value))?;
                }
                steps.done(entries.len() as u64)?;
                records += entries.len() as u64;
                match entries.into_iter().next_back() {
                    Some((last, _)) => after = Some(last),
                    None => break,
                }
            }
        }
        Ok(records)
    }

    /// Makes all of it durable, but for the name of its folder.
    pub(super) fn finish(self) -> Result<()> {
        self.index.settle()?;
        drop(self.index);
        sync_tree(&self.path).map_err(Error::io(format!("syncing {}", self.path.display())))
    }
}

/// A page of a tree, for [`Rewrite::copy`].
pub(super) fn page(index: &Index, tree: Tree, after: Option<&[u8]>) -> Result<Vec<(IVec, IVec)>> {
    index.scan(tree, &[], after)?.take(PAGE).collect()
}
