//! Pulling, and being a registry at all.

use super::row::{Body, Row, row};
use super::scene::{LAYER, image, index};
use crate::fixture::{IMAGE, INDEX};

pub(super) fn rows() -> Vec<Row> {
    [support(), manifests(), blobs(), parts(), heads(), proxying()].into_iter().flatten().collect()
}

fn support() -> Vec<Row> {
    let row = |says| row("end-1", "Determining Support", says);
    vec![
        row("a registry answers 200 at its root")
            .ask("GET", "/v2/")
            .bytes("{}")
            .with("content-type", "application/json")
            .is(200),
        row("and so it does without the slash").ask("GET", "/v2").bytes("{}").is(200),
        row("HEAD is answered as GET is").ask("HEAD", "/v2/").with("content-length", "2").is(200),
        super::row::row(
            "end-1",
            "Legacy Docker support HTTP headers",
            "the version that Docker's clients look for",
        )
        .ask("GET", "/v2/")
        .body(Body::Any)
        .with("docker-distribution-api-version", "registry/2.0")
        .is(200),
        super::row::row("end-1", "Warnings", "there is nothing that this registry would warn of")
            .ask("GET", "/v2/")
            .body(Body::Any)
            .without("warning")
            .is(200),
    ]
}

fn manifests() -> Vec<Row> {
    let row = |says| row("end-3", "Pulling manifests", says);
    let found = |row: Row, path: &str, media_type| {
        row.ask("GET", path).with("content-type", media_type).without("oci-subject").is(200)
    };
    vec![
        found(row("a tag names a manifest, to the byte"), "/v2/a/manifests/v1", IMAGE)
            .bytes(image())
            .with("docker-content-digest", "{image}")
            .with("etag", "\"{image}\""),
        found(row("and so does its digest"), "/v2/a/manifests/{image}", IMAGE)
            .bytes(image())
            .with("docker-content-digest", "{image}"),
        found(row("a digest of sha512 is one too"), "/v2/a/manifests/{image512}", IMAGE)
            .bytes(image())
            .with("docker-content-digest", "{image512}"),
        found(
            row("the digest of a tag is of the algorithm it was pushed with"),
            "/v2/a/manifests/v512",
            IMAGE,
        )
        .bytes(image())
        .with("docker-content-digest", "{image512}"),
        found(row("an index says so"), "/v2/a/manifests/multi", INDEX)
            .bytes(index())
            .with("docker-content-digest", "{index}"),
        found(row("Accept is advice: there is one form of a manifest"), "/v2/a/manifests/multi", INDEX)
            .header("Accept", "application/vnd.docker.distribution.manifest.v2+json")
            .bytes(index()),
        row("who has it is not sent it again")
            .ask("GET", "/v2/a/manifests/v1")
            .header("If-None-Match", "W/\"{image}\"")
            .with("docker-content-digest", "{image}")
            .is(304),
        row("an absent tag is not found").ask("GET", "/v2/a/manifests/none").refused(404, "MANIFEST_UNKNOWN"),
        row("nor is an absent digest")
            .ask("GET", "/v2/a/manifests/{absent}")
            .refused(404, "MANIFEST_UNKNOWN"),
        row("nor is a digest of another algorithm")
            .ask("GET", "/v2/a/manifests/{absent512}")
            .refused(404, "MANIFEST_UNKNOWN"),
        row("nor is anything in an absent repository")
            .ask("GET", "/v2/{new}/manifests/v1")
            .refused(404, "MANIFEST_UNKNOWN"),
        row("what can be no tag is not there")
            .ask("GET", "/v2/a/manifests/-v1")
            .refused(404, "MANIFEST_UNKNOWN"),
        row("a tag has at most 128 characters")
            .ask("GET", format!("/v2/a/manifests/{}", "t".repeat(129)))
            .refused(404, "MANIFEST_UNKNOWN"),
        row("what is nearly a digest is a mistake")
            .ask("GET", "/v2/a/manifests/sha256:baddigeststring")
            .refused(400, "DIGEST_INVALID"),
        row("a blob is no manifest").ask("GET", "/v2/a/manifests/{layer}").refused(404, "MANIFEST_UNKNOWN"),
        row("a name has no capitals").ask("GET", "/v2/A/manifests/v1").refused(400, "NAME_INVALID"),
        row("nor three underscores").ask("GET", "/v2/a___b/manifests/v1").refused(400, "NAME_INVALID"),
        row("a name may have dashes, dots and two underscores")
            .ask("GET", "/v2/a--b/c__d.e/manifests/v1")
            .refused(404, "MANIFEST_UNKNOWN"),
        row("a name of 255 characters is one")
            .ask("GET", format!("/v2/{}/manifests/v1", "n".repeat(255)))
            .refused(404, "MANIFEST_UNKNOWN"),
        row("a longer one is none")
            .ask("GET", format!("/v2/{}/manifests/v1", "n".repeat(256)))
            .refused(400, "NAME_INVALID"),
    ]
}

