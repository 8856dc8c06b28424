//! Removing what was retired, looked at step by step.

use std::sync::Arc;

use super::{entries, files, folder, repository};
use crate::error::Result;
use crate::oci::{Algorithm, Manifest, MediaType};
use crate::store::sled::changes::Changes;
use crate::store::sled::content::{self, new_id};
use crate::store::sled::desk::Steps;
use crate::store::sled::leftovers::{self, Retired};
use crate::store::sled::schema::{self, Content, Leftover, Placement, Tree};
use crate::store::sled::writer::Terms;
use crate::store::sled::{Inline, Options};
use crate::store::{Push, PutManifest, References};

#[test]
fn what_was_retired_goes_many_at_a_time_and_not_all_at_once() -> Result<()> {
    let folder = folder();
    let store = Options::new().reserve(1 << 20).open(folder.path())?;
    let core = Arc::clone(&store.0.core);
    let left = store.0.writer.run(Terms::default(), move |desk| {
        let mut retired = Vec::new();
        for _ in 0..100 {
            let content = Content { placement: Placement::Inline(new_id()), size: 5000 };
            let leftover = Leftover { content, manifest: None };
            leftovers::reserve(desk, &leftover)?;
            let mut steps = Steps::new(desk);
            content::write_chunks(&mut steps, content.placement.id(), 0, &[1; 5000])?;
            steps.finish()?;
            retired.push(Retired::new(leftover));
        }
        leftovers::sweep(desk, &core, &mut retired)?;
        Ok(retired.len())
    })?;
    assert_eq!(left, 68, "of a hundred");
    assert_eq!((entries(&store, Tree::Leftovers), entries(&store, Tree::Chunks)), (left, 2 * left));
    Ok(())
}

#[test]
fn a_manifest_s_file_goes_only_when_what_it_tells_of_is_gone_for_good() -> Result<()> {
    let folder = folder();
    let store = Options::new().reserve(1 << 20).inline(Inline::UpTo(0)).open(folder.path())?;
    let digest = Algorithm::Sha256.digest(b"a layer that nobody has");
    let pointer = serde_json::json!({ "mediaType": "application/x", "digest": digest, "size": 1 });
    let document = serde_json::json!({ "schemaVersion": 2, "config": pointer, "layers": [] }).to_string();
    let manifest = Manifest::new(MediaType::OCI_MANIFEST.parse().unwrap(), document.into_bytes());
    store.put_manifest(&repository(), &manifest, &PutManifest::new().references(References::MayBeAbsent))?;
    assert_eq!((files(folder.path()), entries(&store, Tree::References)), (1, 1));

    let (core, key) = (Arc::clone(&store.0.core), schema::digest_within(&repository(), manifest.digest()));
    let path = folder.path().to_owned();
    store.0.writer.run(Terms::default(), move |desk| {
        let record = desk.index().get::<schema::Manifest>(&key)?.unwrap();
        let named = Some((repository().to_string(), manifest.digest().into()));
        let leftover = Leftover { content: record.content, manifest: named };
        leftovers::reserve(desk, &leftover)?;
        let mut changes = Changes::new();
        changes.remove(Tree::Manifests, key);
        desk.apply(&changes)?;

        let mut retired = vec![Retired::new(leftover)];
        leftovers::sweep(desk, &core, &mut retired)?;
        assert!(!desk.is_settled() && desk.index().scan(Tree::References, &[], None)?.next().is_none());
        assert_eq!((retired.len(), files(&path)), (1, 1), "its references are gone, not for good yet");
        leftovers::sweep(desk, &core, &mut retired)?;
        assert_eq!((retired.len(), files(&path)), (0, 0));
        Ok(())
    })
}
