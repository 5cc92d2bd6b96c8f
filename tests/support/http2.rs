//! HTTP/2 clients over TLS: an honest one, and one that sends frames as a test writes them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Identity;

/// Frame types (RFC 9113 §6).
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// What a TLS client trusts and presents.
#[derive(Clone)]
pub struct TlsClient<'a> {
    pub roots: CertificateDer<'static>,
    pub identity: Option<&'a Identity>,
    pub name: &'a str,
    pub protocols: &'a [&'a str],
}

impl<'a> TlsClient<'a> {
    pub fn new(roots: CertificateDer<'static>) -> Self {
        Self { roots, identity: None, name: "localhost", protocols: &["h2", "http/1.1"] }
    }

    pub async fn connect(&self, address: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
        self.connect_over(TcpStream::connect(address).await?).await
    }

    /// Makes the handshake on a connection that exists.
    pub async fn connect_over(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.roots.clone()).unwrap();
        let config = rustls::ClientConfig::builder().with_root_certificates(roots);
        let mut config = match self.identity {
            None => config.with_no_client_auth(),
            Some(identity) => {
                config.with_client_auth_cert(vec![identity.certificate.clone()], identity.key_der()).unwrap()
            }
        };
        config.alpn_protocols = self.protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = ServerName::try_from(self.name.to_owned()).unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }
}

/// An honest client of one HTTP/2 connection.
pub struct Http2Client {
    requests: h2::client::SendRequest<Bytes>,
    authority: String,
    connection: JoinHandle<Result<(), h2::Error>>,
}

/// A response that has ended.
pub struct Http2Response {
    pub head: http::response::Parts,
    pub body: Vec<u8>,
}

impl Http2Response {
    pub fn header(&self, name: &str) -> &str {
        self.head.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn status(&self) -> u16 {
        self.head.status.as_u16()
    }
}

impl Http2Client {
    pub async fn connect(address: SocketAddr, tls: &TlsClient<'_>) -> io::Result<Self> {
        Self::over(tls.connect(address).await?, address).await
    }

    /// Begins HTTP/2 on a connection that exists.
    pub async fn over(stream: TlsStream<TcpStream>, address: SocketAddr) -> io::Result<Self> {
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        // A response that is not read must not hold up the others.
        let mut client = h2::client::Builder::new();
        client.initial_connection_window_size(16 << 20);
        let (requests, connection) = client.handshake(stream).await.map_err(io::Error::other)?;
        let connection = tokio::spawn(connection);
        Ok(Self { requests, authority: format!("localhost:{}", address.port()), connection })
    }

    /// A request with these fields for a path of the relay.
    pub fn request(&self, method: &str, path: &str, fields: &[(&str, &str)]) -> Request<()> {
        let uri = format!("https://{}{path}", self.authority);
        let request = Request::builder().method(method).uri(uri).version(http::Version::HTTP_2);
        fields.iter().fold(request, |request, (name, value)| request.header(*name, *value)).body(()).unwrap()
    }

    pub async fn get(&self, path: &str) -> Result<Http2Response, h2::Error> {
        self.send(self.request("GET", path, &[]), b"").await
    }

    /// Sends a request and reads its response to the end.
    pub async fn send(&self, request: Request<()>, content: &[u8]) -> Result<Http2Response, h2::Error> {
        let (head, mut body) = self.start(request, content).await?;
        let mut read = Vec::new();
        while let Some(data) = body.data().await {
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            read.extend_from_slice(&data);
        }
        Ok(Http2Response { head, body: read })
    }

    /// Sends a request and reads the head of its response.
    pub async fn start(
        &self,
        request: Request<()>,
        content: &[u8],
    ) -> Result<(http::response::Parts, h2::RecvStream), h2::Error> {
        let mut requests = self.requests.clone().ready().await?;
        let (response, mut stream) = requests.send_request(request, content.is_empty())?;
        if !content.is_empty() {
            stream.send_data(Bytes::copy_from_slice(content), true)?;
        }
        Ok(response.await?.into_parts())
    }

