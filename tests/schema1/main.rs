//! Signed manifests: documents that docker's own library has signed (see `sign.go`), and what can be wrong with one.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test stops at the first surprise, and says where it was"
)]

use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sledge::oci::{
    Algorithm, BlobSum, Manifest, MediaType, Signature, SignatureError, SignedManifest, SignedManifestError,
    SignedManifestFault, TarSum, TarSumAlgorithm, TarSumVersion,
};
use sledge::registry::{Registry, Repository};
use sledge::store::UploadOptions;
use sledge::store::memory::Memory;
use sledge::store::sled::{CollectOptions, Sled, Untagged};
use sledge::{Error, Result};

const PAYLOAD: &[u8] = include_bytes!("signed/payload.json");

/// The documents, by who signed them.
const SIGNED: [(&str, &[u8]); 11] = [
    ("es256", include_bytes!("signed/es256.json")),
    ("es384", include_bytes!("signed/es384.json")),
    ("es512", include_bytes!("signed/es512.json")),
    ("rs256", include_bytes!("signed/rs256.json")),
    ("rs384", include_bytes!("signed/rs384.json")),
    ("rs512", include_bytes!("signed/rs512.json")),
    ("chain-es256", include_bytes!("signed/chain-es256.json")),
    ("chain-es384", include_bytes!("signed/chain-es384.json")),
    ("chain-es512", include_bytes!("signed/chain-es512.json")),
    ("chain-rs256", include_bytes!("signed/chain-rs256.json")),
    ("two", include_bytes!("signed/two.json")),
];

fn document(name: &str) -> &'static [u8] {
    SIGNED.iter().find(|(known, _)| *known == name).unwrap().1
}

fn parse(document: &[u8]) -> SignedManifest {
    SignedManifest::parse(document).unwrap()
}

/// The signatures of a document, as JSON.
fn signatures(document: &[u8]) -> Vec<Value> {
    let document: Value = serde_json::from_slice(document).unwrap();
    document["signatures"].as_array().unwrap().clone()
}

/// A document of the payload and any signatures.
fn with(signatures: &Value) -> Vec<u8> {
    let head = std::str::from_utf8(&PAYLOAD[..PAYLOAD.len() - 2]).unwrap();
    format!("{head},\n\"signatures\": {signatures}\n}}").into_bytes()
}

/// The same with the one signature of a fixture, after a change.
fn changed(name: &str, change: impl Fn(&mut Value)) -> Vec<u8> {
    let mut signature = signatures(document(name)).remove(0);
    change(&mut signature);
    with(&json!([signature]))
}

fn encode(protected: &Value) -> Value {
    URL_SAFE_NO_PAD.encode(protected.to_string()).into()
}

#[test]
fn what_docker_signed_is_verified_by_each_algorithm_and_kind_of_key() {
    for (name, document) in SIGNED {
        let signed = parse(document);
        assert_eq!(signed.verify(), [], "{name}");
        assert_eq!(signed.manifest().bytes().as_ref(), PAYLOAD, "{name}");
        assert_eq!(signed.manifest().digest(), &Algorithm::Sha256.digest(PAYLOAD));
        assert_eq!(signed.manifest().media_type().as_str(), MediaType::DOCKER_SCHEMA1);
        let image = signed.image();
        assert_eq!(
            (image.name.as_str(), image.tag.as_str(), &*image.architecture),
            ("library/hello", "1.0", "amd64")
        );
        let layers: Vec<_> = image.layers.iter().map(|layer| layer.blob_sum.clone()).collect();
        assert_eq!(
            layers,
            [b"layer 1", b"layer 0"].map(|layer| BlobSum::Digest(Algorithm::Sha256.digest(layer)))
        );
        assert!(image.layers[1].v1_compatibility.contains("\"created\":\"2014-04-07T02:45:50Z\""));
        for signature in signed.signatures() {
            // What Go wrote as the key's id.
            let block: Value = serde_json::from_str(signature.as_str()).unwrap();
            if let Some(id) = block["header"]["jwk"]["kid"].as_str() {
                assert_eq!(signature.key_id(), Some(id));
            }
        }
    }
    assert_eq!(parse(document("two")).signatures().len(), 2);
    let ids = ["es256", "chain-es256"]
        .map(|name| parse(document(name)).signatures().next().unwrap().key_id().map(str::to_owned));
    assert_eq!(ids[0], ids[1], "a key and its certificate have one id");
}

