//! Snapshots, restoring, compacting and rescuing as people do it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use sledge::oci::Algorithm;

use crate::control::words;
use crate::server::{Server, noise};

fn sledge(arguments: &[&Path]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sledge")).args(arguments).env_remove("SLEDGE_DATA").output().unwrap()
}

/// What a command printed that must have worked.
fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What a command complained of that must not have worked.
fn refused(output: &Output) -> String {
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]));
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn push(server: &Server, content: &[u8]) -> String {
    let path = format!("/v2/a/b/blobs/{}", Algorithm::Sha256.digest(content));
    let location = server.request("POST", "/v2/a/b/blobs/uploads/", b"").header("location").to_owned();
    let digest = path.rsplit('/').next().unwrap();
    assert_eq!(server.request("PUT", &format!("{location}?digest={digest}"), content).status, 201);
    path
}

#[test]
fn a_store_goes_through_a_snapshot_a_restoration_and_a_rescue() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (large, small) = (noise(100_000), noise(1000));
    let server = Server::start(&at("data"));
    let paths = [push(&server, &large), push(&server, &small)];
    let (snapshot, compact, restore, rescue, data) =
        ("snapshot".as_ref(), "compact".as_ref(), "restore".as_ref(), "rescue".as_ref(), "--data".as_ref());
    done(&sledge(&[snapshot, &at("copy"), data, &at("data")]));
    let told = refused(&sledge(&[compact, data, &at("data")]));
    assert!(told.contains("is in use") && told.contains("hint: stop"), "{told}");
    let told = refused(&sledge(&[rescue, &at("new"), data, &at("data")]));
    assert!(told.contains("is in use") && told.contains("hint:"), "{told}");
    server.stop();

    assert!(done(&sledge(&[compact, data, &at("data")])).starts_with("compacted "));
    let told = refused(&sledge(&[restore, &at("copy"), data, &at("data")]));
    assert!(told.contains("is not empty") && told.contains("hint:"), "{told}");
    let told = done(&sledge(&[restore, &at("copy"), data, &at("restored")]));
    assert!(told.contains("1 files, 100000 bytes"), "{told}");

    fs::remove_dir_all(at("data").join("index")).unwrap();
    let told = refused(&sledge(&[snapshot, &at("second"), data, &at("data")]));
    assert!(told.contains("`sledge rescue NEW`"), "{told}");
    let output = sledge(&[rescue, &at("rescued"), data, &at("data")]);
    assert_eq!(output.status.code(), Some(1), "tags may be lost that nobody can name");
    let told = words(&output.stdout);
    assert!(told.contains("damaged: the index is missing"), "{told}");
    assert!(told.contains("1 blobs and manifests have lost their names: repository rescued"), "{told}");
    let told = words(&output.stderr);
    assert!(told.contains("hint: tag what you need") && told.contains("0 manifests have no tag"), "{told}");

    fs::remove_file(at("copy").join("format")).unwrap();
    for command in ["verify", "serve"] {
        let told = refused(&sledge(&[command.as_ref(), data, &at("copy")]));
        assert!(told.contains("\"format\" is missing") && told.contains("`sledge rescue NEW`"), "{told}");
    }

    let server = Server::start(&at("restored"));
    for (path, content) in paths.iter().zip([&large, &small]) {
        assert_eq!(&server.request("GET", path, b"").body, content);
    }
    server.kill();
    let server = Server::start(&at("rescued"));
    assert_eq!(server.request("GET", &paths[0].replace("/a/b/", "/rescued/"), b"").body, large);
}

