//! Bytes: in chunks inside the index, or in files that never move.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::io::{ReadWriteFlags, preadv2};
use uuid::Uuid;

use super::desk::Steps;
use super::index::Index;
use super::map::Map;
use super::opened::Opened;
use super::quarantine::Owned;
use super::schema::{self, Content as Recorded, Placement, Tree, damaged};
use super::store::Core;
use crate::error::{Error, Result};
use crate::oci::Digest;
use crate::store::{Check, Content, ResidentBytes, View};

/// Content of at most so many bytes is read when it is opened; what is longer is read as it is asked for.
const READ_AT_ONCE: u64 = 64 << 10;

/// A new id. They are ordered by time, so that chunks are added at the end of their tree.
pub(super) fn new_id() -> Uuid {
    Uuid::now_v7()
}

/// Opens committed content for reading. What is read at once is also looked at: bytes of another digest are an error.
pub(super) fn open(opened: Opened) -> Result<Arc<dyn Content>> {
    let Owned { content: recorded, .. } = *opened.owned();
    let core = opened.core();
    match recorded.placement {
        _ if recorded.size <= READ_AT_ONCE => {
            let bytes = core.read(|index| read_whole(index, core, &recorded))?;
            opened.judge(&bytes)?;
            Ok(Arc::new(Bytes(bytes.into())))
        }
        Placement::Inline(id) => Ok(Arc::new(Chunks { id, size: recorded.size, opened: Arc::new(opened) })),
        Placement::File(id) => {
            let file = open_file(core, id)?;
            check_length(id, &file, recorded.size)?;
            Ok(Arc::new(InFile { file, size: recorded.size, opened: Arc::new(opened) }))
        }
    }
}

/// Whether content is where its record says, as far as that shows without reading much: a file's length, and all of what is read
/// at once.
pub(super) fn looks_whole(core: &Core, digest: &Digest, recorded: &Recorded) -> Result<bool> {
    if recorded.size <= READ_AT_ONCE {
        let bytes = core.read(|index| read_whole(index, core, recorded));
        return told_apart(bytes.map(|bytes| digest.algorithm().digest(&bytes) == *digest));
    }
    match recorded.placement {
        Placement::Inline(_) => Ok(true),
        Placement::File(id) => told_apart(
            open_file(core, id).and_then(|file| check_length(id, &file, recorded.size)).map(|()| true),
        ),
    }
}

fn told_apart(outcome: Result<bool>) -> Result<bool> {
    match outcome {
        Err(error) if is_damage(&error) => Ok(false),
        outcome => outcome,
    }
}

/// Whether content is lost by what reading it failed with: it is not what was written, or the disk cannot give it. Other failures
/// say nothing about it.
pub(super) fn is_damage(error: &Error) -> bool {
    let lost = rustix::io::Errno::IO.raw_os_error();
    match error {
        Error::Damaged { .. } => true,
        Error::Io { source, .. } => source.raw_os_error() == Some(lost),
        _ => false,
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

pub(super) fn open_file(core: &Core, id: Uuid) -> Result<File> {
    File::open(core.folder.content(id)).map_err(|error| match error.kind() {
        ErrorKind::NotFound => damaged(&format!("content {id}"), "its file is missing"),
        _ => Error::io(format!("opening content {id}"))(error),
    })
}

pub(super) fn check_length(id: Uuid, file: &File, size: u64) -> Result<()> {
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

    fn read_at_hand(&self, position: u64, buffer: &mut [u8]) -> usize {
        self.read_at(position, buffer).map_or(0, |()| buffer.len())
    }

    fn view(&self) -> Option<View> {
        Some(View::new(Arc::new(Self(Arc::clone(&self.0)))))
    }

    fn check(&self) -> Option<Box<dyn Check>> {
        None
    }
}

impl ResidentBytes for Bytes {
    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn make_resident(&self, _start: usize, _length: usize) -> io::Result<()> {
        Ok(())
    }
}

struct Chunks {
    id: Uuid,
    size: u64,
    opened: Arc<Opened>,
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
        let read = self.opened.core().read(|index| read_chunks(index, self.id, position, buffer));
        read.map_err(|error| self.opened.met(io::Error::other(error)))
    }

    fn read_at_hand(&self, _position: u64, _buffer: &mut [u8]) -> usize {
        0
    }

    fn view(&self) -> Option<View> {
        None
    }

    fn check(&self) -> Option<Box<dyn Check>> {
        Some(self.opened.check())
    }
}

struct InFile {
    file: File,
    size: u64,
    opened: Arc<Opened>,
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
        self.file.read_exact_at(buffer, position).map_err(|error| self.opened.met(error))
    }

    fn read_at_hand(&self, position: u64, buffer: &mut [u8]) -> usize {
        if check_range(self.size, position, buffer.len()).is_err() {
            return 0;
        }
        // What the system's cache has not is refused, and so is the whole by systems that do not know the flag.
        preadv2(&self.file, &mut [IoSliceMut::new(buffer)], position, ReadWriteFlags::NOWAIT)
            .unwrap_or_default()
    }

    fn view(&self) -> Option<View> {
        let map = Map::new(&self.file).ok()?;
        Some(View::new(Arc::new(Mapped { map, opened: Arc::clone(&self.opened) })))
    }

    fn check(&self) -> Option<Box<dyn Check>> {
        Some(self.opened.check())
    }
}

struct Mapped {
    map: Map,
    opened: Arc<Opened>,
}

impl ResidentBytes for Mapped {
    fn bytes(&self) -> &[u8] {
        self.map.bytes()
    }

    fn make_resident(&self, start: usize, length: usize) -> io::Result<()> {
        self.map.make_resident(start, length).map_err(|error| self.opened.met(error))
    }
}
