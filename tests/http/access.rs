//! Who may do what: every endpoint, by everybody.

use std::sync::Arc;

use serde_json::json;
use sledge::access::{Access, Policy};
use sledge::oci::RepositoryName;
use sledge::server::ServerOptions;
use sledge::store::{Store, UploadOptions};

use crate::client::{Answer, Client};
use crate::fixture::{Fixture, IMAGE, image, push_blob, put, sha256, stores, watched};
use crate::guard::{Issuer, basic, current, login, now, passwords, policy, scopes};

/// What an endpoint needs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Need {
    Entry,
    Catalog,
    Pull,
    Push,
    Delete,
}

struct Endpoint {
    name: &'static str,
    need: Need,
    method: &'static str,
    path: String,
    body: Vec<u8>,
    /// The status where it is allowed.
    success: u16,
}

/// Content of a repository, made on a server that asks nobody who he is: image `v1` and `v2`, and four uploads.
struct Scene {
    layer: String,
    image: Vec<u8>,
    sessions: Vec<String>,
}

const LAYER: &[u8] = b"a layer";
const NEW: &[u8] = b"a new layer";
/// The TarSum of no bytes, by which a blob can be put and found too.
const TARSUM: &str = "tarsum.v1+sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

impl Scene {
    fn make(store: &Arc<dyn Store>, repository: &str) -> Self {
        let fixture = Fixture::new(Arc::clone(store), ServerOptions::new());
        let mut client = fixture.client();
        let layer = push_blob(&mut client, repository, LAYER);
        push_blob(&mut client, "team/source", LAYER);
        let content = image(&mut client, repository, &json!({}));
        for tag in ["v1", "v2"] {
            put(&mut client, repository, tag, &content).expect(201);
        }
        let start = |client: &mut Client| {
            let answer =
                client.send("POST", &format!("/v2/{repository}/blobs/uploads/"), &[], b"").expect(202);
            answer.header("location").unwrap().to_owned()
        };
        let sessions = (0..5).map(|_| start(&mut client)).collect();
        if cfg!(feature = "schema1") {
            let path = format!("/v2/{repository}/blobs/uploads/?digest={TARSUM}");
            client.send("POST", &path, &[], b"").expect(201);
        }
        Self { layer, image: content, sessions }
    }

