//! Sessions of administrators, begun with the admin token. A session lives in memory: a restart ends it, and no
//! file has it. The cookie is for this site alone (`SameSite=Strict`) and unreadable by scripts; each change also needs
//! the session's form token, and the page's own origin.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write;
use std::io::Read;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, header};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

/// Time for which a session lasts: a working day.
const LIFETIME: Duration = Duration::from_secs(12 * 3_600);

/// Maximum number of sessions; the oldest ends first.
const MAX_SESSIONS: usize = 64;

/// Failed sign-ins of all clients together within [`FAILURE_TIME`] after which none is tried.
const MAX_FAILURES: usize = 10;

/// Time for which a failed sign-in counts.
const FAILURE_TIME: Duration = Duration::from_secs(60);

const COOKIE: &str = "gupd_session";

/// The open sessions.
#[derive(Debug, Default)]
pub struct Sessions(Mutex<SessionState>);

#[derive(Debug, Default)]
struct SessionState {
    /// By the digest of the cookie: a copy of the memory opens no session.
    open: HashMap<[u8; 32], OpenSession>,
    failures: VecDeque<Instant>,
}

#[derive(Clone, Debug)]
struct OpenSession {
    form_token: String,
    ends: Instant,
}

impl Sessions {
    /// Returns true if a sign-in may be tried now.
    pub(super) fn may_try(&self) -> bool {
        let mut state = self.state();
        let now = Instant::now();
        while state.failures.front().is_some_and(|failed| now.duration_since(*failed) >= FAILURE_TIME) {
            state.failures.pop_front();
        }
        state.failures.len() < MAX_FAILURES
    }

    /// Counts a failed sign-in.
    pub(super) fn count_failure(&self) {
        let mut state = self.state();
        if state.failures.len() < MAX_FAILURES {
            state.failures.push_back(Instant::now());
        }
    }

    /// Opens a session and returns its cookie. With `is_secure`, browsers send it over TLS only.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub(super) fn open(&self, is_secure: bool) -> std::io::Result<HeaderValue> {
        let (id, form_token) = (random_text()?, random_text()?);
        let mut state = self.state();
        let now = Instant::now();
        state.open.retain(|_, session| session.ends > now);
        if state.open.len() >= MAX_SESSIONS
            && let Some(oldest) = state.open.iter().min_by_key(|(_, session)| session.ends).map(|(id, _)| *id)
        {
            state.open.remove(&oldest);
        }
        state.open.insert(digest(&id), OpenSession { form_token, ends: now + LIFETIME });
        cookie(&id, LIFETIME, is_secure)
    }

    /// Returns the form token of the request's session.
    pub(crate) fn form_token(&self, headers: &HeaderMap) -> Option<String> {
        let id = session_id(headers)?;
        let state = self.state();
        let session = state.open.get(&digest(id)).filter(|session| session.ends > Instant::now())?;
        Some(session.form_token.clone())
    }

    /// Ends the request's session and returns the cookie that removes it.
    ///
    /// # Errors
    /// Never in practice: the cookie is fixed text.
    pub(super) fn close(&self, headers: &HeaderMap, is_secure: bool) -> std::io::Result<HeaderValue> {
        if let Some(id) = session_id(headers) {
            self.state().open.remove(&digest(id));
        }
        cookie("", Duration::ZERO, is_secure)
    }

    fn state(&self) -> MutexGuard<'_, SessionState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns true if a request comes from a page of the same origin (RFC 6454). Browsers send `Origin` with every `POST`. Without
/// TLS a proxy may have ended it, so a page of either scheme is the same.
pub(super) fn is_same_origin(headers: &HeaderMap, over_tls: bool) -> bool {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let (Some(origin), Some(host)) = (text(header::ORIGIN), text(header::HOST)) else { return false };
    origin.split_once("://").is_some_and(|(scheme, authority)| {
        (scheme == "https" || scheme == "http" && !over_tls) && authority.eq_ignore_ascii_case(host)
    })
}

