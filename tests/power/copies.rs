//! Power cuts and kills while a store is copied, compacted, restored or rescued: what it was made of is whole at each moment, and
//! what is made is there as a whole, or not at all and can be made again; once it was acknowledged, it stays.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::thread;

use sledge::Error;
use sledge::store::sled::{
    Progress, RestoreOptions, Sled, SnapshotOptions, SnapshotReport, VerifyOptions, compact, rescue, restore,
};

use super::check;
use super::cuts;
use super::dice::{Dice, setting};
use super::image::Image;
use super::ledger::{Ledger, NOTHING};
use super::record::{Event, events};
use super::shim::{self, Kill, Place};
use super::workload::{self, Life};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    /// Of a store in use, on the same filesystem.
    Snapshot,
    /// Of a store in use, on another filesystem that has an earlier one.
    Incremental,
    Compact,
    Restore,
    Rescue,
}

const OPERATIONS: [Operation; 5] =
    [Operation::Snapshot, Operation::Incremental, Operation::Compact, Operation::Restore, Operation::Rescue];

/// Where the workload has its store.
const STORE: &str = "data";
const EARLIER: &str = "earlier";
const TARGET: &str = "made";

/// What the account says when an operation begins, and when its report has come.
const BEGUN: &str = "begun";
const DONE: &str = "done";

fn on(_: &Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

impl Operation {
    /// What it reads.
    const fn source(self) -> &'static str {
        if matches!(self, Self::Restore) { EARLIER } else { STORE }
    }

    /// What it makes.
    const fn target(self) -> &'static str {
        if matches!(self, Self::Compact) { STORE } else { TARGET }
    }

    const fn is_snapshot(self) -> bool {
        matches!(self, Self::Snapshot | Self::Incremental)
    }

    fn snapshot_options(self, root: &Path) -> SnapshotOptions {
        match self {
            Self::Incremental => SnapshotOptions::new().since(root.join(EARLIER)),
            _ => SnapshotOptions::new(),
        }
    }

    /// Does it once more, on a store that nobody has open.
    fn again(self, root: &Path) -> sledge::Result<()> {
        let (source, target) = (root.join(self.source()), root.join(self.target()));
        match self {
            Self::Snapshot | Self::Incremental => {
                let store = check::options().open(source)?;
                store.snapshot(target, &self.snapshot_options(root), &mut on).map(drop)
            }
            Self::Compact => compact(target, &mut on).map(drop),
            Self::Restore => restore(source, target, &RestoreOptions::new(), &mut on).map(drop),
            Self::Rescue => rescue(source, target, &mut on).map(drop),
        }
    }
}

/// The operation, and what comes after it.
pub(crate) fn child(root: &Path, marks_file: &Path, spec: &str) {
    let mut words = spec.split(' ');
    let name = words.next().unwrap();
    let mut number = || words.next().unwrap().parse::<u64>().unwrap();
    let life = |(seed, number, threads)| Life {
        seed,
        number,
        threads,
        operations: if threads == 2 { 40 } else { 15 },
        small: false,
        faulty: false,
        budget: 0,
        in_files: true,
    };
    let life = life((number(), number(), usize::try_from(number()).unwrap()));
    if name == EARLIER {
        let store = check::options().open(root.join(STORE)).unwrap();
        store.snapshot(root.join(EARLIER), &SnapshotOptions::new(), &mut on).unwrap();
        return;
    }
    let operation = OPERATIONS.into_iter().find(|operation| format!("{operation:?}") == name).unwrap();
    let marks = workload::Marks::open(marks_file);
    let acted = if operation.is_snapshot() {
        let (store, marks, mut actors) = workload::enter(&root.join(STORE), marks_file, &life, true);
        // What the earlier snapshot has not.
        actors.first_mut().unwrap().push_new_file();
        beside(actors, |wait| {
            wait();
            marks.say(BEGUN);
            let report = take(operation, root, &store, wait);
            marks.say(DONE);
            assert!(report.changes > 0 && report.files.bad == 0, "{report:?}");
        });
        store
    } else {
        marks.say(BEGUN);
        operation.again(root).unwrap();
        marks.say(DONE);
        // What is made is used: what comes to it must not go with what is left of its making.
        let (store, _, actors) = workload::enter(&root.join(operation.target()), marks_file, &life, true);
        actors.into_iter().for_each(workload::Actor::run);
        store
    };
    drop(acted);
}