    /// One request for each of the specification's, in an order in which all can succeed.
    fn endpoints(&self, repository: &str) -> Vec<Endpoint> {
        let Self { layer, image, sessions } = self;
        let (v2, digest, new) = (format!("/v2/{repository}"), sha256(image), sha256(NEW));
        let endpoint = |name, need, method, path, body: &[u8], success| Endpoint {
            name,
            need,
            method,
            path,
            body: body.to_vec(),
            success,
        };
        let by_tar_sum = [
            endpoint("blob by TarSum", Need::Pull, "GET", format!("{v2}/blobs/{TARSUM}"), b"", 200),
            endpoint("blob head by TarSum", Need::Pull, "HEAD", format!("{v2}/blobs/{TARSUM}"), b"", 200),
            endpoint(
                "upload whole by TarSum",
                Need::Push,
                "POST",
                format!("{v2}/blobs/uploads/?digest={TARSUM}"),
                b"",
                201,
            ),
            endpoint(
                "finish by TarSum",
                Need::Push,
                "PUT",
                format!("{}?digest={TARSUM}", sessions[4]),
                b"",
                201,
            ),
        ];
        let others = vec![
            endpoint("version", Need::Entry, "GET", "/v2/".into(), b"", 200),
            endpoint("catalog", Need::Catalog, "GET", "/v2/_catalog".into(), b"", 200),
            endpoint("blob", Need::Pull, "GET", format!("{v2}/blobs/{layer}"), b"", 200),
            endpoint("blob head", Need::Pull, "HEAD", format!("{v2}/blobs/{layer}"), b"", 200),
            endpoint("manifest", Need::Pull, "GET", format!("{v2}/manifests/v1"), b"", 200),
            endpoint("manifest by digest", Need::Pull, "GET", format!("{v2}/manifests/{digest}"), b"", 200),
            endpoint("manifest head", Need::Pull, "HEAD", format!("{v2}/manifests/v1"), b"", 200),
            endpoint("tags", Need::Pull, "GET", format!("{v2}/tags/list"), b"", 200),
            endpoint("referrers", Need::Pull, "GET", format!("{v2}/referrers/{digest}"), b"", 200),
            endpoint("upload", Need::Push, "POST", format!("{v2}/blobs/uploads/"), b"", 202),
            endpoint(
                "upload whole",
                Need::Push,
                "POST",
                format!("{v2}/blobs/uploads/?digest={new}"),
                NEW,
                201,
            ),
            endpoint("mount", Need::Push, "POST", format!("{v2}/blobs/uploads/?mount={layer}"), b"", 201),
            endpoint("chunk", Need::Push, "PATCH", sessions[0].clone(), NEW, 202),
            endpoint("status", Need::Push, "GET", sessions[1].clone(), b"", 204),
            endpoint("finish", Need::Push, "PUT", format!("{}?digest={new}", sessions[2]), NEW, 201),
            endpoint("cancel", Need::Push, "DELETE", sessions[3].clone(), b"", 204),
            endpoint("manifest put", Need::Push, "PUT", format!("{v2}/manifests/v3"), image, 201),
            endpoint("tag delete", Need::Delete, "DELETE", format!("{v2}/manifests/v2"), b"", 202),
            endpoint("manifest delete", Need::Delete, "DELETE", format!("{v2}/manifests/{digest}"), b"", 202),
            endpoint("blob delete", Need::Delete, "DELETE", format!("{v2}/blobs/{layer}"), b"", 202),
        ];
        by_tar_sum.into_iter().filter(|_| cfg!(feature = "schema1")).chain(others).collect()
    }
}

fn ask(client: &mut Client, endpoint: &Endpoint, authorization: Option<&str>) -> Answer {
    let mut headers = vec![("Content-Type", IMAGE)];
    headers.extend(authorization.map(|value| ("Authorization", value)));
    client.send(endpoint.method, &endpoint.path, &headers, &endpoint.body)
}

/// Who comes, and what he may do in team/a: none is for who has not proved who he is.
type Row = (&'static str, Option<String>, Option<&'static [Need]>);

const RULES: [&str; 7] = [
    "reader pull team/*",
    "pusher pull,push team/*",
    "blind push team/*",
    "deleter pull,delete team/*",
    "keeper * team/*",
    "eraser delete team/*",
    "stranger * other/*",
];
const USERS: [&str; 7] = ["reader", "pusher", "blind", "deleter", "keeper", "eraser", "stranger"];

