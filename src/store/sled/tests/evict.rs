//! A cache that is full: what nobody asked for goes first, and goes whole.

use std::io::Write as _;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::collect::{has, has_manifest, image, index_of, put};
use super::{folder, noise, push, repository};
use crate::error::{Error, Result};
use crate::oci::{Algorithm, Digest, Manifest, Reference};
use crate::store::sled::changes::Changes;
use crate::store::sled::schema::{self, Tree};
use crate::store::sled::writer::Terms;
use crate::store::sled::{Options, Sled, WhenFull};
use crate::store::{Discover, Pinned, Pull, Push, UploadOptions};

const BUDGET: u64 = 108 << 20;
const LAYER: usize = 8 << 20;

fn options(pinned: Pinned) -> Options {
    let options = Options::new().reserve(1 << 20).budget(BUDGET).grace(Duration::from_secs(3600));
    options.when_full(WhenFull::Evict { pinned })
}

fn cache(folder: &tempfile::TempDir, pinned: Pinned) -> Sled {
    options(pinned).open(folder.path()).unwrap()
}

/// So long that a use is written down again.
fn a_while(store: &Sled) {
    store.0.core.clock.passed.fetch_add(100_000, Ordering::Relaxed);
}

/// Asks for a manifest, and waits until that is written down.
fn pull(store: &Sled, manifest: &Manifest) {
    store.manifest(&repository(), &Reference::Digest(*manifest.digest())).unwrap();
    store.0.writer.run(Terms::default(), |_| Ok(())).unwrap();
}

fn layer(store: &Sled, seed: u64) -> Digest {
    push(store, &noise(LAYER, seed)).unwrap()
}

fn within_budget(store: &Sled) {
    let usage = store.usage().unwrap();
    assert!(usage.in_files + usage.in_index + usage.in_rest <= BUDGET, "{usage:?}");
}

/// Pushes images of one layer each until so many have been pushed, a while between them.
fn fill(store: &Sled, seeds: std::ops::Range<u64>) -> Vec<(Manifest, Digest)> {
    seeds
        .map(|seed| {
            a_while(store);
            let layer = layer(store, seed);
            let manifest = image(&[layer], None);
            put(store, &manifest, &[&format!("v{seed}")]).unwrap();
            within_budget(store);
            (manifest, layer)
        })
        .collect()
}

#[test]
fn what_nobody_asked_for_the_longest_time_goes_first() -> Result<()> {
    let folder = folder();
    let store = cache(&folder, Pinned::none());
    let first = fill(&store, 0..6);
    a_while(&store);
    pull(&store, &first[0].0);
    pull(&store, &first[2].0);
    fill(&store, 6..12);
    let there = |(manifest, layer): &(Manifest, Digest)| {
        let (manifest, layer) = (has_manifest(&store, manifest), has(&store, layer));
        assert_eq!(manifest, layer, "an image goes whole");
        manifest
    };
    let left: Vec<bool> = first.iter().map(there).collect();
    assert_eq!(left[..4], [true, false, true, false]);
    // Their tags have gone with them.
    let tags = store.tags(&repository(), None, 100)?.items.len();
    assert_eq!(tags, left.iter().filter(|there| **there).count() + 6);
    Ok(())
}

#[test]
fn what_another_image_uses_stays() -> Result<()> {
    let folder = folder();
    let store = cache(&folder, Pinned::none());
    let (shared, own) = (layer(&store, 100), layer(&store, 101));
    let old = image(&[shared, own], None);
    put(&store, &old, &["old"])?;
    a_while(&store);
    let other = image(&[shared], None);
    put(&store, &other, &["other"])?;
    for seed in 0..9 {
        fill(&store, seed..seed + 1);
        pull(&store, &other);
    }
    assert!(!has_manifest(&store, &old) && !has(&store, &own));
    assert!(has_manifest(&store, &other) && has(&store, &shared));
    Ok(())
}

#[test]
fn an_index_goes_with_its_children_and_referrers_and_children_do_not_go_alone() -> Result<()> {
    let folder = folder();
    let store = cache(&folder, Pinned::none());
    let [first, second] = [200, 201].map(|seed| image(&[layer(&store, seed)], None));
    put(&store, &first, &[])?;
    put(&store, &second, &[])?;
    let index = index_of(&[&first, &second]);
    put(&store, &index, &["multi"])?;
    let signature = image(&[push(&store, b"signature")?], Some(index.digest()));
    put(&store, &signature, &[])?;
    let all = [&index, &first, &second, &signature];
    for seed in 0..6 {
        fill(&store, seed..seed + 1);
        // Only the index is asked for: what it is made of is older, and stays.
        pull(&store, &index);
    }
    assert!(all.iter().all(|manifest| has_manifest(&store, manifest)));
    fill(&store, 10..18);
    assert!(all.iter().all(|manifest| !has_manifest(&store, manifest)), "some of it stayed");
    assert!(!has(&store, &Algorithm::Sha256.digest(b"signature")));
    Ok(())
}

