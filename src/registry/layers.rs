//! A repository's layers: reading them, and the sessions that upload them.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::time::SystemTime;

use uuid::Uuid;

use super::Repository;
use crate::error::{Error, Result};
use crate::oci::{Algorithm, Digest};
use crate::store::{Blob, BlobStat, Check, MountSource, Upload, UploadOptions, UploadStatus};
#[cfg(feature = "schema1")]
use crate::{oci::TarSum, store::tarsum};

/// A repository's layers, configs and other blobs.
#[derive(Clone, Debug)]
pub struct Layers {
    repository: Repository,
}

impl Layers {
    pub(super) const fn new(repository: Repository) -> Self {
        Self { repository }
    }

    /// Whether the repository links such a layer.
    ///
    /// # Errors
    /// Only what the storage itself fails with.
    pub fn exists(&self, digest: &Digest) -> Result<bool> {
        match self.stat(digest) {
            Ok(_) => Ok(true),
            Err(Error::BlobUnknown { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What is known of a layer without opening it.
    ///
    /// # Errors
    /// [`Error::BlobUnknown`].
    pub fn stat(&self, digest: &Digest) -> Result<BlobStat> {
        self.repository.store.stat(&self.repository.name, digest)
    }

    /// Opens a layer for reading, at its first byte.
    ///
    /// # Errors
    /// [`Error::BlobUnknown`].
    pub fn fetch(&self, digest: &Digest) -> Result<Layer> {
        let blob = self.repository.store.blob(&self.repository.name, digest)?;
        Ok(Layer { blob, position: 0, watch: Watch::None })
    }

    /// The layer that was put under a TarSum.
    ///
    /// # Errors
    /// [`Error::TarSumUnknown`].
    #[cfg(feature = "schema1")]
    pub fn find(&self, tar_sum: &TarSum) -> Result<BlobStat> {
        tarsum::find(self.repository.store.as_ref(), &self.repository.name, tar_sum)
    }

    /// Makes the bytes of an upload a layer, under their sha256 digest and a TarSum, and ends the session. The bytes are read again
    /// for that.
    ///
    /// # Errors
    /// [`Error::TarSumMismatch`] and [`Error::NoTarSum`], which cancel the session.
    ///
    /// # Durability
    /// As [`LayerUpload::finish`].
    #[cfg(feature = "schema1")]
    pub fn finish_as(&self, upload: LayerUpload, tar_sum: &TarSum) -> Result<BlobStat> {
        tarsum::commit(self.repository.store.as_ref(), &self.repository.name, upload.0, tar_sum)
    }

    /// Stores bytes that are all in memory as a layer, under their sha256 digest.
    ///
    /// # Errors
    /// [`Error::DiskFull`], and what the storage fails with.
    ///
    /// # Durability
    /// As [`LayerUpload::finish`].
    pub fn put(&self, bytes: &[u8]) -> Result<BlobStat> {
        let digest = Algorithm::Sha256.digest(bytes);
        let mut upload = self.upload(&UploadOptions::new().size(bytes.len() as u64))?;
        if let Err(error) = upload.write_all(bytes) {
            // Nobody knows the session's id: suspended, it would only take room until it expires. What made the write
            // fail is what is told, whether or not the session can be ended.
            let _ = upload.cancel();
            let doing = format!("storing layer {digest}");
            return Err(error.downcast::<Error>().unwrap_or_else(Error::io(doing)));
        }
        upload.finish(&digest)
    }

    /// Begins to upload a layer.
    ///
    /// # Errors
    /// [`Error::DiskFull`] where the size is known and there is no room.
    pub fn upload(&self, options: &UploadOptions) -> Result<LayerUpload> {
        self.repository.store.start_upload(&self.repository.name, options).map(LayerUpload)
    }

    /// Takes up an upload where it stands: [`LayerUpload::offset`].
    ///
    /// # Errors
    /// [`Error::UploadUnknown`], and [`Error::UploadBusy`] while somebody else is writing to it.
    pub fn resume(&self, id: Uuid) -> Result<LayerUpload> {
        let options = UploadOptions::new();
        self.repository.store.resume_upload(&self.repository.name, id, &options).map(LayerUpload)
    }

    /// Where an upload stands, whether or not somebody is writing to it.
    ///
    /// # Errors
    /// [`Error::UploadUnknown`].
    pub fn status(&self, id: Uuid) -> Result<UploadStatus> {
        self.repository.store.upload_status(&self.repository.name, id)
    }

    /// Ends an upload, whether or not somebody is writing to it. One that is not there is a success.
    ///
    /// # Errors
    /// Only what the storage itself fails with.
    pub fn cancel(&self, id: Uuid) -> Result<()> {
        self.repository.store.cancel_upload(&self.repository.name, id)
    }

    /// Links a layer of another repository of the same store into this one.
    ///
    /// # Errors
    /// [`Error::BlobUnknown`] where that repository does not link it.
    ///
    /// # Durability
    /// As [`LayerUpload::finish`].
    pub fn mount(&self, digest: &Digest, from: &Repository) -> Result<BlobStat> {
        let source = MountSource::Repository(&from.name);
        self.repository.store.mount(&self.repository.name, digest, &source)
    }

    /// Unlinks a layer from the repository, even if a manifest references it.
    ///
    /// # Errors
    /// [`Error::BlobUnknown`].
    pub fn delete(&self, digest: &Digest) -> Result<()> {
        self.repository.store.delete_blob(&self.repository.name, digest)
    }
}

/// A layer that is open for reading. A clone reads the same bytes from a position of its own.
///
/// Who reads it from its first byte to its last gets the digest's bytes or an error: where the store has not seen yet that they
/// are, they are hashed as they are read, and where they are not, the last of them is not handed out. Who seeks has given that
/// up, and reads what is on the disk.
pub struct Layer {
    blob: Blob,
    position: u64,
    watch: Watch,
}

/// What becomes of a reading from the first byte to the last.
enum Watch {
    None,
    /// It goes on at this position.
    Goes(u64, Box<dyn Check>),
    /// Its bytes were not the digest's.
    Failed,
}

impl Layer {
    /// Its digest.
    #[must_use]
    pub const fn digest(&self) -> &Digest {
        &self.blob.stat.digest
    }

    /// Its size in bytes.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.blob.stat.size
    }

    /// Whether it has no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// When it was first committed to the store.
    #[must_use]
    pub const fn created_at(&self) -> SystemTime {
        self.blob.stat.created_at
    }

    /// The blob beneath, for reading at any position and for views.
    #[must_use]
    pub const fn blob(&self) -> &Blob {
        &self.blob
    }
}

impl Read for Layer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.len().saturating_sub(self.position);
        let length = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        if length == 0 {
            return Ok(0);
        }
        let (part, _) = buffer.split_at_mut(length);
        let mut check = self.take_check()?;
        self.blob.content.read_at(self.position, part)?;
        let after = self.position + length as u64;
        if let Some(mut check) = check.take() {
            check.update(part);
            if after < self.len() {
                self.watch = Watch::Goes(after, check);
            } else if let Err(error) = check.finish() {
                self.watch = Watch::Failed;
                return Err(error);
            }
        }
        self.position = after;
        Ok(length)
    }
}

impl Layer {
    /// What has seen all that comes before the position. A reading that fails in between is none from the first byte to the last.
    fn take_check(&mut self) -> io::Result<Option<Box<dyn Check>>> {
        match std::mem::replace(&mut self.watch, Watch::None) {
            Watch::Goes(position, check) if position == self.position => Ok(Some(check)),
            Watch::Failed => {
                self.watch = Watch::Failed;
                let reason = format!("layer {} is damaged: its bytes are not the digest's", self.digest());
                Err(io::Error::new(io::ErrorKind::InvalidData, reason))
            }
            Watch::Goes(..) | Watch::None if self.position == 0 => Ok(self.blob.content.check()),
            Watch::Goes(..) | Watch::None => Ok(None),
        }
    }
}

impl Clone for Layer {
    fn clone(&self) -> Self {
        Self { blob: self.blob.clone(), position: self.position, watch: Watch::None }
    }
}

impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layer").field("blob", &self.blob).field("position", &self.position).finish()
    }
}

