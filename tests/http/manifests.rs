//! Manifests: putting, getting, deleting.

use std::net::Shutdown;
use std::sync::mpsc;
use std::time::Duration;

use serde_json::json;

use crate::fixture::{IMAGE, INDEX, bytes, each, image, push_blob, put, sha256, sha512};

#[test]
fn a_manifest_comes_back_byte_for_byte_under_each_of_its_names() {
    each(|fixture| {
        let mut client = fixture.client();
        // Unknown fields, and white space that no encoder would keep.
        let mut content = image(&mut client, "a", &json!({ "unknown": { "x": [1, 2.50] } }));
        content.extend_from_slice(b" \n\t");
        for digest in [sha256(&content), sha512(&content)] {
            let path = format!("/v2/a/manifests/{digest}?tag=one&tag=two");
            let answer =
                client.send_chunked("PUT", &path, &[("Content-Type", IMAGE)], &[&content]).expect(201);
            assert_eq!(answer.header("location"), Some(&*format!("/v2/a/manifests/{digest}")));
            assert_eq!(answer.header("docker-content-digest"), Some(&*digest));
            assert_eq!(answer.all("oci-tag"), ["one", "two"]);
            assert_eq!(answer.header("oci-subject"), None);
            for reference in ["one", "two", &digest] {
                let path = format!("/v2/a/manifests/{reference}");
                let get = client.get(&path).expect(200);
                assert_eq!(get.body, content);
                let head = client.send("HEAD", &path, &[], b"").expect(200);
                for answer in [&get, &head] {
                    assert_eq!(answer.header("content-type"), Some(IMAGE));
                    assert_eq!(answer.header("docker-content-digest"), Some(&*digest));
                    assert_eq!(answer.header("content-length"), Some(&*content.len().to_string()));
                    assert_eq!(answer.header("etag"), Some(&*format!("\"{digest}\"")));
                }
                let known = [("If-None-Match", &*format!("\"{digest}\""))];
                client.send("GET", &path, &known, b"").expect(304);
                client.send("HEAD", &path, &known, b"").expect(304);
            }
        }
        let answer = put(&mut client, "a", "latest?tag=other", &content).expect(201);
        assert_eq!(answer.header("docker-content-digest"), Some(&*sha256(&content)));
        assert_eq!(answer.header("location"), Some(&*format!("/v2/a/manifests/{}", sha256(&content))));
        assert!(answer.all("oci-tag").is_empty());
        client.get("/v2/a/manifests/other").refused(404, "MANIFEST_UNKNOWN");
    });
}

#[test]
fn many_tags_are_set_at_once_and_too_many_not_at_all() {
    each(|fixture| {
        let mut client = fixture.client();
        let content = image(&mut client, "a", &json!({}));
        let digest = sha256(&content);
        let query = |n: usize| (0..n).map(|n| format!("tag=t{n}&")).collect::<String>();
        put(&mut client, "a", &format!("{digest}?{}", query(33)), &content).refused(414, "MANIFEST_INVALID");
        assert_eq!(client.get("/v2/a/tags/list").expect(200).json()["tags"], json!([]));
        for n in [10, 32] {
            let answer = put(&mut client, "a", &format!("{digest}?{}", query(n)), &content).expect(201);
            assert_eq!(answer.all("oci-tag").len(), n);
        }
        let bad = format!("{digest}?tag=fine&tag=.bad");
        put(&mut client, "a", &bad, &content).refused(400, "MANIFEST_INVALID");
        client.get("/v2/a/manifests/fine").refused(404, "MANIFEST_UNKNOWN");
    });
}

