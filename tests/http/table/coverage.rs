//! That nothing is missing in the table: what there is to be covered is read from the sources and stated by the spec.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use http::Method;
use sledge::wire::Request;

use super::row::Body;
use super::rows;
use super::scene::Words;

/// The spec's endpoints.
const ENDS: [&str; 20] = [
    "end-1", "end-2", "end-3", "end-4a", "end-4b", "end-4c", "end-5", "end-6", "end-7a", "end-7b", "end-8a",
    "end-8b", "end-9", "end-10", "end-11", "end-12a", "end-12b", "end-13", "end-14", "_catalog",
];

/// The sections that ask something of a registry.
const SECTIONS: [&str; 23] = [
    "Legacy Docker support HTTP headers",
    "Pulling manifests",
    "Pulling blobs",
    "Checking if content exists in the registry",
    "Push",
    "Pushing blobs",
    "POST then PUT",
    "Single POST",
    "Pushing a blob in chunks",
    "Cancel a blob upload",
    "Mounting a blob from another repository",
    "Pushing Manifests",
    "Pushing Manifests with Subject",
    "Listing Tags",
    "Listing Referrers",
    "Deleting tags",
    "Deleting Manifests",
    "Deleting Blobs",
    "Registry Proxying",
    "Enabling the Referrers API",
    "Determining Support",
    "Error Codes",
    "Warnings",
];

#[test]
fn every_endpoint_and_kind_of_request_has_a_row() {
    let variants = variants("src/wire/request.rs", "pub enum Request {");
    assert!(variants.len() >= 18, "{variants:?}");
    let words = Words::new("own");
    let (mut ends, mut kinds) = (BTreeSet::new(), BTreeSet::new());
    for row in rows() {
        assert!(ENDS.contains(&row.end), "there is no {}", row.end);
        ends.insert(row.end);
        let path = words.fill_in(&row.path);
        let session = "/v2/own/blobs/uploads/0190163d-8694-739b-aea5-966c26f8ad90";
        let path = path.replace("{session}", session).replace("{begun}", session);
        let path = path
            .replace("{sent}", &crate::fixture::sha256(b""))
            .replace("{sent512}", &crate::fixture::sha512(b""));
        let (path, query) = path.split_once('?').map_or((&*path, None), |(path, query)| (path, Some(query)));
        let method: Method = row.method.parse().unwrap();
        let Ok(request) = Request::parse(&method, path, query) else { continue };
        let kind = format!("{request:?}");
        let kind = kind.split(' ').next().unwrap();
        // Documented, and so found, as one of that endpoint.
        let mut documented = variants[kind].split(|c: char| !c.is_alphanumeric() && !"-_".contains(c));
        assert!(
            documented.any(|end| end == row.end),
            "{} {path} is {kind}, the row says {}",
            row.method,
            row.end
        );
        if row.status < 400 {
            kinds.insert(kind.to_owned());
        }
    }
    assert!(
        ENDS.iter().all(|end| ends.contains(end)),
        "{:?} have no row",
        ENDS.iter().filter(|end| !ends.contains(*end)).collect::<Vec<_>>()
    );
    let missing: Vec<_> = variants.keys().filter(|kind| !kinds.contains(*kind)).collect();
    assert!(missing.is_empty(), "no row in which {missing:?} succeeds");
}

#[test]
fn every_code_of_the_spec_has_a_row() {
    // As answers have them, from the one place where they are written.
    let source = read("src/error.rs");
    let codes = between(&source, "pub const fn as_str(self) -> &'static str {", "    }\n}");
    let codes: BTreeSet<&str> = codes.split('"').skip(1).step_by(2).collect();
    assert_eq!(codes.len(), variants("src/error.rs", "pub enum ErrorCode {").len());
    assert_eq!(codes.len(), 14, "{codes:?}");
    let rows = rows();
    let mut answered = BTreeSet::new();
    for row in &rows {
        match &row.body {
            Body::Errors(told) => answered.extend(told.iter().copied()),
            _ => assert!(row.status < 400 || row.method == "HEAD", "{}: without a code", row.says),
        }
    }
    assert!(answered.is_subset(&codes), "codes that are none: {answered:?}");
    let unanswered: Vec<&str> = codes.difference(&answered).copied().collect();
    assert!(unanswered.is_empty(), "no row is answered with {unanswered:?}");
}

#[test]
fn every_section_that_asks_something_has_a_row() {
    let rows = rows();
    let found: BTreeSet<&str> = rows.iter().map(|row| row.section).collect();
    assert_eq!(found, BTreeSet::from(SECTIONS));
    // A row says one thing, and says it once.
    let said: BTreeSet<(&str, &str)> = rows.iter().map(|row| (row.section, row.says)).collect();
    assert_eq!(said.len(), rows.len());
}

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let text = &text[text.find(start).unwrap_or_else(|| panic!("no {start:?}")) + start.len()..];
    &text[..text.find(end).unwrap()]
}

/// The variants of an enum, and what is written above each.
fn variants(file: &str, head: &str) -> BTreeMap<String, String> {
    let source = read(file);
    let (mut found, mut above) = (BTreeMap::new(), String::new());
    for line in between(&source, head, "\n}").lines() {
        let Some(line) = line.strip_prefix("    ").filter(|line| !line.starts_with(' ')) else { continue };
        if line.starts_with("//") {
            above += line;
        } else if line.starts_with(|first: char| first.is_ascii_uppercase()) {
            let name = line.split(|c: char| !c.is_alphanumeric()).next().unwrap();
            found.insert(name.to_owned(), std::mem::take(&mut above));
        }
    }
    found
}