/// Whichever bit of a document is flipped, what is verified of it is what was signed, or nothing is.
#[test]
fn a_flipped_bit_is_refused_wherever_it_counts() {
    for (name, document) in SIGNED {
        let signed = parse(document);
        // Where a document is verified all the same, the bit was in what nobody signs and nobody reads.
        let mut spared = 0;
        for at in 0..document.len() {
            // Most keys take their time.
            let bits = if *name == *"es256" { 0..8 } else { at % 8..at % 8 + 1 };
            for bit in bits {
                let mut flipped = document.to_vec();
                flipped[at] ^= 1 << bit;
                let Ok(found) = SignedManifest::parse(&flipped) else { continue };
                if !found.verify().is_empty() {
                    continue;
                }
                spared += 1;
                assert_eq!(found.manifest(), signed.manifest(), "{name}: bit {bit} of byte {at}");
                assert_eq!(found.image(), signed.image());
                assert!(at >= PAYLOAD.len() - 2, "{name}: bit {bit} of byte {at} of the payload");
            }
        }
        println!("{name}: {spared} bits of {} bytes say nothing", document.len());
    }
}

#[test]
fn a_flipped_bit_of_each_part_is_refused() {
    for (name, _) in SIGNED.iter().filter(|(name, _)| *name != "two") {
        let flip = |value: &mut Value| {
            let text = value.as_str().unwrap();
            let mut bytes = URL_SAFE_NO_PAD.decode(text).unwrap();
            let at = bytes.len() / 2;
            bytes[at] ^= 1;
            *value = URL_SAFE_NO_PAD.encode(bytes).into();
        };
        let signature = SignedManifest::parse(&changed(name, |block| flip(&mut block["signature"]))).unwrap();
        assert!(
            matches!(signature.verify()[..], [SignatureError::Invalid(_)]),
            "{name}: {:?}",
            signature.verify()
        );
        // The time, which nobody reads.
        let protected = changed(name, |block| {
            let bytes = URL_SAFE_NO_PAD.decode(block["protected"].as_str().unwrap()).unwrap();
            let mut protected: Value = serde_json::from_slice(&bytes).unwrap();
            protected["time"] = "2014-01-01T00:00:00Z".into();
            block["protected"] = encode(&protected);
        });
        assert!(matches!(parse(&protected).verify()[..], [SignatureError::Invalid(_)]), "{name}");
        if !name.starts_with("chain") {
            let member = if name.starts_with("rs") { "n" } else { "x" };
            let with_id = changed(name, |block| flip(&mut block["header"]["jwk"][member]));
            assert!(matches!(parse(&with_id).verify()[..], [SignatureError::KeyId { .. }]), "{name}");
            let without = changed(name, |block| {
                flip(&mut block["header"]["jwk"][member]);
                block["header"]["jwk"].as_object_mut().unwrap().remove("kid");
            });
            assert!(matches!(parse(&without).verify()[..], [SignatureError::Invalid(_)]), "{name}");
        }
        let mut payload = document(name).to_vec();
        let at = payload.windows(5).position(|window| window == b"amd64").unwrap();
        payload[at] ^= 1;
        assert!(matches!(parse(&payload).verify()[..], [SignatureError::Invalid(_)]), "{name}");
    }
}