#[test]
fn what_is_no_manifest_is_refused() {
    each(|fixture| {
        let mut client = fixture.client();
        let content = image(&mut client, "a", &json!({}));
        put(&mut client, "a", "sha256:baddigeststring", &content).refused(400, "DIGEST_INVALID");
        put(&mut client, "a", &sha256(b"other"), &content).refused(400, "DIGEST_INVALID");
        put(&mut client, "a", ".bad", &content).refused(400, "MANIFEST_INVALID");
        for bad in [&b""[..], b"{", b"[]", b"{\"schemaVersion\":1}"] {
            put(&mut client, "a", "latest", bad).refused(400, "MANIFEST_INVALID");
        }
        for content_type in ["text/html", INDEX, "no media type"] {
            let headers = [("Content-Type", content_type)];
            let answer = client.send("PUT", "/v2/a/manifests/latest", &headers, &content);
            answer.refused(400, "MANIFEST_INVALID");
        }
        client.get("/v2/a/manifests/latest").refused(404, "MANIFEST_UNKNOWN");
        // Where nothing is stated, the document says what it is.
        for headers in [&[][..], &[("Content-Type", "application/octet-stream")]] {
            client.send("PUT", "/v2/a/manifests/latest", headers, &content).expect(201);
        }
        let parameters = [("Content-Type", &*format!("{IMAGE}; charset=utf-8"))];
        client.send("PUT", "/v2/a/manifests/latest", &parameters, &content).expect(201);
        assert_eq!(client.get("/v2/a/manifests/latest").header("content-type"), Some(IMAGE));
    });
}

#[test]
fn each_absent_reference_is_told() {
    each(|fixture| {
        let mut client = fixture.client();
        let pointer = |name: &str| json!({ "mediaType": "application/x", "digest": sha256(name.as_bytes()), "size": 1 });
        let foreign = json!({
            "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar",
            "digest": sha256(b"foreign"), "size": 1,
        });
        let layers = json!({ "layers": [pointer("one"), pointer("two"), foreign] });
        let content = image(&mut client, "a", &layers);
        let answer = put(&mut client, "a", "latest", &content).expect(404);
        assert_eq!(answer.codes(), ["MANIFEST_BLOB_UNKNOWN"; 2]);
        let told = answer.json();
        assert_eq!(told["errors"][1]["detail"]["digest"], sha256(b"two"));
        push_blob(&mut client, "a", b"one");
        push_blob(&mut client, "a", b"two");
        put(&mut client, "a", "latest", &content).expect(201);
    });
}

#[test]
fn a_manifest_of_four_mebibytes_is_taken_and_a_larger_one_is_not() {
    each(|fixture| {
        let mut client = fixture.client();
        let mut content = image(&mut client, "a", &json!({}));
        content.resize(4 << 20, b' ');
        put(&mut client, "a", "latest", &content).expect(201);
        assert!(client.get("/v2/a/manifests/latest").expect(200).body == content);
        content.push(b' ');
        put(&mut fixture.client(), "a", "large", &content).refused(413, "MANIFEST_INVALID");
        let headers = [("Content-Type", IMAGE)];
        let answer = fixture.client().send_chunked("PUT", "/v2/a/manifests/large", &headers, &[&content]);
        answer.refused(413, "MANIFEST_INVALID");
        // Nobody asks for a body that is declared too large.
        let mut client = fixture.client();
        client.head(
            "PUT",
            "/v2/a/manifests/large",
            &[("Content-Length", "9999999999"), ("Expect", "100-continue")],
        );
        client.answer("PUT").refused(413, "MANIFEST_INVALID");
    });
}

#[test]
fn a_subject_may_be_absent_and_is_confirmed() {
    each(|fixture| {
        let mut client = fixture.client();
        let subject = sha512(b"absent");
        let fields = json!({ "subject": { "mediaType": IMAGE, "digest": subject, "size": 1 } });
        let content = image(&mut client, "a", &fields);
        let answer = put(&mut client, "a", &sha256(&content), &content).expect(201);
        assert_eq!(answer.header("oci-subject"), Some(&*subject));
    });
}

#[test]
fn a_tag_is_set_on_conditions() {
    each(|fixture| {
        let mut client = fixture.client();
        let first = image(&mut client, "a", &json!({}));
        let second = image(&mut client, "a", &json!({ "annotations": { "a": "b" } }));
        let etag = |content: &[u8]| format!("\"{}\"", sha256(content));
        let mut put = |name: &str, value: &str, content: &[u8]| {
            let headers = [("Content-Type", IMAGE), (name, value)];
            client.send("PUT", "/v2/a/manifests/latest", &headers, content)
        };
        put("If-Match", &etag(&first), &first).refused(412, "DENIED");
        put("If-None-Match", "*", &first).expect(201);
        put("If-None-Match", "*", &second).refused(412, "DENIED");
        put("If-Match", &etag(&second), &second).refused(412, "DENIED");
        put("If-Match", &etag(&first), &second).expect(201);
        put("If-Match", "*", &first).refused(400, "UNSUPPORTED");
    });
}