fn rows(issuer: &Issuer) -> Vec<Row> {
    use Need::{Delete, Pull, Push};
    let here = ["team/a", "team/source"];
    let all = scopes(&here, &["*"]);
    let keeper = |changes| Some(issuer.token("keeper", &all, &changes));
    let mut rows: Vec<Row> = vec![
        // The unauthenticated first.
        ("anonymous", None, None),
        ("a wrong password", Some(basic("keeper", "secret of reader")), None),
        ("an empty password", Some(basic("keeper", "")), None),
        ("an unknown user", Some(login("nobody")), None),
        ("the anonymous user", Some(basic("anonymous", "")), None),
        ("an unknown scheme", Some("Digest username=\"keeper\"".into()), None),
        ("no base64", Some("Basic keeper".into()), None),
        ("an expired token", keeper(json!({ "exp": now() - 60 })), None),
        ("a token that never ends", keeper(json!({ "exp": null })), None),
        ("a token whose end is text", keeper(json!({ "exp": "never" })), None),
        ("a token that is not good yet", keeper(json!({ "nbf": now() + 60 })), None),
        ("a token whose begin is text", keeper(json!({ "nbf": "99999999999" })), None),
        ("a token of another issuer", keeper(json!({ "iss": "https://other.example" })), None),
        ("a token for another service", keeper(json!({ "aud": "other.example" })), None),
        ("a token by another key", Some(Issuer::new().token("keeper", &all, &json!({}))), None),
        ("an unsigned token", Some(issuer.forged("keeper", &all, "none", None)), None),
        (
            "a token by the public key",
            Some(issuer.forged("keeper", &all, "HS256", Some(issuer.public()))),
            None,
        ),
        (
            "a token by the public key as text",
            Some(issuer.forged("keeper", &all, "HS256", Some(issuer.jwks().as_bytes()))),
            None,
        ),
        ("a token of nobody", Some(issuer.token("", &all, &json!({}))), None),
    ];
    let users: [(&'static str, &'static [Need]); 7] = [
        ("stranger", &[]),
        ("reader", &[Pull]),
        ("pusher", &[Pull, Push]),
        ("blind", &[Push]),
        ("deleter", &[Pull, Delete]),
        ("eraser", &[Delete]),
        ("keeper", &[Pull, Push, Delete]),
    ];
    for (user, needs) in users {
        rows.push((user, Some(login(user)), Some(needs)));
        rows.push((user, Some(issuer.token(user, &all, &json!({}))), Some(needs)));
    }
    rows
}

/// All that a store holds, as far as anybody can ask.
fn holdings(store: &dyn Store) -> String {
    let mut text = String::new();
    for repository in store.repositories(None, 100).unwrap().items {
        text += &format!(
            "{repository} {:?} {:?} {:?}\n",
            store.tags(&repository, None, 100).unwrap().items,
            store.manifests(&repository, None, 100).unwrap().items,
            store.stat(&repository, &sha256(NEW).parse().unwrap()).is_ok(),
        );
    }
    text
}

#[test]
fn every_endpoint_asks_who_may_use_it() {
    let issuer = Issuer::new();
    for (row, (who, authorization, rights)) in rows(&issuer).into_iter().enumerate() {
        // Sled is there for whom something is done; it costs a folder each time.
        for (kind, watched) in watched().into_iter().take(if row % 5 == 0 { 2 } else { 1 }) {
            let store: Arc<dyn Store> = watched.clone();
            let scene = Scene::make(&store, "team/a");
            let access =
                Access::new(policy(&RULES)).passwords(passwords(&USERS)).token_issuer(issuer.trusted());
            let fixture = Fixture::guarded(store, current(access));
            let mut client = fixture.client();
            let before = (holdings(fixture.store.as_ref()), watched.seen().started.lock().unwrap().len());
            for endpoint in scene.endpoints("team/a") {
                println!("{kind}: {who}, {}", endpoint.name);
                let answer = ask(&mut client, &endpoint, authorization.as_deref());
                let allowed = match endpoint.need {
                    Need::Entry | Need::Catalog => rights.is_some(),
                    need => rights.is_some_and(|rights| rights.contains(&need)),
                };
                // A token of nobody is a good one, which opens the door and nothing else.
                let opens = who == "a token of nobody" && endpoint.need == Need::Entry;
                if allowed || opens {
                    // Whoever may not read finds nothing to mount, and is to upload it.
                    let blind = endpoint.name == "mount"
                        && !rights.is_some_and(|rights| rights.contains(&Need::Pull));
                    answer.expect(if blind { 202 } else { endpoint.success });
                } else if rights.is_none() {
                    let challenge = answer.header("www-authenticate").unwrap().to_owned();
                    assert!(
                        challenge.starts_with("Bearer realm=\"https://auth.example/token\",service=\""),
                        "{challenge}"
                    );
                    let scope = match endpoint.need {
                        Need::Entry => "",
                        Need::Catalog => ",scope=\"registry:catalog:*\"",
                        Need::Pull => ",scope=\"repository:team/a:pull\"",
                        Need::Push => ",scope=\"repository:team/a:pull,push\"",
                        Need::Delete => ",scope=\"repository:team/a:pull,delete\"",
                    };
                    assert!(challenge.contains(scope), "{challenge}");
                    if endpoint.method == "HEAD" {
                        answer.expect(401);
                    } else {
                        answer.refused(401, "UNAUTHORIZED");
                    }
                } else if endpoint.need == Need::Pull {
                    assert_eq!(answer.header("www-authenticate"), None);
                    answer.expect(if endpoint.name == "referrers" { 200 } else { 404 });
                } else {
                    assert_eq!(answer.header("www-authenticate"), None);
                    answer.refused(403, "DENIED");
                }
            }
            if !rights.is_some_and(|rights| rights.contains(&Need::Push) || rights.contains(&Need::Delete)) {
                let after = (holdings(fixture.store.as_ref()), watched.seen().started.lock().unwrap().len());
                assert_eq!(after, before, "{kind}: what was refused to {who} has left something");
            }
        }
    }
}

