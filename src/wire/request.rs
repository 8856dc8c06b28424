//! Requests: one variant an endpoint of the distribution-spec, and the one parser of method, path and query.

use std::borrow::Cow;

use form_urlencoded::Serializer;
use http::Method;
use uuid::Uuid;

use crate::error::Error;
#[cfg(feature = "schema1")]
use crate::oci::TarSum;
use crate::oci::{Algorithm, Digest, MediaType, Reference, ReferenceError, RepositoryName, Tag};

/// A request to a registry, by the distribution-spec's endpoints. Headers and body are not part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Request {
    /// Whether this is a registry at all. `// end-1`
    Version,
    /// A blob's bytes. `// end-2`
    BlobGet {
        /// The repository that links it.
        repository: RepositoryName,
        /// The blob.
        digest: Digest,
    },
    /// Whether there is such a blob. `// end-2`
    BlobHead {
        /// The repository that links it.
        repository: RepositoryName,
        /// The blob.
        digest: Digest,
    },
    /// A manifest's bytes. `// end-3`
    ManifestGet {
        /// The repository.
        repository: RepositoryName,
        /// Tag or digest.
        reference: Reference,
    },
    /// Whether there is such a manifest, and which. `// end-3`
    ManifestHead {
        /// The repository.
        repository: RepositoryName,
        /// Tag or digest.
        reference: Reference,
    },
    /// Begins an upload session, also where a mount names what can be no repository. `// end-4a, end-4c, end-11`
    UploadStart {
        /// The repository.
        repository: RepositoryName,
        /// The algorithm of the digest to come, where it is announced.
        algorithm: Option<Algorithm>,
    },
    /// Uploads a whole blob at once. `// end-4b`
    UploadWhole {
        /// The repository.
        repository: RepositoryName,
        /// The digest that the body must have.
        digest: Digest,
    },
    /// Appends a chunk to a session. `// end-5`
    UploadChunk {
        /// The repository.
        repository: RepositoryName,
        /// The session.
        id: Uuid,
    },
    /// Appends the last chunk, if any, and ends the session with a blob. `// end-6`
    UploadFinish {
        /// The repository.
        repository: RepositoryName,
        /// The session.
        id: Uuid,
        /// The digest that the whole must have.
        digest: Digest,
    },
    /// Stores a manifest. `// end-7a, end-7b`
    ManifestPut {
        /// The repository.
        repository: RepositoryName,
        /// The tag to point at it, or the digest that it must have.
        reference: Reference,
        /// Tags to point at it; only with a digest.
        tags: Vec<Tag>,
    },
    /// A repository's tags. `// end-8a, end-8b`
    Tags {
        /// The repository.
        repository: RepositoryName,
        /// How many are asked for.
        n: Option<usize>,
        /// The tag after which to go on.
        last: Option<Tag>,
    },
    /// Deletes a tag, or a manifest and its tags. `// end-9`
    ManifestDelete {
        /// The repository.
        repository: RepositoryName,
        /// Tag or digest.
        reference: Reference,
    },
    /// Deletes a blob. `// end-10`
    BlobDelete {
        /// The repository.
        repository: RepositoryName,
        /// The blob.
        digest: Digest,
    },
    /// Mounts a blob of another repository. `// end-11`
    Mount {
        /// The repository to mount it in.
        repository: RepositoryName,
        /// The blob.
        digest: Digest,
        /// The repository to mount it from; any, if none is named.
        from: Option<RepositoryName>,
    },
    /// The manifests that refer to one. `// end-12a, end-12b`
    Referrers {
        /// The repository.
        repository: RepositoryName,
        /// The manifest that they refer to.
        digest: Digest,
        /// The only type of artifact that is wanted.
        artifact_type: Option<MediaType>,
        /// How many are asked for. No part of the spec; it stands in `Link`s.
        n: Option<usize>,
        /// The digest after which to go on. No part of the spec; it stands in `Link`s.
        last: Option<Digest>,
    },
    /// Where a session stands. `// end-13`
    UploadStatus {
        /// The repository.
        repository: RepositoryName,
        /// The session.
        id: Uuid,
    },
    /// Cancels a session. `// end-14`
    UploadCancel {
        /// The repository.
        repository: RepositoryName,
        /// The session.
        id: Uuid,
    },
    /// A blob by its TarSum, the name that it had before there were digests; as by its digest. `// end-2, end-4b, end-6`
    #[cfg(feature = "schema1")]
    TarSum {
        /// The repository.
        repository: RepositoryName,
        /// The blob, or what it is to be.
        tar_sum: TarSum,
        /// What is asked of it.
        act: TarSumAct,
    },
    /// The repositories. `// _catalog`, which Docker's registry has and the spec reserves.
    Repositories {
        /// How many are asked for.
        n: Option<usize>,
        /// The repository after which to go on.
        last: Option<RepositoryName>,
        /// The same where the client is not to know its name: words of the server's own, which go before `last`. No part of any
        /// spec; they stand in `Link`s.
        place: Option<String>,
    },
}

