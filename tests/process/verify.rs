//! Verification of a store that is served, and of one that is not.

use std::fs;
use std::path::Path;

use crate::control::{push, sledge, words};
use crate::server::{Server, noise};

/// Makes a byte of the only file of content another one.
fn flip(data: &Path) {
    let file = fs::read_dir(data.join("content")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&file).unwrap();
    bytes[50_000] ^= 1;
    fs::write(&file, bytes).unwrap();
}

#[test]
fn a_store_is_verified_by_its_server_and_without_one() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let server = Server::start(data);
    let content = noise(100_000);
    let digest = push(&server, &content);
    let path = format!("/v2/a/b/blobs/{digest}");
    let verify = |arguments: &[&str]| sledge(&[&["verify"], arguments].concat(), data);

    let done = verify(&["--rate", "1GiB"]);
    assert_eq!(done.status.code(), Some(0), "{}", words(&done.stderr));
    assert!(
        words(&done.stdout)
            .starts_with("verified: 1 blobs and 0 manifests (100000 bytes) are good, 0 are bad")
    );

    flip(data);
    assert_eq!(server.request("HEAD", &path, b"").status, 200, "nobody has noticed");
    let done = verify(&["--repair", "--restart"]);
    assert_eq!(done.status.code(), Some(1), "{}", words(&done.stderr));
    let told = words(&done.stdout);
    assert!(told.starts_with(&format!("bad: blob {digest}: its bytes have the digest sha256:")), "{told}");
    assert!(told.contains("push it again to a/b\n"), "{told}");
    assert_eq!(server.request("HEAD", &path, b"").status, 404);
    server.stop();

    let done = verify(&["--json"]);
    assert_eq!(done.status.code(), Some(1), "{}", words(&done.stderr));
    let report: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(report["verify"]["bad"][0]["digest"], digest, "{report}");

    let server = Server::start(data);
    assert_eq!(push(&server, &content), digest);
    assert_eq!(verify(&[]).status.code(), Some(0));
    server.stop();
    assert_eq!(verify(&[]).status.code(), Some(0));
    assert_eq!(fs::read_dir(data.join("quarantine")).unwrap().count(), 0);
}

/// Whoever asked a server that was told to collect nothing had it remove what no record names.
#[test]
fn a_read_only_server_verifies_and_repairs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let server = Server::start(data);
    let digest = push(&server, &noise(100_000));
    server.stop();
    let server = Server::start_with(data, &["--read-only"]);
    let refused = sledge(&["verify", "--repair"], data);
    assert_eq!(refused.status.code(), Some(1));
    let told = words(&refused.stderr);
    assert!(told.contains("the server is read-only: nothing is repaired"), "{told}");

    // What is bad is told, and set aside as it is when it is read: nobody gets it, and nothing of it is lost.
    flip(data);
    let orphan = data.join("content").join("0".repeat(31) + "1");
    fs::write(&orphan, b"nobody's").unwrap();
    let done = sledge(&["verify"], data);
    assert_eq!(done.status.code(), Some(1), "{}", words(&done.stderr));
    let told = words(&done.stdout);
    assert!(told.contains(&format!("bad: blob {digest}")) && told.contains("orphan: content/"), "{told}");
    assert!(orphan.exists());
    assert_eq!(server.request("HEAD", &format!("/v2/a/b/blobs/{digest}"), b"").status, 404);
    assert_eq!(fs::read_dir(data.join("quarantine")).unwrap().count(), 1);
    server.stop();
    sledge(&["verify", "--repair"], data);
    assert!(!orphan.exists());
}

/// `--rate 5` was five bytes a second.
#[test]
fn a_rate_that_is_a_slip_of_the_unit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let done = sledge(&["verify", "--rate", "5"], folder.path());
    assert_eq!(done.status.code(), Some(2));
    assert!(words(&done.stderr).contains("such as 32MiB"), "{}", words(&done.stderr));
}

#[test]
fn what_is_no_store_is_not_verified() {
    let folder = tempfile::tempdir().unwrap();
    let done = sledge(&["verify"], &folder.path().join("absent"));
    assert_eq!(done.status.code(), Some(1));
    assert!(words(&done.stderr).starts_with("error: cannot open the store"), "{}", words(&done.stderr));
    assert!(!folder.path().join("absent").exists());
}

#[test]
fn a_server_verifies_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let server = Server::start_with(data, &["--verify-interval", "5ms"]);
    let content = noise(100_000);
    let digest = push(&server, &content);
    flip(data);
    let path = format!("/v2/a/b/blobs/{digest}");
    // Nobody reads it: HEAD does not, and yet it is found. A server that never looks fails the test instead of stopping it.
    let begun = std::time::Instant::now();
    while server.request("HEAD", &path, b"").status != 404 {
        assert!(begun.elapsed().as_secs() < 60, "the server does not verify by itself");
    }
    assert_eq!(push(&server, &content), digest);
    assert_eq!(server.request("HEAD", &path, b"").status, 200);
    server.stop();
}
