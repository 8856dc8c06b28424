//! What a row says. Words in braces stand for what the [scene](super::scene) knows: digests, repositories, sessions.

use serde_json::Value;

/// How the registry is set up that is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Registry {
    Plain,
    ReadOnly,
    /// Its tag `v1` is immutable.
    Immutable,
    /// It has more to do than it can.
    Busy,
    /// Its users alone may do anything.
    Guarded,
}

#[derive(Clone)]
pub(super) enum Sent {
    Nothing,
    Whole(Vec<u8>),
    /// In chunks of HTTP, with no length.
    Chunked(Vec<u8>),
}

pub(super) enum Body {
    /// Nothing, and the answer says so.
    None,
    /// Not looked at here.
    Any,
    Bytes(Vec<u8>),
    Json(Value),
    /// An error answer with these codes.
    Errors(Vec<&'static str>),
}

pub(super) struct Row {
    /// The endpoint, as the spec numbers it.
    pub(super) end: &'static str,
    /// The section of the spec, and what it says there, in short.
    pub(super) section: &'static str,
    pub(super) says: &'static str,
    pub(super) registry: Registry,
    pub(super) method: &'static str,
    pub(super) path: String,
    pub(super) headers: Vec<(&'static str, &'static str)>,
    pub(super) sent: Sent,
    pub(super) status: u16,
    pub(super) body: Body,
    pub(super) with: Vec<(&'static str, &'static str)>,
    pub(super) without: Vec<&'static str>,
    /// What can be asked afterwards, and its status.
    pub(super) then: Vec<(&'static str, &'static str, u16)>,
}

pub(super) fn row(end: &'static str, section: &'static str, says: &'static str) -> Row {
    Row {
        end,
        section,
        says,
        registry: Registry::Plain,
        method: "GET",
        path: String::new(),
        headers: Vec::new(),
        sent: Sent::Nothing,
        status: 0,
        body: Body::None,
        with: Vec::new(),
        without: Vec::new(),
        then: Vec::new(),
    }
}

impl Row {
    pub(super) fn on(mut self, registry: Registry) -> Self {
        self.registry = registry;
        self
    }

    pub(super) fn ask(mut self, method: &'static str, path: impl Into<String>) -> Self {
        (self.method, self.path) = (method, path.into());
        self
    }

    pub(super) fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }

    pub(super) fn send(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.sent = Sent::Whole(bytes.into());
        self
    }

    pub(super) fn send_chunked(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.sent = Sent::Chunked(bytes.into());
        self
    }

    /// The status, and no body.
    pub(super) fn is(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    pub(super) fn refused(mut self, status: u16, code: &'static str) -> Self {
        (self.status, self.body) = (status, Body::Errors(vec![code]));
        self
    }

    pub(super) fn body(mut self, body: Body) -> Self {
        self.body = body;
        self
    }

    pub(super) fn bytes(self, bytes: impl Into<Vec<u8>>) -> Self {
        self.body(Body::Bytes(bytes.into()))
    }

    pub(super) fn json(self, json: Value) -> Self {
        self.body(Body::Json(json))
    }

    /// A header of the answer: all its values, with commas between them.
    pub(super) fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.with.retain(|(found, _)| *found != name);
        self.with.push((name, value));
        self
    }

    pub(super) fn without(mut self, name: &'static str) -> Self {
        self.without.push(name);
        self
    }

    pub(super) fn then(mut self, method: &'static str, path: &'static str, status: u16) -> Self {
        self.then.push((method, path, status));
        self
    }
}
