//! Small writes by many threads at once: one sync answers all that wait for it.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use sledge::Result;
use sledge::oci::{Manifest, MediaType};
use sledge::store::memory::Memory;
use sledge::store::sled::Sled;
use sledge::store::{PutManifest, Store};

use crate::name;

/// How many manifests each thread puts.
const EACH: usize = 200;

fn put(store: &dyn Store, threads: usize) -> f64 {
    let start = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                for n in 0..EACH {
                    let text = format!(
                        r#"{{"schemaVersion":2,"manifests":[],"annotations":{{"n":"{threads}-{thread}-{n}"}}}}"#
                    );
                    let media_type = MediaType::OCI_INDEX.parse().unwrap();
                    let tag = [format!("t{thread}").parse().unwrap()];
                    let manifest = Manifest::new(media_type, text.into_bytes());
                    store.put_manifest(&name(), &manifest, &PutManifest::new().tags(&tag)).unwrap();
                }
            });
        }
    });
    (threads * EACH) as f64 / start.elapsed().as_secs_f64()
}

/// A line at the end of a file, and a sync, one after another.
fn floor(folder: &Path, threads: usize) -> f64 {
    let log = Mutex::new(File::create(folder.join("log")).unwrap());
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                for _ in 0..EACH {
                    let mut log = log.lock().unwrap();
                    log.write_all(&[0; 600]).unwrap();
                    log.sync_data().unwrap();
                }
            });
        }
    });
    (threads * EACH) as f64 / start.elapsed().as_secs_f64()
}

pub(crate) fn contention(folder: &Path) -> Result<()> {
    println!("\nmanifests put under a tag, durable, a second");
    println!("{:>8} {:>10} {:>26} {:>10}", "threads", "sledge", "a synced line for each", "memory");
    std::fs::create_dir_all(folder).unwrap();
    for threads in [1, 4, 16, 64] {
        let store = Sled::open(folder.join(threads.to_string()))?;
        let (durable, floor) = (put(&store, threads), floor(folder, threads));
        println!("{threads:>8} {durable:>10.0} {floor:>26.0} {:>10.0}", put(&Memory::new(), threads));
    }
    Ok(())
}
