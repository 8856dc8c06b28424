//! On whose behalf a store is changed.

use serde::{Deserialize, Serialize};

/// The longest word that is kept, in bytes: what clients say of themselves is as long as they like.
const LONGEST: usize = 256;

/// Who asked for something and how, as far as that is known. Each word is cut to 256 bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Initiator {
    user: Option<String>,
    request_id: Option<String>,
    client: Option<String>,
    host: Option<String>,
    method: Option<String>,
    user_agent: Option<String>,
}

impl Initiator {
    /// Nobody who is known.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

/// What is said, and what was.
macro_rules! words {
    ($($(#[$doc:meta])* $set:ident, $word:ident;)*) => {
        impl Initiator {
            $(
                $(#[$doc])*
                #[must_use]
                pub fn $set(mut self, word: &str) -> Self {
                    self.$word = Some(cut(word));
                    self
                }

                $(#[$doc])*
                #[must_use]
                pub fn $word(&self) -> Option<&str> {
                    self.$word.as_deref()
                }
            )*
        }
    };
}

words! {
    /// The user, who was proved to be that.
    with_user, user;
    /// What the request is called in logs.
    with_request_id, request_id;
    /// The address it came from.
    with_client, client;
    /// The registry's name, as the client has it.
    with_host, host;
    /// HTTP's method.
    with_method, method;
    /// The client's program, by its own word.
    with_user_agent, user_agent;
}

fn cut(word: &str) -> String {
    let end = (0..=word.len().min(LONGEST)).rev().find(|end| word.is_char_boundary(*end));
    word.get(..end.unwrap_or(0)).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_cut_where_a_letter_ends() {
        let initiator = Initiator::new().with_user(&"a".repeat(300)).with_user_agent(&"€".repeat(100));
        assert_eq!(initiator.user().unwrap(), "a".repeat(256));
        assert_eq!(initiator.user_agent().unwrap(), "€".repeat(85));
        assert_eq!(initiator.host(), None);
    }
}
