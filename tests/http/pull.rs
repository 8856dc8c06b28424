//! Reading blobs: whole, in parts, on conditions.

use crate::fixture::{bytes, each, push_blob, sha256};

#[test]
fn a_blob_comes_back_as_it_was_at_every_size() {
    each(|fixture| {
        let mut client = fixture.client();
        // Nothing, one byte, around what is read in one hop, around a piece, and several pieces.
        for size in [0, 1, 65_535, 65_536, 65_537, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (3 << 20) + 7] {
            let content = bytes(size);
            let digest = push_blob(&mut client, "a/b", &content);
            let path = format!("/v2/a/b/blobs/{digest}");
            let get = client.get(&path).expect(200);
            assert!(get.body == content, "{size} bytes");
            let head = client.send("HEAD", &path, &[], b"").expect(200);
            for answer in [&get, &head] {
                assert_eq!(answer.header("docker-content-digest"), Some(&*digest));
                assert_eq!(answer.header("content-length"), Some(&*size.to_string()));
                assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
                assert_eq!(answer.header("accept-ranges"), Some("bytes"));
                assert_eq!(answer.header("etag"), Some(&*format!("\"{digest}\"")));
            }
            // The connection goes on, so the HEAD had no body.
            client.get("/v2/").expect(200);
        }
    });
}

#[test]
fn parts_of_blobs_are_served_as_rfc_9110_has_them() {
    each(|fixture| {
        let mut client = fixture.client();
        for size in [2000, 3 << 20] {
            let content = bytes(size);
            let path = format!("/v2/a/blobs/{}", push_blob(&mut client, "a", &content));
            for (range, start, end) in [
                ("bytes=500-1499", 500, 1500),
                ("bytes=0-0", 0, 1),
                ("bytes=500-", 500, size),
                ("bytes=-500", size - 500, size),
                ("bytes=-99999999", 0, size),
                ("bytes=500-99999999999999999999", 500, size),
            ] {
                let answer = client.send("GET", &path, &[("Range", range)], b"").expect(206);
                assert!(answer.body == content[start..end], "{range} of {size}");
                let expected = format!("bytes {start}-{}/{size}", end - 1);
                assert_eq!(answer.header("content-range"), Some(&*expected));
            }
            for range in ["bytes=500-0", "bytes=99999999-", "bytes=-0"] {
                let answer = client.send("GET", &path, &[("Range", range)], b"").refused(416, "SIZE_INVALID");
                assert_eq!(answer.header("content-range"), Some(&*format!("bytes */{size}")), "{range}");
            }
            for range in ["bytes=0-1,5-6", "lines=0-1", "bytes=x", ""] {
                let answer = client.send("GET", &path, &[("Range", range)], b"").expect(200);
                assert!(answer.body == content, "{range}");
            }
            let head = client.send("HEAD", &path, &[("Range", "bytes=0-0")], b"").expect(200);
            assert_eq!(head.header("content-length"), Some(&*size.to_string()));
        }
    });
}

#[test]
fn what_the_client_has_is_not_sent_again() {
    each(|fixture| {
        let mut client = fixture.client();
        let digest = push_blob(&mut client, "a", b"content");
        let path = format!("/v2/a/blobs/{digest}");
        let etag = format!("\"{digest}\"");
        for method in ["GET", "HEAD"] {
            for known in [&etag, &format!("W/{etag}"), &format!("\"x\", {etag}"), "*"] {
                let answer = client.send(method, &path, &[("If-None-Match", known)], b"").expect(304);
                assert_eq!(answer.header("etag"), Some(&*etag));
            }
            client.send(method, &path, &[("If-None-Match", "\"x\"")], b"").expect(200);
        }
        let part = [("Range", "bytes=1-2"), ("If-Range", &etag)];
        assert_eq!(client.send("GET", &path, &part, b"").expect(206).body, b"on");
        let whole = [("Range", "bytes=1-2"), ("If-Range", "\"x\"")];
        assert_eq!(client.send("GET", &path, &whole, b"").expect(200).body, b"content");
        let absent = format!("/v2/a/blobs/{}", sha256(b"absent"));
        client.send("GET", &absent, &[("If-None-Match", "*")], b"").refused(404, "BLOB_UNKNOWN");
    });
}

#[test]
fn a_blob_is_read_and_deleted_only_where_it_is_linked() {
    each(|fixture| {
        let mut client = fixture.client();
        let digest = push_blob(&mut client, "a", b"content");
        let elsewhere = format!("/v2/b/blobs/{digest}");
        client.get(&elsewhere).refused(404, "BLOB_UNKNOWN");
        client.send("DELETE", &elsewhere, &[], b"").refused(404, "BLOB_UNKNOWN");
        let head = client.send("HEAD", &elsewhere, &[], b"").expect(404);
        assert_ne!(head.header("content-length"), Some("0"));
        let path = format!("/v2/a/blobs/{digest}?ns=docker.io");
        client.get(&path).expect(200);
        client.send("DELETE", &path, &[], b"").expect(202);
        client.send("DELETE", &path, &[], b"").refused(404, "BLOB_UNKNOWN");
        client.get(&path).refused(404, "BLOB_UNKNOWN");
    });
}
