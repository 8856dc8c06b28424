//! Asks what the rows ask, of every store.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sledge::access::{Access, CurrentAccess, Passwords, Policy};
use sledge::filter::{ImmutableTags, ReadOnly};
use sledge::server::ServerOptions;
use sledge::store::{Pinned, Store};

use super::row::{Body, Registry, Row, Sent};
use super::rows;
use super::scene::{self, Words};
use crate::client::{Answer, Client};
use crate::fixture::{Fixture, sha256, sha512, watched};

#[test]
fn each_row_is_answered_as_it_says() {
    for (name, store) in watched() {
        println!("store: {name}");
        let serve = |store: Arc<dyn Store>| Fixture::new(store, ServerOptions::new());
        let plain = serve(store.clone());
        let read_only = serve(Arc::new(ReadOnly::new(store.clone())));
        let pinned = Pinned::tags(|tag| tag.as_str() == "v1");
        let guarded = Fixture::guarded(store.clone(), users());
        let immutable = serve(Arc::new(ImmutableTags::new(store.clone(), pinned)));
        scene::fill(&mut plain.client(), "a");
        for (number, row) in rows().iter().enumerate() {
            println!("{} {}: {} ({} {})", row.end, row.section, row.says, row.method, row.path);
            let words = set_the_scene(row, number, &mut plain.client());
            let asked = match row.registry {
                Registry::Plain | Registry::Busy => &plain,
                Registry::ReadOnly => &read_only,
                Registry::Immutable => &immutable,
                Registry::Guarded => &guarded,
            };
            let mut client = asked.client();
            store.seen().busy.store(row.registry == Registry::Busy, Ordering::SeqCst);
            let answer = ask(row, &words, &mut client);
            store.seen().busy.store(false, Ordering::SeqCst);
            check(row, words, &answer, &mut client);
        }
    }
}

/// Somebody who is not asking.
fn users() -> Arc<CurrentAccess> {
    let access = Access::new(Policy::users()).passwords(
        Passwords::parse(b"alice:$2y$04$EoPgQUl2w5l3fdKLyu/wP.7slEHf1wc9Ijq7qeOpfCidFOPEV3ETG\n").unwrap(),
    );
    Arc::new(CurrentAccess::new(access).unwrap())
}

/// What the row needs of its own.
fn set_the_scene(row: &Row, number: usize, client: &mut Client) -> Words {
    let own = format!("own/row-{number}");
    let mut words = Words::new(&own);
    let begun = row.path.contains("{begun}");
    if row.path.contains("{own}") {
        scene::fill(client, &own);
    }
    if begun || row.path.contains("{session}") {
        let start = client.send("POST", &format!("/v2/{own}/blobs/uploads/"), &[], b"").expect(202);
        let at = start.header("location").unwrap().to_owned();
        if begun {
            client.send("PATCH", &at, &[], b"hello").expect(202);
        }
        words.add("{session}", &at);
        words.add("{begun}", at);
    }
    match &row.sent {
        Sent::Nothing => {}
        Sent::Whole(bytes) | Sent::Chunked(bytes) => {
            words.add("{sent}", sha256(bytes));
            words.add("{sent512}", sha512(bytes));
        }
    }
    words
}

fn ask(row: &Row, words: &Words, client: &mut Client) -> Answer {
    let path = words.fill_in(&row.path);
    let headers: Vec<_> = row.headers.iter().map(|(name, value)| (*name, words.fill_in(value))).collect();
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, &**value)).collect();
    match &row.sent {
        Sent::Nothing => client.send(row.method, &path, &headers, b""),
        Sent::Whole(bytes) => client.send(row.method, &path, &headers, bytes),
        Sent::Chunked(bytes) => client.send_chunked(row.method, &path, &headers, &[bytes]),
    }
}

fn check(row: &Row, mut words: Words, answer: &Answer, client: &mut Client) {
    // Of every answer, whatever it is: `expect` looks for the version of the API too.
    let answer = answer.clone().expect(row.status);
    if let Some(id) = answer.header("docker-upload-uuid") {
        words.add("{id}", id);
    }
    let nothing = matches!(row.status, 204 | 304);
    assert_eq!(answer.header("content-length").is_none(), nothing, "{answer:?}");
    match &row.body {
        Body::None | Body::Any if row.method == "HEAD" => assert!(answer.body.is_empty()),
        Body::None => assert_eq!(answer.body, b"", "{answer:?}"),
        Body::Any => {}
        Body::Bytes(bytes) => assert_eq!(&answer.body, bytes, "{answer:?}"),
        Body::Json(json) => {
            let json = words.fill_in(&json.to_string());
            assert_eq!(answer.json(), serde_json::from_str::<serde_json::Value>(&json).unwrap());
        }
        Body::Errors(codes) => assert_eq!(&answer.codes(), codes, "{answer:?}"),
    }
    for (name, value) in &row.with {
        assert_eq!(answer.all(name).join(", "), words.fill_in(value), "{name}: {answer:?}");
    }
    for name in &row.without {
        assert_eq!(answer.all(name), [""; 0], "{name}: {answer:?}");
    }
    // The connection goes on.
    for (method, path, status) in &row.then {
        client.send(method, &words.fill_in(path), &[], b"").expect(*status);
    }
    client.get("/v2/").expect(if row.registry == Registry::Guarded { 401 } else { 200 });
}
