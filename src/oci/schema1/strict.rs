//! JSON that every reader reads alike.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Fails for what is no JSON, and where two keys of one object are the same but for their case: Go takes the last of them, others the
/// first, or none.
pub(super) fn check(document: &[u8]) -> serde_json::Result<()> {
    serde_json::from_slice::<Strict>(document).map(drop)
}

/// Any value at all.
struct Strict;

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Walk)
    }
}

struct Walk;

impl<'de> Visitor<'de> for Walk {
    type Value = Strict;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_str<E>(self, _: &str) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_unit<E>(self) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Strict, A::Error> {
        while items.next_element::<Strict>()?.is_some() {}
        Ok(Strict)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Strict, A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = entries.next_key::<String>()? {
            if !seen.insert(fold(&key)) {
                let key = crate::oci::digest::shorten(&key);
                return Err(A::Error::custom(format_args!("the key {key:?} stands twice in one object")));
            }
            entries.next_value::<Strict>()?;
        }
        Ok(Strict)
    }
}

/// What Go takes for one key is one: beside ASCII's cases it folds the long s, and the sign for Kelvin, which is a k in lower case.
fn fold(key: &str) -> String {
    key.chars().map(|c| if c == '\u{17f}' { 's' } else { c }).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_stands_twice_is_found_at_any_depth() {
        for good in
            ["{}", "[1, -1, 1.5, null, true, \"x\"]", "{\"a\": {\"b\": 1}, \"b\": {\"b\": [{\"b\": 2}]}}"]
        {
            check(good.as_bytes()).unwrap();
        }
        for bad in [
            "{\"a\": 1, \"a\": 1}",
            "{\"name\": 1, \"NAME\": 1}",
            "{\"x\": [{\"\\u006eame\": 1, \"name\": 1}]}",
            "{\"tags\": 1, \"tag\u{17f}\": 1}",
            "{\"k\": 1, \"\u{212a}\": 1}",
        ] {
            let error = check(bad.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("stands twice in one object"), "{bad}: {error}");
        }
        for bad in ["", "{", "{}{}", "[1,]", "\u{0}", &"[".repeat(100_000)] {
            assert!(check(bad.as_bytes()).is_err());
        }
    }
}
