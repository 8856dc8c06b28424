//! The `WWW-Authenticate` header: how a client can prove who it is.

use super::need::Need;
use super::policy::Action;
use crate::oci::RepositoryName;

/// Why somebody is to prove who he is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// He did not try.
    Missing,
    /// A password or a header was wrong.
    Wrong,
    InvalidToken,
    /// The token is good, and not for this.
    InsufficientScope,
}

impl Problem {
    const fn word(self) -> Option<&'static str> {
        match self {
            Self::Missing | Self::Wrong => None,
            Self::InvalidToken => Some("invalid_token"),
            Self::InsufficientScope => Some("insufficient_scope"),
        }
    }
}

/// Where passwords are asked for.
pub(super) fn basic() -> String {
    "Basic realm=\"sledge\"".to_owned()
}

/// Where tokens are, with the scope that the request needs. The values were checked to stand in quotes.
pub(super) fn bearer(
    realm: &str,
    service: &str,
    need: Option<Need<'_>>,
    mount_from: Option<&RepositoryName>,
    problem: Problem,
) -> String {
    let mut text = format!("Bearer realm=\"{realm}\",service=\"{service}\"");
    let scope = match need {
        None | Some(Need::Entry) => None,
        Some(Need::Catalog) => Some("registry:catalog:*".to_owned()),
        Some(Need::Repository(action, repository)) => {
            // Whoever writes looks at what is there, and asks but once.
            let actions = match action {
                Action::Pull => "pull",
                Action::Push => "pull,push",
                Action::Delete => "pull,delete",
            };
            let source = mount_from.filter(|from| *from != repository);
            let source = source.map(|from| format!(" repository:{from}:pull")).unwrap_or_default();
            Some(format!("repository:{repository}:{actions}{source}"))
        }
    };
    if let Some(scope) = scope {
        text += &format!(",scope=\"{scope}\"");
    }
    if let Some(word) = problem.word() {
        text += &format!(",error=\"{word}\"");
    }
    text
}
