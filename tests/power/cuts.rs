//! Power cuts: lives of a store are recorded, and what a cut may leave at their moments is opened and looked at.

use std::fs;
use std::path::Path;

use super::check;
use super::dice::{Dice, setting};
use super::image::Image;
use super::ledger::Ledger;
use super::record::{Event, events};
use super::shim::{self, Kill, Place};
use super::workload::{self, Life};

#[derive(Default)]
struct Figures {
    events: usize,
    acknowledged: u64,
    lives: usize,
    kills: usize,
    reused: usize,
    states: usize,
    failures: Vec<String>,
}

/// Several lives of one store; the log and the folder must agree after each.
fn record(place: &Place, seed: u64, lives: usize, operations: usize, budget: usize) -> usize {
    let mut dice = Dice::new(seed);
    let mut kills = 0;
    for number in 0..lives {
        let threads = 1 + dice.roll(3);
        let operations = operations / threads;
        let life = Life {
            seed,
            number: number as u64,
            threads,
            operations,
            small: false,
            faulty: false,
            budget,
            in_files: false,
        };
        // The first changes are those of a creation or an opening; the rest is work.
        let kill = match dice.roll(4) {
            // One life comes to the end of what is looked at in a budget.
            _ if budget > 0 && number == 0 => Kill::Not,
            0 => Kill::Not,
            1 => Kill::AtChange(1 + dice.roll(60), dice.roll(3)),
            _ => Kill::AtChange(1 + dice.roll(operations * threads * 12), dice.roll(3)),
        };
        kills += usize::from(place.live(&life, true, kill));
        let log = fs::read(place.log()).unwrap();
        let mut image = Image::new();
        events(&log).into_iter().for_each(|event| image.take(event));
        image.compare(&place.root());
    }
    kills
}

/// How often what comes of an event is looked at, beside others.
pub(crate) fn weight(event: &Event<'_>) -> usize {
    match event {
        Event::Mark { text } if text.starts_with('A') => 8,
        Event::Sync { .. } | Event::Rename { .. } | Event::Unlink { .. } => 6,
        Event::Open { flags, .. } if flags & 0o1100 != 0 => 4,
        Event::MakeFolder { .. } | Event::RemoveFolder { .. } | Event::Link { .. } => 4,
        Event::Truncate { .. } | Event::Allocate { .. } => 4,
        Event::Write { .. } => 2,
        _ => 0,
    }
}

