//! A Sled store in a folder beside one in memory: whatever is done to both, both answer alike.
//!
//! What is done is chosen by dice in `tests/model.rs`, and by the fuzzer's input in the target `model`.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sledge::Error;
use sledge::oci::{Digest, Manifest, MediaType, Reference, RepositoryName, Tag};
use sledge::store::memory::Memory;
use sledge::store::sled::{
    CollectOptions, EventKind, Events, Inline, Options, Sled, Untagged, VerifyOptions,
};
use sledge::store::{
    Condition, Manage as _, MountSource, Pinned, Pull as _, Push as _, PutManifest, References, Store,
    UploadOptions,
};
use tempfile::TempDir;
use uuid::Uuid;

pub use world::World;
use world::{answer, everything, read};

mod world;

/// Where choices come from.
pub trait Choices {
    /// A number below `sides`.
    fn roll(&mut self, sides: usize) -> usize;

    /// One of these.
    fn of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.roll(choices.len())]
    }

    /// Each of these or not.
    fn some<T: Clone>(&mut self, choices: &[T]) -> Vec<T> {
        choices.iter().filter(|_| self.roll(3) == 0).cloned().collect()
    }
}

/// A session on both sides, and the blob that it is to become.
struct Session {
    repository: RepositoryName,
    digest: Digest,
    ids: [Uuid; 2],
}

/// The two stores.
pub struct Walk<'w> {
    world: &'w World,
    inline: Inline,
    memory: Memory,
    /// Absent only while it is opened again.
    sled: Option<Sled>,
    sessions: Vec<Session>,
    /// What is to be told of the step that is under way, and up to which event all were told before.
    expected: Vec<String>,
    told: u64,
    folder: TempDir,
}

impl<'w> Walk<'w> {
    /// Two empty ones.
    #[must_use]
    pub fn new(world: &'w World, inline: Inline) -> Self {
        let mut walk = Self {
            world,
            inline,
            memory: Memory::with_writer_silence(Duration::ZERO),
            sled: None,
            sessions: Vec::new(),
            expected: Vec::new(),
            told: 0,
            folder: tempfile::tempdir().unwrap(),
        };
        walk.reopen();
        walk
    }

    fn sled(&self) -> &Sled {
        self.sled.as_ref().unwrap()
    }

    /// Opening ends what a deletion left to be done: after it, what is kept is not a question of time.
    fn reopen(&mut self) {
        self.sled = None;
        let options = Options::new().inline(self.inline).reserve(1 << 20).writer_silence(Duration::ZERO);
        let options = options.events(Events::new());
        self.sled = Some(options.open(self.folder.path()).unwrap());
    }

