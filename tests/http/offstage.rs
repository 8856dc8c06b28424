//! A store that watches from which threads it is called: never from one that async code runs on. It also keeps a list of the
//! sessions that were started, and can be told to fail.

use std::io;
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use sledge::oci::{Descriptor, Digest, Manifest, MediaType, Reference, RepositoryName, Tag};
use sledge::store::{
    Blob, BlobStat, Check, Condition, Content, Discover, Manage, MountSource, Page, Pinned, Pull, Push,
    PutManifest, ResidentBytes, Store, Tagged, Upload, UploadOptions, UploadStatus, View,
};
use sledge::{Error, Result};
use tempfile::TempDir;
use tokio::runtime::Handle;
use uuid::Uuid;

static SEEN: AtomicBool = AtomicBool::new(false);

/// Where async code runs nothing may block, and tokio panics at the attempt; on its other threads it does not.
fn watch() {
    if let Ok(runtime) = Handle::try_current()
        && catch_unwind(|| runtime.block_on(async {})).is_err()
    {
        SEEN.store(true, Ordering::SeqCst);
    }
}

/// Fails if any store of this process was called where it must not be.
pub(crate) fn assert_unseen() {
    assert!(!SEEN.load(Ordering::SeqCst), "the store was called on an async thread");
}

/// What is known of a store from its calls, and how it is to fail.
#[derive(Default)]
pub(crate) struct Seen {
    /// The sessions that were ever started.
    pub(crate) started: Mutex<Vec<(RepositoryName, Uuid)>>,
    /// How many blobs are open.
    pub(crate) open: AtomicUsize,
    /// The disk is full for whoever commits.
    pub(crate) full: AtomicBool,
    /// How many blobs were given out for the kernel to read.
    pub(crate) views: AtomicUsize,
    /// Who lists repositories waits for it.
    pub(crate) listing: Mutex<()>,
    /// How often that was begun.
    pub(crate) listings: AtomicUsize,
    /// There are too many requests of whoever begins to push.
    pub(crate) busy: AtomicBool,
}

/// The store, and the folder that it is in, which goes away after it.
pub(crate) struct Offstage {
    store: Box<dyn Store>,
    seen: Arc<Seen>,
    _folder: Option<TempDir>,
}

impl Offstage {
    pub(crate) fn new(store: impl Store + 'static, folder: Option<TempDir>) -> Self {
        Self { store: Box::new(store), seen: Arc::default(), _folder: folder }
    }

    pub(crate) fn seen(&self) -> &Seen {
        &self.seen
    }

    fn session(&self, upload: Box<dyn Upload>) -> Box<dyn Upload> {
        Box::new(Session { upload: Watched::new(upload), seen: Arc::clone(&self.seen) })
    }
}

struct Session {
    upload: Watched<dyn Upload>,
    seen: Arc<Seen>,
}

struct Watched<T: ?Sized>(Option<Box<T>>);

impl<T: ?Sized> Watched<T> {
    fn new(inner: Box<T>) -> Self {
        Self(Some(inner))
    }

    fn get(&self) -> &T {
        self.0.as_ref().unwrap()
    }

    fn take(mut self) -> Box<T> {
        self.0.take().unwrap()
    }
}

impl<T: ?Sized> Drop for Watched<T> {
    fn drop(&mut self) {
        if self.0.is_some() {
            watch();
        }
    }
}

impl Pull for Offstage {
    fn manifest(&self, repository: &RepositoryName, reference: &Reference) -> Result<Manifest> {
        watch();
        self.store.manifest(repository, reference)
    }

    /// This may be asked for anywhere.
    fn manifest_at_hand(&self, repository: &RepositoryName, reference: &Reference) -> Option<Manifest> {
        self.store.manifest_at_hand(repository, reference)
    }

    fn resolve(&self, repository: &RepositoryName, reference: &Reference) -> Result<Descriptor> {
        watch();
        self.store.resolve(repository, reference)
    }

    fn resolve_at_hand(&self, repository: &RepositoryName, reference: &Reference) -> Option<Descriptor> {
        self.store.resolve_at_hand(repository, reference)
    }

    fn blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<Blob> {
        watch();
        let blob = self.store.blob(repository, digest)?;
        self.seen.open.fetch_add(1, Ordering::SeqCst);
        let content = Arc::new(Part { content: blob.content, seen: Arc::clone(&self.seen) });
        Ok(Blob { stat: blob.stat, content })
    }

    fn stat(&self, repository: &RepositoryName, digest: &Digest) -> Result<BlobStat> {
        watch();
        self.store.stat(repository, digest)
    }

    fn stat_at_hand(&self, repository: &RepositoryName, digest: &Digest) -> Option<BlobStat> {
        self.store.stat_at_hand(repository, digest)
    }
}

impl Push for Offstage {
    fn put_manifest(
        &self,
        repository: &RepositoryName,
        manifest: &Manifest,
        options: &PutManifest<'_>,
    ) -> Result<()> {
        watch();
        self.store.put_manifest(repository, manifest, options)
    }

    fn tag(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        tag: &Tag,
        condition: &Condition,
    ) -> Result<()> {
        watch();
        self.store.tag(repository, digest, tag, condition)
    }

