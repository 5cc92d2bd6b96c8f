//! What to do when an upstream breaks off: ask the same upstream for the rest of the same bytes. Owns the rule that
//! bytes of two versions or two managers are never mixed: only a strong validator, sent as `If-Range` and found again
//! in the answer, joins two transfers (RFC 9110 §13.1.5, RFC 9111 §3.4).

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body::Body;
use hyper::body::Incoming;
use tokio::time::sleep;

use super::{FillError, Flow, Shared};
use crate::cache::validator::strong_validator;
use crate::upstream::{Answer, Outgoing, Upstream, UpstreamError, Upstreams};

/// The wait before the second attempt in a row without a new byte; it doubles with each.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// The longest wait: a manager that restarts is met soon after it is back.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Resumes one fill as often as it breaks, as long as it gets on.
pub(super) struct Resumption<'a> {
    shared: &'a Shared,
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
    /// A body to go on with, after skipping so many bytes that are there already.
    Continues(Incoming, u64),
    /// The upstream has other content now: this is it.
    Changed(Answer),
}

impl<'a> Resumption<'a> {
    pub(super) fn new(
        shared: &'a Shared,
        upstreams: &'a Upstreams,
        upstream: Arc<Upstream>,
        outgoing: Outgoing,
        flow: &'a Flow,
    ) -> Self {
        let headers = &flow.head.headers;
        let validator = strong_validator(headers);
        let length = flow.length;
        Self { shared, upstreams, upstream, outgoing, validator, headers, length, fruitless: 0, reached: 0 }
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
            if self.fruitless >= self.shared.settings.attempts {
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
                Ok(answer) => {
                    self.shared.metrics.count_upstream(&answer.upstream.name, answer.response.status());
                    match self.judge(answer, available) {
                        Judged::Resumed(resumed) => return Ok(resumed),
                        Judged::Unusable(why) => reason = why,
                    }
                }
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
                true => Judged::Resumed(Resumed::Continues(answer.response.into_body(), 0)),
                false => Judged::Unusable(Arc::from("its partial response is not the range asked for")),
            },
            StatusCode::OK => {
                let same_length = answer.response.body().size_hint().exact() == self.length;
                let same = if available == 0 && self.validator.is_none() {
                    // Nothing was shown but a head that promised a length.
                    strong_validator(theirs).is_none()
                } else {
                    self.validator.is_some() && strong_validator(theirs) == self.validator
                };
                if same && same_length {
                    Judged::Resumed(Resumed::Continues(answer.response.into_body(), available))
                } else {
                    Judged::Resumed(Resumed::Changed(answer))
                }
            }
            StatusCode::NOT_FOUND | StatusCode::GONE => Judged::Resumed(Resumed::Changed(answer)),
            status => Judged::Unusable(Arc::from(format!("it answered {status}"))),
        }
    }

    /// A `206` to `If-Range` repeats the validator (RFC 9110 §15.3.7); one that contradicts ours is another version.
    /// One that is absent is taken at its word: the upstream compared for us.
    fn is_same(&self, theirs: &HeaderMap) -> bool {
        [header::ETAG, header::LAST_MODIFIED]
            .iter()
            .all(|name| theirs.get(name).is_none_or(|value| self.headers.get(name) == Some(value)))
    }
}

enum Judged {
    Resumed(Resumed),
    Unusable(Arc<str>),
}

/// Whether `Content-Range` says: from `available` to the end, of as many bytes as were promised.
fn continues_at(headers: &HeaderMap, available: u64, length: Option<u64>) -> bool {
    let Some(range) = headers.get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let Some((span, total)) = range.strip_prefix("bytes ").and_then(|range| range.split_once('/')) else {
        return false;
    };
    let Some((first, last)) = span.split_once('-') else { return false };
    let (first, last) = (first.trim().parse::<u64>(), last.trim().parse::<u64>());
    let total = total.trim().parse::<u64>().ok();
    let to_the_end = match (&last, total) {
        (Ok(last), Some(total)) => last.checked_add(1) == Some(total),
        (Ok(_), None) => length.is_none(),
        (Err(_), _) => false,
    };
    first == Ok(available) && to_the_end && (length.is_none() || total == length)
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
        assert!(continues("bytes 100-199/200", Some(200)));
        assert!(continues("bytes 100-199/200", None));
        for (range, length) in [
            ("bytes 101-199/200", Some(200)),
            ("bytes 100-198/200", Some(200)),
            ("bytes 100-299/300", Some(200)),
            ("bytes 100-199/*", Some(200)),
            ("bytes */200", Some(200)),
            ("items 100-199/200", Some(200)),
            ("bytes 100-18446744073709551615/200", Some(200)),
        ] {
            assert!(!continues(range, length), "{range}");
        }
        assert!(!continues_at(&HeaderMap::new(), 100, None));
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        assert_eq!(wait_before(1), FIRST_WAIT);
        assert_eq!(wait_before(3), FIRST_WAIT * 4);
        assert_eq!(wait_before(u32::MAX), LONGEST_WAIT);
    }
}
