//! What listing, collection, opening and verification cost as a repository grows: in proportion to what they touch. What walks all
//! of it is looked at twice, with the cache that a store has by default and with one that the whole index fits.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use sledge::Result;
use sledge::oci::{Digest, Manifest, MediaType, Tag};
use sledge::store::memory::Memory;
use sledge::store::sled::{CollectOptions, Durability, Options, Sled, Untagged, VerifyOptions};
use sledge::store::{Manage, Pinned, PutManifest, References, Store};

use crate::name;

const SIZES: [usize; 4] = [1_000, 10_000, 100_000, 300_000];

/// What the store in memory does hardly changes with the size, and it takes memory.
const FLOOR_UP_TO: usize = 100_000;

/// A tenth of the manifests is deleted or left without a tag, to be collected.
const GARBAGE: usize = 10;

/// A cache that the index of the largest size fits.
const ROOMY: u64 = 512 << 20;

/// The times of one size, in milliseconds.
#[derive(Default)]
struct Times {
    put: f64,
    first_page: f64,
    last_page: f64,
    all_tags: Walk,
    collect: f64,
    nothing: f64,
    /// After all of it was put, and once more: sled reads what was written since the opening before.
    open: f64,
    open_again: f64,
    verify: Walk,
    /// The same with a roomy cache.
    roomy_tags: Walk,
    roomy_verify: Walk,
    collected: u64,
}

/// What a walk over everything took: milliseconds, and reads of the disk or of what the system has of it.
#[derive(Clone, Copy, Default)]
struct Walk {
    ms: f64,
    reads: f64,
}

impl Walk {
    fn of<T>(walk: impl FnOnce() -> Result<T>) -> Result<(T, Self)> {
        let before = reads();
        let (outcome, ms) = timed(walk)?;
        Ok((outcome, Self { ms, reads: reads() - before }))
    }

    /// For each thousand, and the reads for each.
    fn columns(self, count: usize) -> String {
        let count = count as f64;
        format!("{:>9.2} {:>6.2}", self.ms / count * 1e3, self.reads / count)
    }
}

/// How often this process has called the system to read, where that is told.
fn reads() -> f64 {
    let io = fs::read_to_string("/proc/self/io").unwrap_or_default();
    let reads = io.lines().find_map(|line| line.strip_prefix("syscr: ")?.parse().ok());
    reads.unwrap_or(f64::NAN)
}

