//! The bodies of requests, as they arrive.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::header::EXPECT;
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::timeout;

use super::metrics::Metrics;
use crate::error::Error;
use crate::wire::Refusal;

/// How much of a body that nobody wants is read, in bytes: more than the chunks that clients upload, so that they get their
/// answer and keep their connection.
const UNWANTED: u64 = 32 << 20;
/// For how long.
const UNWANTED_TIME: Duration = Duration::from_secs(10);

/// The body of a request.
pub(super) struct Arriving {
    body: Incoming,
    /// How long the client may be silent.
    silence: Duration,
    /// Whether the client sends, or waits until it is asked to.
    sending: bool,
    /// Whether its end was read.
    ended: bool,
    metrics: Metrics,
}

impl Arriving {
    pub(super) fn new(body: Incoming, headers: &HeaderMap, silence: Duration, metrics: Metrics) -> Self {
        Self { body, silence, sending: !headers.contains_key(EXPECT), ended: false, metrics }
    }

    /// Its length in bytes, where that is known. A longer or shorter one does not arrive.
    pub(super) fn declared(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }

    /// The next bytes, or `None` at the end. What is not waited for to the end is not lost.
    ///
    /// # Errors
    /// When the body breaks off, or nothing comes for as long as the client may be silent.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        self.sending = true;
        loop {
            match timeout(self.silence, self.body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    // What is no data are trailers, which mean nothing here.
                    if let Ok(bytes) = frame.into_data() {
                        self.metrics.received(bytes.len() as u64);
                        return Ok(Some(bytes));
                    }
                }
                Ok(None) => {
                    self.ended = true;
                    return Ok(None);
                }
                Ok(Some(Err(error))) => {
                    let words = format!("the body of the request broke off: {error}");
                    return Err(Error::RequestInvalid(words).into());
                }
                Err(_) => {
                    let words = format!("no byte of the body came for {:?}", self.silence);
                    return Err(Error::RequestInvalid(words).into());
                }
            }
        }
    }

    /// All of it, or `None` if it is longer than `limit` bytes, of which no more is held.
    ///
    /// # Errors
    /// As [`Arriving::next`].
    pub(super) async fn gather(&mut self, limit: usize) -> Result<Option<Vec<u8>>, Refusal> {
        let expected = self.declared().and_then(|length| usize::try_from(length).ok());
        let mut bytes = Vec::with_capacity(expected.unwrap_or_default().min(limit));
        while let Some(frame) = self.next().await? {
            if frame.len() > limit - bytes.len() {
                return Ok(None);
            }
            bytes.extend_from_slice(&frame);
        }
        Ok(Some(bytes))
    }

    /// Whether all of it was read.
    pub(super) fn is_over(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    /// Reads on for a while beside the answer: a connection that is closed while its client sends is reset, and the answer
    /// can be lost with it.
    pub(super) fn discard(mut self) {
        if self.is_over() || !self.sending {
            return;
        }
        tokio::spawn(timeout(UNWANTED_TIME, async move {
            let mut size = 0;
            while let Some(Ok(frame)) = self.body.frame().await {
                let bytes = frame.data_ref().map_or(0, |bytes| bytes.len() as u64);
                self.metrics.received(bytes);
                size += bytes;
                if size > UNWANTED {
                    return;
                }
            }
        }));
    }
}
