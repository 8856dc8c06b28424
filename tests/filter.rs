//! Stores that allow less than what they are made of.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::sync::Barrier;

use sledge::filter::{ImmutableTags, ReadOnly};
use sledge::oci::{Manifest, MediaType, Reference, RepositoryName, Tag};
use sledge::store::memory::Memory;
use sledge::store::sled::Options;
use sledge::store::{
    Condition, Discover, Manage, MountSource, Pinned, Pull, Push, PutManifest, References, UploadOptions,
};
use sledge::{Error, Result};

fn repository() -> RepositoryName {
    "a/b".parse().unwrap()
}

fn tag(name: &str) -> Tag {
    name.parse().unwrap()
}

fn index(n: usize) -> Manifest {
    let document = format!("{{\"schemaVersion\":2,\"manifests\":[],\"annotations\":{{\"n\":\"{n}\"}}}}");
    Manifest::new(MediaType::OCI_INDEX.parse().unwrap(), document.into_bytes())
}

fn releases() -> Pinned {
    Pinned::tags(|tag| tag.as_str().starts_with('v'))
}

fn put(store: &dyn Push, manifest: &Manifest, name: &str) -> Result<()> {
    store.put_manifest(&repository(), manifest, &PutManifest::new().tags(&[tag(name)]))
}

#[test]
fn an_immutable_tag_is_neither_moved_nor_deleted() -> Result<()> {
    let store = ImmutableTags::new(Memory::new(), releases());
    let (first, second) = (index(1), index(2));
    put(&store, &first, "v1")?;
    put(&store, &first, "v1")?;
    put(&store, &first, "latest")?;
    put(&store, &second, "latest")?;
    let immutable = |outcome: Result<()>| {
        assert!(
            matches!(&outcome, Err(Error::TagImmutable { tag, found }) if tag.as_str() == "v1" && found == first.digest()),
            "{outcome:?}"
        );
    };
    immutable(put(&store, &second, "v1"));
    for condition in [Condition::Any, Condition::Is(*first.digest()), Condition::Unmoved] {
        immutable(store.tag(&repository(), second.digest(), &tag("v1"), &condition));
        store.tag(&repository(), first.digest(), &tag("v1"), &condition)?;
    }
    immutable(store.delete_tag(&repository(), &tag("v1")));
    immutable(store.delete_manifest(&repository(), first.digest(), &Pinned::none()));
    store.delete_tag(&repository(), &tag("latest"))?;
    store.delete_manifest(&repository(), second.digest(), &Pinned::none())?;
    assert!(matches!(store.delete_tag(&repository(), &tag("v2")), Err(Error::ManifestUnknown { .. })));
    assert_eq!(store.resolve(&repository(), &Reference::Tag(tag("v1")))?.digest, *first.digest());
    Ok(())
}

#[test]
fn of_many_pushes_to_one_immutable_tag_one_succeeds() -> Result<()> {
    const PUSHES: usize = 16;
    let folder = tempfile::tempdir().unwrap();
    let store = ImmutableTags::new(Options::new().reserve(1 << 20).open(folder.path())?, releases());
    for round in 0..20 {
        let start = Barrier::new(PUSHES);
        let name = format!("v{round}");
        let won: Vec<bool> = std::thread::scope(|threads| {
            let push = |n| {
                let (store, start, name) = (&store, &start, &name);
                threads.spawn(move || {
                    start.wait();
                    put(store, &index(round * PUSHES + n), name).is_ok()
                })
            };
            let pushes: Vec<_> = (0..PUSHES).map(push).collect();
            pushes.into_iter().map(|push| push.join().unwrap()).collect()
        });
        assert_eq!(won.iter().filter(|won| **won).count(), 1, "round {round}");
        let winner = won.iter().position(|won| *won).unwrap();
        let found = store.resolve(&repository(), &Reference::Tag(tag(&name)))?.digest;
        assert_eq!(found, *index(round * PUSHES + winner).digest());
    }
    Ok(())
}

#[test]
fn what_is_read_only_is_read_and_not_written() -> Result<()> {
    let memory = Memory::new();
    let manifest = index(1);
    put(&memory, &manifest, "latest")?;
    let store = ReadOnly::new(&memory);
    let reference = Reference::Tag(tag("latest"));
    assert_eq!(store.manifest(&repository(), &reference)?, manifest);
    assert_eq!(store.tags(&repository(), None, 10)?.items.len(), 1);

    let digest = *manifest.digest();
    let absent = PutManifest::new().references(References::MayBeAbsent);
    let refusals = [
        put(&store, &index(2), "latest"),
        store.put_manifest(&repository(), &index(2), &absent),
        store.tag(&repository(), &digest, &tag("other"), &Condition::Any),
        store.start_upload(&repository(), &UploadOptions::new()).map(drop),
        store.resume_upload(&repository(), uuid::Uuid::nil(), &UploadOptions::new()).map(drop),
        store.cancel_upload(&repository(), uuid::Uuid::nil()),
        store.mount(&repository(), &digest, &MountSource::Repository(&repository())).map(drop),
        store.delete_manifest(&repository(), &digest, &Pinned::none()),
        store.delete_tag(&repository(), &tag("latest")),
        store.delete_blob(&repository(), &digest),
    ];
    for (at, refused) in refusals.into_iter().enumerate() {
        assert!(matches!(refused, Err(Error::Unsupported(_))), "{at}: {refused:?}");
    }
    assert_eq!(memory.tags(&repository(), None, 10)?.items.len(), 1);
    assert_eq!(memory.manifests(&repository(), None, 10)?.items.len(), 1);
    Ok(())
}