/// A token for another repository is good, and not for this: the client is sent for another one.
#[test]
fn a_token_reaches_what_it_was_given_for_and_no_further() {
    let issuer = Issuer::new();
    let store = stores().remove(0).1;
    let scene = Scene::make(&store, "team/a");
    let access = Access::new(policy(&RULES)).passwords(passwords(&USERS)).token_issuer(issuer.trusted());
    let fixture = Fixture::guarded(store, current(access));
    let mut client = fixture.client();
    for (scopes, reached) in [
        (json!([]), &[][..]),
        (scopes(&["team/b"], &["*"]), &[Need::Catalog]),
        (scopes(&["team/*"], &["*"]), &[Need::Catalog]),
        (json!([{ "type": "plugin", "name": "team/a", "actions": ["*"] }]), &[]),
        (json!([{ "type": "repository", "name": "team/a", "actions": ["pull"] }]), &[Need::Pull]),
    ] {
        let token = issuer.token("keeper", &scopes, &json!({}));
        for endpoint in scene.endpoints("team/a") {
            println!("{scopes}, {}", endpoint.name);
            let answer = ask(&mut client, &endpoint, Some(&token));
            if endpoint.need == Need::Entry || reached.contains(&endpoint.need) {
                answer.expect(endpoint.success);
                continue;
            }
            let challenge = answer.header("www-authenticate").unwrap();
            assert!(challenge.ends_with(",error=\"insufficient_scope\""), "{challenge}");
            answer.expect(401);
        }
    }
    // What the rules do not allow no token brings, and asking for another would be of no use.
    let token = issuer.token("reader", &json!([]), &json!({}));
    let endpoint = |name: &str| scene.endpoints("team/a").into_iter().find(|e| e.name == name).unwrap();
    ask(&mut client, &endpoint("upload"), Some(&token)).refused(403, "DENIED");
    let token = issuer.token("stranger", &json!([]), &json!({}));
    ask(&mut client, &endpoint("tags"), Some(&token)).refused(404, "NAME_UNKNOWN");
}

/// An answer without what is the moment's, and with another repository's name.
fn seen(answer: Answer, repository: &str) -> (u16, Vec<(String, String)>, String) {
    let anonymised = |text: &str| text.replace(repository, "NAME");
    let mut headers = answer.headers;
    headers.retain(|(name, _)| name != "date" && name != "x-request-id");
    let headers = headers.into_iter().map(|(name, value)| (name, anonymised(&value))).collect();
    (answer.status, headers, anonymised(std::str::from_utf8(&answer.body).unwrap()))
}

