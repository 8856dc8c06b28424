//! What the `Authorization` header says.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The longest header that is looked at, in bytes. Tokens with many scopes take a few thousand.
const LONGEST: usize = 16 << 10;

/// A user's name and the password that came with it.
pub(crate) struct Basic {
    pub(crate) user: String,
    pub(crate) password: String,
}

/// The credentials of a request.
#[derive(Debug)]
pub(crate) enum Credentials<'a> {
    /// There are none.
    None,
    Basic(Basic),
    Bearer(Token<'a>),
    /// There is something that is none, or more than one.
    Unreadable,
}

/// A token, as it came.
pub(crate) struct Token<'a>(pub(super) &'a str);

impl<'a> Credentials<'a> {
    /// Reads the values of all `Authorization` headers of a request; `None` stands for one that is not text.
    pub(crate) fn read(mut headers: impl Iterator<Item = Option<&'a str>>) -> Self {
        let Some(header) = headers.next() else { return Self::None };
        let (Some(header), None) = (header, headers.next()) else { return Self::Unreadable };
        let Some((scheme, value)) = header.split_once(' ').filter(|_| header.len() <= LONGEST) else {
            return Self::Unreadable;
        };
        let value = value.trim();
        if scheme.eq_ignore_ascii_case("basic") {
            Basic::read(value).map_or(Self::Unreadable, Self::Basic)
        } else if scheme.eq_ignore_ascii_case("bearer") && !value.is_empty() {
            Self::Bearer(Token(value))
        } else {
            Self::Unreadable
        }
    }
}

impl Basic {
    fn read(value: &str) -> Option<Self> {
        let text = String::from_utf8(STANDARD.decode(value).ok()?).ok()?;
        let (user, password) = text.split_once(':')?;
        Some(Self { user: user.to_owned(), password: password.to_owned() })
    }
}

impl fmt::Debug for Basic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Basic(a user and a password)")
    }
}

impl fmt::Debug for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(a token)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_or_are_wrong() {
        let read = |headers: &[&'static str]| Credentials::read(headers.iter().copied().map(Some));
        assert!(matches!(read(&[]), Credentials::None));
        for header in ["Basic YWxpY2U6d29uOmRlcg==", "basic  YWxpY2U6d29uOmRlcg=="] {
            let Credentials::Basic(basic) = read(&[header]) else { panic!("{header}") };
            assert_eq!((&*basic.user, &*basic.password), ("alice", "won:der"));
        }
        assert!(matches!(read(&["BEARER a.b.c"]), Credentials::Bearer(Token("a.b.c"))));
        let long = String::leak(format!("Bearer {}", "x".repeat(LONGEST)));
        for headers in [
            &["Basic YWxpY2U6d29uOmRlcg==", "Bearer x"][..],
            &["Basic"],
            &["Basic !"],
            &["Basic YWxpY2U="],
            &["Basic //8="],
            &["Bearer "],
            &["Digest x"],
            &[""],
            &[long],
        ] {
            assert!(matches!(read(headers), Credentials::Unreadable), "{headers:?}");
        }
        assert!(matches!(Credentials::read([None].into_iter()), Credentials::Unreadable));
    }
}
