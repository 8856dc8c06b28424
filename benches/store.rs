//! What the durable store costs, each case beside its floor: the standard library doing the same with the same syncs.
//!
//! `cargo bench --bench store [-- commit | inline]`. Ratios hold between machines better than figures do.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a benchmark stops at the first surprise, and prints what it measured"
)]

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use sledge::Result;
use sledge::oci::{Algorithm, Digest, Hasher, RepositoryName};
use sledge::store::sled::{Inline, Options, Sled};
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