/// Whoever could tell a repository that is forbidden from one that is not there could find out what others are working on.
#[test]
fn what_is_forbidden_looks_like_what_is_not_there() {
    for (kind, store) in stores() {
        let scene = Scene::make(&store, "team/a");
        let access = Access::new(policy(&RULES)).passwords(passwords(&USERS));
        let fixture = Fixture::guarded(store, current(access));
        let mut client = fixture.client();
        let (there, not_there) = (scene.endpoints("team/a"), scene.endpoints("team/z"));
        for (there, not_there) in there.iter().zip(&not_there) {
            // The uploads' paths are their own; they are another repository's here.
            let moved = Endpoint {
                path: not_there.path.replace("team/a", "team/z"),
                body: not_there.body.clone(),
                ..*not_there
            };
            for user in [None, Some("stranger"), Some("blind"), Some("eraser")] {
                println!("{kind}: {user:?}, {}", there.name);
                let credentials = user.map(login);
                let mut look = |endpoint: &Endpoint, repository| {
                    seen(ask(&mut client, endpoint, credentials.as_deref()), repository)
                };
                let written = matches!(
                    (user, there.need),
                    (Some("blind"), Need::Push) | (Some("eraser"), Need::Delete)
                );
                if written {
                    continue;
                }
                let (found, expected) = (look(there, "team/a"), look(&moved, "team/z"));
                assert_eq!(found, expected);
                if there.need == Need::Pull && user.is_some() {
                    // And like what is not there for who may read it.
                    let unknown = seen(ask(&mut client, &moved, Some(&login("reader"))), "team/z");
                    assert_eq!(found, unknown);
                }
            }
        }
        // What is asked for by other words, too.
        let digest = sha256(&scene.image);
        for (path, headers) in [
            (format!("blobs/{}", scene.layer), ("Range", "bytes=0-1")),
            (format!("blobs/{}", scene.layer), ("If-None-Match", "*")),
            (format!("manifests/{digest}"), ("If-None-Match", "*")),
            (format!("referrers/{digest}?artifactType=a/b&n=1"), ("Accept", "*/*")),
            ("tags/list?n=0".into(), ("Accept", "*/*")),
            ("tags/list?n=1&last=v1".into(), ("Accept", "*/*")),
        ] {
            let mut look = |repository: &str, user: &str| {
                let login = login(user);
                let headers = [headers, ("Authorization", &login)];
                seen(client.send("GET", &format!("/v2/{repository}/{path}"), &headers, b""), repository)
            };
            let found = look("team/a", "stranger");
            assert_eq!(found, look("team/z", "stranger"), "{kind}: {path}");
            assert_eq!(found, look("team/z", "reader"), "{kind}: {path}");
        }
    }
}

/// Whoever may not read a repository could take its blobs by mounting them, or find out which there are.
#[test]
fn a_mount_takes_from_what_may_be_read_alone() {
    for (kind, store) in stores() {
        println!("store: {kind}");
        let open = Fixture::new(Arc::clone(&store), ServerOptions::new());
        let mut client = open.client();
        let secret = push_blob(&mut client, "secret/a", b"secret");
        let shared = push_blob(&mut client, "shared/a", b"shared");
        push_blob(&mut client, "secret/b", b"shared");
        let absent = sha256(b"absent");
        let rules = ["alice pull,push mine/*", "alice pull shared/*"];
        let access = Access::new(policy(&rules)).passwords(passwords(&["alice"]));
        let fixture = Fixture::guarded(store, current(access));
        let mut client = fixture.client();
        let login = login("alice");
        let mut mount = |digest: &str, from: &str| {
            let path = format!("/v2/mine/a/blobs/uploads/?mount={digest}{from}");
            let answer = client.send("POST", &path, &[("Authorization", &login)], b"");
            let id = answer.header("docker-upload-uuid").map(str::to_owned);
            let mut seen = seen(answer, id.as_deref().unwrap_or("-"));
            seen.1.retain(|(name, _)| name != "location" || id.is_none());
            seen
        };
        let nothing = mount(&absent, "&from=shared/a");
        assert_eq!(nothing.0, 202);
        for (digest, from) in [
            (&secret, "&from=secret/a"),
            (&shared, "&from=secret/b"),
            (&shared, "&from=secret/none"),
            (&secret, "&from=shared/a"),
            (&secret, ""),
            (&absent, ""),
        ] {
            assert_eq!(mount(digest, from), nothing, "{from}");
        }
        for from in ["", "&from=shared/a"] {
            assert_eq!(mount(&shared, from).0, 201, "{from}");
        }
        let head =
            |digest: &str| fixture.store.stat(&"mine/a".parse().unwrap(), &digest.parse().unwrap()).is_ok();
        assert!(head(&shared) && !head(&secret));
    }
}

