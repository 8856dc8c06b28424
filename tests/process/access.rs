//! Who may do what, certificates, limits and metrics, as `sledge serve` is told them.

use std::fs;
use std::path::Path;

use crate::config::{check, refused, write};
use crate::control::words;
use crate::server::{Server, request_to};

// `htpasswd -nbB -C 4`, whose cost is the least that there is.
const ALICE: &str = "alice:$2y$04$V2j8vAXn8DYR0ia3IG5rl.EYInR6wseRafclpJJQWqwBIpAnv3km2\n";
const BOB: &str = "bob:$2y$04$esow5Arsld17p/krs1s94ei5sFDNfJTe8B0rAZqWU1RkFv1gpRq4m\n";
// Names and passwords in base64.
const AS_ALICE: Option<&str> = Some("YWxpY2U6d29uZGVybGFuZA==");
const AS_BOB: Option<&str> = Some("Ym9iOmJ1aWxkZXI=");

fn serve(folder: &Path, config: &str) -> Server {
    let data = folder.join("store");
    let usual = ["--listen", "127.0.0.1:0", "--log", "info", "--data", data.to_str().unwrap()];
    Server::start_as(&[&usual[..], &["--config", config]].concat(), &[])
}

/// A shop hires somebody, and later lets him go: the server is told by a file, and is not restarted.
#[test]
fn users_come_and_go_while_the_server_runs() {
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("users");
    fs::write(&users, ALICE).unwrap();
    let config = write(folder.path(), "[auth]\nhtpasswd = \"users\"\n");
    let server = serve(folder.path(), &config);
    let status = |server: &Server, user| server.request_as(user, "GET", "/v2/", b"").status;
    assert_eq!([None, AS_ALICE, AS_BOB].map(|user| status(&server, user)), [401, 200, 401]);

    // A file that has changed is looked at without being told.
    fs::write(&users, format!("{ALICE}{BOB}")).unwrap();
    server.hear("who may do what was read again");
    assert_eq!([None, AS_ALICE, AS_BOB].map(|user| status(&server, user)), [401, 200, 200]);

    // Rules come by the configuration, when the server is told to read it.
    let rules = "[[access]]\nwho = [\"bob\"]\nactions = [\"pull\"]\nrepositories = [\"public/*\"]\n";
    write(folder.path(), &format!("[auth]\nhtpasswd = \"users\"\n{rules}"));
    server.signal("HUP");
    server.hear("the configuration was read again");
    let push =
        |server: &Server, user| server.request_as(user, "POST", "/v2/public/a/blobs/uploads/", b"").status;
    assert_eq!([AS_ALICE, AS_BOB].map(|user| push(&server, user)), [403, 403]);

    // What is wrong changes nothing, and nothing said lets nobody in.
    for (text, says) in [
        ("[auth]\nhtpasswd = \"nowhere\"\n", "the configuration stays as it was"),
        ("[auth]\nhtpaswd = \"users\"\n", "the configuration stays as it was"),
        ("", "there are no rules any more"),
        ("[auth]\nhtpasswd = \"users\"\n", "there are no rules any more"),
    ] {
        write(folder.path(), text);
        server.signal("HUP");
        server.hear(says);
        assert_eq!([None, AS_BOB].map(|user| status(&server, user)), [401, 200], "{text}");
        assert_eq!(push(&server, AS_BOB), 403, "{text}");
    }
    server.stop();
}

/// What cannot change while the server runs is said to take a restart, each setting by its name.
#[test]
fn what_takes_a_restart_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let config = write(folder.path(), "gc-interval = \"1h\"\n");
    let server = serve(folder.path(), &config);
    write(folder.path(), "gc-interval = \"2h\"\n");
    server.signal("HUP");
    assert!(server.hear("takes a restart").contains("gc-interval"));
    // A server that lets everybody in has no door to close.
    fs::write(folder.path().join("users"), ALICE).unwrap();
    write(folder.path(), "gc-interval = \"1h\"\n[auth]\nhtpasswd = \"users\"\n");
    server.signal("HUP");
    assert!(server.hear("takes a restart").contains("auth"));
    server.stop();
}

#[test]
fn everyone_may_pull_where_that_is_said() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("users"), ALICE).unwrap();
    let tokens = "tokens = true\nexternal-url = \"http://localhost:5000\"\n";
    let whole = format!("[auth]\nhtpasswd = \"users\"\nanonymous-pull = true\n{tokens}");
    let config = write(folder.path(), &whole);
    let server = serve(folder.path(), &config);
    assert_eq!(server.request("GET", "/v2/a/tags/list", b"").status, 404);
    // A client that has a password has to be asked for it, or it would never send one; also after a slip in the file, and back.
    let asked = |server: &Server| {
        let answer = server.request("GET", "/v2/", b"");
        assert_eq!(answer.status, 401);
        assert!(
            answer.header("www-authenticate").starts_with("Bearer realm=\"http://localhost:5000/token\"")
        );
    };
    asked(&server);
    write(folder.path(), "");
    server.signal("HUP");
    server.hear("nothing says any more who may do what");
    asked(&server);
    fs::write(folder.path().join("users"), format!("{ALICE}{BOB}")).unwrap();
    server.hear("who may do what was read again");
    asked(&server);
    write(folder.path(), &whole);
    server.signal("HUP");
    server.hear("the configuration was read again");
    asked(&server);
    assert_eq!(server.request("POST", "/v2/a/blobs/uploads/", b"").status, 401);
    assert_eq!(server.request_as(AS_ALICE, "POST", "/v2/a/blobs/uploads/", b"").status, 202);
    server.stop();
}