/// A script that took one every night went on for a month, and was told each time that all was well.
#[test]
fn a_snapshot_that_lacks_something_is_made_and_is_no_success() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let server = Server::start(&at("data"));
    let (lost, kept) = (push(&server, &noise(100_000)), push(&server, &noise(200_000)));
    let mut files = fs::read_dir(at("data").join("content")).unwrap().map(|entry| entry.unwrap().path());
    let file = files.find(|file| fs::metadata(file).unwrap().len() == 100_000);
    fs::remove_file(file.unwrap()).unwrap();
    let digest = lost.rsplit('/').next().unwrap();
    let take = |name: &str| sledge(&["snapshot".as_ref(), &at(name), "--data".as_ref(), &at("data")]);
    let check = |output: &Output| {
        assert_eq!(output.status.code(), Some(1), "{}", words(&output.stderr));
        let told = words(&output.stdout);
        assert!(told.contains(&format!("bad: blob {digest}: its file is missing")), "{told}");
        let told = words(&output.stderr);
        assert!(told.contains("not all is in the snapshot") && told.contains("hint: "), "{told}");
    };
    check(&take("through-the-server"));
    server.stop();
    check(&take("without"));
    for made in ["through-the-server", "without"] {
        let server = Server::start(&at(made));
        assert_eq!(server.request("GET", &kept, b"").body, noise(200_000));
        server.stop();
    }
}

/// The backup disk was not mounted, and the snapshot filled the root disk, under a folder that it had made for itself.
#[test]
fn no_folder_is_made_above_the_one_that_was_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let data = at("data");
    let server = Server::start(&data);
    push(&server, &noise(100_000));
    let (snapshot, restore, rescue, of): (&Path, &Path, &Path, &Path) =
        ("snapshot".as_ref(), "restore".as_ref(), "rescue".as_ref(), "--data".as_ref());
    let (disk, made) = (at("disk"), at("disk/made"));
    let check = |arguments: &[&Path]| {
        let told = refused(&sledge(arguments));
        assert!(told.contains(&format!("there is no folder {}", disk.display())), "{told}");
        assert!(told.contains("is the disk mounted?"), "{told}");
        assert!(!disk.exists());
    };
    check(&[snapshot, &made, of, &data]);
    server.stop();
    check(&[snapshot, &made, of, &data]);
    done(&sledge(&[snapshot, &at("copy"), of, &data]));
    check(&[restore, &at("copy"), of, &made]);
    check(&[rescue, &made, of, &data]);
    fs::create_dir(&disk).unwrap();
    done(&sledge(&[restore, &at("copy"), of, &made]));
    done(&sledge(&[rescue, &at("disk/rescued"), of, &data]));
    done(&sledge(&[snapshot, &at("disk/snapshot"), of, &data]));
}

/// What a server says until it listens.
fn first_words(data: &Path) -> String {
    let mut server = Command::new(env!("CARGO_BIN_EXE_sledge"))
        .args(["serve", "--listen", "127.0.0.1:0", "--data"])
        .arg(data)
        .env_remove("SLEDGE_LOG")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stderr.take().unwrap()).lines().map(|line| line.unwrap());
    let mut said = String::new();
    while !said.contains("sledge listening on") {
        said += &lines.next().unwrap();
    }
    server.kill().unwrap();
    server.wait().unwrap();
    said
}

/// A server that was given the backup as its data folder changed it, and nobody noticed until it was needed.
#[test]
fn a_server_warns_of_serving_a_snapshot_until_it_is_changed() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let server = Server::start(&at("data"));
    push(&server, &noise(100_000));
    let (snapshot, of, since): (&Path, &Path, &Path) =
        ("snapshot".as_ref(), "--data".as_ref(), "--since".as_ref());
    done(&sledge(&[snapshot, &at("first"), of, &at("data")]));
    server.stop();
    assert!(!first_words(&at("data")).contains("WARN") && first_words(&at("first")).contains("WARN"));
    let server = Server::start(&at("data"));
    done(&sledge(&["verify".as_ref(), of, &at("first")]));
    done(&sledge(&[snapshot, &at("second"), of, &at("data"), since, &at("first")]));
    let copy = Server::start(&at("first"));
    let told = refused(&sledge(&[snapshot, &at("third"), of, &at("data"), since, &at("first")]));
    assert!(told.contains("is in use"), "{told}");
    push(&copy, &noise(50_000));
    copy.kill();
    assert!(!first_words(&at("first")).contains("WARN"));
    let told = refused(&sledge(&[snapshot, &at("third"), of, &at("data"), since, &at("first")]));
    assert!(told.contains("is no snapshot as it was taken"), "{told}");
    server.stop();
}
