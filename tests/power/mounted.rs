//! A small filesystem that is really full: what the shim emulates elsewhere, the system itself does here.
//!
//! It is mounted in a namespace of the child's own, so that it goes with the child whatever becomes of that. Where nothing can
//! be mounted there is nothing to see, and that is said; with `POWER_MUST_MOUNT` set, as in CI, it is a failure.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use sledge::Error;
use sledge::oci::{Algorithm, Digest, RepositoryName};
use sledge::store::Manage;
use sledge::store::sled::{CollectOptions, Options, Sled, VerifyOptions};

use super::check;
use super::dice::{noise, setting};
use super::ledger::Ledger;
use super::shim;
use super::workload;

const SIZE: u64 = 96 << 20;

/// Ways to a filesystem of so many bytes: its name, and what the shell is told before it goes on with the child. `$0` is the
/// place to mount it at, and an empty file of that length lies beside it.
const WAYS: [(&str, &[&str], &str); 3] = [
    ("ext4", &["-m"], r#"mkfs.ext4 -q -F -m 0 "$0.image" && mount -o loop "$0.image" "$0""#),
    ("tmpfs", &["-m"], r#"mount -t tmpfs -o size=96m none "$0""#),
    ("tmpfs of a user's own", &["-Urm"], r#"mount -t tmpfs -o size=96m none "$0""#),
];

/// A command that runs another one with the filesystem.
fn with(way: &(&str, &[&str], &str), place: &Path) -> Command {
    let mut command = Command::new("unshare");
    command.args(way.1).args(["sh", "-c"]).arg(format!(r#"{} && exec "$@""#, way.2)).arg(place);
    command.stdin(Stdio::null());
    command
}

#[test]
fn a_filesystem_that_is_full_to_the_last_byte_keeps_everything_and_recovers_without_a_restart() {
    let mut ran = Vec::new();
    for way in &WAYS {
        // ext4 and one that holds no blocks in advance; the last is for who may not mount.
        if ran.len() == 2 || way.1 == ["-Urm"] && !ran.is_empty() {
            break;
        }
        let folder = shim::folder();
        let place = folder.path().join("disk");
        fs::create_dir(&place).unwrap();
        File::create(folder.path().join("disk.image")).unwrap().set_len(SIZE).unwrap();
        match with(way, &place).arg("true").output() {
            Ok(tried) if tried.status.success() => {}
            Ok(tried) => {
                println!(
                    "no {} can be mounted here: {}",
                    way.0,
                    String::from_utf8_lossy(&tried.stderr).trim()
                );
                continue;
            }
            Err(error) => {
                println!("no {} can be mounted here: unshare: {error}", way.0);
                continue;
            }
        }
        let output = with(way, &place)
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env("POWER_TASK", "mounted -")
            .env("POWER_ROOT", &place)
            .env("POWER_MARKS", folder.path().join("marks"))
            .output()
            .unwrap();
        let text = shim::told(&output);
        assert!(output.status.success(), "{}: {text}", way.0);
        let figures = text.lines().find_map(|line| line.split_once("FIGURES ")).unwrap().1;
        println!("{}: {figures}", way.0);
        ran.push(way.0);
    }
    let must = std::env::var_os("POWER_MUST_MOUNT").is_some();
    assert!(!ran.is_empty() || !must, "nothing can be mounted, and POWER_MUST_MOUNT is set");
    if ran.is_empty() {
        println!("NOT RUN: no small filesystem could be filled");
    }
}

fn options() -> Options {
    check::options().reserve(16 << 20)
}

/// What others take.
struct Foreign(File);

impl Foreign {
    /// Takes all that is left, to the last byte.
    fn take(&mut self) {
        for piece in [1 << 20, 4096, 1] {
            let piece = vec![0x55; piece];
            loop {
                match self.0.write(&piece) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        // What was put off may have given some back.
        if self.0.sync_all().is_ok() && self.0.write(&[0]).is_ok() {
            self.take();
        }
    }
}

/// In the child: the store and the foreign file are on the small filesystem.
pub(crate) fn full(root: &Path) {
    let folder = workload::data(root);
    let loose: RepositoryName = "loose".parse().unwrap();
    let mut store = options().open(&folder).unwrap();
    let mut ledger = Ledger::default();
    let mut number = 0;
    let rounds = setting("POWER_ROUNDS", 2);
    let mut least_pushed = usize::MAX;
    let mut pushed = Vec::new();
    for round in 0..rounds {
        check::push_image(&store, &mut ledger, 1_000_000 + round as u64 * 1000).unwrap();
        fill(&store, &loose, &mut ledger, &mut number, &mut pushed);
        least_pushed = least_pushed.min(pushed.len());
        let path = root.join("foreign");
        let mut foreign = Foreign(File::create(&path).unwrap());
        foreign.take();
        whole(&store, &ledger);
        if round % 2 == 1 {
            drop(store);
            assert!(folder.join("reserve").exists(), "closing it cost what is kept for the next opening");
            // What the store kept for itself is all that there is to open it.
            foreign.take();
            store = options().open(&folder).unwrap_or_else(|error| panic!("without a byte left: {error}"));
            whole(&store, &ledger);
        }
        for digest in pushed.drain(..3) {
            number += 1;
            ledger.take(&format!("B {number} {}=-", check::key("b", &loose, digest)));
            store.delete_blob(&loose, &digest).unwrap();
            ledger.take(&format!("A {number}"));
        }
        whole(&store, &ledger);
        // Everything that no manifest keeps goes, on a disk that has no room.
        let collect = CollectOptions::new().grace(Duration::ZERO);
        let report = store.collect(&collect, &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(report.blobs, pushed.len() as u64, "{report:?}");
        for digest in pushed.drain(..) {
            number += 1;
            ledger.take(&format!("B {number} {}=-", check::key("b", &loose, digest)));
            ledger.take(&format!("A {number}"));
        }
        whole(&store, &ledger);
        if round % 2 == 0 {
            // There is room now, though the foreign file is still there; nobody reopened anything.
            let again = (0..5000).any(|_| room_again(&store, &loose, &mut ledger, &mut number, &mut pushed));
            assert!(again, "collected content gives no room to pushes");
        }
        drop(foreign);
        fs::remove_file(path).unwrap();
        let number = 2_000_000 + round as u64 * 1000;
        check::push_image(&store, &mut ledger, number).expect("space has returned, and pushes are refused");
        whole(&store, &ledger);
    }
    drop(store);
    assert!(folder.join("reserve").exists(), "the room is kept again");
    ledger.take("L");
    let store = options().open(&folder).unwrap();
    whole(&store, &ledger);
    let options = VerifyOptions::new().restart(true);
    let report = store.verify(&options, &mut |_| ControlFlow::Continue(())).unwrap();
    let wrong = (report.bad_count, report.fault_count, report.orphan_count);
    assert_eq!(wrong, (0, 0, 0), "{report}");
    println!("FIGURES {rounds} times full, after at least {least_pushed} blobs");
}

fn whole(store: &Sled, ledger: &Ledger) {
    check::examine(store, ledger, false).unwrap_or_else(|error| panic!("{error}"));
}

/// Pushes blobs until they are refused for good.
fn fill(
    store: &Sled,
    repository: &RepositoryName,
    ledger: &mut Ledger,
    number: &mut u64,
    pushed: &mut Vec<Digest>,
) {
    let mut refused = 0;
    while refused < 4 {
        *number += 1;
        assert!(*number < 20_000, "a disk of {SIZE} bytes is never full");
        let content = noise(*number, if (*number).is_multiple_of(2) { 9000 } else { 600_000 });
        match push(store, repository, &content, ledger, *number) {
            Ok(digest) => pushed.push(digest),
            Err(error) => {
                assert!(matches!(error, Error::DiskFull { .. }), "{error}");
                refused += 1;
            }
        }
    }
    assert!(pushed.len() > 20);
}

fn push(
    store: &Sled,
    repository: &RepositoryName,
    content: &[u8],
    ledger: &mut Ledger,
    number: u64,
) -> sledge::Result<Digest> {
    let digest = Algorithm::Sha256.digest(content);
    ledger.take(&format!("B {number} {}=1", check::key("b", repository, digest)));
    let outcome = check::push(store, repository, content, &digest);
    ledger.take(&format!("{} {number}", if outcome.is_ok() { 'A' } else { 'F' }));
    outcome.map(|()| digest)
}

/// One attempt to push a small blob: what was collected goes from the disk when the writer has nothing else to do.
fn room_again(
    store: &Sled,
    repository: &RepositoryName,
    ledger: &mut Ledger,
    number: &mut u64,
    pushed: &mut Vec<Digest>,
) -> bool {
    *number += 1;
    match push(store, repository, &noise(*number, 2000), ledger, *number) {
        Ok(digest) => {
            pushed.push(digest);
            true
        }
        Err(Error::DiskFull { .. }) => {
            std::thread::yield_now();
            false
        }
        Err(error) => panic!("{error}"),
    }
}
