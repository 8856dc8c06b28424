//! Collection, with a clock that the test sets.

use std::fs;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};

use super::{entries, files, folder, noise, push, repository};
use crate::error::{Error, Result};
use crate::oci::{Algorithm, Digest, Manifest, MediaType, Reference, RepositoryName, Tag};
use crate::store::sled::changes::Changes;
use crate::store::sled::desk::Desk;
use crate::store::sled::orphans;
use crate::store::sled::schema::{self, Tree};
use crate::store::sled::writer::Terms;
use crate::store::sled::{CollectOptions, Collected, Options, Retention, Sled, Untagged};
use crate::store::{
    Condition, Discover, Manage, MountSource, Pinned, Pull, Push, PutManifest, UploadOptions,
};

const GRACE: Duration = Duration::from_secs(1000);

fn open(folder: &tempfile::TempDir) -> Sled {
    Options::new().reserve(1 << 20).grace(GRACE).open(folder.path()).unwrap()
}

/// Lets time pass: so many hundredths of the grace time. What deletions left to do is done before.
pub(super) fn pass(store: &Sled, hundredths: u64) {
    while entries(store, Tree::Leftovers) > 0 {
        std::thread::yield_now();
    }
    store.0.core.clock.passed.fetch_add(hundredths * 10_000, Ordering::Relaxed);
}

