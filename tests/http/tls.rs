//! TLS: who is let in, with which certificates, and that bytes come through.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::CertificateParams;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, SupportedProtocolVersion};
use sledge::server::{ClientCertificates, Server, ServerOptions, Tls, TlsOptions};
use sledge::store::Store;
use tempfile::TempDir;
use tokio_rustls::TlsConnector;

use crate::certificates::Authority;
use crate::client::Client;
use crate::connections::{body, request};
use crate::fixture::{Fixture, bytes, push_blob, sha256, stores, watched};

const BOTH: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

fn serve(store: Arc<dyn Store>, options: ServerOptions, tls: Tls) -> Fixture {
    let server = Server::new(Arc::clone(&store), options).tls(tls);
    Fixture::serving(store, server)
}

/// A server with a certificate of this authority, over a store in memory, and the folder that the files are in.
fn of(authority: &Authority, options: ServerOptions) -> (Fixture, Tls, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = authority.sign("localhost").write(folder.path());
    let tls = Tls::load(&certificate, &key).unwrap();
    let (_, store) = stores().remove(0);
    (serve(store, options, tls.clone()), tls, folder)
}

fn client(fixture: &Fixture, config: ClientConfig) -> Client {
    Client::secure(fixture.address, Arc::new(config))
}

#[test]
fn blobs_are_pushed_and_pulled_with_each_version_of_both_protocols() {
    let authority = Authority::new("authority");
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = authority.sign("localhost").write(folder.path());
    for (name, store) in watched() {
        let tls = Tls::load(&certificate, &key).unwrap();
        let fixture = serve(Arc::clone(&store) as _, ServerOptions::new(), tls);
        for version in BOTH {
            println!("store: {name}, {:?}", version.version);
            let content = bytes(5 << 20);
            let mut config = authority.client(&[version], None);
            let mut client = client(&fixture, config.clone());
            let digest = push_blob(&mut client, "a", &content);
            let path = format!("/v2/a/blobs/{digest}");
            assert!(client.get(&path).expect(200).body == content);
            let part = client.send("GET", &path, &[("Range", "bytes=77-4000000")], b"").expect(206);
            assert!(part.body == content[77..=4_000_000]);

            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let stream = tokio::net::TcpStream::connect(fixture.address).await.unwrap();
                let connector = TlsConnector::from(Arc::new(config));
                let stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
                assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
                assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
                let builder = http2::Builder::new(TokioExecutor::new());
                let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
                tokio::spawn(connection);
                let content = Bytes::from(bytes((5 << 20) + 1));
                let digest = sha256(&content);
                let path = format!("/v2/b/blobs/uploads/?digest={digest}");
                let response =
                    sender.send_request(request("POST", &path, Full::<Bytes>::from(content.clone()))).await;
                assert_eq!(response.unwrap().status(), 201);
                let get = request("GET", &format!("/v2/b/blobs/{digest}"), Full::default());
                let response = sender.send_request(get).await.unwrap();
                assert!(body(response).await == content);
            });
        }
        // This program encrypts what it sends, and a view's page that had to be read from a bad disk again would kill it.
        assert_eq!(store.seen().views.load(Ordering::SeqCst), 0);
        drop(fixture);
        let plain = Fixture::new(Arc::clone(&store) as _, ServerOptions::new());
        let digest = push_blob(&mut plain.client(), "a", &bytes(5 << 20));
        let path = format!("/v2/a/blobs/{digest}");
        plain.client().send("GET", &path, &[("Range", "bytes=77-4000000")], b"").expect(206);
        assert_eq!(store.seen().views.load(Ordering::SeqCst), 1, "the count means nothing");
    }
}

