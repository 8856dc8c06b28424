//! Tags, repositories and referrers, page by page.

use serde_json::json;

use crate::client::Client;
use crate::fixture::{IMAGE, INDEX, each, image, push_blob, put, sha256, sha512};

/// All pages from one on, each with the entries under `field`.
fn pages(client: &mut Client, path: &str, field: &str) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    let mut next = Some(path.to_owned());
    while let Some(path) = next {
        let answer = client.get(&path).expect(200);
        let entries = answer.json()[field].as_array().unwrap().clone();
        let text = |entry: serde_json::Value| match entry {
            serde_json::Value::String(entry) => entry,
            entry => entry["digest"].as_str().unwrap().to_owned(),
        };
        pages.push(entries.into_iter().map(text).collect());
        assert!(pages.len() < 100, "the pages go on for ever");
        next = answer.next().map(str::to_owned);
    }
    pages
}

#[test]
fn tags_come_in_order_and_in_pages() {
    each(|fixture| {
        let mut client = fixture.client();
        client.get("/v2/a/tags/list").refused(404, "NAME_UNKNOWN");
        client.get("/v2/a/tags/list?n=0").refused(404, "NAME_UNKNOWN");
        let content = image(&mut client, "a", &json!({}));
        for tag in ["c", "B", "a", "_", "b-1", "b.1", "0"] {
            put(&mut client, "a", tag, &content).expect(201);
        }
        let all = ["0", "B", "_", "a", "b-1", "b.1", "c"];
        let answer = client.get("/v2/a/tags/list").expect(200);
        assert_eq!(answer.json(), json!({ "name": "a", "tags": all }));
        assert_eq!((answer.header("content-type"), answer.next()), (Some("application/json"), None));
        for (query, expected) in [
            ("?n=3", vec![&all[..3], &all[3..6], &all[6..]]),
            ("?n=7", vec![&all[..]]),
            ("?n=99999999999999999999999", vec![&all[..]]),
            ("?n=5&last=a", vec![&all[4..]]),
            ("?last=b", vec![&all[4..]]),
            ("?last=zzz", vec![&[]]),
            ("?n=0", vec![&[]]),
            ("?n=0&last=a", vec![&[]]),
        ] {
            assert_eq!(pages(&mut client, &format!("/v2/a/tags/list{query}"), "tags"), expected, "{query}");
        }
        let answer = client.get("/v2/a/tags/list?n=2").expect(200);
        assert_eq!(answer.next(), Some("/v2/a/tags/list?n=2&last=B"));
        let head = client.send("HEAD", "/v2/a/tags/list?n=2", &[], b"").expect(200);
        assert_eq!(head.header("content-length"), answer.header("content-length"));
        client.get("/v2/a/tags/list?n=x").refused(400, "UNSUPPORTED");
        client.get("/v2/a/tags/list?last=.x").refused(400, "MANIFEST_INVALID");
    });
}

#[test]
fn repositories_come_in_order_and_in_pages() {
    each(|fixture| {
        let mut client = fixture.client();
        assert_eq!(client.get("/v2/_catalog").expect(200).json(), json!({ "repositories": [] }));
        for name in ["b", "a/b", "a-b", "a"] {
            push_blob(&mut client, name, b"content");
        }
        let all = ["a", "a-b", "a/b", "b"];
        for (query, expected) in [
            ("", vec![&all[..]]),
            ("?n=3", vec![&all[..3], &all[3..]]),
            ("?n=1&last=a-a", vec![&all[1..2], &all[2..3], &all[3..]]),
            ("?n=0", vec![&[]]),
        ] {
            let found = pages(&mut client, &format!("/v2/_catalog{query}"), "repositories");
            assert_eq!(found, expected, "{query}");
        }
        assert_eq!(client.get("/v2/_catalog?n=3").next(), Some("/v2/_catalog?n=3&last=a%2Fb"));
        client.get("/v2/_catalog?n=-1").refused(400, "UNSUPPORTED");
        client.get("/v2/_catalog?last=NO").refused(400, "NAME_INVALID");
    });
}