fn blobs() -> Vec<Row> {
    let row = |says| row("end-2", "Pulling blobs", says);
    vec![
        row("a blob comes back, to the byte")
            .ask("GET", "/v2/a/blobs/{layer}")
            .bytes(LAYER)
            .with("docker-content-digest", "{layer}")
            .with("content-type", "application/octet-stream")
            .with("accept-ranges", "bytes")
            .is(200),
        row("by sha512 too")
            .ask("GET", "/v2/a/blobs/{layer512}")
            .bytes(LAYER)
            .with("docker-content-digest", "{layer512}")
            .is(200),
        row("also one without bytes")
            .ask("GET", "/v2/a/blobs/{empty}")
            .with("content-length", "0")
            .with("docker-content-digest", "{empty}")
            .is(200),
        row("who has it is not sent it again")
            .ask("GET", "/v2/a/blobs/{layer}")
            .header("If-None-Match", "\"x\", \"{layer}\"")
            .with("etag", "\"{layer}\"")
            .is(304),
        row("who has another is")
            .ask("GET", "/v2/a/blobs/{layer}")
            .header("If-None-Match", "\"{absent}\"")
            .bytes(LAYER)
            .is(200),
        row("an absent one is not found").ask("GET", "/v2/a/blobs/{absent}").refused(404, "BLOB_UNKNOWN"),
        row("nor one that another repository has")
            .ask("GET", "/v2/{new}/blobs/{layer}")
            .refused(404, "BLOB_UNKNOWN"),
        row("a manifest is no blob").ask("GET", "/v2/a/blobs/{image}").refused(404, "BLOB_UNKNOWN"),
        row("an algorithm that nobody knows is a mistake")
            .ask("GET", "/v2/a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e")
            .refused(400, "DIGEST_INVALID"),
        row("and so are capitals in a digest")
            .ask("GET", format!("/v2/a/blobs/sha256:{}", "A".repeat(64)))
            .refused(400, "DIGEST_INVALID"),
    ]
}

fn parts() -> Vec<Row> {
    let part = |says, range| {
        row("end-2", "Pulling blobs", says).ask("GET", "/v2/a/blobs/{layer}").header("Range", range)
    };
    let comes = |row: Row, bytes: &str, at| {
        row.is(206).bytes(bytes).with("content-range", at).with("docker-content-digest", "{layer}")
    };
    let beyond = |row: Row| {
        row.refused(416, "SIZE_INVALID").with("content-range", "bytes */20").with("accept-ranges", "bytes")
    };
    vec![
        comes(part("a range from the middle", "bytes=4-8"), "bytes", "bytes 4-8/20"),
        comes(part("a range with no end", "bytes=15-"), "layer", "bytes 15-19/20"),
        comes(part("a range from the end", "bytes=-5"), "layer", "bytes 15-19/20"),
        comes(part("an end beyond the last byte is clipped", "bytes=15-99"), "layer", "bytes 15-19/20"),
        comes(part("a range of all of it", "bytes=0-19"), LAYER, "bytes 0-19/20"),
        comes(
            part("a range of what the client has the rest of", "bytes=4-8").header("If-Range", "\"{layer}\""),
            "bytes",
            "bytes 4-8/20",
        ),
        part("a range of something else brings all", "bytes=4-8")
            .header("If-Range", "\"{absent}\"")
            .is(200)
            .bytes(LAYER),
        beyond(part("a range beyond the end has nothing in it", "bytes=20-")),
        beyond(part("nor has one that ends before it begins", "bytes=5-0")),
        beyond(part("nor have the last no bytes", "bytes=-0")),
        part("several ranges at once bring all", "bytes=0-1,4-5").is(200).bytes(LAYER),
        part("so does a unit that nobody knows", "lines=0-1").is(200).bytes(LAYER),
    ]
}

