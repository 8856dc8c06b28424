//! `sledge verify`: whether all that a store holds is as it was given.

use std::process::ExitCode;

use clap::Args;
use sledge::store::sled::VerifyOptions;

use crate::config::Data;
use crate::operation::{Operation, Report};
use crate::printer::{Failure, Printer};
use crate::values::Rate;

/// Read all content and compare it with its digest, and all records with each other, also while the store is served
///
/// Content that is bad is put into quarantine: it counts as absent until it is pushed again. A verification that was
/// interrupted goes on where it stood, but for the last 64 MiB. Ends with 1 where something is bad or wrong; images that lack
/// a part, which was deleted or never pushed, are listed and are neither.
#[derive(Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    data: Data,
    /// Read so much a second at most, such as 32MiB
    #[arg(long, value_name = "SIZE")]
    rate: Option<Rate>,
    /// Make records right that follow from others, and remove content that no record names; not on a read-only server
    #[arg(long)]
    repair: bool,
    /// Begin at the beginning, also where the last verification was interrupted
    #[arg(long)]
    restart: bool,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

impl Verify {
    pub(crate) fn run(self, printer: Printer) -> Result<ExitCode, Failure> {
        let mut options = VerifyOptions::new().repair(self.repair).restart(self.restart);
        if let Some(Rate(rate)) = self.rate {
            options = options.rate(rate);
        }
        let report = Operation::Verify { options }.run_on(&self.data.folder()?, printer)?;
        printer.report(&report, self.json)?;
        let is_well = matches!(&report, Report::Verify(report) if report.is_well());
        Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
