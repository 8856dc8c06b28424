//! Beside other registries, in one run: pushes, pulls and small requests, as so many times what Debian's docker-registry does.
//!
//! `cargo bench --bench peers [-- ROUNDS]` (3). It ends with 1 where a bar is missed. `docker-registry` and `nginx-light` are to
//! be installed: `benches/compare.sh` sees to that. All servers are up at once and are loaded in turn, and the middle of the rounds counts,
//! as machines are shared and have moods.
//!
//! docker-registry syncs files, and not their folders; nginx serves files and is beside the pulls alone; the floor is what `std::fs` and
//! sha256 do with the same bytes and the same syncs, as many threads as clients. Where six tenths of that are less than the bar,
//! they are the bar.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark stops at the first surprise, and prints what it measured"
)]

mod cases;
mod client;
mod floor;
#[path = "../common/server.rs"]
mod server;
mod servers;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::cases::{CASES, Case, Kind, MIB};
use crate::server::Server;

/// The part of the floor that is always enough.
const OF_THE_FLOOR: f64 = 0.6;
/// Seconds of the processors for each GiB.
const PUSHING: f64 = 1.3;
const PULLING: f64 = 0.25;
/// Memory at rest, with 64 pushes, and with 200 pulls at once, in MiB.
const AT_REST: f64 = 12.0;
const WITH_PUSHES: f64 = 96.0;
const WITH_PULLS: f64 = 64.0;

fn main() -> ExitCode {
    let rounds = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(3);
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut report = Report { missed: 0 };
    memory(folder.path(), &mut report);
    let Some(registry) = Server::docker_registry(folder.path()) else {
        println!("docker-registry is not installed: benches/compare.sh does it");
        return ExitCode::FAILURE;
    };
    let (sledge, files) = (Server::sledge(&folder.path().join("sledge"), &[]), folder.path().join("files"));
    fs::create_dir(&files).unwrap();
    let nginx = Server::nginx(folder.path());
    println!("| case | docker-registry | nginx | floor | sledge | times | bar |");
    println!("|---|---|---|---|---|---|---|");
    for case in &CASES {
        let mut found = Found::default();
        for _ in 0..rounds {
            found.round(case, [&registry, &sledge], nginx.as_ref(), &files);
        }
        report.case(case, found);
    }
    if report.missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What the rounds gave for one case.
#[derive(Default)]
struct Found {
    registry: Vec<f64>,
    sledge: Vec<f64>,
    nginx: Vec<f64>,
    floor: Vec<f64>,
    /// Seconds of the processors for each GiB.
    processors: Vec<f64>,
}

impl Found {
    fn round(&mut self, case: &Case, [registry, sledge]: [&Server; 2], nginx: Option<&Server>, files: &Path) {
        self.registry.push(case.run(&registry.address, case.count));
        let count = case.count * if case.moves_bytes() { 2 } else { 6 };
        let before = sledge.processor_time();
        self.sledge.push(case.run(&sledge.address, count));
        let gibibytes = (count * case.size) as f64 / f64::from(1 << 30);
        self.processors.push((sledge.processor_time() - before) / gibibytes);
        if case.brings_bytes() {
            let folder = tempfile::tempdir_in(files).unwrap();
            self.floor.push(case.floor(folder.path(), count));
        }
        if let Some(nginx) = nginx.filter(|_| case.kind == Kind::Pull) {
            self.nginx.push(case.run_on_files(&nginx.address, files, count));
        }
    }
}

struct Report {
    missed: usize,
}

impl Report {
    fn case(&mut self, case: &Case, found: Found) {
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
            self.verdict(passed),
        );
        let limit = match (case.kind, case.size / MIB, case.clients) {
            (Kind::Push, 100, 1) => PUSHING,
            (Kind::Pull, 100, _) => PULLING,
            _ => return,
        };
        self.most(&format!("processors, {}", case.name), middle(processors).unwrap(), limit, "s/GiB");
    }

    /// A figure that is to be small.
    fn most(&mut self, name: &str, found: f64, limit: f64, unit: &str) {
        let passed = found <= limit;
        println!("| {name} | | | | {found:.2} {unit} | | {limit}{} |", self.verdict(passed));
    }

    fn verdict(&mut self, passed: bool) -> &'static str {
        self.missed += usize::from(!passed);
        if passed { "" } else { " **missed**" }
    }
}

fn middle(mut rates: Vec<f64>) -> Option<f64> {
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied()
}

/// What a server takes that has just begun, and what many clients at once make of it. Pages of files do not count: they are
/// the system's, which takes them back when it wants.
fn memory(folder: &Path, report: &mut Report) {
    let mebibytes = |bytes: u64| bytes as f64 / MIB as f64;
    println!("| memory | | | | found | | most |");
    println!("|---|---|---|---|---|---|---|");
    let pushes = cases::case("64 pushes of 100 MiB at once", Kind::Push, 100 * MIB, 64, 64, 0.0);
    let pulls = cases::case("200 pulls of 100 MiB at once", Kind::Pull, 100 * MIB, 200, 200, 0.0);
    for (case, limit) in [(pushes, WITH_PUSHES), (pulls, WITH_PULLS)] {
        let folder = tempfile::tempdir_in(folder).unwrap();
        let server = Server::sledge(folder.path(), &[]);
        if case.kind == Kind::Push {
            thread::sleep(Duration::from_secs(2));
            let resident = mebibytes(server.memory("VmRSS"));
            report.most("at rest, with the program itself", resident, AT_REST, "MiB");
        }
        report.most(case.name, mebibytes(most(&server, &case)), limit, "MiB");
    }
    println!();
}

/// The most memory that is its own while a case runs, looked at a hundred times a second.
fn most(server: &Server, case: &Case) -> u64 {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut most = 0;
            while !over.load(Ordering::Relaxed) {
                most = most.max(server.memory("RssAnon"));
                thread::sleep(Duration::from_millis(10));
            }
            most
        });
        case.run(&server.address, case.count);
        over.store(true, Ordering::Relaxed);
        watching.join().unwrap()
    })
}
