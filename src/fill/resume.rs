//! Asking an upstream for other bytes of the content it has begun to send: the rest after it broke off, or a part that
//! readers need first. Owns the rule that
//! bytes of two versions or two managers are never mixed: only a strong validator, sent as `If-Range` and found again
//! in the answer, joins two transfers (RFC 9110 §13.1.5, RFC 9111 §3.4).

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body::Body;
use tokio::time::sleep;

use super::FillError;
use crate::cache::validator::strong_validator;
use crate::config;
use crate::upstream::{Answer, Outgoing, Received, Upstream, UpstreamError, Upstreams};

/// The wait before the second attempt in a row without a new byte; it doubles with each.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// The longest wait: a manager that restarts is met soon after it is back.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Asks for the bytes of one run as often as it breaks, as long as it gets on.
pub(super) struct Resumption {
    upstreams: Arc<Upstreams>,
    upstream: Arc<Upstream>,
    outgoing: Outgoing,
    validator: Option<HeaderValue>,
    headers: HeaderMap,
    length: Option<u64>,
    fruitless: u32,
    reached: u64,
}

pub(super) enum Resumed {
    /// The same content, from the position asked for.
    Continues {
        /// Where.
        body: Received,
        /// Bytes at its beginning that come before that position: it is all of the content.
        skip: u64,
        /// Where in the content it ends, if that is known now.
        end: Option<u64>,
    },
    /// The upstream has other content now: this is it.
    Changed(Answer),
}

impl Resumption {
    pub(super) fn new(
        upstreams: Arc<Upstreams>,
        upstream: Arc<Upstream>,
        outgoing: Outgoing,
        headers: &HeaderMap,
        length: Option<u64>,
    ) -> Self {
        let (validator, headers) = (strong_validator(headers), headers.clone());
        Self { upstreams, upstream, outgoing, validator, headers, length, fruitless: 0, reached: 0 }
    }

    /// How upstreams are asked.
    pub(super) fn settings(&self) -> &config::Fill {
        self.upstreams.settings()
    }

    /// Asks for `range`, to the content's end if it ends there. `reason` says what broke the transfer, if that is why.
    pub(super) async fn resume(
        &mut self,
        range: Range<u64>,
        reason: Option<Arc<str>>,
    ) -> Result<Resumed, FillError> {
        if range.start > self.reached {
            self.reached = range.start;
            self.fruitless = 0;
        }
        let mut reason = reason.unwrap_or_else(|| Arc::from("a part was needed first"));
        loop {
            let broken_off = |reason: Arc<str>| FillError::BrokenOff {
                upstream: self.upstream.name.clone(),
                at: range.start,
                reason,
            };
            if range.start > 0 && self.validator.is_none() {
                return Err(broken_off(Arc::from(format!("{reason}; it has no strong validator"))));
            }
            if self.fruitless >= self.upstreams.settings().attempts {
                return Err(broken_off(reason));
            }
            if self.fruitless > 0 {
                sleep(wait_before(self.fruitless)).await;
            }
            // Its readers have bytes already: rather than break, they wait as long for it as others do to ask it.
            self.upstreams.probed(&self.upstream).await;
            self.fruitless += 1;
            tracing::info!(upstream = &*self.upstream.name, from = range.start, %reason, "resuming");
            match self.ask(&range).await? {
                Ok(resumed) => return Ok(resumed),
                Err(why) => reason = why,
            }
        }
    }

    /// Asks for `range` once. The inner error says why another attempt may do better.
    pub(super) async fn ask(&self, range: &Range<u64>) -> Result<Result<Resumed, Arc<str>>, FillError> {
        match self.upstreams.ask_one(&self.upstream, &self.request(range)).await {
            Err(error @ UpstreamError::Request { .. }) => Err(error.into()),
            Err(error) => Ok(Err(Arc::from(error.to_string()))),
            Ok(answer) => Ok(self.judge(answer, range)),
        }
    }

    fn request(&self, range: &Range<u64>) -> Outgoing {
        let mut outgoing = self.outgoing.clone();
        let part = if self.length.is_none_or(|length| range.end >= length) {
            (range.start > 0).then(|| format!("bytes={}-", range.start))
        } else {
            Some(format!("bytes={}-{}", range.start, range.end.saturating_sub(1)))
        };
        if let (Some(part), Some(validator)) = (part, &self.validator)
            && let Ok(part) = HeaderValue::from_str(&part)
        {
            outgoing.headers.insert(header::RANGE, part);
            outgoing.headers.insert(header::IF_RANGE, validator.clone());
        }
        outgoing
    }

