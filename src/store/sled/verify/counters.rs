//! What is counted, counted again.

use super::super::accounts::{self, Others};
use super::super::changes::Changes;
use super::super::desk::Desk;
use super::super::index::Index;
use super::super::schema::{self, Layer, Manifest, Record, Repository, TOTALS_KEY, Totals, Tree};
use super::{Fault, FaultKind, Run};
use crate::error::{Error, Result};
use crate::oci::RepositoryName;

/// How often it is counted again while others change what is counted.
const ATTEMPTS: usize = 8;

/// How many things may be counted in the writer's thread, where others wait for it, though nothing seems wrong with them.
const FEW: u64 = 10_000;

/// How a first look turned out.
enum Looked {
    Agrees,
    /// Nobody changed anything, and it does not agree.
    Differs,
    /// Others changed it each time.
    Busy,
}

fn look<C: PartialEq>(recorded: impl Fn() -> Result<C>, count: impl Fn() -> Result<C>) -> Result<Looked> {
    for _ in 0..ATTEMPTS {
        let before = recorded()?;
        let counted = count()?;
        if recorded()? != before {
            continue;
        }
        return Ok(if counted == before { Looked::Agrees } else { Looked::Differs });
    }
    Ok(Looked::Busy)
}

impl Run<'_> {
    pub(super) fn counters(&mut self) -> Result<()> {
        self.pages(Tree::Repositories, |run, page| {
            for (key, _) in page {
                match schema::repository_of_key(&key) {
                    Ok(repository) => run.repository(&repository)?,
                    Err(_) => run.add(Tree::Repositories, &key, FaultKind::Unreadable, false),
                }
            }
            Ok(())
        })?;
        self.totals()
    }

    fn repository(&mut self, repository: &RepositoryName) -> Result<()> {
        let core = self.core();
        let looked = look(
            || core.read(|index| recorded(index, repository)),
            || core.read(|index| count(index, repository)),
        )?;
        let few = || {
            let recorded = core.read(|index| recorded(index, repository))?.unwrap_or_default();
            Ok::<_, Error>(recorded.links.saturating_add(recorded.manifests) <= FEW)
        };
        match looked {
            Looked::Agrees => return Ok(()),
            Looked::Busy if !few()? => {
                self.report
                    .add_unchecked(format!("the counts of {repository}: others change it all the time"));
                return Ok(());
            }
            Looked::Busy | Looked::Differs => {}
        }
        let (name, repair) = (repository.clone(), self.repair);
        let wrong = self.at_desk(move |_, desk| {
            let wrong = recorded(desk.index(), &name)? != count(desk.index(), &name)?;
            if wrong && repair {
                rewrite(desk, &name)?;
            }
            Ok(wrong)
        })?;
        if wrong {
            self.add(
                Tree::Repositories,
                &schema::repository_key(repository),
                FaultKind::CountersWrong,
                self.repair,
            );
        }
        Ok(())
    }

    fn totals(&mut self) -> Result<()> {
        let core = self.core();
        let looked = look(|| core.read(recorded_totals), || core.read(count_totals).map(Some))?;
        let few = || {
            let recorded = core.read(accounts::totals)?;
            Ok::<_, Error>(recorded.blobs.saturating_add(recorded.manifests) <= FEW)
        };
        match looked {
            Looked::Agrees => return Ok(()),
            Looked::Busy if !few()? => {
                self.report.add_unchecked("the store's counts: others change them all the time".to_owned());
                return Ok(());
            }
            Looked::Busy | Looked::Differs => {}
        }
        let repair = self.repair;
        let wrong = self.at_desk(move |_, desk| {
            let counted = count_totals(desk.index())?;
            let wrong = recorded_totals(desk.index())? != Some(counted);
            if wrong && repair {
                let mut changes = Changes::new();
                changes.set(TOTALS_KEY.to_vec(), &counted)?;
                desk.apply(&changes)?;
            }
            Ok(wrong)
        })?;
        if wrong {
            self.add(Tree::Meta, TOTALS_KEY, FaultKind::TotalsWrong, repair);
        }
        Ok(())
    }

    fn add(&mut self, tree: Tree, key: &[u8], kind: FaultKind, repaired: bool) {
        let record = super::records::describe(tree, key);
        self.report.add_fault(Fault { tree: tree.name().to_owned(), record, kind, repaired });
    }
}

/// What the records say; one that cannot be read says nothing.
fn recorded(index: &Index, repository: &RepositoryName) -> Result<Option<Repository>> {
    readable(index.get::<Repository>(&schema::repository_key(repository)))
}

fn recorded_totals(index: &Index) -> Result<Option<Totals>> {
    match accounts::totals(index) {
        Err(Error::Damaged { .. }) => Ok(None),
        totals => totals.map(Some),
    }
}

fn readable<R: Record>(record: Result<Option<R>>) -> Result<Option<R>> {
    match record {
        Err(Error::Damaged { .. }) => Ok(None),
        record => record,
    }
}

/// Writes down what a repository holds, counted in the writer's thread.
pub(super) fn rewrite(desk: &mut Desk<'_>, repository: &RepositoryName) -> Result<()> {
    let key = schema::repository_key(repository);
    let mut changes = Changes::new();
    match count(desk.index(), repository)? {
        Some(counted) => changes.set(key, &counted)?,
        None => changes.remove(Repository::TREE, key),
    }
    desk.apply(&changes)
}

/// What a repository holds; one that holds nothing has no record.
fn count(index: &Index, repository: &RepositoryName) -> Result<Option<Repository>> {
    let mut held = Repository::default();
    let prefix = schema::within(repository);
    for entry in index.scan(Tree::Links, &prefix, None)? {
        let Ok(digest) = schema::digest_after(Tree::Links, &entry?.0, &prefix) else { continue };
        let layer = readable(index.get::<Layer>(&schema::digest_key(&digest)))?;
        let size = layer.map_or(0, |layer| layer.content.size);
        held.links += 1;
        held.blob_bytes += size;
        if Others::of(index, &digest, repository)? != Others::None {
            held.shared_bytes += size;
        }
    }
    for entry in index.scan(Tree::Manifests, &prefix, None)? {
        held.manifests += 1;
        held.manifest_bytes +=
            schema::decode::<Manifest>(&entry?.1).map_or(0, |manifest| manifest.content.size);
    }
    Ok((held.links > 0 || held.manifests > 0).then_some(held))
}

fn count_totals(index: &Index) -> Result<Totals> {
    let mut held = Totals::default();
    for entry in index.scan(Tree::Layers, &[], None)? {
        let Ok(layer) = schema::decode::<Layer>(&entry?.1) else { continue };
        held.blobs += 1;
        held.blob_bytes += layer.content.size;
        held.file_bytes += accounts::file_bytes(&layer.content, layer.quarantined_at);
    }
    for entry in index.scan(Tree::Manifests, &[], None)? {
        let Ok(manifest) = schema::decode::<Manifest>(&entry?.1) else { continue };
        held.manifests += 1;
        held.manifest_bytes += manifest.content.size;
        held.file_bytes += accounts::file_bytes(&manifest.content, manifest.quarantined_at);
    }
    Ok(held)
}