/// All pages of the catalog: their entries, and the links between them.
fn catalog(client: &mut Client, query: &str, authorization: Option<&str>) -> (Vec<Vec<String>>, Vec<String>) {
    let headers: Vec<(&str, &str)> =
        authorization.map(|value| ("Authorization", value)).into_iter().collect();
    let (mut pages, mut links) = (Vec::new(), Vec::new());
    let mut next = Some(format!("/v2/_catalog{query}"));
    while let Some(path) = next {
        let answer = client.send("GET", &path, &headers, b"").expect(200);
        pages.push(serde_json::from_value(answer.json()["repositories"].clone()).unwrap());
        next = answer.next().map(str::to_owned);
        links.extend(next.clone());
        assert!(pages.len() < 100, "the pages go on for ever");
    }
    (pages, links)
}

#[test]
fn the_catalog_has_what_may_be_pulled() {
    for (kind, store) in stores() {
        println!("store: {kind}");
        let open = Fixture::new(Arc::clone(&store), ServerOptions::new());
        for name in ["a/1", "b/1", "a/2", "b/2", "b/3", "a/3", "public", "z"] {
            push_blob(&mut open.client(), name, b"x");
        }
        let rules = ["alice pull a/*", "alice push z", "anonymous pull public"];
        let access = Access::new(policy(&rules)).passwords(passwords(&["alice", "bob"]));
        let fixture = Fixture::guarded(store, current(access));
        let mut client = fixture.client();
        let (alice, bob) = (login("alice"), login("bob"));
        let mut pages = |query: &str, who: Option<&str>| catalog(&mut client, query, who).0;
        assert_eq!(pages("", Some(&alice)), [vec!["a/1", "a/2", "a/3", "public"]]);
        assert_eq!(pages("?n=3", Some(&alice)), [vec!["a/1", "a/2", "a/3"], vec!["public"]]);
        assert_eq!(pages("?n=2", Some(&alice)), [["a/1", "a/2"], ["a/3", "public"]]);
        assert_eq!(pages("?n=1&last=a/2", Some(&alice)), [["a/3"], ["public"]]);
        assert_eq!(pages("?n=4", Some(&alice)).len(), 1, "a link to a page that is empty");
        assert_eq!(pages("?n=0", Some(&alice)), [Vec::<String>::new()]);
        assert_eq!(pages("", Some(&bob)), [["public"]]);
        assert_eq!(pages("", None), [["public"]]);
    }
}

/// A list that is looked through in steps must tell nothing of what it steps over.
#[test]
fn a_catalog_of_much_that_is_forbidden_comes_in_steps_that_tell_nothing() {
    let store = stores().remove(0).1;
    let name = |text: String| -> RepositoryName { text.parse().unwrap() };
    let push = |name: &RepositoryName| {
        let mut upload = store.start_upload(name, &UploadOptions::new()).unwrap();
        upload.write_all(b"x").unwrap();
        upload.commit(&sha256(b"x").parse().unwrap()).unwrap();
    };
    for n in 0..11_000 {
        push(&name(format!("hidden{n:05}")));
    }
    push(&name("a".into()));
    push(&name("zz".into()));
    let access = Access::new(policy(&["alice pull a", "alice pull zz"])).passwords(passwords(&["alice"]));
    let fixture = Fixture::guarded(store, current(access));
    let mut client = fixture.client();
    let (pages, links) = catalog(&mut client, "?n=5", Some(&login("alice")));
    assert!(pages.len() > 2, "one answer has looked at everything");
    assert_eq!(pages.concat(), ["a", "zz"]);
    assert!(links.iter().all(|link| link.contains("place=") && !link.contains("hidden")), "{links:?}");
    let headers = [("Authorization", &*login("alice"))];
    client.send("GET", "/v2/_catalog?place=hidden1", &headers, b"").refused(400, "UNSUPPORTED");
}

