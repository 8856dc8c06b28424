//! A store that has grown, beside an empty one.

use std::path::Path;
use std::thread;
use std::time::Instant;

use serde_json::json;
use sledge::Registry;
use sledge::oci::{Manifest, MediaType};

use crate::cases::{CASES, Case, Kind, MIB, middle};
use crate::client::Client;
use crate::report::Report;
use crate::server::Server;

/// Layers to a manifest.
const LAYERS: usize = 10;
const WRITERS: usize = 8;
const REPOSITORY: &str = "grown/large";
const ROUNDS: usize = 3;

/// What it is to reach: seconds, milliseconds, MiB, and times as slow as an empty store.
const OPENING: f64 = 2.0;
const PAGE: f64 = 2.0;
const MEMORY: f64 = 200.0;
const SLOWER: f64 = 1.3;

pub(crate) fn growth(folder: &Path, layers: usize, report: &mut Report) {
    let (grown, empty) = (folder.join("grown"), folder.join("empty"));
    let began = Instant::now();
    fill(&grown, layers / LAYERS);
    let took = began.elapsed().as_secs_f64();
    println!("{layers} layers, {} manifests and tags, put in {took:.0} s\n", layers / LAYERS);
    println!("| growth | | | | found | | most |");
    println!("|---|---|---|---|---|---|---|");
    report.most("opening, the first after all that was put", open(&grown).1, OPENING, "s");
    let (server, opening) = open(&grown);
    report.most("opening, from then on", opening, OPENING, "s");
    let memory = |server: &Server| server.memory("RssAnon") as f64 / MIB as f64;
    report.most("memory, opened", memory(&server), MEMORY, "MiB");

    let mut client = Client::new(&server.address);
    // Its connection is there already.
    client.head("/v2/");
    for (name, path) in [
        ("tags", format!("/v2/{REPOSITORY}/tags/list?n=100")),
        ("the catalog", "/v2/_catalog?n=100".to_owned()),
    ] {
        let mut times: Vec<f64> = (0..100).map(|_| time(|| client.get(&path))).collect();
        report.most(&format!("the first page of {name}, the first time"), times[0], PAGE, "ms");
        report.most(
            &format!("the first page of {name}, from then on"),
            middle(times.split_off(1)).unwrap(),
            PAGE,
            "ms",
        );
    }

    let beside = Server::sledge(&empty, &[]);
    for case in CASES.iter().filter(|case| is_compared(case)) {
        let (mut of_grown, mut of_empty) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            of_grown.push(case.run(&server.address, case.count * 2));
            of_empty.push(case.run(&beside.address, case.count * 2));
        }
        let slower = middle(of_empty).unwrap() / middle(of_grown).unwrap();
        report.most(&format!("{}, beside an empty store", case.name), slower, SLOWER, "times the time");
    }
    report.most("memory, after this load", memory(&server), MEMORY, "MiB");
}

fn is_compared(case: &Case) -> bool {
    let is_large = case.size > MIB && case.clients > 1;
    matches!(case.kind, Kind::Push | Kind::Pull) && !is_large
}

fn open(folder: &Path) -> (Server, f64) {
    let began = Instant::now();
    let server = Server::sledge(folder, &[]);
    (server, began.elapsed().as_secs_f64())
}

fn time<T>(act: impl FnOnce() -> T) -> f64 {
    let began = Instant::now();
    act();
    began.elapsed().as_secs_f64() * 1000.0
}

/// Puts so many manifests, each of layers of its own, and with a tag.
fn fill(folder: &Path, manifests: usize) {
    let registry = Registry::open(folder).unwrap();
    let repository = registry.repository(REPOSITORY).unwrap();
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let repository = &repository;
            scope.spawn(move || {
                for n in (writer..manifests).step_by(WRITERS) {
                    let pointers: Vec<_> = (0..LAYERS)
                        .map(|layer| {
                            let bytes = format!("{:066}", n * LAYERS + layer);
                            let stat = repository.layers().put(bytes.as_bytes()).unwrap();
                            json!({ "mediaType": "application/octet-stream", "digest": stat.digest, "size": stat.size })
                        })
                        .collect();
                    let (config, layers) = pointers.split_first().unwrap();
                    let document = json!({ "schemaVersion": 2, "config": config, "layers": layers });
                    let media_type = MediaType::OCI_MANIFEST.parse().unwrap();
                    let manifest = Manifest::new(media_type, document.to_string().into_bytes());
                    repository.manifests().put(&manifest, &[format!("v{n}").parse().unwrap()]).unwrap();
                }
            });
        }
    });
}
