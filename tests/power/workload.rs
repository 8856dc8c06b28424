//! What the child processes do: lives of a store, with an account of each operation in the marks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use sledge::oci::{Algorithm, Digest, Reference, RepositoryName, Tag};
use sledge::store::sled::{CollectOptions, Inline, Sled, VerifyOptions};
use sledge::store::{Condition, Manage, MountSource, Pinned, Pull, Push, PutManifest, Upload, UploadOptions};
use sledge::{Error, Result};
use uuid::Uuid;

use super::check::{self, Progress, key};
use super::dice::{Dice, noise, setting};
use super::ledger::{Ledger, NOTHING};

/// One life: what it is told by its parent.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    pub(crate) seed: u64,
    pub(crate) number: u64,
    pub(crate) threads: usize,
    pub(crate) operations: usize,
    /// Only blobs in the index: no file and no folder is synced for them.
    pub(crate) small: bool,
    /// Now and then a sync fails, and what it should have written is lost.
    pub(crate) faulty: bool,
    /// What the folder may take, in MiB; 0 for no bounds.
    pub(crate) budget: usize,
    /// What is not small is in files, whatever the dice say.
    pub(crate) in_files: bool,
}

impl Life {
    pub(crate) fn to_text(&self) -> String {
        format!(
            "{} {} {} {} {} {} {} {}",
            self.seed,
            self.number,
            self.threads,
            self.operations,
            usize::from(self.small),
            usize::from(self.faulty),
            self.budget,
            usize::from(self.in_files)
        )
    }

    pub(crate) fn of_text(text: &str) -> Self {
        let mut words = text.split(' ').map(|word| word.parse::<u64>().unwrap());
        let mut next = || words.next().unwrap();
        let (seed, number) = (next(), next());
        let mut next = || usize::try_from(words.next().unwrap()).unwrap();
        Self {
            seed,
            number,
            threads: next(),
            operations: next(),
            small: next() == 1,
            faulty: next() == 1,
            budget: next(),
            in_files: next() == 1,
        }
    }
}

/// Where the account goes. The shim sees each line in order with the calls.
pub(crate) struct Marks {
    file: File,
    ledger: Mutex<Ledger>,
}

impl Marks {
    pub(crate) fn open(path: &Path) -> Self {
        let file = OpenOptions::new().create(true).append(true).read(true).open(path).unwrap();
        Self { file, ledger: Mutex::default() }
    }

    /// What was said so far by this process.
    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap()
    }

    pub(crate) fn say(&self, line: &str) {
        let written = (&self.file).write(format!("{line}\n").as_bytes()).unwrap();
        self.ledger().take(line);
        assert_eq!(written, line.len() + 1, "a line is one event");
    }

    /// What the shim answers: calls that may fail, calls that failed, bytes left.
    pub(crate) fn ask(&self) -> (u64, u64, i64) {
        use std::io::Read as _;
        let mut answer = [0; 100];
        let length = (&self.file).read(&mut answer).unwrap();
        let text = std::str::from_utf8(&answer[..length]).unwrap();
        let words: Vec<i64> = text.split_whitespace().map(|word| word.parse().unwrap()).collect();
        (words[0].cast_unsigned(), words[1].cast_unsigned(), words[2])
    }
}

pub(crate) fn data(root: &Path) -> PathBuf {
    root.join("data")
}

/// Lives the life in `root/data`, with an account in `marks`.
pub(crate) fn live(root: &Path, marks: &Path, life: &Life) {
    let (store, marks, actors) = enter(&data(root), marks, life, life.faulty);
    let actors: Vec<_> = actors.into_iter().map(|actor| thread::spawn(move || actor.run())).collect();
    for actor in actors {
        actor.join().unwrap();
    }
    marks.say("!well");
    drop(store);
}

