//! Uploading blobs, mounting them, and putting manifests.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::header::{
    CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, IF_MATCH, IF_NONE_MATCH, LOCATION,
    RANGE,
};
use http::{Response, StatusCode};
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;

use super::admission::Caller;
use super::arriving::Arriving;
use super::body::Body;
use super::bridge::{self, Dropped, Heavy, Held, Place, Sink, blocking};
use super::reply::{CONTENT_DIGEST, OCI_SUBJECT, OCI_TAG, Reply, UPLOAD_UUID, blob_path, only, path};
use crate::error::{Error, Result};
use crate::oci::{
    Algorithm, Contents, Digest, MAX_MANIFEST_SIZE, Manifest, ManifestError, ManifestKind, MediaType,
    Reference, RepositoryName, Tag,
};
use crate::store::{
    Condition, MAX_TAGS_PER_PUSH, MountSource, PutManifest, Store, Upload, UploadOptions, UploadStatus,
};
use crate::wire::{ChunkRange, ErrorAnswer, Refusal, Request};
#[cfg(feature = "schema1")]
use {super::schema1, crate::oci::TarSum, crate::store::tarsum};

/// A body whose declared length is at most this, in bytes, is gathered whole and then stored in one hop.
const SMALL: usize = 64 << 10;

/// What a request brings.
pub(super) struct Sent<'a> {
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a mut Arriving,
}

impl Sent<'_> {
    /// The part of the blob that the body says it is.
    fn chunk(&self) -> Result<Option<ChunkRange>> {
        if !self.headers.contains_key(CONTENT_RANGE) {
            return Ok(None);
        }
        let range = only(self.headers, CONTENT_RANGE).unwrap_or_default().parse::<ChunkRange>();
        let range = range.map_err(|error| Error::RequestInvalid(error.to_string()))?;
        match self.body.declared().filter(|declared| *declared != range.length) {
            Some(received) => Err(Error::SizeMismatch { declared: range.length, received }),
            None => Ok(Some(range)),
        }
    }
}

/// The session that bytes go into.
#[derive(Clone, Copy)]
enum Session {
    /// A new one that ends with this request, one way or the other: its client never learns its id.
    New,
    Existing(Uuid),
}

impl Session {
    const fn dropped(self) -> Dropped {
        match self {
            Self::New => Dropped::Cancelled,
            Self::Existing(_) => Dropped::Suspended,
        }
    }

    /// What it is after an error. What the budget has no room for ends with its request too: its bytes would take the room of
    /// what fits.
    const fn after(self, error: &Error) -> Self {
        match error {
            Error::OverBudget { .. } => Self::New,
            _ => self,
        }
    }
}

/// What a blob is to be.
pub(super) enum Name {
    Digest(Digest),
    /// To find out takes a turn.
    #[cfg(feature = "schema1")]
    TarSum(TarSum, Heavy),
}

/// What comes of the session when the body is in.
enum End {
    Suspend,
    Commit(Name),
}

impl End {
    /// The algorithm of the digest that the blob is to have.
    const fn algorithm(&self) -> Option<Algorithm> {
        match self {
            Self::Suspend => None,
            Self::Commit(Name::Digest(digest)) => Some(digest.algorithm()),
            #[cfg(feature = "schema1")]
            Self::Commit(Name::TarSum(..)) => Some(Algorithm::Sha256),
        }
    }

    /// What to wait for before it, when the body is in: who sends slowly is to keep nobody else from his turn.
    #[cfg_attr(not(feature = "schema1"), expect(clippy::unused_async, reason = "nothing to wait for"))]
    async fn turn(&self) -> Result<Option<OwnedSemaphorePermit>> {
        match self {
            #[cfg(feature = "schema1")]
            Self::Commit(Name::TarSum(_, heavy)) => heavy.turn().await.map(Some),
            _ => Ok(None),
        }
    }
}

/// Where an upload stands after a request.
struct Stand {
    id: Uuid,
    offset: u64,
    /// What has become of it.
    blob: Option<Digest>,
}

pub(super) async fn start(
    store: &Arc<dyn Store>,
    repository: RepositoryName,
    algorithm: Option<Algorithm>,
) -> Result<Response<Body>, Refusal> {
    let store = Arc::clone(store);
    let mut options = UploadOptions::new();
    options.algorithm = algorithm;
    let (repository, stand) = blocking(move || {
        let upload = store.start_upload(&repository, &options)?;
        let stand = Stand { id: upload.id(), offset: upload.offset(), blob: None };
        upload.suspend()?;
        Ok((repository, stand))
    })
    .await?;
    Ok(session(StatusCode::ACCEPTED, &repository, &stand).done())
}

