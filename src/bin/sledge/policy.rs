//! What is kept and for how long, as a server and `sledge gc` are told it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};
use sledge::oci::{RepositoryName, Tag};
use sledge::store::Pinned;
use sledge::store::sled::{CollectOptions, Retention, Untagged};
use wildmatch::WildMatch;

use crate::values::{Time, as_text};

/// What is kept. Where nothing is said the store's defaults hold, or what the server was started with.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Policy {
    /// How long what nothing keeps stays all the same; a push must take no longer [default: 24h]
    #[arg(long, value_name = "TIME", env = "SLEDGE_GRACE")]
    pub(crate) grace: Option<Time>,
    /// Delete manifests that have had no tag, index or subject for so long, and for the grace time [default: they stay]
    #[arg(long, value_name = "TIME", env = "SLEDGE_UNTAGGED_AFTER")]
    pub(crate) untagged_after: Option<Time>,
    /// End upload sessions that got no byte for so long [default: 7days]
    #[arg(long, value_name = "TIME", env = "SLEDGE_UPLOADS_AFTER")]
    pub(crate) uploads_after: Option<Time>,
    /// Which tags stay, as REPOSITORIES:last=N,younger=TIME,tag=PATTERN; the first that fits a repository is its rule, and
    /// others of its tags go. Patterns know * and ?. May be repeated [default: all stay]
    #[arg(long, value_name = "RULE")]
    pub(crate) keep_tags: Vec<KeepTags>,
    /// Tags that are set once, and then neither moved nor deleted, by rules and in a cache no more than by clients: a pattern with
    /// * and ?. May be repeated. A store does not remember them: who collects in one that is not served says them again
    #[arg(long, value_name = "PATTERN", env = "SLEDGE_IMMUTABLE_TAGS", value_delimiter = ',')]
    pub(crate) immutable_tags: Vec<TagPattern>,
}

impl Policy {
    /// This one, with the other's word where it has none. What either says to be immutable is.
    pub(crate) fn or(self, other: &Self) -> Self {
        Self {
            grace: self.grace.or(other.grace),
            untagged_after: self.untagged_after.or(other.untagged_after),
            uploads_after: self.uploads_after.or(other.uploads_after),
            keep_tags: if self.keep_tags.is_empty() { other.keep_tags.clone() } else { self.keep_tags },
            immutable_tags: [self.immutable_tags, other.immutable_tags.clone()].concat(),
        }
    }
}

/// What whoever has the store was told to keep, and the store itself where nobody was.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing {
    pub(crate) policy: Policy,
    /// Nothing is collected or repaired.
    pub(crate) read_only: bool,
}

impl Standing {
    /// How to collect, with another's word going first. No rule of anybody's takes an immutable tag.
    pub(crate) fn options(&self, by_hand: &Policy) -> CollectOptions {
        let policy = by_hand.clone().or(&self.policy);
        let mut options = CollectOptions::new();
        if let Some(Time(grace)) = policy.grace {
            options = options.grace(grace);
        }
        if let Some(Time(age)) = policy.untagged_after {
            options = options.untagged(Untagged::DeleteAfter(age));
        }
        if let Some(Time(silence)) = policy.uploads_after {
            options = options.uploads_after(silence);
        }
        for rule in &policy.keep_tags {
            options = options.retention(rule.retention(pinned(&policy.immutable_tags)));
        }
        options
    }
}

/// A pattern of tags. One that no tag can match is refused: it would be a slip that protects nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct TagPattern(String);

impl FromStr for TagPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match can_match::<Tag>(text) {
            true => Ok(Self(text.to_owned())),
            false => Err(format!(
                "no tag can match {text:?}: a pattern is of the tag alone, in letters, digits, '_', '.', '-', * and ?"
            )),
        }
    }
}

impl fmt::Display for TagPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

as_text!(TagPattern, KeepTags);

fn repository_pattern(text: &str) -> Result<String, String> {
    match can_match::<RepositoryName>(text) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "no repository can match {text:?}: a pattern is of its name, in lower-case letters, digits, '_', '.', '-', '/', * and ?"
        )),
    }
}

/// In a tag as in a name a letter may stand between any two characters, and at either end; or nothing, where that makes it too long.
fn can_match<T: FromStr>(pattern: &str) -> bool {
    let with = |some: &str| pattern.replace('?', "a").replace('*', some).parse::<T>().is_ok();
    with("a") || with("")
}

/// The tags that patterns name, pinned.
pub(crate) fn pinned(patterns: &[TagPattern]) -> Pinned {
    if patterns.is_empty() {
        return Pinned::none();
    }
    let patterns: Vec<WildMatch> = patterns.iter().map(|pattern| WildMatch::new(&pattern.0)).collect();
    Pinned::tags(move |tag| patterns.iter().any(|pattern| pattern.matches(tag.as_str())))
}

/// A rule for the tags of certain repositories, as it is written: `team/*:last=10,younger=30days,tag=v*`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct KeepTags {
    repositories: String,
    last: Option<usize>,
    younger: Option<Duration>,
    tags: Vec<TagPattern>,
}

