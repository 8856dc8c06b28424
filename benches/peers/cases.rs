//! What is measured: each case with what it is to reach.

use std::fs;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use sledge::oci::Algorithm;

use crate::client::Client;
use crate::floor;

pub(crate) const MIB: usize = 1 << 20;
/// What chunked pushes send at once, in bytes.
const CHUNK: usize = 8 * MIB;
/// How many tags the repository has of which a page is listed.
const TAGS: usize = 1000;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Push,
    Chunks,
    Pull,
    GetManifest,
    HeadManifest,
    HeadBlob,
    Image,
    Tags,
}

pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// Of a blob, in bytes.
    pub(crate) size: usize,
    pub(crate) clients: usize,
    /// How often it is done, by docker-registry; a faster server does it more often, or it would be over too soon.
    pub(crate) count: usize,
    /// How many times as fast as docker-registry it is to be.
    pub(crate) bar: f64,
}

pub(crate) const CASES: [Case; 11] = [
    case("push 1 MiB, 2 clients", Kind::Push, MIB, 2, 160, 8.0),
    case("push 100 MiB, 1 client", Kind::Push, 100 * MIB, 1, 5, 3.4),
    case("push 100 MiB, 4 clients", Kind::Push, 100 * MIB, 4, 8, 2.2),
    case("8 MiB chunks of 100 MiB, 2 clients", Kind::Chunks, 100 * MIB, 2, 6, 2.2),
    case("pull 1 MiB, 4 clients", Kind::Pull, MIB, 4, 1200, 5.0),
    case("pull 100 MiB, 2 clients", Kind::Pull, 100 * MIB, 2, 40, 1.9),
    case("GET manifest, 8 clients", Kind::GetManifest, 0, 8, 3200, 26.0),
    case("HEAD manifest, 8 clients", Kind::HeadManifest, 0, 8, 3200, 26.0),
    case("HEAD blob, 8 clients", Kind::HeadBlob, MIB, 8, 3200, 26.0),
    case("small image (3 blobs, manifest), 4 clients", Kind::Image, 0, 4, 120, 16.0),
    case("first 100 of 1,000 tags, 1 client", Kind::Tags, 0, 1, 800, 15.0),
];

pub(crate) const fn case(
    name: &'static str,
    kind: Kind,
    size: usize,
    clients: usize,
    count: usize,
    bar: f64,
) -> Case {
    Case { name, kind, size, clients, count, bar }
}

impl Case {
    /// Whether it is told in MiB a second, and has a floor.
    pub(crate) const fn brings_bytes(&self) -> bool {
        matches!(self.kind, Kind::Push | Kind::Chunks)
    }

    pub(crate) const fn moves_bytes(&self) -> bool {
        self.brings_bytes() || matches!(self.kind, Kind::Pull)
    }

    /// MiB, or requests, a second, of this done `count` times.
    pub(crate) fn run(&self, address: &str, count: usize) -> f64 {
        let prepared = Prepared::new(self, address);
        let prepare = || (Client::new(address), self.content(count / self.clients));
        self.time(count, prepare, |(client, content), n| prepared.once(self, client, content, n))
    }

    /// What the machine gives: the same bytes hashed, written and synced with nothing else around it.
    pub(crate) fn floor(&self, folder: &Path, count: usize) -> f64 {
        let prepare = || self.content(count / self.clients);
        self.time(count, prepare, |content, n| floor::put(folder, content.nth(n)))
    }

    /// The same of a server that has files, one of which is made for it.
    pub(crate) fn run_on_files(&self, address: &str, folder: &Path, count: usize) -> f64 {
        let name = unique().to_string();
        fs::write(folder.join(&name), random(self.size)).unwrap();
        let prepared = Prepared { repository: String::new(), path: format!("/{name}") };
        let prepare = || (Client::new(address), Content::none());
        let rate = self.time(count, prepare, |(client, content), n| prepared.once(self, client, content, n));
        fs::remove_file(folder.join(&name)).unwrap();
        rate
    }

    /// What a client pushes: the clock does not run while digests are made that a client has at hand.
    fn content(&self, count: usize) -> Content {
        match self.kind {
            Kind::Push | Kind::Chunks => Content::of(self.size, count),
            Kind::Image => Content { images: (0..count).map(|_| Image::new()).collect(), ..Content::none() },
            _ => Content::none(),
        }
    }

    fn time<T>(
        &self,
        count: usize,
        prepare: impl Fn() -> T + Sync,
        once: impl Fn(&mut T, usize) + Sync,
    ) -> f64 {
        let (barrier, each) = (Barrier::new(self.clients + 1), count / self.clients);
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..self.clients)
                .map(|_| {
                    scope.spawn(|| {
                        let mut prepared = prepare();
                        barrier.wait();
                        (0..each).for_each(|n| once(&mut prepared, n));
                    })
                })
                .collect();
            barrier.wait();
            let began = Instant::now();
            clients.into_iter().for_each(|client| client.join().unwrap());
            let done = (each * self.clients) as f64;
            let units = if self.moves_bytes() { done * (self.size / MIB) as f64 } else { done };
            units / began.elapsed().as_secs_f64()
        })
    }
}

