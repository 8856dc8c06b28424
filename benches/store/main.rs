//! What the durable store costs, each case beside its floor: the standard library doing the same with the same syncs, or the
//! store in memory.
//!
//! `cargo bench --bench store [-- commit | inline | layers | contention | growth | snapshot]`. Ratios hold between machines better than
//! figures do.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_precision_loss,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a benchmark stops at the first surprise, and prints what it measured"
)]

mod commit;
mod contention;
mod growth;
mod inline;
mod layers;
mod snapshot;

use std::fs;
use std::path::Path;
use std::time::Duration;

use sledge::Result;
use sledge::oci::RepositoryName;

type Case = (&'static str, fn(&Path) -> Result<()>);

const CASES: [Case; 6] = [
    ("commit", commit::commit),
    ("inline", inline::inline),
    ("layers", layers::layers),
    ("contention", contention::contention),
    ("growth", growth::growth),
    ("snapshot", snapshot::snapshot),
];

fn main() -> Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    // Beside the build, so that it is a real disk; a temporary folder may be memory.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for (case, run) in CASES {
        if wanted.is_empty() || wanted.iter().any(|name| name == case) {
            run(&folder.path().join(case))?;
        }
    }
    Ok(())
}

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        bytes.extend_from_slice(&x.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e3
}

fn name() -> RepositoryName {
    "bench".parse().expect("a valid name")
}

/// Bytes that a folder takes on the disk.
fn disk(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let mut bytes = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        bytes += if metadata.is_dir() { disk(&entry.path()) } else { metadata.blocks() * 512 };
    }
    bytes
}