#[test]
fn deleting_a_tag_leaves_the_manifest_and_deleting_that_leaves_nothing() {
    each(|fixture| {
        let mut client = fixture.client();
        let content = image(&mut client, "a", &json!({}));
        let digest = sha256(&content);
        put(&mut client, "a", &format!("{digest}?tag=one&tag=two"), &content).expect(201);
        let mut delete =
            |reference: &str| client.send("DELETE", &format!("/v2/a/manifests/{reference}"), &[], b"");
        delete("one").expect(202);
        delete("one").refused(404, "MANIFEST_UNKNOWN");
        delete(".bad").refused(404, "MANIFEST_UNKNOWN");
        delete("sha256:bad").refused(400, "DIGEST_INVALID");
        delete(&sha256(b"absent")).refused(404, "MANIFEST_UNKNOWN");
        let mut reader = fixture.client();
        reader.get(&format!("/v2/a/manifests/{digest}")).expect(200);
        delete(&digest).expect(202);
        for reference in ["one", "two", &digest] {
            reader.get(&format!("/v2/a/manifests/{reference}")).refused(404, "MANIFEST_UNKNOWN");
        }
    });
}

#[test]
fn an_index_names_manifests_and_may_be_empty() {
    each(|fixture| {
        let mut client = fixture.client();
        let mut put_index = |children: serde_json::Value| {
            let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": children }).to_string();
            let headers = [("Content-Type", INDEX)];
            (client.send("PUT", "/v2/a/manifests/index", &headers, index.as_bytes()), index)
        };
        let (answer, empty) = put_index(json!([]));
        answer.expect(201);
        let child = json!({ "mediaType": INDEX, "digest": sha256(empty.as_bytes()), "size": empty.len() });
        put_index(json!([child])).0.expect(201);
        let absent = json!({ "mediaType": IMAGE, "digest": sha256(&bytes(9)), "size": 9 });
        put_index(json!([child, absent])).0.refused(404, "MANIFEST_BLOB_UNKNOWN");
    });
}

/// Each of 250 clients sent a large manifest and did not end it: the server held all of them, a gigabyte.
#[test]
fn so_many_large_manifests_are_on_their_way_at_once() {
    each(|fixture| {
        let small = image(&mut fixture.client(), "a", &json!({}));
        let large =
            image(&mut fixture.client(), "a", &json!({ "annotations": { "a": "x".repeat(100_000) } }));
        let (told, hears) = mpsc::channel();
        let endless: Vec<_> = (0..40)
            .map(|_| {
                let mut client = fixture.client();
                client.head("PUT", "/v2/a/manifests/endless", &[("Transfer-Encoding", "chunked")]);
                client.chunk(&[b' '; 100_000]);
                let socket = client.socket();
                let told = told.clone();
                let waiting = std::thread::spawn(move || {
                    if let Some(status) = client.try_answer() {
                        told.send(status).unwrap();
                    }
                });
                (socket, waiting)
            })
            .collect();
        for _ in 0..40 - 32 {
            assert_eq!(hears.recv_timeout(Duration::from_secs(60)), Ok(429));
        }
        // Nobody else is kept waiting, but for those with another large one, who are told to come again.
        put(&mut fixture.client(), "a", "small", &small).expect(201);
        let refused = put(&mut fixture.client(), "a", "large", &large).refused(429, "TOOMANYREQUESTS");
        assert_eq!(refused.header("retry-after"), Some("1"));
        for (socket, waiting) in endless {
            // Those that were refused may have been closed already.
            drop(socket.shutdown(Shutdown::Both));
            waiting.join().unwrap();
        }
        // A place is given back when the server sees that its client is gone.
        while put(&mut fixture.client(), "a", "large", &large).status == 429 {}
        fixture.client().get("/v2/a/manifests/large").expect(200);
    });
}
