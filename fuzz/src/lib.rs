//! What each fuzz target checks, apart from the fuzzer: `cargo test` replays the corpus through the same functions.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use http::Method;
use sledge::oci::{Digest, Manifest, MediaType, Reference, RepositoryName, Tag};
use sledge::wire::{ByteRange, ChunkRange, Request};

/// A word that is taken is written as it was read, and an error's message is short whatever was sent.
pub fn words(input: &[u8]) {
    fn round_trip<T: FromStr<Err: Display> + Display + Debug + PartialEq>(text: &str) {
        match text.parse::<T>() {
            Ok(word) => {
                assert_eq!(word.to_string(), text);
                assert_eq!(text.parse::<T>().ok(), Some(word));
            }
            Err(error) => assert!(error.to_string().len() < 2000),
        }
    }
    let Ok(text) = std::str::from_utf8(input) else { return };
    round_trip::<Digest>(text);
    round_trip::<RepositoryName>(text);
    round_trip::<Tag>(text);
    round_trip::<Reference>(text);
    round_trip::<MediaType>(text);
}

/// Reading a manifest ends in contents that keep their rules, or in an error.
pub fn manifest(input: &[u8]) {
    let found = Manifest::media_type_of(input);
    for media_type in
        [MediaType::OCI_MANIFEST, MediaType::OCI_INDEX, MediaType::DOCKER_MANIFEST, MediaType::DOCKER_LIST]
    {
        let Ok(media_type) = media_type.parse::<MediaType>() else { return };
        let manifest = Manifest::new(media_type.clone(), input);
        assert_eq!(&manifest.bytes()[..], input);
        let Ok(contents) = manifest.contents() else { continue };
        let mut roles: Vec<_> = contents.references.iter().map(|reference| reference.role).collect();
        let count = roles.len();
        roles.sort_unstable();
        roles.dedup();
        assert_eq!(roles.len(), count, "each place in the document is named once");
        // Who pushes without saying the type gets the same document, or is told that it is not clear.
        if let Ok(found) = &found
            && *found == media_type
        {
            assert_eq!(Manifest::new(found.clone(), input).contents().ok(), Some(contents));
        }
    }
}

/// A request that is understood is written as one that is understood alike; ranges stay within what there is.
///
/// The input is lines: method, path, query, `Range`, `Content-Range`.
pub fn request(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut lines = text.split('\n');
    let mut line = || lines.next().unwrap_or_default();
    let (method, path, query, range, chunk) = (line(), line(), line(), line(), line());
    if let Ok(method) = Method::from_bytes(method.as_bytes())
        && let Ok(request) = Request::parse(&method, path, Some(query).filter(|query| !query.is_empty()))
    {
        let (method, written) = request.to_path();
        let (path, query) = match written.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (written.as_str(), None),
        };
        let again =
            Request::parse(&method, path, query).unwrap_or_else(|_| panic!("{written} is not understood"));
        assert_eq!(again, request);
    }
    for total in [0, 1, 100, u64::MAX] {
        if let ByteRange::Part { start, length } = ByteRange::parse(range, total) {
            assert!(length > 0 && start.checked_add(length).is_some_and(|end| end <= total));
        }
    }
    if let Ok(chunk) = chunk.parse::<ChunkRange>() {
        assert!(chunk.length > 0 && chunk.start.checked_add(chunk.length - 1).is_some());
    }
}
