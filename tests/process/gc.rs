//! Collection in a server, by itself and by hand, and what a server was told to keep.

use std::fs;
use std::path::Path;

use crate::control::{push, sledge, words};
use crate::server::{Server, noise};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn files(data: &Path) -> usize {
    fs::read_dir(data.join("content")).unwrap().count()
}

fn gc(data: &Path, arguments: &[&str]) -> serde_json::Value {
    let done = sledge(&[&["gc", "--json"], arguments].concat(), data);
    assert!(done.status.success(), "{}", words(&done.stderr));
    let report: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    report["gc"]["collected"].clone()
}

/// An image of one layer under each of the tags, and its digest.
fn image(server: &Server, content: &[u8], tags: &[&str]) -> (u16, String) {
    let digest = push(server, content);
    let document = format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"a/b","digest":"{digest}","size":1}},"layers":[]}}"#
    );
    let mut last = (0, String::new());
    for tag in tags {
        let answer = server.request("PUT", &format!("/v2/a/b/manifests/{tag}"), document.as_bytes());
        last = (answer.status, sledge::oci::Algorithm::Sha256.digest(document.as_bytes()).to_string());
    }
    last
}

#[test]
fn a_server_collects_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--grace", "0s", "--gc-interval", "5ms"];
    let server = Server::start_with(folder.path(), &arguments);
    push(&server, &noise(100_000));
    while files(folder.path()) > 0 {
        std::thread::yield_now();
    }
    server.stop();
}

#[test]
fn gc_reaches_the_server_that_has_the_store_and_keeps_what_that_was_told_to_keep() {
    let folder = tempfile::tempdir().unwrap();
    let rules = ["--gc-interval", "0s", "--untagged-after", "0s", "--keep-tags", "a/*:last=1,tag=v*"];
    let server = Server::start_with(folder.path(), &rules);
    for (n, tag) in ["old", "v1", "new"].into_iter().enumerate() {
        assert_eq!(image(&server, &noise(50_000 + n), &[tag]).0, 201);
    }
    // The grace time is the store's own: a day.
    let found = gc(folder.path(), &[]);
    assert_eq!((&found["tags"], &found["manifests"], &found["links"]), (&1.into(), &0.into(), &0.into()));
    let dry = gc(folder.path(), &["--grace", "0s", "--dry-run"]);
    let found = gc(folder.path(), &["--grace", "0s"]);
    assert_eq!((&found["manifests"], &found["blobs"]), (&1.into(), &1.into()));
    assert_eq!(dry["names"].as_array().unwrap().len(), 1, "{dry}");
    assert_eq!(dry, found, "the dry run saw what goes with the manifest");
    assert_eq!(
        server.request("GET", "/v2/a/b/tags/list", b"").body,
        br#"{"name":"a/b","tags":["new","v1"]}"#
    );
    server.stop();
    assert_eq!(files(folder.path()), 2);

    // Without a server nobody was told anything: tags stay.
    assert_eq!(gc(folder.path(), &["--grace", "0s"])["tags"], 0);
    let human = sledge(&["gc", "--dry-run", "--keep-tags", "*:last=1"], folder.path());
    assert_eq!(
        words(&human.stdout),
        "a/b:v1\nwould go: 1 tags, 0 manifests, 0 links, 0 blobs, 0 upload sessions and 0 orphans, 0 bytes\n"
    );
    let human = sledge(&["gc", "--keep-tags", "*:last=1"], folder.path());
    assert_eq!(
        words(&human.stdout),
        "a/b:v1\nremoved: 1 tags, 0 manifests, 0 links, 0 blobs, 0 upload sessions and 0 orphans, 0 bytes\n"
    );
    let refused = sledge(&["gc", "--keep-tags", "*"], folder.path());
    assert!(
        !refused.status.success() && words(&refused.stderr).contains("a rule is REPOSITORIES:CONDITIONS")
    );
}

