//! Random operations on a Sled store that is reopened at random, and on Memory: both must answer alike.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::Write as _;
use std::time::Duration;

use sledge::oci::{Algorithm, Digest, Manifest, MediaType, Reference, RepositoryName, Tag};
use sledge::store::memory::Memory;
use sledge::store::sled::{Inline, Options, Sled};
use sledge::store::{Condition, MountSource, Pinned, PutManifest, References, Store, UploadOptions};
use sledge::{Error, Result};
use uuid::Uuid;

/// Enough of a generator for choosing; the seed is in the name of what fails.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides as u64).unwrap()
    }

    fn of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.roll(choices.len())]
    }
}

/// The small world in which collisions are the rule.
struct World {
    repositories: Vec<RepositoryName>,
    tags: Vec<Tag>,
    blobs: Vec<(Digest, Vec<u8>)>,
    manifests: Vec<Manifest>,
}

impl World {
    fn new() -> Self {
        // Around the size of a chunk, of what is inline by default, of what is held in memory, and of what is read at once.
        let sizes = [0, 1, 4095, 4096, 4097, 16_384, 16_385, 32_769, 65_536, 200_000];
        let mut blobs = Vec::new();
        for (at, size) in sizes.into_iter().enumerate() {
            let content: Vec<u8> =
                (0..size).map(|n| u8::try_from((n * 31 + at * 7) % 251).unwrap()).collect();
            let algorithm = if at % 3 == 0 { Algorithm::Sha512 } else { Algorithm::Sha256 };
            blobs.push((algorithm.digest(&content), content));
        }
        let mut manifests: Vec<Manifest> = Vec::new();
        for n in 0..12_usize {
            let pointer = |(digest, content): &(Digest, Vec<u8>)| serde_json::json!({ "mediaType": "application/x", "digest": digest, "size": content.len() });
            let child = |manifest: &Manifest| serde_json::to_value(manifest.descriptor()).unwrap();
            let mut document = match n % 3 {
                0 | 1 => serde_json::json!({ "schemaVersion": 2, "config": pointer(&blobs[n % blobs.len()]),
                    "layers": [pointer(&blobs[(n + 3) % blobs.len()]), pointer(&blobs[(n * 5 + 1) % blobs.len()])] }),
                _ => {
                    serde_json::json!({ "schemaVersion": 2, "manifests": [child(&manifests[n - 1]), child(&manifests[n - 2])] })
                }
            };
            if n > 5 {
                document["subject"] = child(&manifests[n - 5]);
                document["annotations"] =
                    serde_json::json!({ "n": n.to_string(), "pad": "x".repeat(n * 3000) });
            }
            let media_type = if n % 3 == 2 { MediaType::OCI_INDEX } else { MediaType::OCI_MANIFEST };
            let bytes = document.to_string().into_bytes();
            let algorithm = if n % 4 == 3 { Algorithm::Sha512 } else { Algorithm::Sha256 };
            let digest = algorithm.digest(&bytes);
            manifests.push(Manifest::verified(media_type.parse().unwrap(), bytes, &digest).unwrap());
        }
        Self {
            repositories: ["a", "a/b", "b"].iter().map(|name| name.parse().unwrap()).collect(),
            tags: ["1", "2", "latest", "v0.1"].iter().map(|tag| tag.parse().unwrap()).collect(),
            blobs,
            manifests,
        }
    }
}

/// An answer as text: what was returned, or which error with what in it. Times and session ids differ and are left out.
fn answer<T: Debug>(result: Result<T>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(Error::UploadUnknown { .. }) => "UploadUnknown".to_owned(),
        Err(Error::UploadBusy(_)) => "UploadBusy".to_owned(),
        Err(error) => format!("{error:?}"),
    }
}

fn read(store: &dyn Store, repository: &RepositoryName, digest: &Digest) -> Result<(Digest, Vec<u8>)> {
    let blob = store.blob(repository, digest)?;
    let mut content = vec![0; usize::try_from(blob.content.len()).unwrap()];
    blob.content.read_at(0, &mut content).expect("a blob that opens can be read");
    Ok((blob.stat.digest, content))
}

