//! Docker's signed manifests, as clients of their time pushed and pulled them.

use serde_json::Value;

use crate::client::{Answer, Client};
use crate::fixture::{each, push_blob, sha256};

const PAYLOAD: &[u8] = include_bytes!("../schema1/signed/payload.json");
const ES256: &[u8] = include_bytes!("../schema1/signed/es256.json");
const RS256: &[u8] = include_bytes!("../schema1/signed/rs256.json");

const SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
const UNSIGNED: &str = "application/vnd.docker.distribution.manifest.v1+json";

/// What docker 1.10 to 26 sent.
const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v1+prettyjws, application/json";

const HELLO: &str = "/v2/library/hello/manifests";

fn push_layers(client: &mut Client, repository: &str) {
    for layer in [b"layer 0", b"layer 1"] {
        push_blob(client, repository, layer);
    }
}

fn push(client: &mut Client, path: &str, media_type: Option<&str>, document: &[u8]) -> Answer {
    let headers: Vec<_> = media_type.map(|media_type| ("Content-Type", media_type)).into_iter().collect();
    client.send("PUT", path, &headers, document)
}

fn codes(answer: &Answer) -> Vec<String> {
    let body = answer.json();
    let errors = body["errors"].as_array().unwrap();
    errors.iter().map(|error| error["code"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn docker_s_old_clients_push_and_pull() {
    each(|fixture| {
        let mut client = fixture.client();
        push_layers(&mut client, "library/hello");
        let digest = sha256(PAYLOAD);
        let stated = [None, Some("application/json; charset=utf-8"), Some(SIGNED), Some(UNSIGNED)];
        for (media_type, reference) in
            stated.into_iter().flat_map(|media_type| [(media_type, &*digest), (media_type, "1.0")])
        {
            let answer = push(&mut client, &format!("{HELLO}/{reference}"), media_type, ES256).expect(201);
            // It tags itself, whatever it is put as.
            client.get(&format!("{HELLO}/1.0")).expect(200);
            assert_eq!(answer.header("docker-content-digest"), Some(&*digest));
            assert_eq!(answer.header("location"), Some(&*format!("{HELLO}/{digest}")));
        }
        // Docker before 1.10 said nothing of what it accepts.
        for accept in [&[][..], &[("Accept", DOCKER)], &[("Accept", "*/*")], &[("Accept", SIGNED)]] {
            for reference in ["1.0", &digest] {
                let path = format!("{HELLO}/{reference}");
                let get = client.send("GET", &path, accept, b"").expect(200);
                let head = client.send("HEAD", &path, accept, b"").expect(200);
                for answer in [&get, &head] {
                    assert_eq!(answer.header("content-type"), Some(SIGNED));
                    assert_eq!(answer.header("docker-content-digest"), Some(&*digest));
                    assert_eq!(answer.header("content-length"), Some(&*get.body.len().to_string()));
                }
                // The document begins with what was signed, and has the signature that was pushed.
                assert_eq!(get.body[..PAYLOAD.len() - 2], PAYLOAD[..PAYLOAD.len() - 2]);
                let pushed: Value = serde_json::from_slice(ES256).unwrap();
                assert_eq!(get.json(), pushed);
                let etag = get.header("etag").unwrap().to_owned();
                let known = [accept, &[("If-None-Match", &*etag)]].concat();
                assert_eq!(client.send("GET", &path, &known, b"").expect(304).header("etag"), Some(&*etag));
                client.send("HEAD", &path, &known, b"").expect(304);
            }
        }
        assert_eq!(
            client.get("/v2/library/hello/tags/list").expect(200).json()["tags"],
            serde_json::json!(["1.0"])
        );
    });
}

#[test]
fn it_is_served_only_to_who_accepts_it() {
    each(|fixture| {
        let mut client = fixture.client();
        push_layers(&mut client, "library/hello");
        push(&mut client, &format!("{HELLO}/1.0"), None, ES256).expect(201);
        let path = format!("{HELLO}/1.0");
        let oci = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json";
        let refused = client.send("GET", &path, &[("Accept", oci)], b"");
        assert!(String::from_utf8_lossy(&refused.body).contains(SIGNED), "{refused:?}");
        refused.refused(404, "MANIFEST_UNKNOWN");
        assert_eq!(client.send("HEAD", &path, &[("Accept", oci)], b"").status, 404);
        let unsigned = client.send("GET", &path, &[("Accept", oci), ("Accept", UNSIGNED)], b"").expect(200);
        assert_eq!((unsigned.header("content-type"), &*unsigned.body), (Some(UNSIGNED), PAYLOAD));
    });
}

#[test]
fn a_second_signer_adds_to_the_first() {
    each(|fixture| {
        let mut client = fixture.client();
        push_layers(&mut client, "library/hello");
        let path = format!("{HELLO}/1.0");
        push(&mut client, &path, None, ES256).expect(201);
        let before = client.get(&path).expect(200);
        push(&mut client, &path, None, RS256).expect(201);
        let after = client.get(&path).expect(200);
        assert_eq!(after.json()["signatures"].as_array().unwrap().len(), 2);
        assert_eq!(before.header("docker-content-digest"), after.header("docker-content-digest"));
        let known = [("If-None-Match", before.header("etag").unwrap())];
        client.send("GET", &path, &known, b"").expect(200);
        push(&mut client, &path, None, ES256).expect(201);
        assert_eq!(client.get(&path).expect(200).body, after.body);
        // What was served can be pushed.
        push(&mut client, &path, None, &after.body).expect(201);
        client.send("DELETE", &format!("{HELLO}/{}", sha256(PAYLOAD)), &[], b"").expect(202);
        client.get(&path).refused(404, "MANIFEST_UNKNOWN");
    });
}

#[test]
fn all_that_is_wrong_is_in_one_answer() {
    each(|fixture| {
        let mut client = fixture.client();
        push_blob(&mut client, "other", b"layer 0");
        let broken = String::from_utf8(ES256.to_vec()).unwrap().replace("amd64", "arm64");
        let answer = push(&mut client, "/v2/other/manifests/2.0", None, broken.as_bytes()).expect(400);
        assert_eq!(
            codes(&answer),
            ["NAME_INVALID", "MANIFEST_INVALID", "MANIFEST_INVALID", "MANIFEST_BLOB_UNKNOWN"]
        );
        let other = sha256(b"");
        let answer =
            push(&mut client, &format!("/v2/other/manifests/{other}"), None, broken.as_bytes()).expect(400);
        assert_eq!(
            codes(&answer),
            ["NAME_INVALID", "DIGEST_INVALID", "MANIFEST_INVALID", "MANIFEST_BLOB_UNKNOWN"]
        );
        client.get("/v2/other/manifests/1.0").refused(404, "MANIFEST_UNKNOWN");
        for media_type in [Some(SIGNED), Some(UNSIGNED), None] {
            push(&mut client, &format!("{HELLO}/1.0"), media_type, PAYLOAD).refused(400, "MANIFEST_INVALID");
        }
        push(&mut client, &format!("{HELLO}/1.0"), Some(SIGNED), b"{").refused(400, "MANIFEST_INVALID");
    });
}
