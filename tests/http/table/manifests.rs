//! Pushing manifests.

use serde_json::{Value, json};

use super::row::{Body, Registry, Row, row};
use super::scene::{CONFIG_TYPE, SBOM, artifact, image};
use crate::fixture::{IMAGE, INDEX, sha256, sha512};

const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

const TAG: &str = "/v2/{own}/manifests/pushed";
const DIGEST: &str = "/v2/{own}/manifests/{sent}";

pub(super) fn rows() -> Vec<Row> {
    [put(), kinds(), tags(), refused(), missing(), subjects()].into_iter().flatten().collect()
}

fn pointer(media_type: &str, content: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": sha256(content), "size": content.len() })
}

/// A manifest with nothing but a config, and `fields` put over it.
fn with(fields: &Value) -> String {
    let mut manifest = json!({ "schemaVersion": 2, "mediaType": IMAGE, "config": pointer(CONFIG_TYPE, b"{}"), "layers": [] });
    manifest.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    manifest.to_string()
}

/// One of this length.
fn padded(length: usize) -> Vec<u8> {
    let mut manifest = with(&json!({})).into_bytes();
    manifest.resize(length, b' ');
    manifest
}

/// A push that succeeds, and comes back under its digest.
fn taken(row: Row) -> Row {
    row.is(201).with("location", DIGEST).with("docker-content-digest", "{sent}").then("GET", DIGEST, 200)
}

fn put() -> Vec<Row> {
    let put = |end, says, path: &str| {
        row(end, "Pushing Manifests", says).ask("PUT", path).header("Content-Type", IMAGE)
    };
    vec![
        taken(put("end-7a", "under a tag", TAG).send(with(&json!({}))))
            .then("GET", TAG, 200)
            .without("oci-subject")
            .without("oci-tag"),
        taken(put("end-7b", "under its digest", DIGEST).send(with(&json!({})))).without("oci-tag"),
        taken(put("end-7a", "of unknown length", TAG).send_chunked(with(&json!({})))).then("HEAD", TAG, 200),
        put("end-7b", "under a digest of sha512", "/v2/{own}/manifests/{sent512}")
            .send(with(&json!({})))
            .is(201)
            .with("docker-content-digest", "{sent512}")
            .with("location", "/v2/{own}/manifests/{sent512}")
            .then("GET", "/v2/{own}/manifests/{sent512}", 200),
        taken(put("end-7a", "that is there already", "/v2/{own}/manifests/v1").send(image())),
        taken(
            put("end-7a", "over a tag that points elsewhere", "/v2/{own}/manifests/v1")
                .send(with(&json!({}))),
        ),
        taken(
            put(
                "end-7a",
                "under a tag of 128 characters",
                &format!("/v2/{{own}}/manifests/{}", "T".repeat(128)),
            )
            .send(with(&json!({}))),
        ),
        taken(
            row("end-7a", "Pushing Manifests", "parameters of the type are passed over")
                .ask("PUT", TAG)
                .header("Content-Type", "application/vnd.oci.image.manifest.v1+json; charset=utf-8")
                .send(with(&json!({}))),
        )
        .then("GET", TAG, 200),
        taken(
            row("end-7a", "Pushing Manifests", "without a type in the header")
                .ask("PUT", TAG)
                .send(with(&json!({}))),
        ),
        taken(put("end-7a", "without one in the document", TAG).send(with(&json!({ "mediaType": null })))),
        taken(put("end-7a", "of 4 MiB", TAG).send(padded(4 << 20))),
        put("end-7a", "one byte more is too large", TAG)
            .send(padded((4 << 20) + 1))
            .refused(413, "MANIFEST_INVALID")
            .then("GET", TAG, 404),
        taken(
            put("end-7a", "only where the tag is absent, and it is", TAG)
                .header("If-None-Match", "*")
                .send(with(&json!({}))),
        ),
        put("end-7a", "only where the tag is absent, and it is not", "/v2/{own}/manifests/v1")
            .header("If-None-Match", "*")
            .send(with(&json!({})))
            .refused(412, "DENIED"),
        taken(
            put("end-7a", "only where the tag is what the client saw", "/v2/{own}/manifests/v1")
                .header("If-Match", "\"{image}\"")
                .send(with(&json!({}))),
        ),
        put("end-7a", "over a tag that is immutable", "/v2/{own}/manifests/v1")
            .on(Registry::Immutable)
            .send(with(&json!({})))
            .refused(403, "DENIED"),
        put("end-7a", "to a registry that only reads", TAG)
            .on(Registry::ReadOnly)
            .send(with(&json!({})))
            .refused(405, "UNSUPPORTED")
            .with("allow", "GET, HEAD"),
    ]
}