/// Returns true if the browser loaded the page over TLS, of the relay or of a proxy before it.
pub(super) fn is_secure_page(headers: &HeaderMap) -> bool {
    headers.get(header::ORIGIN).is_some_and(|origin| origin.as_bytes().starts_with(b"https://"))
}

fn session_id(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|cookies| cookies.split("; ")).filter_map(|pair| pair.split_once('='));
    pairs.find_map(|(name, value)| (name == COOKIE).then_some(value))
}

fn cookie(id: &str, lifetime: Duration, is_secure: bool) -> std::io::Result<HeaderValue> {
    let seconds = lifetime.as_secs();
    let secure = if is_secure { "; Secure" } else { "" };
    let text = format!("{COOKIE}={id}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}");
    HeaderValue::from_str(&text).map_err(std::io::Error::other)
}

fn digest(id: &str) -> [u8; 32] {
    Sha256::digest(id).into()
}

/// Returns 256 random bits as text.
fn random_text() -> std::io::Result<String> {
    let mut bytes = [0; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let mut text = String::with_capacity(64);
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_cookie(cookie: &HeaderValue) -> HeaderMap {
        let pair = cookie.to_str().unwrap().split(';').next().unwrap();
        HeaderMap::from_iter([(header::COOKIE, format!("other=1; {pair}").parse().unwrap())])
    }

    #[tokio::test(start_paused = true)]
    async fn session_ends_by_time_and_by_sign_out() {
        let sessions = Sessions::default();
        let cookie = sessions.open(false).unwrap();
        let text = cookie.to_str().unwrap();
        assert!(text.contains("HttpOnly") && text.contains("SameSite=Strict"), "{text}");
        assert!(!text.contains("Secure"), "{text}");
        let headers = with_cookie(&cookie);
        assert_eq!(sessions.form_token(&headers).unwrap().len(), 64);
        assert_eq!(sessions.form_token(&HeaderMap::new()), None);
        tokio::time::advance(LIFETIME).await;
        assert_eq!(sessions.form_token(&headers), None);
        let headers = with_cookie(&sessions.open(true).unwrap());
        let removal = sessions.close(&headers, true).unwrap();
        assert!(removal.to_str().unwrap().ends_with("Max-Age=0; Secure"), "{removal:?}");
        assert_eq!(sessions.form_token(&headers), None);
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_and_failures_are_bounded() {
        let sessions = Sessions::default();
        let first = with_cookie(&sessions.open(false).unwrap());
        for _ in 0..MAX_SESSIONS {
            tokio::time::advance(Duration::from_secs(1)).await;
            sessions.open(false).unwrap();
        }
        assert_eq!(sessions.form_token(&first), None);
        assert_eq!(sessions.state().open.len(), MAX_SESSIONS);
        for _ in 0..MAX_FAILURES {
            assert!(sessions.may_try());
            sessions.count_failure();
        }
        assert!(!sessions.may_try());
        tokio::time::advance(FAILURE_TIME).await;
        assert!(sessions.may_try());
    }

    #[test]
    fn only_the_own_origin_may_post() {
        for (origin, plain, over_tls) in [
            (Some("http://127.0.0.1:9467"), true, false),
            (Some("https://127.0.0.1:9467"), true, true),
            (Some("http://127.0.0.1:9468"), false, false),
            (Some("https://evil.example"), false, false),
            (Some("null"), false, false),
            (Some("file://127.0.0.1:9467"), false, false),
            (None, false, false),
        ] {
            let mut headers = HeaderMap::from_iter([(header::HOST, "127.0.0.1:9467".parse().unwrap())]);
            headers.extend(origin.map(|origin| (header::ORIGIN, origin.parse().unwrap())));
            assert_eq!(is_same_origin(&headers, false), plain, "{origin:?}");
            assert_eq!(is_same_origin(&headers, true), over_tls, "{origin:?} over TLS");
        }
    }
}
