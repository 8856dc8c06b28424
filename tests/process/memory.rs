//! Memory is small, and does not grow with the size of a layer.

use std::io::{Read, Write};
use std::net::TcpStream;

use sledge::oci::{Algorithm, Digest, Hasher};

use crate::server::{Server, noise};

/// Pushes a layer of so many MiB in one request, without having all of it in memory here either.
fn push(server: &Server, mebibytes: usize) -> Digest {
    let part = noise(1 << 20);
    let mut hasher = Hasher::new(Algorithm::Sha256);
    (0..mebibytes).for_each(|_| hasher.update(&part));
    let digest = hasher.finish();
    let mut stream = TcpStream::connect(&server.address).unwrap();
    let length = mebibytes << 20;
    let path = format!("/v2/a/blobs/uploads/?digest={digest}");
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    )
    .unwrap();
    (0..mebibytes).for_each(|_| stream.write_all(&part).unwrap());
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    digest
}

/// Pulls it, and says how much memory the server had for itself at the most; pages of the layer's file are the system's.
fn pull(server: &Server, digest: &Digest) -> u64 {
    let mut stream = TcpStream::connect(&server.address).unwrap();
    write!(stream, "GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut buffer = vec![0; 1 << 20];
    let mut most = 0;
    while stream.read(&mut buffer).unwrap() > 0 {
        most = most.max(server.memory("RssAnon:"));
    }
    most
}

#[test]
fn memory_does_not_grow_with_the_size_of_a_layer() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    // Without the program's own pages, of which this build has more than a release.
    let idle = server.memory("RssAnon:");
    assert!(idle < 8 << 20, "{idle} bytes when idle");

    let small = push(&server, 16);
    let after_small = server.memory("VmHWM:");
    let large = push(&server, 400);
    let after_large = server.memory("VmHWM:");
    let pulls = [pull(&server, &small), pull(&server, &large)];
    println!("idle {idle}, pushed 16 MiB {after_small}, pushed 400 MiB {after_large}, pulled {pulls:?}");
    // Two batches of a request are a MiB, which a large layer fills more surely than a small one.
    assert!(after_large < after_small + (8 << 20), "{after_small} grew to {after_large}");
    assert!(pulls[1] < pulls[0] + (8 << 20), "{pulls:?}");
}
