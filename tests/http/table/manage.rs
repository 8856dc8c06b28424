//! Deleting.

use super::row::{Registry, Row, row};

pub(super) fn rows() -> Vec<Row> {
    [tags(), manifests(), blobs()].into_iter().flatten().collect()
}

fn off(row: Row) -> Row {
    row.on(Registry::ReadOnly).refused(405, "UNSUPPORTED").with("allow", "GET, HEAD")
}

fn tags() -> Vec<Row> {
    let delete = |says, tag: &str| {
        row("end-9", "Deleting tags", says).ask("DELETE", format!("/v2/{{own}}/manifests/{tag}"))
    };
    vec![
        delete("a tag goes, its manifest stays, and so do its other tags", "v1")
            .is(202)
            .then("GET", "/v2/{own}/manifests/v1", 404)
            .then("GET", "/v2/{own}/manifests/{image}", 200)
            .then("GET", "/v2/{own}/manifests/v2", 200),
        delete("one that is not there", "none").refused(404, "MANIFEST_UNKNOWN"),
        delete("what can be no tag", ".v1").refused(404, "MANIFEST_UNKNOWN"),
        delete("one that is immutable", "v1").on(Registry::Immutable).refused(403, "DENIED").then(
            "GET",
            "/v2/{own}/manifests/v1",
            200,
        ),
        off(delete("where nothing can be deleted", "v1")).then("GET", "/v2/{own}/manifests/v1", 200),
    ]
}

fn manifests() -> Vec<Row> {
    let delete = |says, digest: &str| {
        row("end-9", "Deleting Manifests", says).ask("DELETE", format!("/v2/{{own}}/manifests/{digest}"))
    };
    vec![
        delete("a manifest goes with its tags, and stays under its other digest", "{image}")
            .is(202)
            .then("GET", "/v2/{own}/manifests/{image}", 404)
            .then("GET", "/v2/{own}/manifests/v1", 404)
            .then("GET", "/v2/{own}/manifests/v2", 404)
            .then("GET", "/v2/{own}/manifests/{image512}", 200),
        delete("one by sha512", "{image512}").is(202).then("GET", "/v2/{own}/manifests/v512", 404).then(
            "GET",
            "/v2/{own}/manifests/v1",
            200,
        ),
        delete("an index leaves what it names", "{index}")
            .is(202)
            .then("GET", "/v2/{own}/manifests/multi", 404)
            .then("GET", "/v2/{own}/manifests/{image}", 200),
        delete("one that is not there", "{absent}").refused(404, "MANIFEST_UNKNOWN"),
        row("end-9", "Deleting Manifests", "one of a repository that is not there")
            .ask("DELETE", "/v2/{new}/manifests/{image}")
            .refused(404, "MANIFEST_UNKNOWN"),
        delete("what is no digest", "sha256:x").refused(400, "DIGEST_INVALID"),
        delete("one whose tag is immutable", "{image}").on(Registry::Immutable).refused(403, "DENIED").then(
            "GET",
            "/v2/{own}/manifests/{image}",
            200,
        ),
        off(delete("where nothing can be deleted", "{image}")).then(
            "GET",
            "/v2/{own}/manifests/{image}",
            200,
        ),
    ]
}

fn blobs() -> Vec<Row> {
    let delete = |says, digest: &str| {
        row("end-10", "Deleting Blobs", says).ask("DELETE", format!("/v2/{{own}}/blobs/{digest}"))
    };
    vec![
        delete("a blob goes here, and stays elsewhere", "{layer}")
            .is(202)
            .then("GET", "/v2/{own}/blobs/{layer}", 404)
            .then("GET", "/v2/a/blobs/{layer}", 200),
        delete("one by sha512", "{layer512}").is(202).then("GET", "/v2/{own}/blobs/{layer512}", 404),
        delete("one that is not there", "{absent}").refused(404, "BLOB_UNKNOWN"),
        row("end-10", "Deleting Blobs", "one of a repository that is not there")
            .ask("DELETE", "/v2/{new}/blobs/{layer}")
            .refused(404, "BLOB_UNKNOWN"),
        delete("what is no digest", "sha256:x").refused(400, "DIGEST_INVALID"),
        off(delete("where nothing can be deleted", "{layer}")).then("GET", "/v2/{own}/blobs/{layer}", 200),
    ]
}