/// Does something while the actors are at work; it can wait until they have come further.
fn beside(actors: Vec<workload::Actor>, act: impl FnOnce(&mut dyn FnMut())) {
    let acknowledged = actors.first().unwrap().acknowledged();
    let mut actors: Vec<_> = actors.into_iter().map(|actor| thread::spawn(move || actor.run())).collect();
    let mut wait = || {
        let least = acknowledged() + 6;
        while acknowledged() < least && !actors.iter().all(thread::JoinHandle::is_finished) {
            thread::yield_now();
        }
    };
    act(&mut wait);
    actors.drain(..).for_each(|actor| actor.join().unwrap());
}

fn take(operation: Operation, root: &Path, store: &Sled, wait: &mut dyn FnMut()) -> SnapshotReport {
    let mut watch = |progress: &Progress| {
        if progress.done == 0 {
            wait();
        }
        ControlFlow::Continue(())
    };
    store.snapshot(root.join(TARGET), &operation.snapshot_options(root), &mut watch).unwrap()
}

/// A store with a past, and an earlier snapshot of it.
fn prepare(seed: u64) -> Place {
    let place = Place::new();
    for number in 0..3 {
        let life = Life {
            seed,
            number,
            threads: 1,
            operations: 40,
            small: false,
            faulty: false,
            budget: 0,
            in_files: true,
        };
        // One is killed; the others end by themselves.
        let kill = if number == 1 { Kill::AtChange(300, 0) } else { Kill::Not };
        place.live(&life, false, kill);
    }
    place.run(place.child(&format!("copy {EARLIER} 0 0 0")), false, Kill::Not);
    // Restoring and rescuing must find what there is in the account: nothing comes after the snapshot.
    place
}

#[derive(Default)]
struct Figures {
    events: usize,
    states: usize,
    kills: usize,
    /// Files that were linked, and files that were written anew.
    linked: usize,
    written: usize,
    /// Of all these, those whose target was not there, there before it was acknowledged, and acknowledged.
    made: [usize; 3],
    failures: Vec<String>,
}

/// What was said, and at which line of it the operation began.
struct Account {
    before: Ledger,
    lines: Vec<String>,
}

impl Account {
    fn has(&self, word: &str) -> bool {
        self.lines.iter().any(|line| line == word)
    }

    fn now(&self) -> Ledger {
        let mut ledger = self.before.clone();
        self.lines.iter().for_each(|line| ledger.take(line));
        ledger
    }

    /// The account at a moment at which all was as it is found now, between the beginning of the operation and its end.
    fn moment(&self, found: &BTreeMap<String, String>) -> Result<Ledger, String> {
        let mut ledger = self.before.clone();
        let mut begun = false;
        let mut why = Err("the snapshot was not begun".to_owned());
        for line in &self.lines {
            ledger.take(line);
            begun |= line == BEGUN;
            if begun {
                why = ledger.check(found);
                if why.is_ok() {
                    return Ok(ledger);
                }
            }
            if line == DONE {
                break;
            }
        }
        why.map(|()| ledger).map_err(|why| format!("it is of no moment; at its last: {why}"))
    }
}

/// Everything that a cut or a kill left, in the folder where the store and what is made of it are.
fn judge(
    operation: Operation,
    root: &Path,
    account: &Account,
    choice: u64,
    figures: &mut Figures,
) -> Result<(), String> {
    let target = root.join(operation.target());
    let done = account.has(DONE);
    let begun = account.has(BEGUN);
    if operation == Operation::Compact {
        figures.made[usize::from(done) * 2] += 1;
        // It is opened as it is, or compacted as it is.
        if choice.is_multiple_of(2) {
            return compacted(&target, account);
        }
        check::whole(&target, &account.now())?;
        return operation.again(root).map_err(|error| format!("compacting again: {error}"));
    }
    let is_there = is_there(operation, &target)?;
    figures.made[match (is_there, done) {
        (true, true) => 2,
        (true, false) => 1,
        (false, _) => 0,
    }] += 1;
    if done && !is_there {
        return Err("what was acknowledged is not there".to_owned());
    }
    if is_there {
        made(operation, &target, account).map_err(|why| format!("what was made: {why}"))?;
    } else if begun {
        operation.again(root).map_err(|error| format!("doing it again: {error}"))?;
        let now = account.now();
        verified(&target)
            .and_then(|()| check::whole(&target, &now))
            .map_err(|why| format!("made again: {why}"))?;
    }
    match operation {
        Operation::Snapshot | Operation::Incremental => {
            check::whole(&root.join(STORE), &account.now()).map_err(|why| format!("the store itself: {why}"))
        }
        // Nobody writes to it: that is looked at once, in the log.
        _ => Ok(()),
    }
}

