//! Content, read and compared with its digest. Where it stands is written down, so that the next verification goes on there.

use std::ops::ControlFlow;

use super::super::changes::Changes;
use super::super::content;
use super::super::quarantine::{self, Owned, Reading};
use super::super::schema::{
    self, Content, Layer, Manifest, Placement, Record, Tree, VERIFYING_KEY, Verifying,
};
use super::super::writer::Terms;
use super::{Run, batch};
use crate::error::{Error, Result};

/// Where it stands is written down after each batch, and whenever so many bytes were read.
const NOTE_BYTES: u64 = 64 << 20;

impl Run<'_> {
    /// Reads all blobs in the order of their digests, then all manifests.
    pub(super) fn contents(&mut self, restart: bool) -> Result<()> {
        let core = self.core();
        let (begun, totals) = core.read(|index| {
            Ok((index.get::<Verifying>(VERIFYING_KEY)?, super::super::accounts::totals(index)?))
        })?;
        self.begin("reading content", Some(totals.blob_bytes + totals.manifest_bytes))?;
        let begun = begun.filter(|_| !restart);
        self.report.resumed = begun.is_some();
        let (blobs_after, manifests_after) = match begun {
            None => (Some(Vec::new()), Vec::new()),
            Some(Verifying { manifests: false, after }) => (Some(after), Vec::new()),
            Some(Verifying { manifests: true, after }) => (None, after),
        };
        if let Some(after) = blobs_after {
            self.contents_of(Tree::Layers, after)?;
        }
        self.contents_of(Tree::Manifests, manifests_after)
    }

    fn contents_of(&mut self, tree: Tree, mut after: Vec<u8>) -> Result<()> {
        let place = |after: &[u8]| {
            (!after.is_empty() || tree == Tree::Manifests)
                .then(|| Verifying { manifests: tree == Tree::Manifests, after: after.to_vec() })
        };
        let is_inline = |content: &Content| matches!(content.placement, Placement::Inline(_));
        let mut noted_at = self.progress.done;
        loop {
            let begin = Some(after.as_slice()).filter(|after| !after.is_empty());
            let batch = batch(self.core(), tree, begin, is_inline)?;
            if batch.is_empty() {
                return self.note(place(&after).as_ref());
            }
            // What is inline is read in the order in which it is stored, and again if that is ended.
            let mut inline: Vec<_> = batch
                .iter()
                .filter_map(|(key, value, content)| {
                    Some((content.filter(is_inline)?.placement.id(), key, value))
                })
                .collect();
            inline.sort_unstable_by_key(|(id, ..)| *id);
            for (_, key, value) in inline {
                self.content_of(tree, key, value, place(&after).as_ref())?;
            }
            for (key, value, content) in batch {
                if content.is_some_and(|content| !is_inline(&content)) {
                    self.content_of(tree, &key, &value, place(&after).as_ref())?;
                }
                after = key;
                if self.progress.done - noted_at >= NOTE_BYTES {
                    noted_at = self.progress.done;
                    self.note(place(&after).as_ref())?;
                }
            }
            self.note(place(&after).as_ref())?;
        }
    }

    /// Reads what an entry names. Where that is ended, the place is written down.
    fn content_of(&mut self, tree: Tree, key: &[u8], value: &[u8], place: Option<&Verifying>) -> Result<()> {
        // What cannot be read is a record's fault and is reported with the records.
        let Ok((owned, quarantined)) = owned(tree, key, value) else { return Ok(()) };
        let outcome = self.content(tree, &owned, quarantined);
        if outcome.is_err() {
            self.note(place)?;
        }
        outcome
    }

    fn content(&mut self, tree: Tree, owned: &Owned, quarantined: bool) -> Result<()> {
        if quarantined {
            // A kill may have left its bytes where they were; where there is no room for a copy they stay there.
            return match quarantine::put_aside(self.shared, owned) {
                Ok(()) | Err(Error::DiskFull { .. }) => Ok(()),
                Err(error) => Err(error),
            };
        }
        let mut halt = None;
        let shared = self.shared;
        let reading = quarantine::read_all(&shared.core, owned, &mut |bytes| {
            let paced = self.paced(bytes);
            halt = paced.err();
            if halt.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        match reading {
            Reading::Stopped => return halt.map_or(Ok(()), Err),
            Reading::Failed(error) if !content::is_damage(&error) => {
                if self.core().read(|index| owned.quarantined(index))?.is_some() {
                    self.report.add_unchecked(format!("{}: {error}", owned.name()));
                }
                return Ok(());
            }
            Reading::Bad(_) | Reading::Failed(_) => {
                if let Some(why) = quarantine::doubt(shared, owned)? {
                    if self.reasons.len() < 1000 {
                        self.reasons.insert(owned.content.placement.id(), why);
                    }
                    return Ok(());
                }
                // Deleted or pushed again meanwhile, or good when it was looked at again.
                if self.core().read(|index| owned.quarantined(index))? != Some(false) {
                    return Ok(());
                }
            }
            Reading::Good => {}
        }
        let read = if tree == Tree::Layers { &mut self.report.blobs } else { &mut self.report.manifests };
        read.ok += 1;
        read.bytes += owned.content.size;
        Ok(())
    }

    /// Counts bytes that were read, and waits until more may be.
    fn paced(&mut self, bytes: u64) -> Result<()> {
        self.pace.took(bytes);
        self.done(bytes)?;
        while self.pace.wait() {
            self.done(0)?;
        }
        Ok(())
    }

    /// Writes down where it stands, or that it came to its end. Nothing depends on it: where that is refused, the next
    /// verification reads some content again.
    pub(super) fn note(&self, place: Option<&Verifying>) -> Result<()> {
        let mut changes = Changes::new();
        match place {
            Some(place) => changes.set(VERIFYING_KEY.to_vec(), place)?,
            None => changes.remove(Verifying::TREE, VERIFYING_KEY.to_vec()),
        }
        match self.shared.writer.run(Terms::default(), move |desk| desk.apply(&changes)) {
            Ok(()) | Err(Error::DiskFull { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn owned(tree: Tree, key: &[u8], value: &[u8]) -> Result<(Owned, bool)> {
    if tree == Tree::Layers {
        let layer = schema::decode::<Layer>(value)?;
        let digest = schema::digest_after(tree, key, &[])?;
        return Ok((Owned::blob(&digest, &layer), layer.quarantined_at.is_some()));
    }
    let manifest = schema::decode::<Manifest>(value)?;
    let (repository, digest) = schema::digest_of_key(tree, key)?;
    Ok((Owned::manifest(&repository, &digest, &manifest), manifest.quarantined_at.is_some()))
}
