//! Requests that mean harm: each is refused, and leaves nothing in the store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use sledge::server::ServerOptions;
use sledge::store::{Discover, Push};
use uuid::Uuid;

use crate::fixture::{Fixture, IMAGE, bytes, image, push_blob, put, sha256, watched};
use crate::offstage::Offstage;

/// What can be seen in a store: each repository's manifests and tags, and how far the sessions are that were ever started.
#[derive(Debug, PartialEq, Eq)]
struct Contents {
    repositories: BTreeMap<String, (Vec<String>, Vec<String>)>,
    sessions: BTreeMap<Uuid, u64>,
}

impl Contents {
    fn of(store: &Offstage) -> Self {
        let names = store.repositories(None, usize::MAX).unwrap().items;
        let held = |name| {
            let manifests = store.manifests(name, None, usize::MAX).unwrap().items;
            let tags = store.tags(name, None, usize::MAX).unwrap().items;
            let manifests = manifests.into_iter().map(|found| found.digest.to_string()).collect();
            (manifests, tags.into_iter().map(|found| format!("{} {}", found.tag, found.digest)).collect())
        };
        let repositories = names.iter().map(|name| (name.to_string(), held(name))).collect();
        let started = store.seen().started.lock().unwrap().clone();
        let offset = |(repository, id)| Some((id, store.upload_status(&repository, id).ok()?.offset));
        Self { repositories, sessions: started.into_iter().filter_map(offset).collect() }
    }
}

/// Runs a test over every store that has an image in repository `a` and an upload session there, whose path it gets, and sees that all
/// is afterwards as it was before, and that the next client is served.
fn unharmed(options: ServerOptions, test: impl Fn(&Fixture, &str)) {
    for (name, store) in watched() {
        println!("store: {name}");
        let fixture = Fixture::new(Arc::clone(&store) as _, options);
        let mut client = fixture.client();
        let manifest = image(&mut client, "a", &json!({}));
        put(&mut client, "a", "v1", &manifest).expect(201);
        let session = client.send("POST", "/v2/a/blobs/uploads/", &[], b"").expect(202);
        let session = session.header("location").unwrap().to_owned();
        client.send("PATCH", &session, &[], b"hello").expect(202);
        let before = Contents::of(&store);
        assert_eq!(before.sessions.values().collect::<Vec<_>>(), [&5]);
        test(&fixture, &session);
        assert_eq!(Contents::of(&store), before);
        client.get("/v2/a/manifests/v1").expect(200);
    }
}

/// Sends a head that HTTP itself refuses: that is the connection's last answer.
#[track_caller]
fn is_no_request(fixture: &Fixture, head: &[u8], status: u16) {
    let mut client = fixture.client();
    client.write(head);
    let answer = client.answer("GET");
    assert_eq!(answer.status, status, "{:?}", String::from_utf8_lossy(&head[..head.len().min(200)]));
    assert!(client.is_closed());
}

