//! Commands for a store that a server has: they reach it through a socket in its folder.

use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use sledge::oci::Algorithm;
use sledge::store::Pull;
use sledge::store::sled::Sled;

use crate::server::{Server, noise};

pub(crate) fn sledge(arguments: &[&str], data: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sledge")).args(arguments).arg("--data").arg(data).output().unwrap()
}

pub(crate) fn words(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub(crate) fn push(server: &Server, content: &[u8]) -> String {
    let digest = Algorithm::Sha256.digest(content).to_string();
    let location = server.request("POST", "/v2/a/b/blobs/uploads/", b"").header("location").to_owned();
    let answer = server.request("PUT", &format!("{location}?digest={digest}"), content);
    assert_eq!(answer.status, 201);
    digest
}

fn connect(data: &Path) -> UnixStream {
    let folder = File::open(data).unwrap();
    UnixStream::connect(format!("/proc/self/fd/{}/control", folder.as_raw_fd())).unwrap()
}

#[test]
fn a_store_that_is_served_is_snapshot_through_its_server() {
    let folder = tempfile::tempdir().unwrap();
    // Longer than the address of a socket may be.
    let data = folder.path().join("d".repeat(100)).join("e".repeat(100));
    let server = Server::start(&data);
    let (large, small) = (noise(100_000), noise(1000));
    let digests = [push(&server, &large), push(&server, &small)];

    let target = folder.path().join("snapshot");
    let done = sledge(&["snapshot", target.to_str().unwrap()], &data);
    assert!(done.status.success(), "{}", words(&done.stderr));
    assert!(words(&done.stdout).contains("linked: 1 files, 100000 bytes"), "{}", words(&done.stdout));
    // A second one to the same place is refused by the server, and the reason comes back.
    let refused = sledge(&["snapshot", target.to_str().unwrap()], &data);
    assert!(!refused.status.success() && refused.stdout.is_empty());
    assert!(words(&refused.stderr).contains("is not empty"), "{}", words(&refused.stderr));
    // To the same end without a server.
    server.stop();
    let second = folder.path().join("second");
    let done = sledge(&["snapshot", "--json", second.to_str().unwrap()], &data);
    let report: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(report["snapshot"]["files"]["linked"]["files"], 1, "{report}");

    fs::remove_dir_all(&data).unwrap();
    for target in [target, second] {
        let copy = Sled::open(&target).unwrap();
        for digest in &digests {
            copy.blob(&"a/b".parse().unwrap(), &digest.parse().unwrap()).unwrap();
        }
    }
}

#[test]
fn the_socket_is_its_owners_and_goes_with_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("control");
    let server = Server::start(folder.path());
    let found = fs::symlink_metadata(&socket).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o777, 0o600);
    // What a killed server leaves is replaced by the next one, and is no obstacle to anybody else.
    server.kill();
    assert!(socket.exists());
    drop(Sled::open(folder.path()).unwrap());
    let server = Server::start(folder.path());
    drop(connect(folder.path()));
    server.stop();
    assert!(!socket.exists());
    assert!(!folder.path().join("unfinished-control").exists());
}

#[test]
fn junk_and_clients_that_go_away_harm_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let digest = push(&server, &noise(100_000));
    for junk in [&b"\n"[..], b"{}\n", b"\xff\xfe\n", b"{\"command\":\"format-the-disk\"}\n", &[b'x'; 70_000]]
    {
        let mut stream = connect(folder.path());
        // It may be cut off before it has said all of it.
        let _ = stream.write_all(junk);
        let mut answer = String::new();
        if BufReader::new(&stream).read_line(&mut answer).is_ok() {
            assert!(answer.starts_with("{\"error\":"), "{answer}");
        }
    }
    // More of them than are answered at once: each goes away in its own way, the first before it has said anything.
    for n in 0..20 {
        let mut stream = connect(folder.path());
        if n % 2 == 1 {
            let target = folder.path().with_extension(format!("snapshot-{n}"));
            let request = serde_json::json!({ "command": "snapshot", "folder": target, "options": {} });
            stream.write_all(format!("{request}\n").as_bytes()).unwrap();
        }
    }
    let target = folder.path().with_extension("snapshot");
    let done = sledge(&["snapshot", target.to_str().unwrap()], folder.path());
    // Snapshots that nobody waits for may be under way; one that finds them so says it, and comes to its end when they are done.
    let mut outcome = done;
    while !outcome.status.success() {
        assert!(words(&outcome.stderr).contains("being taken already"), "{}", words(&outcome.stderr));
        outcome = sledge(&["snapshot", target.to_str().unwrap()], folder.path());
    }
    assert_eq!(server.request("HEAD", &format!("/v2/a/b/blobs/{digest}"), b"").status, 200);
    server.stop();
    for n in 0..20 {
        let left = folder.path().with_extension(format!("snapshot-{n}"));
        if left.exists() {
            drop(Sled::open(&left).unwrap());
            fs::remove_dir_all(left).unwrap();
        }
        assert!(!folder.path().with_extension(format!("snapshot-{n}.unfinished")).exists());
    }
    fs::remove_dir_all(target).unwrap();
}

