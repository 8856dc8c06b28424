//! The store itself: what it is made of, and the four traits over it.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crossbeam::sync::ShardedLock;
use uuid::Uuid;

use super::clock::Clock;
use super::content;
use super::desk::Desk;
use super::discover;
use super::evict;
use super::folder::{self, Folder};
use super::hot::{Found, Hot};
use super::index::{Index, Location};
use super::keep;
use super::layers;
use super::leftovers;
use super::manifests;
use super::opened::{Opened, Seen};
use super::options::{Inline, Options};
use super::outbox::Outbox;
use super::quarantine::{self, Owned};
use super::room::Room;
use super::schema::{self, Kept, Uptime, damaged};
use super::sessions::Sessions;
use super::writer::{Terms, Writer};
use super::{staged, uploads, waiting};
use crate::error::{Error, Result};
use crate::oci::{Descriptor, Digest, Manifest, MediaType, Reference, RepositoryName, Tag};
use crate::store::{
    Blob, BlobStat, Condition, Discover, Initiator, Manage, MountSource, Page, Pinned, Pull, Push,
    PutManifest, Tagged, Upload, UploadOptions, UploadStatus,
};

/// The durable store, in a folder of its own. Clones share it; it is closed when the last of them and of its uploads is dropped.
///
/// Writes of all threads go through one writer, which answers a group of them after one sync. Reads go side by side.
#[derive(Clone)]
pub struct Sled(pub(super) Arc<Shared>, pub(super) Option<Arc<Initiator>>);

/// What the handles and the uploads share. The writer is dropped first: it finishes what waits.
pub(super) struct Shared {
    pub(super) writer: Writer,
    pub(super) sessions: Sessions,
    /// Held by who makes room in a cache: how far it has looked at the upload sessions.
    pub(super) evicting: Mutex<Option<Vec<u8>>>,
    pub(super) core: Arc<Core>,
}

/// What the writer's thread needs too.
pub(super) struct Core {
    /// `None` only after a failure, until the index could be opened again.
    index: ShardedLock<Option<Index>>,
    location: Location,
    pub(super) folder: Folder,
    pub(super) options: Options,
    pub(super) clock: Clock,
    pub(super) seen: Seen,
    pub(super) verifying: AtomicBool,
    /// How often the index was opened again: what was flushed and not synced before may be gone since.
    reopened: AtomicU64,
    pub(super) room: Room,
    pub(super) outbox: Outbox,
    pub(super) hot: Hot,
    /// Tells this boot of the machine from others, where the system says.
    pub(super) boot: Option<Uuid>,
}

impl Core {
    /// Reads the index. It stays open while `read` runs, so that must not wait for anything but the disk.
    pub(super) fn read<T>(&self, read: impl FnOnce(&Index) -> Result<T>) -> Result<T> {
        let index = self.index.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        match index.as_ref() {
            Some(index) => read(index),
            None => Err(Error::Unavailable("its index could not be opened again after a failure".to_owned())),
        }
    }

    /// How often the index was opened again in this life of the store.
    pub(super) fn reopened(&self) -> u64 {
        self.reopened.load(Ordering::Acquire)
    }

    /// D8, where the store itself is being closed: the index is not opened again.
    pub(super) fn close(&self) {
        let mut place = self.index.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(index) = place.take() {
            index.close_after_failure();
        }
        drop(self.hot.changing_all());
    }

    /// Whether new content of so many bytes is to be inline.
    pub(super) fn takes_inline(&self, size: usize) -> bool {
        match self.options.inline {
            Inline::Everything => true,
            inline => inline.admits(size) && (size == 0 || self.room.index_beyond_share().is_none()),
        }
    }

    /// Puts the new index that was made beside the old one in its place. Nothing is being written, and all is durable. After an
    /// error the index is closed, and [`Core::reopen`] finds out which of the two it is.
    pub(super) fn replace_index(&self) -> Result<()> {
        let mut place = self.index.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        drop(place.take());
        folder::replace_index(self.folder.path())
            .map_err(Error::io("putting a smaller index in the place of the old one"))?;
        *place = Some(self.location.open()?);
        Ok(())
    }

    /// D8: closes the index, makes the system forget its pages, opens it again, and has it recovered before anybody reads it.
    pub(super) fn reopen(&self, recover: impl FnOnce(&Index) -> Result<()>) -> Result<()> {
        let mut place = self.index.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(index) = place.take() {
            index.close_after_failure();
        }
        // What was read here may be gone. Nobody reads now, and what was read before is not kept after this.
        drop(self.hot.changing_all());
        self.reopened.fetch_add(1, Ordering::AcqRel);
        self.folder.make_room();
        self.folder.settle_index()?;
        let index = self.location.open()?;
        recover(&index)?;
        *place = Some(index);
        Ok(())
    }
}

