//! `sledge convert`: old images in today's form.

use std::fmt;

use clap::Args;
use serde::{Deserialize, Serialize};
use sledge::oci::{Digest, Reference, RepositoryName, Tag};
use sledge::registry::Registry;
use sledge::store::sled::Sled;

use crate::config::Data;
use crate::operation::Operation;
use crate::printer::{Failure, Printer};

/// Store the OCI image that a schema 1 image is, beside it, also while the store is served
///
/// The history becomes a config, and layers without anything in them are left out. No layer is copied. The old manifest stays, and
/// its tag points at it as before: the new image gets a tag of its own. The same image is always converted to the same bytes.
#[derive(Args)]
pub(crate) struct Convert {
    #[command(flatten)]
    data: Data,
    /// The schema 1 image: its repository, and a tag or digest, such as library/hello:1.0 or library/hello@sha256:...
    image: Image,
    /// The tag of the OCI image
    tag: Tag,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// An image by its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Image {
    repository: String,
    reference: String,
}

impl std::str::FromStr for Image {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let split = text.split_once('@').or_else(|| text.rsplit_once(':'));
        let (repository, reference) = split.ok_or("an image is REPOSITORY:TAG, or REPOSITORY@DIGEST")?;
        repository.parse::<RepositoryName>().map_err(|error| error.to_string())?;
        reference.parse::<Reference>().map_err(|error| error.to_string())?;
        Ok(Self { repository: repository.to_owned(), reference: reference.to_owned() })
    }
}

impl Convert {
    pub(crate) fn run(self, printer: Printer) -> Result<(), Failure> {
        let operation = Operation::Convert { image: self.image, tag: self.tag.to_string() };
        let report = operation.run_on(&self.data.folder()?, printer)?;
        printer.report(&report, self.json)
    }
}

/// What was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Converted {
    repository: String,
    tag: String,
    digest: Digest,
}

pub(crate) fn convert(store: &Sled, image: &Image, tag: &str) -> sledge::Result<Converted> {
    let repository = Registry::over(store.clone()).repository(&image.repository)?;
    let digest = repository.manifests().convert(image.reference.parse()?, &tag.parse()?)?;
    Ok(Converted { repository: image.repository.clone(), tag: tag.to_owned(), digest })
}

impl fmt::Display for Converted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { repository, tag, digest } = self;
        writeln!(f, "converted: {repository}:{tag} is {digest}")
    }
}