    fn judge(&self, answer: Answer, range: &Range<u64>) -> Result<Resumed, Arc<str>> {
        let status = answer.response.status();
        let theirs = answer.response.headers();
        match status {
            StatusCode::PARTIAL_CONTENT if !self.is_same(theirs) => {
                Err(Arc::from("its partial response is of other content"))
            }
            StatusCode::PARTIAL_CONTENT => match ContentRange::of(theirs) {
                Some(part) if part.is_from(range, self.length) => Ok(Resumed::Continues {
                    body: answer.response.into_body(),
                    skip: 0,
                    end: part.complete.or(self.length).map(|_| part.bytes.end),
                }),
                _ => Err(Arc::from("its partial response is not the range asked for")),
            },
            StatusCode::OK => {
                let length = answer.response.body().size_hint().exact();
                let same = self.validator.is_some() && strong_validator(theirs) == self.validator;
                if same && length == self.length {
                    let body = answer.response.into_body();
                    Ok(Resumed::Continues { body, skip: range.start, end: length })
                } else {
                    Ok(Resumed::Changed(answer))
                }
            }
            StatusCode::NOT_FOUND | StatusCode::GONE => Ok(Resumed::Changed(answer)),
            status => Err(Arc::from(format!("it answered {status}"))),
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

/// What a `206` says it is of.
#[derive(Debug, PartialEq)]
pub(super) struct ContentRange {
    /// The bytes it has; never none.
    pub(super) bytes: Range<u64>,
    /// The complete length, if that is known.
    pub(super) complete: Option<u64>,
}

impl ContentRange {
    /// Reads `Content-Range` (RFC 9110 §14.4); `None` if it is not of bytes, or not possible.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let range = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
        let (span, total) = range.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = span.split_once('-')?;
        let bytes = first.trim().parse().ok()?..last.trim().parse::<u64>().ok()?.checked_add(1)?;
        let complete = match total.trim() {
            "*" => None,
            total => Some(total.parse::<u64>().ok()?),
        };
        (bytes.start < bytes.end && complete.is_none_or(|complete| bytes.end <= complete))
            .then_some(Self { bytes, complete })
    }

    /// Whether it begins where `range` does and does not go past its end, of content as long as was promised. Where
    /// nobody knows the length, it must go to the end.
    fn is_from(&self, range: &Range<u64>, length: Option<u64>) -> bool {
        self.bytes.start == range.start
            && match (self.complete, length) {
                (complete, Some(length)) => {
                    complete.is_none_or(|complete| complete == length) && self.bytes.end <= range.end
                }
                (complete, None) => complete.is_none_or(|complete| complete == self.bytes.end),
            }
    }
}

fn wait_before(attempt: u32) -> Duration {
    FIRST_WAIT.saturating_mul(1 << attempt.saturating_sub(1).min(10)).min(LONGEST_WAIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_asked_for_of_the_same_length_continues_a_transfer() {
        let part = |range: &'static str| {
            ContentRange::of(&HeaderMap::from_iter([(
                header::CONTENT_RANGE,
                HeaderValue::from_static(range),
            )]))
        };
        let continues = |range: &'static str, length: Option<u64>| {
            part(range).is_some_and(|part| part.is_from(&(100..length.unwrap_or(u64::MAX)), length))
        };
        assert!(continues("bytes 100-199/200", Some(200)));
        assert!(continues("bytes 100-198/200", Some(200)), "the rest is asked for again");
        assert!(continues("bytes 100-199/*", Some(200)));
        assert!(continues("bytes 100-199/200", None));
        assert!(continues("bytes 100-199/*", None));
        assert!(
            !continues("bytes 100-198/200", None),
            "who knows no length cannot know that more is to come"
        );
        for (range, length) in [
            ("bytes 101-199/200", Some(200)),
            ("bytes 100-299/300", Some(200)),
            ("bytes 100-299/*", Some(200)),
            ("bytes */200", Some(200)),
            ("items 100-199/200", Some(200)),
            ("bytes 100-99/200", Some(200)),
            ("bytes 100-18446744073709551615/200", Some(200)),
        ] {
            assert!(!continues(range, length), "{range}");
        }
        assert_eq!(ContentRange::of(&HeaderMap::new()), None);
        assert!(
            !part("bytes 100-149/200").unwrap().is_from(&(100..140), Some(200)),
            "more than was asked for"
        );
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        assert_eq!(wait_before(1), FIRST_WAIT);
        assert_eq!(wait_before(3), FIRST_WAIT * 4);
        assert_eq!(wait_before(u32::MAX), LONGEST_WAIT);
    }
}
