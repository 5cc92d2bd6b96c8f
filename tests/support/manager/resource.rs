//! What a manager has under a path, and how it misbehaves when it is asked for it.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

#[derive(Clone)]
pub struct Resource {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Arc<Vec<u8>>,
    pub(super) framing: Framing,
    pub(super) ranges: bool,
    pub(super) echo: bool,
    pub(super) dated: bool,
    pub(super) hold: Option<Gate>,
    pub(super) delay: Duration,
    pub(super) cut: Option<Cut>,
    pub(super) stall: Option<(usize, Gate)>,
    pub(super) rate: Option<u64>,
    pub(super) raw: Option<Arc<Vec<u8>>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Length,
    /// A `Content-Length` that is not the body's.
    Declared(u64),
    Chunked,
    UntilClose,
}

/// Breaks off after so many bytes of a response's body, so many times.
#[derive(Clone)]
pub struct Cut {
    pub(super) after: usize,
    pub(super) left: Arc<Mutex<usize>>,
}

/// Holds a response back until the test lets it go.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    pub(super) fn pass(&self) {
        let mut open = self.0.0.lock().unwrap();
        while !*open {
            let (next, waited) = self.0.1.wait_timeout(open, super::PATIENCE).unwrap();
            open = next;
            assert!(!waited.timed_out(), "a gate was never opened");
        }
    }
}

impl Resource {
    /// A file as Apache or IIS serve it: length, ranges, a strong `ETag` of its content.
    pub fn new(body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in body.iter().step_by(97) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
        let etag = format!("\"{:x}-{hash:x}\"", body.len());
        Self {
            status: 200,
            headers: vec![("ETag".to_owned(), etag)],
            body: Arc::new(body),
            framing: Framing::Length,
            ranges: true,
            echo: false,
            dated: true,
            hold: None,
            delay: Duration::ZERO,
            cut: None,
            stall: None,
            rate: None,
            raw: None,
        }
    }

    /// Exactly these bytes, then the connection closes.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self { raw: Some(Arc::new(bytes.into())), ..Self::new("") }
    }

    /// Answers with the request's own body.
    pub fn echo() -> Self {
        Self { echo: true, ..Self::new("").without("ETag") }
    }

    pub fn status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self
    }

    /// Without a `Date` of its own.
    pub fn undated(self) -> Self {
        Self { dated: false, ..self }
    }

    pub fn etag(self, value: &str) -> Self {
        self.without("ETag").header("ETag", value)
    }

    pub fn chunked(self) -> Self {
        Self { framing: Framing::Chunked, ..self }
    }

    pub fn until_close(self) -> Self {
        Self { framing: Framing::UntilClose, ..self }
    }

    pub fn declaring(self, length: u64) -> Self {
        Self { framing: Framing::Declared(length), ..self }
    }

    /// Answers `200` with everything, whatever range is asked for.
    pub fn without_ranges(self) -> Self {
        Self { ranges: false, ..self }
    }

    pub fn held(self, gate: &Gate) -> Self {
        Self { hold: Some(gate.clone()), ..self }
    }

    pub fn delayed(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    /// Breaks off after `after` bytes of each response's body, `times` times.
    pub fn cut(self, after: usize, times: usize) -> Self {
        Self { cut: Some(Cut { after, left: Arc::new(Mutex::new(times)) }), ..self }
    }

    /// Stands still after `after` bytes of the body until the gate opens.
    pub fn stalled(self, after: usize, gate: &Gate) -> Self {
        Self { stall: Some((after, gate.clone())), ..self }
    }

    /// Bytes a second.
    pub fn rate(self, rate: u64) -> Self {
        Self { rate: Some(rate), ..self }
    }
}
