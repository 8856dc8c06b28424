//! A place in a list that its reader is not to know.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

use super::error::AccessError;
use crate::oci::RepositoryName;

/// Puts the name of a repository, which somebody may have no right to know, into words that he can send back.
pub(super) struct Sealer {
    key: LessSafeKey,
    random: SystemRandom,
}

impl Sealer {
    pub(super) fn new() -> Result<Self, AccessError> {
        let random = SystemRandom::new();
        let mut bytes = [0; 32];
        random.fill(&mut bytes)?;
        let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &bytes)?);
        Ok(Self { key, random })
    }

    /// The words; their length does not tell the name's.
    pub(super) fn seal(&self, name: &RepositoryName) -> Option<String> {
        // Drawn anew each time: no two are alike before billions were made.
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).ok()?;
        let mut bytes = name.as_str().as_bytes().to_vec();
        bytes.resize(RepositoryName::MAX_LENGTH, 0);
        let tagged =
            self.key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut bytes);
        tagged.ok().map(|()| URL_SAFE_NO_PAD.encode([&nonce, bytes.as_slice()].concat()))
    }

    /// The name again; `None` for what this did not make.
    pub(super) fn open(&self, words: &str) -> Option<RepositoryName> {
        let bytes = URL_SAFE_NO_PAD.decode(words).ok()?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE_LEN>()?;
        let mut sealed = sealed.to_vec();
        let name =
            self.key.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::empty(), &mut sealed).ok()?;
        std::str::from_utf8(name).ok()?.trim_end_matches('\0').parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_by_who_made_it_alone() {
        let (sealer, other) = (Sealer::new().unwrap(), Sealer::new().unwrap());
        let (short, long): (RepositoryName, RepositoryName) =
            ("a".parse().unwrap(), "b/c-d".parse().unwrap());
        let words = sealer.seal(&short).unwrap();
        assert_eq!(sealer.open(&words), Some(short.clone()));
        assert_eq!(other.open(&words), None);
        assert_eq!(sealer.open(&words[1..]), None);
        assert_eq!(sealer.open(""), None);
        assert_eq!(words.len(), sealer.seal(&long).unwrap().len());
        assert_ne!(words, sealer.seal(&short).unwrap());
    }
}