fn heads() -> Vec<Row> {
    const SECTION: &str = "Checking if content exists in the registry";
    let head = |end, says, path: &str| row(end, SECTION, says).ask("HEAD", path);
    vec![
        head("end-2", "a blob's size and digest, and no body", "/v2/a/blobs/{layer}")
            .with("content-length", "20")
            .with("docker-content-digest", "{layer}")
            .is(200),
        head("end-2", "the same by sha512", "/v2/a/blobs/{layer512}")
            .with("content-length", "20")
            .with("docker-content-digest", "{layer512}")
            .is(200),
        head("end-2", "a size of nothing is told too", "/v2/a/blobs/{empty}")
            .with("content-length", "0")
            .is(200),
        head("end-2", "a range means nothing to HEAD", "/v2/a/blobs/{layer}")
            .header("Range", "bytes=0-0")
            .with("content-length", "20")
            .is(200),
        head("end-2", "an absent blob is not found", "/v2/a/blobs/{absent}").is(404),
        head("end-2", "nor one of an absent repository", "/v2/{new}/blobs/{layer}").is(404),
        head("end-2", "a digest that is none is a mistake", "/v2/a/blobs/sha256:x").is(400),
        head("end-3", "a manifest's size, digest and type by its tag", "/v2/a/manifests/v1")
            .with("docker-content-digest", "{image}")
            .with("content-type", IMAGE)
            .with("content-length", "{image size}")
            .is(200),
        head("end-3", "the same by its digest", "/v2/a/manifests/{image}")
            .with("docker-content-digest", "{image}")
            .with("content-length", "{image size}")
            .is(200),
        head("end-3", "a tag names the algorithm that it was pushed with", "/v2/a/manifests/v512")
            .with("docker-content-digest", "{image512}")
            .is(200),
        head("end-3", "an absent tag is not found", "/v2/a/manifests/none").is(404),
        head("end-3", "nor is an absent manifest", "/v2/a/manifests/{absent}").is(404),
        head("end-3", "nor is a repository", "/v2/{new}/manifests/v1").is(404),
        head("end-3", "what is there already need not be sent", "/v2/a/manifests/v1")
            .header("If-None-Match", "*")
            .is(304),
    ]
}

fn proxying() -> Vec<Row> {
    const SECTION: &str = "Registry Proxying";
    let row = |end, says, path: &str| {
        row(end, SECTION, says).ask("GET", path).is(200).body(Body::Any).without("oci-namespace")
    };
    vec![
        row(
            "end-2",
            "whose blob a client means is accepted and not used",
            "/v2/a/blobs/{layer}?ns=docker.io",
        ),
        row("end-3", "whose manifest too", "/v2/a/manifests/v1?ns=registry.example.org:5000"),
        row("end-12a", "and whose referrers", "/v2/a/referrers/{image}?ns=docker.io"),
        row("end-8a", "and whose tags", "/v2/a/tags/list?ns=docker.io"),
    ]
}

#[test]
fn the_layer_has_the_length_that_the_rows_say() {
    assert_eq!(LAYER.len(), 20);
}
