//! The map of a content file. The one place with `unsafe`.

use std::fs::File;
use std::io;

use memmap2::{Advice, Mmap};

use crate::store::ResidentBytes;

/// A read-only map of a whole content file.
pub(super) struct Map(Mmap);

impl Map {
    pub(super) fn new(file: &File) -> io::Result<Self> {
        // SAFETY: a map is sound as long as nobody changes the file's bytes or length beneath it. A content file is written by
        // one upload session, and this store maps it only once it is committed: from then on nothing writes to it or cuts it,
        // and unlinking it leaves the mapped bytes. The folder is locked, so no other process of ours has it. A stranger that
        // truncates files in the data folder can raise SIGBUS in a thread that reads the map; the bytes are therefore given to
        // the kernel (`write`, where it is an EFAULT) and not looked at by the program (`View` says so).
        #[expect(unsafe_code, reason = "there is no safe way to map a file")]
        let map = unsafe { Mmap::map(file)? };
        Ok(Self(map))
    }
}

impl ResidentBytes for Map {
    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn make_resident(&self, start: usize, length: usize) -> io::Result<()> {
        // Populating reads the pages in one call, and reports what the disk fails with as an error instead of a signal.
        // Kernels before 5.14 do not know it; asking them to read ahead is the best that can be done there.
        match self.0.advise_range(Advice::PopulateRead, start, length) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                self.0.advise_range(Advice::WillNeed, start, length)
            }
            outcome => outcome,
        }
    }
}