    /// Goes on with what a kill at this moment would leave.
    fn kill(&mut self) {
        let left = tempfile::tempdir().unwrap();
        let mut files = files_below(self.folder.path());
        // What was left to be done when nothing else is may be under way: no moment has half of a write that came after the other.
        loop {
            let again = files_below(self.folder.path());
            if again == files {
                break;
            }
            files = again;
        }
        fs::create_dir(left.path().join("content")).unwrap();
        for (path, bytes) in files {
            let path = left.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        self.sled = None;
        self.folder = left;
        self.reopen();
    }

    /// Panics if a reader can tell the two apart.
    pub fn compare(&self, page: usize, when: &str) {
        let expected = everything(&self.memory, self.world, page);
        let found = everything(self.sled(), self.world, page);
        assert!(found == expected, "{when}:\n{found}\ninstead of\n{expected}");
    }

    /// One operation, the same on both; panics if the answers differ. Returns the answer.
    pub fn step(&mut self, choices: &mut impl Choices, when: &str) -> String {
        let [expected, found] = match choices.roll(40) {
            0 => {
                if choices.roll(2) == 0 {
                    self.reopen();
                } else {
                    self.kill();
                }
                Default::default()
            }
            1 => self.collect(choices.roll(2) == 0),
            2 => self.damage(choices),
            3 => {
                self.compare(1 + choices.roll(4), when);
                Default::default()
            }
            4..=7 => self.list(choices),
            8..=19 => self.upload(choices),
            _ => self.name(choices),
        };
        assert_eq!(found, expected, "{when}");
        self.check_events(when);
        expected
    }

    /// Exactly what succeeded has an event, in the order in which it did; of a collection only the events are known.
    fn check_events(&mut self, when: &str) {
        let page = self.sled().events(self.told, usize::MAX).unwrap();
        assert_eq!(page.missing, 0, "{when}");
        self.told = page.up_to;
        let told = page.events.into_iter().map(|event| {
            let from = event.from.as_ref();
            told(event.kind, &event.repository, &event.digest, &event.tags, from)
        });
        let (mut told, mut expected) = (told.collect::<Vec<_>>(), std::mem::take(&mut self.expected));
        if told.iter().all(|told| told.contains("Deleted")) {
            told.sort();
            expected.sort();
        }
        assert_eq!(told, expected, "{when}");
    }

    /// A blob at one go, or the next step of a session.
    fn upload(&mut self, choices: &mut impl Choices) -> [String; 2] {
        let stores: [&dyn Store; 2] = [&self.memory, self.sled.as_ref().unwrap()];
        let repository = choices.of(&self.world.repositories);
        let (digest, content) = choices.of(&self.world.blobs);
        let session = if self.sessions.is_empty() { None } else { Some(choices.roll(self.sessions.len())) };
        match (choices.roll(6), session) {
            // Left for later.
            (0, _) => {
                let part = choices.roll(content.len() + 1);
                let ids = stores.map(|store| {
                    let mut upload = store.start_upload(repository, &UploadOptions::new()).unwrap();
                    upload.write_all(&content[..part]).unwrap();
                    let id = upload.id();
                    if part.is_multiple_of(2) {
                        drop(upload);
                    } else {
                        upload.suspend().unwrap();
                    }
                    id
                });
                // Without bytes it promises nothing, and a restart forgets it.
                if part > 0 {
                    self.sessions.push(Session { repository: repository.clone(), digest: *digest, ids });
                }
                Default::default()
            }
            (1 | 2, Some(at)) => {
                let finish = choices.roll(3) > 0;
                let session = self.sessions.swap_remove(at);
                let content = &self.world.blobs.iter().find(|blob| blob.0 == session.digest).unwrap().1;
                let answers = [0, 1].map(|side| {
                    let (store, id) = (stores[side], session.ids[side]);
                    let status = store.upload_status(&session.repository, id).map(|status| status.offset);
                    let mut upload = match store.resume_upload(&session.repository, id, &UploadOptions::new())
                    {
                        Ok(upload) => upload,
                        Err(error) => return answer::<()>(Err(error)),
                    };
                    let from = usize::try_from(upload.offset()).unwrap();
                    if !finish {
                        let to = (from + 10_000).min(content.len());
                        upload.write_all(&content[from..to]).unwrap();
                        upload.suspend().unwrap();
                        return format!("{} {to}", answer(status));
                    }
                    upload.write_all(&content[from..]).unwrap();
                    let committed = upload.commit(&session.digest).map(|stat| stat.size);
                    if side == 1 && committed.is_ok() {
                        let told =
                            told(EventKind::BlobPushed, &session.repository, &session.digest, &[], None);
                        self.expected.push(told);
                    }
                    format!("{} {}", answer(status), answer(committed))
                });
                if !finish {
                    self.sessions.push(session);
                }
                answers
            }
            (3, Some(at)) => {
                let session = self.sessions.swap_remove(at);
                [0, 1].map(|side| {
                    let cancelled = stores[side].cancel_upload(&session.repository, session.ids[side]);
                    let again = stores[side].cancel_upload(&session.repository, session.ids[side]);
                    let status = stores[side].upload_status(&session.repository, session.ids[side]);
                    let status = answer(status.map(|status| status.offset));
                    format!("{} {} {status}", answer(cancelled), answer(again))
                })
            }
            // Now and then under another's digest, and now and then by an algorithm that was not announced.
            _ => {
                let declared = if choices.roll(8) == 1 { &choices.of(&self.world.blobs).0 } else { digest };
                let announce = choices.roll(2) == 0;
                let cut = choices.roll(3) * content.len() / 2;
                let answers = stores.map(|store| {
                    let options = UploadOptions::new();
                    let options = if announce { options.algorithm(declared.algorithm()) } else { options };
                    let mut upload = store.start_upload(repository, &options).unwrap();
                    upload.write_all(&content[..cut]).unwrap();
                    upload.write_all(&content[cut..]).unwrap();
                    let committed = upload.commit(declared).map(|stat| (stat.digest, stat.size));
                    (committed.is_ok(), answer(committed))
                });
                if answers.iter().all(|(committed, _)| *committed) {
                    self.expected.push(told(EventKind::BlobPushed, repository, declared, &[], None));
                }
                answers.map(|(_, answer)| answer)
            }
        }
    }

    /// Giving names to what is there, and taking them away.
    fn name(&mut self, choices: &mut impl Choices) -> [String; 2] {
        let stores: [&dyn Store; 2] = [&self.memory, self.sled.as_ref().unwrap()];
        let world = self.world;
        let repository = choices.of(&world.repositories);
        let (digest, _) = choices.of(&world.blobs);
        let manifest = choices.of(&world.manifests);
        let tag = choices.of(&world.tags);
        let pinned = match choices.roll(3) {
            1 => {
                let tags = choices.some(&world.tags);
                Pinned::tags(move |tag| tags.contains(tag))
            }
            _ => Pinned::none(),
        };
        let condition = match choices.roll(8) {
            1 => Condition::Absent,
            2 => Condition::Is(*choices.of(&world.manifests).digest()),
            3 => Condition::Unmoved,
            _ => Condition::Any,
        };
        let mut tell = |ok: bool, kind, digest: &Digest, tags: &[Tag], from| {
            if ok {
                self.expected.push(told(kind, repository, digest, tags, from));
            }
        };
        match choices.roll(9) {
            0..=3 => {
                let tags = choices.some(&world.tags);
                let references =
                    if choices.roll(3) == 0 { References::MayBeAbsent } else { References::MustExist };
                let put =
                    PutManifest::new().tags(&tags).condition(condition).pinned(pinned).references(references);
                let [expected, found] = stores.map(|store| store.put_manifest(repository, manifest, &put));
                tell(expected.is_ok(), EventKind::ManifestPushed, manifest.digest(), &tags, None);
                [answer(expected), answer(found)]
            }
            4 => {
                let set = stores.map(|store| store.tag(repository, manifest.digest(), tag, &condition));
                let tags = std::slice::from_ref(tag);
                tell(set[0].is_ok(), EventKind::TagSet, manifest.digest(), tags, None);
                set.map(answer)
            }
            5 => {
                let from = choices.of(&world.repositories);
                let admits = |name: &RepositoryName| name == from;
                let source = if choices.roll(2) == 0 {
                    MountSource::Repository(from)
                } else {
                    MountSource::Any(&admits)
                };
                let mounted = stores.map(|store| store.mount(repository, digest, &source));
                tell(mounted[0].is_ok(), EventKind::BlobMounted, digest, &[], Some(from));
                mounted.map(|mounted| answer(mounted.map(|stat| (stat.digest, stat.size))))
            }
            6 => {
                let deleted =
                    stores.map(|store| store.delete_manifest(repository, manifest.digest(), &pinned));
                tell(deleted[0].is_ok(), EventKind::ManifestDeleted, manifest.digest(), &[], None);
                deleted.map(answer)
            }
            7 => {
                let pointed_at = stores[0].resolve(repository, &Reference::Tag(tag.clone()));
                let deleted = stores.map(|store| store.delete_tag(repository, tag));
                if let Ok(pointed_at) = pointed_at {
                    let tags = std::slice::from_ref(tag);
                    tell(deleted[0].is_ok(), EventKind::TagDeleted, &pointed_at.digest, tags, None);
                }
                deleted.map(answer)
            }
            _ => {
                let deleted = stores.map(|store| store.delete_blob(repository, digest));
                tell(deleted[0].is_ok(), EventKind::BlobDeleted, digest, &[], None);
                deleted.map(answer)
            }
        }
    }

    /// One page of one listing, after what need not be there.
    fn list(&self, choices: &mut impl Choices) -> [String; 2] {
        let stores: [&dyn Store; 2] = [&self.memory, self.sled()];
        let world = self.world;
        let repository = choices.of(&world.repositories);
        let after = choices.roll(2) == 0;
        let limit = choices.roll(5);
        let digest = choices.of(&world.manifests).digest();
        match choices.roll(4) {
            0 => stores.map(|store| answer(store.repositories(Some(repository).filter(|_| after), limit))),
            1 => {
                let after = Some(choices.of(&world.tags)).filter(|_| after);
                // When they were set differs.
                stores.map(|store| {
                    let found = store.tags(repository, after, limit);
                    answer(found.map(|page| {
                        let tags = page.items.into_iter().map(|tagged| (tagged.tag, tagged.digest));
                        (tags.collect::<Vec<_>>(), page.more)
                    }))
                })
            }
            2 => {
                stores.map(|store| answer(store.manifests(repository, Some(digest).filter(|_| after), limit)))
            }
            _ => {
                let after = Some(choices.of(&world.manifests).digest()).filter(|_| after);
                let artifact_type: Option<MediaType> = match choices.roll(3) {
                    0 => None,
                    1 => Some("application/x".parse().unwrap()),
                    _ => Some("application/y".parse().unwrap()),
                };
                stores.map(|store| {
                    answer(store.referrers(repository, digest, artifact_type.as_ref(), after, limit))
                })
            }
        }
    }

    /// Collection without grace, until there is nothing left to collect. Memory has none: it is told what goes.
    fn collect(&mut self, untagged: bool) -> [String; 2] {
        let expected = self.forget_what_nothing_keeps(untagged);
        let options = CollectOptions::new().grace(Duration::ZERO).untagged(match untagged {
            true => Untagged::DeleteAfter(Duration::ZERO),
            false => Untagged::Keep,
        });
        let mut found = (0, 0);
        loop {
            self.reopen();
            let collected = self.sled().collect(&options, &mut |_| ControlFlow::Continue(())).unwrap();
            assert_eq!((collected.tags, collected.uploads, collected.damaged), (0, 0, 0));
            found = (found.0 + collected.manifests, found.1 + collected.links);
            if collected.is_empty() {
                break;
            }
        }
        [expected, found].map(|(manifests, links)| format!("{manifests} manifests and {links} links went"))
    }

    /// Deletes from Memory the manifests without a tag, an index or a subject (if those are to go), and the blobs that no
    /// manifest references.
    fn forget_what_nothing_keeps(&mut self, untagged: bool) -> (u64, u64) {
        let mut gone = (0, 0);
        let mut expected = Vec::new();
        for repository in &self.world.repositories {
            let has = |digest: &Digest| self.memory.resolve(repository, &Reference::Digest(*digest)).is_ok();
            let present = || self.world.manifests.iter().filter(|manifest| has(manifest.digest()));
            let is_referenced = |digest: &Digest| {
                let mut all = present().flat_map(|manifest| manifest.contents().unwrap().references);
                all.any(|reference| reference.digest == *digest)
            };
            let is_tagged = |digest: &Digest| {
                let mut found = self.world.tags.iter().map(|tag| Reference::Tag(tag.clone()));
                found.any(|tag| self.memory.resolve(repository, &tag).is_ok_and(|tag| tag.digest == *digest))
            };
            let goes = |manifest: &&Manifest| {
                let subject = manifest.contents().unwrap().subject;
                let digest = manifest.digest();
                !is_tagged(digest) && !is_referenced(digest) && !subject.is_some_and(|subject| has(&subject))
            };
            // One that goes may have kept others.
            while let Some(manifest) = present().find(goes).filter(|_| untagged) {
                self.memory.delete_manifest(repository, manifest.digest(), &Pinned::none()).unwrap();
                expected.push(told(EventKind::ManifestDeleted, repository, manifest.digest(), &[], None));
                gone.0 += 1;
            }
            for (digest, _) in &self.world.blobs {
                if !is_referenced(digest) && self.memory.delete_blob(repository, digest).is_ok() {
                    expected.push(told(EventKind::BlobDeleted, repository, digest, &[], None));
                    gone.1 += 1;
                }
            }
        }
        self.expected = expected;
        gone
    }

    /// A file goes bad, and verification finds it: it is unknown until it is pushed again, and then all is as before.
    fn damage(&mut self, choices: &mut impl Choices) -> [String; 2] {
        let (digest, content) = choices.of(&self.world.blobs);
        let harm = choices.roll(3);
        let linking = || {
            let all = self.world.repositories.iter();
            all.filter(|repository| self.memory.stat(repository, digest).is_ok())
        };
        // A session that will become this blob has its bytes too, and would not be verified.
        let mut files = self.files_with(content);
        let (Some(file), None) = (files.pop(), files.pop()) else { return Default::default() };
        if self.sessions.iter().any(|session| session.digest == *digest) {
            return Default::default();
        }
        match harm {
            0 => fs::remove_file(file).unwrap(),
            1 => fs::write(file, &content[1..]).unwrap(),
            _ => fs::write(file, vec![b'#'; content.len()]).unwrap(),
        }
        let options = VerifyOptions::new().restart(true);
        let report = self.sled().verify(&options, &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(report.fault_count, 0, "{report:?}");
        // None is bad if it was the file of a blob that is gone, or whose bytes are elsewhere now.
        assert!(report.bad.iter().all(|bad| bad.digest == *digest && !bad.manifest), "{report:?}");
        if report.bad_count > 0 {
            for repository in linking() {
                let found = self.sled().stat(repository, digest);
                assert!(matches!(found, Err(Error::BlobUnknown { .. })), "{found:?}");
            }
            let repository = linking().next().expect("what nobody links is not verified");
            let mut upload = self.sled().start_upload(repository, &UploadOptions::new()).unwrap();
            upload.write_all(content).unwrap();
            upload.commit(digest).unwrap();
            let told = told(EventKind::BlobPushed, repository, digest, &[], None);
            self.expected.push(told);
        }
        for repository in linking() {
            assert_eq!(read(self.sled(), repository, digest).unwrap(), (*digest, content.clone()));
        }
        Default::default()
    }

    fn files_with(&self, content: &[u8]) -> Vec<PathBuf> {
        let files = fs::read_dir(self.folder.path().join("content")).into_iter().flatten();
        let files = files.map(|file| file.unwrap().path());
        files.filter(|file| fs::read(file).is_ok_and(|found| found == content)).collect()
    }
}

/// An event as text.
fn told(
    kind: EventKind,
    repository: &RepositoryName,
    digest: &Digest,
    tags: &[Tag],
    from: Option<&RepositoryName>,
) -> String {
    format!("{kind:?} {repository} {digest} {tags:?} {from:?}")
}

/// Every file of a store that says anything, with its bytes. A file that goes meanwhile is not there.
fn files_below(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(path) = folders.pop() {
        for path in fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.ends_with("reserve") {
                // It is as long as all others, and holds nothing.
            } else if let Ok(bytes) = fs::read(&path) {
                files.insert(path.strip_prefix(folder).unwrap().to_owned(), bytes);
            }
        }
    }
    files
}
