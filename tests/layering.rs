//! The layers of the code, enforced: who may name whom, and what the crate is allowed to depend on.
#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

mod paths;

/// Each module with what it may name beside itself. A module's row covers the modules below it, except those that have
/// a row of their own: to name those, they must be listed too. A longer path allows that one item.
const LAYERS: [(&str, &[&str]); 11] = [
    ("oci", &[]),
    ("error", &["oci", "store::MAX_TAGS_PER_PUSH"]),
    ("store", &["oci", "error"]),
    ("store::memory", &["store", "oci", "error"]),
    ("store::sled", &["store", "oci", "error"]),
    // Registry::open names the durable store; nothing else up here does.
    ("filter", &["store", "oci", "error"]),
    ("registry", &["store", "oci", "error", "store::sled"]),
    ("conformance", &["store", "oci", "error"]),
    ("wire", &["oci", "error"]),
    ("access", &["wire", "oci", "error"]),
    ("server", &["access", "wire", "store", "oci", "error"]),
];

/// What the crate's root gives another name.
const AT_THE_ROOT: [(&str, &str); 3] =
    [("Error", "error::Error"), ("ErrorCode", "error::ErrorCode"), ("Result", "error::Result")];

/// The modules that alone may name a crate. Crates that are not listed may be named anywhere.
const CRATES: &[(&str, &[&str])] = &[
    ("bincode", &["store::sled"]),
    ("crc32fast", &["store::sled"]),
    ("crossbeam", &["store::sled"]),
    ("memmap2", &["store::sled"]),
    ("rustix", &["store::sled"]),
    ("sled", &["store::sled"]),
    ("base64", &["access", "oci"]),
    ("bcrypt", &["access"]),
    ("form_urlencoded", &["wire"]),
    ("http", &["wire", "server"]),
    ("http_body", &["server"]),
    ("http_body_util", &["server"]),
    ("hyper", &["server"]),
    ("hyper_util", &["server"]),
    ("prometheus_client", &["server"]),
    ("rustls", &["server"]),
    ("ring", &["access", "oci"]),
    ("tokio", &["server", "bin"]),
    ("tokio_rustls", &["server"]),
    ("x509_cert", &["server", "oci"]),
    ("data_encoding", &["oci"]),
    ("flate2", &["oci"]),
    ("md5", &["oci"]),
    ("p521", &["oci"]),
    ("sha1", &["oci"]),
    ("async_trait", &["bin"]),
    ("clap", &["bin"]),
    ("humantime", &["bin"]),
    ("listenfd", &["bin"]),
    ("opentelemetry", &["bin"]),
    ("opentelemetry_http", &["bin"]),
    ("opentelemetry_otlp", &["bin"]),
    ("opentelemetry_sdk", &["bin"]),
    ("parse_size", &["bin"]),
    ("sd_notify", &["bin"]),
    ("tikv_jemallocator", &["bin"]),
    ("toml", &["bin"]),
    ("tracing_opentelemetry", &["bin"]),
    ("ureq", &["bin"]),
    ("wildmatch", &["access", "bin"]),
    ("tracing_subscriber", &["bin"]),
];

/// The one file with `unsafe`.
const UNSAFE: &str = "src/store/sled/map.rs";

/// What the library depends on with no features.
const DEPENDENCIES: [&str; 11] = [
    "bincode",
    "crc32fast",
    "crossbeam",
    "memmap2",
    "rustix",
    "serde",
    "serde_json",
    "sha2",
    "sled",
    "thiserror",
    "uuid",
];

/// The longest that a file may be, in lines, without its tests.
const LONGEST: usize = 600;

#[test]
fn every_module_names_only_what_its_layer_may() {
    assert_none(sources().iter().flat_map(|(file, text)| check_paths(file, text)));
}

#[test]
fn every_module_has_a_layer() {
    assert_none(sources().iter().filter_map(|(file, _)| check_place(file)));
}

#[test]
fn unsafe_code_is_in_one_file() {
    assert_none(sources().iter().filter_map(|(file, text)| check_unsafe(file, text)));
}

#[test]
fn files_are_short() {
    assert_none(sources().iter().filter_map(|(file, text)| check_length(file, text)));
}

#[test]
fn the_library_depends_on_what_is_listed() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    assert_none(check_dependencies(&manifest));
}

fn assert_none(violations: impl IntoIterator<Item = String>) {
    let violations: Vec<String> = violations.into_iter().collect();
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

/// All files under src/, by their path from the crate's folder.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut folders, mut found) = (vec![root.join("src")], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let file = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
                found.push((file, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(found.iter().any(|(file, _)| file == "src/lib.rs"), "the sources were not found");
    found.sort();
    found
}

/// A text without its tests: they stand at the end, and may name what they like.
fn without_tests<'a>(file: &str, text: &'a str) -> &'a str {
    if file.ends_with("/tests.rs") || file.contains("/tests/") {
        return "";
    }
    let tests = text.match_indices("#[cfg(test)]").map(|(at, _)| at).find(|at| {
        let after = text[*at..].trim_start_matches("#[cfg(test)]").trim_start();
        after.starts_with("mod ")
            && after.split(['{', ';']).next().is_some_and(|head| after[head.len()..].starts_with('{'))
    });
    tests.map_or(text, |at| &text[..at])
}

