//! The handles that a program writes: what they pass on, and what they do themselves.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::Arc;

use sledge::oci::{Algorithm, Manifest, MediaType, Tag};
use sledge::registry::{Registry, Repository};
use sledge::store::memory::Memory;
use sledge::store::{Condition, Pull, PutManifest, References, UploadOptions};
use sledge::{Error, Result};

fn registry() -> Registry {
    Registry::over(Memory::new())
}

/// An index without children, told apart by its annotation.
fn index(note: &str) -> Result<Manifest> {
    let document = format!(r#"{{"schemaVersion":2,"manifests":[],"annotations":{{"note":"{note}"}}}}"#);
    Ok(Manifest::new(MediaType::OCI_INDEX.parse()?, document.into_bytes()))
}

fn tags(repository: &Repository) -> Result<Vec<String>> {
    repository.manifests().tags().map(|tagged| Ok(tagged?.tag.to_string())).collect()
}

#[test]
fn a_name_is_validated_and_existence_is_not_implied() -> Result<()> {
    let registry = registry();
    assert!(matches!(registry.repository("Not/A/Name"), Err(Error::NameInvalid(_))));
    let repository = registry.repository("a/b")?;
    assert_eq!(repository.name().as_str(), "a/b");
    assert_eq!(registry.repositories().count(), 0);
    let first = repository.manifests().tags().next().unwrap();
    assert!(matches!(first, Err(Error::RepositoryUnknown(_))));
    assert_eq!(repository.manifests().all().count(), 1, "the error is the only entry");
    assert_eq!(repository.manifests().referrers(&Algorithm::Sha256.digest(b""), None).count(), 0);
    Ok(())
}

#[test]
fn handles_share_the_store_they_were_given() -> Result<()> {
    let memory = Memory::new();
    let registry = Registry::new(Arc::new(memory.clone()));
    let repository = registry.repository("shared")?;
    let digest = repository.layers().put(b"bytes")?.digest;
    assert_eq!(memory.stat(repository.name(), &digest)?.size, 5);
    assert_eq!(registry.store().stat(repository.name(), &digest)?.size, 5);
    Ok(())
}

#[test]
fn a_manifest_is_put_found_tagged_and_deleted() -> Result<()> {
    let repository = registry().repository("a")?;
    let manifests = repository.manifests();
    let latest: Tag = "latest".parse()?;
    let digest = manifests.put(&index("one")?, std::slice::from_ref(&latest))?;
    assert_eq!(manifests.get(latest.clone().into())?, index("one")?);
    assert_eq!(manifests.resolve(digest.into())?, index("one")?.descriptor());
    assert!(manifests.exists("latest".parse()?)?);
    assert!(!manifests.exists("other".parse()?)?);

    manifests.tag(&digest, &"other".parse()?)?;
    let taken = manifests.tag_if(&digest, &latest, &Condition::Absent);
    assert!(matches!(taken, Err(Error::TagCondition { .. })));
    assert_eq!(tags(&repository)?, ["latest", "other"]);
    manifests.untag(&latest)?;
    assert_eq!(tags(&repository)?, ["other"]);

    let all: Vec<_> = manifests.all().collect::<Result<_>>()?;
    assert_eq!(all, [index("one")?.descriptor()]);
    manifests.delete(&digest)?;
    assert!(!manifests.exists(digest.into())?);
    Ok(())
}

#[test]
fn options_of_a_put_are_passed_on() -> Result<()> {
    let repository = registry().repository("mirror")?;
    let absent = Algorithm::Sha256.digest(b"absent");
    let document = format!(
        r#"{{"schemaVersion":2,"subject":{{"mediaType":"a/b","digest":"{absent}","size":1}},"artifactType":"a/sbom",
            "manifests":[{{"mediaType":"a/b","digest":"{absent}","size":1}}]}}"#
    );
    let sparse = Manifest::new(MediaType::OCI_INDEX.parse()?, document.into_bytes());
    let refused = repository.manifests().put(&sparse, &[]);
    assert!(matches!(refused, Err(Error::ReferencesMissing { .. })));
    let early = PutManifest::new().references(References::MayBeAbsent);
    assert_eq!(repository.manifests().put_with(&sparse, &early)?, *sparse.digest());
    let of_type = |text: &str| -> Result<usize> {
        Ok(repository.manifests().referrers(&absent, Some(&text.parse()?)).count())
    };
    assert_eq!((of_type("a/sbom")?, of_type("a/other")?), (1, 0));
    Ok(())
}