pub(super) async fn mount(
    store: &Arc<dyn Store>,
    caller: &Caller,
    repository: RepositoryName,
    digest: Digest,
    from: Option<RepositoryName>,
) -> Result<Response<Body>, Refusal> {
    // A source that the caller may not read looks as if it had nothing.
    if from.as_ref().is_some_and(|from| !caller.may_pull(from)) {
        return start(store, repository, Some(digest.algorithm())).await;
    }
    let (mounting, caller) = (Arc::clone(store), caller.clone());
    let (repository, mounted) = blocking(move || {
        let readable = |name: &RepositoryName| caller.may_pull(name);
        let source = from.as_ref().map_or(MountSource::Any(&readable), MountSource::Repository);
        let mounted = mounting.mount(&repository, &digest, &source);
        Ok((repository, mounted))
    })
    .await?;
    match mounted {
        Ok(_) => Ok(created(&repository, &digest)),
        // What cannot be mounted is to be uploaded.
        Err(Error::BlobUnknown { .. } | Error::RepositoryUnknown(_)) => {
            start(store, repository, Some(digest.algorithm())).await
        }
        Err(error) => Err(error.into()),
    }
}

pub(super) async fn whole(
    store: &Arc<dyn Store>,
    repository: RepositoryName,
    name: Name,
    sent: Sent<'_>,
) -> Result<Response<Body>, Refusal> {
    let stand = upload(store, &repository, Session::New, End::Commit(name), sent).await?;
    Ok(answer(&repository, &stand))
}

pub(super) async fn chunk(
    store: &Arc<dyn Store>,
    repository: RepositoryName,
    id: Uuid,
    sent: Sent<'_>,
) -> Result<Response<Body>, Refusal> {
    match upload(store, &repository, Session::Existing(id), End::Suspend, sent).await {
        Ok(stand) => Ok(answer(&repository, &stand)),
        Err(refusal) => misplaced(&repository, refusal),
    }
}

pub(super) async fn finish(
    store: &Arc<dyn Store>,
    repository: RepositoryName,
    id: Uuid,
    name: Name,
    sent: Sent<'_>,
) -> Result<Response<Body>, Refusal> {
    match upload(store, &repository, Session::Existing(id), End::Commit(name), sent).await {
        Ok(stand) => Ok(answer(&repository, &stand)),
        Err(refusal) => misplaced(&repository, refusal),
    }
}

pub(super) async fn status(
    store: &Arc<dyn Store>,
    repository: RepositoryName,
    id: Uuid,
) -> Result<Response<Body>, Refusal> {
    let store = Arc::clone(store);
    let (repository, UploadStatus { offset, .. }) = blocking(move || {
        let status = store.upload_status(&repository, id)?;
        Ok((repository, status))
    })
    .await?;
    Ok(session(StatusCode::NO_CONTENT, &repository, &Stand { id, offset, blob: None }).done())
}

pub(super) async fn cancel(
    store: &Arc<dyn Store>,
    repository: RepositoryName,
    id: Uuid,
) -> Result<Response<Body>, Refusal> {
    let store = Arc::clone(store);
    blocking(move || {
        // Cancelling what is not there succeeds, and a client is to learn that it is not.
        store.upload_status(&repository, id)?;
        store.cancel_upload(&repository, id)
    })
    .await?;
    Ok(Reply::new(StatusCode::NO_CONTENT).done())
}

