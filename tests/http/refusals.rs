//! Requests that are none, and that nothing else suffers from them.

use std::sync::Arc;

use sledge::filter::{ImmutableTags, ReadOnly};
use sledge::server::ServerOptions;
use sledge::store::Pinned;

use crate::fixture::{Fixture, bytes, each, sha256, stores};

#[test]
fn what_is_no_endpoint_or_no_name_is_told() {
    each(|fixture| {
        let mut client = fixture.client();
        let digest = sha256(b"x");
        let long = format!("/v2/{}/tags/list", "a".repeat(10_000));
        for (method, path, status, code) in [
            ("GET", "/", 404, "UNSUPPORTED"),
            ("GET", "/v1/", 404, "UNSUPPORTED"),
            ("GET", "/v2/a", 404, "UNSUPPORTED"),
            ("GET", "/v2/a/b/c", 404, "UNSUPPORTED"),
            ("GET", "/v2/_oci/ext/discover", 404, "UNSUPPORTED"),
            ("GET", "/v2/../../etc/passwd", 404, "UNSUPPORTED"),
            ("GET", "/v2/../etc/tags/list", 400, "NAME_INVALID"),
            ("GET", "/v2/a/../b/tags/list", 400, "NAME_INVALID"),
            ("GET", "/v2/a%2Fb/tags/list", 400, "NAME_INVALID"),
            ("GET", "/v2/%2e%2e/tags/list", 400, "NAME_INVALID"),
            ("GET", "/v2/a%00/tags/list", 400, "NAME_INVALID"),
            ("GET", "/v2//tags/list", 400, "NAME_INVALID"),
            ("GET", "/v2/a//b/tags/list", 400, "NAME_INVALID"),
            ("GET", "/v2/A/manifests/latest", 400, "NAME_INVALID"),
            ("POST", "/v2/_x/blobs/uploads/", 400, "NAME_INVALID"),
            ("GET", &long, 400, "NAME_INVALID"),
            ("GET", "/v2/a/manifests/latest", 404, "MANIFEST_UNKNOWN"),
            ("GET", "/v2/a/manifests/.INVALID", 404, "MANIFEST_UNKNOWN"),
            ("GET", "/v2/a/manifests/", 404, "MANIFEST_UNKNOWN"),
            ("GET", "/v2/a/manifests/sha256:bad", 400, "DIGEST_INVALID"),
            ("GET", "/v2/a/blobs/sha256:bad", 400, "DIGEST_INVALID"),
            ("DELETE", "/v2/a/blobs/sha256:bad", 400, "DIGEST_INVALID"),
            ("GET", "/v2/a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", 400, "DIGEST_INVALID"),
            ("POST", "/v2/a/blobs/uploads/?digest=sha256:bad", 400, "DIGEST_INVALID"),
            ("POST", "/v2/a/blobs/uploads/?mount=sha256:bad&from=b", 400, "DIGEST_INVALID"),
            ("POST", "/v2/a/blobs/uploads/?digest-algorithm=md5", 400, "DIGEST_INVALID"),
            ("PUT", "/v2/a/blobs/uploads/6b3c9a93-af5d-473f-a4cf-9710022185cd", 400, "DIGEST_INVALID"),
            ("GET", "/v2/a/blobs/uploads/6b3c9a93-af5d-473f-a4cf-9710022185cd", 404, "BLOB_UPLOAD_UNKNOWN"),
            ("GET", "/v2/a/blobs/uploads/..", 404, "BLOB_UPLOAD_UNKNOWN"),
            ("PATCH", "/v2/a/blobs/uploads/none", 404, "BLOB_UPLOAD_UNKNOWN"),
            ("GET", &format!("/v2/a/blobs/{digest}"), 404, "BLOB_UNKNOWN"),
        ] {
            println!("{method} {}", &path[..path.len().min(80)]);
            client.send(method, path, &[], b"").refused(status, code);
        }
        for (method, path, allow) in [
            ("POST", "/v2/", "GET, HEAD"),
            ("PUT", "/v2/_catalog", "GET, HEAD"),
            ("PATCH", "/v2/a/tags/list", "GET, HEAD"),
            ("POST", &format!("/v2/a/blobs/{digest}"), "GET, HEAD, DELETE"),
            ("POST", "/v2/a/manifests/latest", "GET, HEAD, PUT, DELETE"),
            ("GET", "/v2/a/blobs/uploads/", "POST"),
            ("OPTIONS", "/v2/a/blobs/uploads/x", "GET, HEAD, PATCH, PUT, DELETE"),
        ] {
            let answer = client.send(method, path, &[], b"").refused(405, "UNSUPPORTED");
            assert_eq!(answer.header("allow"), Some(allow), "{method} {path}");
        }
        for path in ["/v2", "/v2/", "/v2/?ns=docker.io"] {
            let answer = client.get(path).expect(200);
            assert_eq!(
                (answer.header("content-type"), &*answer.body),
                (Some("application/json"), &b"{}"[..])
            );
        }
    });
}

