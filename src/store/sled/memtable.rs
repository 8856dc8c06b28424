//! The changes of the window that is open: in the write-ahead log, and not in sled yet.
//!
//! Readers look here first, and then in sled. What is here goes into sled before it goes from here, so nobody meets a moment
//! when a change is in neither. One thread changes it (D5).

use std::collections::BTreeMap;
use std::ops::Bound;

use ::sled::IVec;
use crossbeam::sync::ShardedLock;

use super::changes::Changes;
use super::schema::Tree;

/// The newest value of an entry; without one it is removed.
pub(super) type Newest = Option<IVec>;

#[derive(Default)]
pub(super) struct Memtable(ShardedLock<Entries>);

#[derive(Default)]
struct Entries {
    trees: BTreeMap<Tree, BTreeMap<Vec<u8>, Newest>>,
    size: usize,
}

impl Memtable {
    /// Bytes of keys and values, as D4 counts them.
    pub(super) fn size(&self) -> usize {
        self.read(|entries| entries.size)
    }

    /// What the window says of an entry, if anything.
    pub(super) fn get(&self, tree: Tree, key: &[u8]) -> Option<Newest> {
        self.read(|entries| entries.trees.get(&tree)?.get(key).cloned())
    }

    /// What it says of the keys from `start` on that begin with `prefix`, in their order.
    pub(super) fn range(&self, tree: Tree, start: &Bound<Vec<u8>>, prefix: &[u8]) -> Vec<(IVec, Newest)> {
        self.read(|entries| {
            let range = entries.trees.get(&tree).map(|tree| tree.range((start.clone(), Bound::Unbounded)));
            let found = range.into_iter().flatten().take_while(|(key, _)| key.starts_with(prefix));
            found.map(|(key, newest)| (IVec::from(key.as_slice()), newest.clone())).collect()
        })
    }

    /// Makes changes, all at once for whoever reads.
    pub(super) fn apply(&self, changes: &Changes) {
        let mut entries = self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (tree, key, value) in changes.entries() {
            entries.size += cost(key, value.map_or(0, <[u8]>::len));
            let before = entries.trees.entry(tree).or_default().insert(key.to_vec(), value.map(IVec::from));
            if let Some(before) = before {
                entries.size -= cost(key, before.map_or(0, |value| value.len()));
            }
        }
    }

    /// Hands out all there is. Readers go on meanwhile.
    pub(super) fn each<E>(
        &self,
        mut each: impl FnMut(Tree, &[u8], Option<&[u8]>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.read(|entries| {
            let all = entries
                .trees
                .iter()
                .flat_map(|(tree, of_tree)| of_tree.iter().map(move |entry| (tree, entry)));
            for (tree, (key, newest)) in all {
                each(*tree, key, newest.as_deref())?;
            }
            Ok(())
        })
    }

    /// To be called when sled has all of it.
    pub(super) fn clear(&self) {
        *self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Entries::default();
    }

    fn read<T>(&self, read: impl FnOnce(&Entries) -> T) -> T {
        read(&self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

const fn cost(key: &[u8], value: usize) -> usize {
    key.len() + value + Changes::OVERHEAD
}

/// Entries of sled's, in their order, with what the window says of them.
pub(super) struct Merged<I: Iterator> {
    window: std::iter::Peekable<std::vec::IntoIter<(IVec, Newest)>>,
    sled: std::iter::Peekable<I>,
}

impl<E, I: Iterator<Item = Result<(IVec, IVec), E>>> Merged<I> {
    /// Both from the same key on. What the window says has been looked up before sled was.
    pub(super) fn new(window: Vec<(IVec, Newest)>, sled: I) -> Self {
        Self { window: window.into_iter().peekable(), sled: sled.peekable() }
    }
}

impl<E, I: Iterator<Item = Result<(IVec, IVec), E>>> Iterator for Merged<I> {
    type Item = Result<(IVec, IVec), E>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some((key, _)) = self.window.peek() else { return self.sled.next() };
            match self.sled.peek() {
                Some(Err(_)) => return self.sled.next(),
                Some(Ok((in_sled, _))) if in_sled < key => return self.sled.next(),
                Some(Ok((in_sled, _))) if in_sled == key => drop(self.sled.next()),
                Some(Ok(_)) | None => {}
            }
            if let Some((key, Some(value))) = self.window.next() {
                return Some(Ok((key, value)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[test]
    fn what_the_window_says_counts_and_is_in_its_place() {
        let pair = |key: &str, value: &str| (IVec::from(key), IVec::from(value));
        let sled = [pair("b", "old"), pair("c", "old"), pair("e", "old"), pair("g", "old")];
        let window = [("a", Some("new")), ("c", None), ("d", None), ("e", Some("new")), ("h", Some("new"))];
        let window = window.map(|(key, value)| (IVec::from(key), value.map(IVec::from)));
        let merged = Merged::new(window.to_vec(), sled.clone().into_iter().map(Ok::<_, Infallible>));
        let found: Vec<_> = merged.map(|entry| entry.unwrap()).collect();
        let expected = [("a", "new"), ("b", "old"), ("e", "new"), ("g", "old"), ("h", "new")];
        assert_eq!(found, expected.map(|(key, value)| pair(key, value)));
        let alone = Merged::new(Vec::new(), sled.clone().into_iter().map(Ok::<_, Infallible>));
        assert_eq!(alone.count(), sled.len());
    }

    #[test]
    fn its_size_is_that_of_what_it_holds() {
        let (memtable, mut changes) = (Memtable::default(), Changes::new());
        for length in [100, 7, 4096] {
            changes.set_value(Tree::Tags, b"a".to_vec(), vec![0; length]);
        }
        memtable.apply(&changes);
        assert_eq!(memtable.size(), 1 + 4096 + Changes::OVERHEAD);
        let mut removal = Changes::new();
        removal.remove(Tree::Tags, b"a".to_vec());
        memtable.apply(&removal);
        assert_eq!(memtable.size(), 1 + Changes::OVERHEAD);
        assert_eq!(memtable.get(Tree::Tags, b"a"), Some(None));
        assert_eq!(memtable.get(Tree::Tagged, b"a"), None);
    }
}
