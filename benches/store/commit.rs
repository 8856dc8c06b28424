//! Commits of layers of very different size.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use sledge::Result;
use sledge::oci::{Algorithm, Hasher};
use sledge::store::sled::Sled;
use sledge::store::{Push, UploadOptions};

use crate::{median, name, noise};

/// C10: what a commit costs must not depend on the size. The layer's bytes are written back before the clock starts, since to
/// sync what is dirty takes its time whoever does it. Sizes take turns, so that a disk's moods meet all of them alike.
pub(crate) fn commit(folder: &Path) -> Result<()> {
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
