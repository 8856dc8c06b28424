//! Password files as `htpasswd -B` writes them.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::Arc;

use bcrypt::HashParts;

use super::error::AccessError;

/// The longest file, in bytes.
pub(super) const LONGEST: usize = 1 << 20;
/// The longest name of a user, in bytes.
pub(super) const LONGEST_NAME: usize = 255;
/// The most rounds that are taken, as a power of two: a check takes seconds then.
const MOST_COST: u32 = 15;

/// A bcrypt hash, as it stands in the file, and its cost.
pub(super) struct Line {
    pub(super) hash: String,
    pub(super) cost: u32,
}

/// Reads `USER:HASH` lines. Empty lines and those that begin with `#` are passed over.
///
/// # Errors
/// [`AccessError::Passwords`] with the line: for what is no such line, for hashes that are not bcrypt's, and for a user who is
/// there twice.
pub(super) fn parse(bytes: &[u8]) -> Result<HashMap<Arc<str>, Line>, AccessError> {
    if bytes.len() > LONGEST {
        let reason = format!("a password file has at most {LONGEST} bytes, this has {}", bytes.len());
        return Err(AccessError::Passwords { path: None, line: 1, reason });
    }
    let mut users = HashMap::new();
    for (at, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.trim_ascii().is_empty() || line.starts_with(b"#") {
            continue;
        }
        let wrong =
            |reason: &str| AccessError::Passwords { path: None, line: at + 1, reason: reason.to_owned() };
        let (user, hash) = read(line).map_err(wrong)?;
        if users.insert(user, hash).is_some() {
            return Err(wrong("this user is there twice: keep one of the lines"));
        }
    }
    Ok(users)
}

/// One line. What is wrong with it is told without it, as it may hold a secret.
fn read(line: &[u8]) -> Result<(Arc<str>, Line), &'static str> {
    let line = std::str::from_utf8(line).map_err(|_| "this is not UTF-8")?;
    let (user, hash) =
        line.split_once(':').ok_or("there is no colon: write USER:HASH, as `htpasswd -B` does")?;
    if user.is_empty() || user.len() > LONGEST_NAME || user.chars().any(char::is_control) {
        return Err("a user's name has 1 to 255 bytes, none of them a control character");
    }
    if matches!(user, "*" | "anonymous") {
        return Err("this name stands for others in rules: choose another");
    }
    if !["$2a$", "$2b$", "$2y$"].iter().any(|scheme| hash.starts_with(scheme)) {
        return Err(scheme(hash));
    }
    let parts = HashParts::from_str(hash)
        .map_err(|_| "the bcrypt hash is damaged: write it anew with `htpasswd -B`")?;
    let cost = parts.get_cost();
    if cost > MOST_COST {
        return Err(
            "the bcrypt hash costs more than 15, so a check would take too long: use `htpasswd -B -C 10`",
        );
    }
    Ok((user.into(), Line { hash: hash.to_owned(), cost }))
}

/// Which other scheme a hash is of.
fn scheme(hash: &str) -> &'static str {
    if hash.starts_with("$apr1$") || hash.starts_with("$1$") {
        "the password is hashed with MD5: use bcrypt, `htpasswd -B`"
    } else if hash.starts_with("{SHA}") {
        "the password is hashed with SHA-1: use bcrypt, `htpasswd -B`"
    } else if hash.starts_with("$5$") || hash.starts_with("$6$") {
        "the password is hashed with SHA-crypt: use bcrypt, `htpasswd -B`"
    } else {
        "this is no bcrypt hash (of crypt, or no hash at all): use bcrypt, `htpasswd -B`"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of "wonderland", as Apache's htpasswd would write it.
    const HASH: &str = "$2y$05$c4WoMPo3SXsafkva.HHa6uHpvoxC70gaYUuYyhzdpUSq9CHz/KcOS";

    #[test]
    fn bcrypt_lines_are_read() {
        let text = format!("# users\r\n\nalice:{HASH}\r\nböb o'b:{}\n   \n", HASH.replace("$2y$", "$2b$"));
        let users = parse(text.as_bytes()).unwrap();
        assert_eq!((users.len(), users["alice"].cost, &*users["alice"].hash), (2, 5, HASH));
        assert!(users.contains_key("böb o'b"));
        assert!(parse(b"").unwrap().is_empty());
    }

    #[test]
    fn any_other_line_is_told_by_its_number_and_not_by_what_is_in_it() {
        let secret = "hunter2secret";
        for (line, word) in [
            (format!("alice:$apr1$lZL6V/ci${secret}"), "MD5"),
            (format!("alice:{{SHA}}{secret}"), "SHA-1"),
            (format!("alice:$6$x${secret}"), "SHA-crypt"),
            (format!("alice:$5$x${secret}"), "SHA-crypt"),
            (format!("alice:{secret}"), "no bcrypt"),
            (format!("alice:$2x${}", &HASH[4..]), "no bcrypt"),
            (format!("alice:{}", &HASH[..59]), "damaged"),
            (format!("alice:{HASH}{secret}"), "damaged"),
            (format!("alice:{HASH}:x"), "damaged"),
            (format!("alice:{}", HASH.replace("$05$", "$16$")), "more than 15"),
            (format!("alice:{}", HASH.replace("$05$", "$99$")), "more than 15"),
            (secret.to_owned(), "no colon"),
            (format!(":{HASH}"), "name"),
            (format!("{}:{HASH}", "a".repeat(256)), "name"),
            (format!("a\tb:{HASH}"), "control"),
            (format!("*:{HASH}"), "choose another"),
            (format!("anonymous:{HASH}"), "choose another"),
            (format!("bob:{HASH}"), "twice"),
        ] {
            let text = format!("bob:{HASH}\n\n{line}\n");
            let error = parse(text.as_bytes()).err().unwrap();
            assert!(matches!(error, AccessError::Passwords { line: 3, .. }), "{line}: {error:?}");
            let told = format!("{error} {error:?}");
            assert!(told.contains(word), "{line}: {told}");
            assert!(!told.contains(secret) && !told.contains(&HASH[10..]), "{told}");
        }
        assert!(parse(b"a\xFF:x").is_err());
        assert!(parse(&vec![b'#'; LONGEST + 1]).is_err());
    }
}