/// Which moments are looked at: after how many events. Answers, syncs and changes of names more often than writes.
fn moments(events: &[Event<'_>], seed: u64, wanted: usize) -> Vec<usize> {
    let mut dice = Dice::new(seed ^ 0xC07);
    let mut weighted = Vec::new();
    let (mut opening, mut first_answers) = (Vec::new(), Vec::new());
    let mut answers = 0;
    for (at, event) in events.iter().enumerate() {
        // Before and after it.
        weighted.extend(std::iter::repeat_n(at + dice.roll(2), weight(event)));
        match event {
            Event::Life => {
                answers = 0;
                opening.extend(at..(at + 150).min(events.len()));
            }
            // What an opening left unfinished is still so when the first answers are given.
            Event::Mark { text } if text.starts_with('A') && answers < 5 => {
                answers += 1;
                first_answers.push(at + 1);
            }
            _ => {}
        }
    }
    let mut chosen: Vec<usize> = (0..wanted)
        .filter_map(|n| {
            let moments = match n % 6 {
                0 => &opening,
                1 => &first_answers,
                _ => &weighted,
            };
            dice.of(moments).copied()
        })
        .collect();
    chosen.sort_unstable();
    chosen
}

/// Opens the states that cuts at these moments may leave; a moment may come more than once.
fn cut(events: &[Event<'_>], seed: u64, moments: Vec<usize>, figures: &mut Figures) {
    let mut moments = moments.into_iter().peekable();
    let (mut image, mut ledger) = (Image::new(), Ledger::default());
    let room = shim::folder();
    for (at, event) in events.iter().enumerate() {
        let mut choice = 0;
        while moments.next_if_eq(&at).is_some() {
            choice += 1;
            let folder = room.path().join("state");
            fs::create_dir(&folder).unwrap();
            let mut dice = Dice::new(seed.wrapping_mul(1 << 32) + (at as u64) * 64 + choice);
            let how = image.cut(&mut dice, &folder);
            figures.states += 1;
            if let Err(error) = check::whole_and_told(&workload::data(&folder), &ledger) {
                let failure = format!("seed {seed}, event {at}, choice {choice} ({how}): {error}");
                println!("LOST: {failure}");
                figures.failures.push(failure);
            }
            fs::remove_dir_all(&folder).unwrap();
        }
        if let Event::Mark { text } = event {
            text.lines().for_each(|line| ledger.take(line));
        }
        image.take(*event);
    }
    figures.events += events.len();
    figures.acknowledged += ledger.acknowledged;
    figures.reused += image.segments_reused;
}

/// What contradicts the ledger in states that a cut after all events may leave.
pub(crate) fn at_the_end(log: &[u8], states: usize) -> Vec<String> {
    let mut events = events(log);
    let mut figures = Figures::default();
    let end = events.len();
    // States are made before an event.
    events.push(Event::Life);
    cut(&events, 1, vec![end; states], &mut figures);
    assert_eq!(figures.states, states);
    figures.failures
}

pub(crate) fn keep_log(log: &[u8], seed: u64) -> String {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("power-cut-{seed}.log"));
    fs::write(&kept, log).unwrap();
    format!("POWER_LOG={} POWER_SEED={seed}", kept.display())
}

/// `POWER_SEEDS`, `POWER_STATES` (of each seed), `POWER_LIVES` and `POWER_OPERATIONS` make it longer; `POWER_LOG` with
/// `POWER_SEED` looks again at a log that was kept.
#[test]
fn a_power_cut_loses_nothing_that_was_acknowledged() {
    let mut figures = Figures::default();
    let states = setting("POWER_STATES", 140);
    if let Ok(log) = std::env::var("POWER_LOG") {
        let seed = setting("POWER_SEED", 1) as u64;
        let log = fs::read(log).unwrap();
        let events = events(&log);
        cut(&events, seed, moments(&events, seed, states), &mut figures);
    } else {
        let first = setting("POWER_SEED", 1) as u64;
        for seed in first..first + setting("POWER_SEEDS", 1) as u64 {
            let lives = setting("POWER_LIVES", 6);
            let place = Place::new();
            figures.lives += lives;
            figures.kills += record(&place, seed, lives, setting("POWER_OPERATIONS", 60), 0);
            let log = fs::read(place.log()).unwrap();
            let before = figures.failures.len();
            let events = events(&log);
            cut(&events, seed, moments(&events, seed, states), &mut figures);
            if figures.failures.len() > before {
                println!("to look again: {}", keep_log(&log, seed));
            }
            println!(
                "power cuts, seed {seed}: {} MiB of log; so far {} events, {} operations acknowledged in {} lives, {} of them killed; \
                 segments reused {} times; {} states, {} of them lost something",
                log.len() >> 20,
                figures.events,
                figures.acknowledged,
                figures.lives,
                figures.kills,
                figures.reused,
                figures.states,
                figures.failures.len(),
            );
        }
    }
    assert!(figures.states > 0);
    assert!(figures.failures.is_empty(), "{}", figures.failures.join("\n"));
}

/// An index beyond its share of a budget is written anew while the store is in use, and takes the place of the old one.
#[test]
fn a_power_cut_while_an_index_is_made_smaller_loses_nothing() {
    let (mut figures, mut rewritten) = (Figures::default(), 0);
    let first = setting("POWER_SEED", 1) as u64;
    for seed in first..first + setting("POWER_SEEDS", 1) as u64 {
        let place = Place::new();
        figures.kills += record(&place, seed, setting("POWER_LIVES", 2), setting("POWER_OPERATIONS", 60), 64);
        let log = fs::read(place.log()).unwrap();
        let events = events(&log);
        let renames: Vec<usize> = events
            .iter()
            .enumerate()
            .filter(|(_, event)| matches!(event, Event::Rename { to, .. } if to.ends_with("/replaced-index")))
            .map(|(at, _)| at)
            .collect();
        rewritten += renames.len();
        // All about each, and others.
        let beside = renames.iter().flat_map(|at| at.saturating_sub(12)..(at + 40).min(events.len()));
        let mut moments: Vec<usize> =
            beside.chain(moments(&events, seed, setting("POWER_STATES", 140) / 2)).collect();
        moments.sort_unstable();
        cut(&events, seed, moments, &mut figures);
        println!(
            "power cuts about a smaller index, up to seed {seed}: made {rewritten} times, {} operations acknowledged, {} lives \
             killed; {} states, {} of them lost something",
            figures.acknowledged,
            figures.kills,
            figures.states,
            figures.failures.len(),
        );
    }
    assert!(rewritten > 0 && figures.states > 0);
    assert!(figures.failures.is_empty(), "{}", figures.failures.join("\n"));
}

/// The first answers of a store stand on its creation: nothing but that has synced a folder yet.
#[test]
fn a_power_cut_at_any_moment_of_a_creation_leaves_none_or_all_of_it() {
    let mut figures = Figures::default();
    let place = Place::new();
    let life = Life {
        seed: 1,
        number: 0,
        threads: 1,
        operations: 6,
        small: true,
        faulty: false,
        budget: 0,
        in_files: false,
    };
    assert!(!place.live(&life, true, Kill::Not));
    let log = fs::read(place.log()).unwrap();
    let events = events(&log);
    let moments = (0..events.len()).flat_map(|at| [at; 2]).collect();
    cut(&events, 1, moments, &mut figures);
    println!(
        "power cuts of a creation: {} states, {} of them lost something",
        figures.states,
        figures.failures.len()
    );
    assert!(figures.acknowledged >= 6 && figures.states > 100);
    assert!(figures.failures.is_empty(), "{}", figures.failures.join("\n"));
}

/// After a sync that failed, no later one writes what that one should have: the system thinks it has. So nothing may be
/// acknowledged that stands on it, until it has been read from the disk again or written anew (D8). `POWER_SYNCS` chooses which
/// syncs fail; see DESIGN.md, "Not yet", for what it still finds.
#[test]
fn a_power_cut_after_failed_syncs_loses_nothing_that_was_acknowledged() {
    let mut figures = Figures::default();
    let first = setting("POWER_SEED", 1) as u64;
    let mut failed = 0;
    for seed in first..first + setting("POWER_SEEDS", 2) as u64 {
        let place = Place::new();
        for number in 0..2 {
            let life = Life {
                seed,
                number,
                threads: 2,
                operations: 40,
                small: false,
                faulty: true,
                budget: 0,
                in_files: false,
            };
            assert!(!place.live(&life, true, Kill::Not));
        }
        let log = fs::read(place.log()).unwrap();
        let events = events(&log);
        failed += events.iter().filter(|event| matches!(event, Event::FailedSync { .. })).count();
        let before = figures.failures.len();
        cut(&events, seed, moments(&events, seed, setting("POWER_STATES", 140) / 2), &mut figures);
        if figures.failures.len() > before {
            println!("to look again: {}", keep_log(&log, seed));
        }
        println!(
            "power cuts after failed syncs, up to seed {seed}: {failed} syncs failed, {} operations acknowledged; {} states, {} of \
             them lost something",
            figures.acknowledged,
            figures.states,
            figures.failures.len(),
        );
    }
    assert!(failed > 0 && figures.states > 0);
    assert!(figures.failures.is_empty(), "{}", figures.failures.join("\n"));
}
