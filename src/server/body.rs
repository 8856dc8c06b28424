//! The bodies of answers.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::task::{JoinHandle, spawn_blocking};

use super::idle::InFlight;
use super::metrics::Metrics;
use super::patience;
use crate::store::buffers::{self, Buffer};
use crate::store::{Check, Content, View};

/// The piece of a view that is made resident and sent at once, in bytes.
const VIEW_PIECE: u64 = 1 << 20;
/// The piece that is read and sent at once over HTTP/2, in bytes: each of a connection's streams can hold a few of them.
const READ_PIECE: u64 = 64 << 10;
/// The same over HTTP/1.1, where it is looked at or encrypted: larger ones are a third faster. A client that is slow holds two of
/// them, so that they are smaller where many are in use.
const LARGE_PIECE: u64 = buffers::LARGE as u64;
/// The piece of what is in memory as a whole that is sent at once over HTTP/2, in bytes.
const WHOLE_PIECE: usize = 64 << 10;

/// The body of an answer, whose length is always known.
pub(super) struct Body {
    kind: Kind,
    /// Where what is handed out is counted.
    metrics: Option<Metrics>,
    /// Its request is in flight until all of it was taken, or it is dropped.
    in_flight: Option<InFlight>,
}

/// How a blob's bytes come to the client.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// The kernel reads them from the store's own view of it, which this program never touches.
    Kernel,
    /// This program reads them, in large pieces: to look at them, or to encrypt them. A view is of no use there: a page of it
    /// that had to be read again from a bad disk would kill the process, where a read fails.
    Program,
    /// The same in small pieces, of which a connection's streams hold many.
    Streams,
}

enum Kind {
    Whole(Bytes),
    Pieces(Pieces),
}

impl Body {
    const fn of(kind: Kind) -> Self {
        Self { kind, metrics: None, in_flight: None }
    }

    /// Counts what is handed out.
    pub(super) fn counted(mut self, metrics: Metrics) -> Self {
        self.metrics = Some(metrics);
        self
    }

    pub(super) fn holding(mut self, in_flight: InFlight) -> Self {
        self.in_flight = Some(in_flight);
        self
    }

    pub(super) const fn empty() -> Self {
        Self::of(Kind::Whole(Bytes::new()))
    }

    pub(super) const fn whole(bytes: Bytes) -> Self {
        Self::of(Kind::Whole(bytes))
    }

    /// A part of a blob, read piece by piece, and by the kernel only where the bytes are not to be looked at here, as all of a
    /// blob is. If they are bad, the answer is broken off before its last piece, so that nobody takes it for the whole.
    pub(super) fn content(content: Arc<dyn Content>, start: u64, length: u64, way: Way) -> Self {
        let whole = start == 0 && length == content.len();
        let check = if whole && length > 0 { content.check() } else { None };
        let piece = if way == Way::Streams { READ_PIECE } else { LARGE_PIECE };
        let view = if way == Way::Kernel && check.is_none() { content.view() } else { None };
        // A view that ends early would be cut as if the blob ended there.
        let view = view.filter(|view| start + length <= view.as_ref().len() as u64);
        let source = match view {
            Some(view) => Source::View { whole: Bytes::from_owner(view.clone()), view },
            None => Source::Content { content, piece },
        };
        let end = start + length;
        // Nothing is read before somebody asks.
        Self::of(Kind::Pieces(Pieces { source, check, position: start, end, left: length, ahead: None }))
    }

    /// How many bytes are left.
    pub(super) const fn left(&self) -> u64 {
        match &self.kind {
            Kind::Whole(bytes) => bytes.len() as u64,
            Kind::Pieces(pieces) => pieces.left,
        }
    }
}

struct Pieces {
    source: Source,
    /// Is away with the piece that is being read.
    check: Option<Box<dyn Check>>,
    /// Where the next piece to read begins.
    position: u64,
    end: u64,
    /// How many bytes are still to be handed out.
    left: u64,
    /// The piece that is being read while the one before it is sent.
    ahead: Option<JoinHandle<io::Result<Piece>>>,
}

