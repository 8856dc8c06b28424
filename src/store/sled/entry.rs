//! Entries of the index one after another in a file: what is set or removed, in which tree.

use std::io::{self, ErrorKind, Read, Write};

use super::schema::{MAX_VALUE, Tree};

/// A tree, a key, and its new value; without one the key is removed.
pub(super) type Entry = (Tree, Vec<u8>, Option<Vec<u8>>);

/// What an entry takes beside its key and value.
const HEAD: usize = 9;

/// In the place of a value's length.
const REMOVED: u32 = u32::MAX;

pub(super) fn write(to: &mut impl Write, tree: Tree, key: &[u8], value: Option<&[u8]>) -> io::Result<()> {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(REMOVED);
    to.write_all(&[tree.number()])?;
    to.write_all(&length(key).to_le_bytes())?;
    to.write_all(&value.map_or(REMOVED, length).to_le_bytes())?;
    to.write_all(key)?;
    to.write_all(value.unwrap_or_default())
}

/// The next entry; `None` at the end. What is none is [`ErrorKind::InvalidData`].
pub(super) fn read(from: &mut impl Read) -> io::Result<Option<Entry>> {
    let mut head = [0; HEAD];
    match from.read_exact(&mut head[..1]) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    from.read_exact(&mut head[1..])?;
    let [tree, a, b, c, d, e, f, g, h] = head;
    let tree = Tree::numbered(tree).ok_or(ErrorKind::InvalidData)?;
    let key = bytes(from, u32::from_le_bytes([a, b, c, d]))?;
    let value = match u32::from_le_bytes([e, f, g, h]) {
        REMOVED => None,
        length => Some(bytes(from, length)?),
    };
    Ok(Some((tree, key, value)))
}

fn bytes(from: &mut impl Read, length: u32) -> io::Result<Vec<u8>> {
    let length = usize::try_from(length).ok().filter(|length| *length <= MAX_VALUE);
    let mut bytes = vec![0; length.ok_or(ErrorKind::InvalidData)?];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}
