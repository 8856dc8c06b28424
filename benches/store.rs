//! What the durable store costs, each case beside its floor: the standard library doing the same with the same syncs.
//!
//! `cargo bench --bench store [-- commit | inline | snapshot]`. Ratios hold between machines better than figures do.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a benchmark stops at the first surprise, and prints what it measured"
)]

use std::fs::{self, File};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sledge::Result;
use sledge::oci::{Algorithm, Digest, Hasher, RepositoryName};
use sledge::store::sled::{Durability, Inline, Options, Sled, SnapshotOptions};
use sledge::store::{Pull, Push, UploadOptions};

fn main() -> Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let is_wanted = |case: &str| wanted.is_empty() || wanted.iter().any(|name| name == case);
    // Beside the build, so that it is a real disk; a temporary folder may be memory.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    if is_wanted("commit") {
        commit(&folder.path().join("commit"))?;
    }
    if is_wanted("inline") {
        inline(&folder.path().join("inline"))?;
    }
    if is_wanted("snapshot") {
        snapshot(&folder.path().join("snapshot"))?;
    }
    Ok(())
}

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        bytes.extend_from_slice(&x.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e3
}

fn name() -> RepositoryName {
    "bench".parse().expect("a valid name")
}

/// C10: what a commit costs must not depend on the size. The layer's bytes are written back before the clock starts, since to
/// sync what is dirty takes its time whoever does it. Sizes take turns, so that a disk's moods meet all of them alike.
fn commit(folder: &Path) -> Result<()> {
    const ROUNDS: usize = 5;
    const SIZES: [usize; 3] = [1, 32, 1024];
    println!("commit of a layer whose bytes are on the disk already (median of {ROUNDS}, ms)");
    let store = Sled::open(folder.join("store"))?;
    let part = noise(1 << 20, 1);
    let (mut times, mut floors) = (vec![Vec::new(); SIZES.len()], Vec::new());
    for round in 0..ROUNDS as u64 {
        for (mebibytes, times) in SIZES.iter().zip(&mut times) {
            let mut hasher = Hasher::new(Algorithm::Sha256);
            let mut upload = store.start_upload(&name(), &UploadOptions::new())?;
            let head = (round << 32 | *mebibytes as u64).to_le_bytes();
            for part in std::iter::once(&head[..]).chain(std::iter::repeat_n(&part[..], *mebibytes)) {
                upload.write_all(part).unwrap();
                hasher.update(part);
            }
            for file in fs::read_dir(folder.join("store/content")).unwrap() {
                File::open(file.unwrap().path()).unwrap().sync_all().unwrap();
            }
            let digest = hasher.finish();
            let start = Instant::now();
            let stat = upload.commit(&digest)?;
            times.push(start.elapsed());
            assert_eq!(stat.size, (*mebibytes as u64) << 20 | 8);
            store_floor(&folder.join("floor"), &mut floors);
        }
    }
    for (mebibytes, times) in SIZES.iter().zip(times) {
        println!("{mebibytes:>8} MiB {:>8.2}", median(times));
    }
    println!("{:>12} {:>8.2}   the same three syncs by hand", "floor", median(floors));
    Ok(())
}

/// The same syncs by hand: a clean file, its folder with a new name in it, and a few hundred bytes in another file.
fn store_floor(folder: &Path, times: &mut Vec<Duration>) {
    fs::create_dir_all(folder).unwrap();
    let name = folder.join(times.len().to_string());
    let file = File::create(name).unwrap();
    let mut log = File::options().append(true).create(true).open(folder.join("log")).unwrap();
    let start = Instant::now();
    file.sync_data().unwrap();
    File::open(folder).unwrap().sync_all().unwrap();
    log.write_all(&[0; 600]).unwrap();
    log.sync_data().unwrap();
    times.push(start.elapsed());
}

/// Where a small layer is better off: inside the index or in a file. The default of `Inline` rests on this.
fn inline(folder: &Path) -> Result<()> {
    const COUNT: usize = 400;
    println!(
        "\nsmall layers, {COUNT} of each size, one client: put and get per second, bytes of disk per layer"
    );
    println!("{:>8} {:>22} {:>22} {:>10}", "bytes", "inline put/get/disk", "file put/get/disk", "floor put");
    for size in [512_usize, 1 << 10, 4 << 10, 8 << 10, 16 << 10, 32 << 10] {
        let mut line = format!("{size:>8}");
        for (kind, inline) in [("inline", Inline::UpTo(Inline::MOST)), ("file", Inline::UpTo(0))] {
            let folder = folder.join(format!("{kind}-{size}"));
            let store = Options::new().inline(inline).open(&folder)?;
            let layers: Vec<Vec<u8>> = (0..COUNT).map(|n| noise(size, (size + n) as u64)).collect();
            let digests: Vec<Digest> = layers.iter().map(|layer| Algorithm::Sha256.digest(layer)).collect();
            let start = Instant::now();
            for (layer, digest) in layers.iter().zip(&digests) {
                let mut upload = store.start_upload(&name(), &UploadOptions::new())?;
                upload.write_all(layer).unwrap();
                upload.commit(digest)?;
            }
            let put = COUNT as f64 / start.elapsed().as_secs_f64();
            let start = Instant::now();
            let mut buffer = vec![0; size];
            for digest in &digests {
                store.blob(&name(), digest)?.content.read_at(0, &mut buffer).unwrap();
            }
            let get = COUNT as f64 / start.elapsed().as_secs_f64();
            drop(store);
            line += &format!(" {:>7.0}/{:>7.0}/{:>6}", put, get, disk(&folder) / COUNT as u64);
        }
        let floor = folder.join(format!("floor-{size}"));
        fs::create_dir_all(&floor).unwrap();
        let handle = File::open(&floor).unwrap();
        let start = Instant::now();
        for n in 0..COUNT {
            let mut file = File::create(floor.join(n.to_string())).unwrap();
            file.write_all(&noise(size, n as u64)).unwrap();
            file.sync_data().unwrap();
            handle.sync_all().unwrap();
        }
        println!("{line} {:>10.0}", COUNT as f64 / start.elapsed().as_secs_f64());
    }
    Ok(())
}

/// Bytes that a folder takes on the disk.
fn disk(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let mut bytes = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        bytes += if metadata.is_dir() { disk(&entry.path()) } else { metadata.blocks() * 512 };
    }
    bytes
}

fn push(store: &Sled, content: &[u8]) -> Result<()> {
    let mut upload = store.start_upload(&name(), &UploadOptions::new())?;
    upload.write_all(content).unwrap();
    upload.commit(&Algorithm::Sha256.digest(content)).map(drop)
}

/// A snapshot of many layers in files, while somebody pushes: what it takes, beside linking as many files; and what the one who
/// pushes notices of it.
fn snapshot(folder: &Path) -> Result<()> {
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