#[test]
fn pinned_images_stay_and_when_there_is_nothing_else_pushes_are_refused() -> Result<()> {
    let folder = folder();
    let store = cache(&folder, Pinned::tags(|tag| tag.as_str().starts_with('v')));
    let mut images = Vec::new();
    let refused = loop {
        let layer = match push(&store, &noise(LAYER, images.len() as u64)) {
            Ok(layer) => layer,
            Err(error) => break error,
        };
        let manifest = image(&[layer], None);
        put(&store, &manifest, &[&format!("v{}", images.len())])?;
        images.push(manifest);
        within_budget(&store);
    };
    assert!(refused.to_string().contains("budget"), "{refused}");
    assert!(images.len() >= 7 && images.iter().all(|manifest| has_manifest(&store, manifest)));
    Ok(())
}

/// What was not pinned went as its bytes came, and when all of that was gone it was refused.
#[test]
fn nothing_goes_for_what_would_not_fit_beside_what_is_pinned() -> Result<()> {
    let folder = folder();
    let store = cache(&folder, Pinned::tags(|tag| tag.as_str().starts_with('v')));
    let loose: Vec<_> = (0..3)
        .map(|seed| {
            let layer = layer(&store, 500 + seed);
            let manifest = image(&[layer], None);
            put(&store, &manifest, &[&format!("w{seed}")]).unwrap();
            manifest
        })
        .collect();
    let pinned = fill(&store, 0..4);
    let there = |images: &[Manifest]| images.iter().filter(|image| has_manifest(&store, image)).count();
    // Alone it would fit, and with the three gone it would not.
    let free = store.usage()?.free.unwrap();
    let size = |layers: u64| free + layers * LAYER as u64;
    let push_announced = |bytes: u64| {
        let content = noise(usize::try_from(bytes).unwrap(), bytes);
        let mut upload = store.start_upload(&repository(), &UploadOptions::new().size(bytes))?;
        let written = content.chunks(1 << 20).try_for_each(|piece| upload.write_all(piece));
        match written {
            Ok(()) => upload.commit(&Algorithm::Sha256.digest(&content)).map(drop),
            Err(error) => upload.cancel().and(Err(error.downcast::<Error>().unwrap())),
        }
    };
    let refused = push_announced(size(3) + (2 << 20));
    assert!(matches!(refused, Err(Error::OverBudget { .. })), "{refused:?}");
    assert_eq!(there(&loose), 3);
    // What fits comes in, and no more goes than has to.
    push_announced(size(1))?;
    assert!((1..3).contains(&there(&loose)), "{}", there(&loose));
    assert!(pinned.iter().all(|(manifest, _)| has_manifest(&store, manifest)));
    Ok(())
}

/// A header alone, of a terabyte that never came, emptied a cache.
#[test]
fn nothing_goes_for_what_would_not_fit_though_all_went() {
    let folder = folder();
    let store = cache(&folder, Pinned::none());
    let images = fill(&store, 0..7);
    let free = store.0.core.folder.available().unwrap();
    for size in [BUDGET, free.saturating_sub(1), 1 << 40] {
        let refused = store.start_upload(&repository(), &UploadOptions::new().size(size)).err().unwrap();
        assert!(matches!(refused, Error::OverBudget { .. } | Error::DiskFull { .. }), "{refused}");
    }
    assert!(images.iter().all(|(manifest, layer)| has_manifest(&store, manifest) && has(&store, layer)));
}

#[test]
fn sessions_that_nobody_goes_on_with_go_before_images_and_others_stay() -> Result<()> {
    let folder = folder();
    let store = cache(&folder, Pinned::none());
    let session = |seed| {
        let mut upload = store.start_upload(&repository(), &UploadOptions::new())?;
        upload.write_all(&noise(LAYER, seed)).unwrap();
        let id = upload.id();
        upload.suspend().map(|()| id)
    };
    let abandoned = session(500)?;
    let mut images = fill(&store, 0..5);
    let alive = session(501)?;
    images.extend(fill(&store, 5..7));
    assert!(images.iter().all(|(manifest, _)| has_manifest(&store, manifest)));
    let gone = store.upload_status(&repository(), abandoned).map(drop);
    assert!(matches!(gone, Err(Error::UploadUnknown { .. })), "{gone:?}");
    assert_eq!(store.upload_status(&repository(), alive)?.offset, LAYER as u64);
    Ok(())
}