type Piece = (Bytes, Option<Box<dyn Check>>);

enum Source {
    View { view: View, whole: Bytes },
    Content { content: Arc<dyn Content>, piece: u64 },
}

impl Pieces {
    fn read_ahead(&mut self) {
        let start = self.position;
        let left = self.end - start;
        if left == 0 {
            return;
        }
        let check = self.check.take();
        let (length, ahead) = match &self.source {
            Source::View { view, whole } => {
                let (view, whole, length) = (view.clone(), whole.clone(), left.min(VIEW_PIECE));
                let ahead = spawn_blocking(move || {
                    let (start, length) = (index(start)?, index(length)?);
                    view.make_resident(start, length)?;
                    Ok((whole.slice(start..start + length), check))
                });
                (length, ahead)
            }
            Source::Content { content, piece } => {
                let (content, mut buffer) = (Arc::clone(content), Buffer::of(left.min(*piece)));
                let length = buffer.len() as u64;
                let ahead = spawn_blocking(move || {
                    content.read_at(start, &mut buffer)?;
                    let Some(mut check) = check else { return Ok((Bytes::from_owner(buffer), None)) };
                    check.update(&buffer);
                    let check = if length == left { check.finish().map(|()| None)? } else { Some(check) };
                    Ok((Bytes::from_owner(buffer), check))
                });
                (length, ahead)
            }
        };
        self.position += length;
        self.ahead = Some(ahead);
    }

    /// The next piece, if it can be had at once: then no other thread is woken for it. The last one is for a thread that may block, as
    /// judging the whole may.
    fn at_hand(&mut self) -> Option<Bytes> {
        let Source::Content { content, piece } = &self.source else { return None };
        let left = self.end - self.position;
        if left <= *piece || self.check.as_ref().is_some_and(|check| check.takes_long()) {
            return None;
        }
        let mut buffer = Buffer::of(*piece);
        let length = content.read_at_hand(self.position, &mut buffer);
        let piece = Bytes::from_owner(buffer).slice(..length);
        if let Some(check) = &mut self.check {
            check.update(&piece);
        }
        self.position += length as u64;
        self.left = self.left.saturating_sub(length as u64);
        (length > 0).then_some(piece)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if self.ahead.is_none() {
            if let Some(piece) = self.at_hand() {
                return Poll::Ready(Some(Ok(piece)));
            }
            self.read_ahead();
        }
        let Some(ahead) = &mut self.ahead else { return Poll::Ready(None) };
        let piece = ready!(Pin::new(ahead).poll(cx)).unwrap_or_else(|error| Err(error.into()));
        self.ahead = None;
        Poll::Ready(Some(match piece {
            Ok((bytes, check)) => {
                self.left = self.left.saturating_sub(bytes.len() as u64);
                self.check = check;
                self.read_ahead();
                Ok(bytes)
            }
            Err(error) => {
                tracing::error!(%error, "a blob cannot be read: the answer is broken off");
                // Nothing that follows may be taken for the rest.
                self.position = self.end;
                Err(error)
            }
        }))
    }
}

fn index(position: u64) -> io::Result<usize> {
    usize::try_from(position).map_err(io::Error::other)
}