/// What can be asked of a blob by its TarSum: as by its digest.
#[cfg(feature = "schema1")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TarSumAct {
    /// Its bytes. `// end-2`
    Get,
    /// Whether there is such a blob. `// end-2`
    Head,
    /// Uploads it at once. `// end-4b`
    Whole,
    /// Ends an upload session with it. `// end-6`
    Finish(Uuid),
}

/// The longest of a server's own words for a place in a list, in characters: one that is longer is none.
const LONGEST_PLACE: usize = 512;

/// Why a request is none that can be served: its status and body are [`ErrorAnswer::from`](super::ErrorAnswer).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The path is no endpoint's.
    #[error("there is no such endpoint")]
    NoEndpoint,
    /// The endpoint has other methods.
    #[error("this endpoint takes only {allow}")]
    Method {
        /// The methods that it has, as the `Allow` header lists them.
        allow: &'static str,
    },
    /// A tag that no manifest can have, so none has it.
    #[error("manifest {0:?} is unknown: {1}")]
    NoSuchReference(String, ReferenceError),
    /// A manifest that is there, of a kind that the client does not say it accepts.
    #[error("manifest {0} is a signed manifest of schema 1, and the Accept header does not list that: {accepted}", accepted = MediaType::DOCKER_SCHEMA1_SIGNED)]
    NotAccepted(Digest),
    /// Not the id of an upload session, so there is none.
    #[error("upload session {0:?} is unknown")]
    NoSuchUpload(String),
    /// Bytes of a blob were asked for that it does not have.
    #[error("the blob has {total} bytes, the range begins beyond them")]
    Range {
        /// The blob's size in bytes, for the `Content-Range` header.
        total: u64,
    },
    /// Whoever asks has not proved who he is, and must for this.
    #[error("authentication required: log in first")]
    Unauthenticated {
        /// How, as the `WWW-Authenticate` header says it.
        challenge: String,
    },
    /// Credentials came that are no good.
    #[error("authentication failed: {reason}")]
    BadCredentials {
        /// What is wrong with them.
        reason: &'static str,
        /// As in [`Refusal::Unauthenticated`].
        challenge: String,
    },
    /// It is known who asks, and that he may not do this.
    #[error("access denied: this user may not do this in this repository")]
    Denied,
    /// Anything else.
    #[error(transparent)]
    Error(#[from] Error),
}

