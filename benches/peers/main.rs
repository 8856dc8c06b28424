//! Beside other registries, in one run: pushes, pulls and small requests, as so many times what Debian's docker-registry does.
//!
//! `cargo bench --bench peers [-- ROUNDS]` (3). It ends with 1 where a bar is missed. `docker-registry` and `nginx-light` are to
//! be installed: `benches/compare.sh` sees to that. All servers are up at once and are loaded in turn, and the middle of the rounds counts,
//! as machines are shared and have moods.
//!
//! docker-registry syncs files, and not their folders; nginx serves files and is beside the pulls alone; the floor is what `std::fs` and
//! sha256 do with the same bytes and the same syncs, as many threads as clients. Where six tenths of that are less than the bar,
//! they are the bar.
//!
//! `cargo bench --bench peers -- growth [LAYERS]` (1,000,000) makes a large store instead, which takes some minutes, and serves it beside an
//! empty one.
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
mod growth;
mod report;
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
use crate::report::Report;
use crate::server::Server;

/// Memory at rest, with 64 pushes, and with 200 pulls at once, in MiB.
const AT_REST: f64 = 12.0;
const WITH_PUSHES: f64 = 96.0;
const WITH_PULLS: f64 = 64.0;

fn main() -> ExitCode {
    let number = std::env::args().skip(1).find_map(|word| word.parse().ok());
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut report = Report::default();
    if std::env::args().any(|word| word == "growth") {
        growth::growth(folder.path(), number.unwrap_or(1_000_000), &mut report);
        return report.verdict();
    }
    let rounds = number.unwrap_or(3);
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
    report.verdict()
}

/// What the rounds gave for one case.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) registry: Vec<f64>,
    pub(crate) sledge: Vec<f64>,
    pub(crate) nginx: Vec<f64>,
    pub(crate) floor: Vec<f64>,
    /// Seconds of the processors for each GiB.
    pub(crate) processors: Vec<f64>,
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