/// What is there before the clock runs.
struct Prepared {
    repository: String,
    path: String,
}

impl Prepared {
    fn new(case: &Case, address: &str) -> Self {
        let repository = format!("bench/r{}", unique());
        let mut client = Client::new(address);
        let path = match case.kind {
            Kind::Pull | Kind::HeadBlob => {
                let mut content = Content::of(case.size, 1);
                let (digest, bytes) = content.nth(0);
                client.push(&repository, digest, bytes);
                format!("/v2/{repository}/blobs/{digest}")
            }
            Kind::GetManifest | Kind::HeadManifest | Kind::Tags => {
                let image = Image::new();
                image.push(&mut client, &repository, "t0");
                let tags = if case.kind == Kind::Tags { TAGS } else { 1 };
                (1..tags).for_each(|n| client.put_manifest(&repository, &format!("t{n}"), &image.manifest));
                if case.kind == Kind::Tags {
                    format!("/v2/{repository}/tags/list?n=100")
                } else {
                    format!("/v2/{repository}/manifests/t0")
                }
            }
            Kind::Push | Kind::Chunks | Kind::Image => String::new(),
        };
        Self { repository, path }
    }

    fn once(&self, case: &Case, client: &mut Client, content: &mut Content, n: usize) {
        match case.kind {
            Kind::Push => {
                let (digest, bytes) = content.nth(n);
                client.push(&self.repository, digest, bytes);
            }
            Kind::Chunks => {
                let (digest, bytes) = content.nth(n);
                client.push_chunks(&self.repository, digest, bytes, CHUNK);
            }
            Kind::Pull => assert_eq!(client.get(&self.path), case.size as u64),
            Kind::GetManifest | Kind::Tags => assert!(client.get(&self.path) > 0),
            Kind::HeadManifest | Kind::HeadBlob => client.head(&self.path),
            Kind::Image => content.images[n].push(client, &self.repository, &format!("i{}", unique())),
        }
    }
}

/// Blobs of one size that differ in their beginning, so that all of them take the memory of one.
pub(crate) struct Content {
    bytes: Vec<u8>,
    blobs: Vec<(u64, String)>,
    images: Vec<Image>,
}

impl Content {
    const fn none() -> Self {
        Self { bytes: Vec::new(), blobs: Vec::new(), images: Vec::new() }
    }

    fn of(size: usize, count: usize) -> Self {
        let mut content = Self { bytes: random(size), ..Self::none() };
        for _ in 0..count {
            let number = unique();
            content.mark(number);
            let digest = Algorithm::Sha256.digest(&content.bytes).to_string();
            content.blobs.push((number, digest));
        }
        content
    }

    fn mark(&mut self, number: u64) {
        self.bytes[..8].copy_from_slice(&number.to_le_bytes());
    }

    pub(crate) fn nth(&mut self, n: usize) -> (&str, &[u8]) {
        self.mark(self.blobs[n].0);
        (&self.blobs[n].1, &self.bytes)
    }
}

/// An image as small as they come: a config, two layers of 10 KB, and the manifest.
struct Image {
    blobs: Vec<(String, Vec<u8>)>,
    manifest: String,
}

impl Image {
    fn new() -> Self {
        let blobs: Vec<(String, Vec<u8>)> = [1500, 10_000, 10_000]
            .map(|size| {
                let bytes = random(size);
                (Algorithm::Sha256.digest(&bytes).to_string(), bytes)
            })
            .into();
        let descriptor = |media_type: &str, (digest, bytes): &(String, Vec<u8>)| {
            let media_type = format!("application/vnd.oci.image.{media_type}");
            format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{}}}"#, bytes.len())
        };
        let [config, layers @ ..] = &blobs[..] else { unreachable!() };
        let layers: Vec<_> = layers.iter().map(|layer| descriptor("layer.v1.tar+gzip", layer)).collect();
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[{}]}}"#,
            descriptor("config.v1+json", config),
            layers.join(",")
        );
        Self { blobs, manifest }
    }

    fn push(&self, client: &mut Client, repository: &str, tag: &str) {
        for (digest, bytes) in &self.blobs {
            client.push(repository, digest, bytes);
        }
        client.put_manifest(repository, tag, &self.manifest);
    }
}

/// A number that no other run had either.
pub(crate) fn unique() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    now.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Bytes that nothing can compress, by xorshift.
fn random(size: usize) -> Vec<u8> {
    let mut state = unique().wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = vec![0; size];
    for word in bytes.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
    }
    bytes
}

pub(crate) fn middle(mut rates: Vec<f64>) -> Option<f64> {
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied()
}
