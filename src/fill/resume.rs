//! What to do when an upstream breaks off: ask the same upstream for the rest of the same bytes. Owns the rule that
//! bytes of two versions or two managers are never mixed: only a strong validator, sent as `If-Range` and found again
//! in the answer, joins two transfers (RFC 9110 §13.1.5, RFC 9111 §3.4).

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body::Body;
use hyper::body::Incoming;
use tokio::time::sleep;

use super::{FillError, Flow};
use crate::cache::validator::strong_validator;
use crate::upstream::{Answer, Outgoing, Upstream, UpstreamError, Upstreams};

/// The wait before the second attempt in a row without a new byte; it doubles with each.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// The longest wait: a manager that restarts is met soon after it is back.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Resumes one fill as often as it breaks, as long as it gets on.
pub(super) struct Resumption<'a> {
    upstreams: &'a Upstreams,
    upstream: Arc<Upstream>,
    outgoing: Outgoing,
    validator: Option<HeaderValue>,
    headers: &'a HeaderMap,
    length: Option<u64>,
    fruitless: u32,
    reached: u64,
}

pub(super) enum Resumed {
    /// The same content goes on.
    Continues {
        /// Where.
        body: Incoming,
        /// Bytes at its beginning that are there already.
        skip: u64,
        /// The complete length, if that is known now.
        length: Option<u64>,
    },
    /// The upstream has other content now: this is it.
    Changed(Answer),
}

impl<'a> Resumption<'a> {
    pub(super) fn new(
        upstreams: &'a Upstreams,
        upstream: Arc<Upstream>,
        outgoing: Outgoing,
        flow: &'a Flow,
    ) -> Self {
        let headers = &flow.head.headers;
        let validator = strong_validator(headers);
        let length = flow.length;
        Self { upstreams, upstream, outgoing, validator, headers, length, fruitless: 0, reached: 0 }
    }

    /// Finds the rest after the first `available` bytes. `reason` says what broke the transfer.
    pub(super) async fn resume(
        &mut self,
        available: u64,
        mut reason: Arc<str>,
    ) -> Result<Resumed, FillError> {
        if available > self.reached {
            self.reached = available;
            self.fruitless = 0;
        }
        loop {
            let broken_off = |reason: Arc<str>| FillError::BrokenOff {
                upstream: self.upstream.name.clone(),
                at: available,
                reason,
            };
            if available > 0 && self.validator.is_none() {
                return Err(broken_off(Arc::from(format!("{reason}; it has no strong validator"))));
            }
            if self.fruitless >= self.upstreams.settings().attempts {
                return Err(broken_off(reason));
            }
            if self.fruitless > 0 {
                sleep(wait_before(self.fruitless)).await;
            }
            self.fruitless += 1;
            tracing::info!(upstream = &*self.upstream.name, available, %reason, "resuming");
            match self.upstreams.ask_one(&self.upstream, &self.request(available)).await {
                Err(error @ UpstreamError::Request { .. }) => return Err(error.into()),
                Err(error) => reason = Arc::from(error.to_string()),
                Ok(answer) => match self.judge(answer, available) {
                    Judged::Resumed(resumed) => return Ok(resumed),
                    Judged::Unusable(why) => reason = why,
                },
            }
        }
    }

    fn request(&self, available: u64) -> Outgoing {
        let mut outgoing = self.outgoing.clone();
        if let (true, Some(validator)) = (available > 0, &self.validator)
            && let Ok(range) = HeaderValue::from_str(&format!("bytes={available}-"))
        {
            outgoing.headers.insert(header::RANGE, range);
            outgoing.headers.insert(header::IF_RANGE, validator.clone());
        }
        outgoing
    }