/// Opens the store, holds it against the account, and has actors ready for it. `rebooted` says that sessions may have been
/// taken back since the account was given.
pub(crate) fn enter(
    folder: &Path,
    marks: &Path,
    life: &Life,
    rebooted: bool,
) -> (Sled, Arc<Marks>, Vec<Actor>) {
    let ledger = Ledger::of(&fs::read_to_string(marks).unwrap_or_default());
    let marks = Arc::new(Marks::open(marks));
    marks.say("L");
    let mut dice = Dice::new(life.seed * 1000 + life.number);
    // Content in the index makes sled use its segments again soon.
    let inline = match dice.roll(8) {
        _ if life.small || life.in_files || life.budget > 0 => Inline::default(),
        0..4 => Inline::Everything,
        4 => Inline::UpTo(0),
        _ => Inline::default(),
    };
    let options = check::options().inline(inline);
    let options = if life.budget > 0 { options.budget((life.budget as u64) << 20) } else { options };
    let store = options.open(folder).unwrap();
    // The machine did not restart: what is found is what was there, and from now on it stays so.
    let mut ledger_now = ledger;
    ledger_now.take("L");
    let found = check::examine(&store, &ledger_now, rebooted).unwrap_or_else(|error| panic!("{error}"));
    let seen: Vec<String> = found
        .iter()
        .filter(|(key, _)| !key.starts_with("s|") && ledger_now.possible(key).len() > 1)
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    if !rebooted {
        check::told(&store, &found).unwrap_or_else(|error| panic!("{error}"));
    }
    let first = life.number * 1_000_000;
    if !seen.is_empty() {
        marks.say(&format!("B {first} {}", seen.join(" ")));
        marks.say(&format!("A {first}"));
    }

    let actors: Vec<Actor> = (0..life.threads)
        .map(|thread| {
            let mut actor = Actor::new(&store, &marks, life, thread);
            actor.remember(&ledger_now, &found);
            actor
        })
        .collect();
    (store, marks, actors)
}

type Operation = fn(&mut Actor) -> Option<()>;

/// What there is to do, and how often. `None` from an operation says that there was nothing to do it to.
const OPERATIONS: &[(usize, Operation)] = &[
    (14, Actor::push_small),
    (14, Actor::push_file),
    (4, Actor::push_other_algorithm),
    (3, Actor::push_long),
    (10, Actor::suspend),
    (8, Actor::go_on),
    (8, Actor::finish),
    (3, Actor::cancel),
    (2, Actor::mistake),
    (14, Actor::put_manifest),
    (3, Actor::put_large_manifest),
    (12, Actor::tag),
    (6, Actor::delete_tag),
    (5, Actor::delete_manifest),
    (6, Actor::delete_blob),
    (6, Actor::mount),
    (4, Actor::collect),
    (2, Actor::verify),
];

/// One thread of a life, with repositories of its own; content it shares with the others.
pub(crate) struct Actor {
    store: Sled,
    marks: Arc<Marks>,
    dice: Dice,
    number: u64,
    life: Life,
    threads: usize,
    repositories: Vec<RepositoryName>,
    blobs: Vec<(RepositoryName, Digest, usize)>,
    manifests: Vec<(RepositoryName, Digest)>,
    tags: BTreeMap<(RepositoryName, Tag), Digest>,
    sessions: Vec<(RepositoryName, Uuid, Progress)>,
}

impl Actor {
    pub(crate) fn new(store: &Sled, marks: &Arc<Marks>, life: &Life, thread: usize) -> Self {
        Self {
            store: store.clone(),
            marks: Arc::clone(marks),
            dice: Dice::new(life.seed * 1_000_000 + life.number * 1000 + thread as u64 + 1),
            number: life.number * 1_000_000 + 1 + thread as u64 * 100_000,
            life: life.clone(),
            threads: life.threads,
            repositories: (0..2).map(|n| format!("r{thread}/{n}").parse().unwrap()).collect(),
            blobs: Vec::new(),
            manifests: Vec::new(),
            tags: BTreeMap::new(),
            sessions: Vec::new(),
        }
    }

    fn remember(&mut self, ledger: &Ledger, found: &BTreeMap<String, String>) {
        for (key, value) in found {
            let parts: Vec<&str> = key.split('|').collect();
            let repository: RepositoryName = parts[1].parse().unwrap();
            // Alone, it looks after what the threads of other lives left too: a collection asks nobody whose it is.
            if value == NOTHING || self.threads > 1 && !self.repositories.contains(&repository) {
                continue;
            }
            match parts[0] {
                "b" => self.blobs.push((repository, parts[2].parse().unwrap(), 1)),
                "m" => self.manifests.push((repository, parts[2].parse().unwrap())),
                "t" => {
                    self.tags.insert((repository, parts[2].parse().unwrap()), value.parse().unwrap());
                }
                _ => {
                    let sent = value.parse().unwrap();
                    let progress =
                        ledger.possible(key).into_iter().find_map(Progress::parse).expect("it has bytes");
                    self.sessions.push((
                        repository,
                        parts[2].parse().unwrap(),
                        Progress { sent, ..progress },
                    ));
                }
            }
        }
    }

