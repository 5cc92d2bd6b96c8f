//! Readers of single values, shared by all sections: words, numbers, sizes, times, names and URLs. Each turns the text
//! of one value into a checked value, or into a message that says how to write it. No reader knows a section.

use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use http::Uri;
use http::uri::Scheme;

use crate::defaults::{self, Bounds};
use crate::document::Section;
use crate::pattern;
use crate::units::{Size, Time, UnitError};

/// Maximum length of a name that becomes a metric label, in bytes.
const MAX_NAME: usize = 128;

/// Maximum length of a text for people, in bytes.
const MAX_TEXT: usize = 4096;

/// Reads one of a few words.
pub(crate) fn choice<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
        let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
        format!("invalid value {text:?}: use one of {}", words.join(", "))
    })
}

/// Reads `true` or `false`.
pub(crate) fn boolean(text: &str) -> Result<bool, String> {
    choice(text, &[("true", true), ("false", false)])
}

/// Reads a size within `bounds`, or returns the default.
pub(crate) fn size(s: &mut Section, key: &'static str, bounds: Bounds<u64>) -> u64 {
    let read = |text: &str| {
        let Size(bytes) = text.parse().map_err(|error: UnitError| error.to_string())?;
        check_bounds(text, bytes, bounds, Size)
    };
    s.read(key, read).unwrap_or(bounds.default)
}

/// Reads a time span within `bounds`, or returns the default.
pub(crate) fn time(s: &mut Section, key: &'static str, bounds: Bounds<Duration>) -> Duration {
    s.read(key, |text| time_within(text, bounds)).unwrap_or(bounds.default)
}

/// Reads a time span within `bounds`, or `off` as `None`; without the key returns the default.
pub(crate) fn time_or_off(s: &mut Section, key: &'static str, bounds: Bounds<Duration>) -> Option<Duration> {
    let read = |text: &str| match text {
        "off" => Ok(None),
        _ => {
            let Time(time) = text.parse().map_err(|error: UnitError| format!("{error}, or off"))?;
            check_bounds(text, time, bounds, Time).map(Some)
        }
    };
    s.read(key, read).unwrap_or(Some(bounds.default))
}

pub(crate) fn time_within(text: &str, bounds: Bounds<Duration>) -> Result<Duration, String> {
    let Time(time) = text.parse().map_err(|error: UnitError| error.to_string())?;
    check_bounds(text, time, bounds, Time)
}

/// Reads a whole number within `bounds`, or returns the default.
pub(crate) fn count<T: Copy + PartialOrd + Display + FromStr>(
    s: &mut Section,
    key: &'static str,
    bounds: Bounds<T>,
) -> T {
    s.read(key, |text| number(text, bounds)).unwrap_or(bounds.default)
}

/// Reads a count within `bounds`, or returns the default; `None` for `unlimited`.
pub(crate) fn count_within_or_unlimited(
    s: &mut Section,
    key: &'static str,
    bounds: Bounds<u32>,
) -> Option<u32> {
    let read = |text: &str| or_unlimited(text, |text| number(text, bounds));
    s.read(key, read).unwrap_or(Some(bounds.default))
}

/// Reads a size within `bounds`, or returns the default; `None` for `unlimited`.
pub(crate) fn size_or_unlimited(s: &mut Section, key: &'static str, bounds: Bounds<u64>) -> Option<u64> {
    let size = |text: &str| {
        let Size(bytes) = text.parse().map_err(|error: UnitError| error.to_string())?;
        check_bounds(text, bytes, bounds, Size)
    };
    s.read(key, |text| or_unlimited(text, size)).unwrap_or(Some(bounds.default))
}

fn or_unlimited<T>(text: &str, read: impl FnOnce(&str) -> Result<T, String>) -> Result<Option<T>, String> {
    match text {
        "unlimited" => Ok(None),
        _ => read(text).map(Some).map_err(|message| format!("{message}; unlimited is also allowed")),
    }
}

/// Reads a count of downloads or connections; `None` for `unlimited` and without the key.
pub(crate) fn count_or_unlimited(s: &mut Section, key: &'static str) -> Option<u32> {
    s.read(key, |text| or_unlimited(text, |text| number(text, defaults::COUNT))).flatten()
}

pub(crate) fn number<T: Copy + PartialOrd + Display + FromStr>(
    text: &str,
    bounds: Bounds<T>,
) -> Result<T, String> {
    let refused = || format!("{text:?} is not a whole number: use {} to {}", bounds.least, bounds.most);
    check_bounds(text, text.parse().map_err(|_| refused())?, bounds, |value| value)
}

pub(crate) fn check_bounds<T: PartialOrd, S: Display>(
    text: &str,
    value: T,
    bounds: Bounds<T>,
    show: impl Fn(T) -> S,
) -> Result<T, String> {
    if value < bounds.least {
        Err(format!("{text} is below the minimum of {}", show(bounds.least)))
    } else if value > bounds.most {
        Err(format!("{text} is above the maximum of {}", show(bounds.most)))
    } else {
        Ok(value)
    }
}