/// Puts a body into a session.
async fn upload(
    store: &Arc<dyn Store>,
    repository: &RepositoryName,
    session: Session,
    then: End,
    sent: Sent<'_>,
) -> Result<Stand, Refusal> {
    let range = sent.chunk()?;
    let then = Arc::new(then);
    let declared = sent.body.declared();
    let mut options = UploadOptions::new();
    options.coming = declared;
    options.algorithm = then.algorithm();
    // How much of an existing session lies before this body is known only where the body says so.
    options.size = match (session, then.as_ref(), range) {
        (Session::New, ..) => declared,
        (_, End::Commit(_), Some(range)) => range.start.checked_add(range.length),
        _ => None,
    };
    let open = {
        let (store, repository) = (Arc::clone(store), repository.clone());
        move || open(store.as_ref(), &repository, session, &options, range)
    };
    let finish = {
        let (store, repository, then) = (Arc::clone(store), repository.clone(), Arc::clone(&then));
        move |turn: Option<OwnedSemaphorePermit>, upload, written| {
            let finished = finish_upload(store.as_ref(), &repository, upload, session, &then, written);
            drop(turn);
            finished
        }
    };

    if declared.is_some_and(|length| length <= SMALL as u64) {
        let bytes = sent.body.gather(SMALL).await?.unwrap_or_default();
        let turn = then.turn().await?;
        return Ok(blocking(move || {
            let mut upload = open()?;
            let written = bridge::write(upload.as_mut(), &bytes);
            finish(turn, upload, written)
        })
        .await?);
    }

    let held = blocking(move || open().map(|upload| Held::new(upload, session.dropped()))).await?;
    let mut sink = Sink::new(held, declared);
    // A body without a declared length is held to the range that it claims to be.
    let limit = range.map_or(u64::MAX, |range| range.length);
    let taken = sink.take(sent.body, limit).await.and_then(|received| {
        match range.filter(|range| range.length != received) {
            Some(range) => Err(Error::SizeMismatch { declared: range.length, received }.into()),
            None => Ok(()),
        }
    });
    match taken {
        Ok(()) => {
            let turn = then.turn().await?;
            Ok(sink.end(move |upload, written| finish(turn, upload, written)).await?)
        }
        // Put away before the answer, so that a client that tries again at once does not meet its own last request.
        Err(refusal) => {
            let session = match &refusal {
                Refusal::Error(error) => session.after(error),
                _ => session,
            };
            if let Err(error) = sink.end(move |upload, _| put_away(upload, session)).await {
                tracing::debug!(%error, "an upload that failed could not be put away");
            }
            Err(refusal)
        }
    }
}

/// Takes up a session where the request goes on. Blocks.
fn open(
    store: &dyn Store,
    repository: &RepositoryName,
    session: Session,
    options: &UploadOptions,
    range: Option<ChunkRange>,
) -> Result<Box<dyn Upload>> {
    let upload = match session {
        Session::New => store.start_upload(repository, options)?,
        Session::Existing(id) => store.resume_upload(repository, id, options).inspect_err(|error| {
            if matches!(session.after(error), Session::New)
                && let Err(error) = store.cancel_upload(repository, id)
            {
                tracing::warn!(%error, "an upload that has no room could not be cancelled");
            }
        })?,
    };
    let offset = upload.offset();
    match range.filter(|range| range.start != offset) {
        Some(range) => {
            let error = Error::UploadOffset { id: upload.id(), offset, requested: range.start };
            Err(abandon(upload, session, error))
        }
        None => Ok(upload),
    }
}

/// What comes of a session after its bytes were written, or were not. Blocks.
fn finish_upload(
    store: &dyn Store,
    repository: &RepositoryName,
    upload: Box<dyn Upload>,
    session: Session,
    then: &End,
    written: Result<()>,
) -> Result<Stand> {
    if let Err(error) = written {
        return Err(abandon(upload, session, error));
    }
    let (id, offset) = (upload.id(), upload.offset());
    let ended = match then {
        End::Suspend => upload.suspend().map(|()| None),
        End::Commit(Name::Digest(digest)) => upload.commit(digest).map(|_| Some(*digest)),
        #[cfg(feature = "schema1")]
        End::Commit(Name::TarSum(tar_sum, _)) => {
            tarsum::commit(store, repository, upload, tar_sum).map(|stat| Some(stat.digest))
        }
    };
    let error = match ended {
        Ok(blob) => return Ok(Stand { id, offset, blob }),
        Err(error) => error,
    };
    // After a failure that is not its bytes' fault the session stands, for a client that knows of it.
    if matches!(session.after(&error), Session::New)
        && !matches!(error, Error::DigestMismatch(_))
        && let Err(error) = store.cancel_upload(repository, id)
    {
        tracing::warn!(%error, "an upload that nobody can go on with could not be cancelled");
    }
    Err(error)
}

/// Puts a session away because of an error, which matters more than another one on the way. Blocks.
fn abandon(upload: Box<dyn Upload>, session: Session, error: Error) -> Error {
    if let Err(error) = put_away(upload, session.after(&error)) {
        tracing::debug!(%error, "an upload that failed could not be put away");
    }
    error
}