fn collect_with(store: &Sled, options: &CollectOptions) -> Collected {
    let found = store.collect(options, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(found.damaged, 0);
    found
}

fn collect(store: &Sled) -> Collected {
    collect_with(store, &CollectOptions::new())
}

/// With manifests that nothing keeps.
fn collect_all(store: &Sled) -> Collected {
    collect_with(store, &CollectOptions::new().untagged(Untagged::DeleteAfter(Duration::ZERO)))
}

pub(super) fn pointer(digest: &Digest) -> Value {
    json!({ "mediaType": "application/x", "digest": digest, "size": 1 })
}

pub(super) fn image(layers: &[Digest], subject: Option<&Digest>) -> Manifest {
    let layers: Vec<Value> = layers.iter().map(pointer).collect();
    let mut document = json!({ "schemaVersion": 2, "config": layers[0], "layers": layers });
    if let Some(subject) = subject {
        document["subject"] = pointer(subject);
    }
    Manifest::new(MediaType::OCI_MANIFEST.parse().unwrap(), document.to_string().into_bytes())
}

pub(super) fn index_of(children: &[&Manifest]) -> Manifest {
    let children: Vec<Value> = children.iter().map(|child| pointer(child.digest())).collect();
    let document = json!({ "schemaVersion": 2, "manifests": children });
    Manifest::new(MediaType::OCI_INDEX.parse().unwrap(), document.to_string().into_bytes())
}

pub(super) fn put(store: &Sled, manifest: &Manifest, tags: &[&str]) -> Result<()> {
    let tags: Vec<Tag> = tags.iter().map(|tag| tag.parse().unwrap()).collect();
    store.put_manifest(&repository(), manifest, &PutManifest::new().tags(&tags))
}

pub(super) fn has(store: &Sled, digest: &Digest) -> bool {
    store.blob(&repository(), digest).is_ok()
}

pub(super) fn has_manifest(store: &Sled, manifest: &Manifest) -> bool {
    store.manifest(&repository(), &Reference::Digest(*manifest.digest())).is_ok()
}

#[test]
fn what_nothing_references_goes_when_the_grace_time_has_passed_and_not_before() -> Result<()> {
    let folder = folder();
    let store = open(&folder);
    let digest = push(&store, &noise(100_000, 1))?;
    pass(&store, 99);
    assert_eq!(collect(&store), Collected::default());
    assert!(has(&store, &digest));
    pass(&store, 2);
    let dry = collect_with(&store, &CollectOptions::new().dry_run(true));
    assert_eq!((dry.links, dry.blobs, dry.bytes), (1, 1, 100_000));
    assert!(has(&store, &digest), "a dry run removes nothing");
    assert_eq!(collect(&store), dry);
    assert!(!has(&store, &digest));
    assert!(store.repositories(None, 1)?.items.is_empty());
    drop(store);
    assert_eq!(files(folder.path()), 0);
    let store = open(&folder);
    for tree in Tree::ALL.into_iter().filter(|tree| *tree != Tree::Meta) {
        assert_eq!(entries(&store, tree), 0, "{}", tree.name());
    }
    Ok(())
}

#[test]
fn what_a_manifest_references_stays_until_the_manifest_is_gone_for_the_grace_time() -> Result<()> {
    let folder = folder();
    let store = open(&folder);
    let (own, shared) = (push(&store, b"own")?, push(&store, b"shared")?);
    let (first, second) = (image(&[own, shared], None), image(&[shared], None));
    put(&store, &first, &["first"])?;
    put(&store, &second, &["second"])?;
    pass(&store, 500);
    let found = collect(&store);
    assert_eq!((found.links, found.kept), (0, 2));
    // What is kept has been looked at once, and is no candidate any more.
    assert_eq!(collect(&store).kept, 0);

    store.delete_manifest(&repository(), first.digest(), &Pinned::none())?;
    pass(&store, 99);
    assert_eq!(collect(&store).links, 0, "the grace time began when the last reference went");
    pass(&store, 2);
    assert_eq!(collect(&store).blobs, 1);
    assert!(!has(&store, &own) && has(&store, &shared));
    Ok(())
}

#[test]
fn a_blob_goes_out_of_one_repository_and_stays_in_the_other() -> Result<()> {
    let folder = folder();
    let store = open(&folder);
    let other: RepositoryName = "other".parse()?;
    let digest = push(&store, &noise(70_000, 1))?;
    pass(&store, 60);
    store.mount(&other, &digest, &MountSource::Repository(&repository()))?;
    pass(&store, 60);
    let found = collect(&store);
    assert_eq!((found.links, found.blobs, found.bytes), (1, 0, 0));
    assert!(!has(&store, &digest) && store.blob(&other, &digest).is_ok());
    pass(&store, 60);
    assert_eq!(collect(&store).blobs, 1);
    Ok(())
}

#[test]
fn who_is_told_that_a_blob_is_there_can_rely_on_it() -> Result<()> {
    let folder = folder();
    let store = open(&folder);
    let digests = [push(&store, b"asked for")?, push(&store, b"pushed again")?, push(&store, b"forgotten")?];
    let manifest = image(&digests[..1], None);
    put(&store, &manifest, &[])?;
    store.delete_manifest(&repository(), manifest.digest(), &Pinned::none())?;
    pass(&store, 60);
    store.stat(&repository(), &digests[0])?;
    push(&store, b"pushed again")?;
    pass(&store, 60);
    assert_eq!(collect(&store).links, 1);
    // More than the grace time after they were pushed, and before it has passed since somebody was told.
    assert_eq!(digests.map(|digest| has(&store, &digest)), [true, true, false]);
    put(&store, &image(&digests[..2], None), &["late"])?;
    pass(&store, 300);
    assert_eq!(collect(&store).links, 0);
    Ok(())
}

#[test]
fn asking_often_writes_seldom() -> Result<()> {
    let folder = folder();
    let store = open(&folder);
    let digest = push(&store, b"asked for")?;
    let stamp = || {
        let key = schema::digest_within(&repository(), &digest);
        store.0.core.read(|index| Ok(index.get::<schema::Link>(&key)?.unwrap().unreferenced_since)).unwrap()
    };
    let first = stamp();
    pass(&store, 49);
    store.stat(&repository(), &digest)?;
    assert_eq!(stamp(), first);
    pass(&store, 2);
    store.stat(&repository(), &digest)?;
    assert!(stamp() > first);
    Ok(())
}

#[test]
fn manifests_without_a_tag_stay_or_go_as_the_policy_says() -> Result<()> {
    let folder = folder();
    let store = open(&folder);
    let layer = push(&store, b"layer")?;
    let [old, new, child, referrer, retagged] = [1, 2, 3, 4, 5].map(|n| {
        let own = push(&store, &[n]).unwrap();
        (n, own)
    });
    let old = image(&[layer, old.1], None);
    let new = image(&[layer, new.1], None);
    let child = image(&[layer, child.1], None);
    let index = index_of(&[&child]);
    let referrer = image(&[referrer.1], Some(new.digest()));
    let retagged = image(&[retagged.1], None);
    put(&store, &old, &["latest", "stable"])?;
    put(&store, &child, &[])?;
    put(&store, &index, &["multi"])?;
    put(&store, &referrer, &[])?;
    // Two tags of one manifest move at once: neither is the last when it is looked at alone.
    put(&store, &new, &["latest", "stable"])?;
    put(&store, &retagged, &["only"])?;
    store.delete_tag(&repository(), &"only".parse()?)?;
    pass(&store, 101);
    assert_eq!(collect(&store).manifests, 0, "by default they stay");
    let age = |age| CollectOptions::new().untagged(Untagged::DeleteAfter(GRACE * age));
    assert_eq!(collect_with(&store, &age(2)).manifests, 0, "they are not old enough");
    let found = collect_all(&store);
    assert_eq!((found.manifests, found.kept), (2, 2));
    assert!(!has_manifest(&store, &old) && !has_manifest(&store, &retagged));
    for kept in [&new, &child, &index, &referrer] {
        assert!(has_manifest(&store, kept));
    }

    // What kept them goes.
    store.delete_manifest(&repository(), index.digest(), &Pinned::none())?;
    store.delete_manifest(&repository(), new.digest(), &Pinned::none())?;
    pass(&store, 101);
    assert_eq!(collect_all(&store).manifests, 2);
    assert!(!has_manifest(&store, &child) && !has_manifest(&store, &referrer));
    pass(&store, 101);
    collect_all(&store);
    assert!(store.repositories(None, 1)?.items.is_empty());
    Ok(())
}

#[test]
fn a_tag_or_a_push_in_time_keeps_a_manifest() -> Result<()> {
    let folder = folder();
    let store = open(&folder);
    let layer = push(&store, b"layer")?;
    let [tagged, pushed, asked, left] = [1, 2, 3, 4].map(|n| {
        let manifest = image(&[layer, push(&store, &[n]).unwrap()], None);
        put(&store, &manifest, &[]).unwrap();
        manifest
    });
    pass(&store, 60);
    store.tag(&repository(), tagged.digest(), &"v1".parse()?, &Condition::Any)?;
    put(&store, &pushed, &[])?;
    store.resolve(&repository(), &Reference::Digest(*asked.digest()))?;
    pass(&store, 60);
    assert_eq!(collect_all(&store).manifests, 1);
    assert!(!has_manifest(&store, &left));
    // A child that somebody was told of in time becomes an index's.
    put(&store, &index_of(&[&pushed, &asked]), &["multi"])?;
    pass(&store, 300);
    assert_eq!(collect_all(&store).manifests, 0);
    Ok(())
}

#[test]
fn a_deletion_that_a_kill_cut_short_still_abandons_what_it_kept() -> Result<()> {
    let folder = folder();
    let store = open(&folder);
    let layer = push(&store, b"layer")?;
    let subject = image(&[layer], None);
    put(&store, &subject, &["v1"])?;
    let referrer = image(&[layer], Some(subject.digest()));
    put(&store, &referrer, &[])?;
    pass(&store, 200);
    assert_eq!(collect_all(&store).kept, 2);
    // As a kill right after the deletion's own transaction leaves it.
    let digest = *subject.digest();
    let cut = move |desk: &mut Desk<'_>| {
        let (_, recorded) =
            crate::store::sled::manifests::find(desk.index(), &repository(), &Reference::Digest(digest))?;
        let mut changes = Changes::new();
        changes.remove(Tree::Manifests, schema::digest_within(&repository(), &digest));
        crate::store::sled::leftovers::retire(
            &mut changes,
            recorded.content,
            Some((&repository(), &digest)),
        )?;
        desk.apply(&changes)
    };
    store.0.writer.run(Terms { durable: true, ..Terms::default() }, cut)?;
    drop(store);

    drop(open(&folder));
    let store = open(&folder);
    pass(&store, 101);
    assert_eq!(collect_all(&store).manifests, 1);
    pass(&store, 101);
    assert_eq!(collect_all(&store).blobs, 1);
    Ok(())
}

