//! Reading again what an upload session has taken in.

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use uuid::Uuid;

use super::content;
use super::store::Core;
use crate::error::Result;

/// The bytes of a session as it was, from the first to the last.
pub(super) enum Reread {
    Held(Cursor<Vec<u8>>),
    File {
        file: File,
        position: u64,
        end: u64,
    },
    /// In the index up to `end`; the tail is nowhere else.
    Chunks {
        core: Arc<Core>,
        id: Uuid,
        position: u64,
        end: u64,
        tail: Cursor<Vec<u8>>,
    },
}

impl Read for Reread {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Held(held) => held.read(buffer),
            Self::File { file, position, end } => {
                let Some(room) = room(buffer, *position, *end) else { return Ok(0) };
                let count = file.read_at(room, *position)?;
                if count == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                *position += count as u64;
                Ok(count)
            }
            Self::Chunks { core, id, position, end, tail } => {
                let Some(room) = room(buffer, *position, *end) else { return tail.read(buffer) };
                let count = room.len();
                core.read(|index| content::read_chunks(index, *id, *position, room))
                    .map_err(io::Error::other)?;
                *position += count as u64;
                Ok(count)
            }
        }
    }
}

/// As much of a buffer as there are bytes for; nothing where there are none.
fn room(buffer: &mut [u8], position: u64, end: u64) -> Option<&mut [u8]> {
    let left = end.saturating_sub(position);
    let count = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
    buffer.get_mut(..count).filter(|_| left > 0)
}

/// Passes on all that there is, a large piece at a time.
pub(super) fn each_piece(mut bytes: impl Read, mut take: impl FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        match bytes.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => take(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// A handle of its own on a file.
pub(super) fn file(file: &File, end: u64, doing: impl Into<String>) -> Result<Reread> {
    let file = file.try_clone().map_err(crate::error::Error::io(doing))?;
    Ok(Reread::File { file, position: 0, end })
}