impl KeepTags {
    fn retention(&self, immutable: Pinned) -> Retention {
        let repositories = WildMatch::new(&self.repositories);
        let tags: Vec<WildMatch> = self.tags.iter().map(|tag| WildMatch::new(&tag.0)).collect();
        Retention::of(move |name| repositories.matches(name.as_str()))
            .keep_last(self.last.unwrap_or(0))
            .keep_younger(self.younger.unwrap_or(Duration::ZERO))
            .keep(move |tag| {
                immutable.contains(tag) || tags.iter().any(|pattern| pattern.matches(tag.as_str()))
            })
    }
}

impl FromStr for KeepTags {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (repositories, conditions) = text
            .split_once(':')
            .ok_or("a rule is REPOSITORIES:CONDITIONS, for example *:last=10,younger=30days,tag=v*")?;
        let mut rule = Self { repositories: repository_pattern(repositories)?, ..Self::default() };
        for condition in conditions.split(',') {
            match condition.split_once('=') {
                Some(("last", count)) => {
                    let count = count.parse().map_err(|error| format!("last={count}: {error}"))?;
                    rule.last = Some(count);
                }
                Some(("younger", age)) => {
                    let age =
                        humantime::parse_duration(age).map_err(|error| format!("younger={age}: {error}"))?;
                    rule.younger = Some(age);
                }
                Some(("tag", pattern)) if !pattern.is_empty() => rule.tags.push(pattern.parse()?),
                // A rule that keeps nothing would be a slip that deletes every tag.
                _ => return Err(format!("{condition:?} is none of last=N, younger=TIME and tag=PATTERN")),
            }
        }
        Ok(rule)
    }
}

impl fmt::Display for KeepTags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.last.map(|count| format!("last={count}"));
        let younger = self
            .younger
            .map(|age| format!("younger={}", humantime::format_duration(age).to_string().replace(' ', "")));
        let tags = self.tags.iter().map(|pattern| format!("tag={pattern}"));
        let conditions: Vec<String> = last.into_iter().chain(younger).chain(tags).collect();
        write!(f, "{}:{}", self.repositories, conditions.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_read_as_it_is_written() {
        for text in ["*:last=10", "team/*:last=0,younger=30days,tag=v*,tag=latest", "a:younger=1h30m"] {
            let rule: KeepTags = text.parse().unwrap();
            assert_eq!(rule.to_string().parse::<KeepTags>().unwrap(), rule);
        }
    }

    #[test]
    fn a_rule_that_keeps_nothing_by_a_slip_is_refused() {
        for text in ["", "*", "*:", "*:last", "*:last=", "*:last=x", "*:tag=", "*:younger=soon", "*:first=3"]
        {
            let error = text.parse::<KeepTags>().unwrap_err();
            assert!(!error.is_empty(), "{text}");
        }
    }

    #[test]
    fn a_pattern_that_nothing_can_match_is_refused() {
        let longest = "x".repeat(Tag::MAX_LENGTH);
        for text in ["*", "v*", "?", "*.?", "*-rc", "release-1.2_x", &longest, &format!("{longest}*")] {
            assert_eq!(text.parse::<TagPattern>().unwrap().to_string(), text);
        }
        for text in ["", "c:i3", "c:*", "a/b", ".*", "-x", "v1 ", "[ab]", &format!("{longest}?")] {
            let error = text.parse::<TagPattern>().unwrap_err();
            assert!(error.starts_with(&format!("no tag can match {text:?}: ")), "{error}");
        }
        for text in ["*", "team/*", "*/?", "a*.b", "a.*", "team/x-*/*"] {
            assert!(format!("{text}:last=1").parse::<KeepTags>().is_ok(), "{text}");
        }
        for text in ["", "Team/*", "/*", "a//*", "*/", "a._*", "a b*"] {
            let error = format!("{text}:last=1").parse::<KeepTags>().unwrap_err();
            assert!(error.starts_with(&format!("no repository can match {text:?}: ")), "{error}");
        }
        assert!("*:tag=a/b".parse::<KeepTags>().unwrap_err().starts_with("no tag can match"));
    }

    #[test]
    fn what_is_said_goes_before_what_was_said() {
        let hour = Time(Duration::from_secs(3600));
        let server = Policy { grace: Some(hour), untagged_after: Some(hour), ..Policy::default() };
        let by_hand = Policy { grace: Some(Time(Duration::ZERO)), ..Policy::default() };
        let both = by_hand.or(&server);
        assert_eq!((both.grace, both.untagged_after), (Some(Time(Duration::ZERO)), Some(hour)));
    }

    #[test]
    fn patterns_pin_tags() {
        let pinned = pinned(&["v*".parse().unwrap(), "release-?".parse().unwrap()]);
        for (tag, expected) in [("v1.2", true), ("latest", false), ("release-1", true), ("release-10", false)]
        {
            assert_eq!(pinned.contains(&tag.parse().unwrap()), expected, "{tag}");
        }
    }
}