fn manifest(n: usize) -> Manifest {
    let text = format!(r#"{{"schemaVersion":2,"manifests":[],"annotations":{{"n":"{n}"}}}}"#);
    Manifest::new(MediaType::OCI_INDEX.parse().expect("a media type"), text.into_bytes())
}

fn tag(n: usize) -> Tag {
    format!("v{n:07}").parse().expect("a tag")
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn timed<T>(act: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    let start = Instant::now();
    let outcome = act()?;
    Ok((outcome, ms(start.elapsed())))
}

/// Puts so many manifests, each under a tag of its own; time for each.
fn fill(store: &dyn Store, count: usize) -> Result<f64> {
    let start = Instant::now();
    for n in 0..count {
        let tags = [tag(n)];
        let put = PutManifest::new().tags(&tags).references(References::MayBeAbsent);
        store.put_manifest(&name(), &manifest(n), &put)?;
    }
    Ok(ms(start.elapsed()) / count as f64)
}

fn page(store: &dyn Store, after: Option<&Tag>) -> Result<f64> {
    // The fastest of a few: the first look at a page brings it from the disk.
    let mut best = f64::MAX;
    for _ in 0..5 {
        best = best.min(timed(|| store.tags(&name(), after, 100))?.1);
    }
    Ok(best)
}

fn all_tags(store: &dyn Store, count: usize) -> Result<Walk> {
    let walk = || {
        let (mut after, mut found) = (None, 0);
        loop {
            let page = store.tags(&name(), after.as_ref(), 1000)?;
            found += page.items.len();
            after = page.items.last().map(|tagged| tagged.tag.clone());
            if !page.more {
                return Ok(found);
            }
        }
    };
    // The first time brings what there is room for into the cache.
    walk()?;
    let (found, walk) = Walk::of(walk)?;
    assert_eq!(found, count);
    Ok(walk)
}

fn verify(store: &Sled) -> Result<Walk> {
    let (report, walk) =
        Walk::of(|| store.verify(&VerifyOptions::new(), &mut |_| ControlFlow::Continue(())))?;
    assert!(report.is_well(), "{report}");
    Ok(walk)
}

fn durable(folder: &Path, count: usize) -> Result<Times> {
    // Not what is measured here: without a sync for each of them they are there sooner.
    let options = Options::new().durability(Durability::Relaxed(Duration::from_secs(1)));
    let store = options.clone().open(folder)?;
    let mut times = Times { put: fill(&store, count)?, ..Times::default() };
    times.first_page = page(&store, None)?;
    times.last_page = page(&store, Some(&tag(count - 101)))?;
    drop(store);

    let (store, open) = timed(|| Options::new().open(folder))?;
    times.open = open;
    drop(store);
    let (store, open) = timed(|| Options::new().open(folder))?;
    times.open_again = open;
    times.all_tags = all_tags(&store, count)?;
    times.verify = verify(&store)?;
    drop(store);

    let store = Options::new().cache_capacity(ROOMY).open(folder)?;
    times.roomy_tags = all_tags(&store, count)?;
    times.roomy_verify = verify(&store)?;
    drop(store);

    let store = Options::new().open(folder)?;
    let collect = CollectOptions::new().grace(Duration::ZERO).untagged(Untagged::DeleteAfter(Duration::ZERO));
    let mut on = |_: &_| ControlFlow::Continue(());
    times.nothing = timed(|| store.collect(&collect, &mut on))?.1;
    for n in (0..count).step_by(GARBAGE) {
        store.delete_tag(&name(), &tag(n))?;
    }
    let (collected, time) = timed(|| store.collect(&collect, &mut on))?;
    (times.collected, times.collect) = (collected.manifests, time);
    assert_eq!(times.collected, count.div_ceil(GARBAGE) as u64);
    Ok(times)
}

/// The same by the store in memory, where it does the same.
fn floor(count: usize) -> Result<Times> {
    let store = Memory::new();
    let mut times = Times { put: fill(&store, count)?, ..Times::default() };
    times.first_page = page(&store, None)?;
    times.last_page = page(&store, Some(&tag(count - 101)))?;
    times.all_tags = all_tags(&store, count)?;
    let garbage: Vec<Digest> = (0..count).step_by(GARBAGE).map(|n| *manifest(n).digest()).collect();
    times.collected = garbage.len() as u64;
    times.collect = timed(|| {
        garbage.iter().try_for_each(|digest| store.delete_manifest(&name(), digest, &Pinned::none()))
    })?
    .1;
    Ok(times)
}

pub(crate) fn growth(folder: &Path) -> Result<()> {
    println!(
        "\none repository of so many manifests, each with a tag; a tenth is collected (ms; put: each; collect: each of the \
         collected; all tags and verify: each thousand, and reads for each; `roomy`: with a cache of {} MiB)",
        ROOMY >> 20
    );
    println!(
        "{:>9} {:>8} {:>8} {:>9} {:>16} {:>16} {:>8} {:>10} {:>8} {:>8} {:>16} {:>16}",
        "manifests",
        "put",
        "page 1",
        "last page",
        "all tags  reads",
        "roomy  reads",
        "collect",
        "nothing to",
        "open",
        "again",
        "verify  reads",
        "roomy  reads"
    );
    for count in SIZES {
        print(&count.to_string(), count, &durable(&folder.join(count.to_string()), count)?);
        if count <= FLOOR_UP_TO {
            print("memory", count, &floor(count)?);
        }
    }
    Ok(())
}

fn print(kind: &str, count: usize, times: &Times) {
    let Times { put, first_page, last_page, collect, nothing, open, open_again, collected, .. } = times;
    println!(
        "{kind:>9} {put:>8.4} {first_page:>8.3} {last_page:>9.3} {} {} {:>8.4} {nothing:>10.3} {open:>8.1} {open_again:>8.1} \
         {} {}",
        times.all_tags.columns(count),
        times.roomy_tags.columns(count),
        collect / *collected as f64,
        times.verify.columns(count),
        times.roomy_verify.columns(count),
    );
}
