//! Small layers inside the index and in files.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use sledge::Result;
use sledge::oci::{Algorithm, Digest};
use sledge::store::sled::{Inline, Options};
use sledge::store::{Pull, Push, UploadOptions};

use crate::{disk, name, noise};

/// Where a small layer is better off: inside the index or in a file. The default of `Inline` rests on this.
pub(crate) fn inline(folder: &Path) -> Result<()> {
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