impl Sled {
    /// Opens the store in a folder with the default [`Options`], and makes it if the folder is absent or empty.
    ///
    /// # Errors
    /// As [`Options::open`].
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        Options::new().open(folder)
    }

    pub(super) fn open_with(folder: &Path, options: Options) -> Result<Self> {
        let folder = if options.create { Folder::open(folder) } else { Folder::open_existing(folder) }?;
        Self::over(folder, options)
    }

    /// The store in a folder that has been taken.
    pub(super) fn over(folder: Folder, options: Options) -> Result<Self> {
        let location = Location { path: folder.index(), cache_capacity: options.cache_capacity };
        folder.make_room();
        let index = location.open()?;
        let silence = options.writer_silence;
        let clock = Clock::open(&index)?;
        let room = Room::open(options.budget, &index, &folder)?;
        let outbox = Outbox::new(&options);
        let core = Arc::new(Core {
            clock,
            seen: Seen::default(),
            verifying: AtomicBool::new(false),
            reopened: AtomicU64::new(0),
            room,
            outbox,
            hot: Hot::new(),
            index: ShardedLock::new(Some(index)),
            location,
            folder,
            options,
            boot: staged::boot_id(),
        });
        let writer = Writer::start(Arc::clone(&core))?;
        core.folder.keep_room();
        let shared = Shared { writer, sessions: Sessions::new(silence), evicting: Mutex::default(), core };
        Ok(Self(Arc::new(shared), None))
    }

    /// Has work done by the writer, on behalf of whom this value acts for.
    pub(super) fn write<T, W>(&self, terms: Terms, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: FnOnce(&mut Desk<'_>) -> Result<T> + Send + 'static,
    {
        self.0.writer.run_by(self.1.clone(), terms, work)
    }

    /// Somebody is told that something is there and need not be pushed. Where nothing keeps it yet, it must stay long enough for
    /// a manifest to follow, so its grace time begins anew, before the answer. Not each time: half of it is enough.
    fn renew(
        &self,
        kind: Kept,
        stamp: Option<Uptime>,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<()> {
        if !self.renews(stamp) {
            return Ok(());
        }
        let (repository, digest) = (repository.clone(), *digest);
        self.0.writer.run(REMOVE, move |desk| keep::renew(desk, kind, &repository, &digest))
    }

    fn renews(&self, stamp: Option<Uptime>) -> bool {
        let core = &self.0.core;
        stamp.is_some_and(|since| core.clock.now().since(since) > core.options.grace / 2)
    }

    /// What asks for a change is for who may wait.
    fn unless_due<T>(&self, found: Found<T>) -> Option<T> {
        let notes_use = found.used_at.is_some_and(|used_at| evict::notes_use(&self.0.core, used_at));
        (!notes_use && !self.renews(found.unkept_since)).then_some(found.value)
    }

    /// The manifest's record and the digest that the reference stands for.
    fn find(&self, repository: &RepositoryName, reference: &Reference) -> Result<(Digest, schema::Manifest)> {
        self.0.core.read(|index| manifests::find(index, repository, reference))
    }

    /// Has a failure to read looked at; the reader has failed whatever comes of it.
    fn doubt(&self, owned: &Owned) {
        let _ = quarantine::doubt(&self.0, owned);
    }
}

impl fmt::Debug for Sled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sled").field("options", &self.0.core.options).finish_non_exhaustive()
    }
}

/// How often content is looked up again that went away between its record and its bytes.
const LOOK_AGAIN: usize = 8;

/// Finds a record and reads what it names. When reading fails, the record may have been replaced or removed meanwhile, which is
/// no damage: then the new one counts. Of what stays, `doubt` is told.
fn read_stable<R: PartialEq, T>(
    find: impl Fn() -> Result<R>,
    read: impl Fn(&R) -> Result<T>,
    doubt: impl FnOnce(&R),
) -> Result<T> {
    let mut record = find()?;
    for _ in 0..LOOK_AGAIN {
        let failure = match read(&record) {
            Ok(content) => return Ok(content),
            Err(failure) => failure,
        };
        let again = find()?;
        if again == record {
            doubt(&record);
            return Err(failure);
        }
        record = again;
    }
    Err(damaged("a record", "it changes whenever it is read"))
}

