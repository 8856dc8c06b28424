//! Power cuts, kills and failing disks: what a store acknowledged must survive all of them.
//!
//! `shim.c` stands between a child and libc. `POWER_SEEDS=20 POWER_STATES=300 cargo test --test power -- --nocapture` is the long
//! form of the power cuts; each test names the settings that make it longer.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test stops at the first surprise, and says what it measured"
)]

mod check;
mod copies;
mod cuts;
mod dice;
mod faults;
mod image;
mod kills;
mod ledger;
mod mounted;
mod record;
mod shim;
mod workload;

/// What the other tests run as a child of theirs; by itself it has nothing to do.
#[test]
fn child() {
    let Ok(task) = std::env::var("POWER_TASK") else { return };
    let path = |name: &str| std::path::PathBuf::from(std::env::var(name).unwrap());
    let (root, marks) = (path("POWER_ROOT"), path("POWER_MARKS"));
    match task.split_once(' ').unwrap() {
        ("live", life) => workload::live(&root, &marks, &workload::Life::of_text(life)),
        ("copy", spec) => copies::child(&root, &marks, spec),
        ("faults", spec) => faults::child(&root, &marks, spec),
        ("again", _) => faults::again(&root, &marks),
        ("unsynced", large) => faults::unsynced(&root, &marks, large == "1"),
        ("mounted", _) => mounted::full(&root),
        ("full", lies) => faults::full(&root, &marks, lies == "1"),
        (other, _) => panic!("no such task: {other}"),
    }
}
