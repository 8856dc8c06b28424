//! Old images made new, in a store that is served and in one that is not.

use crate::control::{sledge, words};
use crate::server::Server;

const SIGNED: &[u8] = include_bytes!("../schema1/signed/es256.json");

#[test]
fn an_image_is_converted_by_its_server_and_without_one() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let server = Server::start(data);
    for layer in [b"layer 0", b"layer 1"] {
        let digest = sledge::oci::Algorithm::Sha256.digest(layer);
        let path = format!("/v2/library/hello/blobs/uploads/?digest={digest}");
        assert_eq!(server.request("POST", &path, layer).status, 201);
    }
    assert_eq!(server.request("PUT", "/v2/library/hello/manifests/1.0", SIGNED).status, 201);
    let convert = |image: &str, tag: &str| sledge(&["convert", image, tag], data);
    let served = convert("library/hello:1.0", "1.0-oci");
    assert_eq!(served.status.code(), Some(0), "{}", words(&served.stderr));
    let told = words(&served.stdout);
    let digest = told.trim_end().strip_prefix("converted: library/hello:1.0-oci is ").unwrap();
    let new = server.request("GET", &format!("/v2/library/hello/manifests/{digest}"), b"");
    assert_eq!(new.header("content-type"), "application/vnd.oci.image.manifest.v1+json");
    for (image, tag, expected) in [
        ("library/hello:2.0", "x", "error: manifest 2.0 is unknown in repository library/hello"),
        ("library/hello:1.0", "1.0", "error: tag 1.0 points at sha256:"),
    ] {
        let refused = convert(image, tag);
        assert_eq!(refused.status.code(), Some(1));
        assert!(words(&refused.stderr).starts_with(expected), "{}", words(&refused.stderr));
    }
    assert_eq!(convert("library/hello", "x").status.code(), Some(2));
    server.stop();

    let again = sledge(&["convert", "library/hello:1.0", "other", "--json"], data);
    assert_eq!(again.status.code(), Some(0), "{}", words(&again.stderr));
    let report: serde_json::Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(report["convert"]["digest"], digest, "{report}");
    let server = Server::start(data);
    assert_eq!(server.request("GET", "/v2/library/hello/manifests/other", b"").status, 200);
    assert_eq!(server.request("GET", "/v2/library/hello/manifests/1.0", b"").status, 200);
    server.stop();
}