#[test]
fn sessions_that_nobody_goes_on_with_expire() -> Result<()> {
    let folder = folder();
    let store = open(&folder);
    let begin = |content: &[u8]| {
        let mut upload = store.start_upload(&repository(), &UploadOptions::new()).unwrap();
        std::io::Write::write_all(&mut upload, content).unwrap();
        upload
    };
    let silent = begin(&noise(100_000, 1));
    let silent_id = silent.id();
    silent.suspend()?;
    let resumed = begin(&noise(100_000, 2));
    let resumed_id = resumed.id();
    resumed.suspend()?;
    store.0.core.clock.passed.fetch_add(7 * 24 * 3_600_000, Ordering::Relaxed);
    let mut resumed = store.resume_upload(&repository(), resumed_id, &UploadOptions::new())?;

    let dry = collect_with(&store, &CollectOptions::new().dry_run(true));
    assert_eq!(dry.uploads, 2, "a dry run cannot tell who has a session in hand");
    let found = collect(&store);
    assert_eq!((found.uploads, found.bytes), (1, 100_000));
    assert!(matches!(store.upload_status(&repository(), silent_id), Err(Error::UploadUnknown { .. })));
    std::io::Write::write_all(&mut resumed, b"more").unwrap();
    resumed.suspend()?;
    assert_eq!(collect(&store).uploads, 0);
    drop(store);
    assert_eq!(files(folder.path()), 1);
    Ok(())
}