/// Nothing of a body is asked for before it is known who sends it.
#[test]
fn who_is_refused_is_not_told_to_go_on() {
    let store = stores().remove(0).1;
    let access = Access::new(policy(&RULES)).passwords(passwords(&USERS));
    let fixture = Fixture::guarded(store, current(access));
    for (authorization, status, code) in [
        (None, 401, "UNAUTHORIZED"),
        (Some(basic("pusher", "no")), 401, "UNAUTHORIZED"),
        (Some(login("reader")), 403, "DENIED"),
    ] {
        let mut client = fixture.client();
        let path = format!("/v2/team/a/blobs/uploads/?digest={}", sha256(b"x"));
        let mut headers = vec![("Expect", "100-continue"), ("Content-Length", "1000000000")];
        headers.extend(authorization.as_deref().map(|value| ("Authorization", value)));
        client.head("POST", &path, &headers);
        client.answer("POST").refused(status, code);
    }
    assert!(fixture.store.repositories(None, 1).unwrap().items.is_empty());
    let mut client = fixture.client();
    let path = format!("/v2/team/a/blobs/uploads/?digest={}", sha256(b"x"));
    let pusher = login("pusher");
    client.head(
        "POST",
        &path,
        &[("Expect", "100-continue"), ("Content-Length", "1"), ("Authorization", &pusher)],
    );
    assert!(client.line().starts_with("HTTP/1.1 100"));
    assert_eq!(client.line(), "");
    client.write("x");
    client.answer("POST").expect(201);
}

#[test]
fn passwords_are_asked_for_where_there_are_no_tokens() {
    let store = stores().remove(0).1;
    let private = Access::new(Policy::users()).passwords(passwords(&["alice"]));
    let current = current(private);
    let fixture = Fixture::guarded(store, Arc::clone(&current));
    let mut client = fixture.client();
    let alice = login("alice");
    // Nothing is public: not even what is no request is told apart.
    for path in
        ["/v2/", "/v2/_catalog", "/v2/a/tags/list", "/v2/A/tags/list", "/v2/a/manifests/.x", "/", "/token"]
    {
        let answer = client.get(path).refused(401, "UNAUTHORIZED");
        assert_eq!(answer.header("www-authenticate"), Some("Basic realm=\"sledge\""), "{path}");
    }
    client.send("GET", "/v2/", &[("Authorization", &alice)], b"").expect(200);
    client.send("GET", "/v2/A/tags/list", &[("Authorization", &alice)], b"").refused(400, "NAME_INVALID");
    let twice = [("Authorization", &*alice), ("Authorization", &alice)];
    client.send("GET", "/v2/", &twice, b"").refused(401, "UNAUTHORIZED");

    // The same connection, other rules: from the next request on.
    current.replace(Access::new(Policy::users().anonymous_pull()).passwords(passwords(&["bob"])));
    client.get("/v2/").expect(200);
    client.get("/v2/a/tags/list").refused(404, "NAME_UNKNOWN");
    client.send("POST", "/v2/a/blobs/uploads/", &[], b"").refused(401, "UNAUTHORIZED");
    // Alice is gone, also where her password was remembered; and is not taken for nobody.
    client.send("GET", "/v2/", &[("Authorization", &alice)], b"").refused(401, "UNAUTHORIZED");
    client.send("POST", "/v2/a/blobs/uploads/", &[("Authorization", &login("bob"))], b"").expect(202);
    current.replace(Access::new(Policy::new()).passwords(passwords(&["bob"])));
    client.get("/v2/").refused(401, "UNAUTHORIZED");
    client
        .send("POST", "/v2/a/blobs/uploads/", &[("Authorization", &login("bob"))], b"")
        .refused(403, "DENIED");
}
