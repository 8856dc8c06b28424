//! Who may do what: proofs of who somebody is, and rules of what he may do then. No sockets, no async, no store.
//!
//! An [`Access`] is a [`Policy`] with the proofs that are accepted: a file of [`Passwords`], the tokens of a [`TokenIssuer`]
//! elsewhere, and those of the server's own [`TokenEndpoint`]. A client certificate is a proof wherever the connection brings one
//! that was verified. A server asks [`CurrentAccess`], in which it can be replaced while the server runs.
//!
//! ```
//! use sledge::access::{Access, Passwords, Policy};
//!
//! // `htpasswd -Bbn alice wonderland`
//! let passwords = Passwords::parse(b"alice:$2y$05$c4WoMPo3SXsafkva.HHa6uHpvoxC70gaYUuYyhzdpUSq9CHz/KcOS\n")?;
//! let access = Access::new(Policy::users().anonymous_pull()).passwords(passwords);
//! # drop(access);
//! # Ok::<(), sledge::access::AccessError>(())
//! ```
//!
//! A name is one user, however it was proved: who adds a way to prove names lets it speak for all of them.
//!
//! Signatures are made and verified by `ring`, which TLS needs too, and tokens are read here. The usual crate for that is not used:
//! its releases on `ring` take a time of the wrong type for no time (CVE-2026-25537), and later ones bring a second provider
//! of cryptography, or one that is looked for when the first token comes. What is read is little: three algorithms, each bound to
//! its key.

mod challenge;
mod credentials;
mod current;
mod endpoint;
mod error;
mod htpasswd;
mod identity;
mod keys;
mod need;
mod passwords;
mod pattern;
mod policy;
mod scope;
mod seal;
mod token;

pub(crate) use challenge::Problem;
pub(crate) use credentials::{Basic, Credentials};
pub use current::{Access, CurrentAccess};
pub(crate) use current::{Decision, Recognised};
pub use endpoint::TokenEndpoint;
pub(crate) use endpoint::{Grant, Question};
pub use error::AccessError;
pub use identity::{Identity, Proof};
pub use keys::KeySet;
pub use need::{Need, needs};
pub use passwords::Passwords;
pub use policy::{Action, Actions, Policy, Who};
pub use scope::{Scope, Scopes};
pub use token::TokenIssuer;
