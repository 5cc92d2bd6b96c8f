//! The PROXY header (versions 1 and 2) with which a trusted proxy begins a connection. Reads exactly the header: what
//! follows is for TLS or HTTP. The complication is version 1, a line that ends anywhere within 107 bytes.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use proxy_header::{Error, ParseConfig, ProxyHeader};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// First bytes of version 1.
const V1_SIGNATURE: &[u8] = b"PROXY ";

/// First bytes of version 1, and of version 2.
const SIGNATURES: [&[u8]; 2] = [V1_SIGNATURE, b"\r\n\r\n\0\r\nQUIT\n"];

/// Length of the longest of them.
pub(super) const SIGNATURE_LENGTH: usize = 12;

/// Length of the shortest header of version 1: `PROXY UNKNOWN` and its line end.
const MIN_V1: usize = 15;

/// Maximum length of a header of version 1.
const MAX_V1: usize = 107;

/// Length of the fixed part of version 2, which ends with the length of the rest.
const FIXED_V2: usize = 16;

/// Maximum length of a header of version 2. Addresses take 36 bytes; proxies add names of their TLS connection. The
/// protocol lets a header have 64 KiB.
const MAX_V2: usize = 2048;

/// A connection of a trusted proxy that does not begin with a usable header.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProxyHeaderError {
    /// The first bytes are those of no header.
    #[error(
        "the connection begins without a PROXY header: let the proxy send one, or remove it from server.trusted_proxies"
    )]
    Missing,
    /// The header is malformed.
    #[error("the PROXY header is malformed")]
    Invalid,
    /// The header is longer than any proxy's.
    #[error("the PROXY header has {0} bytes: more than {MAX_V2}")]
    TooLong(usize),
    /// The header did not arrive in time.
    #[error("the PROXY header did not arrive within {0:?}")]
    Late(Duration),
    /// The connection broke.
    #[error("the connection broke within the PROXY header: {0}")]
    Broken(#[from] io::Error),
}

/// Addresses of the connection between the client and the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ProxiedAddresses {
    pub(super) client: SocketAddr,
    /// Address that the client connected to.
    pub(super) local: SocketAddr,
}

/// Bytes of a connection, which can be looked at before they are taken. Fuzzing has another one than TCP.
pub(super) trait HeaderSource: Send {
    /// Reads the next bytes.
    fn read_some(&mut self, buffer: &mut [u8]) -> impl Future<Output = io::Result<usize>> + Send;

    /// Returns the next bytes and leaves them.
    fn peek_some(&mut self, buffer: &mut [u8]) -> impl Future<Output = io::Result<usize>> + Send;
}

impl HeaderSource for TcpStream {
    async fn read_some(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read(buffer).await
    }

    async fn peek_some(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.peek(buffer).await
    }
}

/// Reads the header. `None` for a connection of the proxy's own, such as a health check, and for one that came to the
/// proxy by other means than TCP.
pub(super) async fn read_proxy_header(
    stream: &mut impl HeaderSource,
) -> Result<Option<ProxiedAddresses>, ProxyHeaderError> {
    let mut header = vec![0; MIN_V1];
    read_begin(stream, &mut header).await?;
    let begins_with = |signature: &[u8]| header.starts_with(signature);
    if begins_with(V1_SIGNATURE) {
        read_line(stream, &mut header).await?;
    } else {
        read_v2(stream, &mut header).await?;
    }
    parse(&header)
}

/// Returns true if the bytes begin like a PROXY header, with or without the line ends before that of version 2: the HTTP
/// parser skips empty lines.
pub(super) fn is_proxy_header(begin: &[u8]) -> bool {
    SIGNATURES
        .iter()
        .any(|signature| begin.starts_with(signature) || begin.starts_with(signature.trim_ascii_start()))
}