#[test]
fn a_certificate_makes_the_server_speak_tls_and_a_bad_one_keeps_it_from_starting() {
    let folder = tempfile::tempdir().unwrap();
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    fs::write(folder.path().join("certificate.pem"), certified.cert.pem()).unwrap();
    fs::write(folder.path().join("key.pem"), certified.signing_key.serialize_pem()).unwrap();
    let config = write(folder.path(), "[tls]\ncertificate = \"certificate.pem\"\nkey = \"key.pem\"\n");
    let server = serve(folder.path(), &config);
    let answer = server.request("GET", "/v2/", b"");
    assert_eq!(answer.status, 400);
    assert!(words(&answer.body).contains("TLS"), "{}", words(&answer.body));
    server.signal("HUP");
    server.hear("the certificate was read again");
    fs::write(folder.path().join("certificate.pem"), "none").unwrap();
    server.hear("the certificate stays as it was");
    server.stop();
    let checked = check(&["--config", &config], &[]);
    assert!(!checked.status.success());
    assert!(words(&checked.stderr).contains("certificate.pem"), "{}", words(&checked.stderr));
}

#[test]
fn metrics_are_told_where_they_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let config = write(folder.path(), "metrics-listen = \"127.0.0.1:0\"\n");
    let server = serve(folder.path(), &config);
    let line = server.hear("metrics and health");
    assert_eq!(server.request("POST", "/v2/a/blobs/uploads/", b"").status, 202);
    assert_eq!(server.request("GET", "/metrics", b"").status, 404);
    let address = line.trim().split("http://").nth(1).unwrap().to_owned();
    let metrics = request_to(&address, "GET", "/metrics");
    let text = words(&metrics.body);
    assert!(text.contains("sledge_store_blobs 0"), "{text}");
    assert!(text.contains("sledge_http_requests_total{"), "{text}");
    assert!(text.contains("sledge_reloads_refused_total 0"), "{text}");
    assert_eq!(request_to(&address, "GET", "/readyz").status, 200);
    server.stop();
}

#[test]
fn mistakes_about_access_certificates_and_limits_have_their_place() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("users"), ALICE).unwrap();
    fs::write(folder.path().join("md5"), "x:$apr1$x$y\n").unwrap();
    for (text, says) in [
        ("[tls]\nkey = \"x\"\n", &["sledge.toml:2: tls.key", "tls.certificate"][..]),
        ("[tls]\nclient-ca = \"x\"\n", &["sledge.toml:2: tls.client-ca"]),
        ("[tls]\ncertificate = \"nowhere\"\nkey = \"x\"\n", &["sledge.toml:2: tls.certificate", "nowhere"]),
        ("[auth]\nhtpasswd = \"nowhere\"\n", &["sledge.toml:2: auth.htpasswd", "nowhere"]),
        ("[auth]\nhtpasswd = \"md5\"\n", &["auth.htpasswd", "md5: line 1", "bcrypt"]),
        ("[auth]\ntokens = true\n", &["sledge.toml:2: auth.tokens", "auth.htpasswd"]),
        ("[auth]\nhtpasswd = \"users\"\ntokens = true\n", &["sledge.toml:3: auth.tokens", "external-url"]),
        (
            "[[access]]\nwho = [\"anonymous\"]\nactions = [\"read\"]\nrepositories = [\"*\"]\n",
            &[":1: access", "read"],
        ),
        (
            "[[access]]\nwho = [\"anonymous\"]\nactions = [\"pull\"]\nrepositories = [\"A\"]\n",
            &[":1: access", "\"A\""],
        ),
        ("[[access]]\nwho = []\nactions = [\"pull\"]\nrepositories = [\"*\"]\n", &[":1: access", "nobody"]),
        (
            "[[access]]\nwho = [\"a\"]\nactions = [\"pull\"]\nrepositories = [\"*\"]\n",
            &[":1: access.1", "auth.htpasswd"],
        ),
        ("htpasswd = \"users\"\n", &["line 1", "belongs in the table [auth]"]),
        ("tls-key = \"x\"\n", &["line 1", "`key` belongs in the table [tls]"]),
        ("log = \"inof\"\n", &[":1: log", "inof"]),
        ("listen = \"127.0.0.1:1\"\nmetrics-listen = \"127.0.0.1:1\"\n", &[":2: metrics-listen"]),
        (
            "[auth]\nhtpasswd = \"users\"\nanonymous-pull = true\n",
            &[":3: auth.anonymous-pull", "auth.tokens"],
        ),
        // One hides nothing of another, and of several tables each is told by itself.
        (
            "[auth]\nhtpasswd = \"users\"\ntokens = true\n\n[[access]]\nwho = [\"*\"]\nactions = [\"pull\"]\nrepositories = [\"*\"]\n\n\
             [[access]]\nwho = [\"a\"]\nactions = [\"read\"]\nrepositories = [\"*\"]\n",
            &[":3: auth.tokens", ":10: access.2: \"read\""],
        ),
        ("[limits]\nrequests-at-once = 5\n", &[":2: limits.requests-at-once", "requests-per-client"]),
        ("[limits]\nheader-bytes = \"1KiB\"\n", &[":2: limits.header-bytes"]),
        ("[limits]\nsilence-limit = \"0s\"\n", &[":2: limits.silence-limit"]),
        ("metrics-listen = \"here\"\n", &[":1: metrics-listen"]),
    ] {
        refused(folder.path(), text, says);
    }
}
