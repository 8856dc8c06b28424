//! Scopes, as Docker's token specification has them: `repository:NAME:pull,push`.

use serde::{Deserialize, Serialize};

use super::policy::{Action, Actions};
use crate::oci::RepositoryName;

/// How many scopes a token has, or a request for one.
pub(super) const MOST: usize = 64;

/// What somebody asks for, or was given.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scope {
    /// To do this in a repository.
    Repository(RepositoryName, Actions),
    /// To list repositories.
    Catalog,
}

impl Scope {
    /// Reads the text form, `TYPE:NAME:ACTIONS`; `None` for what means nothing here: another type, a name that is none, actions of
    /// which none is known.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        let (name, actions) = rest.rsplit_once(':')?;
        Self::new(kind, name, actions.split(','))
    }

    fn new<'a>(kind: &str, name: &str, words: impl Iterator<Item = &'a str>) -> Option<Self> {
        let actions = words.fold(Actions::NONE, |all, word| all.or(Actions::of_word(word)));
        // A type can be told more closely, in parentheses, which says nothing of rights.
        let kind = kind.split_once('(').map_or(kind, |(kind, _)| kind);
        match kind {
            "repository" if !actions.is_empty() => Some(Self::Repository(name.parse().ok()?, actions)),
            "registry" if name == "catalog" && actions == Actions::ALL => Some(Self::Catalog),
            _ => None,
        }
    }
}

/// An entry of a token's `access` claim.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    actions: Vec<String>,
}

impl Entry {
    pub(super) fn scope(&self) -> Option<Scope> {
        Scope::new(&self.kind, &self.name, self.actions.iter().map(String::as_str))
    }

    pub(super) fn of(scope: &Scope) -> Self {
        let (kind, name, actions) = match scope {
            Scope::Repository(name, actions) => (
                "repository",
                name.to_string(),
                actions.iter().map(|action| action.as_str().to_owned()).collect(),
            ),
            Scope::Catalog => ("registry", "catalog".to_owned(), vec!["*".to_owned()]),
        };
        Self { kind: kind.to_owned(), name, actions }
    }
}

/// All that a token reaches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scopes(Vec<Scope>);

impl Scopes {
    /// Whether it reaches this.
    #[must_use]
    pub fn allow(&self, action: Action, repository: &RepositoryName) -> bool {
        self.0.iter().any(|scope| match scope {
            Scope::Repository(name, actions) => name == repository && actions.contains(action),
            Scope::Catalog => false,
        })
    }

    /// Whether it reaches the list of repositories.
    #[must_use]
    pub fn allow_catalog(&self) -> bool {
        self.0.contains(&Scope::Catalog)
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Scope> {
        self.0.iter()
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<T: IntoIterator<Item = Scope>>(scopes: T) -> Self {
        Self(scopes.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_read_and_what_means_nothing_is_none() {
        let repository = |name: &str, actions: &str| {
            Some(Scope::Repository(name.parse().unwrap(), actions.parse().unwrap()))
        };
        for (text, expected) in [
            ("repository:a/b:pull", repository("a/b", "pull")),
            ("repository:a:push,pull", repository("a", "pull,push")),
            ("repository:a:*", repository("a", "*")),
            ("repository(plugin):a:pull", repository("a", "pull")),
            ("repository:a:pull,fly", repository("a", "pull")),
            ("registry:catalog:*", Some(Scope::Catalog)),
            ("registry:catalog:pull", None),
            ("registry:other:*", None),
            ("repository:a:fly", None),
            ("repository:a:", None),
            ("repository:A:pull", None),
            ("repository:*:pull", None),
            ("repository:host:5000/a:pull", None),
            ("repository::pull", None),
            ("repository:a", None),
            ("other:a:pull", None),
            ("", None),
            (":::", None),
        ] {
            assert_eq!(Scope::parse(text), expected, "{text}");
            let Some(scope) = expected else { continue };
            assert_eq!(Entry::of(&scope).scope(), Some(scope));
        }
    }

    #[test]
    fn a_scope_reaches_its_own_repository_alone() {
        let scopes: Scopes =
            ["repository:a:pull", "repository:b:push"].iter().filter_map(|s| Scope::parse(s)).collect();
        let reaches = |action, name: &str| scopes.allow(action, &name.parse().unwrap());
        assert!(reaches(Action::Pull, "a") && reaches(Action::Push, "b"));
        assert!(!reaches(Action::Push, "a") && !reaches(Action::Pull, "b") && !reaches(Action::Pull, "a/b"));
        assert!(!scopes.allow_catalog());
    }
}
