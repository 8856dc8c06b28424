//! The server's own tokens, as docker asks for them.

use std::sync::Arc;

use sledge::access::{Access, TokenEndpoint};

use crate::client::{Answer, Client};
use crate::fixture::{Fixture, push_blob, sha256, stores};
use crate::guard::{Issuer, basic, current, login, passwords, policy};

pub(crate) const RULES: [&str; 3] = ["alice pull,push team/*", "bob pull team/*", "anonymous pull public"];

pub(crate) fn access(rules: &[&str], users: &[&str], endpoint: &TokenEndpoint) -> Access {
    Access::new(policy(rules)).passwords(passwords(users)).token_endpoint(endpoint.clone())
}

pub(crate) fn endpoint() -> TokenEndpoint {
    TokenEndpoint::new("https://registry.example", "registry.example").unwrap()
}

pub(crate) fn with(authorization: &str) -> [(&'static str, &str); 1] {
    [("Authorization", authorization)]
}

/// A `Bearer` header from the endpoint's answer.
pub(crate) fn token(answer: &Answer) -> String {
    let answer = answer.json();
    assert_eq!(answer["token"], answer["access_token"]);
    assert_eq!(answer["expires_in"], 300);
    format!("Bearer {}", answer["token"].as_str().unwrap())
}

pub(crate) fn ask(client: &mut Client, query: &str, authorization: Option<&str>) -> Answer {
    let headers: Vec<(&str, &str)> =
        authorization.map(|value| ("Authorization", value)).into_iter().collect();
    client.send("GET", &format!("/token?service=registry.example{query}"), &headers, b"")
}

/// What docker says and hears from `docker login` to the end of a push.
#[test]
fn a_client_is_led_from_the_challenge_to_a_token_to_the_push() {
    for (kind, store) in stores() {
        println!("store: {kind}");
        let fixture = Fixture::guarded(store, current(access(&RULES, &["alice", "bob"], &endpoint())));
        let mut client = fixture.client();
        let answer = client.get("/v2/").refused(401, "UNAUTHORIZED");
        let challenge = "Bearer realm=\"https://registry.example/token\",service=\"registry.example\"";
        assert_eq!(answer.header("www-authenticate"), Some(challenge));
        let alice = login("alice");
        let answer =
            ask(&mut client, "&account=alice&client_id=docker&offline_token=true", Some(&alice)).expect(200);
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let empty = token(&answer);
        client.send("GET", "/v2/", &with(&empty), b"").expect(200);

        // A push: the first attempt says which scope is needed.
        let path = format!("/v2/team/a/blobs/uploads/?digest={}", sha256(b"x"));
        let answer = client.send("POST", &path, &with(&empty), b"x").refused(401, "UNAUTHORIZED");
        let scope = ",scope=\"repository:team/a:pull,push\",error=\"insufficient_scope\"";
        assert_eq!(answer.header("www-authenticate"), Some(&*format!("{challenge}{scope}")));
        let pushing = token(&ask(&mut client, "&scope=repository:team/a:pull,push", Some(&alice)));
        client.send("POST", &path, &with(&pushing), b"x").expect(201);
        client.send("GET", &format!("/v2/team/a/blobs/{}", sha256(b"x")), &with(&pushing), b"").expect(200);

        // The same for a mount, by containerd's way of asking.
        let mount = format!("/v2/team/b/blobs/uploads/?mount={}&from=team/a", sha256(b"x"));
        let answer = client.send("POST", &mount, &[], b"").refused(401, "UNAUTHORIZED");
        let scope = "scope=\"repository:team/b:pull,push repository:team/a:pull\"";
        assert!(answer.header("www-authenticate").unwrap().ends_with(scope), "{answer:?}");
        let form = "grant_type=password&service=registry.example&client_id=containerd&username=alice&password=secret+of+alice\
                    &scope=repository:team/b:pull,push%20repository:team/a:pull";
        let answer = client.send("POST", "/token", &[], form.as_bytes()).expect(200);
        client.send("POST", &mount, &with(&token(&answer)), b"").expect(201);

        // Bob asks for more than he gets.
        let bob = token(&ask(&mut client, "&scope=repository:team/a:pull,push", Some(&login("bob"))));
        client.send("GET", &format!("/v2/team/a/blobs/{}", sha256(b"x")), &with(&bob), b"").expect(200);
        client.send("POST", &path, &with(&bob), b"x").refused(403, "DENIED");
        // A list is asked for as docker's registry has it, and has what the rules allow.
        client.send("GET", "/v2/_catalog", &with(&bob), b"").refused(401, "UNAUTHORIZED");
        let bob = token(&ask(&mut client, "&scope=registry:catalog:*", Some(&login("bob"))));
        let answer = client.send("GET", "/v2/_catalog", &with(&bob), b"").expect(200);
        assert_eq!(answer.json()["repositories"], serde_json::json!(["team/a", "team/b"]));
    }
}

#[test]
fn nobody_gets_a_token_for_what_is_public() {
    let (_, store) = stores().remove(0);
    push_blob(
        &mut Fixture::new(Arc::clone(&store), sledge::server::ServerOptions::new()).client(),
        "public",
        b"x",
    );
    let fixture = Fixture::guarded(store, current(access(&RULES, &["alice"], &endpoint())));
    let mut client = fixture.client();
    let given =
        token(&ask(&mut client, "&scope=repository:public:pull,push&scope=repository:team/a:pull", None));
    let path = format!("/v2/public/blobs/{}", sha256(b"x"));
    client.send("GET", &path, &with(&given), b"").expect(200);
    client.get(&path).expect(200);
    for (method, path) in [("POST", "/v2/public/blobs/uploads/"), ("GET", "/v2/team/a/tags/list")] {
        client.send(method, path, &with(&given), b"").refused(401, "UNAUTHORIZED");
    }
}

/// Who logged in with nothing got an empty token, with which `/v2/` was 200: it looked as if the login had worked.
#[test]
fn nobody_gets_no_token_where_nothing_is_public() {
    let (_, store) = stores().remove(0);
    let fixture = Fixture::guarded(store, current(access(&RULES[..2], &["alice"], &endpoint())));
    let mut client = fixture.client();
    for query in ["", "&scope=repository:team/a:pull"] {
        let answer = ask(&mut client, query, None).refused(401, "UNAUTHORIZED");
        assert!(answer.header("www-authenticate").unwrap().starts_with("Basic realm="));
    }
    ask(&mut client, "", Some(&login("alice"))).expect(200);
}

#[test]
fn the_endpoint_refuses_what_is_wrong() {
    let (_, store) = stores().remove(0);
    let issuer = Issuer::new();
    let access = access(&RULES, &["alice"], &endpoint()).token_issuer(issuer.trusted());
    let fixture = Fixture::guarded(store, current(access));
    let mut client = fixture.client();
    let alice = login("alice");
    let good = token(&ask(&mut client, "", Some(&alice)));
    let foreign = issuer.token("alice", &serde_json::json!([]), &serde_json::json!({}));
    for wrong in [&basic("alice", "no"), &login("carol"), "Basic x", &good, &foreign] {
        let answer =
            ask(&mut client, "&scope=repository:public:pull", Some(wrong)).refused(401, "UNAUTHORIZED");
        assert_eq!(answer.header("www-authenticate"), Some("Basic realm=\"sledge\""));
    }
    client.send("GET", "/token?service=other", &with(&alice), b"").refused(400, "UNSUPPORTED");
    let many = "&scope=repository:a:pull".repeat(65);
    ask(&mut client, &many, Some(&alice)).refused(400, "UNSUPPORTED");
    for form in ["", "grant_type=refresh_token&refresh_token=x", "grant_type=password&username=alice"] {
        client.send("POST", "/token", &[], form.as_bytes()).refused(400, "UNSUPPORTED");
    }
    let form = "grant_type=password&username=alice&password=no";
    client.send("POST", "/token", &[], form.as_bytes()).refused(401, "UNAUTHORIZED");
    client.send("POST", "/token", &[], &vec![b'x'; 17 << 10]).refused(400, "UNSUPPORTED");
    let answer = client.send("PUT", "/token", &[], b"").refused(405, "UNSUPPORTED");
    assert_eq!(answer.header("allow"), Some("GET, POST"));
    // Passwords are good without a token, and tokens of another issuer beside the server's own.
    client.send("GET", "/v2/", &with(&alice), b"").expect(200);
    client.send("GET", "/v2/", &with(&foreign), b"").expect(200);
}

/// A right that was taken away would otherwise last as long as the tokens that were given before.
#[test]
fn a_token_is_worth_what_the_rules_say_now() {
    let (_, store) = stores().remove(0);
    let endpoint = endpoint();
    let current = current(access(&RULES, &["alice"], &endpoint));
    let fixture = Fixture::guarded(store, Arc::clone(&current));
    let mut client = fixture.client();
    let old = token(&ask(&mut client, "&scope=repository:team/a:pull,push", Some(&login("alice"))));
    let push = |client: &mut Client, token: &str| {
        client.send("POST", "/v2/team/a/blobs/uploads/", &with(token), b"")
    };
    push(&mut client, &old).expect(202);
    // The same password file, hashed anew, is another password as far as anybody can tell.
    let kept = "alice:$2y$05$c4WoMPo3SXsafkva.HHa6uHpvoxC70gaYUuYyhzdpUSq9CHz/KcOS\n";
    let with_rules = |rules: &[&str]| {
        let passwords = sledge::access::Passwords::parse(kept.as_bytes()).unwrap();
        Access::new(policy(rules)).passwords(passwords).token_endpoint(endpoint.clone())
    };
    current.replace(with_rules(&RULES));
    push(&mut client, &old).refused(401, "UNAUTHORIZED");
    let wonderland = basic("alice", "wonderland");
    let given = token(&ask(&mut client, "&scope=repository:team/a:pull,push", Some(&wonderland)));
    push(&mut client, &given).expect(202);
    current.replace(with_rules(&["alice pull team/*"]));
    push(&mut client, &given).refused(403, "DENIED");
    current.replace(with_rules(&RULES));
    push(&mut client, &given).expect(202);
    current.replace(Access::new(policy(&RULES)).token_endpoint(endpoint.clone()));
    push(&mut client, &given).refused(401, "UNAUTHORIZED");
    // Another endpoint, as after a restart.
    current.replace(access(&RULES, &["alice"], &self::endpoint()));
    let answer = push(&mut client, &given).refused(401, "UNAUTHORIZED");
    assert!(answer.header("www-authenticate").unwrap().ends_with(",error=\"invalid_token\""), "{answer:?}");
}