impl Pull for Sled {
    fn manifest(&self, repository: &RepositoryName, reference: &Reference) -> Result<Manifest> {
        let core = &self.0.core;
        let reading = core.hot.reading();
        read_stable(
            || self.find(repository, reference),
            |(digest, record)| {
                evict::note_use(&self.0, repository, digest, record);
                let bytes = core.read(|index| content::read_whole(index, core, &record.content))?;
                let media_type: MediaType = record.media_type.parse()?;
                let manifest = Manifest::verified(media_type, bytes, digest).map_err(|error| {
                    damaged(&format!("manifest {digest} in {repository}"), &error.to_string())
                })?;
                let schema::Manifest { used_at, unkept_since, .. } = *record;
                let found = Found { value: manifest, used_at: Some(used_at), unkept_since };
                core.hot.keep_manifest(reading, (repository, reference), &found);
                Ok(found.value)
            },
            |(digest, record)| self.doubt(&Owned::manifest(repository, digest, record)),
        )
    }

    fn manifest_at_hand(&self, repository: &RepositoryName, reference: &Reference) -> Option<Manifest> {
        self.unless_due(self.0.core.hot.manifest(repository, reference)?)
    }

    fn resolve(&self, repository: &RepositoryName, reference: &Reference) -> Result<Descriptor> {
        let core = &self.0.core;
        let reading = core.hot.reading();
        let (digest, record) = self.find(repository, reference)?;
        evict::note_use(&self.0, repository, &digest, &record);
        if matches!(reference, Reference::Digest(_)) {
            self.renew(Kept::Manifest, record.unkept_since, repository, &digest)?;
        }
        let descriptor = manifests::descriptor(digest, &record)?;
        let schema::Manifest { used_at, unkept_since, .. } = record;
        let found = Found { value: descriptor, used_at: Some(used_at), unkept_since };
        core.hot.keep_descriptor(reading, (repository, reference), &found);
        Ok(found.value)
    }

    fn resolve_at_hand(&self, repository: &RepositoryName, reference: &Reference) -> Option<Descriptor> {
        self.unless_due(self.0.core.hot.descriptor(repository, reference)?)
    }

    fn blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<Blob> {
        let core = &self.0.core;
        read_stable(
            || core.read(|index| layers::find(index, repository, digest)),
            |layer| {
                let opened = Opened::new(&self.0, Owned::blob(digest, layer));
                Ok(Blob { stat: layers::stat(digest, layer), content: content::open(opened)? })
            },
            |layer| self.doubt(&Owned::blob(digest, layer)),
        )
    }

    fn stat(&self, repository: &RepositoryName, digest: &Digest) -> Result<BlobStat> {
        let core = &self.0.core;
        let reading = core.hot.reading();
        let (layer, link) = core.read(|index| layers::look(index, repository, digest))?;
        let stat = layers::stat(digest, &layer);
        let found = Found { value: stat, used_at: None, unkept_since: link.unreferenced_since };
        core.hot.keep_blob(reading, (repository, digest), &found);
        self.renew(Kept::Link, link.unreferenced_since, repository, digest)?;
        Ok(stat)
    }

    fn stat_at_hand(&self, repository: &RepositoryName, digest: &Digest) -> Option<BlobStat> {
        self.unless_due(self.0.core.hot.blob(repository, digest)?)
    }
}

/// Adding or changing something that must survive a power cut.
const ADD: Terms = Terms { durable: true, new_file: false, adds: true };

/// Removing something, which must work on a full disk.
pub(super) const REMOVE: Terms = Terms { durable: true, new_file: false, adds: false };

impl Push for Sled {
    fn put_manifest(
        &self,
        repository: &RepositoryName,
        manifest: &Manifest,
        options: &PutManifest<'_>,
    ) -> Result<()> {
        let core = &self.0.core;
        core.folder.changes()?;
        let put = manifests::Put::prepare(core, repository, manifest, options)?;
        waiting::telling(core, evict::make_room(&self.0, manifest.bytes().len() as u64))?;
        quarantine::notice_manifest(&self.0, repository, manifest)?;
        let Some(id) = put.file() else {
            return self.write(ADD, |desk| put.publish(desk)).map(|_| ());
        };
        // The record that the file is to be removed comes before the file, and goes when the manifest is published.
        let leftover = put.leftover();
        let reserved = leftover.clone();
        let reserve = Terms { adds: true, ..Terms::default() };
        self.0.writer.run(reserve, move |desk| leftovers::reserve(desk, &reserved))?;
        let published = match put.write_file(core, id) {
            Ok(()) => self.write(Terms { new_file: true, ..ADD }, |desk| put.publish(desk)),
            Err(error) => Err(error),
        };
        if !matches!(published, Ok(true)) {
            // Should this fail too, the next opening does it.
            let _ = self.0.writer.run(Terms::default(), |desk| leftovers::give_up(desk, leftover));
        }
        waiting::telling(core, published.map(|_| ()))
    }