    /// Waits until the relay has closed the connection, also if the client writes at that moment.
    pub async fn wait_until_closed(self) -> Result<(), h2::Error> {
        drop(self.requests);
        let is_late = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
        };
        match self.connection.await.unwrap() {
            Err(error) if error.get_io().is_some_and(is_late) => Ok(()),
            closed => closed,
        }
    }
}

/// A client that sends frames as they are.
pub struct FrameClient {
    stream: TlsStream<TcpStream>,
}

/// A frame of the relay.
#[derive(Debug)]
pub struct ReceivedFrame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl FrameClient {
    /// Connects and sends the preface with these settings.
    pub async fn connect(address: SocketAddr, tls: &TlsClient<'_>, settings: &[(u16, u32)]) -> Self {
        let mut stream = tls.connect(address).await.unwrap();
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()[..]].concat())
            .collect();
        let preface =
            [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(kind::SETTINGS, 0, 0, &payload)].concat();
        stream.write_all(&preface).await.unwrap();
        Self { stream }
    }

    /// Sends bytes. Returns false once the relay has closed the connection.
    pub async fn write(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok() && self.stream.flush().await.is_ok()
    }

    /// Reads the next frame; `None` once the relay has closed the connection.
    pub async fn read(&mut self) -> Option<ReceivedFrame> {
        let mut header = [0; 9];
        self.stream.read_exact(&mut header).await.ok()?;
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes(header[5..9].try_into().unwrap());
        Some(ReceivedFrame { kind: header[3], flags: header[4], stream, payload })
    }

    /// Reads until a frame fits; `None` once the relay has closed the connection.
    pub async fn read_until(&mut self, fits: impl Fn(&ReceivedFrame) -> bool) -> Option<ReceivedFrame> {
        loop {
            let frame = self.read().await?;
            if fits(&frame) {
                return Some(frame);
            }
        }
    }

    /// Reads and discards until the relay closes the connection.
    pub async fn wait_until_closed(&mut self) {
        while self.read().await.is_some() {}
    }

    /// Sends pieces until the relay closes the connection, and discards what it sends. A connection that is open after the
    /// last piece may be closed late: the kernel holds much of what a busy relay has not read.
    pub async fn flood(self, pieces: impl Iterator<Item = Vec<u8>>) {
        let (mut reading, mut writing) = tokio::io::split(self.stream);
        let discarded =
            tokio::spawn(async move { tokio::io::copy(&mut reading, &mut tokio::io::sink()).await });
        for piece in pieces {
            if writing.write_all(&piece).await.is_err() || writing.flush().await.is_err() {
                break;
            }
        }
        let _closed = discarded.await;
    }
}

/// A frame (RFC 9113 §4.1).
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header block without compression (RFC 7541 §6.2.2).
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| {
        let length = text.len();
        // Prefixed integers of 7 bits (§5.1).
        let mut coded = match u8::try_from(length) {
            Ok(short @ ..127) => vec![short],
            _ => {
                let (mut rest, mut coded) = (length - 127, vec![127]);
                while rest >= 128 {
                    coded.push((rest % 128) as u8 | 128);
                    rest /= 128;
                }
                coded.push(rest as u8);
                coded
            }
        };
        coded.extend_from_slice(text.as_bytes());
        coded
    };
    fields.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

/// The header block of a request for a path.
pub fn get_block(path: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    let pseudo = [(":method", "GET"), (":scheme", "https"), (":authority", "localhost"), (":path", path)];
    block(&[&pseudo[..], fields].concat())
}

/// A request for a path on a stream.
pub fn get_frame(stream: u32, path: &str) -> Vec<u8> {
    frame(kind::HEADERS, END_STREAM | END_HEADERS, stream, &get_block(path, &[]))
}
