//! Events: an event of each change that is made and durable, bounded, and forgotten when everybody has it.

use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{entries, folder, most_entered, noise, push, repository};
use crate::oci::{Algorithm, Manifest, MediaType, Tag};
use crate::store::sled::index::WINDOW;
use crate::store::sled::schema::{self, Tree};
use crate::store::sled::{
    CollectOptions, Durability, EventKind, EventPage, Events, FaultKind, Options, Retention, Sled,
    SnapshotOptions, Untagged, VerifyOptions, compact,
};
use crate::store::{
    Condition, Discover, Initiator, Manage, MountSource, Pinned, Pulled, Push, PutManifest, UploadOptions,
};

fn open_with(folder: &Path, events: Events) -> Sled {
    Options::new().reserve(1 << 20).events(events).open(folder).unwrap()
}

fn open(folder: &Path) -> Sled {
    open_with(folder, Events::new())
}

fn all(store: &Sled) -> EventPage {
    store.events(0, usize::MAX).unwrap()
}

fn numbers(page: &EventPage) -> Vec<u64> {
    page.events.iter().map(|event| event.number).collect()
}

fn kinds(page: &EventPage) -> Vec<EventKind> {
    page.events.iter().map(|event| event.kind).collect()
}

fn empty_index() -> Manifest {
    let document = br#"{"schemaVersion":2,"manifests":[]}"#;
    Manifest::new(MediaType::OCI_INDEX.parse().unwrap(), document.to_vec())
}

fn push_some(store: &Sled, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        push(store, &noise(100, seed)).unwrap();
    }
}

#[test]
fn nothing_is_written_where_events_are_off() {
    let folder = folder();
    let store = Options::new().reserve(1 << 20).open(folder.path()).unwrap();
    push_some(&store, 0..3);
    store.put_manifest(&repository(), &empty_index(), &PutManifest::new()).unwrap();
    assert_eq!(entries(&store, Tree::Events), 0);
    assert_eq!(all(&store), EventPage::default());
}

