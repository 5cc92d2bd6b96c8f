//! A client that shows the bytes on the wire: it parses little, hides nothing, and distinguishes a complete body from
//! a broken one. Bodies are read into one buffer per thread, so that a thousand clients need little memory.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};

use crate::message::{Fields, field, lines, read_chunks, read_head};
use crate::or_panic;

/// Bytes that one read returns at most: few enough to stay in the second-level cache of a core.
const READ_BYTES: usize = 256 << 10;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// One connection to a server.
#[derive(Debug)]
pub struct WireClient {
    stream: BufReader<TcpStream>,
    address: SocketAddr,
}

/// A request before it is sent.
#[derive(Clone, Debug)]
pub struct Request {
    method: String,
    target: String,
    version: &'static str,
    headers: Fields,
    body: Vec<u8>,
}

/// A response, with the body that was read.
#[derive(Debug)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Version of the protocol, such as `HTTP/1.1`.
    pub version: String,
    /// Names and values of the fields, in their order.
    pub headers: Vec<(String, String)>,
    /// The body as far as it was read.
    pub body: Vec<u8>,
    /// The end of the body.
    pub ending: Ending,
}

/// The end of a response's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By its length, its last chunk, or because it has none.
    Complete,
    /// By the end of the connection where no length was announced: the body may be whole or not.
    Closed,
    /// Before its length or its last chunk.
    Broken,
}

/// Gets `target` on a connection of its own.
pub async fn get(address: SocketAddr, target: &str) -> Response {
    Request::get(target).send(address).await
}

impl Request {
    /// A request without fields or body. `Host` is added where it is sent.
    pub fn new(method: &str, target: &str) -> Self {
        let (method, target) = (method.to_owned(), target.to_owned());
        Self { method, target, version: "1.1", headers: Vec::new(), body: Vec::new() }
    }

    /// A `GET` request.
    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    /// A `HEAD` request.
    pub fn head(target: &str) -> Self {
        Self::new("HEAD", target)
    }

    /// Adds a field.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds `Range` with bytes such as `0-9`.
    pub fn range(self, range: &str) -> Self {
        self.header("Range", &format!("bytes={range}"))
    }

    /// Adds a body and its length.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        let length = self.body.len().to_string();
        self.header("Content-Length", &length)
    }

    /// Sends it as HTTP/1.0.
    pub fn http10(self) -> Self {
        Self { version: "1.0", ..self }
    }

    /// Sends it on a connection of its own.
    pub async fn send(&self, address: SocketAddr) -> Response {
        or_panic(WireClient::connect(address).await.send(self).await)
    }
}

impl WireClient {
    /// Connects.
    pub async fn connect(address: SocketAddr) -> Self {
        or_panic(Self::try_connect(address).await)
    }

    /// Connects from an address of this machine, as another client does.
    pub async fn connect_from(source: IpAddr, address: SocketAddr) -> Self {
        or_panic(Self::try_connect_from(source, address).await)
    }

    /// Connects from an address of this machine, as another client does.
    pub async fn try_connect_from(source: IpAddr, address: SocketAddr) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((source, 0).into())?;
        Ok(Self { stream: BufReader::new(socket.connect(address).await?), address })
    }

    /// Connects.
    pub async fn try_connect(address: SocketAddr) -> io::Result<Self> {
        Ok(Self { stream: BufReader::new(TcpStream::connect(address).await?), address })
    }

    /// Sends a request and reads its response to the end of the body.
    pub async fn send(&mut self, request: &Request) -> io::Result<Response> {
        self.write_request(request).await?;
        let mut response = self.read_head().await?;
        self.read_rest(&request.method, &mut response).await;
        Ok(response)
    }

    /// Sends a request and reads nothing.
    pub async fn write_request(&mut self, request: &Request) -> io::Result<()> {
        let Request { method, target, version, headers, body } = request;
        let mut head = format!("{method} {target} HTTP/{version}\r\n");
        if field(headers, "host").is_none() {
            head += &format!("Host: {}\r\n", self.address);
        }
        head += &lines(headers);
        self.write(&[head.as_bytes(), b"\r\n", body].concat()).await
    }

    /// Sends exactly these bytes.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes).await
    }

    /// Reads the head of the next response and nothing of its body.
    pub async fn read_head(&mut self) -> io::Result<Response> {
        let (line, headers) = read_head(&mut self.stream).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut words = line.split_whitespace();
        let version = words.next().unwrap_or_default().to_owned();
        let status = words.next().and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{line:?}")))?;
        Ok(Response { status, version, headers, body: Vec::new(), ending: Ending::Complete })
    }

    /// Reads exactly `count` bytes of a body that is not chunked.
    pub async fn read_bytes(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).await?;
        Ok(bytes)
    }

    /// Reads the next bytes, at most `limit`, and hands them to `check`; `None` at the end of the connection.
    pub async fn read_piece<T>(
        &mut self,
        limit: u64,
        mut check: impl FnMut(&[u8]) -> T,
    ) -> io::Result<Option<T>> {
        let limit = usize::try_from(limit).map_or(READ_BYTES, |limit| limit.min(READ_BYTES));
        poll_fn(|context| {
            BUFFER.with_borrow_mut(|buffer| {
                let mut piece = ReadBuf::new(&mut buffer[..limit]);
                ready!(Pin::new(&mut self.stream).poll_read(context, &mut piece))?;
                let piece = piece.filled();
                Poll::Ready(Ok((!piece.is_empty()).then(|| check(piece))))
            })
        })
        .await
    }

    /// Reads the body that follows a head, behind the part in `response` that was read before.
    pub async fn read_rest(&mut self, method: &str, response: &mut Response) {
        if method == "HEAD" || matches!(response.status, 100..=199 | 204 | 304) {
            return;
        }
        response.ending = if response.header("transfer-encoding").is_some() {
            let read = read_chunks(&mut self.stream, &mut response.body).await;
            read.map_or(Ending::Broken, |()| Ending::Complete)
        } else if let Some(length) = response.length() {
            let left = length - response.body.len() as u64;
            let read = (&mut self.stream).take(left).read_to_end(&mut response.body).await;
            if read.is_ok_and(|read| read as u64 == left) { Ending::Complete } else { Ending::Broken }
        } else {
            self.stream.read_to_end(&mut response.body).await.map_or(Ending::Broken, |_| Ending::Closed)
        };
    }

    /// Reads everything until the connection ends or breaks.
    pub async fn read_to_end(&mut self, bytes: &mut Vec<u8>) {
        let _ = self.stream.read_to_end(bytes).await;
    }

    /// Waits for the next byte or the end; returns true if the server has closed the connection.
    pub async fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]).await, Ok(0) | Err(_))
    }

    /// Returns true if the connection is open and the server has sent nothing unasked.
    pub(crate) fn is_idle(&self) -> bool {
        let read = self.stream.get_ref().try_read(&mut [0]);
        self.stream.buffer().is_empty() && read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl Response {
    /// Value of the first field with this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        field(&self.headers, name)
    }

    /// `Content-Length`.
    pub fn length(&self) -> Option<u64> {
        self.header("content-length")?.parse().ok()
    }

    /// The last entry of `Cache-Status`, which is of the relay that answered (RFC 9211 §2).
    pub fn cache_status(&self) -> &str {
        let mut all = self.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("cache-status"));
        all.next_back().and_then(|(_, value)| value.rsplit(", ").next()).unwrap_or("")
    }

    /// Returns the body.
    pub fn expect_body(self) -> Vec<u8> {
        assert_eq!(self.ending, Ending::Complete, "broke off after {} bytes", self.body.len());
        self.body
    }
}
