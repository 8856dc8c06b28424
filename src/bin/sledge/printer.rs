//! What people and scripts read: results go to stdout, everything else to stderr.

use std::error::Error as StdError;
use std::fmt::Display;
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
        match failure {
            Failure::Output(error) => self.note(format_args!("error: the output cannot be written: {error}")),
            Failure::Failed { doing, reason, hint } => {
                let separator = if doing.is_empty() { "" } else { ": " };
                self.note(format_args!("error: {doing}{separator}{reason}"));
                if let Some(hint) = hint {
                    self.note(format_args!("hint: {hint}"));
                }
            }
        }
    }
}
