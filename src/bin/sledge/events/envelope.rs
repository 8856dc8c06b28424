//! Events as docker's registry sends them, so that its receivers understand them.

use std::net::SocketAddr;

use serde::Serialize;
use sledge::oci::{MediaType, RepositoryName, Tag};
use sledge::store::Initiator;
use sledge::store::sled::{Event, EventKind};
use uuid::Uuid;

use super::endpoint::Action;

pub(crate) const MEDIA_TYPE: &str = "application/vnd.docker.distribution.events.v2+json";

/// Who sends.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Source {
    addr: String,
    #[serde(rename = "instanceID")]
    instance: Uuid,
}

impl Source {
    /// This process, which listens there.
    pub(crate) fn new(listens: SocketAddr) -> Self {
        Self { addr: listens.to_string(), instance: Uuid::new_v4() }
    }
}

#[derive(Serialize)]
struct Envelope<'a> {
    events: Vec<Entry<'a>>,
}

#[derive(Serialize)]
struct Entry<'a> {
    id: String,
    timestamp: String,
    action: Action,
    target: Target<'a>,
    request: Request<'a>,
    actor: Actor<'a>,
    source: &'a Source,
}

/// Empty where the store did it by itself: receivers look for the object.
#[derive(Default, Serialize)]
struct Request<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    addr: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(rename = "useragent", skip_serializing_if = "Option::is_none")]
    user_agent: Option<&'a str>,
}

impl<'a> Request<'a> {
    fn of(by: &'a Initiator) -> Self {
        Self {
            id: by.request_id(),
            addr: by.client(),
            host: by.host(),
            method: by.method(),
            user_agent: by.user_agent(),
        }
    }
}

/// Empty where nobody proved who he is.
#[derive(Default, Serialize)]
struct Actor<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
}

#[derive(Serialize)]
struct Target<'a> {
    #[serde(flatten)]
    content: Option<Content<'a>>,
    repository: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<&'a str>,
    #[serde(rename = "fromRepository", skip_serializing_if = "Option::is_none")]
    from: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Content<'a> {
    media_type: &'a str,
    digest: String,
    size: u64,
    /// The same: what `size` was called first.
    length: u64,
}

/// The body of a request.
pub(crate) fn envelope(events: &[Event], source: &Source) -> Vec<u8> {
    let events = events.iter().flat_map(|event| entries(event, source)).collect();
    // Only maps with other keys than text cannot be written.
    serde_json::to_vec(&Envelope { events }).unwrap_or_default()
}

/// One for each tag, and one where there is none; their ids are the same each time.
fn entries<'a>(event: &'a Event, source: &'a Source) -> Vec<Entry<'a>> {
    if event.tags.is_empty() {
        return vec![entry(event, None, event.id.to_string(), source)];
    }
    let ids = (0..).map(|n| if n == 0 { event.id.to_string() } else { format!("{}.{n}", event.id) });
    event.tags.iter().zip(ids).map(|(tag, id)| entry(event, Some(tag), id, source)).collect()
}

fn entry<'a>(event: &'a Event, tag: Option<&'a Tag>, id: String, source: &'a Source) -> Entry<'a> {
    let media_type = event.media_type.as_ref().map_or("application/octet-stream", MediaType::as_str);
    let content =
        Content { media_type, digest: event.digest.to_string(), size: event.size, length: event.size };
    Entry {
        id,
        timestamp: humantime::format_rfc3339_millis(event.at).to_string(),
        action: Action::of(event.kind),
        target: Target {
            // Who deletes a tag deletes no manifest: its digest would say so.
            content: (event.kind != EventKind::TagDeleted).then_some(content),
            repository: event.repository.as_str(),
            tag: tag.map(Tag::as_str),
            from: event.from.as_ref().map(RepositoryName::as_str),
        },
        request: event.by.as_ref().map(Request::of).unwrap_or_default(),
        actor: Actor { name: event.by.as_ref().and_then(Initiator::user) },
        source,
    }
}
