//! Listings.

use serde_json::json;

use super::row::{Registry, Row, row};
use super::scene::{CONFIG_TYPE, SBOM, referrers};
use crate::fixture::INDEX;

pub(super) fn rows() -> Vec<Row> {
    [tags(), repositories(), listed_referrers()].into_iter().flatten().collect()
}

fn tags() -> Vec<Row> {
    let list =
        |end, says, query: &str| row(end, "Listing Tags", says).ask("GET", format!("/v2/a/tags/list{query}"));
    let has = |row: Row, tags: &[&str]| {
        row.is(200).json(json!({ "name": "a", "tags": tags })).with("content-type", "application/json")
    };
    let page = |row: Row, tags: &[&str], next| has(row, tags).with("link", next);
    let last = |row: Row, tags: &[&str]| has(row, tags).without("link");
    vec![
        last(list("end-8a", "all of them, in the order of their bytes", ""), &["multi", "v1", "v2", "v512"]),
        page(
            list("end-8b", "as many as are asked for, and where it goes on", "?n=2"),
            &["multi", "v1"],
            "</v2/a/tags/list?n=2&last=v1>; rel=\"next\"",
        ),
        page(
            list("end-8b", "those after one, without it", "?n=1&last=v1"),
            &["v2"],
            "</v2/a/tags/list?n=1&last=v2>; rel=\"next\"",
        ),
        last(list("end-8b", "the last ones", "?n=2&last=v1"), &["v2", "v512"]),
        last(list("end-8b", "exactly all", "?n=4"), &["multi", "v1", "v2", "v512"]),
        last(
            list("end-8b", "more than there are", "?n=99999999999999999999"),
            &["multi", "v1", "v2", "v512"],
        ),
        last(list("end-8b", "those after one, however many", "?last=v1"), &["v2", "v512"]),
        last(list("end-8b", "after one that is not there", "?last=n"), &["v1", "v2", "v512"]),
        last(list("end-8b", "after the last", "?n=2&last=v512"), &[]),
        last(list("end-8b", "none are asked for", "?n=0"), &[]),
        list("end-8a", "HEAD is answered as GET is", "")
            .ask("HEAD", "/v2/a/tags/list")
            .is(200)
            .with("content-type", "application/json"),
        row("end-8a", "Listing Tags", "an absent repository is not found")
            .ask("GET", "/v2/{new}/tags/list")
            .refused(404, "NAME_UNKNOWN"),
        row("end-8a", "Listing Tags", "a name that is none")
            .ask("GET", "/v2/_catalog/tags/list")
            .refused(400, "NAME_INVALID"),
        list("end-8b", "a number that is none", "?n=-1").refused(400, "UNSUPPORTED"),
        list("end-8b", "a tag that is none", "?last=.").refused(400, "MANIFEST_INVALID"),
        last(
            list("end-8a", "a registry that only reads has them too", "").on(Registry::ReadOnly),
            &["multi", "v1", "v2", "v512"],
        ),
    ]
}

/// No part of the spec, which only reserves the name; Docker's registry has it.
fn repositories() -> Vec<Row> {
    let row = |says| row("_catalog", "Legacy Docker support HTTP headers", says);
    vec![
        row("the first repository of the catalog")
            .ask("GET", "/v2/_catalog?n=1")
            .is(200)
            .json(json!({ "repositories": ["a"] }))
            .with("link", "</v2/_catalog?n=1&last=a>; rel=\"next\""),
        row("none of the catalog")
            .ask("GET", "/v2/_catalog?n=0")
            .is(200)
            .json(json!({ "repositories": [] }))
            .without("link"),
        row("the catalog is not written to")
            .ask("PUT", "/v2/_catalog")
            .refused(405, "UNSUPPORTED")
            .with("allow", "GET, HEAD"),
    ]
}

fn listed_referrers() -> Vec<Row> {
    let list = |end, says, path: &str| row(end, "Listing Referrers", says).ask("GET", path);
    let has = |row: Row, entries: serde_json::Value| {
        row.is(200)
            .json(json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries }))
            .with("content-type", INDEX)
    };
    let all = |row: Row, entries| has(row, entries).without("oci-filters-applied").without("link");
    let filtered =
        |row: Row, entries| has(row, entries).with("oci-filters-applied", "artifactType").without("link");
    let of = |wanted: &str| {
        let all = referrers();
        let matching = all.as_array().unwrap().iter().filter(|entry| entry["artifactType"] == wanted);
        json!(matching.collect::<Vec<_>>())
    };
    let first = json!([referrers()[0]]);
    vec![
        all(
            list("end-12a", "an index of them, with their types and annotations", "/v2/a/referrers/{image}"),
            referrers(),
        ),
        all(list("end-12a", "none is an empty index", "/v2/a/referrers/{index}"), json!([])),
        all(list("end-12a", "of what is not there too", "/v2/a/referrers/{absent}"), json!([])),
        all(list("end-12a", "of a digest of sha512 too", "/v2/a/referrers/{absent512}"), json!([])),
        all(
            list("end-12a", "also in a repository that is not there", "/v2/{new}/referrers/{absent}"),
            json!([]),
        ),
        filtered(
            list(
                "end-12b",
                "those of one type, and that they are",
                "/v2/a/referrers/{image}?artifactType=application%2Fvnd.example.sbom.v1%2Bjson",
            ),
            of(SBOM),
        ),
        filtered(
            list(
                "end-12b",
                "also where the plus sign is not encoded",
                "/v2/a/referrers/{image}?artifactType=application/vnd.example.sbom.v1+json",
            ),
            of(SBOM),
        ),
        filtered(
            list(
                "end-12b",
                "who states no type has its config's",
                "/v2/a/referrers/{image}?artifactType=application/vnd.example.config.v1%2Bjson",
            ),
            of(CONFIG_TYPE),
        ),
        filtered(
            list("end-12b", "of a type that none has", "/v2/a/referrers/{image}?artifactType=x/y"),
            json!([]),
        ),
        has(list("end-12a", "what does not fit is on the next page", "/v2/a/referrers/{image}?n=1"), first)
            .with("link", NEXT),
        list("end-12a", "what is no digest is a mistake", "/v2/a/referrers/v1")
            .refused(400, "DIGEST_INVALID"),
        list("end-12b", "and so is what is no type", "/v2/a/referrers/{image}?artifactType=x")
            .refused(400, "UNSUPPORTED"),
        list("end-12a", "a name that has no referrers because it is none", "/v2/A/referrers/{image}")
            .refused(400, "NAME_INVALID"),
        all(
            row(
                "end-12a",
                "Enabling the Referrers API",
                "what has a subject is listed, however it was pushed",
            )
            .ask("GET", "/v2/{own}/referrers/{image}"),
            referrers(),
        ),
    ]
}

/// The digest after which it goes on is encoded in the link.
const NEXT: &str = "</v2/a/referrers/{image}?n=1&last={first referrer}>; rel=\"next\"";
