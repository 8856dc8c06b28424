//! The changes that are made while a snapshot is being taken, in their order, in a file of the unfinished snapshot.
//!
//! They are sets and removals of single entries. So whatever a scan saw that ran beside them, when all of them are made over it
//! the outcome is the index as it was when the journal ended: an entry that nobody changed meanwhile was scanned as it is, and
//! of every other the journal has the last word.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, ErrorKind, IntoInnerError, Seek};
use std::path::Path;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::changes::Changes;
use super::entry;
use super::schema::{Tree, damaged};
use crate::error::{Error, Result};

/// The journal as the writer's thread has it. It needs no sync: a crash throws the unfinished snapshot away.
pub(super) struct Journal {
    /// Whose it is: after a failure of the index another snapshot may have begun one.
    pub(super) id: Uuid,
    file: BufWriter<File>,
    /// The writer is not to fail because a snapshot does: that is told when the journal ends.
    failure: Option<Error>,
    /// The time that the writer's thread spent on it.
    spent: Duration,
}

impl Journal {
    pub(super) fn create(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path);
        let file = file.map_err(Error::io(format!("making {}", path.display())))?;
        Ok(Self {
            id: Uuid::new_v4(),
            file: BufWriter::with_capacity(64 << 10, file),
            failure: None,
            spent: Duration::ZERO,
        })
    }

    pub(super) fn add(&mut self, changes: &Changes) {
        if self.failure.is_some() {
            return;
        }
        let begun = Instant::now();
        for (tree, key, value) in changes.entries() {
            if let Err(error) = entry::write(&mut self.file, tree, key, value) {
                self.failure = Some(Error::io("writing the journal of a snapshot")(error));
                break;
            }
        }
        self.spent += begun.elapsed();
    }

    /// The file, to be read by [`replay`], and the time that the writer spent on it.
    pub(super) fn finish(self) -> Result<(File, Duration)> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        let file = self.file.into_inner().map_err(IntoInnerError::into_error);
        Ok((file.map_err(Error::io("writing the journal of a snapshot"))?, self.spent))
    }
}

/// Reads a journal from its beginning.
pub(super) fn replay(
    mut file: File,
    mut each: impl FnMut(Tree, &[u8], Option<&[u8]>) -> Result<()>,
) -> Result<()> {
    let failed = |error: io::Error| match error.kind() {
        ErrorKind::InvalidData => {
            damaged("the journal of a snapshot", "it was changed while it was being read")
        }
        _ => Error::io("reading the journal of a snapshot")(error),
    };
    file.rewind().map_err(failed)?;
    let mut file = BufReader::with_capacity(64 << 10, file);
    while let Some((tree, key, value)) = entry::read(&mut file).map_err(failed)? {
        each(tree, &key, value.as_deref())?;
    }
    Ok(())
}
