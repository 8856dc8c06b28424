//! Rules.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::error::AccessError;
use super::identity::Identity;
use super::pattern::Pattern;
use crate::oci::RepositoryName;

/// Something that is done in a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Reading: manifests, blobs, tags, referrers, and the repository's name in the catalog.
    Pull,
    /// Adding: uploads, manifests, and moving tags.
    Push,
    /// Removing tags, manifests and blobs.
    Delete,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Pull, Self::Push, Self::Delete];

    /// The word for it in scopes and rules.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
        }
    }

    const fn bit(self) -> u8 {
        match self {
            Self::Pull => 1,
            Self::Push => 2,
            Self::Delete => 4,
        }
    }
}

/// A set of actions. Its text form is `pull,push`; `*` stands for all.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Actions(u8);

impl Actions {
    /// None.
    pub const NONE: Self = Self(0);
    /// All.
    pub const ALL: Self = Self(7);

    /// These.
    #[must_use]
    pub const fn of(actions: &[Action]) -> Self {
        let mut set = Self::NONE;
        let mut rest = actions;
        while let [action, more @ ..] = rest {
            set.0 |= action.bit();
            rest = more;
        }
        set
    }

    /// Whether it is one of them.
    #[must_use]
    pub const fn contains(self, action: Action) -> bool {
        self.0 & action.bit() != 0
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(super) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) fn iter(self) -> impl Iterator<Item = Action> {
        Action::ALL.into_iter().filter(move |action| self.contains(*action))
    }

    /// What a word stands for; nothing if it is of another language.
    pub(super) fn of_word(word: &str) -> Self {
        match word {
            "*" => Self::ALL,
            word => Action::ALL
                .into_iter()
                .find(|action| action.as_str() == word)
                .map_or(Self::NONE, |a| Self::of(&[a])),
        }
    }
}

impl fmt::Display for Actions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<&str> = self.iter().map(Action::as_str).collect();
        f.write_str(&words.join(","))
    }
}

impl fmt::Debug for Actions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Actions({self})")
    }
}

impl FromStr for Actions {
    type Err = AccessError;

    fn from_str(text: &str) -> Result<Self, AccessError> {
        text.split(',').map(str::trim).try_fold(Self::NONE, |all, word| match Self::of_word(word) {
            Self::NONE => {
                let shown: String = word.chars().take(80).collect();
                Err(AccessError::Rule(format!(
                    "{shown:?} is no action: use pull, push, delete, or * for all"
                )))
            }
            actions => Ok(all.or(actions)),
        })
    }
}

/// Whom a rule is for. Its text form is `anonymous`, `*`, or a user's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// Everyone, whether or not he has proved who he is.
    Anonymous,
    /// Everyone who has proved who he is.
    Anyone,
    /// The user of this name.
    User(Arc<str>),
}

impl Who {
    fn is(&self, user: Option<&str>) -> bool {
        match self {
            Self::Anonymous => true,
            Self::Anyone => user.is_some(),
            Self::User(name) => user == Some(&**name),
        }
    }
}

impl FromStr for Who {
    type Err = AccessError;

