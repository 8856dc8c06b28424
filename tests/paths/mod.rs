//! The paths that a source file names, read from its text.

/// What a text is made of, as far as paths go. Comments, strings and characters are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Word(String),
    /// `::`
    Separator,
    Other(char),
}

pub(super) fn tokens(text: &str) -> Vec<Token> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = literal(rest) {
            length
        } else if first.is_alphanumeric() || first == '_' {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            found.push(Token::Word(rest[..end].to_owned()));
            end
        } else if rest.starts_with("::") {
            found.push(Token::Separator);
            2
        } else {
            if !first.is_whitespace() {
                found.push(Token::Other(first));
            }
            first.len_utf8()
        };
        rest = &rest[length..];
    }
    found
}

/// The length of the string or character that a text begins with.
fn literal(text: &str) -> Option<usize> {
    let prefix = text.find(|c: char| !matches!(c, 'b' | 'c' | 'r')).filter(|length| *length <= 2)?;
    let body = &text[prefix..];
    let hashes = body.len() - body.trim_start_matches('#').len();
    if text[..prefix].ends_with('r') && body[hashes..].starts_with('"') {
        let end = format!("\"{}", "#".repeat(hashes));
        let start = prefix + hashes + 1;
        return Some(text[start..].find(&end).map_or(text.len(), |at| start + at + end.len()));
    }
    let quote = body.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
    let mut escaped = false;
    for (at, c) in body.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            // A lifetime: one character and no closing quote after it.
            c if quote == '\'' && at == 1 && !body[1 + c.len_utf8()..].starts_with('\'') => return None,
            c if c == quote => return Some(prefix + at + 1),
            _ => {}
        }
    }
    Some(text.len())
}

/// Every path of two words and more, and everything that a `use` names; groups are spelled out.
pub(super) fn paths(text: &str) -> Vec<Vec<String>> {
    let tokens = tokens(text);
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        at += 1;
        let Token::Word(word) = token else { continue };
        let used = at > 1 && tokens[at - 2] == Token::Word("use".to_owned());
        if used || tokens.get(at) == Some(&Token::Separator) {
            at = follow(&tokens, at, vec![word.clone()], &mut found);
        }
    }
    found
}

/// Reads on from after a path's last word, and returns the place after the path.
fn follow(tokens: &[Token], mut at: usize, mut path: Vec<String>, found: &mut Vec<Vec<String>>) -> usize {
    while tokens.get(at) == Some(&Token::Separator) {
        match tokens.get(at + 1) {
            Some(Token::Word(word)) => {
                path.push(word.clone());
                at += 2;
            }
            Some(Token::Other('{')) => return group(tokens, at + 2, &path, found),
            _ => break,
        }
    }
    found.push(path);
    at
}

/// Reads a group's entries, and returns the place after its closing brace.
fn group(tokens: &[Token], mut at: usize, prefix: &[String], found: &mut Vec<Vec<String>>) -> usize {
    while let Some(token) = tokens.get(at) {
        at += 1;
        match token {
            Token::Other('}') => return at,
            Token::Word(word) if word == "as" => at += 1,
            Token::Word(word) if word == "self" => found.push(prefix.to_vec()),
            Token::Word(word) => {
                at = follow(tokens, at, [prefix, std::slice::from_ref(word)].concat(), found);
            }
            Token::Separator | Token::Other(_) => {}
        }
    }
    at
}

/// The module that a file is, and the path from the crate's root that a path in it means. A path that does not begin
/// at `crate`, `self` or `super` is left as it is.
pub(super) fn module(file: &str) -> Vec<String> {
    let name = file.trim_start_matches("src/").trim_end_matches(".rs");
    let mut module: Vec<String> = name.split('/').map(str::to_owned).collect();
    if matches!(module.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        module.pop();
    }
    module
}

pub(super) fn absolute(module: &[String], path: &[String]) -> Option<Vec<String>> {
    let mut from = match path[0].as_str() {
        "crate" => Vec::new(),
        "self" | "super" => module.to_vec(),
        _ => return None,
    };
    for word in path {
        match word.as_str() {
            "crate" | "self" => {}
            "super" => drop(from.pop()),
            word => from.push(word.to_owned()),
        }
    }
    Some(from)
}

#[test]
fn what_is_no_code_is_passed_over() {
    let text = r##"
        // a::b
        /* c::d */ "e::f" 'g' b"h::\"i" r#"j::"k"# b'"' '\'' '"'
        fn l<'a>(m: &'a n::o) {}
    "##;
    assert_eq!(paths(text), [["n", "o"]]);
}

#[test]
fn groups_are_spelled_out() {
    let text = "use crate::a::{self, b::{C, D as E}, f::*}; use g; let _ = h::i::<j::k>();";
    let found: Vec<String> = paths(text).iter().map(|path| path.join("::")).collect();
    let expected = ["crate::a", "crate::a::b::C", "crate::a::b::D", "crate::a::f", "g", "h::i", "j::k"];
    assert_eq!(found, expected);
}

#[test]
fn relative_paths_are_made_absolute() {
    let words = |text: &str| -> Vec<String> { text.split("::").map(str::to_owned).collect() };
    for (file, path, meant) in [
        ("src/store/memory.rs", "super::sled::X", "store::sled::X"),
        ("src/store/memory/upload.rs", "super::super::Page", "store::Page"),
        ("src/store/mod.rs", "self::memory", "store::memory"),
        ("src/store/mod.rs", "super::oci", "oci"),
        ("src/lib.rs", "crate::oci", "oci"),
    ] {
        assert_eq!(absolute(&module(file), &words(path)), Some(words(meant)), "{path} in {file}");
    }
    assert_eq!(absolute(&module("src/lib.rs"), &words("std::io")), None);
}