    fn start_upload(&self, repository: &RepositoryName, options: &UploadOptions) -> Result<Box<dyn Upload>> {
        watch();
        if self.seen.busy.load(Ordering::SeqCst) {
            return Err(Error::TooManyRequests { retry_after: Duration::from_millis(1500) });
        }
        let upload = self.store.start_upload(repository, options)?;
        self.seen.started.lock().unwrap().push((repository.clone(), upload.id()));
        Ok(self.session(upload))
    }

    fn resume_upload(
        &self,
        repository: &RepositoryName,
        id: Uuid,
        options: &UploadOptions,
    ) -> Result<Box<dyn Upload>> {
        watch();
        Ok(self.session(self.store.resume_upload(repository, id, options)?))
    }

    fn upload_status(&self, repository: &RepositoryName, id: Uuid) -> Result<UploadStatus> {
        watch();
        self.store.upload_status(repository, id)
    }

    fn cancel_upload(&self, repository: &RepositoryName, id: Uuid) -> Result<()> {
        watch();
        self.store.cancel_upload(repository, id)
    }

    fn mount(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        source: &MountSource<'_>,
    ) -> Result<BlobStat> {
        watch();
        self.store.mount(repository, digest, source)
    }
}

impl Discover for Offstage {
    fn repositories(&self, after: Option<&RepositoryName>, limit: usize) -> Result<Page<RepositoryName>> {
        watch();
        self.seen.listings.fetch_add(1, Ordering::SeqCst);
        let _turn = self.seen.listing.lock().unwrap();
        self.store.repositories(after, limit)
    }

    fn manifests(
        &self,
        repository: &RepositoryName,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Page<Descriptor>> {
        watch();
        self.store.manifests(repository, after, limit)
    }

    fn tags(&self, repository: &RepositoryName, after: Option<&Tag>, limit: usize) -> Result<Page<Tagged>> {
        watch();
        self.store.tags(repository, after, limit)
    }

    fn tags_at_hand(
        &self,
        repository: &RepositoryName,
        after: Option<&Tag>,
        limit: usize,
    ) -> Option<Page<Tagged>> {
        self.store.tags_at_hand(repository, after, limit)
    }

    fn referrers(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
        artifact_type: Option<&MediaType>,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Page<Descriptor>> {
        watch();
        self.store.referrers(repository, subject, artifact_type, after, limit)
    }
}

impl Manage for Offstage {
    fn delete_manifest(&self, repository: &RepositoryName, digest: &Digest, pinned: &Pinned) -> Result<()> {
        watch();
        self.store.delete_manifest(repository, digest, pinned)
    }

    fn delete_tag(&self, repository: &RepositoryName, tag: &Tag) -> Result<()> {
        watch();
        self.store.delete_tag(repository, tag)
    }

    fn delete_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<()> {
        watch();
        self.store.delete_blob(repository, digest)
    }
}

impl io::Write for Session {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        watch();
        self.upload.0.as_mut().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        watch();
        self.upload.0.as_mut().unwrap().flush()
    }
}

impl Upload for Session {
    fn id(&self) -> Uuid {
        self.upload.get().id()
    }

    fn started_at(&self) -> SystemTime {
        self.upload.get().started_at()
    }

    fn offset(&self) -> u64 {
        self.upload.get().offset()
    }

    fn bytes(&self) -> Result<Box<dyn io::Read + Send>> {
        watch();
        self.upload.get().bytes()
    }

    fn suspend(self: Box<Self>) -> Result<()> {
        watch();
        self.upload.take().suspend()
    }

    fn commit(self: Box<Self>, digest: &Digest) -> Result<BlobStat> {
        watch();
        if self.seen.full.load(Ordering::SeqCst) {
            // As the contract has it, the session stands.
            self.upload.take().suspend()?;
            return Err(Error::DiskFull { needed: 1, available: 0 });
        }
        self.upload.take().commit(digest)
    }

    fn cancel(self: Box<Self>) -> Result<()> {
        watch();
        self.upload.take().cancel()
    }
}

struct Part {
    content: Arc<dyn Content>,
    seen: Arc<Seen>,
}

impl Drop for Part {
    fn drop(&mut self) {
        self.seen.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Content for Part {
    fn len(&self) -> u64 {
        self.content.len()
    }

    fn is_empty(&self) -> bool {
        self.content.is_empty()
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<()> {
        watch();
        self.content.read_at(position, buffer)
    }

    fn read_at_hand(&self, position: u64, buffer: &mut [u8]) -> usize {
        self.content.read_at_hand(position, buffer)
    }

    fn view(&self) -> Option<View> {
        let view = self.content.view()?;
        self.seen.views.fetch_add(1, Ordering::SeqCst);
        Some(View::new(Arc::new(PartView(view))))
    }

    fn check(&self) -> Option<Box<dyn Check>> {
        self.content.check().map(|check| Box::new(PartCheck(check)) as _)
    }
}

struct PartCheck(Box<dyn Check>);

impl Check for PartCheck {
    fn update(&mut self, piece: &[u8]) {
        if self.takes_long() {
            watch();
        }
        self.0.update(piece);
    }

    fn takes_long(&self) -> bool {
        self.0.takes_long()
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        watch();
        self.0.finish()
    }
}

struct PartView(View);

impl ResidentBytes for PartView {
    fn bytes(&self) -> &[u8] {
        self.0.as_ref()
    }

    fn make_resident(&self, start: usize, length: usize) -> io::Result<()> {
        watch();
        self.0.make_resident(start, length)
    }
}
