//! How a verification goes: ended, gone on with, slowly, alone.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::Duration;

use serde_json::json;

use super::super::{folder, noise};
use super::*;
use crate::error::{Error, Result};
use crate::oci::{Algorithm, Digest, Manifest, MediaType};
use crate::store::sled::verify::Time;
use crate::store::sled::{Inline, Options, Progress, Sled, SnapshotOptions, VerifyOptions, VerifyReport};
use crate::store::{Push, PutManifest, References};

/// Verifies by a clock of its own, until `go_on` has had enough: it is asked at each piece and each page.
fn verify_until(
    store: &Sled,
    options: VerifyOptions,
    mut go_on: impl FnMut(&Progress) -> bool,
) -> Result<VerifyReport> {
    // So slow that it tells of each piece.
    store.verify_in(&options.rate(1), &mut Waiting::default(), &mut |progress| {
        if go_on(progress) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })
}

fn interrupted(outcome: &Result<VerifyReport>) -> bool {
    matches!(outcome, Err(Error::Interrupted(_)))
}

#[test]
fn a_verification_that_was_ended_goes_on_where_it_stood() {
    let folder = folder();
    let store = open(&folder, Inline::UpTo(0));
    let digests: BTreeSet<Digest> = (0..30).map(|n| push(&store, "a", &noise(50_000, n + 1))).collect();
    let bad: Vec<Digest> = digests.iter().copied().step_by(10).collect();
    for digest in &bad {
        flip(&store, &owned_blob(&store, digest), 1);
    }
    drop(store);
    for round in 0..3 {
        // As a kill would: nothing is kept but what is in the folder.
        let store = open(&folder, Inline::UpTo(0));
        // In the middle of the seventh it has had enough.
        let ended = verify_until(&store, VerifyOptions::new(), |progress| {
            assert_eq!(progress.of, Some(30 * 50_000));
            progress.done < 7 * 50_000
        });
        assert!(interrupted(&ended), "round {round}");
    }
    let store = open(&folder, Inline::UpTo(0));
    let report = verify(&store);
    // Six were read in each round; of the other twelve one is bad.
    assert_eq!((report.resumed, report.blobs.ok), (true, 11), "{report}");
    let found: Vec<Digest> = report.bad.iter().map(|bad| bad.digest).collect();
    assert_eq!(found, bad, "all are reported, whoever found them");
    assert_eq!((verify(&store).resumed, verify(&store).blobs.ok), (false, 27));

    assert!(interrupted(&verify_until(&store, VerifyOptions::new(), |_| false)));
    let report = verify(&store);
    assert_eq!((report.resumed, report.blobs.ok), (false, 27), "what had read nothing goes on nowhere");
    assert!(interrupted(&verify_until(&store, VerifyOptions::new(), |progress| progress.done < 500_000)));
    let report = verify_with(&store, &VerifyOptions::new().restart(true));
    assert_eq!((report.resumed, report.blobs.ok), (false, 27));
}

#[test]
fn one_that_was_ended_among_the_records_does_not_read_again() {
    let folder = folder();
    let store = open(&folder, Inline::default());
    scene(&store);
    let ended =
        verify_until(&store, VerifyOptions::new(), |progress| progress.doing != "comparing references");
    assert!(interrupted(&ended));
    let report = verify(&store);
    assert_eq!((report.resumed, report.blobs.ok, report.is_well()), (true, 0, true));
    assert_eq!(verify(&store).blobs.ok, 5);
}

#[test]
fn a_copy_of_a_store_is_verified_from_the_beginning() {
    let folder = folder();
    let store = open(&folder, Inline::UpTo(0));
    scene(&store);
    let ended =
        verify_until(&store, VerifyOptions::new(), |progress| progress.doing != "comparing references");
    assert!(interrupted(&ended));
    let target = tempfile::tempdir().unwrap();
    let copy = target.path().join("copy");
    store.snapshot(&copy, &SnapshotOptions::new(), &mut |_| ControlFlow::Continue(())).unwrap();
    let copy = Options::new().reserve(1 << 20).open(&copy).unwrap();
    let report = verify(&copy);
    assert_eq!((report.resumed, report.blobs.ok, report.is_well()), (false, 5, true), "{report}");
    assert!(verify(&store).resumed);
}

#[test]
fn two_verifications_at_once_are_refused() {
    let folder = folder();
    let store = open(&folder, Inline::default());
    scene(&store);
    let mut refused = 0;
    let report = store.verify(&VerifyOptions::new(), &mut |_| {
        let second = store.verify(&VerifyOptions::new(), &mut |_| ControlFlow::Continue(()));
        refused += usize::from(second.is_err());
        ControlFlow::Continue(())
    });
    assert!(report.unwrap().is_well() && refused > 0);
    assert!(verify(&store).is_well());
}

/// A clock that goes only while somebody waits.
#[derive(Default)]
struct Waiting(Duration);

impl Time for Waiting {
    fn now(&self) -> Duration {
        self.0
    }

    fn sleep(&mut self, time: Duration) {
        self.0 += time;
    }
}

#[test]
fn content_is_read_no_faster_than_is_wanted() {
    let folder = folder();
    let store = open(&folder, Inline::default());
    push(&store, "a", &noise(3 << 20, 1));
    push(&store, "a", &noise(1 << 20, 2));
    let mut time = Waiting::default();
    let options = VerifyOptions::new().rate(1 << 18);
    let report = store.verify_in(&options, &mut time, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(report.is_well());
    assert_eq!(time.0, Duration::from_secs(16));
}

#[test]
fn references_of_more_manifests_than_a_page_holds_are_compared() {
    let folder = folder();
    let store = open(&folder, Inline::Everything);
    for n in 0..600 {
        let document = json!({ "schemaVersion": 2, "manifests": [pointer(&Algorithm::Sha256.digest(&[1]))],
            "annotations": { "n": n.to_string() } });
        let manifest =
            Manifest::new(MediaType::OCI_INDEX.parse().unwrap(), document.to_string().into_bytes());
        let put = PutManifest::new().references(References::MayBeAbsent);
        store.put_manifest(&name("a"), &manifest, &put).unwrap();
    }
    let report = verify(&store);
    assert!(report.is_well(), "{report}");
}