#[test]
fn referrers_are_listed_filtered_and_never_unknown() {
    each(|fixture| {
        let mut client = fixture.client();
        let subject = sha256(b"subject");
        let path = format!("/v2/a/referrers/{subject}");
        let empty = client.get(&path).expect(200);
        assert_eq!(empty.json(), json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [] }));
        assert_eq!((empty.header("content-type"), empty.header("oci-filters-applied")), (Some(INDEX), None));

        let mut descriptors = Vec::new();
        for n in 0..5 {
            let artifact_type = if n % 2 == 0 { "application/even+json" } else { "application/odd" };
            let content = image(
                &mut client,
                "a",
                &json!({
                    "artifactType": artifact_type,
                    "subject": { "mediaType": IMAGE, "digest": subject, "size": 7 },
                    "annotations": { "n": n.to_string() },
                }),
            );
            let digest = sha256(&content);
            put(&mut client, "a", &digest, &content).expect(201);
            descriptors.push(json!({
                "mediaType": IMAGE, "digest": digest, "size": content.len(),
                "artifactType": artifact_type, "annotations": { "n": n.to_string() },
            }));
        }
        let key = |descriptor: &serde_json::Value| descriptor["digest"].as_str().unwrap().to_owned();
        descriptors.sort_by_key(key);
        assert_eq!(client.get(&path).json()["manifests"], json!(descriptors));
        let all: Vec<String> = descriptors.iter().map(key).collect();
        assert_eq!(
            pages(&mut client, &format!("{path}?n=2"), "manifests"),
            [&all[..2], &all[2..4], &all[4..]]
        );
        assert_eq!(pages(&mut client, &format!("{path}?n=5"), "manifests").concat(), all);
        assert_eq!(pages(&mut client, &format!("{path}?n=0"), "manifests"), [Vec::<String>::new()]);

        let of = |wanted: &str| -> Vec<String> {
            descriptors.iter().filter(|found| found["artifactType"] == wanted).map(key).collect()
        };
        for (query, wanted) in [
            ("artifactType=application/odd", "application/odd"),
            ("n=1&artifactType=application%2Feven%2Bjson", "application/even+json"),
            ("artifactType=application/even+json", "application/even+json"),
            ("artifactType=application/none", "application/none"),
        ] {
            let path = format!("{path}?{query}");
            assert_eq!(client.get(&path).expect(200).header("oci-filters-applied"), Some("artifactType"));
            assert_eq!(pages(&mut client, &path, "manifests").concat(), of(wanted), "{query}");
        }
        client.get("/v2/a/referrers/sha256:bad").refused(400, "DIGEST_INVALID");
        client.get(&format!("{path}?artifactType=none")).refused(400, "UNSUPPORTED");
    });
}

#[test]
fn referrers_of_many_megabytes_come_in_pages_that_clients_can_read() {
    each(|fixture| {
        let mut client = fixture.client();
        let subject = sha256(b"subject");
        let mut all = Vec::new();
        for n in 0..5 {
            let content = image(
                &mut client,
                "a",
                &json!({
                    "subject": { "mediaType": IMAGE, "digest": subject, "size": 7 },
                    "annotations": { "n": n.to_string(), "large": "x".repeat(1_500_000) },
                }),
            );
            all.push(sha256(&content));
            put(&mut client, "a", &sha256(&content), &content).expect(201);
        }
        all.sort();
        let path = format!("/v2/a/referrers/{subject}");
        assert!(client.get(&path).expect(200).body.len() <= 4 << 20);
        assert_eq!(pages(&mut client, &path, "manifests"), [&all[..2], &all[2..4], &all[4..]]);
    });
}

/// A client that does not look for `OCI-Subject` keeps the list itself, in an index under the subject's tag. What it pushed is
/// listed because its own manifest says so: once, as it says, and for as long as it is there. The index lends nothing to anybody:
/// otherwise who may set tags could attach what was made for another image.
#[test]
fn what_was_pushed_with_the_tag_scheme_is_listed_by_its_own_subject() {
    each(|fixture| {
        let mut client = fixture.client();
        for subject in [sha256(b"subject"), sha512(b"subject")] {
            let tag = subject.replace(':', "-")[..71].to_owned();
            let path = format!("/v2/a/referrers/{subject}");
            let fields = |subject: &str| json!({ "subject": { "mediaType": IMAGE, "digest": subject, "size": 7 }, "annotations": { "by": "itself" } });
            let attached = image(&mut client, "a", &fields(&subject));
            let elsewhere = image(&mut client, "a", &fields(&sha256(b"another")));
            let unattached = image(&mut client, "a", &json!({ "annotations": { "for": &tag } }));
            let entry = |content: &[u8]| {
                json!({
                    "mediaType": IMAGE, "digest": sha256(content), "size": content.len(),
                    "artifactType": "application/vnd.example.of-the-index", "annotations": { "by": "the index" },
                })
            };
            let contents = [&attached, &elsewhere, &unattached];
            for content in contents {
                put(&mut client, "a", &sha256(content), content).expect(201);
            }
            let entries: Vec<_> = contents.iter().map(|content| entry(content)).collect();
            let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries }).to_string();
            let (fallback, headers) = (format!("/v2/a/manifests/{tag}"), [("Content-Type", INDEX)]);
            client.send("PUT", &fallback, &headers, index.as_bytes()).expect(201);

            let listed = client.get(&path).expect(200).json()["manifests"].clone();
            let own = json!({
                "mediaType": IMAGE, "digest": sha256(&attached), "size": attached.len(),
                "artifactType": "application/vnd.oci.empty.v1+json", "annotations": { "by": "itself" },
            });
            assert_eq!(listed, json!([own]));
            // Who goes on with the tag finds what it wrote there.
            assert_eq!(client.get(&fallback).expect(200).body, index.as_bytes());
            client.send("DELETE", &fallback, &[], b"").expect(202);
            assert_eq!(client.get(&path).expect(200).json()["manifests"], listed);
            client.send("DELETE", &format!("/v2/a/manifests/{}", sha256(&attached)), &[], b"").expect(202);
            assert_eq!(client.get(&path).expect(200).json()["manifests"], json!([]));
        }
    });
}
