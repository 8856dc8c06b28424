//! What can be wrong with rules, files and settings of access.

use std::io;
use std::path::{Path, PathBuf};

/// Why passwords, keys, rules or settings cannot be used. No text holds a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// A file cannot be read.
    #[error("{}: cannot be read: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line of a password file is none.
    #[error("{}line {line}: {reason}", place(.path.as_deref()))]
    Passwords {
        /// The file, where it is one.
        path: Option<PathBuf>,
        /// The line, from 1 on.
        line: usize,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// A key set is none.
    #[error("{}{reason}", place(.path.as_deref()))]
    Keys {
        /// The file, where it is one.
        path: Option<PathBuf>,
        /// What is wrong with it.
        reason: String,
    },
    /// A rule can apply to nothing, or to nobody.
    #[error("{0}")]
    Rule(String),
    /// A setting is none; the words say which, and what it should be.
    #[error("{0}")]
    Setting(String),
    /// The system has no random numbers.
    #[error("the system gives no random numbers, without which no key can be made")]
    Random,
}

impl AccessError {
    /// The same, of this file.
    pub(super) fn of(mut self, file: &Path) -> Self {
        if let Self::Passwords { path, .. } | Self::Keys { path, .. } = &mut self {
            *path = Some(file.to_owned());
        }
        self
    }
}

impl From<ring::error::Unspecified> for AccessError {
    fn from(_: ring::error::Unspecified) -> Self {
        Self::Random
    }
}

/// What stands before an error of a file.
fn place(path: Option<&Path>) -> String {
    path.map(|path| format!("{}: ", path.display())).unwrap_or_default()
}

/// A whole file of at most `limit` bytes.
pub(super) fn read(path: &Path, limit: usize) -> Result<Vec<u8>, AccessError> {
    use std::io::Read;
    let read = || {
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(limit as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > limit {
            return Err(io::Error::other(format!("it is longer than {limit} bytes")));
        }
        Ok(bytes)
    };
    read().map_err(|source| AccessError::Read { path: path.to_owned(), source })
}
