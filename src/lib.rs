//! Sledge keeps container images: blobs, manifests and tags, each under its digest or its name, in a folder of its own.
//!
//! It is a library that a program embeds as its local image cache, and (with the feature `server`) a registry that docker,
//! containerd, podman and skopeo push to and pull from. The language is that of the [OCI distribution] and [image]
//! specifications; Docker's schema 2 is served alike. The feature `schema1` adds what images had before: Docker's signed manifests,
//! and TarSums.
//!
//! What is promised: when a push returns, it survives a power cut; an upload goes on where it stood, after a restart too; bytes
//! come back exactly as they were given. [`store`] states the promises as rules, and the feature `conformance` checks them.
//!
//! # It is not
//!
//! - a container runtime: it neither unpacks layers nor runs images;
//! - a cluster: one process has a store, on one machine;
//! - asynchronous: the library blocks and needs no runtime. Only the server has one.
//!
//! # Example
//!
//! ```
//! use std::io::Read;
//! use sledge::Registry;
//! use sledge::oci::{Algorithm, Manifest, MediaType};
//!
//! # let folder = tempfile::tempdir()?;
//! # let folder = folder.path();
//! let registry = Registry::open(folder)?;
//! let repository = registry.repository("library/hello")?;
//!
//! let config = repository.layers().put(b"{}")?;
//! let document = format!(
//!     r#"{{ "schemaVersion": 2, "config": {{ "mediaType": "application/vnd.oci.empty.v1+json",
//!         "digest": "{}", "size": {} }}, "layers": [] }}"#,
//!     config.digest, config.size,
//! );
//! let manifest = Manifest::new(MediaType::OCI_MANIFEST.parse()?, document.into_bytes());
//! repository.manifests().put(&manifest, &["latest".parse()?])?;
//!
//! let found = repository.manifests().get("latest".parse()?)?;
//! assert_eq!(found.digest(), manifest.digest());
//! let mut text = String::new();
//! repository.layers().fetch(&Algorithm::Sha256.digest(b"{}"))?.read_to_string(&mut text)?;
//! assert_eq!(text, "{}");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [OCI distribution]: https://github.com/opencontainers/distribution-spec
//! [image]: https://github.com/opencontainers/image-spec

#[cfg(feature = "server")]
pub mod access;
#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
pub mod filter;
pub mod oci;
pub mod registry;
#[cfg(feature = "server")]
pub mod server;
pub mod store;
#[cfg(feature = "server")]
pub mod wire;

pub use error::{Error, ErrorCode, Result};
pub use registry::Registry;

/// The README's example is compiled.
#[cfg(all(doctest, feature = "server"))]
#[doc = include_str!("../README.md")]
struct Readme;