#[test]
fn new_files_are_for_new_connections_and_bad_ones_change_nothing() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let (fixture, tls, folder) = of(&old, ServerOptions::new());
    let mut kept = client(&fixture, old.client(&BOTH, None));
    kept.get("/v2/").expect(200);

    let (certificate, _) = new.sign("localhost").write(folder.path());
    tls.reload().unwrap();
    client(&fixture, new.client(&BOTH, None)).get("/v2/").expect(200);
    assert!(client(&fixture, old.client(&BOTH, None)).try_get("/v2/").is_err());
    kept.get("/v2/").expect(200);

    fs::write(&certificate, "-----BEGIN CERTIFICATE-----\nAAAA").unwrap();
    let error = tls.reload().unwrap_err().to_string();
    assert!(error.contains(certificate.to_str().unwrap()), "{error}");
    client(&fixture, new.client(&BOTH, None)).get("/v2/").expect(200);
    // A half that was renewed alone.
    old.sign("localhost").write(folder.path());
    fs::write(folder.path().join("key.pem"), new.sign("localhost").key).unwrap();
    tls.reload().unwrap_err();
    client(&fixture, new.client(&BOTH, None)).get("/v2/").expect(200);
    kept.get("/v2/").expect(200);
}

#[test]
fn files_that_cannot_be_used_are_named_with_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("authority");
    let (one, other) = (authority.sign("localhost"), authority.sign("localhost"));
    let (certificate, key) = one.write(folder.path());
    let file = |name: &str, text: &str| {
        let file = folder.path().join(name);
        fs::write(&file, text).unwrap();
        file
    };
    let empty = file("empty", "");
    let other_key = file("other-key", &other.key);
    let broken = file("broken", "-----BEGIN CERTIFICATE-----\nAAAA");
    let no_der = file("no-der", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let no_key = file("no-key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    let missing = folder.path().join("missing");
    for (certificate, key, at_fault, words) in [
        (&missing, &key, &missing, "cannot read"),
        (&certificate, &missing, &missing, "cannot read"),
        (&empty, &key, &empty, "no certificate"),
        (&key, &key, &key, "no certificate"),
        (&certificate, &empty, &empty, "no private key"),
        (&certificate, &certificate, &certificate, "no private key"),
        (&certificate, &other_key, &other_key, "does not belong"),
        (&broken, &key, &broken, "is not good PEM"),
        (&no_der, &key, &no_der, "cannot be used"),
        (&certificate, &no_key, &no_key, "cannot be used"),
    ] {
        let error = Tls::load(certificate, key).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains(at_fault.to_str().unwrap()), "{words}: {error}");
        assert!(!error.contains("AAAA"), "{error}");
    }
    for authorities in [&missing, &empty, &broken, &no_der] {
        let options = TlsOptions::new(&certificate, &key).clients(authorities, ClientCertificates::Required);
        let error = options.load().unwrap_err().to_string();
        assert!(error.contains(authorities.to_str().unwrap()), "{error}");
    }
    // Both in one file.
    let both = file("both", &format!("{}{}", one.certificate, one.key));
    Tls::load(&both, &both).unwrap();
}

/// What is late is served all the same: a registry that does not start is worse than one whose clients complain.
#[test]
fn an_expired_certificate_is_loaded_and_says_when_it_expired() {
    let folder = tempfile::tempdir().unwrap();
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2001, 2, 3);
    params.not_after = rcgen::date_time_ymd(2002, 3, 4);
    let (certificate, key) = Authority::new("authority").sign_params(&params).write(folder.path());
    let tls = Tls::load(&certificate, &key).unwrap();
    assert_eq!(tls.not_after(), SystemTime::UNIX_EPOCH + Duration::from_secs(1_015_200_000));
}

#[test]
fn clients_show_the_certificates_that_they_are_to_have() {
    let (authority, clients, strangers) =
        (Authority::new("servers"), Authority::new("clients"), Authority::new("strangers"));
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = authority.sign("localhost").write(folder.path());
    let ca = folder.path().join("clients.pem");
    fs::write(&ca, clients.pem()).unwrap();
    let (known, unknown) = (clients.sign("ci.example"), strangers.sign("ci.example"));
    for (wanted, nameless) in [(ClientCertificates::Required, false), (ClientCertificates::Optional, true)] {
        let tls = TlsOptions::new(&certificate, &key).clients(&ca, wanted).load().unwrap();
        let fixture = serve(stores().remove(0).1, ServerOptions::new(), tls);
        for version in BOTH {
            let answer = |shown| client(&fixture, authority.client(&[version], shown)).try_get("/v2/").ok();
            assert_eq!(answer(Some(&known)), Some(200));
            assert_eq!(answer(Some(&unknown)), None);
            assert_eq!(answer(None), nameless.then_some(200));
        }
    }
}

