//! `sledge gc`: removing what nothing keeps.

use std::fmt;

use clap::Args;
use sledge::store::sled::Collected;

use crate::config::Data;
use crate::operation::Operation;
use crate::policy::Policy;
use crate::printer::{Failure, Printer};

/// Remove what nothing keeps, also while the store is served
///
/// A server does this by itself. Where one has the store, what it was told to keep holds for what is not said here.
#[derive(Args)]
pub(crate) struct Gc {
    #[command(flatten)]
    data: Data,
    /// Name the tags and manifests that would go, count all, and remove nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    policy: Policy,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

impl Gc {
    pub(crate) fn run(self, printer: Printer) -> Result<(), Failure> {
        let operation = Operation::Gc { dry_run: self.dry_run, policy: self.policy };
        let report = operation.run_on(&self.data.folder()?, printer)?;
        printer.report(&report, self.json)
    }
}

pub(crate) fn show(collected: &Collected, dry_run: bool, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for name in &collected.names {
        writeln!(f, "{name}")?;
    }
    let unnamed = (collected.tags + collected.manifests).saturating_sub(collected.names.len() as u64);
    if unnamed > 0 {
        writeln!(f, "and {unnamed} more tags and manifests")?;
    }
    writeln!(f, "{}: {collected}", if dry_run { "would go" } else { "removed" })
}
