//! `sledge rescue`: a new store of what can be read of a damaged one.

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use sledge::Error;
use sledge::store::sled::{RESCUED, RescueReport, rescue};

use crate::config::Data;
use crate::operation;
use crate::printer::{Failure, Printer};
use crate::snapshot::show_files;

/// Make a new store of what can be read of one that does not open; that one is not changed
///
/// Ends with 1 where something is lost, or may be. Small content, manifests above all, is in the index: where that is gone, so are
/// they, and only a snapshot has them.
#[derive(Args)]
pub(crate) struct Rescue {
    /// The folder of the new store; it must be new or empty, and takes no room for files if it is on the same filesystem
    #[arg(value_name = "NEW")]
    new: PathBuf,
    #[command(flatten)]
    data: Data,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
#[serde(transparent)]
struct Rescued(RescueReport);

impl Rescue {
    /// Not a success where something is lost, or may be: what the index can no longer name, nobody can list.
    pub(crate) fn run(self, printer: Printer) -> Result<ExitCode, Failure> {
        let data = self.data.folder()?;
        let mut watch = operation::watch(printer);
        let report = rescue(&data, &self.new, &mut watch).map_err(|error| {
            let hint = match &error {
                Error::NotAStore { .. } | Error::NotEmpty { .. } => {
                    Some("name a folder that is empty or does not exist")
                }
                Error::Locked(_) => {
                    Some("a store that is being served is not in need of rescue: stop the server first")
                }
                Error::NoStore(_) => Some("give --data the folder of the damaged store"),
                _ => None,
            };
            let failure = Failure::new(format!("cannot rescue {}", data.display()), error);
            match hint {
                Some(hint) => failure.hint(hint),
                None => failure,
            }
        })?;
        let (unnamed, lost) = (report.unnamed, !report.lost.is_empty() || !report.incomplete.is_empty());
        let (is_damaged, untagged) = (!report.damage.is_empty(), report.untagged);
        printer.report(&Rescued(report), self.json)?;
        if unnamed > 0 {
            printer.note(format_args!(
                "hint: tag what you need in the repository {RESCUED:?}: blobs that no manifest references are collected"
            ));
        }
        if is_damaged {
            printer.note(format_args!(
                "hint: tags of which nothing could be read are not listed: compare with a snapshot, or with what you pushed. {untagged} \
                 manifests have no tag; `sledge gc --dry-run --untagged-after 0s --grace 0s` names them, and a server with \
                 --untagged-after removes them"
            ));
        }
        if lost {
            printer.note(
                "hint: push again what is lost or incomplete, or restore a snapshot that has it: what images share is there already",
            );
        }
        printer
            .note(format_args!("hint: to go on with it, give --data {}, or rename it", self.new.display()));
        Ok(if lost || is_damaged { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

impl fmt::Display for Rescued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(report) = self;
        writeln!(
            f,
            "rescued to {}: {} blobs, {} manifests ({} of them with all that they reference) and {} tags, in {:.1} s",
            report.folder.display(),
            report.blobs,
            report.manifests,
            report.whole,
            report.tags,
            report.took.as_secs_f64(),
        )?;
        writeln!(f, "{} records of the old index could be read", report.records)?;
        if report.unnamed > 0 {
            writeln!(
                f,
                "{} blobs and manifests have lost their names: repository {RESCUED}",
                report.unnamed
            )?;
        }
        show_files(&report.files, f)?;
        for damage in &report.damage {
            writeln!(f, "damaged: {damage}")?;
        }
        for incomplete in &report.incomplete {
            writeln!(f, "incomplete: {} in {} lacks", incomplete.manifest, incomplete.repository)?;
            for missing in &incomplete.missing {
                writeln!(f, "  {missing}")?;
            }
        }
        for lost in &report.lost {
            writeln!(f, "lost: {lost}")?;
        }
        for stray in &report.strays {
            writeln!(f, "not the store's, and left: {stray}")?;
        }
        Ok(())
    }
}