#[test]
fn fields_come_from_what_was_signed() {
    // What stands behind it in the document is nobody's word.
    let head = std::str::from_utf8(&PAYLOAD[..PAYLOAD.len() - 2]).unwrap();
    let blocks = Value::from(signatures(document("es256")));
    let added = format!("{head},\"platform\":\"evil\",\"signatures\":{blocks},\"more\":[1]}}");
    let signed = parse(added.as_bytes());
    assert_eq!(signed.verify(), []);
    assert_eq!(signed.manifest().bytes().as_ref(), PAYLOAD);
    assert!(!String::from_utf8(signed.to_bytes()).unwrap().contains("evil"));
    // Fields that stand twice are not read in any way.
    for field in ["name", "NAME", "tag", "fsLayers", "fslayers", "signatures", "\\u006eame"] {
        let twice = format!("{head},\"{field}\":\"evil\",\"signatures\":{blocks}}}");
        let error = SignedManifest::parse(twice.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("stands twice in one object"), "{field}: {error}");
    }
    // Nor is a document whose own fields are others than those that are signed: here the tail brings them.
    let payload = std::str::from_utf8(PAYLOAD).unwrap();
    let protected = json!({ "formatLength": 0, "formatTail": URL_SAFE_NO_PAD.encode(payload) });
    let block =
        json!({ "header": { "alg": "ES256", "jwk": {} }, "signature": "", "protected": encode(&protected) });
    let other = format!("{{\"schemaVersion\":1,\"name\":\"evil\",\"signatures\":[{block}]}}");
    assert_eq!(SignedManifest::parse(other.as_bytes()), Err(SignedManifestError::NoPlace));
}

#[test]
fn a_document_that_cannot_be_read_says_why() {
    let length = PAYLOAD.len() - 2;
    let protected = |length: Value, tail: &str| {
        let protected = json!({ "formatLength": length, "formatTail": tail });
        changed("es256", |block| block["protected"] = encode(&protected))
    };
    let block = signatures(document("es256")).remove(0);
    let mut other = block.clone();
    other["protected"] = encode(&json!({ "formatLength": length - 1, "formatTail": "Cn0" }));
    let set = |path: &'static str, value: Value| {
        changed("es256", |block| *block.pointer_mut(path).unwrap() = value.clone())
    };
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (protected(json!(1 << 20), "Cn0"), "formatLength is 1048576, and the document has"),
        (protected(json!(-1), "Cn0"), "signatures[0]: protected: invalid value: integer `-1`, expected u64"),
        (protected(json!(1.5), "Cn0"), "signatures[0]: protected: invalid type: floating point"),
        (protected(json!("1"), "Cn0"), "signatures[0]: protected: invalid type: string"),
        (protected(json!(length), "!"), "signatures[0]: formatTail is no base64url"),
        (protected(json!(length - 1), "Cn0"), "the manifest cannot be read"),
        (protected(json!(length), "fQ"), ""),
        (protected(json!(length), "LCJzaWduYXR1cmVzIjpbXX0"), "leaves no place for its signatures"),
        (protected(json!(length), "LCJuYW1lIjoieCJ9"), "the key \"name\" stands twice in one object"),
        (set("/protected", json!("e30")), "signatures[0]: protected: missing field `formatLength`"),
        (
            set("/protected", json!("W10")),
            "signatures[0]: protected: invalid type: sequence, expected an object",
        ),
        (set("/protected", json!("+")), "signatures[0]: protected is no base64url"),
        (set("/signature", json!("=")), "signatures[0]: signature is no base64url"),
        (set("/signature", json!(1)), "invalid type: integer `1`, expected a string"),
        (set("/header", json!([])), "invalid type: sequence"),
        (with(&json!([block, other])), "signatures[1] signs other bytes than the first"),
        (with(&json!([])), "this one is not: it has no \"signatures\""),
        (with(&json!(null)), "this one is not: it has no \"signatures\""),
        (with(&json!({})), "invalid type: map, expected a sequence"),
        (with(&json!([null])), "invalid type: null, expected an object"),
        (with(&Value::from(vec![block.clone(); 33])), "at most 32 signatures, this one has 33"),
        (with(&Value::from(vec![block.clone(); 5000])), "at most 32 signatures, this one has 5000"),
        (PAYLOAD.to_vec(), "it has no \"signatures\""),
        (b"".to_vec(), "cannot be read"),
        (b"[]".to_vec(), "invalid type: sequence, expected an object"),
        ("[".repeat(1_000_000).into_bytes(), "recursion limit exceeded"),
        (vec![b' '; (4 << 20) + 1], "a manifest has at most"),
    ];
    for (document, expected) in cases {
        let shown = String::from_utf8_lossy(&document[document.len().saturating_sub(300)..]).into_owned();
        match SignedManifest::parse(&document) {
            // Another tail is another payload, that nobody has signed.
            Ok(signed) => assert!(expected.is_empty() && signed.verify().len() == 1, "{shown}"),
            Err(error) => {
                let error = error.to_string();
                assert!(!expected.is_empty() && error.contains(expected), "{shown}\n{error}");
                assert!(error.len() < 400, "{error}");
            }
        }
    }
}

