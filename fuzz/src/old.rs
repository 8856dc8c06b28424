//! Docker's old formats.

use std::io::Read;

use sledge::oci::{
    Algorithm, MediaType, Schema1Image, Signature, SignedManifest, TarSum, TarSumAlgorithm, TarSumVersion,
    UnpackedLayer,
};

/// A document that is read says nothing but what would be signed, and is written as one that is read alike.
pub fn signed(input: &[u8]) {
    if let Ok(text) = std::str::from_utf8(input)
        && let Ok(signature) = Signature::parse(text)
    {
        assert_eq!(Signature::parse(signature.as_str()).as_ref(), Ok(&signature));
    }
    if let Ok(image) = Schema1Image::parse(input) {
        let Ok(layer) = UnpackedLayer::read(input, Algorithm::Sha256.digest(input), input.len() as u64)
        else {
            return;
        };
        let layers = vec![layer; image.layers.len()];
        if let Ok(converted) = image.convert(&layers) {
            assert_eq!(image.convert(&layers).as_ref(), Ok(&converted));
            assert!(converted.manifest.contents().is_ok());
        }
    }
    let Ok(signed) = SignedManifest::parse(input) else { return };
    let manifest = signed.manifest();
    assert_eq!(manifest.media_type().as_str(), MediaType::DOCKER_SCHEMA1);
    assert_eq!(manifest.digest(), &Algorithm::Sha256.digest(manifest.bytes()));
    assert_eq!(Schema1Image::parse(manifest.bytes()).as_ref(), Ok(signed.image()));
    let errors = signed.verify();
    assert!(errors.len() <= signed.signatures().len());
    assert!(errors.iter().all(|error| error.to_string().len() < 2000));
    let document = signed.to_bytes();
    assert_eq!(SignedManifest::parse(&document).as_ref(), Ok(&signed));
    let signatures: Vec<Signature> = signed.signatures().rev().cloned().collect();
    assert_eq!(SignedManifest::assemble(manifest.clone(), signatures), Ok(signed));
}

/// Any bytes have a TarSum or are told why not, and packing does not change it.
pub fn tar_sum(input: &[u8]) {
    for (version, algorithm) in [
        (TarSumVersion::V0, TarSumAlgorithm::Md5),
        (TarSumVersion::V1, TarSumAlgorithm::Sha256),
        (TarSumVersion::Dev, TarSumAlgorithm::Sha512),
    ] {
        // However it comes.
        let found = TarSum::of(version, algorithm, input);
        match (&found, TarSum::of(version, algorithm, Trickling(input))) {
            (Ok(found), Ok(other)) => {
                assert_eq!(*found, other);
                assert_eq!(found.to_string().parse().as_ref(), Ok(found));
            }
            // Of damaged packing it is chance how much is unpacked before the damage is met.
            (Err(error), Err(_)) => assert!(error.to_string().len() < 2000),
            (found, other) => panic!("{found:?} and {other:?}"),
        }
    }
}

/// Comes in pieces that are no blocks.
struct Trickling<'a>(&'a [u8]);

impl Read for Trickling<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = buffer.len().min(self.0.len()).min(7);
        let (now, later) = self.0.split_at(count);
        buffer[..count].copy_from_slice(now);
        self.0 = later;
        Ok(count)
    }
}