#[test]
fn uptime_goes_on_after_a_restart_and_stands_still_in_between() -> Result<()> {
    let folder = folder();
    let store = open(&folder);
    let digest = push(&store, b"x")?;
    pass(&store, 70);
    drop(store);
    let store = open(&folder);
    pass(&store, 20);
    assert_eq!(collect(&store).links, 0);
    pass(&store, 20);
    assert_eq!(collect(&store).links, 1);
    assert!(!has(&store, &digest));
    Ok(())
}

#[test]
fn one_damaged_record_does_not_keep_the_others_from_being_collected() -> Result<()> {
    let folder = folder();
    let store = open(&folder);
    let digests = [push(&store, b"1")?, push(&store, b"2")?, push(&store, b"3")?];
    let damaged = schema::digest_within(&repository(), &digests[1]);
    store.0.writer.run(Terms::default(), move |desk| {
        let mut changes = Changes::new();
        changes.set_value(Tree::Links, damaged, b"\xff\xff".to_vec());
        changes.set_value(Tree::Candidates, b"\x01no key at all".to_vec(), Vec::new());
        desk.apply(&changes)
    })?;
    pass(&store, 101);
    let found = store.collect(&CollectOptions::new(), &mut |_| ControlFlow::Continue(()))?;
    assert_eq!((found.links, found.damaged), (2, 2));
    Ok(())
}

#[test]
fn a_collection_can_be_ended_early() -> Result<()> {
    let folder = folder();
    let store = open(&folder);
    for n in 0..100_u8 {
        push(&store, &[n])?;
    }
    pass(&store, 101);
    let ended = store.collect(&CollectOptions::new(), &mut |_| ControlFlow::Break(()));
    assert!(matches!(ended, Err(Error::Interrupted(_))), "{ended:?}");
    assert_eq!(collect(&store).links, 100);
    Ok(())
}

/// The tags that a rule leaves of so many that were set one after another, a hundredth of the grace time apart.
fn retained(rule: Retention) -> Vec<String> {
    let folder = folder();
    let store = open(&folder);
    let layer = push(&store, b"layer").unwrap();
    for n in 0..40 {
        pass(&store, 1);
        put(&store, &image(&[layer], None), &[&format!("v{n:02}")]).unwrap();
    }
    let options = CollectOptions::new().retention(rule);
    let dry = collect_with(&store, &options.clone().dry_run(true));
    let before = store.tags(&repository(), None, 100).unwrap().items.len() as u64;
    assert_eq!(collect_with(&store, &options).tags, dry.tags);
    let left = store.tags(&repository(), None, 100).unwrap().items;
    assert_eq!(before - dry.tags, left.len() as u64);
    left.into_iter().map(|tagged| tagged.tag.to_string()).collect()
}

#[test]
fn of_old_tags_stay_the_last_the_young_and_the_named() {
    let all = || Retention::of(|_| true);
    let numbers = |range: std::ops::Range<u8>| range.map(|n| format!("v{n:02}")).collect::<Vec<_>>();
    assert_eq!(retained(all().keep_last(3)), numbers(37..40));
    assert_eq!(retained(all().keep_last(100)), numbers(0..40));
    assert_eq!(retained(all()), numbers(0..0));
    // The last was set just now, the one before it a hundredth of the grace time ago.
    assert_eq!(retained(all().keep_younger(GRACE / 100 * 5)).len(), 5);
    let named = |tag: &Tag| tag.as_str().ends_with('7');
    assert_eq!(retained(all().keep(named)), ["v07", "v17", "v27", "v37"]);
    // What is kept by its name is not one of the last.
    assert_eq!(retained(all().keep(named).keep_last(3)), ["v07", "v17", "v27", "v36", "v37", "v38", "v39"]);
    assert_eq!(retained(Retention::of(|name| name.as_str() == "other")), numbers(0..40));
}

