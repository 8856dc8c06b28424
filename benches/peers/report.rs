//! The table, and what falls short of its bars.

use std::process::ExitCode;

use crate::Found;
use crate::cases::{Case, Kind, MIB, middle};

/// The part of the floor that is always enough.
const OF_THE_FLOOR: f64 = 0.6;
/// Seconds of the processors for each GiB.
const PUSHING: f64 = 1.3;
const PULLING: f64 = 0.25;

#[derive(Default)]
pub(crate) struct Report {
    missed: usize,
}

impl Report {
    pub(crate) fn case(&mut self, case: &Case, found: Found) {
        let Found { registry, sledge, nginx, floor, processors } = found;
        let [registry, sledge, nginx, floor] = [registry, sledge, nginx, floor].map(middle);
        let (registry, sledge) = (registry.unwrap(), sledge.unwrap());
        let enough = floor.map_or(f64::INFINITY, |floor| OF_THE_FLOOR * floor);
        let passed = sledge >= (case.bar * registry).min(enough);
        let cell = |rate: Option<f64>| rate.map_or(String::new(), |rate| format!("{rate:.0}"));
        println!(
            "| {} | {registry:.0} | {} | {} | {sledge:.0} | {:.1} | {}{}{} |",
            case.name,
            cell(nginx),
            cell(floor),
            sledge / registry,
            case.bar,
            floor.map_or(String::new(), |_| format!(" or {enough:.0}")),
            self.mark(passed),
        );
        let limit = match (case.kind, case.size / MIB, case.clients) {
            (Kind::Push, 100, 1) => PUSHING,
            (Kind::Pull, 100, _) => PULLING,
            _ => return,
        };
        self.most(&format!("processors, {}", case.name), middle(processors).unwrap(), limit, "s/GiB");
    }

    /// A figure that is to be small.
    pub(crate) fn most(&mut self, name: &str, found: f64, limit: f64, unit: &str) {
        let passed = found <= limit;
        println!("| {name} | | | | {found:.2} {unit} | | {limit}{} |", self.mark(passed));
    }

    pub(crate) fn verdict(&self) -> ExitCode {
        if self.missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn mark(&mut self, passed: bool) -> &'static str {
        self.missed += usize::from(!passed);
        if passed { "" } else { " **missed**" }
    }
}
