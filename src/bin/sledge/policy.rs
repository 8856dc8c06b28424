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

/// What is kept. Where nothing is said the store's defaults hold, or what the server was started with.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Policy {
    /// How long what nothing keeps stays all the same; a push must take no longer [default: 24h]
    #[arg(long, value_name = "TIME", env = "SLEDGE_GRACE", value_parser = humantime::parse_duration)]
    pub(crate) grace: Option<Duration>,
    /// Delete manifests that have had no tag, index or subject for so long, and for the grace time [default: they stay]
    #[arg(long, value_name = "TIME", env = "SLEDGE_UNTAGGED_AFTER", value_parser = humantime::parse_duration)]
    pub(crate) untagged_after: Option<Duration>,
    /// End upload sessions that got no byte for so long [default: 7days]
    #[arg(long, value_name = "TIME", env = "SLEDGE_UPLOADS_AFTER", value_parser = humantime::parse_duration)]
    pub(crate) uploads_after: Option<Duration>,
    /// Which tags stay, as REPOSITORIES:last=N,younger=TIME,tag=PATTERN; the first that fits a repository is its rule, and
    /// others of its tags go. Patterns know * and ?. May be repeated [default: all stay]
    #[arg(long, value_name = "RULE")]
    pub(crate) keep_tags: Vec<KeepTags>,
    /// Tags that are set once, and then neither moved nor deleted, by rules and in a cache no more than by clients: a pattern with
    /// * and ?. May be repeated. A store does not remember them: who collects in one that is not served says them again
    #[arg(long, value_name = "PATTERN", env = "SLEDGE_IMMUTABLE_TAGS", value_delimiter = ',', value_parser = tag_pattern)]
    pub(crate) immutable_tags: Vec<String>,
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
        if let Some(grace) = policy.grace {
            options = options.grace(grace);
        }
        if let Some(age) = policy.untagged_after {
            options = options.untagged(Untagged::DeleteAfter(age));
        }
        if let Some(silence) = policy.uploads_after {
            options = options.uploads_after(silence);
        }
        for rule in &policy.keep_tags {
            options = options.retention(rule.retention(pinned(&policy.immutable_tags)));
        }
        options
    }
}

/// A size, such as 32MiB.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    parse_size::parse_size(text)
        .map_err(|error| format!("{error}: a size is a number with a unit, such as 32MiB"))
}

/// A pace, refused where no store could be read in a lifetime: it would be a slip of the unit.
pub(crate) fn rate(text: &str) -> Result<u64, String> {
    const LEAST: u64 = 64 << 10;
    match size(text)? {
        rate if rate < LEAST => {
            Err(format!("{rate} bytes a second are too few: at least 64KiB, such as 32MiB"))
        }
        rate => Ok(rate),
    }
}

/// A pattern of tags, refused if no tag can match it: that would be a slip that protects nothing.
pub(crate) fn tag_pattern(text: &str) -> Result<String, String> {
    match can_match::<Tag>(text) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "no tag can match {text:?}: a pattern is of the tag alone, in letters, digits, '_', '.', '-', * and ?"
        )),
    }
}

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
pub(crate) fn pinned(patterns: &[String]) -> Pinned {
    if patterns.is_empty() {
        return Pinned::none();
    }
    let patterns: Vec<WildMatch> = patterns.iter().map(|pattern| WildMatch::new(pattern)).collect();
    Pinned::tags(move |tag| patterns.iter().any(|pattern| pattern.matches(tag.as_str())))
}

/// A rule for the tags of certain repositories, as it is written: `team/*:last=10,younger=30days,tag=v*`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct KeepTags {
    repositories: String,
    last: Option<usize>,
    younger: Option<Duration>,
    tags: Vec<String>,
}

impl KeepTags {
    fn retention(&self, immutable: Pinned) -> Retention {
        let repositories = WildMatch::new(&self.repositories);
        let tags: Vec<WildMatch> = self.tags.iter().map(|tag| WildMatch::new(tag)).collect();
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
                Some(("tag", pattern)) if !pattern.is_empty() => rule.tags.push(tag_pattern(pattern)?),
                // A rule that keeps nothing would be a slip that deletes every tag.
                _ => return Err(format!("{condition:?} is none of last=N, younger=TIME and tag=PATTERN")),
            }
        }
        Ok(rule)
    }
}

impl TryFrom<String> for KeepTags {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<KeepTags> for String {
    fn from(rule: KeepTags) -> Self {
        rule.to_string()
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
            assert_eq!(tag_pattern(text).as_deref(), Ok(text));
        }
        for text in ["", "c:i3", "c:*", "a/b", ".*", "-x", "v1 ", "[ab]", &format!("{longest}?")] {
            let error = tag_pattern(text).unwrap_err();
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
        let hour = Duration::from_secs(3600);
        let server = Policy { grace: Some(hour), untagged_after: Some(hour), ..Policy::default() };
        let by_hand = Policy { grace: Some(Duration::ZERO), ..Policy::default() };
        let both = by_hand.or(&server);
        assert_eq!((both.grace, both.untagged_after), (Some(Duration::ZERO), Some(hour)));
    }

    #[test]
    fn patterns_pin_tags() {
        let pinned = pinned(&["v*".to_owned(), "release-?".to_owned()]);
        for (tag, expected) in [("v1.2", true), ("latest", false), ("release-1", true), ("release-10", false)]
        {
            assert_eq!(pinned.contains(&tag.parse().unwrap()), expected, "{tag}");
        }
    }
}