impl Seek for Layer {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(distance) => self.len().checked_add_signed(distance),
            SeekFrom::Current(distance) => self.position.checked_add_signed(distance),
        };
        // As with a file, a position beyond the end is one where nothing is read.
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

/// An upload in the hands of its one writer. Dropping it suspends the session, which [`Layers::resume`] takes up again.
pub struct LayerUpload(Box<dyn Upload>);

impl LayerUpload {
    /// The session's id, to resume it by. It is not to be guessed.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.0.id()
    }

    /// When the session was started.
    #[must_use]
    pub fn started_at(&self) -> SystemTime {
        self.0.started_at()
    }

    /// How many bytes it has: the position of the next.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.0.offset()
    }

    /// Suspends the session and says whether that worked; to drop it does the same and says nothing.
    ///
    /// # Errors
    /// What the storage fails with; the session may then stand at an earlier offset.
    pub fn suspend(self) -> Result<()> {
        self.0.suspend()
    }

    /// Makes the bytes a layer of the repository and ends the session.
    ///
    /// # Errors
    /// [`Error::DigestMismatch`], which cancels the session. After any other error it stands where it stood.
    ///
    /// # Durability
    /// When it returns, the layer survives a power cut, if the store is one that survives anything.
    pub fn finish(self, digest: &Digest) -> Result<BlobStat> {
        self.0.commit(digest)
    }

    /// Ends the session and drops its bytes.
    ///
    /// # Errors
    /// Only what the storage itself fails with.
    pub fn cancel(self) -> Result<()> {
        self.0.cancel()
    }
}

impl Write for LayerUpload {
    fn write(&mut self, content: &[u8]) -> io::Result<usize> {
        self.0.write(content)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl fmt::Debug for LayerUpload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LayerUpload({} at byte {})", self.id(), self.offset())
    }
}
