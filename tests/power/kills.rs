//! Kills: a process under load dies at a random moment, and the next one finds all that was acknowledged.

use super::dice::{Dice, setting};
use super::ledger::Ledger;
use super::shim::{Kill, Place};
use super::workload::Life;

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
        acknowledged += Ledger::of(&std::fs::read_to_string(place.marks()).unwrap()).acknowledged;
        println!(
            "kills, up to seed {seed}: {kills} in {lives} lives, {acknowledged} operations acknowledged, none lost"
        );
    }
    assert!(kills >= wanted && acknowledged > 0);
}