#[test]
fn a_payload_that_is_no_image_says_why() {
    // No key is needed to be wrong.
    let of = |patch: &Value| {
        let mut payload: Value = serde_json::from_slice(PAYLOAD).unwrap();
        for (key, value) in patch.as_object().unwrap() {
            payload[key] = value.clone();
        }
        let text = payload.to_string();
        let protected = json!({ "formatLength": text.len() - 1, "formatTail": "fQ" });
        let block = json!({ "header": { "alg": "ES256" }, "signature": "", "protected": encode(&protected) });
        let document = format!("{},\"signatures\":[{block}]}}", &text[..text.len() - 1]);
        SignedManifest::parse(document.as_bytes()).map(|_| ()).map_err(|error| error.to_string())
    };
    let layer = json!({ "blobSum": Algorithm::Sha256.digest(b"") });
    of(&json!({ "unknown": { "a": [1, 2] } })).unwrap();
    let cases = [
        (json!({ "schemaVersion": 2 }), "schemaVersion must be 1, found 2"),
        (json!({ "schemaVersion": null }), "schemaVersion must be 1, found none"),
        (json!({ "name": "Not a name" }), "\"Not a name\""),
        (json!({ "tag": "-" }), "\"-\""),
        (json!({ "fsLayers": [] }), "one length, and not none: found 0 and 2"),
        (json!({ "fsLayers": [], "history": [] }), "one length, and not none: found 0 and 0"),
        (json!({ "fsLayers": [layer] }), "one length, and not none: found 1 and 2"),
        (
            json!({ "fsLayers": [layer, { "blobSum": "tarsum.v1+sha256:00" }] }),
            "fsLayers[1]: \"tarsum.v1+sha256:00\" is not a TarSum",
        ),
        (json!({ "fsLayers": [layer, [layer]] }), "invalid type: sequence, expected an object"),
        (json!({ "history": [{}, {}] }), "missing field `v1Compatibility`"),
    ];
    for (patch, expected) in cases {
        let error = of(&patch).unwrap_err();
        assert!(error.contains(expected), "{patch}: {error}");
    }
}

