//! Layers by their TarSums.

use crate::client::Client;
use crate::fixture::{IMAGE, each, put, sha256};

/// A layer, packed, and what docker's own code says of it.
const PACKED: &[u8] = include_bytes!("../tarsum/46af0962.tar.gz");
const TARSUM: &str = "tarsum.v1+sha256:41cd5c911333ee394776e432fc5a27cc82dfea313e5feff965e31c0fddd9213d";
const OTHER: &str = "tarsum+sha256:41cd5c911333ee394776e432fc5a27cc82dfea313e5feff965e31c0fddd9213d";

fn unpacked() -> Vec<u8> {
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(PACKED), &mut bytes).unwrap();
    bytes
}

/// Begins a session, and gives it bytes in pieces.
fn begin(client: &mut Client, bytes: &[u8]) -> String {
    let start = client.send("POST", "/v2/a/blobs/uploads/", &[], b"").expect(202);
    let at = start.header("location").unwrap().to_owned();
    for piece in bytes.chunks(1000) {
        client.send("PATCH", &at, &[], piece).expect(202);
    }
    at
}

fn blob(tar_sum: &str) -> String {
    format!("/v2/a/blobs/{tar_sum}")
}

#[test]
fn an_upload_is_finished_by_a_tarsum_and_found_by_it() {
    each(|fixture| {
        let mut client = fixture.client();
        client.get(&blob(TARSUM)).refused(404, "BLOB_UNKNOWN");
        let at = begin(&mut client, PACKED);
        let answer = client.send("PUT", &format!("{at}?digest={TARSUM}"), &[], b"").expect(201);
        let digest = sha256(PACKED);
        assert_eq!(answer.header("docker-content-digest"), Some(&*digest));
        assert_eq!(answer.header("location"), Some(&*format!("/v2/a/blobs/{digest}")));
        for name in [TARSUM, &digest] {
            let get = client.get(&blob(name)).expect(200);
            assert_eq!(get.body, PACKED);
            let head = client.send("HEAD", &blob(name), &[], b"").expect(200);
            for answer in [get, head] {
                assert_eq!(answer.header("docker-content-digest"), Some(&*digest));
                assert_eq!(answer.header("content-length"), Some(&*PACKED.len().to_string()));
            }
            let part = client.send("GET", &blob(name), &[("Range", "bytes=10-19")], b"").expect(206);
            assert_eq!(part.body, &PACKED[10..20]);
        }
        // Elsewhere it is not.
        client.get(&format!("/v2/b/blobs/{TARSUM}")).refused(404, "BLOB_UNKNOWN");
        // Another packing of the same tar: each of them has the name, and the first keeps it.
        let plain = unpacked();
        client.send("POST", &format!("/v2/a/blobs/uploads/?digest={TARSUM}"), &[], &plain).expect(201);
        assert_eq!(client.get(&blob(&sha256(&plain))).expect(200).body, plain);
        assert_eq!(client.get(&blob(TARSUM)).expect(200).body, PACKED);
        // When it is gone, the name is free for the other.
        client.send("DELETE", &blob(&digest), &[], b"").expect(202);
        client.get(&blob(TARSUM)).refused(404, "BLOB_UNKNOWN");
        client.send("POST", &format!("/v2/a/blobs/uploads/?digest={TARSUM}"), &[], &plain).expect(201);
        assert_eq!(client.get(&blob(TARSUM)).expect(200).body, plain);
    });
}

#[test]
fn what_does_not_have_the_tarsum_is_not_stored() {
    each(|fixture| {
        let mut client = fixture.client();
        let truncated = &unpacked()[..3000];
        for (bytes, tar_sum) in [
            (PACKED, OTHER),
            (&PACKED[..500], TARSUM),
            (truncated, TARSUM),
            (b"no tar at all", TARSUM),
            (b"", TARSUM),
        ] {
            let at = begin(&mut client, bytes);
            client.send("PUT", &format!("{at}?digest={tar_sum}"), &[], b"").refused(400, "DIGEST_INVALID");
            client.get(&at).refused(404, "BLOB_UPLOAD_UNKNOWN");
            let path = format!("/v2/a/blobs/uploads/?digest={tar_sum}");
            client.send("POST", &path, &[], bytes).refused(400, "DIGEST_INVALID");
            client.get(&blob(&sha256(bytes))).refused(404, "BLOB_UNKNOWN");
            client.get(&blob(tar_sum)).refused(404, "BLOB_UNKNOWN");
        }
        client.get("/v2/a/tags/list").refused(404, "NAME_UNKNOWN");
    });
}

#[test]
fn nobody_names_a_layer_by_a_tarsum_that_it_does_not_have() {
    each(|fixture| {
        let mut client = fixture.client();
        client.send("POST", &format!("/v2/a/blobs/uploads/?digest={TARSUM}"), &[], PACKED).expect(201);
        let tags = client.get("/v2/a/tags/list").expect(200).json();
        let tag = tags["tags"][0].as_str().unwrap().to_owned();
        let named = client.get(&format!("/v2/a/manifests/{tag}")).expect(200);
        assert_eq!(named.header("content-type"), Some(IMAGE));
        // It is copied like any image, and says the truth wherever it comes.
        let evil = b"another layer";
        for layer in [PACKED, evil] {
            client
                .send("POST", &format!("/v2/b/blobs/uploads/?digest={}", sha256(layer)), &[], layer)
                .expect(201);
        }
        put(&mut client, "b", &tag, &named.body).expect(201);
        assert_eq!(client.get(&format!("/v2/b/blobs/{TARSUM}")).expect(200).body, PACKED);
        let forged = String::from_utf8(named.body.clone()).unwrap().replace(&sha256(PACKED), &sha256(evil));
        put(&mut client, "b", &tag, forged.as_bytes()).refused(400, "DIGEST_INVALID");
        // However it is written.
        let written = forged.replace("application/vnd.sledge", "\\u0061pplication/vnd.sledge");
        assert_ne!(written, forged);
        put(&mut client, "b", &tag, written.as_bytes()).refused(400, "DIGEST_INVALID");
        let other = String::from_utf8(named.body).unwrap().replace(TARSUM, OTHER);
        put(&mut client, "b", &tag, other.as_bytes()).refused(400, "DIGEST_INVALID");
        assert_eq!(client.get(&format!("/v2/b/blobs/{TARSUM}")).expect(200).body, PACKED);
    });
}
