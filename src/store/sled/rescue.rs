//! A new store of what can still be read of one whose index does not open.
//!
//! Nothing of the old store is believed that cannot be checked: bytes are found by hashing all there are, and whatever a
//! readable record names by its digest is pushed anew. So the new store's records agree with each other, whatever the old ones
//! did. Each name of a blob and each tag is recorded twice, under two orders of its words, in trees of their own: what is
//! unreadable in the one is taken from the other.
//!
//! Files are linked where that is possible. Their bytes have just been read and found good; nobody writes to a committed file;
//! and whoever needs this may have no disk with room for a second copy. The old folder is only read.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::carry::{Carried, Carrier, Outcome, Share, content_of};
use super::carve::{carve, sort_in};
use super::content;
use super::finder::{Finder, Kind, Place};
use super::folder;
use super::gaps;
use super::index::Index;
use super::keep;
use super::layers::{self, Finished};
use super::making::Beside;
use super::progress::{Steps, Watch};
use super::restore::{copy_tree, lock_shared};
use super::rewrite::Rewrite;
use super::salvage::{Salvaged, catch_up, salvage};
use super::schema::{
    self, Content, FORMAT, Kept, Leftover, Manifest as Recorded, Placement, Tag as RecordedTag, Tree, Upload,
};
use super::snapshot::options_of_a_copy;
use super::store::Sled;
use super::writer::Terms;
use crate::error::{Error, Result};
use crate::oci::{
    Algorithm, Digest, MAX_MANIFEST_SIZE, Manifest, MediaType, Reference, ReferenceRole, RepositoryName, Tag,
};
use crate::store::{Condition, Discover, Pull, Push, PutManifest, References, UploadOptions};

/// The repository of what no readable record has a name for.
pub const RESCUED: &str = "rescued";

/// What a rescue saved, and what is lost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RescueReport {
    /// Where the new store is.
    pub folder: PathBuf,
    /// How many records and chunks of the old index could be read.
    pub records: u64,
    /// What of it could not be read, in words. Empty if all of it could.
    pub damage: Vec<String>,
    /// The blobs that the new store's repositories have, each counted where it is.
    pub blobs: u64,
    /// The manifests that they have.
    pub manifests: u64,
    /// The tags that they have.
    pub tags: u64,
    /// Of the blobs and manifests, those that are in the repository [`RESCUED`], since no record said where they belong. What had
    /// been deleted not long ago can be among them.
    pub unnamed: u64,
    /// The manifests that no tag points at, no index names and no subject keeps: some may have had a tag that could not be read.
    pub untagged: u64,
    /// The manifests that have all that they reference.
    pub whole: u64,
    /// The others, and what each lacks.
    pub incomplete: Vec<Incomplete>,
    /// What readable records name and no readable bytes are.
    pub lost: Vec<String>,
    /// What is among the old store's files and is not the store's: it is left where it is.
    pub strays: Vec<String>,
    /// How the files came to the new store.
    pub files: Carried,
    /// How long it took.
    pub took: Duration,
}

/// A manifest that lacks something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Incomplete {
    /// Where it is.
    pub repository: String,
    /// The manifest.
    pub manifest: String,
    /// The digests that are missing.
    pub missing: Vec<String>,
}

