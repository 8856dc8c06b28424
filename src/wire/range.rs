//! Byte ranges: of what is read (RFC 9110, section 14), and of what is uploaded (distribution-spec, "Pushing a blob in chunks").

use std::str::FromStr;

/// What a `Range` header asks for, of a representation whose length is known. Positions are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteRange {
    /// All of it: the header asks for several ranges, is of another unit, or makes no sense, and is passed over.
    Whole,
    /// These bytes, at least one, all of them within the length.
    Part {
        /// The first one's position.
        start: u64,
        /// How many.
        length: u64,
    },
    /// Nothing that there is: `416`.
    Unsatisfiable,
}

impl ByteRange {
    /// Reads the header. `bytes=5-0` is unsatisfiable, not passed over: clients that send it have lost count.
    #[must_use]
    pub fn parse(header: &str, total: u64) -> Self {
        let Some((unit, range)) = header.split_once('=') else { return Self::Whole };
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return Self::Whole;
        }
        let Some((first, last)) = range.trim().split_once('-') else { return Self::Whole };
        match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last && first < total => {
                Self::Part { start: first, length: last.min(total - 1) - first + 1 }
            }
            (Some(first), None) if last.is_empty() && first < total => {
                Self::Part { start: first, length: total - first }
            }
            (Some(_), None) if !last.is_empty() => Self::Whole,
            (Some(_), _) => Self::Unsatisfiable,
            (None, Some(suffix)) if first.is_empty() => match suffix.min(total) {
                0 if suffix == 0 => Self::Unsatisfiable,
                // The last bytes of nothing are all of it, and no `Content-Range` could say so.
                0 => Self::Whole,
                length => Self::Part { start: total - length, length },
            },
            (None, _) => Self::Whole,
        }
    }
}

/// Digits alone. What does not fit is beyond the end of everything, as the largest number is.
fn number(digits: &str) -> Option<u64> {
    let all = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    all.then(|| digits.parse().unwrap_or(u64::MAX))
}

/// The `Content-Range` of an uploaded chunk: `<first>-<last>`, both inclusive, without a unit or a total. That is not the form
/// of RFC 9110, and that form is refused rather than guessed at: what stands after its slash would go unchecked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkRange {
    /// The position of the first byte.
    pub start: u64,
    /// How many bytes, at least one.
    pub length: u64,
}

impl FromStr for ChunkRange {
    type Err = ChunkRangeError;

    fn from_str(header: &str) -> Result<Self, ChunkRangeError> {
        let (first, last) = header.split_once('-').ok_or(ChunkRangeError)?;
        let (start, last) = number(first).zip(number(last)).ok_or(ChunkRangeError)?;
        let length = last.checked_sub(start).and_then(|length| length.checked_add(1));
        // Positions that overflow are read as the largest number, which no chunk reaches.
        let length = length.filter(|_| last < u64::MAX).ok_or(ChunkRangeError)?;
        Ok(Self { start, length })
    }
}

/// The header is no range of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the Content-Range of a chunk is <first>-<last>, for example 0-1023, without a unit")]
pub struct ChunkRangeError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_clipped_refused_or_passed_over() {
        let part = |start, length| ByteRange::Part { start, length };
        let huge = "9".repeat(40);
        let cases = [
            ("bytes=0-0", 10, part(0, 1)),
            ("bytes=0-9", 10, part(0, 10)),
            ("bytes=5-", 10, part(5, 5)),
            ("bytes=-3", 10, part(7, 3)),
            ("bytes=-30", 10, part(0, 10)),
            ("bytes=8-100", 10, part(8, 2)),
            ("Bytes = 8-100", 10, part(8, 2)),
            (&format!("bytes=0-{huge}"), 10, part(0, 10)),
            (&format!("bytes=-{huge}"), 10, part(0, 10)),
            ("bytes=0-18446744073709551615", u64::MAX, part(0, u64::MAX)),
            ("bytes=10-", 10, ByteRange::Unsatisfiable),
            ("bytes=10-20", 10, ByteRange::Unsatisfiable),
            ("bytes=5-0", 10, ByteRange::Unsatisfiable),
            ("bytes=-0", 10, ByteRange::Unsatisfiable),
            (&format!("bytes={huge}-"), 10, ByteRange::Unsatisfiable),
            ("bytes=0-", 0, ByteRange::Unsatisfiable),
            ("bytes=0-0", 0, ByteRange::Unsatisfiable),
            ("bytes=-5", 0, ByteRange::Whole),
            ("bytes=0-1,3-4", 10, ByteRange::Whole),
            ("bytes=-", 10, ByteRange::Whole),
            ("bytes=", 10, ByteRange::Whole),
            ("bytes", 10, ByteRange::Whole),
            ("bytes=a-b", 10, ByteRange::Whole),
            ("bytes=1-b", 10, ByteRange::Whole),
            ("bytes=+1-2", 10, ByteRange::Whole),
            ("bytes=--1", 10, ByteRange::Whole),
            ("lines=0-1", 10, ByteRange::Whole),
            ("", 10, ByteRange::Whole),
        ];
        for (header, total, expected) in cases {
            assert_eq!(ByteRange::parse(header, total), expected, "{header} of {total}");
        }
    }

    #[test]
    fn a_chunk_has_a_bare_range() {
        let range = |start, length| Ok(ChunkRange { start, length });
        assert_eq!("0-0".parse(), range(0, 1));
        assert_eq!("10-1033".parse(), range(10, 1024));
        let huge = format!("0-{}", "9".repeat(40));
        for bad in [
            "",
            "-",
            "1",
            "1-",
            "-1",
            "2-1",
            "bytes 0-1/2",
            "bytes=0-1",
            "0-1/2",
            " 0-1",
            "0--1",
            "+0-1",
            &huge,
        ] {
            assert_eq!(bad.parse::<ChunkRange>(), Err(ChunkRangeError), "{bad:?}");
        }
    }
}
