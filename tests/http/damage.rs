//! Content that went bad on the disk: no answer passes it off as the whole, and pushing it again heals it.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use sledge::server::ServerOptions;
use sledge::store::sled::Sled;

use crate::client::Client;
use crate::connections::{connect, request};
use crate::fixture::{Fixture, IMAGE, bytes, image, push_blob, put, sha256};
use crate::offstage::Offstage;

/// A server over a durable store, and where that is.
fn served() -> (Fixture, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let store = Sled::open(&path).unwrap();
    (Fixture::new(Arc::new(Offstage::new(store, Some(folder))), ServerOptions::new()), path)
}

/// The only file of content in a store.
fn file(folder: &Path) -> PathBuf {
    let mut files = fs::read_dir(folder.join("content")).unwrap();
    let file = files.next().unwrap().unwrap().path();
    assert!(files.next().is_none(), "there is more than one");
    file
}

fn flip(file: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

fn status(client: &mut Client, path: &str) -> u16 {
    client.send("HEAD", path, &[], b"").status
}

/// Sizes around what is read in one hop and a piece over HTTP/1.1, and several pieces; and a byte at each end and in the middle.
const SIZES: [u64; 5] = [65_537, (256 << 10) - 1, 256 << 10, (256 << 10) + 1, (3 << 20) + 7];

#[test]
fn bad_bytes_are_never_the_whole_of_an_answer_and_are_gone_after_it() {
    // Once a blob had been read whole, a byte that flipped afterwards came with the next answer, until the next restart.
    for (size, read_before) in SIZES.into_iter().flat_map(|size| [(size, 0), (size, 1), (size, 2)]) {
        for at in [0, size / 2, size - 1] {
            let (fixture, folder) = served();
            let content = bytes(usize::try_from(size).unwrap());
            let digest = push_blob(&mut fixture.client(), "a", &content);
            let path = format!("/v2/a/blobs/{digest}");
            for _ in 0..read_before {
                assert!(fixture.client().get(&path).expect(200).body == content);
            }
            flip(&file(&folder), at);
            assert_eq!(status(&mut fixture.client(), &path), 200, "nobody has noticed yet");

            let mut client = fixture.client();
            client.head("GET", &path, &[]);
            let (status_line, length, body) = client.broken_off();
            assert_eq!((status_line, length), (200, content.len()));
            assert!(body.len() < length, "{} of {length} bytes, byte {at} of them bad", body.len());
            fixture.client().get(&path).refused(404, "BLOB_UNKNOWN");
            assert_eq!(status(&mut fixture.client(), &path), 404);
            heals(&fixture, &content, &digest);
        }
    }
}

fn heals(fixture: &Fixture, content: &[u8], digest: &str) {
    let mut client = fixture.client();
    assert_eq!(push_blob(&mut client, "a", content), digest);
    for _ in 0..2 {
        assert!(client.get(&format!("/v2/a/blobs/{digest}")).expect(200).body == content);
    }
}

#[test]
fn bad_bytes_are_never_the_whole_of_a_stream() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for size in SIZES {
        let (fixture, folder) = served();
        let content = bytes(usize::try_from(size).unwrap());
        let digest = push_blob(&mut fixture.client(), "a", &content);
        flip(&file(&folder), size - 1);
        let path = format!("/v2/a/blobs/{digest}");
        runtime.block_on(async {
            let mut sender = connect::<Full<Bytes>>(&fixture).await;
            let mut get = sender.send_request(request("GET", &path, Full::default())).await.unwrap();
            assert_eq!(get.headers()["content-length"], size.to_string());
            let mut received = 0;
            let reset = loop {
                match get.body_mut().frame().await {
                    Some(Ok(frame)) => received += frame.into_data().unwrap().len() as u64,
                    Some(Err(_)) => break true,
                    None => break false,
                }
            };
            assert!(reset && received < size, "{received} of {size} bytes, reset: {reset}");
        });
        assert_eq!(status(&mut fixture.client(), &path), 404);
        heals(&fixture, &content, &digest);
    }
}

#[test]
fn what_is_missing_or_short_is_an_error_and_then_unknown() {
    for cut in [true, false] {
        let (fixture, folder) = served();
        let content = bytes(200_000);
        let digest = push_blob(&mut fixture.client(), "a", &content);
        let path = format!("/v2/a/blobs/{digest}");
        let file = file(&folder);
        if cut {
            OpenOptions::new().write(true).open(&file).unwrap().set_len(199_999).unwrap();
        } else {
            fs::remove_file(&file).unwrap();
        }
        fixture.client().get(&path).refused(500, "UNKNOWN");
        assert_eq!(status(&mut fixture.client(), &path), 404);
        heals(&fixture, &content, &digest);
    }
}

#[test]
fn a_blob_that_went_bad_is_missing_for_whoever_needs_it_and_back_for_all_once_it_is_pushed() {
    let (fixture, folder) = served();
    let mut client = fixture.client();
    let content = bytes(100_000);
    let digest = push_blob(&mut client, "a", &content);
    let mount = format!("/v2/b/blobs/uploads/?mount={digest}&from=a");
    client.send("POST", &mount, &[], b"").expect(201);
    let layer = serde_json::json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest,
        "size": content.len() });
    let manifest = image(&mut client, "a", &serde_json::json!({ "layers": [layer] }));
    flip(&file(&folder), 50_000);
    let mut reader = fixture.client();
    reader.head("GET", &format!("/v2/b/blobs/{digest}"), &[]);
    assert!(reader.broken_off().2.len() < content.len());

    put(&mut client, "a", "v1", &manifest).refused(404, "MANIFEST_BLOB_UNKNOWN");
    let mount = format!("/v2/c/blobs/uploads/?mount={digest}&from=a");
    // Not mounted: an upload is begun instead.
    client.send("POST", &mount, &[], b"").expect(202);
    heals(&fixture, &content, &digest);
    put(&mut client, "a", "v1", &manifest).expect(201);
    assert!(client.get(&format!("/v2/b/blobs/{digest}")).expect(200).body == content);
}

#[test]
fn a_manifest_that_went_bad_is_gone_with_its_tags_until_it_is_put_again() {
    let (fixture, folder) = served();
    let mut client = fixture.client();
    // Large enough to be in a file.
    let annotation = "x".repeat(100_000);
    let manifest = image(&mut client, "a", &serde_json::json!({ "annotations": { "x": annotation } }));
    put(&mut client, "a", "v1", &manifest).expect(201);
    let digest = sha256(&manifest);
    flip(&file(&folder), 50_000);

    client.get("/v2/a/manifests/v1").refused(500, "UNKNOWN");
    for reference in ["v1", &digest] {
        let path = format!("/v2/a/manifests/{reference}");
        client.get(&path).refused(404, "MANIFEST_UNKNOWN");
        assert_eq!(status(&mut client, &path), 404);
    }
    assert_eq!(client.get("/v2/a/tags/list").json()["tags"], serde_json::json!([]));

    put(&mut client, "a", &digest, &manifest).expect(201);
    let found = client.get("/v2/a/manifests/v1").expect(200);
    assert!(found.body == manifest && found.header("content-type") == Some(IMAGE));
    assert_eq!(client.get("/v2/a/tags/list").json()["tags"], serde_json::json!(["v1"]));
}