#[test]
fn a_server_can_be_told_that_tags_are_immutable_or_that_nothing_changes() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start_with(folder.path(), &["--immutable-tags", "v*"]);
    assert_eq!(image(&server, b"1", &["v1", "latest"]).0, 201);
    assert_eq!(image(&server, b"2", &["latest"]).0, 201);
    let (status, digest) = image(&server, b"2", &["v1"]);
    assert_eq!(status, 403);
    server.stop();

    let server = Server::start_with(folder.path(), &["--read-only"]);
    assert_eq!(server.request("GET", &format!("/v2/a/b/manifests/{digest}"), b"").status, 200);
    assert_eq!(server.request("POST", "/v2/a/b/blobs/uploads/", b"").status, 405);
    assert_eq!(server.request("DELETE", "/v2/a/b/manifests/latest", b"").status, 405);
    server.stop();
}

/// Retention took them, and the server that was read-only collected by itself and for whoever asked.
#[test]
fn no_rule_takes_an_immutable_tag_and_a_read_only_server_collects_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let rules = ["--immutable-tags", "v*", "--keep-tags", "*:last=1", "--gc-interval", "0s"];
    let server = Server::start_with(folder.path(), &rules);
    for tag in ["v1", "v2", "b1", "b2"] {
        assert_eq!(image(&server, tag.as_bytes(), &[tag]).0, 201);
    }
    assert_eq!(gc(folder.path(), &["--keep-tags", "*:tag=nothing"])["tags"], 2);
    let tags = |server: &Server| server.request("GET", "/v2/a/b/tags/list", b"").body;
    assert_eq!(tags(&server), br#"{"name":"a/b","tags":["v1","v2"]}"#);
    server.stop();

    let rules = ["--read-only", "--keep-tags", "*:tag=nothing", "--gc-interval", "1ms"];
    let server = Server::start_with(folder.path(), &rules);
    assert_eq!(gc(folder.path(), &["--dry-run"])["tags"], 2);
    let refused = sledge(&["gc"], folder.path());
    assert!(!refused.status.success() && words(&refused.stderr).contains("the server is read-only"));
    assert_eq!(tags(&server), br#"{"name":"a/b","tags":["v1","v2"]}"#);
    server.stop();

    // A store that is not served knows of no rules; collection there took immutable tags, and could not be told of them.
    let rules = ["--keep-tags", "*:tag=nothing", "--dry-run"];
    assert_eq!(gc(folder.path(), &rules)["tags"], 2);
    assert_eq!(gc(folder.path(), &[rules.as_slice(), &["--immutable-tags", "v*"]].concat())["tags"], 0);

    let nowhere = folder.path().join("mistyped");
    let refused = sledge(&["serve", "--read-only", "--listen", "127.0.0.1:0"], &nowhere);
    assert!(!refused.status.success() && words(&refused.stderr).contains("there is no sledge store in"));
    assert!(!nowhere.exists());
}

#[test]
fn a_server_keeps_its_budget_and_says_what_it_holds() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start_with(folder.path(), &["--budget", "64MiB"]);
    let content = noise(20 << 20);
    push(&server, &content);
    let location = server.request("POST", "/v2/a/b/blobs/uploads/", b"").header("location").to_owned();
    // Refused by its length, before the rest of it has come.
    let refused = server.request("PATCH", &location, &noise(31 << 20));
    assert_eq!(refused.status, 507);
    assert!(
        words(&refused.body).contains("the store's budget of 67108864 bytes is used up"),
        "{}",
        words(&refused.body)
    );

    let done = sledge(&["usage", "--json"], folder.path());
    let report: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    let used = &report["usage"];
    assert_eq!(used["store"]["in_files"], 20 << 20);
    assert_eq!((&used["store"]["budget"], &used["repositories"][0][0]), (&(64 << 20).into(), &"a/b".into()));
    let human = words(&sledge(&["usage"], folder.path()).stdout);
    assert!(human.contains("          20971520                  0  a/b\n"), "{human}");
    server.stop();
}

#[test]
fn a_cache_lets_images_go_and_keeps_what_is_pinned() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start_with(folder.path(), &["--budget", "64MiB", "--cache", "--pin", "v*"]);
    for (n, tag) in ["v1", "a", "b", "c", "d", "e"].into_iter().enumerate() {
        assert_eq!(image(&server, &noise((10 << 20) + n), &[tag]).0, 201);
    }
    let tags = words(&server.request("GET", "/v2/a/b/tags/list", b"").body);
    assert!(tags.contains(r#""v1""#) && tags.contains(r#""e""#) && !tags.contains(r#""a""#), "{tags}");
    server.stop();
}
