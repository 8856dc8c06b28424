//! Memory for bytes on their way to and from files: on a block boundary, as the disk wants it, and used again.
//!
//! New memory is dear: the system clears each page of it, which takes longer than what most bytes are brought into it for. What is used
//! again is bounded, so that many clients take no more than a few do: whoever finds all large buffers in use gets a small one.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a disk reads and writes at once, in bytes: a file's offset, a length and an address in memory are to be its multiples.
pub(crate) const BLOCK: usize = 4096;

/// The size of a large buffer, in bytes.
pub(crate) const LARGE: usize = 512 << 10;
/// The size of a buffer when all large ones are in use, in bytes.
pub(crate) const SMALL: usize = 64 << 10;
/// How many large ones there are at most.
const LARGE_AT_MOST: usize = 48;
/// How many of them wait to be used again.
const WAITING_AT_MOST: usize = 8;

static POOL: Mutex<Pool> = Mutex::new(Pool { waiting: Vec::new(), in_use: 0 });

struct Pool {
    waiting: Vec<Vec<u8>>,
    in_use: usize,
}

impl Pool {
    /// A place for a large buffer, if there is one, and memory for it, if any waits.
    fn take(&mut self) -> Option<Option<Vec<u8>>> {
        let free = self.in_use < LARGE_AT_MOST;
        self.in_use += usize::from(free);
        free.then(|| self.waiting.pop())
    }
}

fn pool() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes that begin on a block boundary. What is in them at first is of no meaning.
pub(crate) struct Buffer {
    memory: Vec<u8>,
    start: usize,
    size: usize,
    is_large: bool,
}

impl Buffer {
    /// Of as many bytes as are wanted, or of fewer: [`LARGE`] at most, and [`SMALL`] where all large ones are in use.
    pub(crate) fn of(wanted: u64) -> Self {
        let wanted = usize::try_from(wanted).unwrap_or(LARGE).min(LARGE);
        let waiting = if wanted > SMALL { pool().take() } else { None };
        let is_large = waiting.is_some();
        let size = if is_large { wanted } else { wanted.min(SMALL) };
        let whole = if is_large { LARGE } else { size } + BLOCK - 1;
        let memory = waiting.flatten().unwrap_or_else(|| vec![0; whole]);
        let start = memory.as_ptr().align_offset(BLOCK).min(memory.len() - size);
        Self { memory, start, size, is_large }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory.get(self.start..self.start + self.size).unwrap_or_default()
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.memory.get_mut(self.start..self.start + self.size).unwrap_or_default()
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.is_large {
            let mut pool = pool();
            pool.in_use -= 1;
            if pool.waiting.len() < WAITING_AT_MOST {
                pool.waiting.push(std::mem::take(&mut self.memory));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_begin_on_a_block_and_are_small_where_many_are_in_use() {
        let mut held: Vec<Buffer> = (0..2 * LARGE_AT_MOST).map(|_| Buffer::of(u64::MAX)).collect();
        let large = held.iter().filter(|buffer| buffer.len() == LARGE).count();
        // Other tests of this process have some of them.
        assert!((1..=LARGE_AT_MOST).contains(&large), "{large}");
        assert!(held.iter().all(|buffer| buffer.len() == LARGE || buffer.len() == SMALL));
        assert!(held.iter().all(|buffer| buffer.as_ptr().align_offset(BLOCK) == 0));
        held.iter_mut().for_each(|buffer| buffer.fill(1));
        drop(held);
        assert!(pool().waiting.len() <= WAITING_AT_MOST);
        for wanted in [0, 1, BLOCK, SMALL, SMALL + 1, LARGE] {
            let buffer = Buffer::of(wanted as u64);
            assert!(buffer.len() == wanted || buffer.len() == SMALL, "{wanted}");
        }
    }
}