/// The row that a path belongs to: the one of its longest beginning.
fn layer(path: &[String]) -> Option<&'static (&'static str, &'static [&'static str])> {
    LAYERS.iter().filter(|(name, _)| begins(path, name)).max_by_key(|(name, _)| name.len())
}

fn begins(path: &[String], with: &str) -> bool {
    let words: Vec<&str> = with.split("::").collect();
    path.len() >= words.len() && path.iter().zip(words).all(|(word, with)| word == with)
}

fn check_place(file: &str) -> Option<String> {
    let module = paths::module(file);
    let placed = module.is_empty() || module[0] == "bin" || layer(&module).is_some();
    (!placed).then(|| {
        format!("{file}: module {} has no row in LAYERS: say there what it may name", module.join("::"))
    })
}

fn check_paths(file: &str, text: &str) -> BTreeSet<String> {
    let module = paths::module(file);
    let own = layer(&module);
    let in_binary = begins(&module, "bin");
    let mut violations = BTreeSet::new();
    for path in paths::paths(without_tests(file, text)) {
        let child = [module.as_slice(), path.as_slice()].concat();
        let to_child =
            !in_binary && layer(&child).is_some_and(|(name, _)| own.is_none_or(|(own, _)| own != name));
        let named = match paths::absolute(&module, &path) {
            Some(named) => named,
            None if to_child => child,
            None => {
                violations.extend(check_crate(file, &module, &path[0]));
                continue;
            }
        };
        // The binary's `crate` is the binary, and the root may name all it is made of.
        let Some((own, may_name)) = own.filter(|_| !in_binary) else { continue };
        let named = at_its_place(named);
        let spelled = named.join("::");
        match layer(&named) {
            None if named.is_empty() => {}
            None => {
                violations.insert(format!(
                    "{file}: crate::{spelled} belongs to no layer: name it by the module that it is in, or give its \
                     module a row in LAYERS"
                ));
            }
            Some((target, _)) if target == own => {}
            Some((target, _)) => {
                let allowed = may_name.iter().any(|entry| {
                    let words: Vec<String> = entry.split("::").map(str::to_owned).collect();
                    begins(&named, entry) && layer(&words).is_some_and(|(name, _)| name == target)
                });
                if !allowed {
                    violations.insert(format!(
                        "{file}: {own} must not name crate::{spelled}: move what it needs down to a layer that both may \
                         name, or pass it in from above"
                    ));
                }
            }
        }
    }
    violations
}

fn at_its_place(named: Vec<String>) -> Vec<String> {
    let place = AT_THE_ROOT.iter().find(|(name, _)| named.first().is_some_and(|first| first == name));
    match place {
        Some((_, place)) => place.split("::").map(str::to_owned).collect(),
        None => named,
    }
}

fn check_crate(file: &str, module: &[String], named: &str) -> Option<String> {
    let (_, homes) = CRATES.iter().find(|(name, _)| *name == named)?;
    let at_home = homes.iter().any(|home| begins(module, home));
    (!at_home).then(|| {
        format!(
            "{file}: the crate {named} is named only under {}: ask there for what it gives",
            homes.join(", ")
        )
    })
}

fn check_unsafe(file: &str, text: &str) -> Option<String> {
    let found = paths::tokens(text).contains(&paths::Token::Word("unsafe".to_owned()));
    (found && file != UNSAFE).then(|| format!("{file}: `unsafe` belongs in {UNSAFE}, behind a safe function"))
}

fn check_length(file: &str, text: &str) -> Option<String> {
    let lines = without_tests(file, text).lines().count();
    (lines > LONGEST)
        .then(|| format!("{file}: {lines} lines without tests, at most {LONGEST}: find the seam in it"))
}

fn check_dependencies(manifest: &str) -> Vec<String> {
    let mut section = "";
    let mut violations = Vec::new();
    let mut found = BTreeSet::new();
    for line in manifest.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_end_matches(']');
            let inline = ["dependencies", "dev-dependencies", "build-dependencies"].contains(&section);
            if section.contains("dependencies") && !inline {
                violations.push(format!(
                    "Cargo.toml: [{section}]: write it as one line in [dependencies], where it is checked"
                ));
            }
        } else if let Some((name, value)) = line.split_once('=').filter(|_| section == "dependencies") {
            let value = value.split(" #").next().unwrap_or(value);
            if !value.contains("optional = true") {
                found.insert(name.trim());
            }
        }
    }
    let listed = BTreeSet::from(DEPENDENCIES);
    violations.extend(found.difference(&listed).map(|name| {
        format!("Cargo.toml: {name} is no dependency of the embedded library: make it optional, or argue for it in DEPENDENCIES")
    }));
    violations.extend(
        listed
            .difference(&found)
            .map(|name| format!("Cargo.toml: {name} is gone: take it out of DEPENDENCIES")),
    );
    violations
}

