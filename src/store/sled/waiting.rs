//! What takes room and may give it back by itself: open upload sessions, and blobs that no manifest uses yet.

use super::accounts;
use super::collect::Candidate;
use super::schema::{self, Kept, Tree};
use super::store::Core;
use crate::error::{Error, Result};

/// How many candidates are looked at, the oldest first: whoever is refused is not to cost a walk.
const MOST: usize = 256;

/// Bytes that wait.
pub(super) struct Waiting {
    /// Files of upload sessions, and of what is just being removed.
    pub(super) in_uploads: u64,
    /// Blobs that nothing references and whose grace time has not passed.
    pub(super) held_back: u64,
    /// Whether there may be more of these than were looked at.
    pub(super) more: bool,
}

/// Reads one record, and those of a few candidates.
pub(super) fn waiting(core: &Core) -> Result<Waiting> {
    core.read(|index| {
        let in_uploads = core.room.in_files().saturating_sub(accounts::totals(index)?.file_bytes);
        let mut found = Waiting { in_uploads, held_back: 0, more: false };
        let candidates = index.scan(Tree::Candidates, &schema::candidates(Kept::Link), None)?;
        for (number, entry) in candidates.enumerate() {
            if number == MOST {
                found.more = true;
                break;
            }
            // What is damaged is for `verify` to tell.
            if let Ok(candidate) = Candidate::of_key(Kept::Link, &entry?.0)
                && let Ok(bytes) = candidate.bytes_behind(index)
            {
                found.held_back += bytes;
            }
        }
        Ok(found)
    })
}

/// Has a refusal for want of room say what waits.
pub(super) fn telling<T>(core: &Core, outcome: Result<T>) -> Result<T> {
    outcome.map_err(|error| match error {
        Error::OverBudget { needed, used, budget, in_index, .. } => {
            let (in_uploads, held_back) =
                waiting(core).map_or((0, 0), |waiting| (waiting.in_uploads, waiting.held_back));
            Error::OverBudget { needed, used, budget, in_index, in_uploads, held_back }
        }
        error => error,
    })
}
