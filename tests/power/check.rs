//! Looks at a store through the contract, and holds it against a ledger.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;

use sledge::oci::{Algorithm, Digest, Hasher, Manifest, MediaType, Reference, RepositoryName};
use sledge::store::sled::{EventKind, Events, Options, Sled};
use sledge::store::{Discover, Pull, Push, PutManifest, References, UploadOptions};
use sledge::{Error, Result};
use uuid::Uuid;

use super::dice::noise;
use super::ledger::{Ledger, NOTHING};

/// Opens a store as the workload and its checks do: their filesystems may be small. Each change has an event.
pub(crate) fn options() -> Options {
    Options::new().reserve(1 << 20).cache_capacity(4 << 20).past_cache(true).events(Events::new())
}

/// An upload session as the ledger writes it down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) seed: u64,
    pub(crate) total: usize,
    /// How much was sent.
    pub(crate) sent: usize,
    /// How much of it no power cut takes back.
    pub(crate) durable: usize,
}

impl Progress {
    pub(crate) fn parse(value: &str) -> Option<Self> {
        let mut parts = value.split(':').map(|part| part.parse::<usize>().unwrap());
        (value != NOTHING).then(|| Self {
            seed: parts.next().unwrap() as u64,
            total: parts.next().unwrap(),
            sent: parts.next().unwrap(),
            durable: parts.next().unwrap(),
        })
    }

    pub(crate) fn value(self) -> String {
        format!("{}:{}:{}:{}", self.seed, self.total, self.sent, self.durable)
    }
}

/// What the ledger calls a thing.
pub(crate) fn key(kind: &str, repository: &RepositoryName, name: impl std::fmt::Display) -> String {
    format!("{kind}|{repository}|{name}")
}

fn read(store: &Sled, repository: &RepositoryName, digest: &Digest) -> Result<Digest> {
    let blob = store.blob(repository, digest)?;
    let mut hasher = Hasher::new(digest.algorithm());
    let mut buffer = vec![0; 256 << 10];
    let mut position = 0;
    while position < blob.content.len() {
        let length = usize::try_from(blob.content.len() - position).unwrap().min(buffer.len());
        blob.content
            .read_at(position, &mut buffer[..length])
            .map_err(|source| Error::Io { doing: "reading".to_owned(), source })?;
        hasher.update(&buffer[..length]);
        position += length as u64;
    }
    Ok(hasher.finish())
}

/// What is found under a key. Damage and failures are errors.
pub(crate) fn look(store: &Sled, key: &str) -> Result<String, String> {
    let mut parts = key.split('|');
    let (kind, repository, name) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
    let repository: RepositoryName = repository.parse().unwrap();
    let found = match kind {
        "b" => {
            let digest: Digest = name.parse().unwrap();
            read(store, &repository, &digest).map(|found| {
                if found == digest { "1".to_owned() } else { format!("other bytes, of digest {found}") }
            })
        }
        "m" => {
            let digest = name.parse().unwrap();
            store.manifest(&repository, &Reference::Digest(digest)).map(|_| "1".to_owned())
        }
        "t" => {
            let tag = name.parse().unwrap();
            store.resolve(&repository, &Reference::Tag(tag)).map(|found| found.digest.to_string())
        }
        _ => store.upload_status(&repository, name.parse().unwrap()).map(|status| status.offset.to_string()),
    };
    match found {
        Ok(value) => Ok(value),
        Err(Error::BlobUnknown { .. } | Error::ManifestUnknown { .. } | Error::UploadUnknown { .. }) => {
            Ok(NOTHING.to_owned())
        }
        Err(error) => Err(format!("{key}: {error}")),
    }
}