#[test]
fn a_refused_body_does_not_cost_the_connection() {
    each(|fixture| {
        let mut client = fixture.client();
        for size in [0, 1, 10_000, 500_000] {
            let content = bytes(size);
            let path = "/v2/a/blobs/uploads/6b3c9a93-af5d-473f-a4cf-9710022185cd";
            client.send("PATCH", path, &[], &content).refused(404, "BLOB_UPLOAD_UNKNOWN");
            client.send("POST", "/v2/A/blobs/uploads/", &[], &content).refused(400, "NAME_INVALID");
            client.send_chunked("PUT", "/nowhere", &[], &[b"x"]).refused(404, "UNSUPPORTED");
            client.get("/v2/").expect(200);
        }
    });
}

#[test]
fn requests_that_are_sent_at_once_are_answered_in_order() {
    each(|fixture| {
        let mut client = fixture.client();
        client.write(
            "PATCH /v2/a/blobs/uploads/none HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello\
             HEAD /v2/ HTTP/1.1\r\nHost: x\r\n\r\n\
             GET /v2/a/tags/list HTTP/1.1\r\nHost: x\r\n\r\n\
             GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n",
        );
        client.answer("PATCH").refused(404, "BLOB_UPLOAD_UNKNOWN");
        assert_eq!(client.answer("HEAD").expect(200).header("content-length"), Some("2"));
        client.answer("GET").refused(404, "NAME_UNKNOWN");
        client.answer("GET").expect(200);
    });
}

#[test]
fn what_is_no_http_ends_its_own_connection_only() {
    each(|fixture| {
        let mut other = fixture.client();
        other.get("/v2/").expect(200);
        for garbage in ["\u{0}\u{1}\u{2}\r\n\r\n", "GET\r\n\r\n", "GET /v2/ HTTP/9.9\r\n\r\n"] {
            let mut client = fixture.client();
            client.write(garbage);
            while !client.is_closed() {
                assert_eq!(client.answer("GET").status, 400);
            }
        }
        other.get("/v2/").expect(200);
    });
}

/// RFC 9112, 3.2: a request of HTTP/1.1 names its host, once; one of HTTP/1.0 need not.
#[test]
fn a_request_without_a_host_is_refused() {
    each(|fixture| {
        for head in ["GET /v2/ HTTP/1.1\r\n\r\n", "GET /v2/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"] {
            let mut client = fixture.client();
            client.write(head);
            client.answer("GET").refused(400, "UNSUPPORTED");
        }
        let mut client = fixture.client();
        client.write("GET /v2/ HTTP/1.0\r\n\r\n");
        assert_eq!(client.line(), "HTTP/1.0 200 OK");
        let mut client = fixture.client();
        client.write("GET /v2/ HTTP/1.1\r\nHost:\r\n\r\n");
        client.answer("GET").expect(200);
    });
}

#[test]
fn an_immutable_tag_is_denied_and_a_read_only_registry_allows_reading() {
    for (name, store) in stores() {
        println!("store: {name}");
        let pinned = Pinned::tags(|tag| tag.as_str() == "v1");
        let fixture = Fixture::new(Arc::new(ImmutableTags::new(store.clone(), pinned)), ServerOptions::new());
        let mut client = fixture.client();
        let index =
            |n: u8| format!("{{\"schemaVersion\":2,\"manifests\":[],\"annotations\":{{\"n\":\"{n}\"}}}}");
        let (first, second) = (index(1), index(2));
        let kind = [("Content-Type", "application/vnd.oci.image.index.v1+json")];
        for (document, status) in [(&first, 201), (&first, 201)] {
            assert_eq!(client.send("PUT", "/v2/a/manifests/v1", &kind, document.as_bytes()).status, status);
        }
        client.send("PUT", "/v2/a/manifests/v1", &kind, second.as_bytes()).refused(403, "DENIED");
        client.send("DELETE", "/v2/a/manifests/v1", &[], b"").refused(403, "DENIED");
        let digest = sha256(first.as_bytes());
        client.send("DELETE", &format!("/v2/a/manifests/{digest}"), &[], b"").refused(403, "DENIED");
        assert_eq!(client.send("PUT", "/v2/a/manifests/v2", &kind, second.as_bytes()).status, 201);

        let fixture = Fixture::new(Arc::new(ReadOnly::new(store)), ServerOptions::new());
        let mut client = fixture.client();
        assert_eq!(client.send("GET", "/v2/a/manifests/v1", &[], b"").body, first.as_bytes());
        for (method, path) in [
            ("PUT", "/v2/a/manifests/v3"),
            ("POST", "/v2/a/blobs/uploads/"),
            ("DELETE", "/v2/a/manifests/v1"),
            ("DELETE", &format!("/v2/a/blobs/{digest}")),
        ] {
            client.send(method, path, &kind, first.as_bytes()).refused(405, "UNSUPPORTED");
        }
    }
}