#[test]
fn what_two_readers_would_read_as_two_requests_is_refused() {
    unharmed(ServerOptions::new(), |fixture, session| {
        let head = |fields: &str| format!("PATCH {session} HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\nhello");
        for fields in [
            "Content-Length: 5\r\nContent-Length: 6",
            "Content-Length: 5, 6",
            "Content-Length: +5",
            "Content-Length: -5",
            "Content-Length: 0x5",
            "Content-Length: 5 5",
            "Content-Length:",
            "Content-Length: 99999999999999999999999",
            "Content-Length : 5",
            " Content-Length: 5",
            "X: y\r\n folded: 5\r\nContent-Length: 5",
            "X: \0\r\nContent-Length: 5",
            "X\0: y\r\nContent-Length: 5",
            "X: y\rContent-Length: 5",
            "Transfer-Encoding: identity",
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding: chunked, identity",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            "Transfer-Encoding: \"chunked\"",
        ] {
            println!("{fields:?}");
            is_no_request(fixture, head(fields).as_bytes(), 400);
        }
        is_no_request(fixture, head("Content-Length: 18446744073709551615").as_bytes(), 431);
        let old =
            format!("PATCH {session} HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
        let mut client = fixture.client();
        client.write(old);
        assert!(client.line().contains(" 400 "));
    });
}

/// A body that was encoded on the way is not what its client means: its bytes would be another blob.
#[test]
fn an_encoding_of_the_way_that_is_not_undone_is_refused() {
    unharmed(ServerOptions::new(), |fixture, session| {
        for encoding in [
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked, chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        ] {
            let mut client = fixture.client();
            client.write(format!(
                "PATCH {session} HTTP/1.1\r\nHost: x\r\n{encoding}\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
            ));
            let answer = client.answer("PATCH").refused(400, "UNSUPPORTED");
            assert_eq!(answer.header("connection"), Some("close"), "{encoding}");
            assert!(client.is_closed());
        }
    });
}

/// RFC 9112, 6.3: of a length and an encoding the encoding holds, and the connection ends after the answer, so that what stands
/// behind it is nobody's request.
#[test]
fn of_a_length_beside_chunks_nothing_is_left_that_could_be_a_request() {
    unharmed(ServerOptions::new(), |fixture, _| {
        for fields in [
            "Content-Length: 4\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 4",
            "Content-Length: 4\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive",
        ] {
            let mut client = fixture.client();
            client.write(format!(
                "PUT /v2/a/manifests/v2 HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n0\r\n\r\n\
                 DELETE /v2/a/manifests/v1 HTTP/1.1\r\nHost: x\r\n\r\n"
            ));
            client.answer("PUT").refused(400, "MANIFEST_INVALID");
            assert!(client.is_closed(), "{fields}");
        }
    });
}

#[test]
fn chunks_that_are_none_end_the_body() {
    unharmed(ServerOptions::new(), |fixture, _| {
        let large = "x".repeat(100_000);
        for chunks in [
            "FFFFFFFFFFFFFFFFF\r\nhello",
            "10000000000000005\r\nhello\r\n0\r\n\r\n",
            "-5\r\nhello\r\n0\r\n\r\n",
            "0x5\r\nhello\r\n0\r\n\r\n",
            "5 5\r\nhello\r\n0\r\n\r\n",
            "\r\nhello",
            "g\r\nhello",
            "5\r\nhelloXX0\r\n\r\n",
            "5\nhello\n0\n\n",
            &format!("5;{large}\r\nhello\r\n0\r\n\r\n"),
            &format!("5\r\nhello\r\n0\r\nX: {large}\r\n\r\n"),
        ] {
            for path in [
                format!("POST /v2/a/blobs/uploads/?digest={}", sha256(b"hello")),
                "PUT /v2/a/manifests/v2".to_owned(),
            ] {
                println!("{path} {:?}", &chunks[..chunks.len().min(40)]);
                let mut client = fixture.client();
                client.write(format!(
                    "{path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"
                ));
                client.answer("POST").refused(400, "UNSUPPORTED");
                assert!(client.is_closed());
            }
        }
    });
}

#[test]
fn a_head_has_its_limits() {
    // Wide enough for the limits that HTTP itself has here.
    unharmed(ServerOptions::new().header_bytes(400 << 10), |fixture, _| {
        let head = |line: &str, fields: &str| format!("{line} HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
        let many = |count: usize| (0..count).map(|n| format!("x-{n}: y\r\n")).collect::<String>();
        is_no_request(fixture, head("GET /v2/", &many(100)).as_bytes(), 431);
        is_no_request(fixture, head("GET /v2/", &many(5_000)).as_bytes(), 431);
        is_no_request(fixture, head(&format!("GET /v2/{}", "a/".repeat(40_000)), "").as_bytes(), 414);
        is_no_request(fixture, head(&format!("GET /v2/?{}", "x".repeat(70_000)), "").as_bytes(), 414);
        // Of what is in no bounds at all, no more is read than would be too much; the rest meets a closed door.
        for endless in ["x: y\r\n".repeat(100_000), format!("x: {}", "y".repeat(4 << 20))] {
            let mut client = fixture.client();
            drop(client.try_write(head("GET /v2/", &endless).as_bytes()));
            assert!(matches!(
                client.try_line().as_deref(),
                None | Some("HTTP/1.1 431 Request Header Fields Too Large")
            ));
        }
        // What fits is judged by what it says.
        let mut client = fixture.client();
        let long = format!("/v2/{}/tags/list", "a/".repeat(30_000));
        client.send("GET", &long, &[("X", &"y".repeat(100_000))], b"").refused(400, "NAME_INVALID");
    });
}

#[test]
fn a_path_leads_nowhere_but_to_its_repository() {
    unharmed(ServerOptions::new(), |fixture, session| {
        let mut client = fixture.client();
        let digest = sha256(b"{}");
        for (method, path) in [
            ("PUT", "/v2/../a/manifests/v2"),
            ("PUT", "/v2/./a/manifests/v2"),
            ("PUT", "/v2/a/../../etc/manifests/v2"),
            ("PUT", "/v2/a%2f..%2fb/manifests/v2"),
            ("PUT", "/v2/%2e%2e%2fa/manifests/v2"),
            ("PUT", "/v2/a%00/manifests/v2"),
            ("PUT", "/v2/a\\b/manifests/v2"),
            ("PUT", "/v2/a/manifests/..%2fv2"),
            ("PUT", "/v2/a/manifests/%2e%2e"),
            ("PUT", "/v2/a/manifests/.."),
            ("POST", "/v2/a/../b/blobs/uploads/"),
            ("POST", "/v2//blobs/uploads/"),
            ("POST", &format!("/v2/..%2fb/blobs/uploads/?mount={digest}&from=a")),
            ("POST", &format!("/v2/b/blobs/uploads/?digest=..%2f..%2f{digest}")),
            ("DELETE", &format!("/v2/b/../a/blobs/{digest}")),
            ("DELETE", &format!("/v2/a/blobs/..%2f{digest}")),
            ("DELETE", &session.replace("/v2/a/", "/v2/b/../a/")),
            ("DELETE", &format!("{session}%00")),
            ("DELETE", &format!("{session}/../x")),
            ("PATCH", "/v2/a/blobs/uploads/..%2f..%2f..%2fetc%2fpasswd"),
            ("DELETE", "*"),
        ] {
            let answer = client.send(method, path, &[("Content-Type", IMAGE)], b"");
            assert!((400..=404).contains(&answer.status), "{method} {path}: {answer:?}");
            assert_eq!(answer.codes().len(), 1);
        }
        // Where a mount finds nothing a session begins: that one is to be ended.
        let path = format!("/v2/b/blobs/uploads/?mount={digest}&from=..%2fa");
        let begun = client.send("POST", &path, &[], b"").expect(202);
        client.send("DELETE", begun.header("location").unwrap(), &[], b"").expect(204);
        // A whole address is a path after its host, and a tunnel is none.
        client
            .send("DELETE", "http://elsewhere/v2/a/../a/manifests/v1", &[], b"")
            .refused(400, "NAME_INVALID");
        client.send("CONNECT", "registry:443", &[], b"").refused(404, "UNSUPPORTED");
    });
}

#[test]
fn documents_that_are_to_break_their_reader_are_no_manifests() {
    unharmed(ServerOptions::new(), |fixture, _| {
        let mut client = fixture.client();
        let image = String::from_utf8(image(&mut client, "a", &json!({}))).unwrap();
        let with = |field: &str| image.replacen('{', &format!("{{{field},"), 1).into_bytes();
        let deep =
            |open: &str, close: &str, depth: usize| format!("{}1{}", open.repeat(depth), close.repeat(depth));
        let documents = [
            ("arrays in arrays", with(&format!("\"x\":{}", deep("[", "]", 10_000)))),
            ("objects in objects", with(&format!("\"x\":{}", deep("{\"x\":", "}", 10_000)))),
            ("arrays that are never closed", "[".repeat(4 << 20).into_bytes()),
            ("a field twice", with("\"config\":{}")),
            ("another digest for another reader", with("\"layers\":[]")),
            ("a version twice", with("\"schemaVersion\":2")),
            ("a subject twice", with("\"subject\":null,\"subject\":null")),
            ("a NUL", with("\"x\":\"\0\"")),
            ("a NUL in front", [b"\0", image.as_bytes()].concat()),
            ("a mark in front", [&b"\xef\xbb\xbf"[..], image.as_bytes()].concat()),
            ("something behind", [image.as_bytes(), b"{}"].concat()),
            ("no UTF-8", [image.as_bytes(), b"\xff"].concat()),
            ("no UTF-8 in a field", with("\"annotations\":{\"x\":\"\u{1}\"}")),
            ("half a character", with("\"annotations\":{\"x\":\"\\ud800\"}")),
            ("a negative size", image.replace("\"size\":2", "\"size\":-2").into_bytes()),
            ("a size beyond all", image.replace("\"size\":2", "\"size\":18446744073709551616").into_bytes()),
            ("a size that is none", image.replace("\"size\":2", "\"size\":2e400").into_bytes()),
            (
                "a digest beyond all",
                image.replace("sha256:", &format!("sha256:{}", "0".repeat(1 << 20))).into_bytes(),
            ),
            ("a path for a digest", image.replace("sha256:", "../../").into_bytes()),
            ("an array for a manifest", b"[2, null, null]".to_vec()),
            ("no manifest", b"null".to_vec()),
        ];
        for (what, document) in documents {
            println!("{what}");
            let answer = put(&mut client, "a", "v2", &document).refused(400, "MANIFEST_INVALID");
            assert!(answer.body.len() < 1000, "{} bytes about it", answer.body.len());
        }
    });
}

/// Ten megabytes of nothing in ten kilobytes: it is not unpacked to be looked at.
#[test]
fn a_packed_manifest_is_refused() {
    unharmed(ServerOptions::new(), |fixture, _| {
        let mut client = fixture.client();
        let packed = [&b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03"[..], &bytes(10_000)].concat();
        for encoding in ["gzip", "GZIP", "zstd", "br", "deflate", "gzip, identity"] {
            let headers = [("Content-Type", IMAGE), ("Content-Encoding", encoding)];
            let answer =
                client.send("PUT", "/v2/a/manifests/v2", &headers, &packed).refused(400, "UNSUPPORTED");
            assert!(String::from_utf8(answer.body).unwrap().contains("Content-Encoding"));
        }
        put(&mut client, "a", "v2", &packed).refused(400, "MANIFEST_INVALID");
    });
}

#[test]
fn a_body_that_never_comes_leaves_nothing() {
    unharmed(ServerOptions::new().silence_limit(Duration::from_millis(50)), |fixture, _| {
        for (method, path) in [
            ("PUT", "/v2/a/manifests/v2"),
            ("POST", &*format!("/v2/a/blobs/uploads/?digest={}", sha256(b"hello"))),
        ] {
            for (name, value, said) in [
                ("Content-Length", "5", ""),
                ("Content-Length", "200000", "hell"),
                ("Content-Length", "9000000000000000000", "hell"),
                ("Transfer-Encoding", "chunked", ""),
                ("Transfer-Encoding", "chunked", "5"),
                ("Transfer-Encoding", "chunked", "5\r\nhell"),
                ("Transfer-Encoding", "chunked", "5\r\nhello\r\n"),
            ] {
                println!("{method} {name}: {value}, {said:?}");
                let mut client = fixture.client();
                client.head(method, path, &[(name, value)]);
                client.write(said);
                let answer = client.answer(method);
                // Or there is no room for what it announced.
                assert!(matches!(answer.status, 400 | 413 | 507), "{answer:?}");
                assert_eq!(answer.codes().len(), 1);
            }
        }
        // What is there already is not to be held back by who pushes it again and does not.
        push_blob(&mut fixture.client(), "a", b"{}");
    });
}
