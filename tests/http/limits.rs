//! How much one client gets.

use std::time::Duration;

use http_body_util::Full;
use sledge::server::ServerOptions;

use crate::client::Client;
use crate::connections::{connect, request};
use crate::fixture::{Fixture, bytes, push_blob, sha256, stores};

/// The address that the tests' clients do not come from.
const ELSEWHERE: [u8; 4] = [127, 0, 0, 2];

fn fixture(options: ServerOptions) -> Fixture {
    Fixture::new(stores().remove(0).1, options)
}

#[test]
fn more_connections_than_places_wait_until_one_ends() {
    let fixture = fixture(ServerOptions::new().connections(2));
    let (mut first, mut second) = (fixture.client(), fixture.client());
    first.get("/v2/").expect(200);
    second.get("/v2/").expect(200);
    let mut third = fixture.client();
    third.head("GET", "/v2/", &[]);
    for _ in 0..100 {
        first.get("/v2/").expect(200);
    }
    assert!(third.is_waiting());
    drop(second);
    third.answer("GET").expect(200);
    first.get("/v2/").expect(200);
}

/// A connection that is idle is a place that somebody waits for: it ends by itself.
#[test]
fn who_waits_for_a_place_gets_that_of_an_idle_connection() {
    let fixture = fixture(ServerOptions::new().connections(1).header_limit(Duration::from_millis(100)));
    let mut idle = fixture.client();
    idle.get("/v2/").expect(200);
    fixture.client().get("/v2/").expect(200);
    assert!(idle.is_closed());
}

#[test]
fn a_client_has_so_many_connections_and_others_have_theirs() {
    let fixture = fixture(ServerOptions::new().connections_per_client(2));
    let (mut first, mut second) = (fixture.client(), fixture.client());
    first.get("/v2/").expect(200);
    second.get("/v2/").expect(200);
    assert!(fixture.client().try_get("/v2/").is_err());
    Client::from(ELSEWHERE, fixture.address).get("/v2/").expect(200);
    drop(second);
    // The server sees that it ended when it comes to it.
    while fixture.client().try_get("/v2/").is_err() {}
    first.get("/v2/").expect(200);
}

#[test]
fn a_client_has_so_many_pushes_in_flight() {
    for (name, store) in stores() {
        println!("store: {name}");
        let fixture = Fixture::new(store, ServerOptions::new().uploads_per_client(1));
        let mut slow = fixture.client();
        let content = bytes(200_000);
        let digest = sha256(&content);
        let at = slow.send("POST", "/v2/a/blobs/uploads/", &[], b"").expect(202);
        let at = at.header("location").unwrap();
        slow.head("PATCH", at, &[("Content-Length", "200000"), ("Expect", "100-continue")]);
        assert_eq!(slow.answer("PATCH").status, 100);

        let mut client = fixture.client();
        let path = format!("/v2/b/blobs/uploads/?digest={digest}");
        let refused = client.send("POST", &path, &[], &content).refused(429, "TOOMANYREQUESTS");
        assert_eq!(refused.header("retry-after"), Some("5"));
        let manifest = client.send("PUT", "/v2/b/manifests/x", &[], b"{}");
        manifest.refused(429, "TOOMANYREQUESTS");
        // What brings no bytes is free, and so are others.
        client.get("/v2/").expect(200);
        client.send("POST", "/v2/b/blobs/uploads/", &[], b"").expect(202);
        push_blob(&mut Client::from(ELSEWHERE, fixture.address), "c", &content);

        slow.write(&content);
        slow.answer("PATCH").expect(202);
        client.send("POST", &path, &[], &content).expect(201);
        slow.send("PUT", &format!("{at}?digest={digest}"), &[], b"").expect(201);
        // One that is broken off gives its place back too.
        let at = slow.send("POST", "/v2/a/blobs/uploads/", &[], b"").expect(202);
        slow.head("PATCH", at.header("location").unwrap(), &[("Content-Length", "9")]);
        slow.cut();
        while client.send("POST", &path, &[], &content).status != 201 {}
    }
}

#[test]
fn a_client_makes_so_many_requests_a_second() {
    let fixture = fixture(ServerOptions::new().requests_per_client(1, 3));
    let mut client = fixture.client();
    for _ in 0..3 {
        client.get("/v2/").expect(200);
    }
    // A request may be let through meanwhile, but not all of them.
    let refused = (0..1000).map(|_| client.get("/v2/")).find(|answer| answer.status != 200).unwrap();
    let refused = refused.refused(429, "TOOMANYREQUESTS");
    assert_eq!(refused.header("retry-after"), Some("1"));
    Client::from(ELSEWHERE, fixture.address).get("/v2/").expect(200);
}

#[test]
fn the_head_of_a_request_is_so_long_at_most() {
    let fixture = fixture(ServerOptions::new());
    let sent = |headers: &[(&str, &str)]| {
        let mut client = fixture.client();
        client.head("GET", "/v2/", headers);
        client.try_answer()
    };
    assert_eq!(sent(&[("Authorization", &"x".repeat(60_000))]), Some(200));
    assert_eq!(sent(&[("Authorization", &"x".repeat(70_000))]), Some(431));
    assert_eq!(sent(&[("X", "x"); 101]), Some(431));
    let mut client = fixture.client();
    client.head("GET", &format!("/v2/{}", "x".repeat(70_000)), &[]);
    assert!(matches!(client.try_answer(), Some(414 | 431)));

    let runtime = tokio::runtime::Runtime::new().unwrap();
    for (size, status) in [(60_000, 200), (70_000, 431)] {
        let answered = runtime.block_on(async {
            let mut sender = connect(&fixture).await;
            let mut request = request("GET", "/v2/", Full::<bytes::Bytes>::default());
            request.headers_mut().insert("authorization", "x".repeat(size).try_into().unwrap());
            sender.send_request(request).await.unwrap().status()
        });
        assert_eq!(answered, status, "{size}");
    }
}

/// The buffer for heads is the one that bodies come through.
#[test]
fn small_heads_do_not_make_bodies_small() {
    for least in [0, 8 << 10, 1 << 20] {
        let fixture = fixture(ServerOptions::new().header_bytes(least));
        let content = bytes(3 << 20);
        let digest = push_blob(&mut fixture.client(), "a", &content);
        assert!(fixture.client().get(&format!("/v2/a/blobs/{digest}")).expect(200).body == content);
    }
}