#[test]
fn a_key_that_does_not_fit_says_why() {
    let one = |document: Vec<u8>| {
        let errors = parse(&document).verify();
        assert_eq!(errors.len(), 1);
        errors[0].to_string()
    };
    let es256 = |path: &'static str, value: Value| {
        one(changed("es256", |block| {
            if let Some(found) = block.pointer_mut(path) {
                *found = value.clone();
            } else {
                let (parent, name) = path.rsplit_once('/').unwrap();
                block.pointer_mut(parent).unwrap()[name] = value.clone();
            }
        }))
    };
    for named in ["none", "NONE", "", "ES384", "ES512", "RS256", "HS256", "es256", "PS256", "EdDSA"] {
        let error = es256("/header/alg", named.into());
        assert_eq!(error, format!("algorithm {named:?} does not fit the key, P-256 (ES256)"));
    }
    for named in ["none", "ES256", "PS256", "HS256"] {
        let error = one(changed("rs256", |block| block["header"]["alg"] = named.into()));
        assert_eq!(error, format!("algorithm {named:?} does not fit the key, RSA (RS256, RS384, RS512)"));
    }
    // The key's own signature by another of its hashes.
    for [name, other] in [["rs256", "RS384"], ["rs384", "RS512"], ["rs512", "RS256"]] {
        let error = one(changed(name, |block| block["header"]["alg"] = other.into()));
        assert!(error.ends_with("has not signed this"), "{error}");
    }
    let cases = [
        ("/header/jwk", json!({}), "jwk: missing field `kty`"),
        ("/header/jwk", json!("x"), "jwk: invalid type"),
        ("/header/jwk", json!(["EC", null, "P-256", "", ""]), "jwk: invalid type: sequence"),
        ("/header/jwk/kty", json!("oct"), "jwk: kty \"oct\" is neither EC nor RSA"),
        ("/header/jwk/crv", json!("secp256k1"), "jwk: crv is none of P-256, P-384 and P-521"),
        ("/header/jwk/x", json!("AAAA"), "jwk: x and y have 32 bytes each"),
        ("/header/jwk/x", json!("*"), "jwk: x is no base64url"),
        ("/header/jwk/kid", json!("ABCD"), "the key says that it is ABCD, and is "),
        ("/header/x5c", json!([]), "there is a jwk and an x5c: one of them"),
    ];
    for (path, value, expected) in cases {
        let error = es256(path, value);
        assert!(error.starts_with(expected), "{error}");
    }
    let rsa = |n: &[u8], e: &[u8]| {
        one(changed("rs256", |block| {
            block["header"]["jwk"] =
                json!({ "kty": "RSA", "n": URL_SAFE_NO_PAD.encode(n), "e": URL_SAFE_NO_PAD.encode(e) });
        }))
    };
    let size = "an RSA key has 2048 to 8192 bits, and an exponent of up to 32";
    for (n, e) in [
        (vec![0x80; 128], vec![3]),
        (vec![0x80; 1025], vec![3]),
        (vec![0; 256], vec![3]),
        (vec![0x80; 256], vec![1; 5]),
        (vec![0x80; 256], vec![]),
    ] {
        assert_eq!(rsa(&n, &e), size);
    }
    assert!(rsa(&[0x80; 256], &[3]).ends_with("has not signed this"));
    let chain = |chain: Value| {
        one(changed("es256", |block| block["header"] = json!({ "alg": "ES256", "x5c": chain })))
    };
    assert_eq!(chain(json!([])), "x5c has 1 to 10 certificates, found 0");
    assert_eq!(chain(json!(vec![""; 11])), "x5c has 1 to 10 certificates, found 11");
    assert_eq!(chain(json!(["*"])), "x5c[0] is no base64");
    assert_eq!(chain(json!(["MAA="])), "x5c[0] is no certificate");
    assert_eq!(
        one(changed("es256", |block| block["header"] = json!({ "alg": "ES256" }))),
        "there is neither a jwk nor an x5c"
    );
}

/// Runs a test over a registry of each kind.
fn each_registry(test: impl Fn(&Registry) -> Result<()>) {
    let folder = tempfile::tempdir().unwrap();
    for registry in [Registry::over(Memory::new()), Registry::over(Sled::open(folder.path()).unwrap())] {
        test(&registry).unwrap();
    }
}

/// The same with the repository that the fixtures were signed for.
fn each(test: impl Fn(&Repository) -> Result<()>) {
    each_registry(|registry| test(&registry.repository("library/hello")?));
}

fn push_layers(repository: &Repository) -> Result<()> {
    for layer in [b"layer 0", b"layer 1"] {
        repository.layers().put(layer)?;
    }
    Ok(())
}

#[test]
fn it_tags_itself_and_comes_back_with_its_signatures() {
    each(|repository| {
        push_layers(repository)?;
        let signed = parse(document("es384"));
        let digest = repository.manifests().put_signed(&signed)?;
        assert_eq!(digest, Algorithm::Sha256.digest(PAYLOAD));
        for reference in ["1.0".to_owned(), digest.to_string()] {
            assert_eq!(repository.manifests().get(reference.parse()?)?.bytes().as_ref(), PAYLOAD);
            assert_eq!(repository.manifests().get_signed(reference.parse()?)?, Some(signed.clone()));
        }
        // What it references is held to be there.
        let references = repository.manifests().get("1.0".parse()?)?.contents()?.references;
        assert_eq!(references.len(), 2);
        Ok(())
    });
}

#[test]
fn signatures_of_several_signers_are_merged_in_a_stable_order() {
    let mut names = ["rs256", "es512", "es256", "chain-es384", "rs256"];
    let mut documents = Vec::new();
    for _ in 0..2 {
        names.reverse();
        each(|repository| {
            push_layers(repository)?;
            for name in names {
                repository.manifests().put_signed(&parse(document(name)))?;
            }
            let merged = repository.manifests().get_signed("1.0".parse()?)?.unwrap();
            assert_eq!(merged.signatures().len(), 4, "one of them came twice");
            assert!(merged.signatures().map(Signature::key_id).is_sorted());
            assert_eq!(parse(&merged.to_bytes()), merged);
            assert_eq!(merged.verify(), []);
            Ok(())
        });
        let signatures =
            names.iter().flat_map(|name| parse(document(name)).signatures().cloned().collect::<Vec<_>>());
        let manifest = Manifest::new(MediaType::DOCKER_SCHEMA1.parse().unwrap(), PAYLOAD);
        documents.push(SignedManifest::assemble(manifest, signatures).unwrap().to_bytes());
    }
    assert_eq!(documents[0], documents[1]);
}