/// The endpoints as their paths tell them apart, with what is to be validated.
#[derive(Clone, Copy)]
enum Shape<'a> {
    Version,
    Repositories,
    Tags { name: &'a str },
    Manifest { name: &'a str, reference: &'a str },
    Blob { name: &'a str, digest: &'a str },
    Uploads { name: &'a str },
    Upload { name: &'a str, id: &'a str },
    Referrers { name: &'a str, digest: &'a str },
}

impl<'a> Shape<'a> {
    /// Names have any number of components, so a path is told by how it ends.
    fn of(path: &'a str) -> Option<Self> {
        let rest = match path.strip_prefix("/v2") {
            Some("" | "/") => return Some(Self::Version),
            Some("/_catalog") => return Some(Self::Repositories),
            Some(rest) => rest.strip_prefix('/')?,
            None => return None,
        };
        let (head, last) = split(rest);
        let (name, word) = split(head);
        match (word, last) {
            ("tags", "list") => Some(Self::Tags { name }),
            ("manifests", reference) => Some(Self::Manifest { name, reference }),
            ("referrers", digest) => Some(Self::Referrers { name, digest }),
            // Without the slash too, as clients leave it out; "uploads" is no digest.
            ("blobs", "uploads") => Some(Self::Uploads { name }),
            ("blobs", digest) => Some(Self::Blob { name, digest }),
            ("uploads", id) => match split(name) {
                (name, "blobs") if id.is_empty() => Some(Self::Uploads { name }),
                (name, "blobs") => Some(Self::Upload { name, id }),
                _ => None,
            },
            _ => None,
        }
    }

    const fn allow(self) -> &'static str {
        match self {
            Self::Version | Self::Repositories | Self::Tags { .. } | Self::Referrers { .. } => "GET, HEAD",
            Self::Manifest { .. } => "GET, HEAD, PUT, DELETE",
            Self::Blob { .. } => "GET, HEAD, DELETE",
            Self::Uploads { .. } => "POST",
            Self::Upload { .. } => "GET, HEAD, PATCH, PUT, DELETE",
        }
    }
}

/// What stands before the last slash, and after it.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

impl Request {
    /// Reads a request's method, path and query. The path is taken as it was sent: no name has characters that would have
    /// to be encoded. `HEAD` is read as `GET` where the spec does not tell them apart. Unknown parameters are passed over.
    ///
    /// # Errors
    /// [`Refusal`]: for paths, methods, names, references, digests, session ids and parameters that are none.
    pub fn parse(method: &Method, path: &str, query: Option<&str>) -> Result<Self, Refusal> {
        let shape = Shape::of(path).ok_or(Refusal::NoEndpoint)?;
        let query = Query(query.unwrap_or_default());
        let get = *method == Method::GET || *method == Method::HEAD;
        Ok(match shape {
            Shape::Version if get => Self::Version,
            Shape::Repositories if get => {
                let place = query.get("place").map(|place| shorten_to(&place, LONGEST_PLACE));
                Self::Repositories { n: query.n()?, last: query.parsed::<RepositoryName>("last")?, place }
            }
            Shape::Tags { name } if get => {
                Self::Tags { repository: repository(name)?, n: query.n()?, last: query.parsed("last")? }
            }
            Shape::Referrers { name, digest: text } if get => Self::Referrers {
                repository: repository(name)?,
                digest: digest(text)?,
                artifact_type: query.artifact_type()?,
                n: query.n()?,
                last: query.parsed("last")?,
            },
            Shape::Blob { name, digest: text } => {
                let repository = repository(name)?;
                #[cfg(feature = "schema1")]
                if let Some(tar_sum) = tar_sum(text) {
                    let act = match *method {
                        Method::GET => TarSumAct::Get,
                        Method::HEAD => TarSumAct::Head,
                        _ => return Err(Refusal::Method { allow: "GET, HEAD" }),
                    };
                    return Ok(Self::TarSum { repository, tar_sum: tar_sum?, act });
                }
                let digest = digest(text);
                match *method {
                    Method::GET => Self::BlobGet { repository, digest: digest? },
                    Method::HEAD => Self::BlobHead { repository, digest: digest? },
                    Method::DELETE => Self::BlobDelete { repository, digest: digest? },
                    _ => return Err(Refusal::Method { allow: shape.allow() }),
                }
            }
            Shape::Manifest { name, reference: text } => {
                let repository = repository(name)?;
                match *method {
                    Method::GET => Self::ManifestGet { repository, reference: known(text)? },
                    Method::HEAD => Self::ManifestHead { repository, reference: known(text)? },
                    Method::DELETE => Self::ManifestDelete { repository, reference: known(text)? },
                    Method::PUT => {
                        let reference = text.parse::<Reference>().map_err(Error::from)?;
                        // Without an `OCI-Tag` in the answer the client sees that a parameter was not honoured.
                        let tags = match reference {
                            Reference::Digest(_) => query.tags()?,
                            Reference::Tag(_) => Vec::new(),
                        };
                        Self::ManifestPut { repository, reference, tags }
                    }
                    _ => return Err(Refusal::Method { allow: shape.allow() }),
                }
            }
            Shape::Uploads { name } if *method == Method::POST => start(repository(name)?, &query)?,
            Shape::Upload { name, id } => {
                let repository = repository(name)?;
                let id = id.parse::<Uuid>().map_err(|_| Refusal::NoSuchUpload(shorten(id)));
                match *method {
                    Method::GET | Method::HEAD => Self::UploadStatus { repository, id: id? },
                    Method::PATCH => Self::UploadChunk { repository, id: id? },
                    Method::DELETE => Self::UploadCancel { repository, id: id? },
                    Method::PUT => {
                        let text = query.get("digest").unwrap_or_default();
                        #[cfg(feature = "schema1")]
                        if let Some(tar_sum) = tar_sum(&text) {
                            let (tar_sum, act) = (tar_sum?, TarSumAct::Finish(id?));
                            return Ok(Self::TarSum { repository, tar_sum, act });
                        }
                        Self::UploadFinish { repository, id: id?, digest: digest(&text)? }
                    }
                    _ => return Err(Refusal::Method { allow: shape.allow() }),
                }
            }
            _ => return Err(Refusal::Method { allow: shape.allow() }),
        })
    }

