//! That a dry run tells what the same run removes.

use std::ops::ControlFlow;
use std::time::Duration;

use super::collect::{image, pass, pointer};
use super::{folder, noise};
use crate::error::Result;
use crate::oci::{Algorithm, Digest, Manifest, MediaType, RepositoryName, Tag};
use crate::store::sled::{CollectOptions, Collected, Options, Retention, Sled, Untagged};
use crate::store::{Pull, Push, PutManifest, References};

const HOUR: Duration = Duration::from_secs(3600);

fn name(text: &str) -> RepositoryName {
    text.parse().unwrap()
}

fn bytes(seed: u64) -> Vec<u8> {
    noise(20_000 + usize::try_from(seed).unwrap(), seed)
}

fn push(store: &Sled, repository: &str, seed: u64) -> Digest {
    let bytes = bytes(seed);
    let digest = Algorithm::Sha256.digest(&bytes);
    let mut upload = store.start_upload(&name(repository), &Default::default()).unwrap();
    std::io::Write::write_all(&mut upload, &bytes).unwrap();
    upload.commit(&digest).unwrap();
    digest
}

fn put(store: &Sled, repository: &str, manifest: &Manifest, tags: &[&str]) -> Digest {
    let tags: Vec<Tag> = tags.iter().map(|tag| tag.parse().unwrap()).collect();
    store.put_manifest(&name(repository), manifest, &PutManifest::new().tags(&tags)).unwrap();
    *manifest.digest()
}

fn index(children: &[Digest]) -> Manifest {
    let children: Vec<_> = children.iter().map(pointer).collect();
    let document = serde_json::json!({ "schemaVersion": 2, "manifests": children });
    Manifest::new(MediaType::OCI_INDEX.parse().unwrap(), document.to_string().into_bytes())
}

/// Images that share layers, within a repository and between two; an index; signatures, one of a signature; a blob of nobody.
fn scene(store: &Sled) {
    let layers: Vec<Digest> = (1..=8).map(|seed| push(store, "a", seed)).collect();
    for seed in [1, 2] {
        push(store, "b", seed);
    }
    put(store, "a", &image(&layers[..2], None), &["keep"]);
    let old = put(store, "a", &image(&[layers[1], layers[2]], None), &["old", "older"]);
    put(store, "b", &image(&layers[..2], None), &["old"]);
    let signature = put(store, "a", &image(&layers[3..4], Some(&old)), &[]);
    put(store, "a", &image(&layers[4..5], Some(&signature)), &[]);
    let children = [4, 5].map(|first| put(store, "a", &image(&layers[first..first + 2], None), &[]));
    put(store, "a", &index(&children), &["many"]);
    let single = put(store, "a", &image(&layers[6..7], None), &[]);
    put(store, "a", &index(&[single]), &["keep-too"]);
}

fn collect(store: &Sled, options: &CollectOptions) -> Collected {
    store.collect(options, &mut |_| ControlFlow::Continue(())).unwrap()
}

#[test]
fn a_dry_run_tells_what_the_same_run_removes() -> Result<()> {
    let rule = || Retention::of(|_| true).keep(|tag| tag.as_str().starts_with("keep"));
    let now = Untagged::DeleteAfter(Duration::ZERO);
    let cases = [
        ("links only", CollectOptions::new().grace(Duration::ZERO), (0, 0, 1)),
        ("tags and links", CollectOptions::new().grace(Duration::ZERO).retention(rule()), (4, 0, 1)),
        (
            "all at once",
            CollectOptions::new().grace(Duration::ZERO).untagged(now).retention(rule()),
            (4, 7, 7),
        ),
        ("all in time", CollectOptions::new().grace(HOUR).untagged(now).retention(rule()), (4, 0, 1)),
    ];
    for (what, options, (tags, manifests, links)) in cases {
        let folder = folder();
        let store = Options::new().reserve(1 << 20).open(folder.path())?;
        scene(&store);
        pass(&store, 1000);
        let mut dry = collect(&store, &options.clone().dry_run(true));
        assert_eq!((dry.tags, dry.manifests, dry.links), (tags, manifests, links), "{what}: {dry}");
        assert_eq!(dry.names.len() as u64, dry.tags + dry.manifests, "{what}");
        let mut real = collect(&store, &options);
        // In what order they go is the run's own; what is met while it is still kept, and goes later, is in both counts of the run.
        for names in [&mut real.names, &mut dry.names] {
            names.sort_unstable();
        }
        assert_eq!(real, Collected { kept: real.kept, ..dry }, "{what}");
        assert!(collect(&store, &options).is_empty(), "{what}: and nothing is left to be removed at once");
    }
    Ok(())
}