/// Everything that the ledger knows of, as the store has it, and nothing that it cannot have.
///
/// `rebooted` says that a power cut came in between: then upload sessions may have been taken back.
pub(crate) fn examine(
    store: &Sled,
    ledger: &Ledger,
    rebooted: bool,
) -> Result<BTreeMap<String, String>, String> {
    let mut found = BTreeMap::new();
    let mut repositories = BTreeSet::new();
    for key in ledger.keys() {
        repositories.insert(key.split('|').nth(1).unwrap().to_owned());
        found.insert(key.to_owned(), look(store, key)?);
    }
    ledger.check(&found)?;
    for (key, offset) in found.iter().filter(|(key, _)| key.starts_with("s|")) {
        check_session(ledger, key, offset, rebooted)?;
    }
    for repository in &repositories {
        list(store, ledger, &repository.parse().unwrap())?;
    }
    let listed = store.repositories(None, 1000).map_err(|error| error.to_string())?;
    match listed.items.iter().find(|name| !repositories.contains(name.as_str())) {
        Some(name) => Err(format!("nobody ever pushed to {name}")),
        None => Ok(found),
    }
}

/// Holds what was found against the events: they tell of all that was done since the store was made, and of nothing else, if what
/// they tell is what is there. Where they are bounded, the first of them are gone, and the rest do not tell enough.
pub(crate) fn told(store: &Sled, found: &BTreeMap<String, String>) -> Result<(), String> {
    let page = store.events(0, usize::MAX).map_err(|error| error.to_string())?;
    if page.events.first().is_some_and(|event| event.number > 1) {
        return Ok(());
    }
    if page.missing > 0 {
        return Err(format!("{} events are missing", page.missing));
    }
    let mut told: BTreeMap<String, String> = BTreeMap::new();
    for event in page.events {
        let (blob, manifest) =
            (key("b", &event.repository, event.digest), key("m", &event.repository, event.digest));
        let tags = event.tags.iter().map(|tag| key("t", &event.repository, tag));
        let digest = event.digest.to_string();
        match event.kind {
            EventKind::BlobPushed | EventKind::BlobMounted => _ = told.insert(blob, "1".to_owned()),
            EventKind::BlobDeleted => _ = told.remove(&blob),
            EventKind::ManifestPushed | EventKind::TagSet => {
                told.insert(manifest, "1".to_owned());
                told.extend(tags.map(|tag| (tag, digest.clone())));
            }
            EventKind::ManifestDeleted => {
                let tags = key("t", &event.repository, "");
                told.remove(&manifest);
                told.retain(|key, value| !key.starts_with(&tags) || *value != digest);
            }
            EventKind::TagDeleted => tags.for_each(|tag| _ = told.remove(&tag)),
            other => return Err(format!("nobody does {other:?}")),
        }
    }
    for (key, value) in found.iter().filter(|(key, _)| !key.starts_with("s|")) {
        let told = told.remove(key).unwrap_or_else(|| NOTHING.to_owned());
        if told != *value {
            return Err(format!("{key} is {value}, and events tell that it is {told}"));
        }
    }
    match told.first_key_value() {
        Some((key, value)) => Err(format!("events tell that {key} is {value}, which nobody has done")),
        None => Ok(()),
    }
}

fn check_session(ledger: &Ledger, key: &str, offset: &str, rebooted: bool) -> Result<(), String> {
    let possible = ledger.possible(key);
    let wrong = || Err(format!("{key} stands at {offset}, and may be {possible:?}"));
    let progress: Vec<Progress> = possible.iter().filter_map(|value| Progress::parse(value)).collect();
    // A session that is being ended may have been given the rest first.
    let ending = possible.contains(NOTHING);
    let most = progress.iter().map(|progress| if ending { progress.total } else { progress.sent }).max();
    let least = match rebooted {
        true => progress.iter().map(|progress| progress.durable).min(),
        false => progress.iter().map(|progress| progress.sent).min(),
    };
    match (offset.parse::<usize>(), most, least) {
        (Err(_), ..) if ending => Ok(()),
        (Err(_), _, Some(0)) if rebooted => Ok(()),
        (Ok(offset), Some(most), Some(least)) => {
            let least = if ending { 0 } else { least };
            if (least..=most).contains(&offset) { Ok(()) } else { wrong() }
        }
        _ => wrong(),
    }
}

