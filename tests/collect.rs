//! Collection without pause under the load of many clients: what was acknowledged can be pulled, always, and in the end nothing
//! is left that nothing references.
//!
//! Short here; `COLLECT_CLIENTS=64 COLLECT_SECONDS=60 cargo test --release --test collect -- --nocapture` is the long form.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test stops at the first surprise, and says what it saw"
)]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use serde_json::json;
use sledge::oci::{Algorithm, Digest, Manifest, MediaType, Reference, RepositoryName, Tag};
use sledge::store::sled::{CollectOptions, Options, Sled, Untagged};
use sledge::store::{Discover, Manage, MountSource, Pinned, Pull, Push, PutManifest, UploadOptions};
use sledge::{Error, Result};

/// So short that a push takes longer: clients then push what is missing once more, as real ones do.
const GRACE: Duration = Duration::from_millis(100);

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides as u64).unwrap()
    }
}

/// What was acknowledged, under one tag of one repository: its owner changes it, and others pull it meanwhile.
struct Slot {
    repository: RepositoryName,
    tag: Tag,
    image: RwLock<Option<Digest>>,
}

struct World {
    store: Sled,
    layers: BTreeMap<Digest, Vec<u8>>,
    digests: Vec<Digest>,
    slots: Vec<Vec<Slot>>,
    pulls: AtomicU64,
    images: AtomicU64,
    again: AtomicU64,
}

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    (0..length).map(|_| u8::try_from(dice.roll(256)).unwrap()).collect()
}

impl World {
    fn new(store: Sled, clients: usize) -> Self {
        // Inline and in files; few enough that others have the same, and so many that each is abandoned now and then.
        let layers: BTreeMap<Digest, Vec<u8>> = (0..8 * clients as u64)
            .map(|n| noise(if n % 4 == 0 { 30_000 } else { 700 }, n + 1))
            .map(|bytes| (Algorithm::Sha256.digest(&bytes), bytes))
            .collect();
        let slot = |client: usize, n: usize| Slot {
            repository: format!("r{}", client % 8).parse().unwrap(),
            tag: format!("c{client}-{n}").parse().unwrap(),
            image: RwLock::default(),
        };
        Self {
            store,
            digests: layers.keys().copied().collect(),
            layers,
            slots: (0..clients).map(|client| (0..3).map(|n| slot(client, n)).collect()).collect(),
            pulls: AtomicU64::new(0),
            images: AtomicU64::new(0),
            again: AtomicU64::new(0),
        }
    }

    fn push_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<()> {
        let mut upload = self.store.start_upload(repository, &UploadOptions::new())?;
        upload.write_all(&self.layers[digest]).unwrap();
        upload.commit(digest).map(drop)
    }