    /// The method, and the path with its query, that [`Request::parse`] reads as this request.
    #[must_use]
    pub fn to_path(&self) -> (Method, String) {
        let blob = |repository: &RepositoryName, digest: &Digest| format!("/v2/{repository}/blobs/{digest}");
        let manifest = |repository: &RepositoryName, reference: &Reference| {
            format!("/v2/{repository}/manifests/{reference}")
        };
        let uploads = |repository: &RepositoryName| format!("/v2/{repository}/blobs/uploads/");
        match self {
            Self::Version => (Method::GET, "/v2/".to_owned()),
            Self::BlobGet { repository, digest } => (Method::GET, blob(repository, digest)),
            Self::BlobHead { repository, digest } => (Method::HEAD, blob(repository, digest)),
            Self::BlobDelete { repository, digest } => (Method::DELETE, blob(repository, digest)),
            Self::ManifestGet { repository, reference } => (Method::GET, manifest(repository, reference)),
            Self::ManifestHead { repository, reference } => (Method::HEAD, manifest(repository, reference)),
            Self::ManifestDelete { repository, reference } => {
                (Method::DELETE, manifest(repository, reference))
            }
            Self::ManifestPut { repository, reference, tags } => {
                let tags = tags.iter().map(|tag| ("tag", Some(tag.to_string())));
                (Method::PUT, with_query(manifest(repository, reference), tags))
            }
            Self::UploadStart { repository, algorithm } => {
                let algorithm = ("digest-algorithm", algorithm.map(|algorithm| algorithm.to_string()));
                (Method::POST, with_query(uploads(repository), [algorithm]))
            }
            Self::UploadWhole { repository, digest } => {
                (Method::POST, with_query(uploads(repository), [("digest", Some(digest.to_string()))]))
            }
            Self::Mount { repository, digest, from } => {
                let from = ("from", from.as_ref().map(ToString::to_string));
                (Method::POST, with_query(uploads(repository), [("mount", Some(digest.to_string())), from]))
            }
            Self::UploadChunk { repository, id } => (Method::PATCH, format!("{}{id}", uploads(repository))),
            Self::UploadStatus { repository, id } => (Method::GET, format!("{}{id}", uploads(repository))),
            Self::UploadCancel { repository, id } => (Method::DELETE, format!("{}{id}", uploads(repository))),
            Self::UploadFinish { repository, id, digest } => {
                let digest = ("digest", Some(digest.to_string()));
                (Method::PUT, with_query(format!("{}{id}", uploads(repository)), [digest]))
            }
            #[cfg(feature = "schema1")]
            Self::TarSum { repository, tar_sum, act } => {
                let digest = ("digest", Some(tar_sum.to_string()));
                let blob = format!("/v2/{repository}/blobs/{tar_sum}");
                match act {
                    TarSumAct::Get => (Method::GET, blob),
                    TarSumAct::Head => (Method::HEAD, blob),
                    TarSumAct::Whole => (Method::POST, with_query(uploads(repository), [digest])),
                    TarSumAct::Finish(id) => {
                        (Method::PUT, with_query(format!("{}{id}", uploads(repository)), [digest]))
                    }
                }
            }
            Self::Tags { repository, n, last } => {
                let page = page(*n, last.as_ref());
                (Method::GET, with_query(format!("/v2/{repository}/tags/list"), page))
            }
            Self::Repositories { n, last, place } => {
                let place = ("place", place.clone());
                let query = page(*n, last.as_ref()).into_iter().chain([place]);
                (Method::GET, with_query("/v2/_catalog".to_owned(), query))
            }
            Self::Referrers { repository, digest, artifact_type, n, last } => {
                let filter = ("artifactType", artifact_type.as_ref().map(ToString::to_string));
                let query = [filter].into_iter().chain(page(*n, last.as_ref()));
                (Method::GET, with_query(format!("/v2/{repository}/referrers/{digest}"), query))
            }
        }
    }
}