/// Reads the first bytes, as long as they can be those of a header.
async fn read_begin(stream: &mut impl HeaderSource, header: &mut [u8]) -> Result<(), ProxyHeaderError> {
    let mut length = 0;
    while let Some(rest) = header.get_mut(length..).filter(|rest| !rest.is_empty()) {
        let read = stream.read_some(rest).await?;
        length = length.saturating_add(read);
        let begin = header.get(..length).unwrap_or_default();
        let is_possible = SIGNATURES.iter().any(|signature| {
            let compared = signature.len().min(begin.len());
            begin.get(..compared) == signature.get(..compared)
        });
        if !is_possible {
            return Err(ProxyHeaderError::Missing);
        }
        if read == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
    Ok(())
}

/// Reads the rest of a line, and nothing behind it.
async fn read_line(stream: &mut impl HeaderSource, header: &mut Vec<u8>) -> Result<(), ProxyHeaderError> {
    while !header.ends_with(b"\n") {
        let mut next = [0; MAX_V1];
        let room = next.get_mut(..MAX_V1.saturating_sub(header.len())).unwrap_or_default();
        if room.is_empty() {
            return Err(ProxyHeaderError::Invalid);
        }
        let seen = stream.peek_some(room).await?;
        let seen = room.get(..seen).unwrap_or_default();
        let length =
            seen.iter().position(|byte| *byte == b'\n').map_or(seen.len(), |end| end.saturating_add(1));
        if length == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let begin = header.len();
        header.resize(begin.saturating_add(length), 0);
        read_exact(stream, header.get_mut(begin..).unwrap_or_default()).await?;
    }
    Ok(())
}

async fn read_v2(stream: &mut impl HeaderSource, header: &mut Vec<u8>) -> Result<(), ProxyHeaderError> {
    header.resize(FIXED_V2, 0);
    read_exact(stream, header.get_mut(MIN_V1..).unwrap_or_default()).await?;
    let &[.., high, low] = header.as_slice() else { return Err(ProxyHeaderError::Invalid) };
    let length = FIXED_V2.saturating_add(usize::from(u16::from_be_bytes([high, low])));
    if length > MAX_V2 {
        return Err(ProxyHeaderError::TooLong(length));
    }
    header.resize(length, 0);
    read_exact(stream, header.get_mut(FIXED_V2..).unwrap_or_default()).await?;
    Ok(())
}

async fn read_exact(stream: &mut impl HeaderSource, mut buffer: &mut [u8]) -> io::Result<()> {
    while !buffer.is_empty() {
        let read = stream.read_some(buffer).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buffer = std::mem::take(&mut buffer).get_mut(read..).unwrap_or_default();
    }
    Ok(())
}

fn parse(header: &[u8]) -> Result<Option<ProxiedAddresses>, ProxyHeaderError> {
    let config = ParseConfig { include_tlvs: false, allow_v1: true, allow_v2: true };
    match ProxyHeader::parse(header, config) {
        Ok((parsed, length)) if length == header.len() => {
            let addresses = parsed.proxied_address();
            Ok(addresses.map(|found| ProxiedAddresses { client: found.source, local: found.destination }))
        }
        Ok(_) | Err(Error::Invalid | Error::BufferTooShort) | Err(_) => Err(ProxyHeaderError::Invalid),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends by a panic")]

    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

    /// Sends the pieces one after the other, and returns what is read of them, with the bytes that are left.
    async fn read(pieces: &[&[u8]]) -> (Result<Option<ProxiedAddresses>, ProxyHeaderError>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let sending = async move {
            for piece in pieces {
                // The reader may have refused the header already.
                let _refused = sender.write_all(piece).await;
                tokio::task::yield_now().await;
            }
        };
        let (header, ()) = tokio::join!(read_proxy_header(&mut stream), sending);
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        (header, rest)
    }

    fn v2(command: u8, family: u8, addresses: &[u8], extra: usize) -> Vec<u8> {
        let length = u16::try_from(addresses.len() + extra).unwrap().to_be_bytes();
        [V2, &[command, family], &length, addresses, &vec![0; extra]].concat()
    }

    fn of(client: &str, local: &str) -> Option<ProxiedAddresses> {
        Some(ProxiedAddresses { client: client.parse().unwrap(), local: local.parse().unwrap() })
    }

    #[tokio::test]
    async fn header_is_read_and_what_follows_is_left() {
        let four = [10, 0, 0, 1, 192, 0, 2, 7, 0x12, 0x67, 0x0b, 0x97];
        let six =
            [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[1], &[0x20, 1, 0xd, 0xb8], &[0; 11], &[2], &[0, 1, 0, 2]]
                .concat();
        let ipv4 = of("10.0.0.1:4711", "192.0.2.7:2967");
        let ipv6 = of("[2001:db8::1]:1", "[2001:db8::2]:2");
        for (header, expected) in [
            (b"PROXY TCP4 10.0.0.1 192.0.2.7 4711 2967\r\n".to_vec(), ipv4),
            (b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n".to_vec(), ipv6),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), None),
            (v2(0x21, 0x11, &four, 0), ipv4),
            (v2(0x21, 0x11, &four, 500), ipv4),
            (v2(0x21, 0x21, &six, 0), ipv6),
            (v2(0x20, 0x11, &four, 0), None),
            (v2(0x20, 0x00, &[], 0), None),
        ] {
            let rest = b"GET / HTTP/1.1\r\n\r\n";
            let whole = [&header[..], rest].concat();
            let single: Vec<&[u8]> = whole.chunks(1).collect();
            for pieces in [&[&whole[..]][..], &single, &[&header[..5], &header[5..], rest]] {
                let (read, left) = read(pieces).await;
                assert_eq!(read.unwrap(), expected, "{header:?}");
                assert_eq!(left, rest);
            }
        }
    }

    #[tokio::test]
    async fn unusable_header_is_refused_without_waiting_for_more() {
        let long = [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 200]].concat();
        for (sent, expected) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], "without a PROXY header"),
            (b"\x16\x03\x01", "without a PROXY header"),
            (b"PROXY TCP4 10.0.0.1 192.0.2.7 4711 99999\r\n", "malformed"),
            (b"PROXY TCP5 10.0.0.1 192.0.2.7 4711 2967\r\n", "malformed"),
            (b"PROXY TCP4 10.0.0.1\r\n", "malformed"),
            (&long, "malformed"),
            (&v2(0x21, 0x11, &[1, 2, 3], 0), "malformed"),
            (&v2(0x31, 0x11, &[0; 12], 0), "malformed"),
            (&v2(0x21, 0x11, &[0; 12], 4000), "more than 2048"),
            (b"PROXY", "broke"),
            (b"PROXY TCP4 10.0.0.1 192.", "broke"),
            (V2, "broke"),
        ] {
            let (read, _) = read(&[sent]).await;
            let error = read.unwrap_err().to_string();
            assert!(error.contains(expected), "{error} for {sent:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn parsing_any_bytes_does_not_panic(version in 0..3_usize, bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let signature = SIGNATURES.get(version).copied().unwrap_or_default();
            let _ = parse(&[signature, &bytes].concat());
        }
    }
}
