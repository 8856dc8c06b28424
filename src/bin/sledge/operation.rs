//! What can be done to a store while it is in use, and how: on the store itself where nobody has it, and through the
//! process that has it otherwise. To add one: a variant of [`Operation`], of [`Report`], and what each does.

use std::fmt;
use std::io::{self, IsTerminal};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sledge::Error;
use sledge::store::sled::{
    Collected, Options, Progress, Sled, SnapshotOptions, SnapshotReport, VerifyOptions, VerifyReport, Watch,
};

use crate::control;
use crate::convert::{self, Converted, Image};
use crate::policy::{Policy, Standing};
use crate::printer::{Failure, Printer};
use crate::usage::{self, Used};

/// An operation, as it goes over the socket: `{"command": "snapshot", ...}`. Its paths are absolute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub(crate) enum Operation {
    Snapshot { folder: PathBuf, options: SnapshotOptions },
    Gc { dry_run: bool, policy: Policy },
    Usage,
    Verify { options: VerifyOptions },
    Convert { image: Image, tag: String },
}

/// What an operation did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Report {
    Snapshot(SnapshotReport),
    Gc { dry_run: bool, collected: Collected },
    Usage(Used),
    Verify(VerifyReport),
    Convert(Converted),
}

impl Operation {
    pub(crate) fn run(&self, store: &Sled, standing: &Standing, watch: Watch<'_>) -> sledge::Result<Report> {
        match self {
            Self::Snapshot { folder, options } => {
                store.snapshot(folder, options, watch).map(Report::Snapshot)
            }
            Self::Gc { dry_run: false, .. } if standing.read_only => {
                Err(Error::Unsupported("the server is read-only: nothing is collected".to_owned()))
            }
            Self::Gc { dry_run, policy } => {
                let options = standing.options(policy).dry_run(*dry_run);
                let collected = store.collect(&options, watch)?;
                Ok(Report::Gc { dry_run: *dry_run, collected })
            }
            Self::Usage => usage::of(store).map(Report::Usage),
            Self::Verify { options } if standing.read_only && options.repairs() => Err(Error::Unsupported(
                "the server is read-only: nothing is repaired; without --repair it is verified, or stop it and repair then".to_owned(),
            )),
            Self::Verify { options } => store.verify(options, watch).map(Report::Verify),
            Self::Convert { .. } if standing.read_only => {
                Err(Error::Unsupported("the server is read-only: nothing is converted".to_owned()))
            }
            Self::Convert { image, tag } => convert::convert(store, image, tag).map(Report::Convert),
        }
    }

    /// Runs on the store in a folder, whoever has that open.
    pub(crate) fn run_on(&self, data: &Path, printer: Printer) -> Result<Report, Failure> {
        let mut watch = watch(printer);
        match Options::new().create(false).open(data) {
            Ok(store) => {
                self.run(&store, &Standing::default(), &mut watch).map_err(|error| Failure::new("", error))
            }
            Err(Error::Locked(_)) => control::ask(data, self, &mut watch),
            Err(error) => Err(cannot_open(data, error)),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Snapshot(report) => crate::snapshot::show(report, f),
            Self::Usage(used) => used.fmt(f),
            Self::Gc { dry_run, collected } => crate::gc::show(collected, *dry_run, f),
            Self::Verify(report) => writeln!(f, "{report}"),
            Self::Convert(converted) => converted.fmt(f),
        }
    }
}

/// Tells people how it goes on, and nobody else.
pub(crate) fn watch(printer: Printer) -> impl FnMut(&Progress) -> ControlFlow<()> {
    let told = io::stderr().is_terminal();
    move |progress| {
        if told {
            printer.note(progress);
        }
        ControlFlow::Continue(())
    }
}

pub(crate) fn cannot_open(data: &Path, error: Error) -> Failure {
    let hint = match &error {
        Error::NoStore(_) | Error::NotAStore { .. } => {
            Some("give --data the folder of a store, as `sledge serve` says it")
        }
        Error::Locked(_) => Some("stop the process that has it first, or give --data another folder"),
        Error::Damaged { .. } => Some(
            "`sledge restore` makes a store of a snapshot, `sledge rescue NEW` one of what can be read of this",
        ),
        Error::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            Some("run it as the owner of the folder, or give --data another one")
        }
        _ => None,
    };
    let failure = Failure::new(format!("cannot open the store in {}", data.display()), error);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