/// A day is long for what no image may ever use, where images have to go for it.
#[test]
fn blobs_that_have_waited_an_hour_for_an_image_go_before_images_whatever_the_grace_time_is() -> Result<()> {
    let folder = folder();
    let store = options(Pinned::none()).grace(Duration::from_secs(24 * 3600)).open(folder.path())?;
    let abandoned = layer(&store, 300);
    let images = fill(&store, 0..7);
    store.0.core.clock.passed.fetch_add(3_600_000, Ordering::Relaxed);
    let fresh = layer(&store, 301);
    assert!(!has(&store, &abandoned) && has(&store, &fresh));
    assert!(images.iter().all(|(manifest, _)| has_manifest(&store, manifest)));
    Ok(())
}

#[test]
fn whoever_asks_is_told_which_images_went() -> Result<()> {
    let folder = folder();
    let told = Arc::new(Mutex::new(Vec::new()));
    let telling = Arc::clone(&told);
    let options =
        options(Pinned::none()).on_evicted(move |evicted| telling.lock().unwrap().push(evicted.clone()));
    let store = options.open(folder.path())?;
    let images = fill(&store, 0..10);
    let gone: Vec<_> = images.iter().filter(|(manifest, _)| !has_manifest(&store, manifest)).collect();
    let told = told.lock().unwrap();
    assert!(!gone.is_empty());
    assert_eq!(told.len(), gone.len());
    for ((manifest, _), (number, evicted)) in gone.into_iter().zip(told.iter().enumerate()) {
        assert_eq!((&evicted.repository, &evicted.digest), (&repository(), manifest.digest()));
        assert_eq!(evicted.tags, [format!("v{number}").parse().unwrap()]);
        assert_eq!(evicted.bytes, (LAYER + manifest.bytes().len()) as u64);
        assert!(evicted.unused >= Duration::from_secs(100), "{:?}", evicted.unused);
    }
    Ok(())
}

/// Fills the index with what no image brought.
fn fill_index(store: &Sled, chunks: std::ops::Range<u32>) {
    for batch in chunks.collect::<Vec<_>>().chunks(12) {
        let mut changes = Changes::new();
        for &number in batch {
            let key = schema::chunk_key(uuid::Uuid::from_u128(1), number);
            changes.set_value(Tree::Chunks, key, noise(schema::MAX_VALUE, number.into()));
        }
        store.0.writer.run(Terms::default(), move |desk| desk.apply(&changes)).unwrap();
    }
}

/// An index that small blobs had filled took the room of all images, one after another, and when they were gone nothing had any.
#[test]
fn no_image_goes_where_the_index_takes_the_room() {
    let folder = folder();
    let store = cache(&folder, Pinned::none());
    let images = fill(&store, 0..3);
    fill_index(&store, 0..8_000);
    store.0.core.room.look_at_rest(&store.0.core.folder);
    let refused = push(&store, &noise(LAYER, 400)).map(drop).unwrap_err();
    assert!(refused.to_string().contains("budget"), "{refused}");
    assert!(images.iter().all(|(manifest, layer)| has_manifest(&store, manifest) && has(&store, layer)));
}

#[test]
fn blobs_that_no_image_came_to_use_go_before_images() -> Result<()> {
    let folder = folder();
    let store = cache(&folder, Pinned::none());
    let abandoned = layer(&store, 300);
    let young = fill(&store, 0..7);
    store.0.core.clock.passed.fetch_add(3_600_000, Ordering::Relaxed);
    let fresh = layer(&store, 301);
    assert!(!has(&store, &abandoned) && has(&store, &fresh));
    assert!(young.iter().all(|(manifest, _)| has_manifest(&store, manifest)));
    Ok(())
}

#[test]
fn whoever_pulls_while_images_go_gets_them_whole_or_not_at_all() {
    let folder = folder();
    let store = cache(&folder, Pinned::none());
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    for tagged in store.tags(&repository(), None, 100).map_or(Vec::new(), |page| page.items) {
                        let manifest = match store.manifest(&repository(), &Reference::Digest(tagged.digest))
                        {
                            Ok(manifest) => manifest,
                            Err(Error::ManifestUnknown { .. }) => continue,
                            Err(error) => panic!("{error}"),
                        };
                        for reference in manifest.contents().unwrap().references {
                            match store.blob(&repository(), &reference.digest) {
                                // Open, it stays readable.
                                Ok(blob) => {
                                    let mut last = [0];
                                    blob.content.read_at(blob.stat.size - 1, &mut last).unwrap();
                                }
                                // Gone with its image, since that was read.
                                Err(Error::BlobUnknown { .. }) => {
                                    assert!(!has_manifest(&store, &manifest), "its image is still there");
                                }
                                Err(error) => panic!("{error}"),
                            }
                        }
                    }
                }
            });
        }
        fill(&store, 0..30);
        done.store(true, Ordering::Relaxed);
    });
}
