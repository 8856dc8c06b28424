//! What is at hand: that it is, and that what asks for a change is not.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::collect::image;
use super::{Result, folder, noise, push, repository};
use crate::oci::{Manifest, Reference, Tag};
use crate::store::sled::{CollectOptions, Options, Sled, WhenFull};
use crate::store::{Discover, Manage, Pinned, Pull, Push, PutManifest};

const GRACE: Duration = Duration::from_secs(1000);

fn pass(store: &Sled, seconds: u64) {
    store.0.core.clock.passed.fetch_add(seconds * 1000, Ordering::Relaxed);
}

fn put(store: &Sled, seed: u64, tags: &[Tag]) -> Result<Manifest> {
    let manifest = image(&[push(store, &noise(100, seed))?], None);
    store.put_manifest(&repository(), &manifest, &PutManifest::new().tags(tags))?;
    Ok(manifest)
}

#[test]
fn what_was_read_is_at_hand_until_its_repository_changes() -> Result<()> {
    let folder = folder();
    let store = Options::new().reserve(1 << 20).open(folder.path())?;
    let (name, tag) = (repository(), "v1".parse::<Tag>().unwrap());
    let manifest = put(&store, 1, std::slice::from_ref(&tag))?;
    let config = manifest.contents()?.references[0].digest;
    let by_tag = Reference::Tag(tag);
    let at_hand = || {
        [
            store.manifest_at_hand(&name, &by_tag).is_some(),
            store.resolve_at_hand(&name, &by_tag).is_some(),
            store.stat_at_hand(&name, &config).is_some(),
            store.tags_at_hand(&name, None, 10).is_some(),
        ]
    };
    for _ in 0..2 {
        assert_eq!(at_hand(), [false; 4]);
        store.manifest(&name, &by_tag)?;
        store.resolve(&name, &by_tag)?;
        store.stat(&name, &config)?;
        store.tags(&name, None, 10)?;
        assert_eq!(at_hand(), [true; 4]);
        assert_eq!(store.manifest_at_hand(&name, &by_tag).unwrap(), manifest);
        // Another repository is nothing to it.
        let elsewhere = "elsewhere".parse().unwrap();
        store.put_manifest(
            &elsewhere,
            &manifest,
            &PutManifest::new().references(crate::store::References::MayBeAbsent),
        )?;
        assert_eq!(at_hand(), [true; 4]);
        push(&store, b"anything")?;
    }
    // What the index had may be gone when it was opened again.
    store.manifest(&name, &by_tag)?;
    store.0.core.reopen(|_| Ok(()))?;
    assert_eq!(at_hand(), [false; 4]);
    Ok(())
}

/// Somebody who is told that something is there counts on it for a while: where its grace time is to begin anew for that, it is
/// not enough to remember that it was there.
#[test]
fn what_is_to_be_kept_for_longer_is_not_at_hand() -> Result<()> {
    let folder = folder();
    let store = Options::new().reserve(1 << 20).grace(GRACE).open(folder.path())?;
    let name = repository();
    let manifest = put(&store, 1, &[])?;
    let blob = push(&store, b"nobody's yet")?;
    let reference = Reference::Digest(*manifest.digest());
    for _ in 0..3 {
        // The first time each may begin its grace time anew, which voids both.
        for _ in 0..2 {
            store.resolve(&name, &reference)?;
            store.stat(&name, &blob)?;
        }
        assert!(store.resolve_at_hand(&name, &reference).is_some());
        assert!(store.stat_at_hand(&name, &blob).is_some());
        pass(&store, 501);
        assert!(store.resolve_at_hand(&name, &reference).is_none());
        assert!(store.stat_at_hand(&name, &blob).is_none());
    }
    let collected = store.collect(&CollectOptions::new(), &mut |_| ControlFlow::Continue(()))?;
    assert_eq!(collected.links, 0, "somebody was told of it 501 s ago");
    Ok(())
}

#[test]
fn a_use_that_a_cache_is_to_write_down_is_not_answered_at_hand() -> Result<()> {
    let folder = folder();
    let options = Options::new().reserve(1 << 20).budget(256 << 20);
    let store = options.when_full(WhenFull::Evict { pinned: Pinned::none() }).open(folder.path())?;
    let (name, tag) = (repository(), "v1".parse::<Tag>().unwrap());
    put(&store, 1, std::slice::from_ref(&tag))?;
    let reference = Reference::Tag(tag);
    store.manifest(&name, &reference)?;
    assert!(store.manifest_at_hand(&name, &reference).is_some());
    pass(&store, 100);
    assert!(store.manifest_at_hand(&name, &reference).is_none());
    store.delete_tag(&name, &"v1".parse().unwrap())?;
    Ok(())
}