/// What there is to push, besides images.
fn kinds() -> Vec<Row> {
    let put = |says, media_type, document: Value| {
        taken(
            row("end-7a", "Pushing Manifests", says)
                .ask("PUT", TAG)
                .header("Content-Type", media_type)
                .send(document.to_string()),
        )
    };
    let image = image();
    let image = image.as_bytes();
    let mut docker = json!({ "schemaVersion": 2, "mediaType": DOCKER, "config": pointer("application/vnd.docker.container.image.v1+json", b"{}") });
    docker["layers"] = json!([
        pointer("application/vnd.docker.image.rootfs.diff.tar.gzip", super::scene::LAYER.as_bytes()),
        pointer("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", b"elsewhere"),
    ]);
    let index = |children: Value| json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": children });
    let foreign = pointer("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", b"elsewhere");
    let inline = json!({ "mediaType": CONFIG_TYPE, "digest": sha256(b"{}"), "size": 2, "data": "e30=" });
    let image = pointer(IMAGE, image);
    vec![
        put("an index of nothing", INDEX, index(json!([]))),
        put("an index of an image, twice", INDEX, index(json!([image, image]))),
        put("an index of an index", INDEX, index(json!([pointer(INDEX, super::scene::index().as_bytes())]))),
        put("an index with a type of artifact", INDEX, json!({ "schemaVersion": 2, "manifests": [], "artifactType": SBOM })),
        put("Docker's manifest, with a layer from elsewhere", DOCKER, docker),
        put("Docker's list", DOCKER_LIST, json!({ "schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": [image] })),
        put("an artifact", IMAGE, serde_json::from_str(&with(&json!({ "artifactType": SBOM }))).unwrap()),
        put("layers that are not to be distributed", IMAGE, serde_json::from_str(&with(&json!({ "layers": [foreign] }))).unwrap()),
        put("content inside the descriptor", IMAGE, serde_json::from_str(&with(&json!({ "config": inline }))).unwrap()),
        put("fields that nobody knows", IMAGE, serde_json::from_str(&with(&json!({ "x": [{ "y": null }] }))).unwrap()),
        put("references by sha512", IMAGE, serde_json::from_str(&with(&json!({ "layers": [{ "mediaType": "x/y", "digest": sha512(super::scene::LAYER.as_bytes()), "size": 20 }] }))).unwrap()),
    ]
}

fn tags() -> Vec<Row> {
    let put = |says, query: &str| {
        row("end-7b", "Pushing Manifests", says)
            .ask("PUT", format!("{DIGEST}?{query}"))
            .header("Content-Type", IMAGE)
            .send(with(&json!({})))
    };
    let many = |count: usize| (0..count).map(|n| format!("tag=t{n}&")).collect::<String>();
    vec![
        taken(put("with tags, each told in the answer", "tag=1.2.3&tag=1.2&tag=latest"))
            .with("oci-tag", "1.2.3, 1.2, latest")
            .then("GET", "/v2/{own}/manifests/1.2", 200),
        taken(put("with ten of them", &many(10)))
            .with("oci-tag", "t0, t1, t2, t3, t4, t5, t6, t7, t8, t9")
            .then("GET", "/v2/{own}/manifests/t9", 200),
        taken(put("with one of them twice", "tag=one&tag=one")).with("oci-tag", "one"),
        put("with more than fit", &many(33)).refused(414, "MANIFEST_INVALID").then(
            "GET",
            "/v2/{own}/manifests/t0",
            404,
        ),
        put("with one that is no tag", "tag=fine&tag=-no").refused(400, "MANIFEST_INVALID").then(
            "GET",
            "/v2/{own}/manifests/fine",
            404,
        ),
        taken(
            row("end-7a", "Pushing Manifests", "tags beside a tag are passed over, and not told")
                .ask("PUT", format!("{TAG}?tag=other"))
                .header("Content-Type", IMAGE)
                .send(with(&json!({}))),
        )
        .without("oci-tag")
        .then("GET", "/v2/{own}/manifests/other", 404),
    ]
}

