//! `sledge restore`: a store of a snapshot.

use std::fmt;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use sledge::Error;
use sledge::store::sled::{RestoreOptions, RestoreReport, restore};

use crate::operation;
use crate::printer::{Failure, Printer};
use crate::snapshot::show_files;

/// Make a store of a snapshot, which is only read
///
/// Ends with 1 where the snapshot lacks something, or what it has is bad; all the rest is restored.
#[derive(Args)]
pub(crate) struct Restore {
    /// The folder of the snapshot
    #[arg(value_name = "SNAPSHOT")]
    snapshot: PathBuf,
    /// The folder of the new store; it must be new or empty
    #[arg(long, value_name = "DIR", env = "SLEDGE_DATA", default_value = "./sledge-data")]
    data: PathBuf,
    /// Link the snapshot's files instead of copying them: it takes no room, and the snapshot is no second copy any more
    #[arg(long)]
    link: bool,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
#[serde(transparent)]
struct Restored(RestoreReport);

impl Restore {
    pub(crate) fn run(self, printer: Printer) -> Result<(), Failure> {
        let options = RestoreOptions::new().link(self.link);
        let mut watch = operation::watch(printer);
        let report = restore(&self.snapshot, &self.data, &options, &mut watch).map_err(|error| {
            let hint = match &error {
                Error::NotAStore { .. } | Error::NotEmpty { .. } => {
                    Some("give --data a folder that is empty or does not exist")
                }
                Error::Locked(_) => Some("stop the process that has it first"),
                Error::NoStore(_) => Some("name the folder that `sledge snapshot` was given"),
                _ => None,
            };
            let failure = Failure::new(format!("cannot restore {}", self.snapshot.display()), error);
            match hint {
                Some(hint) => failure.hint(hint),
                None => failure,
            }
        })?;
        let bad = report.files.bad;
        printer.report(&Restored(report), self.json)?;
        if bad > 0 {
            let reason = format!("{bad} files of the snapshot are missing, cut short or of other bytes");
            return Err(Failure::new("not all could be restored", reason)
                .hint("the store holds all the rest: push what is missing again"));
        }
        Ok(())
    }
}

impl fmt::Display for Restored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "restored to {} in {:.1} s", self.0.folder.display(), self.0.took.as_secs_f64())?;
        show_files(&self.0.files, f)?;
        match self.0.files.unread() {
            0 => Ok(()),
            files => writeln!(f, "not read: {files} files: `sledge verify` compares them with their digests"),
        }
    }
}