#[test]
fn all_that_is_wrong_is_told_at_once_and_nothing_is_stored() {
    each_registry(|registry| {
        let (repository, elsewhere) = (registry.repository("library/hello")?, registry.repository("other")?);
        repository.layers().put(b"layer 0")?;
        let (mut bad, good) =
            (signatures(document("es256")).remove(0), signatures(document("rs256")).remove(0));
        bad["header"]["alg"] = "none".into();
        let mut worse = signatures(document("es384")).remove(0);
        worse["signature"] = "".into();
        let signed = parse(&with(&json!([bad, good, worse])));
        for (place, name_is_wrong, absent) in [(&repository, false, 1), (&elsewhere, true, 2)] {
            let Err(Error::SignedManifestRefused { faults, missing }) = place.manifests().put_signed(&signed)
            else {
                panic!("it was not refused");
            };
            assert_eq!(missing.len(), absent);
            let names =
                faults.iter().filter(|fault| matches!(fault, SignedManifestFault::Name { .. })).count();
            assert_eq!(names == 1, name_is_wrong);
            let signatures =
                faults.iter().filter(|fault| matches!(fault, SignedManifestFault::Signature(_))).count();
            assert_eq!(signatures, 2, "{faults:?}");
        }
        let digest = *signed.manifest().digest();
        assert!(!repository.manifests().exists("1.0".parse()?)?);
        assert!(!repository.manifests().exists(digest.into())?);
        assert_eq!(repository.manifests().all().count(), 0);
        assert_eq!(repository.manifests().referrers(&digest, None).count(), 0);
        Ok(())
    });
}