/// All that a reader can see, page by page.
fn everything(store: &dyn Store, world: &World, page: usize) -> String {
    let mut seen = String::new();
    let mut after = None;
    loop {
        let found = store.repositories(after.as_ref(), page).unwrap();
        seen += &format!("{:?}\n", found.items);
        if !found.more {
            break;
        }
        after = found.items.last().cloned();
    }
    for repository in &world.repositories {
        for (digest, content) in &world.blobs {
            let found = read(store, repository, digest).map(|(digest, found)| (digest, found == *content));
            seen += &format!("{}\n", answer(found));
            seen +=
                &format!("{}\n", answer(store.stat(repository, digest).map(|stat| (stat.digest, stat.size))));
        }
        let mut after: Option<Tag> = None;
        loop {
            let found = store.tags(repository, after.as_ref(), page);
            let more = found.as_ref().is_ok_and(|found| found.more);
            after = found.as_ref().ok().and_then(|found| found.items.last()).map(|tagged| tagged.tag.clone());
            seen += &answer(
                found.map(|found| found.items.into_iter().map(|t| (t.tag, t.digest)).collect::<Vec<_>>()),
            );
            if !more {
                break;
            }
        }
        let mut after = None;
        loop {
            let found = store.manifests(repository, after.as_ref(), page);
            let more = found.as_ref().is_ok_and(|found| found.more);
            after =
                found.as_ref().ok().and_then(|found| found.items.last()).map(|descriptor| descriptor.digest);
            seen += &answer(found.map(|found| found.items));
            if !more {
                break;
            }
        }
        for manifest in &world.manifests {
            let reference = Reference::Digest(*manifest.digest());
            seen += &answer(store.manifest(repository, &reference).map(|found| found == *manifest));
            seen += &answer(store.resolve(repository, &reference));
            let mut after = None;
            loop {
                let found =
                    store.referrers(repository, manifest.digest(), None, after.as_ref(), page).unwrap();
                seen += &format!("{:?}\n", found.items);
                if !found.more {
                    break;
                }
                after = found.items.last().map(|descriptor| descriptor.digest);
            }
        }
        for tag in &world.tags {
            seen += &answer(store.resolve(repository, &Reference::Tag(tag.clone())));
        }
    }
    seen
}