    /// How many operations have been acknowledged so far, this one's and those of all who share its account.
    pub(crate) fn acknowledged(&self) -> impl Fn() -> u64 + use<> {
        let marks = Arc::clone(&self.marks);
        move || marks.ledger().acknowledged
    }

    pub(crate) fn run(mut self) {
        let operations = if self.life.small { &OPERATIONS[..1] } else { OPERATIONS };
        if self.life.budget > 0 && self.life.number.is_multiple_of(2) {
            self.fill_and_empty_index();
        }
        let weights: usize = operations.iter().map(|(weight, _)| weight).sum();
        let mut done = 0;
        while done < self.life.operations {
            let mut rolled = self.dice.roll(weights);
            let operation = operations
                .iter()
                .find(|(weight, _)| {
                    let here = rolled < *weight;
                    rolled = rolled.saturating_sub(*weight);
                    here
                })
                .unwrap();
            if self.life.faulty && self.dice.percent(30) {
                // The first sync from here on, or the second; the shim has the numbers of what may fail.
                let syncs = if self.dice.percent(50) { 2 } else { 2 + 1024 };
                let set = setting("POWER_SYNCS", syncs);
                self.marks.say(&format!("!fail {set} {} 0 5 0", 1 + self.dice.roll(2)));
            }
            // Within bounds, nothing may have room any more.
            done += usize::from(operation.1(&mut self).is_some() || self.life.budget > 0);
        }
    }

    /// Does something and gives account of it. `None` if it did not succeed.
    fn attempt<T>(
        &mut self,
        effects: &[(String, String)],
        act: impl FnOnce(&Sled) -> Result<T>,
    ) -> Option<T> {
        let number = self.number;
        self.number += 1;
        let keys: Vec<String> = effects.iter().map(|(key, _)| key.clone()).collect();
        let effects: Vec<String> = effects.iter().map(|(key, value)| format!("{key}={value}")).collect();
        self.marks.say(&format!("B {number} {}", effects.join(" ")));
        match act(&self.store) {
            Ok(value) => {
                self.marks.say(&format!("A {number}"));
                Some(value)
            }
            Err(error) if error.code().is_some() => {
                self.marks.say(&format!("R {number} {error}"));
                None
            }
            Err(error) => {
                self.marks.say(&format!("F {number} {error}"));
                keys.iter().for_each(|key| self.look_again(key));
                None
            }
        }
    }

    /// Takes note of what became of something that failed: later operations say what they change by what there is.
    fn look_again(&mut self, key: &str) {
        // While the index is being opened again, nobody can tell.
        let Some(found) = (0..1000).find_map(|_| {
            thread::yield_now();
            check::look(&self.store, key).ok()
        }) else {
            return;
        };
        let parts: Vec<&str> = key.split('|').collect();
        let repository: RepositoryName = parts[1].parse().unwrap();
        match parts[0] {
            "b" => {
                let digest = parts[2].parse().unwrap();
                self.blobs.retain(|(at, what, _)| (at, what) != (&repository, &digest));
                self.blobs.extend((found != NOTHING).then_some((repository, digest, 1)));
            }
            "m" => {
                let digest = parts[2].parse().unwrap();
                self.manifests.retain(|entry| *entry != (repository.clone(), digest));
                self.manifests.extend((found != NOTHING).then_some((repository, digest)));
            }
            "t" => {
                let at = (repository, parts[2].parse().unwrap());
                self.tags.remove(&at);
                self.tags.extend(found.parse().ok().map(|digest| (at, digest)));
            }
            _ => {}
        }
    }

    fn repository(&mut self) -> RepositoryName {
        self.dice.of(&self.repositories).unwrap().clone()
    }

    /// Content from a pool that all threads draw from: two sessions for one digest are no exception.
    fn content(&mut self, sizes: &[usize]) -> (u64, Vec<u8>) {
        let size = *self.dice.of(sizes).unwrap();
        let size = if size < 5 { size } else { size - self.dice.roll(3) };
        let seed = self.life.seed * 10 + self.dice.roll(4) as u64;
        (seed, noise(seed, size))
    }

    fn push(&mut self, content: &[u8], algorithm: Algorithm, announced: Option<Algorithm>) {
        let repository = self.repository();
        let digest = algorithm.digest(content);
        let effects = [(key("b", &repository, digest), "1".to_owned())];
        let pieces = 1 + self.dice.roll(3);
        let done = self.attempt(&effects, |store| {
            let mut options = UploadOptions::new().size(content.len() as u64);
            options.algorithm = announced;
            let mut upload = store.start_upload(&repository, &options)?;
            for piece in content.chunks(content.len().div_ceil(pieces).max(1)) {
                write(&mut upload, piece)?;
            }
            upload.commit(&digest)
        });
        if done.is_some() {
            self.blobs.push((repository, digest, content.len()));
        }
    }

