//! Who is told of events, as the configuration says it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sledge::store::sled::{Event, EventKind};
use ureq::http::{HeaderName, HeaderValue, Uri};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, config::AutoHeaderValue};

use crate::values::{Time, as_text};

/// A receiver of events: a table `[[events]]` in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Endpoint {
    /// What logs call it, and what the store knows it by: under another name it is another receiver.
    pub(crate) name: Name,
    pub(crate) url: Url,
    /// Sent with each request.
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, Secret>,
    /// What is sent; where nothing is said, all but pulls.
    #[serde(default)]
    pub(crate) actions: Vec<Action>,
    /// How long a request may take.
    pub(crate) timeout: Option<Time>,
    /// How long after a request that failed the next one begins: twice as long each time, up to 5 minutes.
    pub(crate) backoff: Option<Time>,
    /// A PEM file with the certificates that a server's is to come from, instead of the public ones.
    pub(crate) ca: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Action {
    Push,
    Mount,
    Delete,
    Pull,
}

impl Action {
    pub(crate) const fn of(kind: EventKind) -> Self {
        match kind {
            EventKind::BlobMounted => Self::Mount,
            EventKind::ManifestPulled | EventKind::BlobPulled => Self::Pull,
            EventKind::ManifestDeleted | EventKind::TagDeleted | EventKind::BlobDeleted => Self::Delete,
            // Whatever else there will be brings something.
            _ => Self::Push,
        }
    }
}

/// A header's value. It may be a password: it is shown to nobody.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

/// A receiver's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Name(String);

impl Name {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fits = (1..=128).contains(&text.len()) && !text.contains(char::is_control);
        if fits { Ok(Self(text.to_owned())) } else { Err("a name has 1 to 128 bytes of one line".to_owned()) }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where events are sent to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Url(Uri);

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let says = |what: &str| format!("{what}: a URL is such as https://example.com/hook");
        let uri: Uri = text.parse().map_err(|error| says(&format!("{error}")))?;
        match uri.scheme_str() {
            Some("http" | "https") if uri.host().is_some_and(|host| !host.is_empty()) => Ok(Self(uri)),
            _ => Err(says("it begins with http:// or https://")),
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

as_text!(Name, Url);

const TIMEOUT: Duration = Duration::from_secs(10);
const BACKOFF: Duration = Duration::from_secs(1);

impl Endpoint {
    /// What a value alone does not tell, if anything is wrong. No value is told: it may be a password.
    pub(crate) fn mistake(&self) -> Option<String> {
        let name = &self.name;
        for (header, Secret(value)) in &self.headers {
            if header.parse::<HeaderName>().is_err() {
                return Some(format!("{header:?}, which {name} is sent, is no header's name"));
            }
            if value.parse::<HeaderValue>().is_err() {
                return Some(format!("the value of {header} for {name} is none that a header can have"));
            }
        }
        if self.timeout.is_some_and(|Time(timeout)| timeout.is_zero()) {
            return Some(format!("no time at all is left to {name}: give a `timeout` such as 10s"));
        }
        self.agent().err()
    }

    pub(crate) fn is_told(&self, event: &Event) -> bool {
        let action = Action::of(event.kind);
        if self.actions.is_empty() { action != Action::Pull } else { self.actions.contains(&action) }
    }

    pub(crate) fn wants_pulls(&self) -> bool {
        self.actions.contains(&Action::Pull)
    }

    pub(crate) fn backoff(&self) -> Duration {
        self.backoff.map_or(BACKOFF, |Time(backoff)| backoff)
    }

    /// What sends requests there. Redirections are not followed: who is told the headers is said here.
    pub(crate) fn agent(&self) -> Result<Agent, String> {
        let mut tls = TlsConfig::builder();
        if let Some(path) = &self.ca {
            let failed = |error: &dyn fmt::Display| format!("certificates {}: {error}", path.display());
            let pem = fs::read(path).map_err(|error| failed(&error))?;
            let mut roots = Vec::new();
            for item in parse_pem(&pem) {
                if let PemItem::Certificate(certificate) = item.map_err(|error| failed(&error))? {
                    roots.push(certificate);
                }
            }
            if roots.is_empty() {
                return Err(failed(&"the file has none: it must be PEM"));
            }
            tls = tls.root_certs(RootCerts::new_with_certs(&roots));
        }
        let agent = concat!("sledge/", env!("CARGO_PKG_VERSION"));
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .timeout_global(Some(self.timeout.map_or(TIMEOUT, |Time(timeout)| timeout)))
            .tls_config(tls.build())
            .user_agent(AutoHeaderValue::Provided(agent.to_owned().into()))
            .build();
        Ok(config.into())
    }

    /// Sends an envelope, and says what came of it in words that may be logged.
    pub(crate) fn post(&self, agent: &Agent, envelope: &[u8], missing: u64) -> Result<(), String> {
        let Url(uri) = &self.url;
        let mut request = agent.post(uri).content_type(super::envelope::MEDIA_TYPE);
        for (header, Secret(value)) in &self.headers {
            request = request.header(header, value);
        }
        if missing > 0 {
            request = request.header(super::MISSING, missing.to_string());
        }
        match request.send(envelope) {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(format!("it answered {}", answer.status())),
            Err(error) => Err(error.to_string()),
        }
    }
}
