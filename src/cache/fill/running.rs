//! What runs now, for administrators: each fill with its progress and its followers. Reading it holds the register's
//! lock for a copy of the handles, as a lookup does, and changes nothing.

use std::sync::Arc;
use std::time::Duration;

use super::{FillHandle, FillRequest, Fills, Phase};
use gupd_http::key::split_key;

/// A running fill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningFill {
    /// Its number, which no other fill of the process has.
    pub number: u64,
    /// Path of the object, without a query.
    pub object: String,
    /// Content type of the path.
    pub content_type: Arc<str>,
    /// Name of the upstream that it asked last.
    pub upstream: Option<Arc<str>>,
    /// Bytes that have arrived, with those that an earlier fill left.
    pub arrived: u64,
    /// Length of the content, if it is known.
    pub length: Option<u64>,
    /// Bytes of `arrived` that an earlier fill left.
    pub resumed_from: u64,
    /// Requests that follow it now.
    pub followers: usize,
    /// Time since it was started.
    pub elapsed: Duration,
}

impl Fills {
    /// Returns the running fills, those that clients follow first, at most `max`.
    pub fn running(&self, max: usize) -> Vec<RunningFill> {
        let handles: Vec<_> =
            self.context.lock().iter().map(|(key, fill)| (key.object.clone(), fill.clone())).collect();
        let mut fills: Vec<_> = handles.iter().map(|(key, fill)| fill.describe(key)).collect();
        fills.sort_by(|a, b| b.followers.cmp(&a.followers).then(a.number.cmp(&b.number)));
        fills.truncate(max);
        fills
    }
}

impl FillHandle {
    /// Returns true if the fill sends the same fields as one of this request would.
    pub fn sends_fields_of(&self, request: &FillRequest) -> bool {
        self.flags.fields == request.hash_fields()
    }

    /// Describes the fill of the object with this key.
    fn describe(&self, key: &str) -> RunningFill {
        /// The task, the handle of the register and that of the caller hold the flags, as each request does that waits.
        const OTHERS: usize = 3;
        let waiting = Arc::strong_count(&self.flags).saturating_sub(OTHERS);
        let (arrived, length, resumed_from, readers) = match &*self.phase.borrow() {
            Phase::Receiving { content, arrived } => {
                let left = content.leftover.as_ref().zip(content.length);
                let left = left.map_or(0, |(left, length)| left.bytes_within(0..length));
                (*arrived, content.length, left, content.reader_count())
            }
            Phase::Complete { length, .. } => (*length, Some(*length), 0, 0),
            Phase::Asking
            | Phase::Stored { .. }
            | Phase::NotModified { .. }
            | Phase::Unshared { .. }
            | Phase::Failed { .. } => (0, None, 0, 0),
        };
        RunningFill {
            number: self.flags.number(),
            object: path(key).to_owned(),
            content_type: self.content_type().into(),
            upstream: self.current_upstream().map(|upstream| upstream.name.clone()),
            arrived,
            length,
            resumed_from,
            followers: waiting.saturating_add(readers),
            elapsed: self.flags.elapsed(),
        }
    }
}

/// Returns the path of a key without its query, which may have secrets.
fn path(key: &str) -> &str {
    let target = split_key(key).target;
    target.split_once('?').map_or(target, |(path, _)| path)
}
