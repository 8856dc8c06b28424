//! `sledge snapshot`: a copy of a store, in use or not.

use std::fmt;
use std::path::{Path, PathBuf};

use clap::Args;
use sledge::store::sled::{Carried, SnapshotOptions, SnapshotReport};

use crate::config::Data;
use crate::operation::{Operation, Report};
use crate::printer::{Failure, Printer};

/// Make a copy of a store as it is at one moment, also while it is served
///
/// Ends with 1 where something that it was to hold is missing or bad; the snapshot of all the rest is made.
#[derive(Args)]
pub(crate) struct Snapshot {
    /// The folder of the copy; it must be new or empty, and takes no room for files if it is on the same filesystem
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    #[command(flatten)]
    data: Data,
    /// An earlier snapshot on the same filesystem as the new one: what it has is linked from there instead of being copied; it must
    /// not have been changed since it was taken
    #[arg(long, value_name = "SNAPSHOT")]
    since: Option<PathBuf>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

impl Snapshot {
    pub(crate) fn run(self, printer: Printer) -> Result<(), Failure> {
        let mut options = SnapshotOptions::new();
        if let Some(since) = &self.since {
            options = options.since(absolute(since)?);
        }
        let operation = Operation::Snapshot { folder: absolute(&self.folder)?, options };
        let report = operation.run_on(&self.data.folder()?, printer)?;
        printer.report(&report, self.json)?;
        match report {
            Report::Snapshot(SnapshotReport { files: Carried { bad, .. }, .. }) if bad > 0 => {
                let reason = format!("{bad} files of the store are missing, cut short or of other bytes");
                Err(Failure::new("not all is in the snapshot", reason)
                    .hint("the snapshot holds all the rest: push what is missing to the store again"))
            }
            _ => Ok(()),
        }
    }
}

/// A path that means the same to another process.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| Failure::new(format!("folder {}", path.display()), error))
}

pub(crate) fn show(report: &SnapshotReport, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(
        f,
        "snapshot in {}: {} records and {} changes made meanwhile, in {:.1} s; pushes waited {:.1} ms in all",
        report.folder.display(),
        report.records,
        report.changes,
        report.took.as_secs_f64(),
        report.held.as_secs_f64() * 1000.0,
    )?;
    show_files(&report.files, f)
}

/// How files came to where they are now; what is missing is told last.
pub(crate) fn show_files(files: &Carried, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let ways = [
        ("linked", files.linked),
        ("linked to the earlier snapshot", files.linked_since),
        ("cloned", files.cloned),
        ("copied", files.copied),
    ];
    for (way, count) in ways.into_iter().filter(|(_, count)| count.files > 0) {
        writeln!(f, "{way}: {} files, {} bytes", count.files, count.bytes)?;
    }
    for bad in &files.bad_content {
        writeln!(f, "bad: {}: {}", bad.digest, bad.reason)?;
    }
    if files.bad > files.bad_content.len() as u64 {
        writeln!(f, "bad: {} more", files.bad - files.bad_content.len() as u64)?;
    }
    Ok(())
}
