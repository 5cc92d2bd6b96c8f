//! Failures of the tier: their kinds, each with its remedy, and the log line that an administrator gets once for each.
//! Reading and writing are judged apart, because a relay may be allowed only one of them.

use std::error::Error as StdError;
use std::io::ErrorKind;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::io::Errno;

/// Kind of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TierProblem {
    /// The folder or bucket does not exist.
    Missing,
    /// The relay may not do it.
    Denied,
    /// There are no usable credentials.
    Credentials,
    /// The bucket is in another region.
    Region,
    /// The clocks differ.
    Clock,
    /// No room is left.
    Full,
    /// The storage asks for fewer requests.
    Busy,
    /// No answer came in time.
    Slow,
    /// The storage cannot be reached.
    Unreachable,
    /// Its records are of a later version.
    Later,
    /// The relay is stopping.
    Stopped,
    /// Any other failure.
    Other,
}

/// Use of the tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TransferDirection {
    Read,
    Write,
}

/// A failed operation.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{reason}: {}", problem.remedy())]
pub struct TierError {
    /// Its kind.
    pub problem: TierProblem,
    /// What happened.
    pub reason: String,
}

/// Problems by direction, so that each is logged once.
#[derive(Debug)]
pub(crate) struct TierHealth {
    url: String,
    // Held to compare and replace.
    problems: [Mutex<Option<TierProblem>>; 2],
}

impl TierProblem {
    /// Returns what an administrator can do.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Missing => "create it, mount it, or correct tier.url",
            Self::Denied => {
                "correct the permissions or credentials, or set tier.publish = false if it is read-only"
            }
            Self::Credentials => "set them in the environment, or in tier.credentials_file with mode 0600",
            Self::Region => "set tier.region to the region of the bucket",
            Self::Clock => "synchronize the clock of this machine",
            Self::Full => "make room there, or run gupd tier gc",
            Self::Busy => "nothing, unless it lasts: then raise the request limit of the storage",
            Self::Slow => "check the storage and its network",
            Self::Unreachable => "check tier.url, the storage and its network",
            Self::Later => "upgrade gupd, or give this relay another prefix in tier.url",
            Self::Stopped => "start the relay again",
            Self::Other => "check the storage",
        }
    }
}

impl TierError {
    pub(crate) fn new(problem: TierProblem, reason: impl Into<String>) -> Self {
        Self { problem, reason: reason.into() }
    }

    pub(crate) fn slow(limit: Duration) -> Self {
        Self::new(TierProblem::Slow, format!("no answer within tier.timeout ({limit:?})"))
    }

    pub(crate) fn stopped(_error: impl StdError) -> Self {
        Self::new(TierProblem::Stopped, "the relay is stopping")
    }

    pub(crate) fn from_io(error: &std::io::Error, what: &str) -> Self {
        Self::new(problem_of_io(error), format!("{what}: {error}"))
    }
}

impl From<object_store::Error> for TierError {
    fn from(error: object_store::Error) -> Self {
        use object_store::Error;
        let io = find_io_error(&error);
        let text = error.to_string();
        let problem = problem_of_code(&text).unwrap_or_else(|| match (&error, io) {
            (Error::PermissionDenied { .. } | Error::Unauthenticated { .. }, _) => TierProblem::Denied,
            (_, Some(io)) => problem_of_io(io),
            _ => TierProblem::Other,
        });
        Self::new(problem, shorten(&text))
    }
}

/// Returns the error of the system among the causes of an error.
fn find_io_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a std::io::Error> {
    error.downcast_ref().or_else(|| find_io_error(error.source()?))
}

fn problem_of_io(error: &std::io::Error) -> TierProblem {
    match Errno::from_io_error(error) {
        Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => return TierProblem::Full,
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => return TierProblem::Denied,
        Some(Errno::STALE | Errno::NOTCONN | Errno::HOSTDOWN) => return TierProblem::Unreachable,
        _ => {}
    }
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => TierProblem::Missing,
        ErrorKind::PermissionDenied => TierProblem::Denied,
        ErrorKind::TimedOut => TierProblem::Slow,
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset | ErrorKind::HostUnreachable => {
            TierProblem::Unreachable
        }
        _ => TierProblem::Other,
    }
}

/// Returns the problem that an error code of S3, or the text of its client, names.
fn problem_of_code(text: &str) -> Option<TierProblem> {
    const CODES: [(&str, TierProblem); 13] = [
        ("NoSuchBucket", TierProblem::Missing),
        ("AccessDenied", TierProblem::Denied),
        ("InvalidAccessKeyId", TierProblem::Denied),
        ("SignatureDoesNotMatch", TierProblem::Denied),
        ("ExpiredToken", TierProblem::Denied),
        ("RequestTimeTooSkewed", TierProblem::Clock),
        ("AuthorizationHeaderMalformed", TierProblem::Region),
        ("PermanentRedirect", TierProblem::Region),
        ("incorrectly configured region", TierProblem::Region),
        ("IllegalLocationConstraintException", TierProblem::Region),
        ("SlowDown", TierProblem::Busy),
        ("ServiceUnavailable", TierProblem::Busy),
        ("QuotaExceeded", TierProblem::Full),
    ];
    CODES.iter().find(|(code, _)| text.contains(code)).map(|(_, problem)| *problem)
}

/// Returns the first line of a text, at most 300 characters.
fn shorten(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(300).collect()
}

impl TierHealth {
    pub(crate) fn new(url: &str) -> Self {
        Self { url: url.to_owned(), problems: [Mutex::default(), Mutex::default()] }
    }

    /// Notes the outcome of an operation. A line is logged when the problem is another one, and when it ends.
    pub(crate) fn note(&self, direction: TransferDirection, error: Option<&TierError>) {
        let problem = error.map(|error| error.problem);
        if problem == Some(TierProblem::Stopped) {
            return;
        }
        let [read, write] = &self.problems;
        let state = if direction == TransferDirection::Read { read } else { write };
        let before = std::mem::replace(&mut *state.lock().unwrap_or_else(PoisonError::into_inner), problem);
        match (before, error) {
            (before, Some(error)) if before != problem => {
                let use_of = if direction == TransferDirection::Read { "read" } else { "write" };
                tracing::warn!(tier = &*self.url, %error, operation = use_of, "tier failed; serving without it");
            }
            (Some(_), None) => tracing::info!(tier = &*self.url, "tier works again"),
            _ => {}
        }
    }
}
