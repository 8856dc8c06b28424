//! What people and scripts read: results go to stdout, everything else to stderr.

use std::error::Error as StdError;
use std::fmt::{self, Display};
use std::io::{self, Write};

use serde::Serialize;

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The output could not be written.
    Output(io::Error),
    /// Something else, and what to do about it, if anything.
    Failed {
        /// What was being done when it failed; empty where the error says so itself.
        doing: String,
        /// The reason.
        reason: Box<dyn StdError + Send + Sync>,
        /// What the reader can do.
        hint: Option<String>,
    },
}

impl Failure {
    pub(crate) fn new(doing: impl Into<String>, reason: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Failed { doing: doing.into(), reason: reason.into(), hint: None }
    }

    pub(crate) fn hint(self, words: impl Into<String>) -> Self {
        match self {
            Self::Failed { doing, reason, .. } => Self::Failed { doing, reason, hint: Some(words.into()) },
            Self::Output(_) => self,
        }
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Output(error) => write!(f, "the output cannot be written: {error}"),
            Self::Failed { doing, reason, .. } if doing.is_empty() => reason.fmt(f),
            Self::Failed { doing, reason, .. } => write!(f, "{doing}: {reason}"),
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Printer(());

impl Printer {
    pub(crate) const fn new() -> Self {
        Self(())
    }

    /// The result, for people or for scripts.
    pub(crate) fn report<R: Display + Serialize>(self, report: &R, json: bool) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        if json {
            serde_json::to_writer(&mut out, report).map_err(|error| Failure::Output(error.into()))?;
            writeln!(out).map_err(Failure::Output)
        } else {
            write!(out, "{report}").map_err(Failure::Output)
        }
    }

    /// One line beside the results. That it cannot be written is no reason to stop.
    pub(crate) fn note(self, line: impl Display) {
        let _ = writeln!(io::stderr().lock(), "{line}");
    }

    pub(crate) fn failure(self, failure: &Failure) {
        self.note(format_args!("error: {failure}"));
        if let Failure::Failed { hint: Some(hint), .. } = failure {
            self.note(format_args!("hint: {hint}"));
        }
    }
}