/// The forms of a `POST`: a mount before a whole blob before a bare session, as clients name more than they need.
fn start(repository: RepositoryName, query: &Query<'_>) -> Result<Request, Error> {
    if let Some(digest) = query.parsed::<Digest>("mount")? {
        return Ok(match query.get("from").filter(|from| !from.is_empty()).map(|from| from.parse()) {
            None => Request::Mount { repository, digest, from: None },
            Some(Ok(from)) => Request::Mount { repository, digest, from: Some(from) },
            // No repository has such a name, so the blob is not there to be mounted: the client is to upload it.
            Some(Err(_)) => Request::UploadStart { repository, algorithm: Some(digest.algorithm()) },
        });
    }
    #[cfg(feature = "schema1")]
    if let Some(tar_sum) = query.get("digest").and_then(|text| tar_sum(&text)) {
        return Ok(Request::TarSum { repository, tar_sum: tar_sum?, act: TarSumAct::Whole });
    }
    if let Some(digest) = query.parsed("digest")? {
        return Ok(Request::UploadWhole { repository, digest });
    }
    Ok(Request::UploadStart { repository, algorithm: query.parsed("digest-algorithm")? })
}

fn repository(name: &str) -> Result<RepositoryName, Error> {
    name.parse().map_err(Error::NameInvalid)
}

fn digest(text: &str) -> Result<Digest, Error> {
    text.parse().map_err(Error::DigestInvalid)
}

/// What is written as a TarSum; nothing where it is not meant for one. A plus sign that a client forgot to encode in a query arrives
/// as a space.
#[cfg(feature = "schema1")]
fn tar_sum(text: &str) -> Option<Result<TarSum, Error>> {
    text.starts_with("tarsum").then(|| Ok(text.replacen(' ', "+", 1).parse::<TarSum>()?))
}

