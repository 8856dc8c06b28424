//! What is left when the store fails, or the client goes away in the middle.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sledge::Error;
use sledge::server::ServerOptions;
use sledge::store::Push;
use sledge::store::sled::Options;

use crate::fixture::{Fixture, bytes, sha256, watched};
use crate::offstage::Offstage;

/// Whether no session is left of those that were ever started.
fn no_session_is_left(store: &Offstage) -> bool {
    let started = store.seen().started.lock().unwrap().clone();
    assert!(!started.is_empty());
    started.iter().all(|(repository, id)| {
        matches!(store.upload_status(repository, *id), Err(Error::UploadUnknown { .. }))
    })
}

/// Nobody knows the id of a session that a push in one request makes: what fails must not leave it behind.
#[test]
fn a_push_in_one_request_that_fails_leaves_no_session() {
    for (name, store) in watched() {
        println!("store: {name}");
        let fixture = Fixture::new(Arc::clone(&store) as _, ServerOptions::new());
        store.seen().full.store(true, Ordering::SeqCst);
        let mut client = fixture.client();
        for size in [0, 100, 60_000, 300_000, 3 << 20] {
            let content = bytes(size);
            let path = format!("/v2/a/blobs/uploads/?digest={}", sha256(&content));
            client.send("POST", &path, &[], &content).refused(507, "UNKNOWN");
            client.send_chunked("POST", &path, &[], &[&content]).refused(507, "UNKNOWN");
            assert!(no_session_is_left(&store), "{size}");
        }
        // Who knows of a session keeps it, and can end it when there is room.
        let content = bytes(300_000);
        let digest = sha256(&content);
        let at = client.send("POST", "/v2/a/blobs/uploads/", &[], b"").expect(202);
        let at = at.header("location").unwrap();
        client.send("PUT", &format!("{at}?digest={digest}"), &[], &content).refused(507, "UNKNOWN");
        store.seen().full.store(false, Ordering::SeqCst);
        assert_eq!(client.get(at).expect(204).header("range"), Some("0-299999"));
        client.send("PUT", &format!("{at}?digest={digest}"), &[], b"").expect(201);
    }
}

#[test]
fn a_push_in_one_request_that_is_cut_leaves_no_session() {
    for (name, store) in watched() {
        println!("store: {name}");
        let fixture = Fixture::new(Arc::clone(&store) as _, ServerOptions::new());
        for sent in [0, 100_000, 3 << 20] {
            let mut client = fixture.client();
            let content = bytes(4 << 20);
            let path = format!("/v2/a/blobs/uploads/?digest={}", sha256(&content));
            let length = content.len().to_string();
            client.head("POST", &path, &[("Content-Length", &length), ("Expect", "100-continue")]);
            // Now there is a session.
            assert_eq!(client.answer("POST").status, 100);
            client.write(&content[..sent]);
            client.cut();
            // Nobody is told when it is put away. A failure stops the test instead of the time that this may take.
            let patience = Instant::now() + Duration::from_secs(60);
            while !no_session_is_left(&store) {
                assert!(Instant::now() < patience, "{sent}");
                std::thread::yield_now();
            }
        }
    }
}

/// What outlasts the drain limit is dropped where it stands.
#[test]
fn a_push_in_one_request_that_a_shutdown_breaks_off_leaves_no_session() {
    for (name, store) in watched() {
        println!("store: {name}");
        let options = ServerOptions::new().drain_limit(Duration::ZERO);
        let mut fixture = Fixture::new(Arc::clone(&store) as _, options);
        let mut client = fixture.client();
        let content = bytes(4 << 20);
        let path = format!("/v2/a/blobs/uploads/?digest={}", sha256(&content));
        client.head("POST", &path, &[("Content-Length", "4194304"), ("Expect", "100-continue")]);
        assert_eq!(client.answer("POST").status, 100);
        client.write(&content[..2 << 20]);
        fixture.shut_down();
        fixture.wait();
        assert!(no_session_is_left(&store));
    }
}

/// Its bytes would take the room of what fits, for a week.
#[test]
fn a_push_that_the_budget_refuses_ends_its_session() {
    let folder = tempfile::tempdir().unwrap();
    let store = Options::new().reserve(1 << 20).budget(64 << 20).open(folder.path()).unwrap();
    let fixture = Fixture::new(Arc::new(store.clone()), ServerOptions::new());
    let mut client = fixture.client();
    let free = store.usage().unwrap().free.unwrap();
    let content = bytes(usize::try_from(free).unwrap() + (4 << 20));
    let digest = sha256(&content);
    let (begin, end) = content.split_at(4 << 20);
    // Refused before the first byte of a request that says its length, and in the middle of one that does not.
    for chunked in [false, true] {
        let at = client.send("POST", "/v2/a/blobs/uploads/", &[], b"").expect(202);
        let mut at = at.header("location").unwrap().to_owned();
        if !chunked {
            let begun = client.send("PATCH", &at, &[], begin).expect(202);
            begun.header("location").unwrap().clone_into(&mut at);
            client.send("PUT", &format!("{at}?digest={digest}"), &[], end).refused(507, "UNKNOWN");
        } else {
            let parts: Vec<&[u8]> = content.chunks(1 << 20).collect();
            client.send_chunked("PATCH", &at, &[], &parts).refused(507, "UNKNOWN");
        }
        client.get(&at).refused(404, "BLOB_UPLOAD_UNKNOWN");
        while store.usage().unwrap().in_uploads > 0 {
            std::thread::yield_now();
        }
    }
}