/// What the checker must let through, and what it must not.
#[test]
fn the_checker_sees_what_crosses_a_layer() {
    for (file, text) in [
        ("src/oci/name.rs", "use super::digest::Digest; use std::fmt; use serde::Serialize;"),
        ("src/error.rs", "#[error(\"x\")] struct X; const Y: usize = crate::store::MAX_TAGS_PER_PUSH;"),
        (
            "src/store/memory/upload.rs",
            "use super::{Memory, State}; use crate::store::Upload; use crate::Error;",
        ),
        (
            "src/store/sled/index.rs",
            "use sled::Tree; use crate::store::Page; fn f() { bincode::serialize(&1); }",
        ),
        ("src/registry/mod.rs", "let store = crate::store::sled::Sled::open(path)?;"),
        ("src/server/route.rs", "use crate::wire::Request; use hyper::body; // crate::store::sled::X"),
        ("src/oci/name.rs", "fn f() {}\n#[cfg(test)]\nmod tests { use crate::store::memory::Memory; }"),
        ("src/store/sled/tests.rs", "use crate::store::memory::Memory;"),
        ("src/bin/sledge/serve.rs", "use crate::Arguments; use sledge::store::sled::Sled; use tokio::net;"),
        ("src/lib.rs", "pub mod store; pub use store::sled::Sled; pub use error::Error;"),
    ] {
        assert_eq!(check_paths(file, text), BTreeSet::new(), "{text}");
    }
    for (file, text) in [
        ("src/oci/name.rs", "use crate::error::Error;"),
        ("src/oci/name.rs", "use super::super::store::Page;"),
        ("src/error.rs", "use crate::store::Page;"),
        ("src/store/mod.rs", "fn f() { crate::registry::Registry::new(); }"),
        ("src/store/mod.rs", "pub use memory::Memory;"),
        ("src/store/memory.rs", "use super::sled::Sled;"),
        ("src/store/memory.rs", "use super::{Page, sled::Sled};"),
        ("src/store/memory.rs", "use sled::Db;"),
        ("src/store/sled/index.rs", "use crate::store::{Page, memory::Memory};"),
        ("src/conformance/mod.rs", "use crate::store::memory::Memory;"),
        ("src/wire/mod.rs", "use crate::store::Page;"),
        ("src/wire/mod.rs", "use crate::server::Server;"),
        ("src/server/route.rs", "use crate::store::sled::Sled;"),
        ("src/server/route.rs", "use crate::registry::Registry;"),
        ("src/server/route.rs", "#[cfg(test)]\nuse crate::wire::X;\nuse crate::registry::Registry;"),
        ("src/error.rs", "impl From<::bincode::Error> for Error {}"),
        ("src/bin/sledge/serve.rs", "use sled::Db;"),
        ("src/oci/name.rs", "use crate::Something;"),
    ] {
        assert_eq!(check_paths(file, text).len(), 1, "{file}: {text}");
    }
    assert_eq!(check_place("src/store/sled/index.rs"), None);
    assert!(check_place("src/util.rs").is_some());
}

#[test]
fn the_checker_sees_unsafe_code_and_long_files() {
    assert_eq!(check_unsafe("src/oci/name.rs", "// unsafe\n#![deny(unsafe_code)]"), None);
    assert_eq!(check_unsafe(UNSAFE, "unsafe {}"), None);
    assert!(check_unsafe("src/oci/name.rs", "let map = unsafe { f() };").is_some());

    let long = "fn f() {}\n".repeat(LONGEST);
    assert_eq!(check_length("src/a.rs", &format!("{long}#[cfg(test)]\nmod tests {{\n{long}}}")), None);
    assert!(check_length("src/a.rs", &format!("{long}\n// one more")).is_some());
    assert!(check_length("src/a.rs", &format!("#[cfg(test)]\nmod tests;\n{long}")).is_some());
}

#[test]
fn the_checker_sees_a_dependency_come_and_go() {
    let table = |lines: &[&str]| format!("[package]\nname = \"x\"\n[dependencies]\n{}\n", lines.join("\n"));
    let mut lines: Vec<String> = DEPENDENCIES.iter().map(|name| format!("{name} = \"1\" # why")).collect();
    let mut checked = |line: &str| {
        lines.push(line.to_owned());
        let violations = check_dependencies(&table(&lines.iter().map(String::as_str).collect::<Vec<_>>()));
        lines.pop();
        violations.len()
    };
    assert_eq!(checked("# rand = \"1\""), 0);
    assert_eq!(checked("http = { version = \"1\", optional = true } # for the server"), 0);
    assert_eq!(checked("rand = \"1\""), 1);
    assert_eq!(checked("rand = { version = \"1\" } # never optional = true"), 1);
    assert_eq!(checked("[target.'cfg(unix)'.dependencies]\nnix = \"1\""), 1);
    assert_eq!(checked("[dev-dependencies]\ntempfile = \"3\""), 0);
    assert_eq!(check_dependencies("").len(), DEPENDENCIES.len());
}