#[test]
fn a_command_for_a_store_that_is_not_there_makes_none() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let outcome = sledge(&["snapshot", folder.path().join("x").to_str().unwrap()], &missing);
    assert!(!outcome.status.success());
    let told = words(&outcome.stderr);
    assert!(told.contains("there is no sledge store in") && told.contains("hint:"), "{told}");
    assert!(!missing.exists());
    // A process that has the store and does not listen.
    let store = Sled::open(folder.path().join("store")).unwrap();
    let outcome =
        sledge(&["snapshot", folder.path().join("x").to_str().unwrap()], &folder.path().join("store"));
    assert!(words(&outcome.stderr).contains("takes no commands"), "{}", words(&outcome.stderr));
    drop(store);
}

/// Eight of them kept everybody else from being heard.
#[test]
fn clients_that_say_nothing_keep_nobody_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let idle: Vec<UnixStream> = (0..20).map(|_| connect(folder.path())).collect();
    let done = sledge(&["usage"], folder.path());
    assert!(done.status.success(), "{}", words(&done.stderr));
    // None of them had to be cut off for that: they are still heard.
    for mut stream in idle {
        stream.write_all(b"{\"command\":\"usage\"}\n").unwrap();
        let mut answer = String::new();
        BufReader::new(&stream).read_line(&mut answer).unwrap();
        assert!(answer.starts_with("{\"report\":"), "{answer}");
    }
    server.stop();
}

/// It was said to hold no store, and to be given another folder.
#[test]
fn a_folder_that_may_not_be_looked_into_is_not_said_to_hold_no_store() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    drop(Sled::open(&data).unwrap());
    let binary = folder.path().join("sledge");
    fs::copy(env!("CARGO_BIN_EXE_sledge"), &binary).unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    // Without a look into it, and with one at its names alone.
    for mode in [0o000, 0o444] {
        fs::set_permissions(&data, Permissions::from_mode(mode)).unwrap();
        for command in ["usage", "serve"] {
            let mut run = Command::new(&binary);
            if fs::metadata("/proc/self").unwrap().uid() == 0 {
                run.uid(65534).gid(65534);
            }
            let listen: &[&str] = if command == "serve" { &["--listen", "127.0.0.1:0"] } else { &[] };
            let refused = run.arg(command).args(listen).arg("--data").arg(&data).output().unwrap();
            let told = words(&refused.stderr);
            assert!(
                !refused.status.success() && told.contains("ermission denied"),
                "{mode:o}, {command}: {told}"
            );
            assert!(told.contains("hint: run it as the owner of the folder"), "{mode:o}, {command}: {told}");
        }
    }
    fs::set_permissions(&data, Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn what_the_environment_says_is_taken_for_yes_or_no() {
    let folder = tempfile::tempdir().unwrap();
    drop(Sled::open(folder.path()).unwrap());
    for (value, status) in [("1", 405), ("true", 405), ("0", 202), ("false", 202)] {
        let server = Server::start_in(folder.path(), &[], &[("SLEDGE_READ_ONLY", value)]);
        assert_eq!(server.request("POST", "/v2/a/b/blobs/uploads/", b"").status, status, "{value}");
        server.stop();
    }
    let refused = Command::new(env!("CARGO_BIN_EXE_sledge"))
        .args(["serve", "--data"])
        .arg(folder.path())
        .env("SLEDGE_READ_ONLY", "perhaps")
        .output()
        .unwrap();
    assert!(words(&refused.stderr).contains("perhaps"), "{}", words(&refused.stderr));
}