/// Reads the path of a file that the relay reads itself, and notes it for the sandbox.
pub(crate) fn file(s: &mut Section, key: &'static str) -> Option<PathBuf> {
    let file = s.read(key, path)?;
    s.add_file(key, file.clone());
    Some(file)
}

/// Reads the paths of files that the relay reads itself, and notes them for the sandbox.
pub(crate) fn files(s: &mut Section, key: &'static str) -> Option<Vec<PathBuf>> {
    let files = s.read_list(key, path)?;
    files.iter().for_each(|file| s.add_file(key, file.clone()));
    Some(files)
}

/// Reads the path of a folder or file that no other reader notes: use [`file()`] for files that the relay reads.
pub(crate) fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        Err("empty path: write the path of a file or folder".to_owned())
    } else {
        Ok(PathBuf::from(text))
    }
}

/// Reads a name that becomes a metric label.
pub(crate) fn name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > MAX_NAME || !text.bytes().all(|b| b.is_ascii_graphic() && b != b',') {
        return Err(format!(
            "{text:?} is not a valid name: use 1 to {MAX_NAME} ASCII characters without spaces or commas"
        ));
    }
    Ok(text.to_owned())
}

/// Reads a name of lower-case letters, digits and `-`.
pub(crate) fn label(text: &str) -> Result<String, String> {
    let is_allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if text.is_empty() || text.len() > MAX_NAME || !text.bytes().all(is_allowed) {
        return Err(format!(
            "{text:?} is not a valid name: use 1 to {MAX_NAME} characters from a-z, 0-9 and -"
        ));
    }
    Ok(text.to_owned())
}

/// Reads a path pattern that compiles.
pub(crate) fn glob(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("empty pattern: write it like **/*.zip".to_owned());
    }
    pattern::compile(text)
        .map(|_| text.to_owned())
        .map_err(|error| format!("invalid pattern {text:?}: {}", error.kind()))
}

/// Reads scheme, host and optional port of a server. Messages never show credentials: they end in logs.
pub(crate) fn origin(text: &str, example: &str) -> Result<Uri, String> {
    let behind_scheme = text.split_once("://").map_or(text, |(_, rest)| rest);
    let authority = behind_scheme.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err("contains credentials: remove them from the URL".to_owned());
    }
    if text.contains(['?', '#']) {
        return Err(format!("{text:?} has a query or fragment: use scheme, host and port only"));
    }
    let refused = || format!("{text:?} is not a URL: write it like {example}");
    let uri: Uri = text.parse().map_err(|_| refused())?;
    match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS => {}
        Some(scheme) => return Err(format!("{text:?} has the scheme {scheme}: use http or https")),
        None => return Err(format!("{text:?} has no scheme: write it like {example}")),
    }
    if uri.path() != "/" {
        return Err(format!("{text:?} has a path: use scheme, host and port only, and [[route]] for paths"));
    }
    let is_port_valid = authority
        .rsplit_once(':')
        .is_none_or(|(_, port)| port.ends_with(']') || port.parse::<u16>().is_ok_and(|port| port > 0));
    if uri.host().is_none_or(str::is_empty) || !is_port_valid {
        return Err(refused());
    }
    Ok(uri)
}

/// Returns the name given to a server, or else its authority in lower case.
pub(crate) fn name_or_authority(name: Option<String>, url: &Uri) -> String {
    name.or_else(|| Some(url.authority()?.as_str().to_ascii_lowercase())).unwrap_or_default()
}

/// Reads a host without port, in lower case.
pub(crate) fn host(text: &str) -> Result<String, String> {
    let address = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if let Some(address) = address.and_then(|address| address.parse::<std::net::Ipv6Addr>().ok()) {
        // In the one form that addresses compare in.
        return Ok(format!("[{address}]"));
    }
    let is_valid = match address {
        Some(_) => false,
        None => {
            !text.strip_suffix('.').unwrap_or(text).is_empty()
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        }
    };
    if !is_valid {
        return Err(format!("{text:?} is not a host: write it like updates.example, without a port"));
    }
    Ok(text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase())
}

/// Reads the name of a query parameter.
pub(crate) fn parameter(text: &str) -> Result<String, String> {
    let is_allowed =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b'[' | b']');
    if text.is_empty() || text.len() > MAX_NAME || !text.bytes().all(is_allowed) {
        return Err(format!(
            "{text:?} is not the name of a query parameter: write it like id, without = and spaces"
        ));
    }
    Ok(text.to_owned())
}

/// Reads text for people: at most some lines, without the line feed at its ends.
pub(crate) fn text(text: &str) -> Result<String, String> {
    let text = text.trim_matches('\n');
    if text.trim().is_empty() || text.len() > MAX_TEXT {
        return Err(format!("text has {} bytes: use 1 to {MAX_TEXT}", text.len()));
    }
    Ok(text.to_owned())
}

/// Reads text of one line for people.
pub(crate) fn line(value: &str) -> Result<String, String> {
    let line = text(value)?;
    if line.contains('\n') {
        return Err("text has several lines: write one, with \\ at the end of a line that goes on".to_owned());
    }
    Ok(line)
}