    /// As clients do: ask, mount, or push.
    fn bring(&self, dice: &mut Dice, repository: &RepositoryName, digest: &Digest) -> Result<()> {
        match self.store.stat(repository, digest) {
            Ok(_) => return Ok(()),
            Err(Error::BlobUnknown { .. }) => {}
            Err(error) => return Err(error),
        }
        if dice.roll(2) == 0 {
            match self.store.mount(repository, digest, &MountSource::Any(&|_| true)) {
                Ok(_) => return Ok(()),
                Err(Error::BlobUnknown { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.push_blob(repository, digest)
    }

    /// Puts a manifest, and pushes what collection took meanwhile, until it is acknowledged.
    fn put(&self, repository: &RepositoryName, manifest: &Manifest, tags: &[Tag]) -> Result<()> {
        loop {
            match self.store.put_manifest(repository, manifest, &PutManifest::new().tags(tags)) {
                Err(Error::ReferencesMissing { missing, .. }) => {
                    self.again.fetch_add(1, Ordering::Relaxed);
                    for (_, digest) in missing.iter().filter(|(_, digest)| self.layers.contains_key(digest)) {
                        self.push_blob(repository, digest)?;
                    }
                    if missing.iter().any(|(_, digest)| !self.layers.contains_key(digest)) {
                        return Err(Error::ReferencesMissing { repository: repository.clone(), missing });
                    }
                }
                outcome => return outcome,
            }
        }
    }

    fn image(&self, dice: &mut Dice, subject: Option<&Digest>) -> (Manifest, Vec<Digest>) {
        let digests: Vec<Digest> =
            (0..1 + dice.roll(5)).map(|_| self.digests[dice.roll(self.digests.len())]).collect();
        let layers: Vec<_> = digests
            .iter()
            .map(|digest| json!({ "mediaType": "a/b", "digest": digest, "size": self.layers[digest].len() }))
            .collect();
        let mut document = json!({ "schemaVersion": 2, "config": layers[0], "layers": layers, "annotations": { "n": dice.0.to_string() } });
        if let Some(subject) = subject {
            document["subject"] = json!({ "mediaType": "a/b", "digest": subject, "size": 1 });
        }
        let media_type = MediaType::OCI_MANIFEST.parse().unwrap();
        (Manifest::new(media_type, document.to_string().into_bytes()), digests)
    }

    /// One image, or an index of two, pushed under the slot's tag in place of what was there.
    fn push(&self, dice: &mut Dice, slot: &Slot) -> Result<()> {
        let mut current = slot.image.write().unwrap();
        let (image, layers) = self.image(dice, None);
        for digest in &layers {
            self.bring(dice, &slot.repository, digest)?;
        }
        let tags = std::slice::from_ref(&slot.tag);
        if dice.roll(4) > 0 {
            self.put(&slot.repository, &image, tags)?;
            *current = Some(*image.digest());
        } else {
            let (second, _) = self.image(dice, None);
            let children: Vec<_> = [&image, &second]
                .iter()
                .map(|child| json!({ "mediaType": child.media_type(), "digest": child.digest(), "size": 1 }))
                .collect();
            let document = json!({ "schemaVersion": 2, "manifests": children });
            let index = Manifest::new(MediaType::OCI_INDEX.parse()?, document.to_string().into_bytes());
            loop {
                self.put(&slot.repository, &image, &[])?;
                self.put(&slot.repository, &second, &[])?;
                match self.put(&slot.repository, &index, tags) {
                    Err(Error::ReferencesMissing { .. }) => {}
                    outcome => break outcome?,
                }
            }
            *current = Some(*index.digest());
        }
        self.images.fetch_add(1, Ordering::Relaxed);
        if dice.roll(4) == 0 {
            let (referrer, _) = self.image(dice, current.as_ref());
            self.put(&slot.repository, &referrer, &[])?;
            let referrers = self.store.referrers(&slot.repository, &current.unwrap(), None, None, 100)?.items;
            assert!(referrers.iter().any(|found| found.digest == *referrer.digest()), "a referrer is gone");
        }
        Ok(())
    }

    /// Everything of what was acknowledged, byte for byte.
    fn pull(&self, slot: &Slot, current: &RwLockReadGuard<'_, Option<Digest>>) -> Result<()> {
        let Some(digest) = **current else { return Ok(()) };
        let found = self.store.manifest(&slot.repository, &Reference::Tag(slot.tag.clone()))?;
        assert_eq!(found.digest(), &digest, "the tag points elsewhere");
        self.pull_manifest(slot, &found)?;
        self.pulls.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn pull_manifest(&self, slot: &Slot, manifest: &Manifest) -> Result<()> {
        for reference in manifest.contents()?.references {
            if let Some(expected) = self.layers.get(&reference.digest) {
                let blob = self.store.blob(&slot.repository, &reference.digest)?;
                let mut found = vec![0; expected.len()];
                blob.content.read_at(0, &mut found).unwrap();
                assert!(found == *expected, "other bytes came back");
            } else {
                let child = self.store.manifest(&slot.repository, &Reference::Digest(reference.digest))?;
                self.pull_manifest(slot, &child)?;
            }
        }
        Ok(())
    }

    fn client(&self, number: usize, go_on: impl Fn(usize) -> bool) -> Result<()> {
        let mut dice = Dice(number as u64 * 7919 + 1);
        let own = &self.slots[number];
        for round in 0.. {
            if !go_on(round) {
                return Ok(());
            }
            let slot = &own[dice.roll(own.len())];
            match dice.roll(8) {
                0..=3 => self.push(&mut dice, slot)?,
                4 => {
                    let mut current = slot.image.write().unwrap();
                    if current.take().is_some() {
                        self.store.delete_tag(&slot.repository, &slot.tag)?;
                    }
                }
                5 => {
                    let mut current = slot.image.write().unwrap();
                    if let Some(digest) = current.take() {
                        self.store.delete_manifest(&slot.repository, &digest, &Pinned::none())?;
                    }
                }
                _ => {
                    let others = &self.slots[dice.roll(self.slots.len())];
                    let slot = &others[dice.roll(others.len())];
                    self.pull(slot, &slot.image.read().unwrap())?;
                }
            }
        }
        Ok(())
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

#[test]
fn no_acknowledged_image_fails_to_pull_while_collection_runs_without_pause() {
    let clients = usize::try_from(setting("COLLECT_CLIENTS").unwrap_or(16)).unwrap();
    let until = setting("COLLECT_SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let folder = tempfile::tempdir().unwrap();
    let store = Options::new().reserve(1 << 20).grace(GRACE).open(folder.path()).unwrap();
    let world = World::new(store.clone(), clients);
    let options = CollectOptions::new().untagged(Untagged::DeleteAfter(GRACE));
    let on = &mut |_: &_| ControlFlow::Continue(());

    let done = AtomicBool::new(false);
    let (mut runs, mut collected) = (0, sledge::store::sled::Collected::default());
    std::thread::scope(|threads| {
        let collecting = threads.spawn(|| {
            let (mut runs, mut collected) = (0_u64, sledge::store::sled::Collected::default());
            while !done.load(Ordering::Relaxed) {
                collected += store.collect(&options, &mut |_| ControlFlow::Continue(())).unwrap();
                runs += 1;
            }
            (runs, collected)
        });
        let working: Vec<_> = (0..clients)
            .map(|number| {
                let world = &world;
                let go_on = move |round| until.map_or(round < 40, |until| Instant::now() < until);
                threads.spawn(move || world.client(number, go_on))
            })
            .collect();
        let outcomes: Vec<_> = working.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Relaxed);
        (runs, collected) = collecting.join().unwrap();
        for outcome in outcomes {
            outcome.unwrap().unwrap();
        }
    });
    println!(
        "{clients} clients: {} images pushed, {} pulled, 0 failed; {} pushes found something collected and sent it again; \
         {runs} collections removed {collected}",
        world.images.load(Ordering::Relaxed),
        world.pulls.load(Ordering::Relaxed),
        world.again.load(Ordering::Relaxed),
    );
    assert!(collected.links > 0 && collected.manifests > 0, "collection had nothing to do");

    for slot in world.slots.iter().flatten() {
        world.pull(slot, &slot.image.read().unwrap()).unwrap();
        if let Some(digest) = slot.image.write().unwrap().take() {
            store.delete_manifest(&slot.repository, &digest, &Pinned::none()).unwrap();
        }
    }
    // Children after their index, layers after their manifests: each when its own grace time has passed.
    while !store.repositories(None, 1).unwrap().items.is_empty() {
        store.collect(&options, on).unwrap();
    }
    drop(world);
    drop(store);
    let left = std::fs::read_dir(folder.path().join("content")).unwrap().count();
    assert_eq!(left, 0, "files that nothing references are left");
}
