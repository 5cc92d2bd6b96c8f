//! The response to a request: status, fields and the range of the body, by conditional requests and single ranges
//! (RFC 9110 §13, §14).

use std::ops::Range;
use std::time::SystemTime;

use http::StatusCode;

use crate::Content;
use crate::message::lines;
use crate::origin::RecordedRequest;
use crate::resource::{Body, Framing, Resource};

/// A response before it is sent.
pub(crate) struct Answer {
    /// Status line and fields, with the empty line that ends them.
    pub(crate) head: String,
    pub(crate) content: Content,
    /// The bytes to send; `None` for a response without a body.
    pub(crate) part: Option<Range<u64>>,
}

/// The part of the content that a response has.
enum Selected {
    Whole,
    Part(Range<u64>),
    Unsatisfiable,
}

impl Answer {
    pub(crate) fn new(request: &RecordedRequest, resource: &Resource, date: SystemTime) -> Self {
        let content = match &resource.body {
            Body::Content(content) => content.clone(),
            Body::Echo | Body::Raw(_) => Content::from(&*request.body),
        };
        let length = content.length();
        let (mut status, mut part, mut range) = (resource.status, Some(0..length), String::new());
        if status == 200 {
            match select(request, resource, length) {
                _ if is_current(request, resource) => (status, part) = (304, None),
                Selected::Whole => {}
                Selected::Part(selected) => {
                    let Range { start, end } = selected;
                    range = format!("Content-Range: bytes {start}-{}/{length}\r\n", end - 1);
                    (status, part) = (206, Some(start..end));
                }
                Selected::Unsatisfiable => {
                    range = format!("Content-Range: bytes */{length}\r\n");
                    (status, part) = (416, Some(0..0));
                }
            }
        }
        let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
        let mut head = format!("HTTP/1.1 {status} {}\r\n{range}", reason.unwrap_or("Unknown"));
        head += &lines(&resource.fields);
        if resource.has_date && resource.field("date").is_none() {
            head += &format!("Date: {}\r\n", httpdate::fmt_http_date(date));
        }
        head += &match (&part, resource.framing) {
            (None, _) => String::new(),
            (Some(part), Framing::Length) => format!("Content-Length: {}\r\n", part.end - part.start),
            (_, Framing::Declared(length)) => format!("Content-Length: {length}\r\n"),
            (_, Framing::Chunked) => "Transfer-Encoding: chunked\r\n".to_owned(),
            (_, Framing::UntilClose) => "Connection: close\r\n".to_owned(),
        };
        let part = part.filter(|_| request.method != "HEAD");
        Self { head: head + "\r\n", content, part }
    }
}

/// Returns true if the client's copy is current; a date counts only where no tag is given (§13.2.2).
fn is_current(request: &RecordedRequest, resource: &Resource) -> bool {
    if let Some(tags) = request.header("if-none-match") {
        let strong = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
        let etag = resource.field("etag").map(strong);
        return etag.is_some_and(|etag| tags.split(',').map(strong).any(|tag| tag == etag || tag == "*"));
    }
    let date = |text: Option<&str>| httpdate::parse_http_date(text?).ok();
    let modified = date(resource.field("last-modified"));
    modified.is_some() && date(request.header("if-modified-since")) >= modified
}

/// Several ranges at once are answered whole, which §14.2 allows.
fn select(request: &RecordedRequest, resource: &Resource, length: u64) -> Selected {
    let is_other_version = request.header("if-range").is_some_and(|validator| {
        resource.field("etag") != Some(validator) && resource.field("last-modified") != Some(validator)
    });
    let is_other_version = is_other_version && !resource.faults.ignores_if_range;
    if !resource.has_ranges || is_other_version || request.method != "GET" {
        return Selected::Whole;
    }
    let range = request.header("range").and_then(|range| parse(range, length));
    let Some(range) = range else { return Selected::Whole };
    if range.is_empty() {
        return Selected::Unsatisfiable;
    }
    match resource.faults.is_wrong_range && range.start > 0 {
        true => Selected::Part(range.start / 2..(range.end / 2).max(range.start / 2 + 1)),
        false => Selected::Part(range),
    }
}

/// Parses `bytes=a-b`, `bytes=a-` or `bytes=-n`. An empty range is one that the content cannot satisfy.
fn parse(range: &str, length: u64) -> Option<Range<u64>> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let number = |text: &str| if text.is_empty() { Some(None) } else { text.parse::<u64>().ok().map(Some) };
    match (number(first)?, number(last)?) {
        (Some(first), Some(last)) if last < first => None,
        (Some(first), last) => Some(first..last.map_or(length, |last| last.saturating_add(1).min(length))),
        (None, Some(count)) => Some(length.saturating_sub(count)..length),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    const OLD: &str = "Tue, 03 Jun 2025 02:00:00 GMT";
    const NEW: &str = "Wed, 04 Jun 2025 02:00:00 GMT";

    /// Status, `Content-Range` and range of the response about 1000 bytes with the tag `"a"`.
    fn answer(fields: &[(&str, &str)]) -> (u16, Option<String>, Option<Range<u64>>) {
        let resource = Resource::tagged(crate::bytes(1, 1000), "\"a\"").header("Last-Modified", NEW);
        let headers = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let (method, target) = ("GET".to_owned(), "/".to_owned());
        let request = RecordedRequest { method, target, headers, body: Vec::new() };
        let Answer { head, part, .. } = Answer::new(&request, &resource, UNIX_EPOCH);
        let range = head.lines().find_map(|line| line.strip_prefix("Content-Range: "));
        (head[9..12].parse().unwrap(), range.map(str::to_owned), part)
    }

    #[test]
    fn range_returns_its_bytes() {
        for (range, expected) in [
            ("0-0", 0..1),
            ("3-40", 3..41),
            ("500-", 500..1000),
            ("-7", 993..1000),
            ("-99999999", 0..1000),
            ("9-99999999", 9..1000),
        ] {
            let content_range = format!("bytes {}-{}/1000", expected.start, expected.end - 1);
            let range = format!("bytes={range}");
            assert_eq!(answer(&[("range", &range)]), (206, Some(content_range), Some(expected)), "{range}");
        }
    }

    #[test]
    fn range_behind_the_end_is_416_and_an_invalid_one_is_ignored() {
        assert_eq!(answer(&[("range", "bytes=1000-")]), (416, Some("bytes */1000".to_owned()), Some(0..0)));
        for range in ["bytes=9-3", "bytes=0-1,5-6", "lines=1-2", "bytes=x", "bytes=-"] {
            assert_eq!(answer(&[("range", range)]), (200, None, Some(0..1000)), "{range}");
        }
    }

    #[test]
    fn range_of_another_version_is_answered_whole() {
        for (validator, status) in [("\"a\"", 206), (NEW, 206), ("\"b\"", 200), (OLD, 200)] {
            let (answered, ..) = answer(&[("range", "bytes=1-2"), ("if-range", validator)]);
            assert_eq!(answered, status, "{validator}");
        }
    }

    #[test]
    fn current_copy_is_304_without_a_body() {
        for (fields, status) in [
            (&[("if-none-match", "\"b\", W/\"a\"")][..], 304),
            (&[("if-none-match", "*")], 304),
            (&[("if-none-match", "\"b\""), ("if-modified-since", NEW)], 200),
            (&[("if-modified-since", NEW)], 304),
            (&[("if-modified-since", OLD)], 200),
        ] {
            let (answered, _, part) = answer(fields);
            assert_eq!((answered, part.is_none()), (status, status == 304), "{fields:?}");
        }
    }
}
