//! TarSums: the names that docker gave layers before digests, which do not depend on how a layer is packed.

#[cfg(feature = "schema1")]
mod archive;
#[cfg(feature = "schema1")]
mod header;
#[cfg(feature = "schema1")]
mod order;

use std::fmt;
use std::str::FromStr;

use super::digest::shorten;

#[cfg(feature = "schema1")]
pub use archive::TarSumError;

/// Which of a tar's headers are summed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum TarSumVersion {
    /// `tarsum`: with the times of the last changes, and without extended attributes.
    V0,
    /// `tarsum.v1`: without times, and with extended attributes.
    V1,
    /// `tarsum.dev`: as `V1`.
    Dev,
}

impl TarSumVersion {
    /// The name as it stands before the plus.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V0 => "tarsum",
            Self::V1 => "tarsum.v1",
            Self::Dev => "tarsum.dev",
        }
    }
}

/// The hash of a TarSum. MD5 and SHA-1 are broken: a layer that is named by one of them is what its pusher says it is, and no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the names say it")]
pub enum TarSumAlgorithm {
    Md5,
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

impl TarSumAlgorithm {
    const ALL: [Self; 6] = [Self::Md5, Self::Sha1, Self::Sha224, Self::Sha256, Self::Sha384, Self::Sha512];

    /// The name as it stands before the colon.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha224 => "sha224",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// The length of a hash in bytes; its hexadecimal form is twice as long.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha224 => 28,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }
}

/// The name of a layer by the headers and the contents of its tar: `tarsum.v1+sha256:<lower-case hexadecimal>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TarSum {
    version: TarSumVersion,
    algorithm: TarSumAlgorithm,
    hex: String,
}

impl TarSum {
    /// What is summed up.
    #[must_use]
    pub const fn version(&self) -> TarSumVersion {
        self.version
    }

    /// By which hash.
    #[must_use]
    pub const fn algorithm(&self) -> TarSumAlgorithm {
        self.algorithm
    }
}

impl fmt::Display for TarSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}:{}", self.version.as_str(), self.algorithm.as_str(), self.hex)
    }
}

impl FromStr for TarSum {
    type Err = TarSumNameError;

    fn from_str(text: &str) -> Result<Self, TarSumNameError> {
        let form = || TarSumNameError::Form(shorten(text));
        let (version, rest) = text.split_once('+').ok_or_else(form)?;
        let (algorithm, hex) = rest.split_once(':').ok_or_else(form)?;
        let versions = [TarSumVersion::V0, TarSumVersion::V1, TarSumVersion::Dev];
        let version = versions.into_iter().find(|known| known.as_str() == version);
        let version = version.ok_or_else(|| TarSumNameError::Version(shorten(text)))?;
        let algorithm = TarSumAlgorithm::ALL.into_iter().find(|known| known.as_str() == algorithm);
        let algorithm = algorithm.ok_or_else(|| TarSumNameError::Algorithm(shorten(text)))?;
        let is_hex = hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !is_hex || hex.len() != algorithm.size() * 2 {
            return Err(form());
        }
        Ok(Self { version, algorithm, hex: hex.to_owned() })
    }
}

/// Why a text is not a TarSum.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TarSumNameError {
    /// Not `<version>+<algorithm>:<lower-case hexadecimal>`, of the algorithm's length.
    #[error(
        "{0:?} is not a TarSum: it must be <version>+<algorithm>:<lower-case hex>, of the algorithm's length"
    )]
    Form(String),
    /// Of a version that there never was.
    #[error("{0:?} is a TarSum of no known version: they are tarsum, tarsum.v1 and tarsum.dev")]
    Version(String),
    /// By an algorithm that is not implemented.
    #[error("{0:?} is a TarSum by no known algorithm: they are md5, sha1, sha224, sha256, sha384 and sha512")]
    Algorithm(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_as_they_were() {
        for version in ["tarsum", "tarsum.v1", "tarsum.dev"] {
            for algorithm in TarSumAlgorithm::ALL {
                let text = format!("{version}+{}:{}", algorithm.as_str(), "0a".repeat(algorithm.size()));
                assert_eq!(text.parse::<TarSum>().unwrap().to_string(), text);
            }
        }
        let error = |text: &str| text.parse::<TarSum>().unwrap_err();
        for text in
            ["", "tarsum", "tarsum+sha256", "tarsum+md5:00", &format!("tarsum+md5:{}", "0A".repeat(16))]
        {
            assert!(matches!(error(text), TarSumNameError::Form(_)), "{text}");
        }
        let hex = "00".repeat(32);
        for version in ["tarsum.v2", "tarsum.", "TARSUM", "", "tarsumxv1"] {
            assert!(
                matches!(error(&format!("{version}+sha256:{hex}")), TarSumNameError::Version(_)),
                "{version}"
            );
        }
        assert!(matches!(error(&format!("tarsum+sha3:{hex}")), TarSumNameError::Algorithm(_)));
    }
}