fn list(store: &Sled, ledger: &Ledger, repository: &RepositoryName) -> Result<(), String> {
    let mut found = BTreeMap::new();
    match store.tags(repository, None, 10_000) {
        Ok(page) => found
            .extend(page.items.iter().map(|tag| (key("t", repository, &tag.tag), tag.digest.to_string()))),
        Err(Error::RepositoryUnknown(_)) => {}
        Err(error) => return Err(format!("listing the tags of {repository}: {error}")),
    }
    match store.manifests(repository, None, 10_000) {
        Ok(page) => found.extend(
            page.items.iter().map(|manifest| (key("m", repository, manifest.digest), "1".to_owned())),
        ),
        Err(Error::RepositoryUnknown(_)) => {}
        Err(error) => return Err(format!("listing the manifests of {repository}: {error}")),
    }
    for (key, value) in &found {
        if !ledger.possible(key).contains(value.as_str()) {
            return Err(format!("{key} is listed as {value}, and may be {:?}", ledger.possible(key)));
        }
    }
    for key in ledger.keys().filter(|key| key.starts_with('t') || key.starts_with('m')) {
        if key.split('|').nth(1) == Some(repository.as_str())
            && let Some(value) = ledger.certain(key)
            && value != found.get(key).map_or(NOTHING, String::as_str)
        {
            return Err(format!("{key} is listed as {:?}, and must be {value}", found.get(key)));
        }
    }
    Ok(())
}

/// Goes on with a session to its end: what it has must be what was sent.
fn finish(store: &Sled, key: &str, progress: Progress) -> Result<String, String> {
    let mut parts = key.split('|').skip(1);
    let repository: RepositoryName = parts.next().unwrap().parse().unwrap();
    let id: Uuid = parts.next().unwrap().parse().unwrap();
    let content = noise(progress.seed, progress.total);
    let digest = Algorithm::Sha256.digest(&content);
    let told = |error: &dyn std::fmt::Display| format!("finishing {key}: {error}");
    let mut upload =
        store.resume_upload(&repository, id, &UploadOptions::new()).map_err(|error| told(&error))?;
    let offset = usize::try_from(upload.offset()).unwrap();
    upload.write_all(&content[offset..]).map_err(|error| told(&error))?;
    upload.commit(&digest).map_err(|error| told(&error))?;
    match read(store, &repository, &digest) {
        Ok(found) if found == digest => Ok(super::check::key("b", &repository, digest)),
        Ok(found) => Err(told(&format!("it reads back as {found}"))),
        Err(error) => Err(told(&error)),
    }
}

/// Pushes a blob. What fails is told in the store's own words.
pub(crate) fn push(store: &Sled, repository: &RepositoryName, content: &[u8], digest: &Digest) -> Result<()> {
    let mut upload = store.start_upload(repository, &UploadOptions::new())?;
    upload.write_all(content).map_err(|source| {
        let doing = "writing".to_owned();
        match source.downcast::<Error>() {
            Ok(error) => error,
            Err(source) => Error::Io { doing, source },
        }
    })?;
    upload.commit(digest).map(drop)
}

/// Pushes a blob in the index, one in a file, and a manifest over both with a tag; says so to the ledger.
pub(crate) fn push_image(store: &Sled, ledger: &mut Ledger, number: u64) -> Result<()> {
    let repository: RepositoryName = "after".parse()?;
    let contents = [noise(number, 300), noise(number, 70_000)];
    let layers: Vec<(Digest, usize)> =
        contents.iter().map(|content| (Algorithm::Sha256.digest(content), content.len())).collect();
    let manifest = image(&layers, 0);
    let digest = manifest.digest();
    let mut effects: Vec<String> =
        layers.iter().map(|(digest, _)| format!("{}=1", key("b", &repository, digest))).collect();
    effects.push(format!("{}=1 {}={digest}", key("m", &repository, digest), key("t", &repository, "after")));
    // These are several operations: each of them may be there without the others.
    for (n, effect) in (0..).zip(&effects) {
        ledger.take(&format!("B {} {effect}", number + n));
    }
    let push = || {
        for (content, (digest, _)) in contents.iter().zip(&layers) {
            let mut upload = store.start_upload(&repository, &UploadOptions::new())?;
            upload.write_all(content).map_err(|source| Error::Io { doing: "writing".to_owned(), source })?;
            upload.commit(digest)?;
        }
        let tags = ["after".parse()?];
        store.put_manifest(&repository, &manifest, &PutManifest::new().tags(&tags))
    };
    let pushed = push();
    for n in 0..effects.len() as u64 {
        ledger.take(&format!("{} {}", if pushed.is_ok() { 'A' } else { 'F' }, number + n));
    }
    pushed
}