fn compacted(target: &Path, account: &Account) -> Result<(), String> {
    compact(target, &mut on).map_err(|error| format!("compacting again: {error}"))?;
    check::whole(target, &account.now()).map_err(|why| format!("compacted again: {why}"))
}

/// Whether there is a store: nobody takes anything else for one.
fn is_there(operation: Operation, target: &Path) -> Result<bool, String> {
    if operation != Operation::Restore {
        return Ok(target.exists());
    }
    match check::options().create(false).open(target) {
        Ok(_) => Ok(true),
        Err(Error::NoStore(_)) => Ok(false),
        // The place is filled where it is: it says so.
        Err(Error::Damaged { reason, .. }) if reason.contains("was cut short: do it again") => Ok(false),
        Err(error) => Err(format!("opening what is not finished: {error}")),
    }
}

fn made(operation: Operation, target: &Path, account: &Account) -> Result<(), String> {
    verified(target)?;
    let now = account.now();
    if !operation.is_snapshot() {
        return check::whole(target, &now);
    }
    let copy = check::options().create(false).open(target).map_err(|error| error.to_string())?;
    let mut found = BTreeMap::new();
    for key in now.keys() {
        found.insert(key.to_owned(), check::look(&copy, key)?);
    }
    drop(copy);
    if let Some((key, _)) = found.iter().find(|(key, value)| key.starts_with("s|") && *value != NOTHING) {
        return Err(format!("{key} is a session"));
    }
    check::whole(target, &account.moment(&found)?)
}

fn verified(target: &Path) -> Result<(), String> {
    let store =
        check::options().create(false).open(target).map_err(|error| format!("it does not open: {error}"))?;
    let report =
        store.verify(&VerifyOptions::new().restart(true), &mut on).map_err(|error| error.to_string())?;
    let wrong = (report.bad_count, report.fault_count, report.unchecked_count);
    if wrong == (0, 0, 0) { Ok(()) } else { Err(report.to_string()) }
}

/// Moments all over the operation, at its end, and after it.
fn moments(events: &[Event<'_>], dice: &mut Dice, wanted: usize) -> Vec<usize> {
    let said = |word: &str| {
        let is_it = |event: &Event<'_>| matches!(event, Event::Mark { text } if text.trim_end() == word);
        events.iter().position(is_it).unwrap()
    };
    let (begun, done) = (said(BEGUN), said(DONE));
    let mut during: Vec<usize> = Vec::new();
    for (at, event) in events.iter().enumerate().take(done).skip(begun) {
        during.extend(std::iter::repeat_n(at + dice.roll(2), cuts::weight(event)));
    }
    let ending: Vec<usize> = (done.saturating_sub(10).max(begun)..=done).collect();
    let after: Vec<usize> = (done + 1..events.len()).collect();
    let mut chosen: Vec<usize> = (0..wanted)
        .map(|n| {
            *dice
                .of(if n % 4 < 2 {
                    &during
                } else if n % 4 == 2 {
                    &ending
                } else {
                    &after
                })
                .unwrap()
        })
        // The moment of the answer, always.
        .chain([done + 1])
        .collect();
    chosen.sort_unstable();
    chosen
}

fn cut(operation: Operation, before: &Place, log: &[u8], seed: u64, states: usize, figures: &mut Figures) {
    let mut events = events(log);
    // States are made before an event.
    events.push(Event::Life);
    let mut dice = Dice::new(seed);
    let mut moments = moments(&events, &mut dice, states).into_iter().peekable();
    let mut image = Image::of(&before.root());
    let source = image.below(operation.source());
    let mut account = Account { before: said_in(before), lines: Vec::new() };
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
            let choice = dice.next();
            if let Err(error) = judge(operation, &folder, &account, choice, figures) {
                let failure =
                    format!("{operation:?}, seed {seed}, event {at} of {} ({how}): {error}", events.len());
                println!("BROKEN: {failure}");
                figures.failures.push(failure);
            }
            fs::remove_dir_all(&folder).unwrap();
        }
        if let Event::Mark { text } = event {
            account.lines.extend(text.lines().map(str::to_owned));
        }
        image.take(*event);
    }
    if operation.source() != operation.target() && !operation.is_snapshot() {
        assert!(image.below(operation.source()) == source, "{operation:?} changed what it only reads");
    }
    figures.events += events.len();
    for event in &events {
        match event {
            Event::Link { to, .. } if to.contains("/content/") => figures.linked += 1,
            Event::Open { path, flags, .. } if path.starts_with(TARGET) && path.contains("/content/") => {
                figures.written += usize::from(flags & 0o100 != 0);
            }
            _ => {}
        }
    }
}

