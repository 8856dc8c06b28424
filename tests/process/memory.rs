//! Memory is small, and does not grow with the size of a layer.

use std::io::{Read, Write};
use std::net::TcpStream;

use sledge::oci::{Algorithm, Digest, Hasher, TarSum, TarSumAlgorithm, TarSumVersion};

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

/// A layer of few bytes that unpack to a file of so many MiB of zeros.
fn zeros(mebibytes: usize) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_size((mebibytes << 20) as u64);
    header.set_cksum();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(header.as_bytes()).unwrap();
    let zeros = vec![0; 1 << 20];
    (0..mebibytes).for_each(|_| packed.write_all(&zeros).unwrap());
    packed.write_all(&[0; 1024]).unwrap();
    packed.finish().unwrap()
}

#[test]
fn memory_does_not_grow_with_what_a_layer_unpacks_to() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let [small, large] = [1, 256].map(|mebibytes| {
        let layer = zeros(mebibytes);
        let tar_sum = TarSum::of(TarSumVersion::V1, TarSumAlgorithm::Sha256, &layer[..]).unwrap();
        let path = format!("/v2/a/blobs/uploads/?digest={tar_sum}");
        assert_eq!(server.request("POST", &path, &layer).status, 201);
        server.memory("VmHWM:")
    });
    println!("unpacked 1 MiB {small}, unpacked 256 MiB {large}");
    assert!(large < small + (8 << 20), "{small} grew to {large}");
}