/// Blocks.
fn put_away(upload: Box<dyn Upload>, session: Session) -> Result<()> {
    match session {
        Session::New => upload.cancel(),
        Session::Existing(_) => upload.suspend(),
    }
}

/// An answer that tells where a session is and where it stands.
fn session(status: StatusCode, repository: &RepositoryName, stand: &Stand) -> Reply {
    let location = Request::UploadStatus { repository: repository.clone(), id: stand.id };
    Reply::new(status)
        .header(LOCATION, path(&location))
        // The last byte's position: of an empty session the spec has it say 0-0 as well.
        .header(RANGE, format!("0-{}", stand.offset.saturating_sub(1)))
        .header(UPLOAD_UUID, stand.id)
}

fn answer(repository: &RepositoryName, stand: &Stand) -> Response<Body> {
    match &stand.blob {
        Some(digest) => created(repository, digest),
        None => session(StatusCode::ACCEPTED, repository, stand).done(),
    }
}

/// A chunk for another place than the session stands at is told where that is.
fn misplaced(repository: &RepositoryName, refusal: Refusal) -> Result<Response<Body>, Refusal> {
    let Refusal::Error(error @ Error::UploadOffset { id, offset, .. }) = &refusal else {
        return Err(refusal);
    };
    let told = session(StatusCode::OK, repository, &Stand { id: *id, offset: *offset, blob: None }).done();
    let mut response = Reply::from(ErrorAnswer::from(error)).done();
    response.headers_mut().extend(told.into_parts().0.headers);
    Ok(response)
}

fn created(repository: &RepositoryName, digest: &Digest) -> Response<Body> {
    Reply::new(StatusCode::CREATED)
        .header(LOCATION, blob_path(repository, digest))
        .header(CONTENT_DIGEST, digest)
        .done()
}

pub(super) async fn manifest(
    store: &Arc<dyn Store>,
    heavy: &Heavy,
    repository: RepositoryName,
    reference: Reference,
    mut tags: Vec<Tag>,
    sent: Sent<'_>,
) -> Result<Response<Body>, Refusal> {
    if tags.len() > MAX_TAGS_PER_PUSH {
        return Err(Error::TooManyTags(tags.len()).into());
    }
    // Each is set once, and told once.
    let mut seen = BTreeSet::new();
    tags.retain(|tag| seen.insert(tag.clone()));
    check_unpacked(sent.headers)?;
    let condition = condition(sent.headers)?;
    let stated = stated_media_type(sent.headers)?;
    let (bytes, place) = manifest_bytes(heavy, sent).await?;
    let is_large = bytes.len() > SMALL;
    let (store, bytes) = (Arc::clone(store), Arc::<[u8]>::from(bytes));
    // Nothing where it takes long, and is not to.
    let put = Arc::new(move |may_take_long: bool| {
        let _place = &place;
        #[cfg(feature = "schema1")]
        if schema1::is_meant(stated.as_ref(), &bytes) {
            let options = PutManifest::new().tags(&tags).condition(condition);
            let digest = schema1::put(store.as_ref(), &repository, &reference, &bytes, &options)?;
            return Ok(Some(pushed(&repository, digest, &tags, None)));
        }
        let media_type = match &stated {
            Some(media_type) => media_type.clone(),
            None => Manifest::media_type_of(&bytes)?,
        };
        let (manifest, to_set) = match &reference {
            Reference::Digest(digest) => {
                (Manifest::verified(media_type, Arc::clone(&bytes), digest)?, tags.clone())
            }
            Reference::Tag(tag) => (Manifest::new(media_type, Arc::clone(&bytes)), vec![tag.clone()]),
        };
        let contents = manifest.contents()?;
        // Not without its signatures.
        if contents.kind == ManifestKind::Schema1 {
            return Err(ManifestError::UnknownMediaType(manifest.media_type().clone()).into());
        }
        if !may_take_long && takes_long(&contents) {
            return Ok(None);
        }
        #[cfg(feature = "schema1")]
        tarsum::check_name(store.as_ref(), &repository, &contents)?;
        let options = PutManifest::new().tags(&to_set).condition(condition);
        store.put_manifest(&repository, &manifest, &options)?;
        Ok(Some(pushed(&repository, *manifest.digest(), &tags, contents.subject)))
    });
    if !is_large {
        let put = Arc::clone(&put);
        if let Some(response) = blocking(move || put(false)).await? {
            return Ok(response);
        }
    }
    let response = heavy.blocking(move || put(true)).await?;
    response.ok_or_else(|| Error::Unavailable("a manifest was neither put nor refused".to_owned()).into())
}

