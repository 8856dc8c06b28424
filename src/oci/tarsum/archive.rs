//! Reading a tar and summing it up, in memory that does not depend on the size of its entries.

use std::collections::HashSet;
use std::io::{self, BufRead, Read};

use data_encoding::HEXLOWER;
use md5::Md5;
use sha1::Sha1;
use sha2::digest::DynDigest;
use sha2::{Digest as _, Sha224, Sha256, Sha384, Sha512};

use super::header::{BLOCK, GNU_LONG_LINK, GNU_LONG_NAME, GNU_SPARSE, Header, PAX, SPARSE, text};
use super::order::Sorting;
use super::{TarSum, TarSumAlgorithm, TarSumVersion};
use crate::oci::unpack::unpack;

/// The most entries of an archive: of each a hash is kept until the end, 50 to 90 bytes with what belongs to it.
const MOST_ENTRIES: usize = 1 << 20;
/// The longest of what stands in front of an entry: a name, or PAX records, in bytes.
const LONGEST_EXTENSION: u64 = 1 << 20;
/// The most bytes of an archive when it is unpacked: what is packed can become a thousand times as much.
const LONGEST_ARCHIVE: u64 = 256 << 30;

/// Why an archive has no TarSum.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TarSumError {
    /// The archive could not be read: what was read of it failed, or it is packed and damaged.
    #[error("the layer could not be read: {0}")]
    Read(#[from] io::Error),
    /// It ends in the middle of something.
    #[error("the layer is no whole tar: it ends in the middle of entry {entry}")]
    Truncated {
        /// Which entry, counted from zero.
        entry: usize,
    },
    /// An entry cannot be made sense of.
    #[error("the layer is no tar that can be summed up: entry {entry}: {reason}")]
    Entry {
        /// Which entry, counted from zero.
        entry: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// It is larger than what is summed up.
    #[error(
        "the layer is too large for a TarSum: at most {MOST_ENTRIES} entries, and {LONGEST_ARCHIVE} bytes when it is unpacked"
    )]
    TooLarge,
}

impl TarSum {
    /// The TarSum of a layer, which is a tar, or one packed by gzip. What stands behind the end of the tar is
    /// read, and does not count.
    ///
    /// # Errors
    /// [`TarSumError`] when it is none.
    pub fn of(
        version: TarSumVersion,
        algorithm: TarSumAlgorithm,
        layer: impl Read,
    ) -> Result<Self, TarSumError> {
        let (tar, _) = unpack(layer)?;
        Summing::new(version, algorithm, tar).run()
    }
}

fn hasher(algorithm: TarSumAlgorithm) -> Box<dyn DynDigest> {
    match algorithm {
        TarSumAlgorithm::Md5 => Box::new(Md5::new()),
        TarSumAlgorithm::Sha1 => Box::new(Sha1::new()),
        TarSumAlgorithm::Sha224 => Box::new(Sha224::new()),
        TarSumAlgorithm::Sha256 => Box::new(Sha256::new()),
        TarSumAlgorithm::Sha384 => Box::new(Sha384::new()),
        TarSumAlgorithm::Sha512 => Box::new(Sha512::new()),
    }
}

struct Summing<R> {
    version: TarSumVersion,
    algorithm: TarSumAlgorithm,
    hasher: Box<dyn DynDigest>,
    /// Cut where an archive is too large.
    layer: io::Take<R>,
    sums: Sums,
}

/// The sums of the entries, in their order in the archive.
struct Sums {
    /// One after the other.
    bytes: Vec<u8>,
    size: usize,
    /// Hashes of the entries' paths.
    paths: Vec<u128>,
}

impl Sums {
    fn get(&self, at: usize) -> &[u8] {
        self.bytes.chunks_exact(self.size).nth(at).unwrap_or_default()
    }

    /// The places of the entries, in the order in which their sums are summed up.
    fn sorted(&self) -> Vec<usize> {
        let mut places: Vec<usize> = (0..self.paths.len()).collect();
        let mut seen = HashSet::with_capacity(self.paths.len());
        if self.paths.iter().all(|path| seen.insert(path)) {
            places.sort_unstable_by_key(|at| self.get(*at));
        } else {
            drop(seen);
            let less = |a: usize, b: usize| {
                if self.paths.get(a) == self.paths.get(b) { a < b } else { self.get(a) < self.get(b) }
            };
            Sorting::new(&mut places, less).sort();
        }
        places
    }
}

impl<R: BufRead> Summing<R> {
    fn new(version: TarSumVersion, algorithm: TarSumAlgorithm, layer: R) -> Self {
        let sums = Sums { bytes: Vec::new(), size: algorithm.size(), paths: Vec::new() };
        Self { version, algorithm, hasher: hasher(algorithm), layer: layer.take(LONGEST_ARCHIVE), sums }
    }

    fn run(mut self) -> Result<TarSum, TarSumError> {
        while let Some(header) = self.next()? {
            if self.sums.paths.len() == MOST_ENTRIES {
                return Err(TarSumError::TooLarge);
            }
            self.hash_header(&header);
            self.hash_body(header.size)?;
            self.sums.bytes.extend_from_slice(&self.hasher.finalize_reset());
            self.sums.paths.push(path(&header.name));
        }
        // It does not count, but is unpacked: how much of it would be otherwise is chance, and so whether damage in it is met.
        io::copy(&mut self.layer, &mut io::sink())?;
        for at in self.sums.sorted() {
            self.hasher.update(HEXLOWER.encode(self.sums.get(at)).as_bytes());
        }
        let total = self.hasher.finalize_reset();
        Ok(TarSum { version: self.version, algorithm: self.algorithm, hex: HEXLOWER.encode(&total) })
    }