    fn push_small(&mut self) -> Option<()> {
        let (_, content) = self.content(&[0, 1, 300, 4096, 5000, 12_000, 16_384]);
        self.push(&content, Algorithm::Sha256, None);
        Some(())
    }

    /// All threads together push 20 MB that are inline, and delete them.
    fn fill_and_empty_index(&mut self) {
        let before = self.blobs.len();
        for number in 0..1200 / self.threads as u64 {
            let content = noise(self.life.seed * 1_000_003 + self.number + number, 16_384);
            self.push(&content, Algorithm::Sha256, None);
        }
        for (repository, digest, _) in self.blobs.split_off(before) {
            let effects = [(key("b", &repository, digest), NOTHING.to_owned())];
            self.attempt(&effects, |store| store.delete_blob(&repository, &digest));
        }
    }

    fn push_file(&mut self) -> Option<()> {
        let (_, content) = self.content(&[16_400, 40_000, 65_536, 200_000]);
        self.push(&content, Algorithm::Sha256, None);
        Some(())
    }

    /// Content that nobody else pushes.
    pub(crate) fn push_new_file(&mut self) {
        let content = noise(self.life.seed * 1_000_003 + self.number, 100_000);
        self.push(&content, Algorithm::Sha256, None);
    }

    fn push_long(&mut self) -> Option<()> {
        let (_, content) = self.content(&[700_000, 1_500_000]);
        self.push(&content, Algorithm::Sha256, None);
        Some(())
    }

    fn push_other_algorithm(&mut self) -> Option<()> {
        let (_, content) = self.content(&[3000, 50_000]);
        let announced = self.dice.percent(50).then_some(Algorithm::Sha512);
        self.push(&content, Algorithm::Sha512, announced);
        Some(())
    }

    /// A digest that is not the content's: the session ends and nothing is there.
    fn mistake(&mut self) -> Option<()> {
        let (_, content) = self.content(&[500, 60_000]);
        let repository = self.repository();
        let wrong = Algorithm::Sha256.digest(b"something else");
        let effects = [(key("b", &repository, wrong), "1".to_owned())];
        let outcome = self.attempt(&effects, |store| {
            let mut upload = store.start_upload(&repository, &UploadOptions::new())?;
            write(&mut upload, &content)?;
            upload.commit(&wrong)
        });
        assert!(outcome.is_none());
        Some(())
    }

    fn suspend(&mut self) -> Option<()> {
        let (seed, content) = self.content(&[5000, 50_000, 150_000]);
        let repository = self.repository();
        let sent = self.dice.roll(content.len()) + 1;
        let upload = self.store.start_upload(&repository, &UploadOptions::new());
        let mut upload = upload.ok()?;
        let id = upload.id();
        let progress = Progress { seed, total: content.len(), sent, durable: 0 };
        let done = self.attempt(&[(key("s", &repository, id), progress.value())], |_| {
            write(&mut upload, &content[..sent])?;
            upload.suspend()
        });
        if done.is_some() {
            self.sessions.push((repository, id, progress));
        }
        Some(())
    }

    fn session(&mut self) -> Option<(RepositoryName, Uuid, Progress)> {
        if self.sessions.is_empty() {
            return None;
        }
        let at = self.dice.roll(self.sessions.len());
        Some(self.sessions.swap_remove(at))
    }

    fn go_on(&mut self) -> Option<()> {
        let (repository, id, progress) = self.session()?;
        let content = noise(progress.seed, progress.total);
        let sent = progress.sent + self.dice.roll(progress.total - progress.sent + 1);
        let now = Progress { sent, ..progress };
        let faulty = self.life.faulty;
        let done = self.attempt(&[(key("s", &repository, id), now.value())], |store| {
            let mut upload = store.resume_upload(&repository, id, &UploadOptions::new())?;
            let offset = usize::try_from(upload.offset()).unwrap();
            // A failed sync is like a power cut.
            assert!(offset == progress.sent || faulty && offset < progress.sent, "{id} stands at {offset}");
            write(&mut upload, &content[offset..sent])?;
            upload.suspend()
        });
        if done.is_some() {
            self.sessions.push((repository, id, now));
        }
        Some(())
    }