    fn from_str(text: &str) -> Result<Self, AccessError> {
        match text {
            "anonymous" => Ok(Self::Anonymous),
            "*" => Ok(Self::Anyone),
            "" => Err(AccessError::Rule(
                "a rule is for nobody: name a user, * for all users, or anonymous for everyone".to_owned(),
            )),
            name => Ok(Self::User(name.into())),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Rule {
    who: Who,
    actions: Actions,
    repositories: Vec<Pattern>,
}

/// Who may do what. Each rule allows something; what none allows is refused, and no rule takes anything away.
///
/// Actions are apart from each other: who pushes usually needs to pull as well, as clients look at what is there.
#[derive(Clone, Debug, Default, PartialEq)]
#[must_use]
pub struct Policy {
    rules: Vec<Rule>,
}

impl Policy {
    /// Nobody may do anything.
    pub const fn new() -> Self {
        Self { rules: Vec::new() }
    }

    /// Every user may do everything, and nobody else anything.
    pub fn users() -> Self {
        Self::new().everywhere(Who::Anyone, Actions::ALL)
    }

    /// Everyone may pull from everywhere, as well.
    pub fn anonymous_pull(self) -> Self {
        self.everywhere(Who::Anonymous, Actions::of(&[Action::Pull]))
    }

    /// These may do this in all repositories.
    fn everywhere(mut self, who: Who, actions: Actions) -> Self {
        self.rules.extend(Pattern::new("*").map(|all| Rule { who, actions, repositories: vec![all] }));
        self
    }

    /// These may do this, too, in the repositories whose whole name one of the patterns matches: `*` stands for any characters,
    /// slashes too, and `?` for one.
    ///
    /// # Errors
    /// [`AccessError::Rule`] where it allows nothing: without an action, without a pattern, and with one that no name can match.
    pub fn rule(mut self, who: Who, actions: Actions, repositories: &[&str]) -> Result<Self, AccessError> {
        if actions.is_empty() || repositories.is_empty() {
            let what = if actions.is_empty() { "no action" } else { "no repositories" };
            return Err(AccessError::Rule(format!("a rule with {what} allows nothing: name some")));
        }
        let repositories = repositories.iter().map(|text| Pattern::new(text)).collect::<Result<_, _>>()?;
        self.rules.push(Rule { who, actions, repositories });
        Ok(self)
    }

    /// Whether somebody may do this. Who comes with a token may do what both allow: the rules, and the token.
    #[must_use]
    pub fn allows(&self, identity: &Identity, action: Action, repository: &RepositoryName) -> bool {
        self.allows_user(identity.user(), action, repository)
            && identity.scopes().is_none_or(|scopes| scopes.allow(action, repository))
    }

    /// The same by the rules alone.
    pub(super) fn allows_user(
        &self,
        user: Option<&str>,
        action: Action,
        repository: &RepositoryName,
    ) -> bool {
        self.rules.iter().any(|rule| {
            rule.actions.contains(action)
                && rule.who.is(user)
                && rule.repositories.iter().any(|pattern| pattern.matches(repository))
        })
    }

    /// Whether there is anything at all that everyone may do.
    pub(super) fn lets_anonymous_in(&self) -> bool {
        self.rules.iter().any(|rule| rule.who == Who::Anonymous)
    }
}

#[cfg(test)]
mod tests {
    use super::super::identity::Proof;
    use super::*;

    fn by_password(name: &str) -> Identity {
        Identity::user_by(name.into(), Proof::Password)
    }

    #[test]
    fn what_no_rule_allows_is_refused() {
        let policy = Policy::new()
            .rule("alice".parse().unwrap(), "pull, push".parse().unwrap(), &["team/*", "x"])
            .unwrap()
            .rule("*".parse().unwrap(), "pull".parse().unwrap(), &["shared/?"])
            .unwrap()
            .rule("anonymous".parse().unwrap(), "pull".parse().unwrap(), &["public"])
            .unwrap();
        let (alice, bob, nobody) = (by_password("alice"), by_password("bob"), Identity::anonymous());
        for (name, expected) in [
            // Alice pulls, pushes, deletes; then Bob; then nobody.
            ("team/a", "110 000 000"),
            ("team/a/b", "110 000 000"),
            ("team", "000 000 000"),
            ("x", "110 000 000"),
            ("xx", "000 000 000"),
            ("shared/a", "100 100 000"),
            ("shared/ab", "000 000 000"),
            ("public", "100 100 100"),
            ("public2", "000 000 000"),
        ] {
            let name = name.parse().unwrap();
            let found = [&alice, &bob, &nobody].map(|who| {
                Action::ALL.map(|action| if policy.allows(who, action, &name) { "1" } else { "0" }).concat()
            });
            assert_eq!(found.join(" "), expected, "{name}");
        }
        assert!(policy.lets_anonymous_in() && !Policy::users().lets_anonymous_in());
        assert!(!Policy::new().allows(&alice, Action::Pull, &"a".parse().unwrap()));
        // A user cannot come by everyone's rights, or all users', by what he is called.
        assert!(!Policy::users().allows(&nobody, Action::Pull, &"a".parse().unwrap()));
    }

    #[test]
    fn a_rule_that_allows_nothing_is_told() {
        for actions in ["", "pull,", "read", "PULL"] {
            assert!(actions.parse::<Actions>().is_err(), "{actions}");
        }
        assert_eq!("*".parse::<Actions>().unwrap(), Actions::ALL);
        assert_eq!("delete,pull".parse::<Actions>().unwrap().to_string(), "pull,delete");
        assert!("".parse::<Who>().is_err());
        for (actions, patterns) in
            [(Actions::NONE, &["a"][..]), (Actions::ALL, &[]), (Actions::ALL, &["a", "A"])]
        {
            assert!(Policy::new().rule(Who::Anyone, actions, patterns).is_err(), "{patterns:?}");
        }
    }
}
