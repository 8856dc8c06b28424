//! `sledge usage`: how much a store holds.

use std::fmt;

use clap::Args;
use serde::{Deserialize, Serialize};
use sledge::Error;
use sledge::store::Discover;
use sledge::store::sled::{RepositoryUsage, Sled, Usage};

use crate::config::Data;
use crate::operation::Operation;
use crate::printer::{Failure, Printer};

/// How many repositories are told of at most.
const MOST: usize = 10_000;

/// Say how much a store holds and what that takes, also while it is served
#[derive(Args)]
pub(crate) struct UsageCommand {
    #[command(flatten)]
    data: Data,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

impl UsageCommand {
    pub(crate) fn run(self, printer: Printer) -> Result<(), Failure> {
        let report = Operation::Usage.run_on(&self.data.folder()?, printer)?;
        printer.report(&report, self.json)
    }
}

/// The store, and its repositories by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Used {
    store: Usage,
    repositories: Vec<(String, RepositoryUsage)>,
    /// Whether there are more than are told of.
    more: bool,
}

pub(crate) fn of(store: &Sled) -> sledge::Result<Used> {
    let page = store.repositories(None, MOST)?;
    let mut repositories = Vec::with_capacity(page.items.len());
    for name in page.items {
        match store.repository_usage(&name) {
            Ok(usage) => repositories.push((name.to_string(), usage)),
            // Its last content went while we asked.
            Err(Error::RepositoryUnknown(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Used { store: store.usage()?, repositories, more: page.more })
}

impl fmt::Display for Used {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Usage { blobs, blob_bytes, manifests, manifest_bytes, in_files, in_index, in_rest, .. } =
            self.store;
        let Usage { in_uploads, held_back, held_back_more, budget, free, .. } = self.store;
        writeln!(f, "blobs       {blobs:>14}  {blob_bytes:>18} bytes")?;
        writeln!(f, "manifests   {manifests:>14}  {manifest_bytes:>18} bytes")?;
        writeln!(f, "on the disk                 {:>18} bytes", in_files + in_index + in_rest)?;
        writeln!(f, "  in files                  {in_files:>18} bytes")?;
        writeln!(f, "    of upload sessions      {in_uploads:>18} bytes")?;
        writeln!(f, "  in the index              {in_index:>18} bytes")?;
        writeln!(f, "  reserve, quarantine       {in_rest:>18} bytes")?;
        let more = if held_back_more { " and more" } else { "" };
        writeln!(
            f,
            "waits to be collected       {held_back:>18} bytes{more}, in blobs that no manifest uses"
        )?;
        if let (Some(budget), Some(free)) = (budget, free) {
            writeln!(f, "budget                      {budget:>18} bytes")?;
            writeln!(f, "  free for pushes           {free:>18} bytes")?;
        }
        if self.repositories.is_empty() {
            return Ok(());
        }
        writeln!(f, "\n{:>18} {:>18}  repository", "unique bytes", "shared bytes")?;
        for (name, usage) in &self.repositories {
            let unique = usage.unique_bytes + usage.manifest_bytes;
            writeln!(f, "{unique:>18} {:>18}  {name}", usage.shared_bytes)?;
        }
        if self.more { writeln!(f, "and more: {MOST} are told of at most") } else { Ok(()) }
    }
}
