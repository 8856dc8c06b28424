//! A registry that is killed in the middle of an upload: what it acknowledged is there, and the upload goes on where it stood.

use std::io::Write;
use std::net::TcpStream;
use std::process::Command;

use sledge::oci::{Algorithm, Digest};
use sledge::store::sled::Sled;

use crate::server::{Server, noise};

fn start_upload(server: &Server) -> String {
    let answer = server.request("POST", "/v2/a/b/blobs/uploads/", b"");
    assert_eq!(answer.status, 202);
    answer.header("location").to_owned()
}

fn finish(server: &Server, location: &str, rest: &[u8], digest: &Digest) {
    let answer = server.request("PUT", &format!("{location}?digest={digest}"), rest);
    assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.body));
}

#[test]
fn an_upload_goes_on_where_the_server_was_killed_and_reads_nothing_back() {
    let folder = tempfile::tempdir().unwrap();
    let content = noise(200 << 20);
    let digest = Algorithm::Sha256.digest(&content);
    let server = Server::start(folder.path());
    let location = start_upload(&server);

    // One request for all of it, of which the server gets three quarters before it is killed.
    let sent = 150 << 20;
    let mut stream = TcpStream::connect(&server.address).unwrap();
    let length = content.len();
    write!(stream, "PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n").unwrap();
    stream.write_all(&content[..sent]).unwrap();
    while server.offset(&location) < sent as u64 {
        std::thread::yield_now();
    }
    server.kill();

    let server = Server::start(folder.path());
    let offset = usize::try_from(server.offset(&location)).unwrap();
    // Nothing of the request was acknowledged; what is promised is the last checkpoint, of which one is due every 64 MiB, and a
    // write is at most as much as the server gathers.
    assert!((sent - (66 << 20)..=sent).contains(&offset), "stands at {offset}");
    let before = server.bytes_read();
    finish(&server, &location, &content[offset..], &digest);
    let read = server.bytes_read() - before;
    println!(
        "killed at {sent} bytes, resumed at {offset}; {read} bytes read from files to resume and commit"
    );
    assert!(read < 1 << 20, "{read} bytes were read back");

    let answer = server.request("GET", &format!("/v2/a/b/blobs/{digest}"), b"");
    assert_eq!(answer.status, 200);
    assert!(answer.body == content);
}

#[test]
fn what_a_request_acknowledged_survives_a_kill_to_the_byte() {
    let folder = tempfile::tempdir().unwrap();
    // Sizes that fill no chunk, no window and no page; the first is small enough to be held in memory until it is answered.
    let content = noise((5 << 20) + 77);
    let cuts = [0, 1_003, 70_001, (3 << 20) + 5, content.len()];
    let digest = Algorithm::Sha512.digest(&content);
    let mut server = Server::start(folder.path());
    let location = start_upload(&server);
    for part in cuts.windows(2) {
        let answer = server.request("PATCH", &location, &content[part[0]..part[1]]);
        assert_eq!((answer.status, answer.header("range")), (202, format!("0-{}", part[1] - 1).as_str()));
        server.kill();
        server = Server::start(folder.path());
        assert_eq!(server.offset(&location), part[1] as u64);
    }
    finish(&server, &location, b"", &digest);
    server.kill();

    let server = Server::start(folder.path());
    let answer = server.request("GET", &format!("/v2/a/b/blobs/{digest}"), b"");
    assert!(answer.status == 200 && answer.body == content);
    assert_eq!(server.request("GET", &location, b"").status, 404, "a committed session is over");
}

#[test]
fn a_kill_before_the_first_checkpoint_leaves_no_bytes_that_nobody_knows() {
    // The session's record used to come with its first checkpoint: before that, a kill left a file that nothing named.
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let location = start_upload(&server);
    let content = noise(3 << 20);
    let mut stream = TcpStream::connect(&server.address).unwrap();
    write!(stream, "PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", content.len() + 1)
        .unwrap();
    stream.write_all(&content).unwrap();
    while server.offset(&location) < content.len() as u64 {
        std::thread::yield_now();
    }
    server.kill();

    let server = Server::start(folder.path());
    let answer = server.request("GET", &location, b"");
    assert_eq!(
        (answer.status, answer.header("range")),
        (204, "0-0"),
        "the session is known, and stands at its beginning"
    );
    finish(&server, &location, &content, &Algorithm::Sha256.digest(&content));
    let location = start_upload(&server);
    assert_eq!(server.request("PATCH", &location, &content[..100_000]).status, 202);
    assert_eq!(server.request("DELETE", &location, b"").status, 204);
    server.kill();
    // Opening it finishes what a killed process had begun to remove.
    drop(Sled::open(folder.path()).unwrap());
    assert_eq!(std::fs::read_dir(folder.path().join("content")).unwrap().count(), 1);
}

#[test]
fn a_second_process_is_told_that_the_store_is_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let _server = Server::start(folder.path());
    let second = Command::new(env!("CARGO_BIN_EXE_sledge"))
        .args(["serve", "--listen", "127.0.0.1:0", "--data"])
        .arg(folder.path())
        .output()
        .unwrap();
    let told = String::from_utf8(second.stderr).unwrap();
    assert!(!second.status.success());
    assert!(told.contains("is in use by this process or another") && told.contains("hint:"), "{told}");
}