/// A manifest over these layers, filled up to a size.
pub(crate) fn image(layers: &[(Digest, usize)], size: usize) -> Manifest {
    let pointer = |(digest, size): &(Digest, usize)| serde_json::json!({ "mediaType": "application/x", "digest": digest, "size": size });
    let Some((config, layers)) = layers.split_first() else {
        let empty = serde_json::json!({ "schemaVersion": 2, "manifests": [], "annotations": { "n": size.to_string() } });
        return Manifest::new(MediaType::OCI_INDEX.parse().unwrap(), empty.to_string().into_bytes());
    };
    let layers: Vec<_> = layers.iter().map(pointer).collect();
    let mut document =
        serde_json::json!({ "schemaVersion": 2, "config": pointer(config), "layers": layers }).to_string();
    let room = size.saturating_sub(document.len());
    document.insert_str(document.len() - 1, &" ".repeat(room));
    Manifest::new(MediaType::OCI_MANIFEST.parse().unwrap(), document.into_bytes())
}

/// A store that nobody can tell from one that was never cut: it has what it must, takes up sessions, is pushed to, and is opened
/// a second time with all of that.
pub(crate) fn whole(folder: &Path, ledger: &Ledger) -> Result<(), String> {
    look_at(folder, ledger, &|_, _| Ok(()))
}

/// The same of a store that has events of all that it ever was, as no copy has.
pub(crate) fn whole_and_told(folder: &Path, ledger: &Ledger) -> Result<(), String> {
    look_at(folder, ledger, &told)
}

type Also<'a> = &'a dyn Fn(&Sled, &BTreeMap<String, String>) -> Result<(), String>;

fn look_at(folder: &Path, ledger: &Ledger, also: Also<'_>) -> Result<(), String> {
    let mut ledger = ledger.clone();
    let store = options().open(folder).map_err(|error| format!("it does not open: {error}"))?;
    let found = examine(&store, &ledger, true)?;
    also(&store, &found)?;
    let mut number = u64::MAX / 2;
    ledger.take("L");
    for (key, offset) in
        found.iter().filter(|(key, offset)| key.starts_with("s|") && *offset != NOTHING).take(2)
    {
        let possible = ledger.possible(key);
        let progress = possible.iter().find_map(|value| Progress::parse(value)).unwrap();
        // The content's length is not to be had where the session stands at more than was begun to be sent.
        assert!(offset.parse::<usize>().unwrap() <= progress.total);
        let blob = finish(&store, key, progress)?;
        ledger.take(&format!("B {number} {blob}=1 {key}={NOTHING}"));
        ledger.take(&format!("A {number}"));
        number += 1;
    }
    push_image(&store, &mut ledger, number).map_err(|error| format!("pushing afterwards: {error}"))?;
    drop(store);
    let store = options().open(folder).map_err(|error| format!("it does not open again: {error}"))?;
    let again = examine(&store, &ledger, true).map_err(|error| format!("after another opening: {error}"))?;
    also(&store, &again).map_err(|error| format!("after another opening: {error}"))?;
    match found.iter().find(|(key, value)| {
        !key.starts_with("s|") && ledger.possible(key).len() > 1 && again.get(*key) != Some(value)
    }) {
        Some((key, value)) => Err(format!("{key} was {value}, and after another opening {:?}", again[key])),
        None => Ok(()),
    }
}

/// A manifest may name what is not there.
pub(crate) fn sparse<'a>() -> PutManifest<'a> {
    PutManifest::new().references(References::MayBeAbsent)
}