#[test]
fn listings_go_on_page_after_page() -> Result<()> {
    let registry = registry();
    let repository = registry.repository("many")?;
    let digest = repository.manifests().put(&index("tagged")?, &[])?;
    // More than two pages, and as many as exactly two.
    for (count, from) in [(512, 0), (600, 512)] {
        for n in from..count {
            repository.manifests().tag(&digest, &format!("t{n:04}").parse()?)?;
        }
        let listed = tags(&repository)?;
        assert_eq!(listed.len(), count);
        assert!(listed.is_sorted());
    }
    for n in 0..300 {
        registry.repository(&format!("r{n:03}"))?.manifests().put(&index("same")?, &[])?;
    }
    let names: Vec<String> =
        registry.repositories().map(|found| Ok(found?.name().to_string())).collect::<Result<_>>()?;
    assert_eq!(names.len(), 301);
    assert!(names.is_sorted());
    Ok(())
}

#[test]
fn a_layer_reads_and_seeks_like_a_file() -> Result<()> {
    let layers = registry().repository("a")?.layers();
    let digest = layers.put(b"0123456789")?.digest;
    let mut layer = layers.fetch(&digest)?;
    assert_eq!((layer.digest(), layer.len(), layer.is_empty()), (&digest, 10, false));
    assert_eq!(layer.created_at(), layers.stat(&digest)?.created_at);

    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"0123456789").unwrap();
    file.rewind().unwrap();
    let steps = [
        SeekFrom::Start(0),
        SeekFrom::Current(2),
        SeekFrom::Current(-1),
        SeekFrom::End(-3),
        SeekFrom::Current(-9),
        SeekFrom::End(0),
        SeekFrom::Start(25),
        SeekFrom::End(-11),
        SeekFrom::Start(10),
    ];
    for step in steps {
        let (ours, theirs) = (layer.seek(step), file.seek(step));
        assert_eq!(ours.as_ref().ok(), theirs.as_ref().ok(), "{step:?}");
        let (mut a, mut b) = ([0; 4], [0; 4]);
        assert_eq!(layer.read(&mut a).unwrap(), file.read(&mut b).unwrap(), "{step:?}");
        assert_eq!(a, b, "{step:?}");
    }
    assert_eq!(layer.seek(SeekFrom::End(-11)).unwrap_err().kind(), io::ErrorKind::InvalidInput);

    layer.seek(SeekFrom::Start(7)).unwrap();
    let mut clone = layer.clone();
    let (mut rest, mut again) = (String::new(), String::new());
    layer.read_to_string(&mut rest).unwrap();
    clone.read_to_string(&mut again).unwrap();
    assert_eq!((rest.as_str(), again.as_str()), ("789", "789"));
    Ok(())
}

#[test]
fn an_upload_is_dropped_resumed_and_finished() -> Result<()> {
    let layers = registry().repository("a")?.layers();
    let mut upload = layers.upload(&UploadOptions::new())?;
    let (id, started_at) = (upload.id(), upload.started_at());
    upload.write_all(b"one").unwrap();
    assert!(matches!(layers.resume(id), Err(Error::UploadBusy(busy)) if busy == id));
    drop(upload);
    assert_eq!(layers.status(id)?.offset, 3);

    let mut upload = layers.resume(id)?;
    assert_eq!((upload.offset(), upload.started_at()), (3, started_at));
    upload.write_all(b"two").unwrap();
    upload.suspend()?;
    let stat = layers.resume(id)?.finish(&Algorithm::Sha256.digest(b"onetwo"))?;
    assert_eq!(stat.size, 6);
    assert!(layers.exists(&stat.digest)?);
    assert!(matches!(layers.status(id), Err(Error::UploadUnknown { .. })));

    let upload = layers.upload(&UploadOptions::new())?;
    let id = upload.id();
    upload.cancel()?;
    layers.cancel(id)?;
    assert!(matches!(layers.resume(id), Err(Error::UploadUnknown { .. })));
    Ok(())
}

#[test]
fn a_layer_is_mounted_and_deleted() -> Result<()> {
    let registry = registry();
    let (from, to) = (registry.repository("from")?, registry.repository("to")?);
    let digest = from.layers().put(b"layer")?.digest;
    assert!(!to.layers().exists(&digest)?);
    assert_eq!(to.layers().mount(&digest, &from)?, from.layers().stat(&digest)?);
    from.layers().delete(&digest)?;
    assert!(!from.layers().exists(&digest)?);
    assert!(to.layers().exists(&digest)?);
    assert!(matches!(from.layers().mount(&digest, &from), Err(Error::BlobUnknown { .. })));
    Ok(())
}
