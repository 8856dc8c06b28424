//! The changes that are made while a snapshot is being taken, in their order, in a file of the unfinished snapshot.
//!
//! They are sets and removals of single entries. So whatever a scan saw that ran beside them, when all of them are made over it
//! the outcome is the index as it was when the journal ended: an entry that nobody changed meanwhile was scanned as it is, and
//! of every other the journal has the last word.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, ErrorKind, IntoInnerError, Read, Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::index::Changes;
use super::schema::{MAX_VALUE, Tree, damaged};
use crate::error::{Error, Result};

const REMOVED: u32 = u32::MAX;

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
            if let Err(error) = write_entry(&mut self.file, tree, key, value) {
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

fn write_entry(file: &mut impl Write, tree: Tree, key: &[u8], value: Option<&[u8]>) -> std::io::Result<()> {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(REMOVED);
    let tree = Tree::ALL.iter().position(|other| *other == tree).and_then(|at| u8::try_from(at).ok());
    file.write_all(&[tree.unwrap_or(u8::MAX)])?;
    file.write_all(&length(key).to_le_bytes())?;
    file.write_all(&value.map_or(REMOVED, length).to_le_bytes())?;
    file.write_all(key)?;
    file.write_all(value.unwrap_or_default())
}

/// Reads a journal from its beginning.
pub(super) fn replay(
    mut file: File,
    mut each: impl FnMut(Tree, &[u8], Option<&[u8]>) -> Result<()>,
) -> Result<()> {
    let failed = |error| Error::io("reading the journal of a snapshot")(error);
    let torn = || damaged("the journal of a snapshot", "it was changed while it was being read");
    file.rewind().map_err(failed)?;
    let mut file = BufReader::with_capacity(64 << 10, file);
    loop {
        let mut head = [0; 9];
        match file.read_exact(&mut head[..1]) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(failed(error)),
        }
        file.read_exact(&mut head[1..]).map_err(failed)?;
        let [tree, a, b, c, d, e, f, g, h] = head;
        let tree = *Tree::ALL.get(usize::from(tree)).ok_or_else(torn)?;
        let key = bytes(&mut file, u32::from_le_bytes([a, b, c, d])).map_err(failed)?.ok_or_else(torn)?;
        let value = match u32::from_le_bytes([e, f, g, h]) {
            REMOVED => None,
            length => Some(bytes(&mut file, length).map_err(failed)?.ok_or_else(torn)?),
        };
        each(tree, &key, value.as_deref())?;
    }
}

fn bytes(file: &mut impl Read, length: u32) -> std::io::Result<Option<Vec<u8>>> {
    let Some(length) = usize::try_from(length).ok().filter(|length| *length <= MAX_VALUE) else {
        return Ok(None);
    };
    let mut bytes = vec![0; length];
    file.read_exact(&mut bytes)?;
    Ok(Some(bytes))
}
