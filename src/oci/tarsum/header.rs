//! What the header of a tar's entry says to Go's `archive/tar` of 2014: a TarSum is a sum of that. Who reads tars better than it did
//! gets other sums, so no library does this.

use std::collections::BTreeMap;
use std::ops::Range;

pub(super) const BLOCK: usize = 512;

const NAME: Range<usize> = 0..100;
const MODE: Range<usize> = 100..108;
const UID: Range<usize> = 108..116;
const GID: Range<usize> = 116..124;
const SIZE: Range<usize> = 124..136;
const MTIME: Range<usize> = 136..148;
const CHECKSUM: Range<usize> = 148..156;
const TYPEFLAG: usize = 156;
const LINKNAME: Range<usize> = 157..257;
const MAGIC: Range<usize> = 257..265;
const UNAME: Range<usize> = 265..297;
const GNAME: Range<usize> = 297..329;
const DEVMAJOR: Range<usize> = 329..337;
const DEVMINOR: Range<usize> = 337..345;
const PREFIX: Range<usize> = 345..500;
/// What is left of the prefix in star's form.
const STAR_PREFIX: Range<usize> = 345..476;
const STAR_TRAILER: Range<usize> = 508..512;

pub(super) const CHARACTER_DEVICE: u8 = b'3';
pub(super) const BLOCK_DEVICE: u8 = b'4';
pub(super) const GNU_SPARSE: u8 = b'S';
pub(super) const GNU_LONG_NAME: u8 = b'L';
pub(super) const GNU_LONG_LINK: u8 = b'K';
pub(super) const PAX: u8 = b'x';

/// An entry's header. Texts are bytes, whatever they are in.
#[derive(Clone, Debug, Default)]
pub(super) struct Header {
    pub(super) name: Vec<u8>,
    pub(super) mode: u64,
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) size: u64,
    pub(super) mtime: i64,
    pub(super) typeflag: u8,
    pub(super) linkname: Vec<u8>,
    pub(super) uname: Vec<u8>,
    pub(super) gname: Vec<u8>,
    pub(super) devmajor: u64,
    pub(super) devminor: u64,
    /// By their names, without what they have in front of them in an archive; the last of a name counts.
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Header {
    /// Reads a block.
    pub(super) fn read(block: &[u8; BLOCK]) -> Result<Self, &'static str> {
        check(block)?;
        let bytes = |range: Range<usize>| block.get(range).unwrap_or_default();
        let mut header = Self {
            name: text(bytes(NAME)),
            mode: number(bytes(MODE))?,
            uid: number(bytes(UID))?,
            gid: number(bytes(GID))?,
            size: number(bytes(SIZE))?,
            mtime: number(bytes(MTIME))?.cast_signed(),
            typeflag: block.get(TYPEFLAG).copied().unwrap_or_default(),
            linkname: text(bytes(LINKNAME)),
            ..Self::default()
        };
        let prefix = match bytes(MAGIC) {
            b"ustar\x0000" if bytes(STAR_TRAILER) == b"tar\0" => STAR_PREFIX,
            b"ustar\x0000" | b"ustar  \0" => PREFIX,
            // Before POSIX there were no more fields.
            _ => return Ok(header),
        };
        (header.uname, header.gname) = (text(bytes(UNAME)), text(bytes(GNAME)));
        if matches!(header.typeflag, CHARACTER_DEVICE | BLOCK_DEVICE) {
            (header.devmajor, header.devminor) = (number(bytes(DEVMAJOR))?, number(bytes(DEVMINOR))?);
        }
        let prefix = text(bytes(prefix));
        if !prefix.is_empty() {
            header.name = [prefix.as_slice(), b"/", &header.name].concat();
        }
        Ok(header)
    }

    /// Takes over the records of a PAX header that stands before it.
    pub(super) fn merge(&mut self, records: &[u8]) -> Result<(), &'static str> {
        let mut rest = records;
        while !rest.is_empty() {
            let (key, value) = record(&mut rest).ok_or("a PAX record is damaged")?;
            let number = || std::str::from_utf8(value).ok()?.parse::<u64>().ok();
            let wrong = "a number of a PAX record is none";
            match key {
                b"path" => self.name = value.to_vec(),
                b"linkpath" => self.linkname = value.to_vec(),
                b"uname" => self.uname = value.to_vec(),
                b"gname" => self.gname = value.to_vec(),
                b"uid" => self.uid = number().ok_or(wrong)?,
                b"gid" => self.gid = number().ok_or(wrong)?,
                b"size" => self.size = number().ok_or(wrong)?,
                b"mtime" => self.mtime = seconds(value).ok_or(wrong)?,
                _ if key.starts_with(b"GNU.sparse.") => return Err(SPARSE),
                _ => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        self.xattrs.insert(name.to_vec(), value.to_vec());
                    }
                }
            }
        }
        Ok(())
    }
}

pub(super) const SPARSE: &str = "it is a sparse file, of which no TarSum is made here";

fn check(block: &[u8; BLOCK]) -> Result<(), &'static str> {
    let stated = number(block.get(CHECKSUM).unwrap_or_default())?;
    let with_blanks =
        block.iter().enumerate().map(|(at, byte)| if CHECKSUM.contains(&at) { b' ' } else { *byte });
    let (mut unsigned, mut signed) = (0_i64, 0_i64);
    for byte in with_blanks {
        unsigned += i64::from(byte);
        // Some old tars took bytes for signed.
        signed += i64::from(byte.cast_signed());
    }
    let stated = i64::try_from(stated).map_err(|_| "its checksum does not fit")?;
    if stated == unsigned || stated == signed { Ok(()) } else { Err("its checksum does not fit") }
}

/// Up to the first zero.
pub(super) fn text(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().copied().take_while(|byte| *byte != 0).collect()
}

/// Octal digits, or GNU's binary form, of which the last 64 bits count.
fn number(field: &[u8]) -> Result<u64, &'static str> {
    if let Some(first) = field.first().filter(|first| **first & 0x80 != 0) {
        let rest = field.iter().skip(1);
        return Ok(rest.fold(u64::from(first & 0x7f), |number, byte| number << 8 | u64::from(*byte)));
    }
    let is_padding = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !is_padding(byte)).unwrap_or(field.len());
    let trimmed = field.get(start..).unwrap_or_default();
    let end = trimmed.iter().rposition(|byte| !is_padding(byte)).map_or(0, |last| last + 1);
    let digits = text(trimmed.get(..end).unwrap_or_default());
    if digits.is_empty() {
        return Ok(0);
    }
    let digits =
        std::str::from_utf8(&digits).ok().filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|digits| u64::from_str_radix(digits, 8).ok()).ok_or("a number of its header is none")
}

/// A PAX record: its own length, a key and a value.
fn record<'a>(rest: &mut &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let blank = rest.iter().position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(rest.get(..blank)?).ok()?.parse().ok()?;
    let (whole, after) = rest.split_at_checked(length)?;
    let content = whole.get(blank + 1..)?.strip_suffix(b"\n")?;
    let equals = content.iter().position(|byte| *byte == b'=')?;
    *rest = after;
    Some((content.get(..equals)?, content.get(equals + 1..)?))
}

/// The whole seconds of a time.
fn seconds(value: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(value).ok()?;
    text.split_once('.').map_or(text, |(whole, _)| whole).parse().ok()
}