/// Reads a part of a blob. Blocks.
pub(super) fn read(content: &dyn Content, start: u64, length: u64) -> io::Result<Bytes> {
    let mut buffer = vec![0; index(length)?];
    content.read_at(start, &mut buffer)?;
    Ok(buffer.into())
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        patience::took();
        let this = self.get_mut();
        let piece = match &mut this.kind {
            Kind::Whole(bytes) if bytes.is_empty() => None,
            // Copied, so that a piece that nobody takes does not hold the whole.
            Kind::Whole(bytes) if bytes.len() > WHOLE_PIECE && patience::in_stream() => {
                Some(Ok(Bytes::copy_from_slice(&bytes.split_to(WHOLE_PIECE))))
            }
            Kind::Whole(bytes) => Some(Ok(std::mem::take(bytes))),
            Kind::Pieces(pieces) => ready!(pieces.poll(cx)),
        };
        if piece.is_some() {
            patience::handed_out();
        }
        if let (Some(metrics), Some(Ok(bytes))) = (&this.metrics, &piece) {
            metrics.sent(bytes.len() as u64);
        }
        Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.left() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left())
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::store::ResidentBytes;

    /// Bytes that count up, with a view or without one, and with a place that cannot be read.
    struct Counting {
        bytes: Vec<u8>,
        broken_at: Option<usize>,
        viewed: bool,
    }

    impl Content for Arc<Counting> {
        fn len(&self) -> u64 {
            self.bytes.len() as u64
        }

        fn is_empty(&self) -> bool {
            self.bytes.is_empty()
        }

        /// The first piece is, and a part of it.
        fn read_at_hand(&self, position: u64, buffer: &mut [u8]) -> usize {
            let count = if position.is_multiple_of(3) { buffer.len() / 3 * 2 } else { 0 };
            self.read_at(position, buffer).map_or(0, |()| count)
        }

        fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<()> {
            let start = usize::try_from(position).unwrap();
            self.make_resident(start, buffer.len())?;
            buffer.copy_from_slice(&self.bytes[start..start + buffer.len()]);
            Ok(())
        }

        fn view(&self) -> Option<View> {
            self.viewed.then(|| View::new(Arc::<Counting>::clone(self)))
        }

        fn check(&self) -> Option<Box<dyn Check>> {
            None
        }
    }

    impl ResidentBytes for Counting {
        fn bytes(&self) -> &[u8] {
            &self.bytes
        }

        fn make_resident(&self, start: usize, length: usize) -> io::Result<()> {
            match self.broken_at {
                Some(at) if (start..start + length).contains(&at) => Err(io::Error::other("broken")),
                _ => Ok(()),
            }
        }
    }

    fn counting(size: usize, viewed: bool, broken_at: Option<usize>) -> Arc<dyn Content> {
        let bytes = (0..size).map(|n| u8::try_from(n % 251).unwrap()).collect();
        Arc::new(Arc::new(Counting { bytes, broken_at, viewed }))
    }

    #[tokio::test]
    async fn a_part_comes_whole_at_every_size_around_the_pieces() {
        let total = 3 << 20;
        for viewed in [true, false] {
            let content = counting(total, viewed, None);
            let mut expected = vec![0; total];
            content.read_at(0, &mut expected).unwrap();
            for start in [0, 1, 77] {
                let (view, read) = (1 << 20, buffers::LARGE);
                for length in
                    [0, 1, read - 1, read, read + 1, view - 1, view, view + 1, 2 * view, total - start]
                {
                    let body = Body::content(Arc::clone(&content), start as u64, length as u64, Way::Kernel);
                    assert_eq!(body.left(), length as u64);
                    let bytes = body.collect().await.unwrap().to_bytes();
                    assert_eq!(bytes.len(), length);
                    assert!(bytes == expected[start..start + length]);
                }
            }
        }
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_an_error_and_not_the_end() {
        for viewed in [true, false] {
            let broken_at = 2 << 20;
            let mut body = Body::content(counting(3 << 20, viewed, Some(broken_at)), 0, 3 << 20, Way::Kernel);
            let mut received = 0;
            let error = loop {
                match body.frame().await {
                    Some(Ok(frame)) => received += frame.into_data().unwrap().len(),
                    Some(Err(error)) => break error,
                    None => panic!("ended as if whole after {received} bytes"),
                }
            };
            // All pieces came that do not have the place.
            let piece = if viewed { 1 } else { buffers::LARGE };
            assert!((broken_at - piece + 1..=broken_at).contains(&received), "{received} bytes came");
            assert_eq!(error.to_string(), "broken");
            assert!(!http_body::Body::is_end_stream(&body));
        }
    }
}
