//! A client that others wrote, from the challenge to the last byte: the crate `oci-client`.

use std::collections::BTreeSet;
use std::sync::Arc;

use oci_client::client::{
    Certificate, CertificateEncoding, ClientConfig, ClientProtocol, Config, ImageLayer,
};
use oci_client::manifest::{
    IMAGE_LAYER_GZIP_MEDIA_TYPE, IMAGE_LAYER_MEDIA_TYPE, OCI_IMAGE_INDEX_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE,
    OciDescriptor, OciImageIndex, OciImageManifest,
};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use sledge::access::{Access, TokenEndpoint};
use sledge::server::{Server, ServerOptions, Tls};

use crate::certificates::Authority;
use crate::fixture::{Fixture, bytes, each, sha256, stores};
use crate::guard::{current, passwords, policy};

/// A client of this server; with the certificate of an authority it speaks TLS.
fn client(authority: Option<&Authority>) -> Client {
    // Whoever was first has installed the same.
    drop(rustls::crypto::ring::default_provider().install_default());
    let protocol = if authority.is_some() { ClientProtocol::Https } else { ClientProtocol::Http };
    let pem = |authority: &Authority| Certificate {
        encoding: CertificateEncoding::Pem,
        data: authority.pem().into_bytes(),
    };
    Client::new(ClientConfig {
        protocol,
        tls_certs_only: authority.iter().map(|authority| pem(authority)).collect(),
        ..ClientConfig::default()
    })
}

fn reference(fixture: &Fixture, rest: &str) -> Reference {
    format!("localhost:{}/{rest}", fixture.address.port()).parse().unwrap()
}

/// Pushes an image and all that may be around one, and pulls it.
async fn go_round(fixture: &Fixture, client: &Client, auth: &RegistryAuth, mounts: bool) {
    let image = reference(fixture, "team/app:v1");
    // One in several chunks, one small, one empty.
    let layers = [bytes(9 << 20), bytes(100), Vec::new()].map(|content| {
        let media_type =
            if content.len() > 100 { IMAGE_LAYER_GZIP_MEDIA_TYPE } else { IMAGE_LAYER_MEDIA_TYPE };
        ImageLayer::new(content, media_type.to_owned(), None)
    });
    let config = Config::new(b"{}".to_vec(), "application/vnd.oci.image.config.v1+json".to_owned(), None);
    client.push(&image, &layers, config, auth, None).await.unwrap();
    let kinds = vec![IMAGE_LAYER_GZIP_MEDIA_TYPE, IMAGE_LAYER_MEDIA_TYPE];
    let pulled = client.pull(&image, auth, kinds).await.unwrap();
    // They come in any order.
    let contents =
        |layers: &[ImageLayer]| layers.iter().map(|layer| layer.data.clone()).collect::<BTreeSet<_>>();
    assert!(contents(&pulled.layers) == contents(&layers));

    let digest = client.fetch_manifest_digest(&image, auth).await.unwrap();
    assert_eq!(pulled.digest.as_ref(), Some(&digest));
    let (manifest, _) = client.pull_image_manifest(&image, auth).await.unwrap();
    let (raw, _) = client.pull_manifest_raw(&image, auth, &[OCI_IMAGE_MEDIA_TYPE]).await.unwrap();
    assert_eq!(sha256(&raw), digest);

    // Several platforms under one tag.
    let entry = serde_json::json!({
        "mediaType": OCI_IMAGE_MEDIA_TYPE, "digest": digest, "size": raw.len(),
        "platform": { "os": "linux", "architecture": "amd64" },
    });
    let index = OciImageIndex {
        schema_version: 2,
        media_type: Some(OCI_IMAGE_INDEX_MEDIA_TYPE.to_owned()),
        manifests: vec![serde_json::from_value(entry).unwrap()],
        artifact_type: None,
        annotations: None,
    };
    let all = reference(fixture, "team/app:all");
    client.push_manifest_list(&all, auth, index).await.unwrap();
    let (through, _) = client.pull_image_manifest(&all, auth).await.unwrap();
    assert_eq!(through.to_string(), manifest.to_string());
    let tags = client.list_tags(&image, auth, None, None).await.unwrap();
    assert_eq!(tags.tags, ["all", "v1"]);

    // A blob in another repository, and what refers to the image.
    let other = reference(fixture, "team/other:v1");
    client.auth(&other, auth, oci_client::RegistryOperation::Push).await.unwrap();
    let mounted = client.mount_blob(&other, &image, &manifest.layers[0].digest).await;
    // Its tokens are for the repository that it pushes to alone, and one that does not reach the source mounts nothing.
    assert_eq!(mounted.is_ok(), mounts, "{mounted:?}");
    assert_eq!(client.blob_exists(&other, &manifest.layers[0].digest).await.unwrap(), mounts);
    let signature = OciImageManifest {
        media_type: Some(OCI_IMAGE_MEDIA_TYPE.to_owned()),
        artifact_type: Some("application/vnd.example.signature".to_owned()),
        subject: Some(OciDescriptor {
            media_type: OCI_IMAGE_MEDIA_TYPE.to_owned(),
            digest: digest.clone(),
            size: i64::try_from(raw.len()).unwrap(),
            ..OciDescriptor::default()
        }),
        config: manifest.config.clone(),
        layers: Vec::new(),
        ..OciImageManifest::default()
    };
    let at = reference(fixture, "team/app:signature");
    client.push_manifest(&at, &signature.into()).await.unwrap();
    let named = reference(fixture, &format!("team/app@{digest}"));
    let referrers = client.pull_referrers(&named, Some("application/vnd.example.signature")).await.unwrap();
    assert_eq!(referrers.manifests.len(), 1);
    assert_eq!(referrers.manifests[0].artifact_type.as_deref(), Some("application/vnd.example.signature"));
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Runtime::new().unwrap().block_on(test);
}

#[test]
fn it_pushes_and_pulls_all_kinds_of_things() {
    each(|fixture| run(go_round(fixture, &client(None), &RegistryAuth::Anonymous, true)));
}

#[test]
fn it_does_so_with_tls_and_a_password_or_tokens() {
    let authority = Authority::new("authority");
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = authority.sign("localhost").write(folder.path());
    for tokens in [false, true] {
        for (kind, store) in stores() {
            println!("store: {kind}, tokens: {tokens}");
            let access = || Access::new(policy(&["alice pull,push team/*"])).passwords(passwords(&["alice"]));
            let access_of = current(access());
            let server = Server::new(Arc::clone(&store), ServerOptions::new()).access(Arc::clone(&access_of));
            let fixture = Fixture::serving(store, server.tls(Tls::load(&certificate, &key).unwrap()));
            if tokens {
                let realm = format!("https://localhost:{}", fixture.address.port());
                access_of.replace(access().token_endpoint(TokenEndpoint::new(&realm, "registry").unwrap()));
            }
            let login = |password: &str| RegistryAuth::Basic("alice".to_owned(), password.to_owned());
            run(async {
                go_round(&fixture, &client(Some(&authority)), &login("secret of alice"), !tokens).await;
                let stranger = client(Some(&authority));
                let image = reference(&fixture, "team/app:v1");
                stranger.pull_image_manifest(&image, &login("wrong")).await.unwrap_err();
                stranger.pull_image_manifest(&image, &RegistryAuth::Anonymous).await.unwrap_err();
            });
        }
    }
}
