//! What was asked of a store and what it answered, and what must, may and must not be there because of that.
//!
//! A workload says before each operation what it would change (`B id key=value ..`) and afterwards what became of it: `A id`, it
//! was acknowledged; `R id`, it was refused and changed nothing; `F id`, it failed, and nobody knows. `L` begins a life.
//! Keys are `b|repository|digest` (a blob), `m|repository|digest` (a manifest), `t|repository|tag`, `s|repository|id` (an upload
//! session). A value is what is found under the key; `-` is nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};

pub(crate) const NOTHING: &str = "-";

#[derive(Clone, Debug)]
struct Change {
    operation: u64,
    value: String,
    begun: u64,
    /// When it was over, whatever its outcome.
    over: Option<u64>,
    acknowledged: bool,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    clock: u64,
    keys: BTreeMap<String, Vec<Change>>,
    /// What operations that are not acknowledged would change, all of it at once.
    open: HashMap<u64, Vec<(String, String)>>,
    pub(crate) acknowledged: u64,
}

impl Ledger {
    pub(crate) fn of(marks: &str) -> Self {
        let mut ledger = Self::default();
        marks.lines().for_each(|line| ledger.take(line));
        ledger
    }

    pub(crate) fn take(&mut self, line: &str) {
        self.clock += 1;
        let mut words = line.split_ascii_whitespace();
        let kind = words.next().unwrap_or_default();
        let operation = words.next().and_then(|id| id.parse().ok()).unwrap_or_default();
        match kind {
            "L" => {
                for changes in self.keys.values_mut() {
                    for change in changes {
                        change.over.get_or_insert(self.clock);
                    }
                }
            }
            "B" => {
                let effects: Vec<(String, String)> = words
                    .map(|effect| effect.split_once('=').unwrap())
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .collect();
                for (key, value) in &effects {
                    let first = Change {
                        operation: 0,
                        value: NOTHING.to_owned(),
                        begun: 0,
                        over: Some(0),
                        acknowledged: true,
                    };
                    let changes = self.keys.entry(key.clone()).or_insert_with(|| vec![first]);
                    let value = value.clone();
                    changes.push(Change {
                        operation,
                        value,
                        begun: self.clock,
                        over: None,
                        acknowledged: false,
                    });
                }
                self.open.insert(operation, effects);
            }
            "A" | "F" => {
                self.acknowledged += u64::from(kind == "A");
                let effects = match kind {
                    "A" => self.open.remove(&operation).unwrap(),
                    _ => self.open[&operation].clone(),
                };
                for (key, _) in effects {
                    let changes = self.keys.get_mut(&key).unwrap();
                    let change = changes.iter_mut().find(|change| change.operation == operation).unwrap();
                    change.over = Some(self.clock);
                    if kind == "A" {
                        change.acknowledged = true;
                        let begun = change.begun;
                        changes.retain(|other| other.over.is_none_or(|over| over > begun));
                    }
                }
            }
            "R" => {
                for (key, _) in self.open.remove(&operation).unwrap() {
                    self.keys.get_mut(&key).unwrap().retain(|change| change.operation != operation);
                }
            }
            // Commands to the shim, and words for people.
            _ => {}
        }
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }

    /// What may be found under a key.
    pub(crate) fn possible(&self, key: &str) -> BTreeSet<&str> {
        match self.keys.get(key) {
            Some(changes) => changes.iter().map(|change| change.value.as_str()).collect(),
            None => BTreeSet::from([NOTHING]),
        }
    }

    /// The value that was acknowledged and not changed since, if nothing else is under way.
    pub(crate) fn certain(&self, key: &str) -> Option<&str> {
        match self.keys.get(key).map(Vec::as_slice) {
            Some([change]) if change.acknowledged => Some(&change.value),
            _ => None,
        }
    }

    /// What an operation without an answer would have changed: all of it or nothing.
    fn unanswered(&self) -> impl Iterator<Item = (u64, &Vec<(String, String)>)> {
        self.open.iter().map(|(operation, effects)| (*operation, effects))
    }

    /// What would contradict the ledger.
    pub(crate) fn check(&self, found: &BTreeMap<String, String>) -> Result<(), String> {
        for (key, value) in found {
            // Sessions have rules of their own.
            let possible = self.possible(key);
            if !key.starts_with("s|") && !possible.contains(value.as_str()) {
                return Err(format!("{key} is {value}, and may be {possible:?}"));
            }
        }
        for (operation, effects) in self.unanswered() {
            let told: Vec<bool> = effects
                .iter()
                .filter(|(key, value)| {
                    let possible = self.possible(key);
                    !key.starts_with("s|") && possible.len() == 2 && possible.contains(value.as_str())
                })
                // Only where no other operation could have done it, or undone it since.
                .filter(|(key, value)| {
                    let changes = &self.keys[key];
                    let is_this = |change: &Change| change.operation == operation;
                    changes.last().is_some_and(is_this)
                        && changes.iter().filter(|change| change.value == *value).all(is_this)
                })
                .filter_map(|(key, value)| found.get(key).map(|found| found == value))
                .collect();
            if told.contains(&true) && told.contains(&false) {
                let found: Vec<_> =
                    effects.iter().map(|(key, value)| (key, value, &found[key], &self.keys[key])).collect();
                return Err(format!("a part of what belongs together: {found:#?}"));
            }
        }
        Ok(())
    }
}