#[test]
fn the_first_rule_for_a_repository_is_the_one() -> Result<()> {
    let folder = folder();
    let store = open(&folder);
    put(&store, &image(&[push(&store, b"layer")?], None), &["a", "b"])?;
    let options = CollectOptions::new()
        .retention(Retention::of(|name| *name == repository()).keep(|tag| tag.as_str() == "a"))
        .retention(Retention::of(|_| true));
    assert_eq!(collect_with(&store, &options).tags, 1);
    assert_eq!(store.tags(&repository(), None, 10)?.items.len(), 1);
    Ok(())
}

const TERMS: Terms = Terms { durable: true, new_file: false, adds: false };

/// What a kill at this moment would leave.
fn killed(folder: &tempfile::TempDir) -> tempfile::TempDir {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap().map(std::result::Result::unwrap) {
            let to = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                copy(&entry.path(), &to);
            } else {
                fs::copy(entry.path(), to).unwrap();
            }
        }
    }
    let left = self::folder();
    copy(folder.path(), left.path());
    left
}

/// A file in which an upload began before its record was durable, and one of a value's pieces; and one that somebody is to look at.
fn lay_orphans(store: &Sled) {
    let [file, chunk, aside] = [1, 2, 3].map(uuid::Uuid::from_u128);
    fs::write(store.0.core.folder.content(file), [0; 77]).unwrap();
    store.0.core.folder.make_quarantine().unwrap();
    fs::write(store.0.core.folder.quarantined(aside), [0; 7]).unwrap();
    let work = move |desk: &mut Desk<'_>| {
        let mut changes = Changes::new();
        changes.set_value(Tree::Chunks, schema::chunk_key(chunk, 0), vec![0; 777]);
        desk.apply(&changes)
    };
    store.0.writer.run(TERMS, work).unwrap();
}

#[test]
fn a_collection_after_a_life_that_was_cut_off_removes_what_no_record_names() {
    let folder = folder();
    let store = open(&folder);
    assert_eq!(collect(&store).orphans, 0);
    let large = push(&store, &noise(100_000, 1)).unwrap();
    put(&store, &image(&[large], None), &["a"]).unwrap();
    let mut upload = store.start_upload(&repository(), &UploadOptions::new()).unwrap();
    upload.write_all(&noise(200_000, 2)).unwrap();
    let session = upload.id();
    upload.suspend().unwrap();
    lay_orphans(&store);
    let left = killed(&folder);
    drop(store);

    let store = open(&left);
    let before = files(left.path());
    let dry = collect_with(&store, &CollectOptions::new().dry_run(true));
    assert_eq!((dry.orphans, dry.bytes), (2, 77 + 777));
    assert_eq!(files(left.path()), before);
    let found = collect(&store);
    assert_eq!(found, dry);
    assert!(!found.is_empty());
    pass(&store, 0);
    assert_eq!(files(left.path()), before - 1, "the layer and the session stay");
    assert_eq!(fs::read_dir(left.path().join("quarantine")).unwrap().count(), 1);
    let upload = store.resume_upload(&repository(), session, &UploadOptions::new()).unwrap();
    upload.commit(&Algorithm::Sha256.digest(&noise(200_000, 2))).unwrap();
    store.blob(&repository(), &large).unwrap();
    assert_eq!(collect(&store).orphans, 0);
}

/// It would read all records each time.
#[test]
fn a_collection_looks_for_what_no_record_names_only_where_a_life_was_cut_off() {
    let folder = folder();
    let store = open(&folder);
    lay_orphans(&store);
    assert_eq!(collect(&store).orphans, 0, "a new store");
    drop(store);
    let store = open(&folder);
    assert_eq!(collect(&store).orphans, 0, "one that was closed");
    // An index that is opened again after a failure may have lost the records of what is there.
    store.0.writer.run(TERMS, orphans::begin_life).unwrap();
    assert_eq!(collect(&store).orphans, 2);
}