#[test]
fn what_anybody_puts_beside_it_is_no_signature() {
    each(|repository| {
        push_layers(repository)?;
        let signed = parse(document("es256"));
        let digest = repository.manifests().put_signed(&signed)?;
        let found: Vec<_> = repository.manifests().referrers(&digest, None).collect::<Result<_>>()?;
        let [one] = &found[..] else { panic!("{found:?}") };
        let (annotation, text) = one.annotations.iter().next().unwrap();
        // Of other bytes, in another form, damaged, and no signature at all.
        let mut other: Value = serde_json::from_str(text).unwrap();
        other["protected"] = encode(&json!({ "formatLength": 1, "formatTail": "" }));
        for forged in [other.to_string(), text.replace("ES256", "none"), "{}".to_owned(), String::new()] {
            let index = json!({
                "schemaVersion": 2, "artifactType": one.artifact_type, "manifests": [],
                "subject": signed.manifest().descriptor(), "annotations": { annotation: forged },
            });
            let index = Manifest::new(MediaType::OCI_INDEX.parse()?, index.to_string().into_bytes());
            repository.manifests().put(&index, &[])?;
        }
        assert_eq!(repository.manifests().referrers(&digest, None).count(), 5);
        assert_eq!(repository.manifests().get_signed(digest.into())?, Some(signed));
        // Without any that holds there is none.
        repository.manifests().delete(&one.digest)?;
        assert_eq!(repository.manifests().get_signed(digest.into())?, None);
        Ok(())
    });
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A tar of one file.
fn tar(name: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(name.len() as u64);
    builder.append_data(&mut header, name, name.as_bytes()).unwrap();
    builder.into_inner().unwrap()
}

/// An unsigned image of these layers, the newest first, with what its history says of each.
fn unsigned(layers: &[(&[u8], Value)]) -> Manifest {
    let payload = json!({
        "schemaVersion": 1, "name": "library/hello", "tag": "old", "architecture": "arm64",
        "fsLayers": layers.iter().map(|(layer, _)| json!({ "blobSum": Algorithm::Sha256.digest(layer) })).collect::<Vec<_>>(),
        "history": layers.iter().map(|(_, said)| json!({ "v1Compatibility": said.to_string() })).collect::<Vec<_>>(),
    });
    Manifest::new(MediaType::DOCKER_SCHEMA1.parse().unwrap(), payload.to_string().into_bytes())
}

fn json_of(repository: &Repository, digest: &str) -> Value {
    let mut bytes = Vec::new();
    repository.layers().fetch(&digest.parse().unwrap()).unwrap().read_to_end(&mut bytes).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

#[test]
fn an_old_image_is_converted_to_an_oci_image_beside_it() {
    let (first, second) = (tar("first"), tar("second"));
    let (nothing, second_packed) = (packed(&[0; 1024]), packed(&second));
    let old = unsigned(&[
        (
            &nothing,
            json!({
                "id": "4", "parent": "3", "created": "2015-01-04T00:00:00Z", "throwaway": true, "os": "linux", "Size": 0,
                "docker_version": "1.9.1", "architecture": "amd64", "author": "somebody", "container": "c",
                "config": { "Cmd": ["/bin/sh"], "Env": ["A=b"], "Volumes": null, "Entrypoint": null },
                "container_config": { "Cmd": ["/bin/sh", "-c", "#(nop) CMD [\"/bin/sh\"]"] },
            }),
        ),
        (&second_packed, json!({ "id": "3", "created": "2015-01-03T00:00:00Z", "comment": "a comment" })),
        // As docker before 1.10 wrote it: nothing says that there is nothing in it.
        (&nothing, json!({ "id": "2", "container_config": { "Cmd": null }, "author": "" })),
        (&first, json!({ "id": "1", "container_config": { "Cmd": ["a", "b"] } })),
    ]);
    each(|repository| {
        let manifests = repository.manifests();
        for layer in [&nothing, &second_packed, &first] {
            repository.layers().put(layer)?;
        }
        manifests.put(&old, &["old".parse()?])?;
        let digest = manifests.convert("old".parse()?, &"new".parse()?)?;
        assert_eq!(
            manifests.convert((*old.digest()).into(), &"new".parse()?)?,
            digest,
            "again, and to the same"
        );

        let new = manifests.get("new".parse()?)?;
        assert_eq!((new.digest(), new.media_type().as_str()), (&digest, MediaType::OCI_MANIFEST));
        let document: Value = serde_json::from_slice(new.bytes()).unwrap();
        let layers = json!([
            { "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": Algorithm::Sha256.digest(&first), "size": first.len() },
            { "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": Algorithm::Sha256.digest(&second_packed), "size": second_packed.len() },
        ]);
        assert_eq!(document["layers"], layers);
        assert_eq!(document["config"]["mediaType"], "application/vnd.oci.image.config.v1+json");
        let config = json_of(repository, document["config"]["digest"].as_str().unwrap());
        let expected = json!({
            "created": "2015-01-04T00:00:00Z", "author": "somebody", "architecture": "amd64", "os": "linux",
            "config": { "Cmd": ["/bin/sh"], "Env": ["A=b"] },
            "rootfs": { "type": "layers", "diff_ids": [Algorithm::Sha256.digest(&first), Algorithm::Sha256.digest(&second)] },
            "history": [
                { "created_by": "a b" },
                { "empty_layer": true },
                { "created": "2015-01-03T00:00:00Z", "comment": "a comment" },
                { "created": "2015-01-04T00:00:00Z", "author": "somebody", "created_by": "/bin/sh -c #(nop) CMD [\"/bin/sh\"]", "empty_layer": true },
            ],
        });
        assert_eq!(config, expected);

        // The old one is as it was, and no tag is taken from anything.
        assert_eq!(manifests.get("old".parse()?)?, old);
        assert!(matches!(
            manifests.convert("old".parse()?, &"old".parse()?),
            Err(Error::TagCondition { .. })
        ));
        assert!(matches!(manifests.convert("new".parse()?, &"newer".parse()?), Err(Error::Unsupported(_))));
        assert!(matches!(
            manifests.convert("absent".parse()?, &"x".parse()?),
            Err(Error::ManifestUnknown { .. })
        ));
        Ok(())
    });
}

#[test]
fn an_image_that_cannot_be_converted_says_why() {
    let layer = packed(&tar("x"));
    let cases: [(&[u8], Value, &str); 4] = [
        (&layer, json!("no object"), "history[0].v1Compatibility cannot be read: invalid type: string"),
        (&layer, json!({ "created": 1 }), "history[0].v1Compatibility cannot be read: invalid type: integer"),
        (&layer[..layer.len() - 10], json!({}), "unpacking layer sha256:"),
        (b"\x1f\x8bnot gzip", json!({}), "unpacking layer sha256:"),
    ];
    each(|repository| {
        for (layer, said, expected) in &cases {
            repository.layers().put(layer)?;
            let old = unsigned(&[(layer, said.clone())]);
            repository.manifests().put(&old, &["old".parse()?])?;
            let error =
                repository.manifests().convert("old".parse()?, &"new".parse()?).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
            assert!(!repository.manifests().exists("new".parse()?)?);
        }
        Ok(())
    });
}

/// Signatures, and names by TarSums, are kept by what they belong to and go with it.
#[test]
fn signatures_are_collected_with_their_manifest() {
    let folder = tempfile::tempdir().unwrap();
    let store = Sled::open(folder.path()).unwrap();
    let repository = Registry::over(store.clone()).repository("library/hello").unwrap();
    let collect = || {
        let options =
            CollectOptions::new().grace(Duration::ZERO).untagged(Untagged::DeleteAfter(Duration::ZERO));
        store.collect(&options, &mut |_| ControlFlow::Continue(())).unwrap()
    };
    push_layers(&repository).unwrap();
    let signed = parse(document("two"));
    let digest = repository.manifests().put_signed(&signed).unwrap();
    collect();
    assert_eq!(repository.manifests().get_signed("1.0".parse().unwrap()).unwrap(), Some(signed));
    assert_eq!(repository.manifests().all().count(), 3);
    repository.manifests().delete(&digest).unwrap();
    collect();
    assert_eq!(repository.manifests().referrers(&digest, None).count(), 0);
    assert!(!repository.layers().exists(&Algorithm::Sha256.digest(b"layer 0")).unwrap());
}

/// Manifests that are older still name their layers by TarSums.
#[test]
fn layers_may_be_named_by_tarsums() {
    let layer = packed(&tar("a file"));
    let tar_sum = TarSum::of(TarSumVersion::V1, TarSumAlgorithm::Sha256, &layer[..]).unwrap();
    let payload = json!({
        "schemaVersion": 1, "name": "library/hello", "tag": "old", "architecture": "amd64",
        "fsLayers": [{ "blobSum": tar_sum.to_string() }, { "blobSum": tar_sum.to_string() }],
        "history": [{ "v1Compatibility": "{\"throwaway\":true}" }, { "v1Compatibility": "{}" }],
    })
    .to_string();
    // Nobody has signed this: what is absent is told beside that.
    let protected = json!({ "formatLength": payload.len() - 1, "formatTail": "fQ" });
    let block = json!({ "header": { "alg": "ES256" }, "signature": "", "protected": encode(&protected) });
    let signed = parse(format!("{},\"signatures\":[{block}]}}", &payload[..payload.len() - 1]).as_bytes());
    let manifest = signed.manifest();
    each(|repository| {
        let layers_missing = || match repository.manifests().put_signed(&signed) {
            Err(Error::SignedManifestRefused { faults, missing }) if missing.is_empty() => faults
                .iter()
                .filter(|fault| matches!(fault, SignedManifestFault::Layer { at: 0, .. }))
                .count(),
            other => unreachable!("{other:?}"),
        };
        assert_eq!(layers_missing(), 1);
        let mut upload = repository.layers().upload(&UploadOptions::new())?;
        upload.write_all(&layer).unwrap();
        let stat = repository.layers().finish_as(upload, &tar_sum)?;
        assert_eq!(layers_missing(), 0);

        repository.manifests().put(manifest, &["old".parse()?])?;
        assert_eq!(manifest.contents()?.references, []);
        let digest = repository.manifests().convert("old".parse()?, &"new".parse()?)?;
        let new: Value = serde_json::from_slice(repository.manifests().get(digest.into())?.bytes()).unwrap();
        assert_eq!(
            new["layers"],
            json!([{ "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": stat.digest, "size": stat.size }])
        );
        Ok(())
    });
}
