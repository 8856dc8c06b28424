//! Bytes: in chunks inside the index, or in files that never move.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use uuid::Uuid;

use super::desk::Steps;
use super::index::Index;
use super::map::Map;
use super::schema::{self, Content as Recorded, Placement, Tree, damaged};
use super::store::Core;
use crate::error::{Error, Result};
use crate::store::{Content, View};

/// Content of at most so many bytes is read when it is opened; what is longer is read as it is asked for.
const READ_AT_ONCE: u64 = 64 << 10;

/// A new id. They are ordered by time, so that chunks are added at the end of their tree.
pub(super) fn new_id() -> Uuid {
    Uuid::now_v7()
}

/// Opens committed content for reading.
pub(super) fn open(core: &Arc<Core>, recorded: &Recorded) -> Result<Arc<dyn Content>> {
    match recorded.placement {
        _ if recorded.size <= READ_AT_ONCE => core
            .read(|index| read_whole(index, core, recorded))
            .map(|bytes| Arc::new(Bytes(bytes.into())) as _),
        Placement::Inline(id) => Ok(Arc::new(Chunks { core: Arc::clone(core), id, size: recorded.size })),
        Placement::File(id) => {
            let file = open_file(core, id)?;
            check_length(id, &file, recorded.size)?;
            Ok(Arc::new(InFile { file, size: recorded.size }))
        }
    }
}

/// All of the content. The caller has bounded its size.
pub(super) fn read_whole(index: &Index, core: &Core, recorded: &Recorded) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(recorded.size).unwrap_or(usize::MAX)];
    match recorded.placement {
        Placement::Inline(id) => read_chunks(index, id, 0, &mut bytes)?,
        Placement::File(id) => {
            let file = open_file(core, id)?;
            check_length(id, &file, recorded.size)?;
            file.read_exact_at(&mut bytes, 0).map_err(Error::io(format!("reading content {id}")))?;
        }
    }
    Ok(bytes)
}

fn open_file(core: &Core, id: Uuid) -> Result<File> {
    File::open(core.folder.content(id)).map_err(|error| match error.kind() {
        ErrorKind::NotFound => damaged(&format!("content {id}"), "its file is missing"),
        _ => Error::io(format!("opening content {id}"))(error),
    })
}

fn check_length(id: Uuid, file: &File, size: u64) -> Result<()> {
    let found = file.metadata().map_err(Error::io(format!("looking at content {id}")))?.len();
    if found == size {
        Ok(())
    } else {
        Err(damaged(&format!("content {id}"), &format!("it has {found} bytes instead of {size}")))
    }
}

/// A new file for content; a name that exists already is an error.
pub(super) fn create_file(core: &Core, id: Uuid) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).open(core.folder.content(id))
}

/// Fills the buffer from chunks.
pub(super) fn read_chunks(index: &Index, id: Uuid, position: u64, buffer: &mut [u8]) -> Result<()> {
    let chunk_size = schema::MAX_VALUE as u64;
    let mut position = position;
    let mut rest = buffer;
    while !rest.is_empty() {
        let missing = || {
            damaged(
                &format!("content {id}"),
                &format!("the chunk at byte {position} is missing or too short"),
            )
        };
        let number = u32::try_from(position / chunk_size).map_err(|_| missing())?;
        let skip = usize::try_from(position % chunk_size).map_err(|_| missing())?;
        let chunk = index.value(Tree::Chunks, &schema::chunk_key(id, number))?.ok_or_else(missing)?;
        let wanted = rest.len().min(schema::MAX_VALUE - skip);
        let found = chunk.get(skip..skip + wanted).ok_or_else(missing)?;
        let (now, later) = rest.split_at_mut(wanted);
        now.copy_from_slice(found);
        rest = later;
        position += wanted as u64;
    }
    Ok(())
}

/// Writes chunks in steps, beginning with chunk `first`; they are invisible until a record names them.
pub(super) fn write_chunks(steps: &mut Steps<'_, '_>, id: Uuid, first: u32, bytes: &[u8]) -> Result<()> {
    for (number, chunk) in (first..).zip(bytes.chunks(schema::MAX_VALUE)) {
        steps.next()?.set_value(Tree::Chunks, schema::chunk_key(id, number), chunk.to_vec());
    }
    Ok(())
}

fn check_range(size: u64, position: u64, length: usize) -> io::Result<()> {
    match position.checked_add(length as u64) {
        Some(end) if end <= size => Ok(()),
        _ => Err(io::Error::new(ErrorKind::UnexpectedEof, format!("the content ends at byte {size}"))),
    }
}

struct Bytes(Arc<[u8]>);

impl Content for Bytes {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<()> {
        check_range(self.len(), position, buffer.len())?;
        let start = usize::try_from(position).unwrap_or(usize::MAX);
        if let Some(found) = self.0.get(start..start + buffer.len()) {
            buffer.copy_from_slice(found);
        }
        Ok(())
    }

    fn view(&self) -> Option<View> {
        Some(View::new(Arc::new(Self(Arc::clone(&self.0)))))
    }
}

impl crate::store::ResidentBytes for Bytes {
    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn make_resident(&self, _start: usize, _length: usize) -> io::Result<()> {
        Ok(())
    }
}

struct Chunks {
    core: Arc<Core>,
    id: Uuid,
    size: u64,
}

impl Content for Chunks {
    fn len(&self) -> u64 {
        self.size
    }

    fn is_empty(&self) -> bool {
        self.size == 0
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<()> {
        check_range(self.size, position, buffer.len())?;
        self.core.read(|index| read_chunks(index, self.id, position, buffer)).map_err(io::Error::other)
    }

    fn view(&self) -> Option<View> {
        None
    }
}

struct InFile {
    file: File,
    size: u64,
}

impl Content for InFile {
    fn len(&self) -> u64 {
        self.size
    }

    fn is_empty(&self) -> bool {
        self.size == 0
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<()> {
        check_range(self.size, position, buffer.len())?;
        self.file.read_exact_at(buffer, position)
    }

    fn view(&self) -> Option<View> {
        Map::new(&self.file).ok().map(|map| View::new(Arc::new(map)))
    }
}