/// Makes a new store, in a folder that is new or empty, of what can be read of another, whose index is damaged or gone. The old
/// folder is not changed, and the new one has its name only when it is whole and durable.
///
/// All content is read and hashed. Times of pushes and open upload sessions are not taken over. Memory grows by about 200 bytes
/// with each blob and manifest.
///
/// # Errors
/// [`Error::Locked`] where the old store is in use, [`Error::FormatVersion`] where it is another version's, [`Error::NoStore`] where there is nothing of a store,
/// [`Error::NotEmpty`] where the new folder holds something, [`Error::Unsupported`] where it is inside the old one or in a folder that
/// is not there; [`Error::Interrupted`]; [`Error::Io`].
pub fn rescue(
    folder: impl AsRef<Path>,
    new_folder: impl AsRef<Path>,
    mut watch: Watch<'_>,
) -> Result<RescueReport> {
    let begun = Instant::now();
    let old = folder.as_ref();
    let has = |name: &str| old.join(name).is_dir();
    if !has(folder::INDEX) && !has(folder::CONTENT) {
        return Err(Error::NoStore(old.to_owned()));
    }
    let old = &old.canonicalize().map_err(Error::io(format!("looking up the folder {}", old.display())))?;
    let format = folder::check_format(old);
    if let Err(error @ Error::FormatVersion { .. }) = format {
        return Err(error);
    }
    let _lock = lock_shared(old)?;
    let mut target = Beside::prepare(new_folder.as_ref(), old)?;

    // First what the index still says, out of a copy.
    let (copy, readable) = (target.path.join("unfinished-copy"), target.path.join("unfinished-readable"));
    let readable = Rewrite::begin(&readable)?;
    let salvaged = if has(folder::INDEX) {
        let copied = copy_tree(&old.join(folder::INDEX), &copy);
        copied.map_err(Error::io(format!("copying the index of {}", old.display())))?;
        let mut salvaged = salvage(&copy, &readable)?;
        let pages = Rewrite::begin(&target.path.join("unfinished-pages"))?;
        let gap = gaps::find(&old.join(folder::INDEX)).map_err(Error::io("reading the index"))?;
        salvaged.damage.extend(gap.map(|gap| gap.to_string()));
        if carve(&old.join(folder::INDEX), &pages, !salvaged.damage.is_empty())? {
            let carved = sort_in(&pages, &readable)?;
            salvaged.entries += carved;
            if carved > 0 {
                salvaged.damage.push(format!(
                    "sled's log has damaged places; behind them {carved} more records and chunks could be read"
                ));
            }
        }
        // Last, as it has the last word.
        if !matches!(format, Ok(format) if format < FORMAT) {
            catch_up(&copy, &readable, &mut salvaged)?;
        }
        salvaged
    } else {
        Salvaged { damage: vec!["the index is missing".to_owned()], ..Salvaged::default() }
    };

    drop(Index::create(&target.path.join(folder::NEW_INDEX), 1 << 20)?);
    let store = target.open(options_of_a_copy())?;
    let mut run = Run {
        readable: readable.index(),
        finder: Finder::new(old, readable.index()),
        carriers: [Kind::Content, Kind::Quarantine].map(|kind| {
            let from = Finder::new(old, readable.index()).content(kind);
            Carrier::new(from, None, content_of(&target.path), Share::Files)
        }),
        store: &store,
        lost: BTreeSet::new(),
        placed: HashSet::new(),
        report: RescueReport {
            folder: new_folder.as_ref().to_owned(),
            records: salvaged.entries,
            damage: salvaged.damage,
            ..RescueReport::default()
        },
    };
    run.links(&mut watch)?;
    run.manifests(&mut watch)?;
    run.tags(&mut watch)?;
    run.unnamed(&mut watch)?;
    run.take_stock(&mut watch)?;
    let mut report = run.finish()?;

    drop(store);
    drop(readable);
    for left in
        ["unfinished-copy", "unfinished-readable", "unfinished-pages"].map(|name| target.path.join(name))
    {
        if left.exists() {
            fs::remove_dir_all(&left).map_err(Error::io(format!("removing {}", left.display())))?;
        }
    }
    folder::sync_tree(&content_of(&target.path)).map_err(Error::io("syncing the new content"))?;
    target.finish()?;
    report.took = begun.elapsed();
    Ok(report)
}

struct Run<'a> {
    readable: &'a Index,
    finder: Finder<'a>,
    carriers: [Carrier; 2],
    store: &'a Sled,
    lost: BTreeSet<String>,
    /// The content whose bytes are somewhere in the new store.
    placed: HashSet<Uuid>,
    report: RescueReport,
}

