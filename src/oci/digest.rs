//! Digests and the hashers that make them (image-spec, descriptor.md, "Digests").

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::digest::common::hazmat::{SerializableState, SerializedState};
use sha2::{Digest as _, Sha256, Sha512};

/// A digest algorithm registered by the image-spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Algorithm {
    /// `sha256`: 32 bytes, the algorithm that every registry and client knows.
    Sha256,
    /// `sha512`: 64 bytes.
    Sha512,
}

impl Algorithm {
    /// The name as it stands before the colon.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// The length of a digest in bytes; its hexadecimal form is twice as long.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    /// The digest of `content` by this algorithm.
    #[must_use]
    pub fn digest(self, content: &[u8]) -> Digest {
        let mut hasher = Hasher::new(self);
        hasher.update(content);
        hasher.finish()
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Algorithm {
    type Err = DigestError;

    fn from_str(name: &str) -> Result<Self, DigestError> {
        match name {
            "sha256" => Ok(Self::Sha256),
            "sha512" => Ok(Self::Sha512),
            _ => Err(DigestError::UnsupportedAlgorithm(shorten(name))),
        }
    }
}

/// The identity of content: an algorithm and the hash of the bytes.
///
/// - The text form is `<algorithm>:<lower-case hexadecimal>`, of exactly the algorithm's length.
/// - The order is the order of the text forms.
/// - A value is 65 bytes and is copied freely.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    /// The hash, padded with zeros to the longest algorithm's length.
    bytes: [u8; 64],
}

impl Digest {
    /// A digest from the hash's raw bytes.
    ///
    /// # Errors
    /// [`DigestError::Length`] unless there are exactly [`Algorithm::size`] bytes.
    pub fn from_bytes(algorithm: Algorithm, hash: &[u8]) -> Result<Self, DigestError> {
        let mut bytes = [0; 64];
        match bytes.get_mut(..algorithm.size()) {
            Some(room) if room.len() == hash.len() => room.copy_from_slice(hash),
            _ => return Err(DigestError::Length { algorithm, found: hash.len() * 2 }),
        }
        Ok(Self { algorithm, bytes })
    }

    /// The algorithm that made it.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The raw hash, [`Algorithm::size`] bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.algorithm.size()).unwrap_or(&self.bytes)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0_u8; 128];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.as_bytes()) {
            for (digit, nibble) in pair.iter_mut().zip([byte >> 4, byte & 15]) {
                *digit = HEX.get(usize::from(nibble)).copied().unwrap_or(b'0');
            }
        }
        let text = text.get(..self.algorithm.size() * 2).unwrap_or(&text);
        write!(f, "{}:{}", self.algorithm, std::str::from_utf8(text).unwrap_or_default())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (algorithm, encoded) = text.split_once(':').ok_or_else(|| DigestError::Form(shorten(text)))?;
        let algorithm = Algorithm::from_str(algorithm)?;
        if encoded.len() != algorithm.size() * 2 {
            return Err(DigestError::Length { algorithm, found: encoded.len() });
        }
        let mut bytes = [0; 64];
        for (byte, pair) in bytes.iter_mut().zip(encoded.as_bytes().chunks_exact(2)) {
            *byte = 0;
            for digit in pair {
                let nibble = match digit {
                    b'0'..=b'9' => digit - b'0',
                    b'a'..=b'f' => digit - b'a' + 10,
                    _ => return Err(DigestError::Form(shorten(text))),
                };
                *byte = *byte << 4 | nibble;
            }
        }
        Ok(Self { algorithm, bytes })
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Why a text is not a digest that this crate can check.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DigestError {
    /// Not `<algorithm>:<lower-case hexadecimal>`.
    #[error("{0:?} is not a digest: it must be <algorithm>:<lower-case hex>")]
    Form(String),
    /// Well-formed, but of an algorithm that is not implemented here.
    #[error("digest algorithm {0:?} is not supported: use sha256 or sha512")]
    UnsupportedAlgorithm(String),
    /// The encoded part does not have the algorithm's length.
    #[error("a {algorithm} digest has {} hex digits, this one has {found}", algorithm.size() * 2)]
    Length {
        /// The algorithm that was named.
        algorithm: Algorithm,
        /// How many characters followed the colon.
        found: usize,
    },
}

/// At most 80 characters of something that a stranger sent, for use in a message.
pub(super) fn shorten(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// An incremental hasher whose state can be written down and taken up again later.
#[derive(Clone, Debug)]
pub struct Hasher(State);

#[derive(Clone, Debug)]
enum State {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    /// A hasher that has seen nothing yet.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => State::Sha256(Sha256::new()),
            Algorithm::Sha512 => State::Sha512(Sha512::new()),
        })
    }

    /// The algorithm of the digest to come.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        match self.0 {
            State::Sha256(_) => Algorithm::Sha256,
            State::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// Takes in the next bytes of the content.
    pub fn update(&mut self, content: &[u8]) {
        match &mut self.0 {
            State::Sha256(hasher) => hasher.update(content),
            State::Sha512(hasher) => hasher.update(content),
        }
    }

    /// The digest of all that was taken in.
    #[must_use]
    pub fn finish(self) -> Digest {
        let algorithm = self.algorithm();
        let mut bytes = [0; 64];
        let hash = |hash: &[u8], bytes: &mut [u8; 64]| {
            for (byte, value) in bytes.iter_mut().zip(hash) {
                *byte = *value;
            }
        };
        match self.0 {
            State::Sha256(hasher) => hash(&hasher.finalize(), &mut bytes),
            State::Sha512(hasher) => hash(&hasher.finalize(), &mut bytes),
        }
        Digest { algorithm, bytes }
    }

    /// The state as bytes, at most 256 of them; [`Hasher::restore`] takes them back.
    #[must_use]
    pub fn save(&self) -> Vec<u8> {
        match &self.0 {
            State::Sha256(hasher) => hasher.serialize().to_vec(),
            State::Sha512(hasher) => hasher.serialize().to_vec(),
        }
    }

    /// A hasher that goes on where the one that was saved stood.
    ///
    /// # Errors
    /// [`HasherStateError`] when the bytes are no state of that algorithm.
    pub fn restore(algorithm: Algorithm, state: &[u8]) -> Result<Self, HasherStateError> {
        Ok(Self(match algorithm {
            Algorithm::Sha256 => State::Sha256(restore(state, 32..40)?),
            Algorithm::Sha512 => State::Sha512(restore(state, 64..80)?),
        }))
    }
}