#[test]
fn a_dry_run_names_what_would_go_up_to_a_hundred() -> Result<()> {
    let folder = folder();
    let store = Options::new().reserve(1 << 20).open(folder.path())?;
    let layer = push(&store, "a", 1);
    let digest = put(&store, "a", &image(&[layer], None), &["t0"]);
    for n in 1..130 {
        store.tag(&name("a"), &digest, &format!("t{n}").parse().unwrap(), &crate::store::Condition::Any)?;
    }
    let options = CollectOptions::new()
        .grace(Duration::ZERO)
        .untagged(Untagged::DeleteAfter(Duration::ZERO))
        .retention(Retention::of(|_| true));
    let dry = collect(&store, &options.dry_run(true));
    assert_eq!((dry.tags, dry.manifests, dry.names.len()), (130, 1, 101));
    assert!(dry.names.contains(&"a:t0".to_owned()) && dry.names.contains(&format!("a@{digest}")));
    assert!(store.manifest(&name("a"), &digest.into()).is_ok(), "it removes nothing");
    Ok(())
}

/// Who ran it by hand was told how many, and not which.
#[test]
fn a_collection_names_what_went_up_to_a_hundred_of_each() -> Result<()> {
    let folder = folder();
    let store = Options::new().reserve(1 << 20).open(folder.path())?;
    for repository in ["a", "b"] {
        for n in 0..70 {
            let layer = push(&store, repository, n);
            put(&store, repository, &image(&[layer], None), &[&format!("t{n}")]);
        }
    }
    let options = CollectOptions::new()
        .grace(Duration::ZERO)
        .untagged(Untagged::DeleteAfter(Duration::ZERO))
        .retention(Retention::of(|_| true));
    let real = collect(&store, &options);
    let named = |kind: char| real.names.iter().filter(|name| name.contains('@') == (kind == '@')).count();
    assert_eq!((real.tags, real.manifests, named(':'), named('@')), (140, 140, 100, 100));
    assert!(real.names.contains(&"b:t0".to_owned()), "{:?}", real.names);
    Ok(())
}

/// It takes many windows until its references are gone, of which that of the layer is the last.
#[test]
fn what_a_large_manifest_kept_goes_in_the_same_run() -> Result<()> {
    let folder = folder();
    let store = Options::new().reserve(1 << 20).open(folder.path())?;
    let first = |digest: &Digest| digest.as_bytes()[0];
    let seed = (1..).find(|seed| first(&Algorithm::Sha256.digest(&bytes(*seed))) < 8).unwrap();
    let layer = push(&store, "a", seed);
    let absent = (0..4000_u32).map(|n| Algorithm::Sha256.digest(&n.to_be_bytes()));
    let mut layers: Vec<_> =
        absent.filter(|digest| first(digest) >= 8).map(|digest| pointer(&digest)).collect();
    layers.push(pointer(&layer));
    let document = serde_json::json!({ "schemaVersion": 2, "config": pointer(&layer), "layers": layers });
    let manifest = Manifest::new(MediaType::OCI_MANIFEST.parse().unwrap(), document.to_string().into_bytes());
    let put = PutManifest::new().references(References::MayBeAbsent);
    store.put_manifest(&name("a"), &manifest, &put)?;

    let options = CollectOptions::new().grace(Duration::ZERO).untagged(Untagged::DeleteAfter(Duration::ZERO));
    let dry = collect(&store, &options.clone().dry_run(true));
    let real = collect(&store, &options);
    assert_eq!((real.manifests, real.links, real.blobs), (1, 1, 1));
    assert_eq!((dry.manifests, dry.links, dry.bytes), (real.manifests, real.links, real.bytes));
    Ok(())
}
