//! Putting and getting layers of every size: durable and relaxed, alone and by eight threads, beside the standard library with the
//! same syncs and the crate `cacache`.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sledge::Result;
use sledge::oci::{Algorithm, Digest};
use sledge::store::memory::Memory;
use sledge::store::sled::{Durability, Options};
use sledge::store::{Store, UploadOptions};

use crate::{name, noise};

/// Bytes of each layer and how many of them are put by each thread.
const SIZES: [(usize, usize); 4] = [(4 << 10, 200), (64 << 10, 100), (1 << 20, 60), (100 << 20, 2)];

/// Someone who keeps content under its digest.
trait Keeper: Sync {
    fn put(&self, content: &[u8], digest: &Digest);
    fn get(&self, digest: &Digest, buffer: &mut Vec<u8>);
}

struct Stored<S>(S);

impl<S: Store> Keeper for Stored<S> {
    fn put(&self, content: &[u8], digest: &Digest) {
        let options = UploadOptions::new().size(content.len() as u64);
        let mut upload = self.0.start_upload(&name(), &options).unwrap();
        for part in content.chunks(1 << 20) {
            upload.write_all(part).unwrap();
        }
        upload.commit(digest).unwrap();
    }

    fn get(&self, digest: &Digest, buffer: &mut Vec<u8>) {
        let blob = self.0.blob(&name(), digest).unwrap();
        buffer.resize(usize::try_from(blob.stat.size).unwrap(), 0);
        blob.content.read_at(0, buffer).unwrap();
    }
}

/// What the standard library needs for the same promise: a file, hashed, synced, under its name, its folder synced.
struct Floor {
    folder: PathBuf,
    handle: File,
    durable: bool,
    next: AtomicUsize,
}

impl Keeper for Floor {
    fn put(&self, content: &[u8], digest: &Digest) {
        let unfinished = self.folder.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        let mut file = File::create(&unfinished).unwrap();
        let mut hasher = sledge::oci::Hasher::new(Algorithm::Sha256);
        for part in content.chunks(1 << 20) {
            hasher.update(part);
            file.write_all(part).unwrap();
        }
        assert_eq!(hasher.finish(), *digest);
        if self.durable {
            file.sync_data().unwrap();
        }
        fs::rename(unfinished, self.folder.join(digest.to_string())).unwrap();
        if self.durable {
            self.handle.sync_all().unwrap();
        }
    }

    fn get(&self, digest: &Digest, buffer: &mut Vec<u8>) {
        let mut file = File::open(self.folder.join(digest.to_string())).unwrap();
        buffer.resize(usize::try_from(file.metadata().unwrap().len()).unwrap(), 0);
        file.read_exact(buffer).unwrap();
    }
}

/// It syncs nothing, and checks what it reads.
struct Cacache(PathBuf);

impl Keeper for Cacache {
    fn put(&self, content: &[u8], digest: &Digest) {
        cacache::write_sync(&self.0, digest.to_string(), content).unwrap();
    }

    fn get(&self, digest: &Digest, buffer: &mut Vec<u8>) {
        *buffer = cacache::read_sync(&self.0, digest.to_string()).unwrap();
    }
}

/// A layer and its digest.
type Content = (Digest, Vec<u8>);

/// MiB/s of putting and of getting, by so many threads.
fn run(keeper: &dyn Keeper, contents: &[Vec<Content>]) -> (f64, f64) {
    let bytes: usize = contents.iter().flatten().map(|(_, content)| content.len()).sum();
    let timed = |act: &(dyn Fn(&[Content]) + Sync)| {
        let start = Instant::now();
        std::thread::scope(|threads| {
            for own in contents {
                threads.spawn(move || act(own));
            }
        });
        bytes as f64 / f64::from(1 << 20) / start.elapsed().as_secs_f64()
    };
    let put = timed(&|own| own.iter().for_each(|(digest, content)| keeper.put(content, digest)));
    let get = timed(&|own| {
        let mut buffer = Vec::new();
        for (digest, content) in own {
            keeper.get(digest, &mut buffer);
            assert_eq!(buffer.len(), content.len());
        }
    });
    (put, get)
}

pub(crate) fn layers(folder: &Path) -> Result<()> {
    println!("\nlayers: put / get in MiB/s");
    println!(
        "{:>9} {:>7} {:>17} {:>17} {:>17} {:>17} {:>17} {:>17}",
        "KiB", "threads", "sledge", "std::fs, synced", "sledge, relaxed", "std::fs", "cacache", "memory"
    );
    for (size, count) in SIZES {
        for threads in [1, 8] {
            let contents: Vec<Vec<Content>> = (0..threads)
                .map(|thread| {
                    let content = |n: usize| noise(size, (size + thread * count + n) as u64);
                    (0..count)
                        .map(content)
                        .map(|content| (Algorithm::Sha256.digest(&content), content))
                        .collect()
                })
                .collect();
            let folder = folder.join(format!("{size}-{threads}"));
            fs::create_dir_all(&folder).unwrap();
            let floor = |durable: bool| {
                let folder = folder.join(format!("floor-{durable}"));
                fs::create_dir_all(&folder).unwrap();
                Floor { handle: File::open(&folder).unwrap(), folder, durable, next: AtomicUsize::new(0) }
            };
            let relaxed = Options::new().durability(Durability::Relaxed(Duration::from_secs(5)));
            let keepers: [Box<dyn Keeper>; 6] = [
                Box::new(Stored(Options::new().open(folder.join("strict"))?)),
                Box::new(floor(true)),
                Box::new(Stored(relaxed.open(folder.join("relaxed"))?)),
                Box::new(floor(false)),
                Box::new(Cacache(folder.join("cacache"))),
                Box::new(Stored(Memory::new())),
            ];
            let mut line = format!("{:>9} {threads:>7}", size >> 10);
            for keeper in &keepers {
                let (put, get) = run(keeper.as_ref(), &contents);
                line += &format!(" {put:>8.0}/{get:>8.0}");
            }
            println!("{line}");
            drop(keepers);
            fs::remove_dir_all(&folder).unwrap();
        }
    }
    Ok(())
}
