//! The order in which the sums of a tar's entries are added up: that of Go's `sort.Sort` as it was in 2014.
//!
//! Entries with one path are compared by their places, and all else by their sums. With such entries that is no order: what comes of
//! sorting by it depends on how the sorting is done, and docker's sums have it in them. The same steps are taken here, so the same comes
//! out of it; and none of them relies on the comparison making sense.

use std::ops::Range;

/// Up to this many are sorted by inserting.
const FEW: usize = 7;
/// From this many on the middle is looked for among nine.
const MANY: usize = 40;

pub(super) struct Sorting<'a, T, F> {
    items: &'a mut [T],
    less: F,
}

impl<'a, T: Copy, F: Fn(T, T) -> bool> Sorting<'a, T, F> {
    pub(super) fn new(items: &'a mut [T], less: F) -> Self {
        Self { items, less }
    }

    pub(super) fn sort(mut self) {
        let depth = 2 * (usize::BITS - self.items.len().leading_zeros());
        self.quick(0..self.items.len(), depth);
    }

    fn less(&self, a: usize, b: usize) -> bool {
        match (self.items.get(a), self.items.get(b)) {
            (Some(a), Some(b)) => (self.less)(*a, *b),
            _ => false,
        }
    }

    fn quick(&mut self, mut range: Range<usize>, mut depth: u32) {
        while range.len() > FEW {
            if depth == 0 {
                self.heap(range);
                return;
            }
            depth -= 1;
            let equal = self.pivot(range.clone());
            let (before, after) = (range.start..equal.start, equal.end..range.end);
            // The smaller part goes on the stack.
            if before.len() < after.len() {
                self.quick(before, depth);
                range = after;
            } else {
                self.quick(after, depth);
                range = before;
            }
        }
        self.insert(range);
    }

    fn insert(&mut self, range: Range<usize>) {
        for at in range.clone().skip(1) {
            let mut at = at;
            while at > range.start && self.less(at, at - 1) {
                self.items.swap(at, at - 1);
                at -= 1;
            }
        }
    }

    fn heap(&mut self, range: Range<usize>) {
        for root in (0..=range.len().saturating_sub(1) / 2).rev() {
            self.sift(range.start, root, range.len());
        }
        for end in (0..range.len()).rev() {
            self.items.swap(range.start, range.start + end);
            self.sift(range.start, 0, end);
        }
    }

    fn sift(&mut self, first: usize, mut root: usize, end: usize) {
        loop {
            let mut child = 2 * root + 1;
            if child >= end {
                return;
            }
            if child + 1 < end && self.less(first + child, first + child + 1) {
                child += 1;
            }
            if !self.less(first + root, first + child) {
                return;
            }
            self.items.swap(first + root, first + child);
            root = child;
        }
    }

    /// Brings the middle one of three to the first of the places.
    fn median(&mut self, middle: usize, low: usize, high: usize) {
        for (a, b) in [(middle, low), (high, middle), (middle, low)] {
            if self.less(a, b) {
                self.items.swap(a, b);
            }
        }
    }

    /// Parts a range into what is before one of its items and what is after it, and says where that and its equals are.
    fn pivot(&mut self, Range { start, end }: Range<usize>) -> Range<usize> {
        let middle = start + (end - start) / 2;
        if end - start > MANY {
            let step = (end - start) / 8;
            self.median(start, start + step, start + 2 * step);
            self.median(middle, middle - step, middle + step);
            self.median(end - 1, end - 1 - step, end - 1 - 2 * step);
        }
        self.median(start, middle, end - 1);

        // Its equals gather at both ends: before `equal_low` and from `equal_high` on; what is between `low` and `high` is to be looked
        // at.
        let pivot = start;
        let (mut equal_low, mut low, mut high, mut equal_high) = (start + 1, start + 1, end, end);
        loop {
            while low < high {
                if self.less(low, pivot) {
                    low += 1;
                } else if !self.less(pivot, low) {
                    self.items.swap(equal_low, low);
                    equal_low += 1;
                    low += 1;
                } else {
                    break;
                }
            }
            while low < high {
                if self.less(pivot, high - 1) {
                    high -= 1;
                } else if !self.less(high - 1, pivot) {
                    self.items.swap(high - 1, equal_high - 1);
                    high -= 1;
                    equal_high -= 1;
                } else {
                    break;
                }
            }
            if low >= high {
                break;
            }
            self.items.swap(low, high - 1);
            low += 1;
            high -= 1;
        }
        let count = (low - equal_low).min(equal_low - start);
        self.exchange(start, low - count, count);
        let count = (end - equal_high).min(equal_high - high);
        self.exchange(high, end - count, count);
        start + low - equal_low..end - (equal_high - high)
    }

    fn exchange(&mut self, a: usize, b: usize, count: usize) {
        for at in 0..count {
            self.items.swap(a + at, b + at);
        }
    }
}