/// Whether to look at a manifest takes as long as to read what it names.
#[cfg(feature = "schema1")]
fn takes_long(contents: &Contents) -> bool {
    tarsum::is_name(contents)
}

#[cfg(not(feature = "schema1"))]
const fn takes_long(_: &Contents) -> bool {
    false
}

fn pushed(
    repository: &RepositoryName,
    digest: Digest,
    tags: &[Tag],
    subject: Option<Digest>,
) -> Response<Body> {
    let location = Request::ManifestGet { repository: repository.clone(), reference: digest.into() };
    let mut reply =
        Reply::new(StatusCode::CREATED).header(LOCATION, path(&location)).header(CONTENT_DIGEST, digest);
    for tag in tags {
        reply = reply.header(OCI_TAG, tag);
    }
    if let Some(subject) = subject {
        reply = reply.header(OCI_SUBJECT, subject);
    }
    reply.done()
}

/// Nobody unpacks a manifest that was packed for the way: a few bytes could become gigabytes, and its digest is that of what is stored.
fn check_unpacked(headers: &HeaderMap) -> Result<()> {
    let as_it_is = |encoding: &HeaderValue| encoding.as_bytes().eq_ignore_ascii_case(b"identity");
    match headers.get_all(CONTENT_ENCODING).iter().all(as_it_is) {
        true => Ok(()),
        false => {
            let words = "a manifest is sent as it is: leave out the Content-Encoding";
            Err(Error::RequestInvalid(words.to_owned()))
        }
    }
}

/// The bytes, and a large manifest's place, to be kept as long as they are.
async fn manifest_bytes(heavy: &Heavy, sent: Sent<'_>) -> Result<(Vec<u8>, Option<Place>), Refusal> {
    let declared = sent.body.declared().map_or(0, |length| usize::try_from(length).unwrap_or(usize::MAX));
    if declared > MAX_MANIFEST_SIZE {
        return Err(Error::from(ManifestError::TooLarge(declared)).into());
    }
    let (mut bytes, mut place) = (Vec::with_capacity(declared.min(SMALL)), None);
    while let Some(frame) = sent.body.next().await? {
        let length = bytes.len() + frame.len();
        if length > MAX_MANIFEST_SIZE {
            return Err(Error::from(ManifestError::TooLarge(MAX_MANIFEST_SIZE + 1)).into());
        }
        if length > SMALL && place.is_none() {
            place = Some(heavy.place()?);
        }
        bytes.extend_from_slice(&frame);
    }
    Ok((bytes, place))
}

/// The media type that the client states, if it does: what HTTP libraries put there by themselves says nothing.
fn stated_media_type(headers: &HeaderMap) -> Result<Option<MediaType>> {
    let Some(header) = headers.get(CONTENT_TYPE) else { return Ok(None) };
    let media_type = MediaType::from_content_type(&String::from_utf8_lossy(header.as_bytes()))?;
    Ok(match media_type.as_str() {
        "application/octet-stream"
        | "application/json"
        | "application/x-www-form-urlencoded"
        | "text/plain" => None,
        _ => Some(media_type),
    })
}

/// What must hold of the tags, as HTTP's conditional requests say it.
fn condition(headers: &HeaderMap) -> Result<Condition> {
    if !headers.contains_key(IF_MATCH) && !headers.contains_key(IF_NONE_MATCH) {
        return Ok(Condition::Any);
    }
    let digest = |etag: &str| etag.strip_prefix('"')?.strip_suffix('"')?.parse::<Digest>().ok();
    match (only(headers, IF_MATCH), only(headers, IF_NONE_MATCH)) {
        (None, Some("*")) => Ok(Condition::Absent),
        (Some(etag), None) if digest(etag).is_some() => {
            Ok(digest(etag).map_or(Condition::Any, Condition::Is))
        }
        _ => Err(Error::RequestInvalid(
            "a push takes the conditions If-None-Match: * and If-Match: \"<digest>\", one of them".to_owned(),
        )),
    }
}