impl Run<'_> {
    /// Each blob that a repository links, as one of two trees says.
    fn links(&mut self, watch: &mut Watch<'_>) -> Result<()> {
        for (tree, read) in [
            (
                Tree::Links,
                (|key| schema::digest_of_key(Tree::Links, key))
                    as fn(&[u8]) -> Result<(RepositoryName, Digest)>,
            ),
            (Tree::Uses, |key| schema::use_of_key(key).map(|(digest, repository)| (repository, digest))),
        ] {
            for entry in self.readable.scan(tree, &[], None)? {
                let Ok((repository, digest)) = read(&entry?.0) else { continue };
                if self.has_blob(&repository, &digest)? {
                    continue;
                }
                match self.finder.find(&digest, watch)? {
                    Some(place) => self.put_blob(&repository, &digest, &place)?,
                    None => self.lost(format!("blob {digest} in {repository}")),
                }
            }
        }
        Ok(())
    }

    fn manifests(&mut self, watch: &mut Watch<'_>) -> Result<()> {
        for entry in self.readable.scan(Tree::Manifests, &[], None)? {
            let (key, value) = entry?;
            let Ok((repository, digest)) = schema::digest_of_key(Tree::Manifests, &key) else { continue };
            let media_type = schema::decode::<Recorded>(&value).ok();
            let media_type = media_type.and_then(|recorded| recorded.media_type.parse().ok());
            if !self.put_manifest(&repository, &digest, media_type, watch)? {
                self.lost(format!("manifest {digest} in {repository}"));
            }
        }
        Ok(())
    }

    /// Each tag, as one of two trees says; and the manifest that it points at, if its own record could not be read.
    fn tags(&mut self, watch: &mut Watch<'_>) -> Result<()> {
        let mut tags = BTreeSet::new();
        for entry in self.readable.scan(Tree::Tags, &[], None)? {
            let (key, value) = entry?;
            if let Ok((repository, tag)) = schema::tag_of_key(&key)
                && let Ok(Ok(digest)) = schema::decode::<RecordedTag>(&value).map(|tag| tag.digest.digest())
            {
                self.tag(&repository, &tag, &digest, watch)?;
                tags.insert((repository, tag));
            }
        }
        for entry in self.readable.scan(Tree::Tagged, &[], None)? {
            if let Ok((repository, digest, tag)) = schema::tagged_of_key(&entry?.0) {
                let named = (repository, tag);
                if !tags.contains(&named) {
                    self.tag(&named.0, &named.1, &digest, watch)?;
                }
            }
        }
        Ok(())
    }

    fn tag(
        &mut self,
        repository: &RepositoryName,
        tag: &Tag,
        digest: &Digest,
        watch: &mut Watch<'_>,
    ) -> Result<()> {
        if self.put_manifest(repository, digest, None, watch)? {
            self.store.tag(repository, digest, tag, &Condition::Any)
        } else {
            self.lost(format!("tag {tag} in {repository}, of manifest {digest}"));
            Ok(())
        }
    }

    /// What no record has named: manifests and blobs of one repository, where each manifest finds what it references.
    fn unnamed(&mut self, watch: &mut Watch<'_>) -> Result<()> {
        let repository: RepositoryName = RESCUED.parse()?;
        let unfinished = self.unfinished()?;
        let all: Vec<(Digest, Place)> = self
            .finder
            .all(Algorithm::Sha256, watch)?
            .iter()
            .map(|(digest, place)| (*digest, *place))
            .collect();
        let mut manifests = Vec::new();
        for (digest, place) in all {
            if self.placed.contains(&place.id) || unfinished.contains(&place.id) {
                continue;
            }
            self.report.unnamed += 1;
            if self.is_manifest(&place) && self.put_manifest(&repository, &digest, None, watch)? {
                manifests.push(digest);
            } else {
                self.put_blob(&repository, &digest, &place)?;
            }
        }
        // What they reference may have been named, and be elsewhere.
        let mut steps = Steps::begin(watch, "completing unnamed manifests", Some(manifests.len() as u64))?;
        for digest in manifests {
            steps.done(1)?;
            let manifest = self.store.manifest(&repository, &Reference::Digest(digest))?;
            for reference in manifest.contents()?.references {
                if !matches!(reference.role, ReferenceRole::Manifest(_))
                    && !self.has_blob(&repository, &reference.digest)?
                    && let Some(source) = self.home(&reference.digest)?
                {
                    self.mount(&repository, &reference.digest, source)?;
                }
            }
        }
        Ok(())
    }

    /// The content of sessions, and of what was being prepared or removed.
    fn unfinished(&self) -> Result<HashSet<Uuid>> {
        let mut found = HashSet::new();
        for entry in self.readable.scan(Tree::Uploads, &[], None)? {
            found.extend(schema::decode::<Upload>(&entry?.1).ok().map(|upload| upload.placement.id()));
        }
        for entry in self.readable.scan(Tree::Leftovers, &[], None)? {
            found.extend(schema::decode::<Leftover>(&entry?.1).ok().map(|left| left.content.placement.id()));
        }
        Ok(found)
    }

    fn is_manifest(&self, place: &Place) -> bool {
        place.size <= MAX_MANIFEST_SIZE as u64
            && self.finder.read(place).is_ok_and(|bytes| {
                Manifest::media_type_of(&bytes)
                    .is_ok_and(|media_type| Manifest::new(media_type, bytes).contents().is_ok())
            })
    }

    fn has_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<bool> {
        let key = schema::digest_within(repository, digest);
        self.store.0.core.read(|index| index.contains(Tree::Links, &key))
    }

    /// A repository of the new store that has the blob.
    fn home(&self, digest: &Digest) -> Result<Option<RepositoryName>> {
        self.store.0.core.read(|index| {
            let first = index.scan(Tree::Uses, &schema::digest_key(digest), None)?.next().transpose()?;
            first.map(|(key, _)| schema::repository_of_use(&key)).transpose()
        })
    }

    fn mount(&self, repository: &RepositoryName, digest: &Digest, source: RepositoryName) -> Result<()> {
        let (repository, digest) = (repository.clone(), *digest);
        let mount =
            move |desk: &mut super::desk::Desk<'_>| layers::mount(desk, &repository, &digest, &source);
        self.store.0.writer.run(AT_THE_END, mount).map(drop)
    }

    fn put_blob(&mut self, repository: &RepositoryName, digest: &Digest, place: &Place) -> Result<()> {
        let first = self.placed.insert(place.id);
        if let Some(source) = self.home(digest)? {
            return self.mount(repository, digest, source);
        }
        let carrier = match place.kind {
            Kind::Content => self.carriers.first_mut(),
            Kind::Quarantine => self.carriers.last_mut(),
            Kind::Chunks => None,
        };
        let Some(carrier) = carrier else { return self.push_chunks(repository, digest, place) };
        // The same bytes may be a blob's of another algorithm: content is one blob's alone, or it would go with the first of them.
        let id = if first { place.id } else { content::new_id() };
        if carrier.bring_as(place.id, id, place.size, || format!("blob {digest}"))? != Outcome::Brought {
            return Ok(());
        }
        let finished = Finished {
            repository: repository.clone(),
            session: Uuid::new_v4(),
            digest: *digest,
            content: Content { placement: Placement::File(id), size: place.size },
            tail: Vec::new(),
            tail_chunk: 0,
            reopened: None,
        };
        self.store.0.writer.run(AT_THE_END, move |desk| finished.publish(desk)).map(drop)
    }

    fn push_chunks(&self, repository: &RepositoryName, digest: &Digest, place: &Place) -> Result<()> {
        let options = UploadOptions::new().algorithm(digest.algorithm());
        let mut upload = self.store.start_upload(repository, &options)?;
        let mut buffer = vec![0; 64 << 10];
        let mut position = 0;
        while position < place.size {
            let rest = usize::try_from(place.size - position).unwrap_or(usize::MAX).min(buffer.len());
            let part = buffer.get_mut(..rest).unwrap_or_default();
            self.finder.read_at(place, position, part)?;
            upload.write_all(part).map_err(Error::io("writing rescued content"))?;
            position += part.len() as u64;
        }
        upload.commit(digest).map(drop)
    }

    /// Puts a manifest with this digest, if its bytes can be found and are one.
    fn put_manifest(
        &mut self,
        repository: &RepositoryName,
        digest: &Digest,
        media_type: Option<MediaType>,
        watch: &mut Watch<'_>,
    ) -> Result<bool> {
        match self.store.resolve(repository, &Reference::Digest(*digest)) {
            Err(Error::ManifestUnknown { .. }) => {}
            found => return found.map(|_| true),
        }
        let Some(place) =
            self.finder.find(digest, watch)?.filter(|place| place.size <= MAX_MANIFEST_SIZE as u64)
        else {
            return Ok(false);
        };
        let Ok(bytes) = self.finder.read(&place) else { return Ok(false) };
        let Some(media_type) = media_type.or_else(|| Manifest::media_type_of(&bytes).ok()) else {
            return Ok(false);
        };
        let Ok(manifest) = Manifest::verified(media_type, bytes, digest) else { return Ok(false) };
        let options = PutManifest::new().references(References::MayBeAbsent);
        match self.store.put_manifest(repository, &manifest, &options) {
            Err(Error::ManifestInvalid(_)) => return Ok(false),
            put => put?,
        }
        self.placed.insert(place.id);
        Ok(true)
    }

    fn lost(&mut self, what: String) {
        self.lost.insert(what);
    }

    /// Looks at what the new store has.
    fn take_stock(&mut self, watch: &mut Watch<'_>) -> Result<()> {
        let mut steps = Steps::begin(watch, "taking stock", None)?;
        let new = &self.store.0.core;
        let count = |tree| new.read(|index| Ok(index.scan(tree, &[], None)?.count() as u64));
        self.report.blobs = count(Tree::Links)?;
        self.report.tags = count(Tree::Tags)?;
        let mut after = None;
        loop {
            let names = self.store.repositories(after.as_ref(), 256)?;
            for repository in &names.items {
                self.take_stock_of(repository, &mut steps)?;
            }
            if !names.more {
                return Ok(());
            }
            after = names.items.last().cloned();
        }
    }

    fn take_stock_of(&mut self, repository: &RepositoryName, steps: &mut Steps<'_, '_>) -> Result<()> {
        let mut after = None;
        loop {
            let page = self.store.manifests(repository, after.as_ref(), 256)?;
            for descriptor in &page.items {
                steps.done(1)?;
                self.report.manifests += 1;
                let is_kept =
                    |index: &Index| keep::is_kept(index, Kept::Manifest, repository, &descriptor.digest);
                self.report.untagged += u64::from(!self.store.0.core.read(is_kept)?);
                let manifest = self.store.manifest(repository, &Reference::Digest(descriptor.digest))?;
                let mut missing = BTreeSet::new();
                for reference in
                    manifest.contents()?.references.iter().filter(|found| !found.non_distributable)
                {
                    let tree = match reference.role {
                        ReferenceRole::Manifest(_) => Tree::Manifests,
                        ReferenceRole::Config | ReferenceRole::Layer(_) => Tree::Links,
                    };
                    let key = schema::digest_within(repository, &reference.digest);
                    if !self.store.0.core.read(|index| index.contains(tree, &key))? {
                        missing.insert(reference.digest.to_string());
                    }
                }
                if missing.is_empty() {
                    self.report.whole += 1;
                } else {
                    self.report.incomplete.push(Incomplete {
                        repository: repository.to_string(),
                        manifest: descriptor.digest.to_string(),
                        missing: missing.into_iter().collect(),
                    });
                }
            }
            if !page.more {
                return Ok(());
            }
            after = page.items.last().map(|descriptor| descriptor.digest);
        }
    }

    fn finish(self) -> Result<RescueReport> {
        let Self { finder, carriers, mut report, lost, .. } = self;
        report.strays = finder.strays.into_iter().collect();
        report.lost = lost.into_iter().chain(finder.unreadable).collect();
        for carrier in carriers {
            report.files += carrier.finish()?;
        }
        Ok(report)
    }
}

/// Nobody is told of anything before all of it has been synced.
const AT_THE_END: Terms = Terms { durable: false, new_file: false, adds: true };