    fn finish(&mut self) -> Option<()> {
        let (repository, id, progress) = self.session()?;
        let content = noise(progress.seed, progress.total);
        let digest = Algorithm::Sha256.digest(&content);
        let effects = [
            (key("s", &repository, id), NOTHING.to_owned()),
            (key("b", &repository, digest), "1".to_owned()),
        ];
        let done = self.attempt(&effects, |store| {
            let mut upload = store.resume_upload(&repository, id, &UploadOptions::new())?;
            let offset = usize::try_from(upload.offset()).unwrap();
            write(&mut upload, &content[offset..])?;
            upload.commit(&digest)
        });
        if done.is_some() {
            self.blobs.push((repository, digest, content.len()));
        }
        Some(())
    }

    fn cancel(&mut self) -> Option<()> {
        let (repository, id, _) = self.session()?;
        self.attempt(&[(key("s", &repository, id), NOTHING.to_owned())], |store| {
            store.cancel_upload(&repository, id)
        });
        Some(())
    }

    fn new_tags(&mut self, most: usize) -> Vec<Tag> {
        let mut tags: Vec<Tag> = (0..self.dice.roll(most + 1))
            .map(|_| format!("v{}", self.dice.roll(12)).parse().unwrap())
            .collect();
        tags.sort();
        tags.dedup();
        tags
    }

    fn put(&mut self, repository: &RepositoryName, layers: &[(Digest, usize)], size: usize, sparse: bool) {
        let manifest = check::image(layers, size);
        let digest = *manifest.digest();
        let tags = self.new_tags(4);
        let mut effects = vec![(key("m", repository, digest), "1".to_owned())];
        effects.extend(tags.iter().map(|tag| (key("t", repository, tag), digest.to_string())));
        let done = self.attempt(&effects, |store| {
            let options = if sparse { check::sparse() } else { PutManifest::new() };
            store.put_manifest(repository, &manifest, &options.tags(&tags))
        });
        if done.is_some() {
            let entry = (repository.clone(), digest);
            if !self.manifests.contains(&entry) {
                self.manifests.push(entry);
            }
            self.tags.extend(tags.into_iter().map(|tag| ((repository.clone(), tag), digest)));
        }
    }

    fn put_manifest(&mut self) -> Option<()> {
        let repository = self.repository();
        let layers: Vec<(Digest, usize)> = self
            .blobs
            .iter()
            .filter(|(at, ..)| *at == repository)
            .map(|(_, digest, size)| (*digest, *size))
            .collect();
        let chosen: Vec<_> = (0..self.dice.roll(5)).filter_map(|_| self.dice.of(&layers).copied()).collect();
        let size = *self.dice.of(&[0, 100, 9000, 40_000]).unwrap();
        self.put(&repository, &chosen, size, false);
        Some(())
    }

    fn put_large_manifest(&mut self) -> Option<()> {
        let repository = self.repository();
        let references = *self.dice.of(&[1, 400, 2500]).unwrap();
        let first = self.dice.roll(3);
        let layers: Vec<(Digest, usize)> = (0..references)
            .map(|n| (Algorithm::Sha256.digest(&(first * 100_000 + n).to_le_bytes()), n))
            .collect();
        let size = *self.dice.of(&[0, 100_000, 1 << 20, (4 << 20) - 1]).unwrap();
        self.put(&repository, &layers, size, true);
        Some(())
    }

    fn tag(&mut self) -> Option<()> {
        let (repository, digest) = self.dice.of(&self.manifests)?.clone();
        let tag: Tag = format!("v{}", self.dice.roll(12)).parse().unwrap();
        let effects = [(key("t", &repository, &tag), digest.to_string())];
        self.attempt(&effects, |store| store.tag(&repository, &digest, &tag, &Condition::Any))?;
        self.tags.insert((repository, tag), digest);
        Some(())
    }

    fn delete_tag(&mut self) -> Option<()> {
        let tags: Vec<_> = self.tags.keys().cloned().collect();
        let (repository, tag) = self.dice.of(&tags)?.clone();
        let effects = [(key("t", &repository, &tag), NOTHING.to_owned())];
        self.attempt(&effects, |store| store.delete_tag(&repository, &tag))?;
        self.tags.remove(&(repository, tag));
        Some(())
    }