    fn tag(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        tag: &Tag,
        condition: &Condition,
    ) -> Result<()> {
        self.0.core.folder.changes()?;
        let (repository, digest, tag, condition) = (repository.clone(), *digest, tag.clone(), *condition);
        let tagged =
            self.write(ADD, move |desk| manifests::tag(desk, &repository, &digest, &tag, &condition));
        waiting::telling(&self.0.core, tagged)
    }

    fn start_upload(&self, repository: &RepositoryName, options: &UploadOptions) -> Result<Box<dyn Upload>> {
        self.0.core.folder.changes()?;
        uploads::start(&self.0, self.1.clone(), repository, options)
    }

    fn resume_upload(
        &self,
        repository: &RepositoryName,
        id: Uuid,
        options: &UploadOptions,
    ) -> Result<Box<dyn Upload>> {
        uploads::resume(&self.0, self.1.clone(), repository, id, options)
    }

    fn upload_status(&self, repository: &RepositoryName, id: Uuid) -> Result<UploadStatus> {
        uploads::status(&self.0, repository, id)
    }

    fn cancel_upload(&self, repository: &RepositoryName, id: Uuid) -> Result<()> {
        uploads::cancel(&self.0, repository, id)
    }

    fn mount(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        source: &MountSource<'_>,
    ) -> Result<BlobStat> {
        self.0.core.folder.changes()?;
        let source = layers::mount_source(&self.0.core, digest, source)?;
        let unknown = Error::BlobUnknown { repository: repository.clone(), digest: *digest };
        let source = source.ok_or(unknown)?;
        let (repository, digest) = (repository.clone(), *digest);
        let mounted = self.write(ADD, move |desk| layers::mount(desk, &repository, &digest, &source));
        waiting::telling(&self.0.core, mounted)
    }
}

impl Discover for Sled {
    fn repositories(&self, after: Option<&RepositoryName>, limit: usize) -> Result<Page<RepositoryName>> {
        self.0.core.read(|index| discover::repositories(index, after, limit))
    }

    fn manifests(
        &self,
        repository: &RepositoryName,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Page<Descriptor>> {
        self.0.core.read(|index| discover::manifests(index, repository, after, limit))
    }

    fn tags(&self, repository: &RepositoryName, after: Option<&Tag>, limit: usize) -> Result<Page<Tagged>> {
        let core = &self.0.core;
        let reading = core.hot.reading();
        let page = core.read(|index| discover::tags(index, repository, after, limit))?;
        core.hot.keep_tags(reading, (repository, after, limit), &page);
        Ok(page)
    }

    fn tags_at_hand(
        &self,
        repository: &RepositoryName,
        after: Option<&Tag>,
        limit: usize,
    ) -> Option<Page<Tagged>> {
        self.0.core.hot.tags(repository, after, limit)
    }

    fn referrers(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
        artifact_type: Option<&MediaType>,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Page<Descriptor>> {
        discover::referrers(self, repository, subject, artifact_type, after, limit)
    }
}

impl Manage for Sled {
    fn delete_manifest(&self, repository: &RepositoryName, digest: &Digest, pinned: &Pinned) -> Result<()> {
        self.0.core.folder.changes()?;
        let (repository, digest, pinned) = (repository.clone(), *digest, pinned.clone());
        self.write(REMOVE, move |desk| manifests::delete(desk, &repository, &digest, &pinned))
    }

    fn delete_tag(&self, repository: &RepositoryName, tag: &Tag) -> Result<()> {
        self.0.core.folder.changes()?;
        let (repository, tag) = (repository.clone(), tag.clone());
        self.write(REMOVE, move |desk| manifests::delete_tag(desk, &repository, &tag))
    }

    fn delete_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<()> {
        self.0.core.folder.changes()?;
        let (repository, digest) = (repository.clone(), *digest);
        self.write(REMOVE, move |desk| layers::delete(desk, &repository, &digest))
    }
}
