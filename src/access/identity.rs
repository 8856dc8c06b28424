//! Who somebody is, and how that was proved.

use std::sync::Arc;

use super::scope::Scopes;

/// Who makes a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    user: Option<Arc<str>>,
    proof: Proof,
}

/// How somebody proved who he is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Proof {
    /// Not at all.
    None,
    /// By the user's password.
    Password,
    /// By a client certificate, whose subject is the user.
    Certificate,
    /// By a token, and so no further than it reaches.
    Token(Arc<Scopes>),
}

impl Identity {
    /// Somebody who proved nothing.
    #[must_use]
    pub const fn anonymous() -> Self {
        Self { user: None, proof: Proof::None }
    }

    /// A user who proved it so.
    pub(super) const fn user_by(user: Arc<str>, proof: Proof) -> Self {
        Self { user: Some(user), proof }
    }

    /// Somebody with a token that names nobody.
    pub(super) const fn nobody_with(scopes: Arc<Scopes>) -> Self {
        Self { user: None, proof: Proof::Token(scopes) }
    }

    /// The user's name; `None` for who is anonymous, a token or not.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// How it was proved.
    #[must_use]
    pub const fn proof(&self) -> &Proof {
        &self.proof
    }

    /// What a token reaches, where one was the proof.
    pub(super) fn scopes(&self) -> Option<&Scopes> {
        match &self.proof {
            Proof::Token(scopes) => Some(scopes),
            _ => None,
        }
    }
}