    fn delete_manifest(&mut self) -> Option<()> {
        let (repository, digest) = self.dice.of(&self.manifests)?.clone();
        let mut effects = vec![(key("m", &repository, digest), NOTHING.to_owned())];
        let pointing = |at: &(RepositoryName, Tag), to: &Digest| at.0 == repository && *to == digest;
        effects.extend(
            self.tags
                .iter()
                .filter(|(at, to)| pointing(at, to))
                .map(|((_, tag), _)| (key("t", &repository, tag), NOTHING.to_owned())),
        );
        self.attempt(&effects, |store| store.delete_manifest(&repository, &digest, &Pinned::none()))?;
        self.tags.retain(|at, to| !pointing(at, to));
        self.manifests.retain(|entry| *entry != (repository.clone(), digest));
        Some(())
    }

    fn delete_blob(&mut self) -> Option<()> {
        let (repository, digest, _) = self.dice.of(&self.blobs)?.clone();
        let effects = [(key("b", &repository, digest), NOTHING.to_owned())];
        self.attempt(&effects, |store| store.delete_blob(&repository, &digest))?;
        self.blobs.retain(|(at, what, _)| (at, what) != (&repository, &digest));
        Some(())
    }

    /// Collection without a grace time, and the end of all sessions. What a manifest references must stay; of the rest it is seen
    /// what went, and that must not come back.
    fn collect(&mut self) -> Option<()> {
        // Other threads would meet it in the middle of what they do.
        if self.threads > 1 {
            return None;
        }
        let mut referenced = BTreeSet::new();
        for (repository, digest) in &self.manifests {
            let manifest = self.store.manifest(repository, &Reference::Digest(*digest)).ok()?;
            let references = manifest.contents().unwrap().references;
            referenced.extend(references.iter().map(|reference| (repository.clone(), reference.digest)));
        }
        let blobs = self.blobs.iter().map(|(repository, digest, _)| (repository.clone(), *digest));
        let mut keys: Vec<String> = blobs
            .filter(|blob| !referenced.contains(blob))
            .map(|(repository, digest)| key("b", &repository, digest))
            .collect();
        keys.extend(self.sessions.iter().map(|(repository, id, _)| key("s", repository, id)));
        keys.sort();
        keys.dedup();
        let numbers: Vec<u64> = (self.number..).take(keys.len()).collect();
        self.number += keys.len() as u64;
        for (number, key) in numbers.iter().zip(&keys) {
            self.marks.say(&format!("B {number} {key}={NOTHING}"));
        }
        let options = CollectOptions::new().grace(Duration::ZERO).uploads_after(Duration::ZERO);
        let outcome = self.store.collect(&options, &mut |_| ControlFlow::Continue(()));
        for (number, key) in numbers.iter().zip(&keys) {
            match (&outcome, check::look(&self.store, key)) {
                (Ok(_), _) if key.starts_with("s|") => self.marks.say(&format!("A {number}")),
                (Ok(_), Ok(found)) if found == NOTHING => self.marks.say(&format!("A {number}")),
                // What was abandoned only just now may be a candidate in a moment.
                (Ok(_), Ok(_)) => self.marks.say(&format!("R {number}")),
                _ => self.marks.say(&format!("F {number}")),
            }
            self.look_again(key);
        }
        self.sessions.clear();
        outcome.ok().map(drop)
    }

    /// Nothing is wrong, whatever happened before.
    fn verify(&mut self) -> Option<()> {
        let options = VerifyOptions::new().restart(true);
        match self.store.verify(&options, &mut |_| ControlFlow::Continue(())) {
            Ok(report) => assert_eq!((report.bad_count, report.fault_count), (0, 0), "{report}"),
            Err(error) => assert!(error.code().is_none() || self.threads > 1, "{error}"),
        }
        Some(())
    }

    fn mount(&mut self) -> Option<()> {
        let source: RepositoryName =
            format!("r{}/{}", self.dice.roll(self.threads), self.dice.roll(2)).parse().unwrap();
        let repository = self.repository();
        let (_, digest, size) = self.dice.of(&self.blobs)?.clone();
        let effects = [(key("b", &repository, digest), "1".to_owned())];
        let mounted = self
            .attempt(&effects, |store| store.mount(&repository, &digest, &MountSource::Repository(&source)));
        if mounted.is_some() {
            self.blobs.push((repository, digest, size));
        }
        Some(())
    }
}

fn write(upload: &mut Box<dyn Upload>, bytes: &[u8]) -> Result<()> {
    upload.write_all(bytes).map_err(|source| Error::Io { doing: "writing".to_owned(), source })
}
