//! The contract's rules over every store and every pointer to one, and over stores that break them.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sledge::conformance::{self, Harness, RULES};
use sledge::filter::ImmutableTags;
use sledge::store::memory::Memory;
use sledge::store::sled::{Durability, Inline, Options, Sled};
use sledge::store::{Pinned, Store};
use tempfile::TempDir;

mod broken;

/// No machine is so slow that a live writer is taken for silent.
const PATIENT: Duration = Duration::from_secs(24 * 60 * 60);

/// A store that does not outlive the process, under a pointer of some kind.
struct Volatile {
    store: Arc<dyn Store>,
    impatient: Arc<dyn Store>,
}

impl Volatile {
    fn new<S: Store + 'static>(wrap: impl Fn(Memory) -> S) -> Self {
        Self {
            store: Arc::new(wrap(Memory::with_writer_silence(PATIENT))),
            impatient: Arc::new(wrap(Memory::with_writer_silence(Duration::ZERO))),
        }
    }
}

impl Harness for Volatile {
    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }

    fn restart(&self) -> bool {
        false
    }

    fn impatient(&self) -> Option<Arc<dyn Store>> {
        Some(Arc::clone(&self.impatient))
    }
}

/// A store in a folder, with a second one beside it whose writers all count as silent.
struct Durable {
    options: Options,
    folder: TempDir,
    store: Mutex<Option<Arc<Sled>>>,
    impatient: Arc<Sled>,
}

impl Durable {
    fn new(options: Options) -> Self {
        let options = options.writer_silence(PATIENT);
        let folder = tempfile::tempdir().unwrap();
        let open = |name: &str, options: Options| Arc::new(options.open(folder.path().join(name)).unwrap());
        let store = Mutex::new(Some(open("store", options.clone())));
        let impatient = open("impatient", options.clone().writer_silence(Duration::ZERO));
        Self { options, folder, store, impatient }
    }
}

impl Harness for Durable {
    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(self.store.lock().unwrap().as_ref().unwrap()) as Arc<dyn Store>
    }

    fn restart(&self) -> bool {
        let mut store = self.store.lock().unwrap();
        let stopped = store.take().unwrap();
        assert_eq!(Arc::strong_count(&stopped), 1, "a rule that restarts the store still holds it");
        drop(stopped);
        *store = Some(Arc::new(self.options.clone().open(self.folder.path().join("store")).unwrap()));
        true
    }

    fn impatient(&self) -> Option<Arc<dyn Store>> {
        Some(Arc::clone(&self.impatient) as Arc<dyn Store>)
    }
}

/// The rules that are broken, with what they say about it.
fn broken_rules(harness: &dyn Harness) -> Vec<(&'static str, String)> {
    let check = |rule: &conformance::Rule| {
        let outcome = catch_unwind(AssertUnwindSafe(|| (rule.check)(harness)));
        outcome.err().map(|panic| (rule.name, words(&*panic)))
    };
    RULES.iter().filter_map(check).collect()
}

fn words(panic: &(dyn Any + Send)) -> String {
    match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
        (Some(words), _) => words.clone(),
        (_, Some(words)) => (*words).to_owned(),
        _ => "a panic without words".to_owned(),
    }
}

/// A test that runs all rules over a harness and names those that are broken.
macro_rules! keeps_the_contract {
    ($($name:ident: $harness:expr;)+) => { $(
        #[test]
        fn $name() {
            assert_eq!(broken_rules(&$harness), []);
        }
    )+ };
}

keeps_the_contract! {
    memory: Volatile::new(|memory| memory);
    memory_behind_an_arc: Volatile::new(|memory| -> Arc<dyn Store> { Arc::new(memory) });
    memory_behind_a_box: Volatile::new(|memory| -> Box<dyn Store> { Box::new(memory) });
    memory_behind_a_reference: Volatile::new(|memory| -> &'static dyn Store { Box::leak(Box::new(memory)) });
    immutable_tags_of_which_there_are_none: Volatile::new(|memory| ImmutableTags::new(memory, Pinned::none()));
    sled: Durable::new(Options::new());
    sled_with_all_bytes_inside: Durable::new(Options::new().inline(Inline::Everything));
    sled_with_all_bytes_in_files: Durable::new(Options::new().inline(Inline::UpTo(0)));
    sled_with_relaxed_durability: Durable::new(Options::new().durability(Durability::Relaxed(Duration::from_millis(5))));
}

/// As [`broken_rules`], with all of them under way at once. The harness must not restart its store.
fn broken_rules_at_once(harness: &Volatile) -> Vec<&'static str> {
    let broken = Mutex::new(Vec::new());
    std::thread::scope(|threads| {
        for rule in RULES {
            let broken = &broken;
            threads.spawn(move || {
                if catch_unwind(AssertUnwindSafe(|| (rule.check)(harness))).is_err() {
                    broken.lock().unwrap().push(rule.name);
                }
            });
        }
    });
    broken.into_inner().unwrap()
}

#[test]
fn memory_keeps_all_rules_at_once() {
    assert_eq!(broken_rules_at_once(&Volatile::new(|memory| memory)), Vec::<&str>::new());
}

#[test]
fn sled_keeps_all_rules_at_once() {
    let durable = Durable::new(Options::new());
    let harness = Volatile { store: durable.store(), impatient: durable.impatient().unwrap() };
    assert_eq!(broken_rules_at_once(&harness), Vec::<&str>::new());
}

#[test]
fn all_runs_every_rule() {
    conformance::all(&Volatile::new(|memory| memory));
    for (at, rule) in RULES.iter().enumerate() {
        assert!(RULES[..at].iter().all(|earlier| earlier.name != rule.name), "{} is there twice", rule.name);
    }
}
