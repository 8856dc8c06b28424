//! Kills: a process under load dies at a random moment, and the next one finds all that was acknowledged.

use std::fs;

use super::check;
use super::dice::{Dice, setting};
use super::ledger::Ledger;
use super::record::{Event, events};
use super::shim::{Kill, Place};
use super::workload::{self, Life};

/// A store is begun anew after so many lives, or looking at it would take longer than living.
const LIVES: usize = 12;

/// Each life looks at what the ones before it left, and fails if that contradicts what was acknowledged. `POWER_KILLS` makes
/// it longer: `POWER_KILLS=2000 cargo test --test power kill -- --nocapture`.
#[test]
fn a_kill_at_any_moment_loses_nothing_that_was_acknowledged() {
    let wanted = setting("POWER_KILLS", 24);
    let first = setting("POWER_SEED", 1) as u64;
    let (mut kills, mut lives, mut acknowledged) = (0, 0, 0);
    for seed in first.. {
        if kills >= wanted {
            break;
        }
        let place = Place::new();
        let mut dice = Dice::new(seed ^ 0x0DEA_D000);
        for number in 0..=LIVES {
            let life = Life {
                seed,
                number: number as u64,
                threads: 4,
                operations: 60,
                small: false,
                faulty: false,
                budget: 0,
                in_files: false,
            };
            let kill = match dice.roll(8) {
                // The last one looks, and ends by itself.
                _ if number == LIVES => Kill::Not,
                // While it opens, or takes up what was left.
                0 | 1 => Kill::AtChange(1 + dice.roll(40), dice.roll(3)),
                2..6 => Kill::AtChange(1 + dice.roll(1200), dice.roll(3)),
                _ => Kill::After(1000 + dice.roll(300_000)),
            };
            lives += 1;
            kills += usize::from(place.live(&life, false, kill));
        }
        acknowledged += Ledger::of(&fs::read_to_string(place.marks()).unwrap()).acknowledged;
        println!(
            "kills, up to seed {seed}: {kills} in {lives} lives, {acknowledged} operations acknowledged, none lost"
        );
    }
    assert!(kills >= wanted && acknowledged > 0);
}

/// Where a new index is made, and where the old one goes; both below the root.
const NEW: &str = "data/unfinished-index";
const OLD: &str = "data/replaced-index";

/// How far a new index had come.
#[derive(Debug, PartialEq, Eq)]
enum Stage {
    Making,
    /// There is none in the place of the one or the other.
    Between,
    Replaced,
}

fn stage(log: &[u8]) -> Stage {
    let mut stage = Stage::Making;
    for event in events(log) {
        match event {
            Event::Rename { to, .. } if to == OLD => stage = Stage::Between,
            Event::Rename { from, .. } if from == NEW => stage = Stage::Replaced,
            _ => {}
        }
    }
    stage
}

/// A store of some content whose index held much and holds little; the next addition has it written anew.
fn with_much_room_in_its_index(seed: u64) -> (Place, Life) {
    let place = Place::new();
    let life = |number, operations, small| Life {
        seed,
        number,
        threads: 1,
        operations,
        small,
        faulty: false,
        budget: 64,
        in_files: true,
    };
    // Of those with an even number each fills the index and empties it first.
    for (number, operations, small) in [(1, 40, false), (2, 0, true)] {
        assert!(!place.live(&life(number, operations, small), false, Kill::Not));
    }
    (place, life(3, 6, true))
}

/// What a kill left: nothing that was acknowledged is lost, and nothing is left behind.
fn judge(place: &Place) -> Result<(), String> {
    let data = workload::data(&place.root());
    drop(check::options().open(&data).map_err(|error| format!("it does not open: {error}"))?);
    for name in [NEW, OLD].map(|name| place.root().join(name)) {
        if name.exists() {
            return Err(format!("{} is left behind", name.display()));
        }
    }
    check::whole(&data, &Ledger::of(&fs::read_to_string(place.marks()).unwrap()))
}

/// No kill at random had ever fallen between the two renames that put a smaller index in the place of the old one. `POWER_KILLS`
/// makes it longer: then it dies at each change of a name and each sync from the first of the new index on, before it and after it.
#[test]
fn a_kill_at_any_name_of_an_index_that_is_made_smaller_loses_nothing() {
    let long = std::env::var("POWER_KILLS").is_ok();
    let first = setting("POWER_SEED", 1) as u64;
    let (before, life) = with_much_room_in_its_index(first);
    let (mut kills, mut stages, mut failures) = (0, [0; 3], Vec::new());
    let mut die = |kill| {
        let place = Place::like(&before);
        if !place.live(&life, true, kill) {
            return false;
        }
        kills += 1;
        let stage = stage(&fs::read(place.log()).unwrap());
        if let Err(error) = judge(&place) {
            failures.push(format!("{kill:?}, {stage:?}: {error}"));
        }
        stages[stage as usize] += 1;
        true
    };
    if long {
        for at in 1.. {
            if !(die(Kill::AtName(NEW, at, 0)) && die(Kill::AtName(NEW, at, 1))) {
                break;
            }
        }
    } else {
        for at in [1, 4, 9] {
            assert!(die(Kill::AtName(NEW, at, 1)), "there are more");
        }
        // The renames themselves, the folder's sync, and the first that goes of the old one.
        for (at, phase) in [(1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (4, 1)] {
            assert!(die(Kill::AtName(OLD, at, phase)), "there are more");
        }
    }
    println!(
        "kills while an index was made smaller: {kills}, {} while the new one was made, {} between the two renames, {} after them",
        stages[0], stages[1], stages[2],
    );
    assert!(stages.iter().all(|kills| *kills > 0), "{stages:?}");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