/// One random operation, the same on both; the answers of both.
fn operate(
    dice: &mut Dice,
    world: &World,
    stores: [&dyn Store; 2],
    sessions: &mut Vec<Session>,
) -> [String; 2] {
    let repository = dice.of(&world.repositories);
    let (digest, content) = dice.of(&world.blobs);
    let manifest = dice.of(&world.manifests);
    let tag = dice.of(&world.tags);
    let condition = match dice.roll(6) {
        0 => Condition::Absent,
        1 => Condition::Is(*dice.of(&world.manifests).digest()),
        _ => Condition::Any,
    };
    match dice.roll(16) {
        0..=3 => {
            // A blob at one go; now and then under another's digest, and now and then by an algorithm that was not announced.
            let declared = if dice.roll(8) == 0 { &dice.of(&world.blobs).0 } else { digest };
            let announce = dice.roll(2) == 0;
            stores.map(|store| {
                let options = UploadOptions::new();
                let options = if announce { options.algorithm(declared.algorithm()) } else { options };
                let mut upload = store.start_upload(repository, &options).unwrap();
                upload.write_all(content).unwrap();
                answer(upload.commit(declared).map(|stat| (stat.digest, stat.size)))
            })
        }
        4 => {
            // A session that is left for later.
            let part = dice.roll(content.len() + 1);
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
                sessions.push(Session { repository: repository.clone(), digest: *digest, ids });
            }
            ids.map(|_| String::new())
        }
        5 | 6 if !sessions.is_empty() => {
            let at = dice.roll(sessions.len());
            let finish = dice.roll(3) > 0;
            let session = sessions.swap_remove(at);
            let content = &world.blobs.iter().find(|blob| blob.0 == session.digest).unwrap().1;
            let answers = [0, 1].map(|side| {
                let (store, id) = (stores[side], session.ids[side]);
                let status = store.upload_status(&session.repository, id).map(|status| status.offset);
                let mut upload = match store.resume_upload(&session.repository, id, &UploadOptions::new()) {
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
                format!("{} {}", answer(status), answer(upload.commit(&session.digest).map(|stat| stat.size)))
            });
            if !finish {
                sessions.push(session);
            }
            answers
        }
        7 if !sessions.is_empty() => {
            let session = sessions.swap_remove(dice.roll(sessions.len()));
            [0, 1].map(|side| {
                let cancelled = stores[side].cancel_upload(&session.repository, session.ids[side]);
                let again = stores[side].cancel_upload(&session.repository, session.ids[side]);
                let status = stores[side].upload_status(&session.repository, session.ids[side]);
                format!(
                    "{} {} {}",
                    answer(cancelled),
                    answer(again),
                    answer(status.map(|status| status.offset))
                )
            })
        }
        8..=10 => {
            let tags: Vec<Tag> = world.tags.iter().filter(|_| dice.roll(3) == 0).cloned().collect();
            let references = if dice.roll(3) == 0 { References::MayBeAbsent } else { References::MustExist };
            let put = PutManifest::new().tags(&tags).condition(condition).references(references);
            stores.map(|store| answer(store.put_manifest(repository, manifest, &put)))
        }
        11 => stores.map(|store| answer(store.tag(repository, manifest.digest(), tag, &condition))),
        12 => {
            let from = dice.of(&world.repositories);
            let admits = |name: &RepositoryName| name == from;
            let source =
                if dice.roll(2) == 0 { MountSource::Repository(from) } else { MountSource::Any(&admits) };
            stores.map(|store| {
                answer(store.mount(repository, digest, &source).map(|stat| (stat.digest, stat.size)))
            })
        }
        13 => {
            stores.map(|store| answer(store.delete_manifest(repository, manifest.digest(), &Pinned::none())))
        }
        14 => stores.map(|store| answer(store.delete_tag(repository, tag))),
        _ => stores.map(|store| answer(store.delete_blob(repository, digest))),
    }
}

/// A session on both sides, and the blob that it is to become.
struct Session {
    repository: RepositoryName,
    digest: Digest,
    ids: [Uuid; 2],
}

fn open(folder: &std::path::Path, inline: Inline) -> Sled {
    Options::new().inline(inline).reserve(1 << 20).writer_silence(Duration::ZERO).open(folder).unwrap()
}

fn run(seed: u64, inline: Inline, operations: usize) {
    let world = World::new();
    let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let folder = tempfile::tempdir().unwrap();
    let memory = Memory::with_writer_silence(Duration::ZERO);
    let mut sled = open(folder.path(), inline);
    let mut sessions = Vec::new();
    let mut kinds: BTreeMap<bool, usize> = BTreeMap::new();
    for step in 0..operations {
        if dice.roll(40) == 0 {
            drop(sled);
            sled = open(folder.path(), inline);
        }
        let [expected, found] = operate(&mut dice, &world, [&memory, &sled], &mut sessions);
        assert_eq!(found, expected, "seed {seed}, {inline:?}, step {step}");
        *kinds.entry(expected.contains("Unknown") || expected.contains("Missing")).or_default() += 1;
        if step % 25 == 0 || step + 1 == operations {
            let page = 1 + dice.roll(4);
            let (expected, found) = (everything(&memory, &world, page), everything(&sled, &world, page));
            assert!(
                found == expected,
                "seed {seed}, {inline:?}, after step {step}:\n{found}\ninstead of\n{expected}"
            );
        }
    }
    // A walk in which nothing succeeds, or nothing fails, would show nothing.
    assert!(kinds.len() == 2 && kinds.values().all(|count| *count > operations / 20), "{kinds:?}");
}

#[test]
fn sled_answers_as_memory_does_by_default() {
    (1..=3).for_each(|seed| run(seed, Inline::default(), 500));
}

#[test]
fn sled_answers_as_memory_does_with_everything_inline() {
    (11..=12).for_each(|seed| run(seed, Inline::Everything, 500));
}

#[test]
fn sled_answers_as_memory_does_with_everything_in_files() {
    (21..=22).for_each(|seed| run(seed, Inline::UpTo(0), 500));
}
