//! Replays the fuzzers' corpus: what once was worth keeping stays a test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test stops at the first surprise, and names its input"
)]

use std::fs;
use std::path::Path;

#[allow(unreachable_pub, reason = "the fuzzers use the same file as a crate")]
#[path = "../fuzz/src/lib.rs"]
mod checks;

fn replay(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        check(&fs::read(path).unwrap());
        count += 1;
    }
    assert!(count > 0, "no corpus for {target}");
}

#[test]
fn words() {
    replay("words", checks::words);
}

#[test]
fn manifest() {
    replay("manifest", checks::manifest);
}

#[test]
fn request() {
    replay("request", checks::request);
}

#[test]
fn service() {
    replay("service", checks::service::check);
}

#[test]
fn model() {
    replay("model", checks::model);
}

#[cfg(feature = "schema1")]
#[test]
fn signed() {
    replay("signed", checks::old::signed);
}

#[cfg(feature = "schema1")]
#[test]
fn tar_sum() {
    replay("tar-sum", checks::old::tar_sum);
}