/// A reference of a manifest that is asked for: what cannot be a tag is not there, what is no digest is a mistake.
fn known(text: &str) -> Result<Reference, Refusal> {
    text.parse().map_err(|error| match error {
        ReferenceError::Tag(_) => Refusal::NoSuchReference(shorten(text), error),
        ReferenceError::Digest(error) => Error::DigestInvalid(error).into(),
    })
}

/// At most 80 characters of something that a stranger sent, for use in a message.
fn shorten(text: &str) -> String {
    shorten_to(text, 80)
}

fn shorten_to(text: &str, characters: usize) -> String {
    text.chars().take(characters).collect()
}

/// The spec has no code for a malformed parameter; of its fourteen, UNSUPPORTED is the one that says nothing untrue.
fn parameter(name: &str, error: &dyn std::error::Error) -> Error {
    Error::RequestInvalid(format!("parameter {name}: {error}"))
}

fn page(n: Option<usize>, last: Option<&impl ToString>) -> [(&'static str, Option<String>); 2] {
    [("n", n.map(|n| n.to_string())), ("last", last.map(ToString::to_string))]
}

fn with_query(path: String, query: impl IntoIterator<Item = (&'static str, Option<String>)>) -> String {
    let mut query = query.into_iter().filter_map(|(key, value)| Some((key, value?))).peekable();
    if query.peek().is_none() {
        return path;
    }
    let start = path.len() + 1;
    Serializer::for_suffix(path + "?", start).extend_pairs(query).finish()
}

/// A query string. Of a parameter that is given twice the first counts; an empty one counts as none.
struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    fn all(&self, key: &'static str) -> impl Iterator<Item = Cow<'a, str>> {
        form_urlencoded::parse(self.0.as_bytes())
            .filter(move |(found, value)| found == key && !value.is_empty())
            .map(|(_, value)| value)
    }

    fn get(&self, key: &'static str) -> Option<Cow<'a, str>> {
        self.all(key).next()
    }

    fn parsed<T: std::str::FromStr>(&self, key: &'static str) -> Result<Option<T>, Error>
    where
        Error: From<T::Err>,
    {
        self.get(key).map(|value| value.parse().map_err(Error::from)).transpose()
    }

    fn tags(&self) -> Result<Vec<Tag>, Error> {
        self.all("tag").map(|tag| tag.parse().map_err(Error::TagInvalid)).collect()
    }

    /// A plus sign that a client forgot to encode arrives as a space, which no media type has.
    fn artifact_type(&self) -> Result<Option<MediaType>, Error> {
        self.get("artifactType")
            .map(|value| value.replace(' ', "+").parse().map_err(|error| parameter("artifactType", &error)))
            .transpose()
    }

    /// More than fits is as good as all.
    fn n(&self) -> Result<Option<usize>, Error> {
        self.get("n")
            .map(|value| match value.parse() {
                Ok(n) => Ok(n),
                Err(_) if value.bytes().all(|b| b.is_ascii_digit()) => Ok(usize::MAX),
                Err(error) => Err(parameter("n", &error)),
            })
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    const ID: &str = "0190163d-8694-739b-aea5-966c26f8ad90";

    fn parse(method: &str, target: &str) -> Result<Request, Refusal> {
        let (path, query) =
            target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        Request::parse(&method.parse().unwrap(), path, query)
    }

    fn name(name: &str) -> RepositoryName {
        name.parse().unwrap()
    }

    #[test]
    fn every_request_is_read_back_as_what_it_was() {
        let digest: Digest = D.parse().unwrap();
        let sha512 = Algorithm::Sha512.digest(b"abc");
        let id: Uuid = ID.parse().unwrap();
        let tag: Tag = "v1.0".parse().unwrap();
        let mut requests = vec![Request::Version];
        for last in [None, Some(name("a/b"))] {
            let place = last.as_ref().map(|_| "x_-1".to_owned());
            requests.push(Request::Repositories { n: last.as_ref().map(|_| 0), last, place });
        }
        // Names that look like endpoints, and the longest one.
        let longest = "a/".repeat(127) + "a";
        for repository in
            ["a", "a/b/c", "blobs/uploads", "tags/list", "v2", "x/manifests", "referrers", &longest]
        {
            let repository = name(repository);
            requests.extend([
                Request::BlobGet { repository: repository.clone(), digest },
                Request::BlobHead { repository: repository.clone(), digest: sha512 },
                Request::BlobDelete { repository: repository.clone(), digest },
                Request::UploadWhole { repository: repository.clone(), digest: sha512 },
                Request::UploadChunk { repository: repository.clone(), id },
                Request::UploadStatus { repository: repository.clone(), id },
                Request::UploadCancel { repository: repository.clone(), id },
                Request::UploadFinish { repository: repository.clone(), id, digest },
            ]);
            for algorithm in [None, Some(Algorithm::Sha256), Some(Algorithm::Sha512)] {
                requests.push(Request::UploadStart { repository: repository.clone(), algorithm });
            }
            for from in [None, Some(name("library/debian"))] {
                requests.push(Request::Mount { repository: repository.clone(), digest, from });
            }
            for reference in [Reference::from(tag.clone()), Reference::from(digest), Reference::from(sha512)]
            {
                let tags = match reference {
                    Reference::Tag(_) => Vec::new(),
                    Reference::Digest(_) => (0..10).map(|n| format!("t-{n}").parse().unwrap()).collect(),
                };
                requests.extend([
                    Request::ManifestGet { repository: repository.clone(), reference: reference.clone() },
                    Request::ManifestHead { repository: repository.clone(), reference: reference.clone() },
                    Request::ManifestDelete { repository: repository.clone(), reference: reference.clone() },
                    Request::ManifestPut { repository: repository.clone(), reference, tags },
                ]);
            }
            for n in [None, Some(0), Some(usize::MAX)] {
                requests.push(Request::Tags {
                    repository: repository.clone(),
                    n,
                    last: n.map(|_| tag.clone()),
                });
                requests.push(Request::Referrers {
                    repository: repository.clone(),
                    digest,
                    artifact_type: n.map(|_| "application/a+b".parse().unwrap()),
                    n,
                    last: n.map(|_| sha512),
                });
            }
        }
        for request in requests {
            let (method, path) = request.to_path();
            assert_eq!(parse(method.as_str(), &path).unwrap(), request, "{method} {path}");
        }
    }

    #[test]
    fn the_forms_that_clients_use_are_read_alike() {
        let start = Request::UploadStart { repository: name("a"), algorithm: None };
        for target in ["/v2/a/blobs/uploads/", "/v2/a/blobs/uploads", "/v2/a/blobs/uploads/?digest=&x=y"] {
            assert_eq!(parse("POST", target).unwrap(), start, "{target}");
        }
        let finish = Request::UploadFinish {
            repository: name("a"),
            id: ID.parse().unwrap(),
            digest: D.parse().unwrap(),
        };
        for query in [format!("digest={D}"), format!("_state=x&digest={}", D.replace(':', "%3A"))] {
            assert_eq!(parse("PUT", &format!("/v2/a/blobs/uploads/{ID}?{query}")).unwrap(), finish);
        }
        let mount = |from| Request::Mount { repository: name("a"), digest: D.parse().unwrap(), from };
        let post = |query: &str| parse("POST", &format!("/v2/a/blobs/uploads/?mount={D}{query}")).unwrap();
        assert_eq!(post(""), mount(None));
        assert_eq!(post("&from="), mount(None));
        assert_eq!(post(&format!("&from=b%2Fc&digest={D}")), mount(Some(name("b/c"))));
        let fallback = Request::UploadStart { repository: name("a"), algorithm: Some(Algorithm::Sha256) };
        assert_eq!(post("&from=NO"), fallback);
        assert_eq!(parse("HEAD", "/v2").unwrap(), Request::Version);
        assert_eq!(
            parse("GET", &format!("/v2/a/referrers/{D}?artifactType=a/b+c&ns=docker.io")).unwrap(),
            parse("GET", &format!("/v2/a/referrers/{D}?artifactType=a/b%2Bc")).unwrap()
        );
    }

    #[test]
    fn what_is_wrong_is_told_apart() {
        let long = format!("/v2/{}/tags/list", "a".repeat(10_000));
        let no_name = [
            "/v2//tags/list",
            "/v2/tags/list",
            "/v2/../etc/tags/list",
            "/v2/a//b/tags/list",
            "/v2/A/tags/list",
            "/v2/a%2fb/tags/list",
            "/v2/a/../b/tags/list",
            "/v2/_oci/tags/list",
            "/v2/a/./tags/list",
            &long,
        ];
        for path in no_name {
            let found = parse("GET", path);
            assert!(matches!(found, Err(Refusal::Error(Error::NameInvalid(_)))), "{path}: {found:?}");
        }
        for path in [
            "",
            "/",
            "/v1/",
            "/v3/a/tags/list",
            "/v2a",
            "/v2/a",
            "/v2/a/tags",
            "/v2/a/tags/list/",
            "/v2/_oci/ext/x",
        ] {
            assert!(matches!(parse("GET", path), Err(Refusal::NoEndpoint)), "{path}");
        }
        for (method, path, expected) in [
            ("POST", "/v2/", "GET, HEAD"),
            ("DELETE", "/v2/a/tags/list", "GET, HEAD"),
            ("PUT", "/v2/a/blobs/x", "GET, HEAD, DELETE"),
            ("PATCH", "/v2/a/manifests/x", "GET, HEAD, PUT, DELETE"),
            ("GET", "/v2/a/blobs/uploads/", "POST"),
            ("POST", "/v2/a/blobs/uploads/x", "GET, HEAD, PATCH, PUT, DELETE"),
            ("BREW", "/v2/_catalog", "GET, HEAD"),
        ] {
            let found = parse(method, path);
            assert!(
                matches!(found, Err(Refusal::Method { allow }) if allow == expected),
                "{method} {path}: {found:?}"
            );
        }
        for (method, path) in [
            ("GET", "/v2/a/blobs/sha256:baddigeststring"),
            ("GET", "/v2/a/blobs/"),
            ("GET", "/v2/a/manifests/sha256:baddigeststring"),
            ("PUT", "/v2/a/manifests/sha256:baddigeststring"),
            ("GET", "/v2/a/referrers/latest"),
            ("POST", "/v2/a/blobs/uploads/?digest=md5:00"),
            ("POST", "/v2/a/blobs/uploads/?mount=x"),
            ("POST", "/v2/a/blobs/uploads/?digest-algorithm=md5"),
            ("PUT", "/v2/a/blobs/uploads/0190163d-8694-739b-aea5-966c26f8ad90"),
        ] {
            let found = parse(method, path);
            assert!(
                matches!(found, Err(Refusal::Error(Error::DigestInvalid(_)))),
                "{method} {path}: {found:?}"
            );
        }
        assert!(matches!(parse("GET", "/v2/a/manifests/.x"), Err(Refusal::NoSuchReference(..))));
        assert!(matches!(parse("PUT", "/v2/a/manifests/.x"), Err(Refusal::Error(Error::TagInvalid(_)))));
        assert!(matches!(parse("PATCH", "/v2/a/blobs/uploads/x"), Err(Refusal::NoSuchUpload(_))));
        for n in ["-1", "x", "1.5", "%00"] {
            let found = parse("GET", &format!("/v2/_catalog?n={n}"));
            assert!(matches!(found, Err(Refusal::Error(Error::RequestInvalid(_)))), "{n}: {found:?}");
        }
        let many = "9".repeat(30);
        let all = parse("GET", &format!("/v2/_catalog?n={many}")).unwrap();
        assert_eq!(all, Request::Repositories { n: Some(usize::MAX), last: None, place: None });
    }
}