/// A push that took the last tag from each of 32 manifests was refused as damage, where their names were long: what it changed was
/// more than enters between two syncs.
#[test]
fn tags_are_taken_from_many_manifests_that_lose_their_last() {
    let folder = folder();
    let store = open(folder.path());
    let repository = "r".repeat(255).parse().unwrap();
    let tags: Vec<Tag> = (0..32).map(|n| format!("{n:0>128}").parse().unwrap()).collect();
    let numbered = |n: usize| {
        let document = format!(r#"{{"schemaVersion":2,"manifests":[],"annotations":{{"n":"{n}"}}}}"#);
        Manifest::new(MediaType::OCI_INDEX.parse().unwrap(), document.into_bytes())
    };
    for (n, tag) in tags.iter().enumerate() {
        // Each was a candidate before.
        store.put_manifest(&repository, &numbered(n), &PutManifest::new()).unwrap();
        store
            .put_manifest(&repository, &numbered(n), &PutManifest::new().tags(std::slice::from_ref(tag)))
            .unwrap();
    }
    store.put_manifest(&repository, &empty_index(), &PutManifest::new().tags(&tags)).unwrap();
    assert_eq!(store.tags(&repository, None, 99).unwrap().items.len(), 32);
    assert!(most_entered(&store) <= WINDOW);
    // Nothing keeps them any more, and collection knows.
    let options = CollectOptions::new().untagged(Untagged::DeleteAfter(Duration::ZERO)).grace(Duration::ZERO);
    let collected = store.collect(&options, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(collected.manifests, 32);
    assert!(store.verify(&VerifyOptions::new(), &mut |_| ControlFlow::Continue(())).unwrap().is_well());
}

/// As many tags as can be, as long as can be, of the longest repository: their events fit the transaction that sets them.
#[test]
fn a_push_with_many_tags_is_told_in_the_transaction_that_makes_it() {
    let folder = folder();
    let word = &"w".repeat(256);
    let by = Initiator::new().with_user(word).with_request_id(word).with_client(word);
    let store = open(folder.path()).initiated_by(by.with_host(word).with_method(word).with_user_agent(word));
    let repository = "r".repeat(255).parse().unwrap();
    let tags: Vec<Tag> = (0..32).map(|n| format!("{n:0>128}").parse().unwrap()).collect();
    for _ in 0..2 {
        store.put_manifest(&repository, &empty_index(), &PutManifest::new().tags(&tags)).unwrap();
    }
    let refused = store.tag(&repository, empty_index().digest(), &tags[0], &Condition::Absent);
    assert!(refused.is_err());
    let page = all(&store);
    assert_eq!(numbers(&page), (1..=8).collect::<Vec<_>>());
    assert_eq!(kinds(&page), [EventKind::ManifestPushed; 8]);
    let told: Vec<Tag> = page.events[4..].iter().flat_map(|event| event.tags.clone()).collect();
    assert_eq!(told, tags);
    assert!(most_entered(&store) <= WINDOW);
    store.delete_manifest(&repository, empty_index().digest(), &Pinned::none()).unwrap();
    assert_eq!(kinds(&store.events(8, 9).unwrap()), [EventKind::ManifestDeleted]);
    assert!(most_entered(&store) <= WINDOW);
}

/// A power cut takes back what was not synced: who was told of it would know of what never was, and its number would be another's.
#[test]
fn only_what_is_durable_is_told() {
    let folder = folder();
    let rung = Arc::new(AtomicU64::new(0));
    let ring = Arc::clone(&rung);
    let events = Events::new().on_ready(move || _ = ring.fetch_add(1, Ordering::Relaxed));
    let relaxed = Options::new().reserve(1 << 20).durability(Durability::Relaxed(Duration::from_secs(3600)));
    let store = relaxed.events(events).open(folder.path()).unwrap();
    push_some(&store, 0..3);
    assert_eq!(entries(&store, Tree::Events), 3);
    assert_eq!((all(&store), rung.load(Ordering::Relaxed)), (EventPage::default(), 0));
    // What was not told is not taken.
    store.event_receivers(&["a"]).unwrap();
    store.events_taken("a", 3).unwrap();
    assert_eq!(store.event_receivers(&["a"]).unwrap(), [0]);
    drop(store);
    assert_eq!(rung.load(Ordering::Relaxed), 1);
    assert_eq!(numbers(&all(&open(folder.path()))), [1, 2, 3]);
}

/// Whoever is away for too long does not fill the disk, and is told how many it will never see.
#[test]
fn of_too_many_the_oldest_go_and_their_number_is_told() {
    let folder = folder();
    let store = open_with(folder.path(), Events::new().most(10));
    store.event_receivers(&["away"]).unwrap();
    push_some(&store, 0..25);
    let page = all(&store);
    assert_eq!(numbers(&page), (16..=25).collect::<Vec<_>>());
    assert_eq!((page.missing, page.up_to), (15, 25));
    assert_eq!(store.events(20, 2).unwrap().missing, 0);
    assert_eq!(store.events(14, 3).unwrap().missing, 1);
    drop(store);
    // With a lower bound they become fewer, some with each change.
    let store = open_with(folder.path(), Events::new().most(2));
    push_some(&store, 25..29);
    assert_eq!(entries(&store, Tree::Events), 6);
    push_some(&store, 29..40);
    assert_eq!(numbers(&all(&store)), [39, 40]);
}

#[test]
fn a_budget_bounds_them_too() {
    let folder = folder();
    let options = Options::new().reserve(1 << 20).budget(Options::LEAST_BUDGET).events(Events::new());
    let store = options.open(folder.path()).unwrap();
    let tag: Tag = "1".parse().unwrap();
    store.put_manifest(&repository(), &empty_index(), &PutManifest::new()).unwrap();
    for _ in 0..1100 {
        store.tag(&repository(), empty_index().digest(), &tag, &Condition::Any).unwrap();
    }
    assert_eq!(entries(&store, Tree::Events), 1024);
}

#[test]
fn what_all_receivers_have_is_forgotten_and_no_number_is_given_twice() {
    let folder = folder();
    let store = open(folder.path());
    assert_eq!(store.event_receivers(&["a", "b"]).unwrap(), [0, 0]);
    push_some(&store, 0..4);
    store.events_taken("a", 3).unwrap();
    assert_eq!(entries(&store, Tree::Events), 4);
    store.events_taken("b", 2).unwrap();
    assert_eq!(numbers(&all(&store)), [3, 4]);
    // Nobody goes back.
    store.events_taken("b", 1).unwrap();
    assert!(store.events_taken("nobody", 4).is_err());
    drop(store);

    let store = open(folder.path());
    assert_eq!(store.event_receivers(&["c", "b", "a"]).unwrap(), [2, 2, 3]);
    // Nobody waits for who is not named any more.
    assert_eq!(store.event_receivers(&["a"]).unwrap(), [3]);
    assert_eq!(numbers(&all(&store)), [4]);
    store.events_taken("a", 4).unwrap();
    assert_eq!(entries(&store, Tree::Events), 0);
    drop(store);
    let store = open(folder.path());
    push_some(&store, 4..5);
    assert_eq!(numbers(&store.events(4, 1).unwrap()), [5]);
    let many: Vec<String> = (0..17).map(|n| n.to_string()).collect();
    assert!(store.event_receivers(&many.iter().map(String::as_str).collect::<Vec<_>>()).is_err());
    assert!(store.event_receivers(&[&"x".repeat(129)]).is_err());
}

#[test]
fn what_rules_remove_is_told() {
    let folder = folder();
    let store = open(folder.path());
    let tags = ["1", "2"].map(|tag| tag.parse().unwrap());
    store.put_manifest(&repository(), &empty_index(), &PutManifest::new().tags(&tags)).unwrap();
    let rule = Retention::of(|_| true).keep(|tag| tag.as_str() == "2");
    let options = CollectOptions::new().retention(rule);
    store.collect(&options, &mut |_| ControlFlow::Continue(())).unwrap();
    let page = store.events(1, 9).unwrap();
    assert_eq!(kinds(&page), [EventKind::TagDeleted]);
    assert_eq!(page.events[0].tags, tags[..1]);
}

#[test]
fn a_damaged_event_is_counted_and_found_by_verification() {
    let folder = folder();
    let store = open(folder.path());
    push_some(&store, 0..3);
    let damaged = store.0.core.read(|index| {
        index.turn()?;
        index.put(Tree::Events, &schema::event_key(2), Some(b"?"))
    });
    damaged.unwrap();
    let page = all(&store);
    assert_eq!((numbers(&page), page.missing, page.up_to), (vec![1, 3], 1, 3));
    assert_eq!(store.events(1, 1).unwrap().missing, 1);
    let report = store.verify(&VerifyOptions::new(), &mut |_| ControlFlow::Continue(())).unwrap();
    let found: Vec<_> = report.faults.iter().map(|fault| (fault.tree.as_str(), fault.kind)).collect();
    assert_eq!(found, [("events-2", FaultKind::Unreadable)]);
}

/// The copy would tell everybody anew what the store itself tells.
#[test]
fn a_snapshot_has_no_events_and_a_smaller_index_has_all() {
    let folder = folder();
    let store = open(folder.path());
    store.event_receivers(&["a"]).unwrap();
    push_some(&store, 0..3);
    store.events_taken("a", 1).unwrap();
    let copy = folder.path().with_extension("copy");
    store.snapshot(&copy, &SnapshotOptions::new(), &mut |_| ControlFlow::Continue(())).unwrap();
    drop(store);
    let snapshot = open(&copy);
    assert_eq!(all(&snapshot), EventPage::default());
    assert_eq!(snapshot.event_receivers(&["a"]).unwrap(), [0]);
    drop(snapshot);
    std::fs::remove_dir_all(copy).unwrap();

    compact(folder.path(), &mut |_| ControlFlow::Continue(())).unwrap();
    let store = open(folder.path());
    assert_eq!(numbers(&all(&store)), [2, 3]);
    assert_eq!(store.event_receivers(&["a"]).unwrap(), [1]);
}

/// What is told of a change says on whose behalf it was made; what the store does by itself is on nobody's.
#[test]
fn changes_are_told_with_who_made_them() {
    let folder = folder();
    let store = open(folder.path());
    let by = |user| Initiator::new().with_user(user);
    let (alice, bob) = (store.initiated_by(by("alice")), store.initiated_by(by("bob")));
    let pushed = push(&alice, b"1").unwrap();
    bob.put_manifest(&repository(), &empty_index(), &PutManifest::new()).unwrap();
    let manifest = *empty_index().digest();
    alice.tag(&repository(), &manifest, &"v1".parse().unwrap(), &Condition::Any).unwrap();
    bob.delete_tag(&repository(), &"v1".parse().unwrap()).unwrap();
    let other = "other".parse().unwrap();
    alice.mount(&other, &pushed, &MountSource::Repository(&repository())).unwrap();
    bob.delete_blob(&other, &pushed).unwrap();
    // A session is whose who commits it.
    let upload = alice.start_upload(&repository(), &UploadOptions::new()).unwrap();
    let id = upload.id();
    drop(upload);
    let mut upload = bob.resume_upload(&repository(), id, &UploadOptions::new()).unwrap();
    upload.write_all(b"2").unwrap();
    upload.commit(&Algorithm::Sha256.digest(b"2")).unwrap();
    alice.delete_manifest(&repository(), &manifest, &Pinned::none()).unwrap();
    store.collect(&CollectOptions::new().grace(Duration::ZERO), &mut |_| ControlFlow::Continue(())).unwrap();
    let page = all(&store);
    let who: Vec<_> = page.events.iter().map(|event| event.by.as_ref().and_then(Initiator::user)).collect();
    let [alice, bob] = [Some("alice"), Some("bob")];
    assert_eq!(who, [alice, bob, alice, bob, alice, bob, bob, alice, None, None]);
}

fn pull(store: &Sled) -> bool {
    let (repository, digest) = (repository(), *empty_index().digest());
    let pulled = Pulled { repository: &repository, digest: &digest, size: 1, media_type: None, tag: None };
    store.pulled(&pulled).unwrap()
}

/// Nobody who writes waits for it, and nobody else may come for long.
#[test]
fn a_pull_becomes_durable_by_itself() {
    let folder = folder();
    let (ring, rung) = std::sync::mpsc::channel();
    let store = open_with(folder.path(), Events::new().on_ready(move || ring.send(()).unwrap()));
    assert!(pull(&store.initiated_by(Initiator::new().with_user("alice"))));
    rung.recv_timeout(Duration::from_secs(60)).expect("receivers are told");
    let page = all(&store);
    assert_eq!(kinds(&page), [EventKind::BlobPulled]);
    assert_eq!(page.events[0].by.as_ref().and_then(Initiator::user), Some("alice"));
}

/// However much is pulled while nobody takes events, those of changes have half of the room.
#[test]
fn pulls_push_out_no_event_of_a_change() {
    let folder = folder();
    let store = open_with(folder.path(), Events::new().most(20));
    push_some(&store, 0..5);
    let told = (0..20).filter(|_| pull(&store)).count();
    assert_eq!(told, 5);
    push_some(&store, 5..15);
    assert_eq!(numbers(&all(&store)), (1..=20).collect::<Vec<_>>());
    let off = Options::new().reserve(1 << 20).open(folder.path().join("off")).unwrap();
    assert!(!pull(&off));
}
