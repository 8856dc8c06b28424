//! What each fuzz target checks, apart from the fuzzer: `cargo test` replays the corpus through the same functions.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use http::Method;
use model::{Choices, Walk, World};
use sledge::access::{KeySet, Passwords, Scope};
use sledge::oci::{Digest, Manifest, MediaType, Reference, RepositoryName, Tag};
use sledge::store::sled::Inline;
use sledge::wire::{ByteRange, ChunkRange, Request, TokenRequest};

pub mod model;
#[cfg(feature = "schema1")]
pub mod old;
pub mod service;

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
    // Files and forms that say who somebody is, of any bytes.
    for error in [Passwords::parse(input).err(), KeySet::parse(input).err()].into_iter().flatten() {
        assert!(error.to_string().len() < 2000);
    }
    assert!(TokenRequest::parse(input).scopes.len() <= input.len());
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Some(Scope::Repository(name, actions)) = Scope::parse(text) {
        let written = format!("repository:{name}:{actions}");
        assert_eq!(Scope::parse(&written), Some(Scope::Repository(name, actions)));
    }
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
            let written = format!("bytes={start}-{}", start + length - 1);
            assert_eq!(ByteRange::parse(&written, total), ByteRange::Part { start, length }, "{written}");
        }
    }
    if let Ok(chunk) = chunk.parse::<ChunkRange>() {
        assert!(chunk.length > 0 && chunk.start.checked_add(chunk.length - 1).is_some());
        assert_eq!(written(chunk).parse(), Ok(chunk));
    }
    ranges(number(input), number(input.get(8..).unwrap_or_default()));
}

/// Any range that there can be is written and read as the same, of a blob and of a chunk.
fn ranges(start: u64, length: u64) {
    // The last position is below the largest number, which stands for all that are larger.
    let length = length.clamp(1, u64::MAX);
    let start = start.min(u64::MAX - length);
    let chunk = ChunkRange { start, length };
    assert_eq!(written(chunk).parse(), Ok(chunk));
    let part = ByteRange::Part { start, length };
    let end = start + length;
    for total in [end, u64::MAX] {
        assert_eq!(ByteRange::parse(&format!("bytes={}", written(chunk)), total), part, "of {total}");
    }
    assert_eq!(ByteRange::parse(&format!("bytes={start}-"), end), part, "up to the end");
    assert_eq!(ByteRange::parse(&format!("bytes=-{length}"), end), part, "from the end");
}

fn written(chunk: ChunkRange) -> String {
    format!("{}-{}", chunk.start, chunk.start + (chunk.length - 1))
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The store answers as the one in memory does, and keeps its promises when it is opened again, collected and verified.
///
/// The input is where content is kept, and then choices, a byte each or as many as the number of sides needs.
pub fn model(input: &[u8]) {
    /// More take long, and find what fewer find.
    const MOST: usize = 40;
    let mut bytes = Bytes(input);
    let inline = match bytes.roll(3) {
        0 => Inline::default(),
        1 => Inline::UpTo(0),
        _ => Inline::Everything,
    };
    let world = World::new();
    let mut walk = Walk::new(&world, inline);
    for step in 0..MOST {
        if bytes.0.is_empty() {
            break;
        }
        walk.step(&mut bytes, &format!("{inline:?}, step {step}"));
    }
    walk.compare(2, &format!("{inline:?}, at the end"));
}

/// Choices that the input makes. Where it has ended they are all the first.
struct Bytes<'a>(&'a [u8]);

impl Choices for Bytes<'_> {
    fn roll(&mut self, sides: usize) -> usize {
        let mut number = 0;
        let mut reach = 1;
        while reach < sides {
            let Some((byte, rest)) = self.0.split_first() else { break };
            self.0 = rest;
            number = number << 8 | usize::from(*byte);
            reach <<= 8;
        }
        number % sides
    }
}
