//! What holds of every key and record, whatever bytes the disk gives back.
//!
//! Compiled for the fuzz target `records` (`cargo fuzz` sets `cfg(fuzzing)`) and for the test that replays its corpus, and for
//! nobody else: the schema is private, and a cargo feature would be one more thing that programs can switch on.

use std::fmt::Debug;

use super::*;
use crate::oci::Hasher;

/// Reads bytes as every kind of key and of record: none panics, and what is understood is written as it was read.
///
/// # Panics
/// Where that does not hold.
pub fn check_schema(bytes: &[u8]) {
    keys_are_made_of_what_they_say(bytes);
    record::<Layer>(bytes, |layer| _ = layer.created_at.time());
    record::<Link>(bytes, |link| _ = link.linked_at.time());
    record::<Manifest>(bytes, |manifest| {
        _ = manifest.pushed_at.time();
        manifest.subject.iter().for_each(raw_digest);
    });
    record::<Tag>(bytes, |tag| raw_digest(&tag.digest));
    record::<Referrer>(bytes, |_| {});
    record::<Upload>(bytes, |upload| {
        _ = upload.started_at.time();
        for checkpoint in [&upload.current, &upload.durable] {
            hasher(upload.algorithm, checkpoint);
        }
    });
    record::<Leftover>(bytes, |leftover| {
        leftover.manifest.iter().for_each(|(_, digest)| raw_digest(digest));
    });
    record::<Repository>(bytes, |_| {});
    record::<Uptime>(bytes, |_| {});
    record::<Totals>(bytes, |_| {});
    record::<Verifying>(bytes, |_| {});
    record::<Cut>(bytes, |_| {});
    record::<Event>(bytes, |event| {
        _ = event.happened_at.time();
        raw_digest(&event.digest);
    });
    record::<Receivers>(bytes, |_| {});
}

/// A record that is read and written again is the same record. It is the same bytes too, unless these spelled a number longer
/// than need be: bincode reads such numbers, and never writes them.
fn record<R: Record + Debug + PartialEq>(bytes: &[u8], look: impl Fn(&R)) {
    let Ok(record) = decode::<R>(bytes) else { return };
    // What cannot be written is no bytes, and no record is read from those.
    let written = encode(&record).unwrap_or_default();
    if written.len() < bytes.len() {
        assert_eq!(decode::<R>(&written).ok().as_ref(), Some(&record), "written otherwise, and another");
    } else {
        assert_eq!(written, bytes, "{record:?}");
    }
    look(&record);
}

fn raw_digest(raw: &RawDigest) {
    if let Ok(digest) = raw.digest() {
        assert_eq!(RawDigest::from(&digest), *raw);
    }
}

/// A hash state from the disk goes on hashing, or is refused.
fn hasher(algorithm: Algorithm, checkpoint: &Checkpoint) {
    let Ok(mut hasher) = Hasher::restore(algorithm, &checkpoint.hash_state) else { return };
    hasher.update(&[7; 200]);
    // Refused only where it came from the very last blocks that there can be.
    if let Ok(again) = Hasher::restore(algorithm, &hasher.save()) {
        assert_eq!(again.finish(), hasher.clone().finish());
    }
    assert_eq!(hasher.finish().algorithm(), algorithm);
}

fn keys_are_made_of_what_they_say(key: &[u8]) {
    let same = |made: Vec<u8>| assert_eq!(made, key);
    raw_digest(&RawDigest(key.to_vec()));
    let shown = shown(key);
    assert!(!shown.is_empty() && shown.len() < 512, "{shown}");
    if let Ok((digest, repository)) = use_of_key(key) {
        assert_eq!(repository_of_use(key).ok().as_ref(), Some(&repository));
        same(use_key(&digest, &repository));
    }
    if let Ok(repository) = repository_of_key(key) {
        same(repository_key(&repository));
    }
    for tree in [Tree::Links, Tree::Manifests] {
        if let Ok((repository, digest)) = digest_of_key(tree, key) {
            assert_eq!(digest_after(tree, key, &within(&repository)).ok(), Some(digest));
            same(digest_within(&repository, &digest));
        }
    }
    for tree in [Tree::References, Tree::Referrers] {
        if let Ok((repository, at, manifest)) = pointer_of_key(tree, key) {
            let prefix = within(&repository);
            assert_eq!(pointer_after(tree, key, &prefix).ok(), Some((at, manifest)));
            let prefix = digest_within(&repository, &at);
            assert_eq!(digest_after(tree, key, &prefix).ok(), Some(manifest));
            same(pointer_within(&repository, &at, &manifest));
        }
    }
    if let Ok((repository, tag)) = tag_of_key(key) {
        same(tag_within(&repository, &tag));
    }
    if let Ok((repository, digest, tag)) = tagged_of_key(key) {
        let prefix = digest_within(&repository, &digest);
        assert_eq!(tag_after(Tree::Tagged, key, &prefix).ok().as_ref(), Some(&tag));
        same(tagged_within(&repository, &digest, &tag));
    }
    if let (Ok(kind), Ok((since, repository, digest))) = (kind_of_candidate(key), candidate_of_key(key)) {
        same(candidate_key(kind, since, &repository, &digest));
    }
    if let Ok((at, repository, digest)) = used_of_key(key) {
        same(used_key(at, &repository, &digest));
    }
    if let Ok((content, number)) = chunk_of_key(key) {
        same(chunk_key(content, number));
    }
    if let Ok(number) = number_of_event(key) {
        same(event_key(number));
    }
    if let Ok(session) = session_of_key(key) {
        same(id_key(session));
    }
}
