//! Writing to content files: beside the hashing, and past the system's cache where that is wanted.
//!
//! A copy in that cache costs more than all else that is done with what a push brings but the hashing, and takes the room of what others
//! read. Without it long runs of whole blocks go to the disk from where they are (`O_DIRECT`), and the ends go the usual way. The sync that makes
//! them durable is the same for both.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

use crate::oci::Hasher;
use crate::store::buffers::{BLOCK, Buffer};

/// What is shorter goes through the cache, in bytes: its system calls would be most of what it costs.
const LEAST: usize = 64 << 10;

/// How many writes have a thread of their own, so that hashing goes on beside them. More would only take turns.
const BESIDE: usize = 8;
static BESIDES: AtomicUsize = AtomicUsize::new(0);

/// A content file that is being written.
pub(super) struct Written {
    pub(super) file: File,
    /// Whether to do without the system's cache, as far as is known yet.
    direct: bool,
}

impl Written {
    pub(super) const fn new(file: File, past_cache: bool) -> Self {
        Self { file, direct: past_cache }
    }

    /// Writes bytes and has them hashed; all or an error, after which the hasher has seen nothing of them.
    pub(super) fn write_all_at(&mut self, bytes: &[u8], offset: u64, hasher: &mut Hasher) -> io::Result<()> {
        let hashed = hasher.clone();
        let beside = if bytes.len() < LEAST { None } else { Beside::enter() };
        let by_another = beside.and_then(|_beside| {
            thread::scope(|scope| {
                // Where no thread is to be had, it goes without.
                let writing =
                    thread::Builder::new().spawn_scoped(scope, || self.write(bytes, offset)).ok()?;
                hasher.update(bytes);
                Some(writing.join().unwrap_or_else(|_| Err(io::Error::other("the write ended early"))))
            })
        });
        let written = by_another.unwrap_or_else(|| {
            hasher.update(bytes);
            self.write(bytes, offset)
        });
        if written.is_err() {
            *hasher = hashed;
        }
        written
    }

    fn write(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let into_block = usize::try_from(offset % BLOCK as u64).unwrap_or_default();
        let head = (BLOCK - into_block) % BLOCK;
        let whole = bytes.len().saturating_sub(head) / BLOCK * BLOCK;
        if !self.direct || whole < LEAST {
            return self.file.write_all_at(bytes, offset);
        }
        let (head, rest) = bytes.split_at(head);
        let (whole, tail) = rest.split_at(whole);
        self.file.write_all_at(head, offset)?;
        let offset = offset + head.len() as u64;
        self.write_blocks(whole, offset)?;
        self.file.write_all_at(tail, offset + whole.len() as u64)
    }

    /// Writes whole blocks to a block's beginning, past the cache where that is possible.
    fn write_blocks(&mut self, blocks: &[u8], offset: u64) -> io::Result<()> {
        if blocks.as_ptr().align_offset(BLOCK) == 0 {
            return self.write_aligned(blocks, offset);
        }
        let (mut rest, mut offset) = (blocks, offset);
        while !rest.is_empty() {
            let mut buffer = Buffer::of(rest.len() as u64);
            let (now, later) = rest.split_at(buffer.len().min(rest.len()));
            buffer.copy_from_slice(now);
            self.write_aligned(&buffer, offset)?;
            offset += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    fn write_aligned(&mut self, blocks: &[u8], offset: u64) -> io::Result<()> {
        if self.direct {
            match past_the_cache(&self.file, |file| file.write_all_at(blocks, offset)) {
                // Not on this filesystem, or not with blocks of this size, or only a part of it was written.
                Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                    self.direct = false;
                }
                outcome => return outcome,
            }
        }
        self.file.write_all_at(blocks, offset)
    }
}

/// Nobody else uses the file meanwhile: a session has one writer.
fn past_the_cache(file: &File, write: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
    let flags = fcntl_getfl(file.as_fd())?;
    fcntl_setfl(file.as_fd(), flags | OFlags::DIRECT)?;
    let outcome = write(file);
    fcntl_setfl(file.as_fd(), flags)?;
    outcome
}

/// A place among those that write beside the hashing.
struct Beside;

impl Beside {
    fn enter() -> Option<Self> {
        let free = |places: usize| (places < BESIDE).then_some(places + 1);
        BESIDES.fetch_update(Ordering::Relaxed, Ordering::Relaxed, free).ok().map(|_| Self)
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        BESIDES.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    /// Every way of lying across blocks, in the file and in memory.
    #[test]
    fn what_is_written_is_there_wherever_it_begins_and_ends() {
        let folder = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..600_000_u32).map(|n| (n % 251) as u8).collect();
        for start in [0, 1, 4095, 4096, 5000] {
            for length in [0, 1, LEAST - 1, LEAST + BLOCK, 3 * LEAST + 1, 500_000] {
                let path = folder.path().join("file");
                let file = File::options().read(true).write(true).create(true).truncate(true).open(&path);
                let mut written = Written::new(file.unwrap(), true);
                let mut hasher = Hasher::new(Algorithm::Sha256);
                let end = start + length;
                written.write_all_at(&content[..start], 0, &mut hasher).unwrap();
                // As who gathers does it: the memory lies across blocks as the file does.
                let mut buffer = Buffer::of((end + BLOCK) as u64);
                match buffer.get_mut(start % BLOCK..start % BLOCK + length) {
                    Some(room) => {
                        room.copy_from_slice(&content[start..end]);
                        written.write_all_at(room, start as u64, &mut hasher).unwrap();
                    }
                    None => written.write_all_at(&content[start..end], start as u64, &mut hasher).unwrap(),
                }
                written.write_all_at(&content[end..], end as u64, &mut hasher).unwrap();
                assert_eq!(std::fs::read(&path).unwrap(), content, "{start} {length}");
                assert_eq!(hasher.finish(), Algorithm::Sha256.digest(&content));
                // Nobody else is to find the file as it is only while it is written.
                assert!(!fcntl_getfl(&written.file).unwrap().contains(OFlags::DIRECT));
            }
        }
    }

    #[test]
    fn a_failed_write_leaves_the_hash_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, b"x").unwrap();
        let mut written = Written::new(File::open(&path).unwrap(), true);
        for length in [1, 4 * LEAST] {
            let mut hasher = Hasher::new(Algorithm::Sha256);
            hasher.update(b"a");
            written.write_all_at(&vec![1; length], 0, &mut hasher).unwrap_err();
            assert_eq!(hasher.finish(), Algorithm::Sha256.digest(b"a"));
        }
    }
}