    const fn entry(&self) -> usize {
        self.sums.paths.len()
    }

    fn wrong(&self, reason: &'static str) -> TarSumError {
        TarSumError::Entry { entry: self.entry(), reason }
    }

    /// The next entry's header, with what stands in front of it; none at the end.
    fn next(&mut self) -> Result<Option<Header>, TarSumError> {
        let (mut name, mut linkname, mut records) = (None, None, None);
        loop {
            let Some(block) = self.block()? else {
                let is_whole = name.is_none() && linkname.is_none() && records.is_none();
                return if is_whole { Ok(None) } else { Err(TarSumError::Truncated { entry: self.entry() }) };
            };
            let mut header = Header::read(&block).map_err(|reason| self.wrong(reason))?;
            match header.typeflag {
                GNU_LONG_NAME => name = Some(text(&self.extension(header.size)?)),
                GNU_LONG_LINK => linkname = Some(text(&self.extension(header.size)?)),
                PAX => records = Some(self.extension(header.size)?),
                GNU_SPARSE => return Err(self.wrong(SPARSE)),
                _ => {
                    if let Some(records) = records {
                        header.merge(&records).map_err(|reason| self.wrong(reason))?;
                    }
                    header.name = name.unwrap_or(header.name);
                    header.linkname = linkname.unwrap_or(header.linkname);
                    return Ok(Some(header));
                }
            }
        }
    }

    /// The next header's block; none where the archive ends, as it does with two blocks of zeros, or with its last entry.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, TarSumError> {
        let Some(block) = self.read_block()? else { return Ok(None) };
        if block != [0; BLOCK] {
            return Ok(Some(block));
        }
        match self.read_block()? {
            None => Ok(None),
            Some(block) if block == [0; BLOCK] => Ok(None),
            Some(_) => Err(self.wrong("a block of zeros stands before it")),
        }
    }

    fn read_block(&mut self) -> Result<Option<[u8; BLOCK]>, TarSumError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while let Some(room) = block.get_mut(filled..).filter(|room| !room.is_empty()) {
            match self.layer.read(room) {
                Ok(0) if filled == 0 && self.layer.limit() > 0 => return Ok(None),
                Ok(0) => return Err(self.ended()),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Some(block))
    }

    /// Why there is no more.
    fn ended(&self) -> TarSumError {
        if self.layer.limit() == 0 {
            return TarSumError::TooLarge;
        }
        TarSumError::Truncated { entry: self.entry() }
    }

    /// What stands in front of an entry.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>, TarSumError> {
        if size > LONGEST_EXTENSION {
            return Err(self.wrong("a name or the PAX records in front of it are too long: at most a MiB"));
        }
        let mut bytes = Vec::new();
        self.body(size, |piece| bytes.extend_from_slice(piece))?;
        Ok(bytes)
    }

    fn hash_body(&mut self, size: u64) -> Result<(), TarSumError> {
        let mut hasher = std::mem::replace(&mut self.hasher, hasher(self.algorithm));
        let outcome = self.body(size, |piece| hasher.update(piece));
        self.hasher = hasher;
        outcome
    }

    /// Passes on the bytes of an entry, and skips what fills their last block.
    fn body(&mut self, size: u64, mut take: impl FnMut(&[u8])) -> Result<(), TarSumError> {
        let padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
        for (mut left, counts) in [(size, true), (padding, false)] {
            while left > 0 {
                let piece = match self.layer.fill_buf() {
                    Ok(piece) => piece,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error.into()),
                };
                let count = usize::try_from(left).map_or(piece.len(), |left| left.min(piece.len()));
                let Some(piece) = piece.get(..count).filter(|piece| !piece.is_empty()) else {
                    return Err(self.ended());
                };
                if counts {
                    take(piece);
                }
                self.layer.consume(count);
                left -= count as u64;
            }
        }
        Ok(())
    }

    fn hash_header(&mut self, header: &Header) {
        let mut field = |name: &str, value: &[u8]| {
            self.hasher.update(name.as_bytes());
            self.hasher.update(value);
        };
        field("name", &header.name);
        field("mode", header.mode.to_string().as_bytes());
        field("uid", header.uid.to_string().as_bytes());
        field("gid", header.gid.to_string().as_bytes());
        field("size", header.size.to_string().as_bytes());
        if self.version == TarSumVersion::V0 {
            field("mtime", header.mtime.to_string().as_bytes());
        }
        field("typeflag", &[header.typeflag]);
        field("linkname", &header.linkname);
        field("uname", &header.uname);
        field("gname", &header.gname);
        field("devmajor", header.devmajor.to_string().as_bytes());
        field("devminor", header.devminor.to_string().as_bytes());
        if self.version != TarSumVersion::V0 {
            for (name, value) in &header.xattrs {
                self.hasher.update(name);
                self.hasher.update(value);
            }
        }
    }
}

/// What tells an entry's path from others: `./a/` is `a`.
fn path(name: &[u8]) -> u128 {
    let name = name.strip_prefix(b"./").unwrap_or(name);
    let name = name.strip_suffix(b"/").unwrap_or(name);
    Sha256::digest(name).first_chunk().map_or(0, |first| u128::from_le_bytes(*first))
}
