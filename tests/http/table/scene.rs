//! What is in a registry before it is asked: the same in each repository.
//!
//! | word | stands for |
//! |---|---|
//! | `{layer}`, `{layer512}`, `{config}`, `{empty}` | blobs: [`LAYER`] by either algorithm, `{}`, and one without bytes |
//! | `{image}`, `{image512}` | [`image`] by either algorithm, with the tags `v1` and `v2`, and `v512` |
//! | `{image size}` | the image's length in bytes |
//! | `{index}` | an index of the image, with the tag `multi` |
//! | `{sbom}`, `{signature}` | artifacts whose subject is the image; the second states no type |
//! | `{absent}`, `{absent512}` | digests of what is nowhere |
//! | `{first referrer}` | the first one's digest, as it stands in a query |
//! | `{own}` | a repository that only this row uses, with all that; `a` is everybody's, to be read |
//! | `{new}` | a repository that is not there |
//! | `{session}`, `{begun}` | the path of an upload session in `{own}`: empty, and with the five bytes `hello` |
//! | `{sent}`, `{sent512}` | the digests of what the row sends |
//! | `{id}` | in what is expected: a session's id, from the answer |

use serde_json::json;

use crate::client::Client;
use crate::fixture::{IMAGE, INDEX, sha256, sha512};

pub(super) const LAYER: &str = "the bytes of a layer";
pub(super) const CONFIG_TYPE: &str = "application/vnd.example.config.v1+json";
pub(super) const SBOM: &str = "application/vnd.example.sbom.v1+json";

/// The image that is in each repository.
pub(super) fn image() -> String {
    json!({
        "schemaVersion": 2, "mediaType": IMAGE,
        "config": { "mediaType": CONFIG_TYPE, "digest": sha256(b"{}"), "size": 2 },
        "layers": [{ "mediaType": "application/octet-stream", "digest": sha256(LAYER.as_bytes()), "size": LAYER.len() }],
        "unknown": { "to": ["this", "registry"] },
    })
    .to_string()
        + " \n"
}

pub(super) fn index() -> String {
    let image = image();
    json!({
        "schemaVersion": 2, "mediaType": INDEX,
        "manifests": [{ "mediaType": IMAGE, "digest": sha256(image.as_bytes()), "size": image.len() }],
    })
    .to_string()
}

/// An artifact with this subject.
pub(super) fn artifact(artifact_type: Option<&str>, subject: &str) -> String {
    let mut artifact = json!({
        "schemaVersion": 2, "mediaType": IMAGE,
        "config": { "mediaType": CONFIG_TYPE, "digest": sha256(b"{}"), "size": 2 },
        "layers": [],
        "subject": { "mediaType": IMAGE, "digest": subject, "size": 1 },
        "annotations": { "org.example.of": "the image" },
    });
    if let Some(artifact_type) = artifact_type {
        artifact["artifactType"] = json!(artifact_type);
    }
    artifact.to_string()
}

pub(super) fn sbom() -> String {
    artifact(Some(SBOM), &sha256(image().as_bytes()))
}

pub(super) fn signature() -> String {
    artifact(None, &sha256(image().as_bytes()))
}

/// As the listing of referrers has them, in its order.
pub(super) fn referrers() -> serde_json::Value {
    let entry = |content: &str, artifact_type: &str| {
        json!({
            "mediaType": IMAGE, "digest": sha256(content.as_bytes()), "size": content.len(),
            "artifactType": artifact_type, "annotations": { "org.example.of": "the image" },
        })
    };
    let mut entries = [entry(&sbom(), SBOM), entry(&signature(), CONFIG_TYPE)];
    entries.sort_by_key(|entry| entry["digest"].to_string());
    json!(entries)
}

/// Puts all of it into a repository.
pub(super) fn fill(client: &mut Client, repository: &str) {
    for (digest, blob) in [
        (sha256(LAYER.as_bytes()), LAYER),
        (sha512(LAYER.as_bytes()), LAYER),
        (sha256(b"{}"), "{}"),
        (sha256(b""), ""),
    ] {
        let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        client.send("POST", &path, &[], blob.as_bytes()).expect(201);
    }
    let image = image();
    for (reference, media_type, content) in [
        (format!("{}?tag=v1&tag=v2", sha256(image.as_bytes())), IMAGE, &image),
        (format!("{}?tag=v512", sha512(image.as_bytes())), IMAGE, &image),
        ("multi".to_owned(), INDEX, &index()),
        (sha256(sbom().as_bytes()), IMAGE, &sbom()),
        (sha256(signature().as_bytes()), IMAGE, &signature()),
    ] {
        let path = format!("/v2/{repository}/manifests/{reference}");
        client.send("PUT", &path, &[("Content-Type", media_type)], content.as_bytes()).expect(201);
    }
}

/// What the words in braces stand for.
pub(super) struct Words(Vec<(&'static str, String)>);

impl Words {
    pub(super) fn new(repository: &str) -> Self {
        let image = image();
        let text = |text: &str| text.to_owned();
        Self(vec![
            ("{own}", text(repository)),
            ("{new}", format!("new/{repository}")),
            ("{layer}", sha256(LAYER.as_bytes())),
            ("{layer512}", sha512(LAYER.as_bytes())),
            ("{config}", sha256(b"{}")),
            ("{empty}", sha256(b"")),
            ("{image}", sha256(image.as_bytes())),
            ("{image512}", sha512(image.as_bytes())),
            ("{image size}", image.len().to_string()),
            ("{first referrer}", text(referrers()[0]["digest"].as_str().unwrap()).replace(':', "%3A")),
            ("{index}", sha256(index().as_bytes())),
            ("{sbom}", sha256(sbom().as_bytes())),
            ("{signature}", sha256(signature().as_bytes())),
            ("{absent}", sha256(b"absent")),
            ("{absent512}", sha512(b"absent")),
        ])
    }

    pub(super) fn add(&mut self, word: &'static str, means: impl Into<String>) {
        self.0.push((word, means.into()));
    }

    pub(super) fn fill_in(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (word, means)| text.replace(word, means))
    }
}
