//! `sledge compact`: the index in as little room as it needs.

use std::fmt;

use clap::Args;
use serde::Serialize;
use sledge::store::sled::{CompactReport, compact};

use crate::config::Data;
use crate::operation;
use crate::printer::{Failure, Printer};

/// Rewrite the index of a store that is not being served, which gives back the room of what was deleted
#[derive(Args)]
pub(crate) struct Compact {
    #[command(flatten)]
    data: Data,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
#[serde(transparent)]
struct Compacted(CompactReport);

impl Compact {
    pub(crate) fn run(self, printer: Printer) -> Result<(), Failure> {
        let data = self.data.folder()?;
        let report = compact(&data, &mut operation::watch(printer))
            .map_err(|error| operation::cannot_open(&data, error))?;
        printer.report(&Compacted(report), self.json)
    }
}

impl fmt::Display for Compacted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(report) = self;
        writeln!(
            f,
            "compacted {} records in {:.1} s: the index took {} bytes, and takes {}",
            report.records,
            report.took.as_secs_f64(),
            report.before,
            report.after,
        )
    }
}
