//! What a request needs.

use super::policy::Action;
use crate::oci::RepositoryName;
use crate::wire::Request;
#[cfg(feature = "schema1")]
use crate::wire::TarSumAct;

/// What whoever makes a request must be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Need<'a> {
    /// To have proved who he is, or to be let in without.
    Entry,
    /// To list repositories. The list has those that he may pull from.
    Catalog,
    /// To do this in this repository.
    Repository(Action, &'a RepositoryName),
}

/// What a request needs. A mount needs [`Action::Pull`] in its source as well; without it, it finds nothing to mount and so
/// begins an upload, which is why that is no part of this.
#[must_use]
pub const fn needs(request: &Request) -> Need<'_> {
    match request {
        Request::Version => Need::Entry,
        Request::Repositories { .. } => Need::Catalog,
        Request::BlobGet { repository, .. }
        | Request::BlobHead { repository, .. }
        | Request::ManifestGet { repository, .. }
        | Request::ManifestHead { repository, .. }
        | Request::Tags { repository, .. }
        | Request::Referrers { repository, .. } => Need::Repository(Action::Pull, repository),
        #[cfg(feature = "schema1")]
        Request::TarSum { repository, act: TarSumAct::Get | TarSumAct::Head, .. } => {
            Need::Repository(Action::Pull, repository)
        }
        #[cfg(feature = "schema1")]
        Request::TarSum { repository, act: TarSumAct::Whole | TarSumAct::Finish(_), .. } => {
            Need::Repository(Action::Push, repository)
        }
        Request::UploadStart { repository, .. }
        | Request::UploadWhole { repository, .. }
        | Request::UploadChunk { repository, .. }
        | Request::UploadFinish { repository, .. }
        | Request::UploadStatus { repository, .. }
        | Request::UploadCancel { repository, .. }
        | Request::ManifestPut { repository, .. }
        | Request::Mount { repository, .. } => Need::Repository(Action::Push, repository),
        Request::ManifestDelete { repository, .. } | Request::BlobDelete { repository, .. } => {
            Need::Repository(Action::Delete, repository)
        }
    }
}
