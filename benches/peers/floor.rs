//! The least that a durable push can cost: hash, write, sync, rename, sync the folder.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use sledge::oci::Algorithm;

use crate::cases::unique;

pub(crate) fn put(folder: &Path, (digest, bytes): (&str, &[u8])) {
    assert_eq!(Algorithm::Sha256.digest(bytes).to_string(), digest);
    let unfinished = folder.join(unique().to_string());
    let mut file = File::create(&unfinished).unwrap();
    file.write_all(bytes).unwrap();
    file.sync_data().unwrap();
    fs::rename(&unfinished, folder.join(digest)).unwrap();
    File::open(folder).unwrap().sync_all().unwrap();
}