fn said_in(place: &Place) -> Ledger {
    Ledger::of(&fs::read_to_string(place.marks()).unwrap())
}

/// The operation once more for each kill, from the same beginning.
fn kill(operation: Operation, before: &Place, log: &[u8], seed: u64, kills: usize, figures: &mut Figures) {
    let events = events(log);
    let changes = events.iter().filter(|event| !matches!(event, Event::Life | Event::Mark { .. })).count();
    let mut dice = Dice::new(seed ^ 0x0DEA_D000);
    for _ in 0..kills {
        let place = Place::like(before);
        let kill = Kill::AtChange(1 + dice.roll(changes), dice.roll(3));
        if !place.run(task(operation, &place, seed), false, kill) {
            continue;
        }
        figures.kills += 1;
        let all = fs::read_to_string(place.marks()).unwrap();
        let lines = all.lines().skip(fs::read_to_string(before.marks()).unwrap().lines().count());
        let account = Account { before: said_in(before), lines: lines.map(str::to_owned).collect() };
        if let Err(error) = judge(operation, &place.root(), &account, dice.next(), figures) {
            let failure = format!("{operation:?}, seed {seed}, {kill:?}: {error}");
            println!("BROKEN: {failure}");
            figures.failures.push(failure);
        }
    }
}

fn task(operation: Operation, place: &Place, seed: u64) -> std::process::Command {
    // Two writers, or one that may also collect.
    let threads = if operation == Operation::Snapshot { 2 } else { 1 };
    let mut child = place.child(&format!("copy {operation:?} {seed} 5 {threads}"));
    if operation == Operation::Incremental {
        child.env("SHIM_ELSEWHERE", STORE);
    }
    child
}

/// `COPIES_SEEDS`, `COPIES_STATES` and `COPIES_KILLS` (of each operation and seed) make it longer.
#[test]
fn a_cut_while_a_store_is_copied_compacted_restored_or_rescued_leaves_both_whole_or_one() {
    let first = setting("POWER_SEED", 1) as u64;
    let (states, kills) = (setting("COPIES_STATES", 5), setting("COPIES_KILLS", 1));
    let mut failures = Vec::new();
    let mut all: Vec<Figures> = OPERATIONS.iter().map(|_| Figures::default()).collect();
    for seed in first..first + setting("COPIES_SEEDS", 1) as u64 {
        let before = prepare(seed);
        for (operation, figures) in OPERATIONS.into_iter().zip(&mut all) {
            let place = Place::like(&before);
            place.run(task(operation, &place, seed), true, Kill::Not);
            let log = fs::read(place.log()).unwrap();
            cut(operation, &before, &log, seed, states, figures);
            kill(operation, &before, &log, seed, kills, figures);
            println!(
                "{operation:?}, up to seed {seed}: {} events, {} files linked and {} written; {} states after cuts and {} after kills; the outcome was absent in \
                 {}, there before it was acknowledged in {}, acknowledged in {}; {} broken",
                figures.events,
                figures.linked,
                figures.written,
                figures.states,
                figures.kills,
                figures.made[0],
                figures.made[1],
                figures.made[2],
                figures.failures.len(),
            );
        }
    }
    for (operation, figures) in OPERATIONS.into_iter().zip(&mut all) {
        let brought = match operation {
            Operation::Snapshot | Operation::Rescue => figures.linked > 0,
            Operation::Incremental => figures.linked > 0 && figures.written > 0,
            Operation::Restore => figures.written > 0,
            Operation::Compact => true,
        };
        assert!(brought, "{operation:?} was of a store without files");
        assert!(figures.states > 0 && figures.made[0] > 0 && figures.made[2] > 0);
        failures.append(&mut figures.failures);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