/// More blocks than any content has. sha2 believes the count in a state, and one that is near its end makes it overflow later.
const MOST_BLOCKS: u128 = 1 << 48;

/// `count` is where the state says how many blocks it has seen, the least significant byte first.
fn restore<T: SerializableState>(state: &[u8], count: Range<usize>) -> Result<T, HasherStateError> {
    let counted = state.get(count).ok_or(HasherStateError)?;
    let blocks = counted.iter().rev().fold(0, |blocks: u128, byte| blocks << 8 | u128::from(*byte));
    if blocks > MOST_BLOCKS {
        return Err(HasherStateError);
    }
    let state = SerializedState::<T>::try_from(state).map_err(|_| HasherStateError)?;
    T::deserialize(&state).map_err(|_| HasherStateError)
}

/// The bytes are not the saved state of a hasher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the saved state of a hasher")]
pub struct HasherStateError;

#[cfg(test)]
mod tests {
    use super::*;

    const ABC: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn text_form_round_trips_for_both_algorithms() {
        assert_eq!(Algorithm::Sha256.digest(b"abc").to_string(), ABC);
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let digest = algorithm.digest(b"content");
            assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
            assert_eq!(Digest::from_bytes(algorithm, digest.as_bytes()), Ok(digest));
        }
    }

    #[test]
    fn what_is_no_digest_is_told_apart() {
        let upper = ABC.to_uppercase().replace("SHA256", "sha256");
        assert!(matches!(upper.parse::<Digest>(), Err(DigestError::Form(_))));
        assert!(matches!("sha256".parse::<Digest>(), Err(DigestError::Form(_))));
        assert!(matches!("md5:00".parse::<Digest>(), Err(DigestError::UnsupportedAlgorithm(_))));
        assert_eq!(
            "sha256:baddigeststring".parse::<Digest>(),
            Err(DigestError::Length { algorithm: Algorithm::Sha256, found: 15 })
        );
        assert!(Digest::from_bytes(Algorithm::Sha512, &[0; 32]).is_err());
        // Multi-byte characters must not be cut in the middle, neither in the digest nor in the message.
        assert!(format!("sha256:{}", "é".repeat(32)).parse::<Digest>().is_err());
        assert!("é".repeat(200).parse::<Digest>().unwrap_err().to_string().len() < 300);
    }

    #[test]
    fn order_is_that_of_the_text() {
        let mut digests: Vec<Digest> = (0..50_u8)
            .map(|n| if n % 2 == 0 { Algorithm::Sha256 } else { Algorithm::Sha512 }.digest(&[n]))
            .collect();
        let mut texts: Vec<String> = digests.iter().map(ToString::to_string).collect();
        digests.sort();
        texts.sort();
        assert_eq!(digests.iter().map(ToString::to_string).collect::<Vec<_>>(), texts);
    }

    #[test]
    fn a_hasher_goes_on_from_its_saved_state_at_any_offset() {
        let content: Vec<u8> = (0..4).flat_map(|_| 0..=249).collect();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            // Around the block sizes of both algorithms (64 and 128), and at the ends.
            for cut in [0, 1, 63, 64, 65, 127, 128, 129, 500, 1000] {
                let mut hasher = Hasher::new(algorithm);
                hasher.update(&content[..cut]);
                let saved = hasher.save();
                assert!(saved.len() <= 256);
                let mut hasher = Hasher::restore(algorithm, &saved).unwrap();
                hasher.update(&content[cut..]);
                assert_eq!(hasher.finish(), algorithm.digest(&content), "cut at {cut}");
            }
            assert!(Hasher::restore(algorithm, b"short").is_err());
        }
    }

    /// The fuzzer's: a byte of an upload session's record went bad, and to end the session was a panic where overflow is one.
    #[test]
    fn a_state_that_has_seen_more_than_there_can_be_is_refused() {
        for (algorithm, count) in [(Algorithm::Sha256, 32..40), (Algorithm::Sha512, 64..80)] {
            let mut hasher = Hasher::new(algorithm);
            hasher.update(&[1; 1000]);
            for at in count.start + 7..count.end {
                for bit in 0..8 {
                    let mut state = hasher.save();
                    state[at] ^= 1 << bit;
                    assert!(Hasher::restore(algorithm, &state).is_err(), "{algorithm}, byte {at}, bit {bit}");
                }
            }
            for bad in 0..8 * (count.end + 1) {
                let mut state = hasher.save();
                state[bad / 8] ^= 1 << (bad % 8);
                if let Ok(mut hasher) = Hasher::restore(algorithm, &state) {
                    hasher.update(&[1; 1000]);
                    assert_ne!(hasher.finish(), algorithm.digest(&[1; 2000]), "bit {bad}");
                }
            }
        }
    }
}
