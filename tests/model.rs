//! Random operations on a Sled store that is reopened at random, and on Memory: both must answer alike.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]

use std::collections::BTreeMap;

use sledge::store::sled::Inline;

#[allow(unreachable_pub, reason = "the fuzzers use the same file in a crate")]
#[path = "../fuzz/src/model/mod.rs"]
mod model;

use model::{Choices, Walk, World};

/// Enough of a generator for choosing; the seed is in the name of what fails.
struct Dice(u64);

impl Choices for Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides as u64).unwrap()
    }
}

fn run(seed: u64, inline: Inline, operations: usize) {
    let world = World::new();
    let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let mut walk = Walk::new(&world, inline);
    let mut kinds: BTreeMap<bool, usize> = BTreeMap::new();
    for step in 0..operations {
        let when = format!("seed {seed}, {inline:?}, step {step}");
        let answer = walk.step(&mut dice, &when);
        *kinds.entry(answer.contains("Unknown") || answer.contains("Missing")).or_default() += 1;
    }
    walk.compare(1 + dice.roll(4), &format!("seed {seed}, {inline:?}, at the end"));
    // A walk in which nothing succeeds, or nothing fails, would show nothing.
    assert!(kinds.len() == 2 && kinds.values().all(|count| *count > operations / 20), "{kinds:?}");
}

#[test]
fn sled_answers_as_memory_does_by_default() {
    (1..=3).for_each(|seed| run(seed, Inline::default(), 500));
}

#[test]
fn sled_answers_as_memory_does_with_everything_inline() {
    (11..=12).for_each(|seed| run(seed, Inline::Everything, 500));
}

#[test]
fn sled_answers_as_memory_does_with_everything_in_files() {
    (21..=22).for_each(|seed| run(seed, Inline::UpTo(0), 500));
}