    fn judge(&self, answer: Answer, available: u64) -> Judged {
        let status = answer.response.status();
        let theirs = answer.response.headers();
        match status {
            StatusCode::PARTIAL_CONTENT if !self.is_same(theirs) => {
                Judged::Unusable(Arc::from("its partial response is of other content"))
            }
            StatusCode::PARTIAL_CONTENT => match continues_at(theirs, available, self.length) {
                Some(length) => {
                    let body = answer.response.into_body();
                    Judged::Resumed(Resumed::Continues { body, skip: 0, length })
                }
                None => Judged::Unusable(Arc::from("its partial response is not the range asked for")),
            },
            StatusCode::OK => {
                let length = answer.response.body().size_hint().exact();
                let same = self.validator.is_some() && strong_validator(theirs) == self.validator;
                if same && length == self.length {
                    let body = answer.response.into_body();
                    Judged::Resumed(Resumed::Continues { body, skip: available, length })
                } else {
                    Judged::Resumed(Resumed::Changed(answer))
                }
            }
            StatusCode::NOT_FOUND | StatusCode::GONE => Judged::Resumed(Resumed::Changed(answer)),
            status => Judged::Unusable(Arc::from(format!("it answered {status}"))),
        }
    }

    /// A `206` must repeat the `ETag` (RFC 9110 §15.3.7); without it, an upstream that ignores `If-Range` could have
    /// sent anything. It need not repeat `Last-Modified`, but must not contradict it.
    fn is_same(&self, theirs: &HeaderMap) -> bool {
        let ours = |name| self.headers.get(name);
        let modified = theirs.get(header::LAST_MODIFIED);
        theirs.get(header::ETAG) == ours(header::ETAG)
            && modified.is_none_or(|modified| ours(header::LAST_MODIFIED) == Some(modified))
    }
}

enum Judged {
    Resumed(Resumed),
    Unusable(Arc<str>),
}

/// The complete length after `Content-Range`, if that says: from `available` to the end, of as many bytes as were
/// promised. `Some(None)` if nobody said how many.
fn continues_at(headers: &HeaderMap, available: u64, length: Option<u64>) -> Option<Option<u64>> {
    let range = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (span, total) = range.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = span.split_once('-')?;
    let first: u64 = first.trim().parse().ok()?;
    let end = last.trim().parse::<u64>().ok()?.checked_add(1)?;
    let total = match total.trim() {
        "*" => None,
        total => Some(total.parse::<u64>().ok()?),
    };
    let as_promised = length.is_none() || total == length;
    let to_the_end = total.is_none_or(|total| end == total);
    (first == available && as_promised && to_the_end).then_some(total)
}

fn wait_before(attempt: u32) -> Duration {
    FIRST_WAIT.saturating_mul(1 << attempt.saturating_sub(1).min(10)).min(LONGEST_WAIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_rest_of_the_same_length_continues_a_transfer() {
        let continues = |range: &'static str, length| {
            let headers = HeaderMap::from_iter([(header::CONTENT_RANGE, HeaderValue::from_static(range))]);
            continues_at(&headers, 100, length)
        };
        assert_eq!(continues("bytes 100-199/200", Some(200)), Some(Some(200)));
        assert_eq!(continues("bytes 100-199/200", None), Some(Some(200)));
        assert_eq!(continues("bytes 100-199/*", None), Some(None));
        for (range, length) in [
            ("bytes 101-199/200", Some(200)),
            ("bytes 100-198/200", Some(200)),
            ("bytes 100-299/300", Some(200)),
            ("bytes 100-199/*", Some(200)),
            ("bytes */200", Some(200)),
            ("items 100-199/200", Some(200)),
            ("bytes 100-18446744073709551615/200", Some(200)),
        ] {
            assert_eq!(continues(range, length), None, "{range}");
        }
        assert_eq!(continues_at(&HeaderMap::new(), 100, None), None);
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        assert_eq!(wait_before(1), FIRST_WAIT);
        assert_eq!(wait_before(3), FIRST_WAIT * 4);
        assert_eq!(wait_before(u32::MAX), LONGEST_WAIT);
    }
}
