//! Layers unpacked.

use std::io::{self, BufRead, BufReader, Cursor, Read};

use flate2::bufread::MultiGzDecoder;

/// What a member of gzip begins with.
const MAGIC: [u8; 2] = [0x1f, 0x8b];
const BUFFER: usize = 64 << 10;

/// The tar that a layer is, or that it becomes when it is unpacked; and whether it was packed.
pub(super) fn unpack<'a>(mut layer: impl Read + 'a) -> io::Result<(Box<dyn BufRead + 'a>, bool)> {
    let mut start = Vec::with_capacity(MAGIC.len());
    // However few bytes come at once.
    layer.by_ref().take(MAGIC.len() as u64).read_to_end(&mut start)?;
    let is_packed = start == MAGIC;
    let layer = BufReader::with_capacity(BUFFER, Cursor::new(start).chain(layer));
    Ok(if is_packed {
        (Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(layer))), true)
    } else {
        (Box::new(layer), false)
    })
}
