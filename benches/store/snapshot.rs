//! A snapshot of a store that is being written to.

use std::fs::{self, File};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sledge::Result;
use sledge::oci::Algorithm;
use sledge::store::sled::{Durability, Inline, Options, Sled, SnapshotOptions};
use sledge::store::{Push, UploadOptions};

use crate::{median, name, noise};

fn push(store: &Sled, content: &[u8]) -> Result<()> {
    let mut upload = store.start_upload(&name(), &UploadOptions::new())?;
    upload.write_all(content).unwrap();
    upload.commit(&Algorithm::Sha256.digest(content)).map(drop)
}

/// A snapshot of many layers in files, while somebody pushes: what it takes, beside linking as many files; and what the one who
/// pushes notices of it.
pub(crate) fn snapshot(folder: &Path) -> Result<()> {
    const LAYERS: u64 = 20_000;
    const CLIENTS: u32 = 8;
    println!("snapshot of {LAYERS} layers in files, while one client pushes 1 KiB at a time");
    let data = folder.join("store");
    let fast = Options::new().durability(Durability::Relaxed(Duration::from_secs(5))).inline(Inline::UpTo(0));
    let store = fast.open(&data)?;
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let store = &store;
            scope.spawn(move || {
                for n in (0..LAYERS).filter(|n| n % u64::from(CLIENTS) == u64::from(client)) {
                    push(store, &noise(100, n + 1)).unwrap();
                }
            });
        }
    });
    drop(store);
    let store = Sled::open(&data)?;

    let links = folder.join("links");
    fs::create_dir(&links).unwrap();
    let start = Instant::now();
    for file in fs::read_dir(data.join("content")).unwrap() {
        let file = file.unwrap();
        fs::hard_link(file.path(), links.join(file.file_name())).unwrap();
    }
    File::open(&links).unwrap().sync_all().unwrap();
    let floor = start.elapsed();

    let running = AtomicBool::new(false);
    let stop = AtomicBool::new(false);
    let (report, pushes) = thread::scope(|scope| {
        let pushing = scope.spawn(|| {
            let mut pushes = [Vec::new(), Vec::new()];
            for n in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let beside = running.load(Ordering::Relaxed);
                let start = Instant::now();
                push(&store, &noise(1 << 10, (1 << 32) | n)).unwrap();
                pushes[usize::from(beside)].push(start.elapsed());
            }
            pushes
        });
        thread::sleep(Duration::from_secs(1));
        running.store(true, Ordering::Relaxed);
        let on = &mut |_: &_| ControlFlow::Continue(());
        let report = store.snapshot(folder.join("copy"), &SnapshotOptions::new(), on);
        stop.store(true, Ordering::Relaxed);
        (report, pushing.join().unwrap())
    });
    let report = report?;
    println!(
        "{:>8.2} s ({:.2} s for the links alone), {} files linked, {} records, {} changes meanwhile, writer held {:.2} ms",
        report.took.as_secs_f64(),
        floor.as_secs_f64(),
        report.files.linked.files,
        report.records,
        report.changes,
        report.held.as_secs_f64() * 1e3,
    );
    for (when, times) in ["before it", "beside it"].iter().zip(pushes) {
        let slowest = times.iter().max().copied().unwrap_or_default().as_secs_f64() * 1e3;
        println!("{when}: {} pushes, median {:.2} ms, slowest {slowest:.1} ms", times.len(), median(times));
    }
    Ok(())
}
