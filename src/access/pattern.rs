//! Patterns of repository names: `*` is any characters, slashes too, and `?` is one.

use wildmatch::WildMatch;

use super::error::AccessError;
use crate::oci::RepositoryName;

/// A pattern that some repository's name matches as a whole.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pattern(WildMatch);

impl Pattern {
    pub(super) fn new(text: &str) -> Result<Self, AccessError> {
        if can_match(text) {
            return Ok(Self(WildMatch::new(text)));
        }
        let shown: String = text.chars().take(80).collect();
        Err(AccessError::Rule(format!(
            "no repository's name can match {shown:?}: use lower-case letters, digits, '.', '_', '-' and '/' as in names, * for any \
             characters and ? for one"
        )))
    }

    pub(super) fn matches(&self, repository: &RepositoryName) -> bool {
        self.0.matches(repository.as_str())
    }
}

/// Where in a repository's name one can be: after which character, as a bit.
mod place {
    /// At the beginning of a component.
    pub(super) const START: u8 = 1;
    /// After a letter or digit, where a name can end.
    pub(super) const WORD: u8 = 2;
    /// After what must be followed by a letter or digit: a dot, or two underscores.
    pub(super) const SEPARATOR: u8 = 4;
    pub(super) const UNDERSCORE: u8 = 8;
    pub(super) const DASH: u8 = 16;
}

/// Where one is after a character, from any of these places; nowhere if no name goes on so.
fn after(places: u8, character: char) -> u8 {
    let from = |place: u8, to: u8| if places & place == 0 { 0 } else { to };
    match character {
        'a'..='z' | '0'..='9' => from(u8::MAX, place::WORD),
        '/' => from(place::WORD, place::START),
        '.' => from(place::WORD, place::SEPARATOR),
        '_' => from(place::WORD, place::UNDERSCORE) | from(place::UNDERSCORE, place::SEPARATOR),
        '-' => from(place::WORD | place::DASH, place::DASH),
        _ => 0,
    }
}

/// Whether any name is matched: the pattern and the names' grammar are walked side by side.
fn can_match(pattern: &str) -> bool {
    let any = |places: u8| ['a', '/', '.', '_', '-'].into_iter().fold(0, |all, c| all | after(places, c));
    let mut places = place::START;
    let mut length = 0;
    for character in pattern.chars() {
        places = match character {
            '*' => {
                // From anywhere, three more characters lead to all that can be reached.
                (0..3).fold(places, |places, _| places | any(places))
            }
            '?' => any(places),
            character => after(places, character),
        };
        length += usize::from(character != '*');
    }
    places & place::WORD != 0 && length <= RepositoryName::MAX_LENGTH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_that_no_name_matches_is_told() {
        for pattern in [
            "*", "?", "a", "a/*", "*/a", "a*", "a-?", "a_?", "a/?*", "**", "*-*", "a--b", "a__b", "*__*",
            "a_*",
        ] {
            assert!(Pattern::new(pattern).is_ok(), "{pattern}");
        }
        let long = "a".repeat(256);
        for pattern in [
            "", "A", "a/", "/a", "a//b", "_*", "*_", "*/", "a._b", "a___*", "?/", "_", "é*", "a b", "[a]",
            &long,
        ] {
            assert!(matches!(Pattern::new(pattern), Err(AccessError::Rule(_))), "{pattern}");
        }
    }

    /// What the walk says, found by trying: all names of up to five characters of each kind, against all short patterns.
    #[test]
    fn the_walk_agrees_with_trying_all_names() {
        let words = |alphabet: &[char], longest: usize| {
            let mut all = vec![String::new()];
            let mut from = 0;
            for _ in 0..longest {
                let to = all.len();
                for at in from..to {
                    for character in alphabet {
                        all.push(format!("{}{character}", all[at]));
                    }
                }
                from = to;
            }
            all
        };
        let names: Vec<RepositoryName> =
            words(&['a', '/', '.', '_', '-'], 6).iter().filter_map(|name| name.parse().ok()).collect();
        for pattern in words(&['a', '/', '_', '-', '*', '?'], 4) {
            let tried = names.iter().any(|name| WildMatch::new(&pattern).matches(name.as_str()));
            assert_eq!(can_match(&pattern), tried, "{pattern}");
        }
    }
}