#[test]
fn a_client_that_does_not_shake_hands_is_let_go() {
    let authority = Authority::new("authority");
    let options = ServerOptions::new().header_limit(Duration::from_millis(50));
    let (fixture, ..) = of(&authority, options);
    // Nothing, and the beginning of a handshake.
    for said in [&b""[..], &[22, 3, 1]] {
        let mut client = fixture.client();
        client.write(said);
        assert!(client.is_closed());
    }
}

/// A server that was told to stop would wait for a handshake that never comes, as if it were a request.
#[test]
fn a_handshake_that_is_not_finished_holds_no_shutdown_up() {
    let authority = Authority::new("authority");
    let far_off = Duration::from_secs(3600);
    let (mut fixture, ..) = of(&authority, ServerOptions::new().header_limit(far_off).drain_limit(far_off));
    let mut silent = fixture.client();
    let mut begun = fixture.client();
    begun.write([22, 3, 1]);
    // Both were taken before this one.
    client(&fixture, authority.client(&BOTH, None)).get("/v2/").expect(200);
    fixture.shut_down();
    fixture.wait();
    assert!(silent.is_closed() && begun.is_closed());
}

#[test]
fn who_speaks_http_without_tls_is_told() {
    let authority = Authority::new("authority");
    let (fixture, ..) = of(&authority, ServerOptions::new());
    for request in ["GET /v2/ HTTP/1.1\r\nHost: registry\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut client = fixture.client();
        client.write(request);
        let (status, length, body) = client.broken_off();
        assert_eq!((status, length), (400, body.len()));
        assert_eq!(body, b"this port speaks TLS: use https, not http\n");
    }
    client(&fixture, authority.client(&BOTH, None)).get("/v2/").expect(200);
}

/// TLS takes in more than it could send on, so the silence shows below it alone.
#[test]
fn a_client_that_does_not_read_is_let_go_with_tls_too() {
    let authority = Authority::new("authority");
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = authority.sign("localhost").write(folder.path());
    for (_, store) in stores() {
        let patient = Fixture::new(Arc::clone(&store), ServerOptions::new());
        let digest = push_blob(&mut patient.client(), "a", &bytes(32 << 20));
        let options = ServerOptions::new().silence_limit(Duration::from_millis(50));
        let mut fixture = serve(store, options, Tls::load(&certificate, &key).unwrap());
        let mut client = client(&fixture, authority.client(&BOTH, None));
        client.head("GET", &format!("/v2/a/blobs/{digest}"), &[]);
        assert_eq!(client.line(), "HTTP/1.1 200 OK");
        fixture.shut_down();
        // The drain limit is far off: what ends the connection is its silence.
        fixture.wait();
    }
}

/// The files may be links that a tool puts elsewhere, as certificates in Kubernetes are.
#[test]
fn files_are_read_where_they_are_when_they_are_read() {
    let authority = Authority::new("authority");
    let folder = tempfile::tempdir().unwrap();
    let versions = [folder.path().join("one"), folder.path().join("two")];
    for (version, name) in versions.iter().zip(["elsewhere", "localhost"]) {
        fs::create_dir(version).unwrap();
        authority.sign(name).write(version);
    }
    let current = folder.path().join("current");
    let point = |to: &Path| {
        let _ = fs::remove_file(&current);
        std::os::unix::fs::symlink(to, &current).unwrap();
    };
    point(&versions[0]);
    let tls = Tls::load(&current.join("certificate.pem"), &current.join("key.pem")).unwrap();
    let fixture = serve(stores().remove(0).1, ServerOptions::new(), tls.clone());
    let status = || client(&fixture, authority.client(&BOTH, None)).try_get("/v2/").ok();
    assert_eq!(status(), None);
    point(&versions[1]);
    tls.reload().unwrap();
    assert_eq!(status(), Some(200));
}