fn refused() -> Vec<Row> {
    let put = |says, path: &str, sent: &str| {
        let row = row(if path == TAG { "end-7a" } else { "end-7b" }, "Pushing Manifests", says);
        row.ask("PUT", path).header("Content-Type", IMAGE).send(sent).then("GET", TAG, 404)
    };
    let typed = |says, media_type| {
        row("end-7a", "Pushing Manifests", says)
            .ask("PUT", TAG)
            .header("Content-Type", media_type)
            .send(with(&json!({})))
            .then("GET", TAG, 404)
    };
    vec![
        put("another digest than the bytes have", "/v2/{own}/manifests/{absent}", &with(&json!({})))
            .refused(400, "DIGEST_INVALID")
            .then("GET", "/v2/{own}/manifests/{absent}", 404),
        put("what is no digest", "/v2/{own}/manifests/sha256:baddigeststring", &with(&json!({})))
            .refused(400, "DIGEST_INVALID"),
        put("what is neither tag nor digest", "/v2/{own}/manifests/.tag", &with(&json!({})))
            .refused(400, "MANIFEST_INVALID"),
        put("nothing", TAG, "").refused(400, "MANIFEST_INVALID"),
        put("half a document", TAG, "{\"schemaVersion\":2").refused(400, "MANIFEST_INVALID"),
        put("the fields of two kinds", TAG, &with(&json!({ "manifests": [] })))
            .refused(400, "MANIFEST_INVALID"),
        put("no config", TAG, &with(&json!({ "config": null }))).refused(400, "MANIFEST_INVALID"),
        put(
            "a reference that is no digest",
            TAG,
            &with(&json!({ "layers": [{ "mediaType": "x/y", "digest": "sha256:x", "size": 1 }] })),
        )
        .refused(400, "MANIFEST_INVALID"),
        typed("another type than the document states", INDEX).refused(400, "MANIFEST_INVALID"),
        typed("a type that is no manifest's", "text/html").refused(400, "MANIFEST_INVALID"),
        row("end-7a", "Pushing Manifests", "into a name that is none")
            .ask("PUT", "/v2/_catalog/manifests/v1")
            .send(with(&json!({})))
            .refused(400, "NAME_INVALID"),
    ]
}

fn missing() -> Vec<Row> {
    let push = |says, document: String, media_type| {
        row("end-7a", "Push", says).ask("PUT", TAG).header("Content-Type", media_type).send(document)
    };
    let absent = |name: &str| pointer("x/y", name.as_bytes());
    let unknown = |row: Row, count| {
        Row { status: 404, ..row.body(Body::Errors(vec!["MANIFEST_BLOB_UNKNOWN"; count])) }
            .then("GET", TAG, 404)
    };
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [absent("one")] }).to_string();
    vec![
        unknown(push("a config that is not there", with(&json!({ "config": absent("one") })), IMAGE), 1),
        unknown(
            push(
                "each layer that is not there",
                with(&json!({ "layers": [absent("one"), absent("two"), absent("one")] })),
                IMAGE,
            ),
            2,
        ),
        unknown(push("a manifest that is not there", index, INDEX), 1),
        taken(push("a subject that is not there yet", artifact(None, &sha256(b"absent")), IMAGE))
            .with("oci-subject", "{absent}"),
    ]
}

fn subjects() -> Vec<Row> {
    let push = |end, says, path, document: String, media_type| {
        row(end, "Pushing Manifests with Subject", says)
            .ask("PUT", path)
            .header("Content-Type", media_type)
            .send(document)
    };
    let of_index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [], "subject": pointer(IMAGE, b"absent") });
    vec![
        taken(push(
            "end-7a",
            "the subject is told, so that the client need not keep a list",
            TAG,
            artifact(None, &sha256(image().as_bytes())),
            IMAGE,
        ))
        .with("oci-subject", "{image}"),
        taken(push(
            "end-7b",
            "also of what is pushed by its digest",
            DIGEST,
            artifact(Some(SBOM), &sha256(image().as_bytes())),
            IMAGE,
        ))
        .with("oci-subject", "{image}"),
        taken(push(
            "end-7a",
            "also a digest of sha512",
            TAG,
            artifact(None, &sha512(image().as_bytes())),
            IMAGE,
        ))
        .with("oci-subject", "{image512}"),
        taken(push("end-7a", "an index can have one", TAG, of_index.to_string(), INDEX))
            .with("oci-subject", "{absent}"),
        push("end-7a", "one that is no digest is refused", TAG, artifact(None, "sha256:x"), IMAGE)
            .refused(400, "MANIFEST_INVALID"),
    ]
}
