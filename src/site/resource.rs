//! A published resource: its representation, and the faults of its responses. Built step by step, such as
//! `Resource::new("body").status(503).delayed(delay)`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;

use crate::message::{Fields, field};
use crate::{Content, Gate};

/// A resource of a manager. Without faults it is served as Apache and IIS serve a file.
#[derive(Clone, Debug)]
pub struct Resource {
    pub(crate) status: u16,
    pub(crate) fields: Fields,
    pub(crate) body: Body,
    pub(crate) framing: Framing,
    pub(crate) has_ranges: bool,
    pub(crate) has_date: bool,
    pub(crate) faults: Faults,
}

/// The bytes of a response.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    Content(Content),
    /// The body of the request.
    Echo,
    /// The whole response, head included.
    Raw(Bytes),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Length,
    /// A `Content-Length` that is not the body's.
    Declared(u64),
    Chunked,
    UntilClose,
}

/// Deviations of responses from a server that works.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) before_head: Vec<Pause>,
    /// Position in the representation, and the pause there.
    pub(crate) in_body: Option<(u64, Pause)>,
    pub(crate) break_off: Option<BreakOff>,
    /// Bytes a second.
    pub(crate) rate: Option<u64>,
    /// Position in the representation of a byte with one wrong bit.
    pub(crate) flip: Option<u64>,
    pub(crate) is_wrong_range: bool,
    pub(crate) ignores_if_range: bool,
}

/// The length of an interruption.
#[derive(Clone, Debug)]
pub enum Pause {
    /// Until a test opens the gate.
    Until(Gate),
    /// A time.
    For(Duration),
}

/// Breaks responses off after a number of body bytes, a number of times.
#[derive(Clone, Debug)]
pub(crate) struct BreakOff {
    after: u64,
    left: Arc<AtomicUsize>,
}

impl Pause {
    pub(crate) async fn pass(&self) {
        match self {
            Self::Until(gate) => gate.pass().await,
            Self::For(time) => sleep(*time).await,
        }
    }
}

impl BreakOff {
    /// Returns the length at which a body of `length` bytes breaks off, and counts it.
    pub(crate) fn take(&self, length: u64) -> Option<u64> {
        let is_taken = length > self.after
            && self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        is_taken.then_some(self.after)
    }
}

impl Resource {
    /// A file: with a length, ranges, and a strong `ETag` of its content.
    pub fn new(content: impl Into<Content>) -> Self {
        let content = content.into();
        let etag = content.etag();
        Self::tagged(content, &etag)
    }

    /// A file with this `ETag`.
    pub fn tagged(content: impl Into<Content>, etag: &str) -> Self {
        Self {
            status: 200,
            fields: vec![("ETag".to_owned(), etag.to_owned())],
            body: Body::Content(content.into()),
            framing: Framing::Length,
            has_ranges: true,
            has_date: true,
            faults: Faults::default(),
        }
    }

    /// Exactly these bytes, after which the connection closes.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self { body: Body::Raw(Bytes::from(bytes.into())), ..Self::new("") }
    }

    /// The body of the request itself.
    pub fn echo() -> Self {
        Self { body: Body::Echo, ..Self::new("") }.without("ETag")
    }

    /// An empty response with this status.
    pub fn empty(status: u16) -> Self {
        Self::new("").without("ETag").status(status)
    }

    /// Changes the content, and keeps the fields.
    pub fn with_content(self, content: impl Into<Content>) -> Self {
        Self { body: Body::Content(content.into()), ..self }
    }

    /// Changes the status.
    pub fn status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    /// Adds a field.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Removes a field.
    pub fn without(mut self, name: &str) -> Self {
        self.fields.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self
    }

    /// Omits `Date`.
    pub fn undated(self) -> Self {
        Self { has_date: false, ..self }
    }

    /// Changes the `ETag`.
    pub fn etag(self, value: &str) -> Self {
        self.without("ETag").header("ETag", value)
    }

    /// Sends the body in chunks.
    pub fn chunked(self) -> Self {
        Self { framing: Framing::Chunked, ..self }
    }

    /// Sends the body without a length and closes the connection behind it.
    pub fn until_close(self) -> Self {
        Self { framing: Framing::UntilClose, ..self }
    }

    /// Declares this `Content-Length` for a body of any length.
    pub fn declaring(self, length: u64) -> Self {
        Self { framing: Framing::Declared(length), ..self }
    }

    /// Ignores `Range`.
    pub fn without_ranges(self) -> Self {
        Self { has_ranges: false, ..self }
    }

    /// Holds responses back until the gate opens.
    pub fn held(mut self, gate: &Gate) -> Self {
        self.faults.before_head.push(Pause::Until(gate.clone()));
        self
    }

    /// Delays responses.
    pub fn delayed(mut self, delay: Duration) -> Self {
        self.faults.before_head.push(Pause::For(delay));
        self
    }

    /// Breaks off after `after` bytes of each response's body, `times` times.
    pub fn cut(mut self, after: usize, times: usize) -> Self {
        self.faults.break_off =
            Some(BreakOff { after: after as u64, left: Arc::new(AtomicUsize::new(times)) });
        self
    }

    /// Stops before byte `at` of the body until the gate opens.
    pub fn stalled(self, at: usize, gate: &Gate) -> Self {
        self.paused(at as u64, Pause::Until(gate.clone()))
    }

    /// Stops before byte `at` of the body.
    pub fn paused(mut self, at: u64, pause: Pause) -> Self {
        self.faults.in_body = Some((at, pause));
        self
    }

    /// Sends at most so many bytes a second.
    pub fn rate(mut self, bytes_per_second: u64) -> Self {
        self.faults.rate = Some(bytes_per_second);
        self
    }

    /// Inverts one bit of byte `at` of the body.
    pub fn flipped(mut self, at: u64) -> Self {
        self.faults.flip = Some(at);
        self
    }

    /// Answers a request for a range with another one.
    pub fn with_wrong_ranges(mut self) -> Self {
        self.faults.is_wrong_range = true;
        self
    }

    /// Answers a request for a range of another version with the range of this one.
    pub fn ignoring_if_range(mut self) -> Self {
        self.faults.ignores_if_range = true;
        self
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        field(&self.fields, name)
    }
}
