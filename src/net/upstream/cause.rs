//! The cause of a failed request to an upstream, as an administrator needs it: the innermost error, because "connection
//! refused" helps and "client error" does not, and the usual remedy. Errors of libraries that mislead are replaced.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;

use super::tls;

/// The first bytes of a response are a TLS alert: a TLS server got plain HTTP.
#[derive(Debug, thiserror::Error)]
#[error("the server speaks TLS on this port: write https in its URL, or its port for http")]
pub(super) struct TlsAlertReceived;

/// First bytes of a TLS alert: its content type, and the major version of every TLS.
const TLS_ALERT: [u8; 2] = [0x15, 0x03];

/// Returns an error if the first bytes of a response show that the server speaks TLS.
pub(super) fn check_beginning(response: &[u8]) -> io::Result<()> {
    if response.starts_with(&TLS_ALERT) { Err(io::Error::other(TlsAlertReceived)) } else { Ok(()) }
}

/// Returns the innermost cause and its remedy.
pub(super) fn root_cause(error: &(dyn StdError + 'static)) -> Arc<str> {
    if let Some(explained) = causes(error).find_map(explain_tls) {
        return Arc::from(explained);
    }
    let innermost = causes(error).last().map(ToString::to_string).unwrap_or_default();
    match causes(error).find_map(remedy) {
        Some(remedy) => Arc::from(format!("{innermost}: {remedy}")),
        None => Arc::from(innermost),
    }
}

/// Returns an error and its causes, outermost first.
pub(super) fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

/// Explains an alert that came after the handshake.
fn explain_tls(cause: &(dyn StdError + 'static)) -> Option<String> {
    // The source of an `io::Error` is that of its content.
    tls::explain_alert(cause.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref()?)
}

fn remedy(cause: &(dyn StdError + 'static)) -> Option<&'static str> {
    if let Some(hyper) = cause.downcast_ref::<hyper::Error>() {
        let is_other_protocol = hyper.is_parse() && hyper.to_string().contains("version");
        return is_other_protocol.then_some("the server does not speak HTTP on this port: check its URL");
    }
    match cause.downcast_ref::<io::Error>()?.kind() {
        io::ErrorKind::ConnectionRefused => Some("check that the server runs, and its port"),
        io::ErrorKind::TimedOut => Some("check the address of the server, and firewalls on the way"),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            Some("check the address of the server, and the routes of this machine")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_connection_has_its_remedy() {
        for (kind, expected) in [
            (io::ErrorKind::ConnectionRefused, "check that the server runs, and its port"),
            (io::ErrorKind::TimedOut, "check the address of the server, and firewalls on the way"),
            (io::ErrorKind::HostUnreachable, "and the routes of this machine"),
            (io::ErrorKind::NetworkUnreachable, "and the routes of this machine"),
        ] {
            let error = io::Error::from(kind);
            let cause = root_cause(&error);
            assert!(cause.starts_with(&format!("{error}: ")) && cause.ends_with(expected), "{cause}");
        }
        assert_eq!(&*root_cause(&io::Error::other("anything")), "anything");
    }

    #[test]
    fn only_a_tls_alert_is_an_error_of_the_beginning() {
        assert!(check_beginning(b"\x15\x03\x03\x00\x02\x02\x32").is_err());
        for plain in [&b""[..], b"\x15", b"HTTP/1.1 200 OK", b"SSH-2.0-x"] {
            assert!(check_beginning(plain).is_ok(), "{plain:?}");
        }
    }
}
