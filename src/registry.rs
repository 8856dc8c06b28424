//! Registry, repository, manifests, layers: cheap handles over any store, for a program that keeps images.
//!
//! A handle is a name and a share of the store. That one exists says nothing about what the store holds.
//!
//! ```
//! use sledge::oci::{Manifest, MediaType};
//! use sledge::registry::Registry;
//! use sledge::store::memory::Memory;
//!
//! # fn main() -> sledge::Result<()> {
//! let registry = Registry::over(Memory::new());
//! let repository = registry.repository("library/hello")?;
//!
//! let config = repository.layers().put(b"{}")?.digest;
//! let layer = repository.layers().put(b"a layer's bytes")?.digest;
//! let document = format!(
//!     r#"{{
//!         "schemaVersion": 2,
//!         "config": {{"mediaType": "application/vnd.oci.image.config.v1+json", "digest": "{config}", "size": 2}},
//!         "layers": [{{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": "{layer}", "size": 15}}]
//!     }}"#
//! );
//! let manifest = Manifest::new(MediaType::OCI_MANIFEST.parse()?, document.into_bytes());
//! let digest = repository.manifests().put(&manifest, &["latest".parse()?])?;
//!
//! assert_eq!(repository.manifests().get("latest".parse()?)?.digest(), &digest);
//! let mut text = String::new();
//! std::io::Read::read_to_string(&mut repository.layers().fetch(&layer)?, &mut text).unwrap();
//! assert_eq!(text, "a layer's bytes");
//! for tagged in repository.manifests().tags() {
//!     assert_eq!(tagged?.digest, digest);
//! }
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "schema1")]
mod convert;
mod layers;
mod listing;
mod manifests;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::error::Result;
use crate::oci::RepositoryName;
use crate::store::sled::Sled;
use crate::store::{Page, Store};

pub use layers::{Layer, LayerUpload, Layers};
pub use listing::Listing;
pub use manifests::Manifests;

/// All repositories of a store.
#[derive(Clone)]
pub struct Registry {
    store: Arc<dyn Store>,
}

impl Registry {
    /// The registry in a folder, which is made if it is absent or empty. What is put into it survives a power cut.
    ///
    /// # Errors
    /// As [`Sled::open`].
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        Ok(Self::over(Sled::open(folder)?))
    }

    /// The registry over a store that is shared with others.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// The registry over a store of any kind.
    #[must_use]
    pub fn over(store: impl Store + 'static) -> Self {
        Self::new(Arc::new(store))
    }

    /// The store beneath.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The repository of this name, whether or not it holds anything yet.
    ///
    /// # Errors
    /// [`Error::NameInvalid`](crate::Error::NameInvalid).
    pub fn repository(&self, name: &str) -> Result<Repository> {
        Ok(self.repository_named(name.parse()?))
    }

    /// The repository of a name that was validated before.
    #[must_use]
    pub fn repository_named(&self, name: RepositoryName) -> Repository {
        Repository { store: Arc::clone(&self.store), name }
    }

    /// The repositories that hold anything, by name.
    pub fn repositories(&self) -> Listing<Repository> {
        let registry = self.clone();
        Listing::new(move |after: Option<&Repository>, limit| {
            let page = registry.store.repositories(after.map(Repository::name), limit)?;
            let items = page.items.into_iter().map(|name| registry.repository_named(name)).collect();
            Ok(Page { items, more: page.more })
        })
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

/// One repository: manifests and the layers they are made of, under a name.
#[derive(Clone)]
pub struct Repository {
    store: Arc<dyn Store>,
    name: RepositoryName,
}

impl Repository {
    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &RepositoryName {
        &self.name
    }

    /// Its manifests and tags.
    #[must_use]
    pub fn manifests(&self) -> Manifests {
        Manifests::new(self.clone())
    }

    /// Its layers, configs and other blobs.
    #[must_use]
    pub fn layers(&self) -> Layers {
        Layers::new(self.clone())
    }
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Repository({})", self.name)
    }
}
