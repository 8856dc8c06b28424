//! What listing, collection, opening and verification cost as a repository grows: in proportion to what they touch.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use sledge::Result;
use sledge::oci::{Digest, Manifest, MediaType, Tag};
use sledge::store::memory::Memory;
use sledge::store::sled::{CollectOptions, Durability, Options, Untagged, VerifyOptions};
use sledge::store::{Manage, Pinned, PutManifest, References, Store};

use crate::name;

/// A tenth of the manifests is deleted or left without a tag, to be collected.
const GARBAGE: usize = 10;

/// The times of one size, in milliseconds.
#[derive(Default)]
struct Times {
    put: f64,
    first_page: f64,
    last_page: f64,
    all_tags: f64,
    collect: f64,
    nothing: f64,
    open: f64,
    verify: f64,
    collected: u64,
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

fn all_tags(store: &dyn Store, count: usize) -> Result<f64> {
    let start = Instant::now();
    let (mut after, mut found) = (None, 0);
    loop {
        let page = store.tags(&name(), after.as_ref(), 1000)?;
        found += page.items.len();
        after = page.items.last().map(|tagged| tagged.tag.clone());
        if !page.more {
            break;
        }
    }
    assert_eq!(found, count);
    Ok(ms(start.elapsed()))
}

fn durable(folder: &Path, count: usize) -> Result<Times> {
    // Not what is measured here: without a sync for each of them they are there sooner.
    let options = Options::new().durability(Durability::Relaxed(Duration::from_secs(1)));
    let store = options.clone().open(folder)?;
    let mut times = Times { put: fill(&store, count)?, ..Times::default() };
    times.first_page = page(&store, None)?;
    times.last_page = page(&store, Some(&tag(count - 101)))?;
    times.all_tags = all_tags(&store, count)?;
    drop(store);

    let (store, open) = timed(|| Options::new().open(folder))?;
    times.open = open;
    let collect = CollectOptions::new().grace(Duration::ZERO).untagged(Untagged::DeleteAfter(Duration::ZERO));
    let mut on = |_: &_| ControlFlow::Continue(());
    times.nothing = timed(|| store.collect(&collect, &mut on))?.1;
    for n in (0..count).step_by(GARBAGE) {
        store.delete_tag(&name(), &tag(n))?;
    }
    let (collected, time) = timed(|| store.collect(&collect, &mut on))?;
    (times.collected, times.collect) = (collected.manifests, time);
    assert_eq!(times.collected, count.div_ceil(GARBAGE) as u64);
    let (report, time) = timed(|| store.verify(&VerifyOptions::new(), &mut on))?;
    assert!(report.is_well(), "{report}");
    times.verify = time;
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
         collected; verify and all tags: each thousand)"
    );
    println!(
        "{:>10} {:>10} {:>10} {:>10} {:>10} {:>10} {:>12} {:>10} {:>10}",
        "manifests", "put", "page 1", "last page", "all tags", "collect", "nothing to", "open", "verify"
    );
    for count in [1_000, 10_000, 100_000] {
        for (kind, times) in
            [("", durable(&folder.join(count.to_string()), count)?), ("memory", floor(count)?)]
        {
            let thousands = count as f64 / 1000.0;
            let Times { put, first_page, last_page, all_tags, collect, nothing, open, verify, collected } =
                times;
            println!(
                "{:>10} {put:>10.4} {first_page:>10.3} {last_page:>10.3} {:>10.3} {:>10.4} {nothing:>12.3} {open:>10.1} {:>10.2}",
                if kind.is_empty() { count.to_string() } else { kind.to_owned() },
                all_tags / thousands,
                collect / collected as f64,
                verify / thousands,
            );
        }
    }
    Ok(())
}
