//! A client that sees exactly what is on the wire: it parses little, hides nothing, and tells a whole body from one
//! that broke off.

use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};

/// One connection to a relay.
pub struct Client {
    stream: BufReader<TcpStream>,
    address: SocketAddr,
}

/// A request about to be sent.
#[derive(Clone)]
pub struct Request {
    method: String,
    target: String,
    version: &'static str,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

/// A response that has ended.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub version: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub ending: Ending,
}

/// How a response's body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By its length, its last chunk, or because it has none.
    Complete,
    /// By the end of the connection, and nothing had announced a length: one cannot know.
    Closed,
    /// Before its length or its last chunk.
    Broken,
}

pub async fn get(address: SocketAddr, target: &str) -> Response {
    Request::get(target).send(address).await
}

impl Request {
    pub fn new(method: &str, target: &str) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            version: "1.1",
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    pub fn head(target: &str) -> Self {
        Self::new("HEAD", target)
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn range(self, range: &str) -> Self {
        self.header("Range", &format!("bytes={range}"))
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        let length = self.body.len().to_string();
        self.header("Content-Length", &length)
    }

    pub fn http10(self) -> Self {
        Self { version: "1.0", ..self }
    }

    /// On a connection of its own.
    pub async fn send(&self, address: SocketAddr) -> Response {
        Client::connect(address).await.send(self).await.unwrap()
    }
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        Self { stream: BufReader::new(TcpStream::connect(address).await.unwrap()), address }
    }

    /// From this address of the machine: another client.
    pub async fn connect_from(source: IpAddr, address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((source, 0).into()).unwrap();
        Self { stream: BufReader::new(socket.connect(address).await.unwrap()), address }
    }

    pub async fn send(&mut self, request: &Request) -> io::Result<Response> {
        self.begin(request).await?;
        let mut response = self.head().await?;
        self.rest(&request.method, &mut response).await;
        Ok(response)
    }

    /// Sends a request and reads nothing.
    pub async fn begin(&mut self, request: &Request) -> io::Result<()> {
        let Request { method, target, version, headers, body } = request;
        let mut head = format!("{method} {target} HTTP/{version}\r\n");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head += &format!("Host: {}\r\n", self.address);
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        self.write(&[head.as_bytes(), b"\r\n", body].concat()).await
    }

    /// Exactly these bytes.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes).await
    }

    /// The next response's head, without reading into its body.
    pub async fn head(&mut self) -> io::Result<Response> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut words = line.split_whitespace();
        let version = words.next().unwrap_or_default().to_owned();
        let status =
            words.next().and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{line:?}"));
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).await?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        Ok(Response { status, version, headers, body: Vec::new(), ending: Ending::Complete })
    }

    /// Some bytes of a body that is not chunked, exactly as many as told.
    pub async fn some(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).await?;
        Ok(bytes)
    }

    /// The body that follows a head, after what was read of it already.
    pub async fn rest(&mut self, method: &str, response: &mut Response) {
        if method == "HEAD" || matches!(response.status, 100..=199 | 204 | 304) {
            return;
        }
        response.ending = if response.header("transfer-encoding").is_some() {
            self.chunks(&mut response.body).await.map_or(Ending::Broken, |()| Ending::Complete)
        } else if let Some(length) = response.header("content-length") {
            let left = length.parse::<u64>().unwrap() - response.body.len() as u64;
            let read = (&mut self.stream).take(left).read_to_end(&mut response.body).await;
            if read.is_ok_and(|read| read as u64 == left) { Ending::Complete } else { Ending::Broken }
        } else {
            self.stream.read_to_end(&mut response.body).await.map_or(Ending::Broken, |_| Ending::Closed)
        };
    }

    /// Whatever comes until the connection ends, however it ends.
    pub async fn until_end(&mut self, bytes: &mut Vec<u8>) {
        let _reset = self.stream.read_to_end(bytes).await;
    }

    /// Whether the relay has closed the connection.
    pub async fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]).await, Ok(0) | Err(_))
    }

    async fn chunks(&mut self, body: &mut Vec<u8>) -> io::Result<()> {
        loop {
            let mut size = String::new();
            self.stream.read_line(&mut size).await?;
            let size = usize::from_str_radix(size.trim(), 16).map_err(|_| io::ErrorKind::UnexpectedEof)?;
            let mut chunk = vec![0; size + 2];
            self.stream.read_exact(&mut chunk).await?;
            if size == 0 {
                return Ok(());
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// What the relay that answered did; those before it come before.
    pub fn cache_status(&self) -> &str {
        let mut all = self.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("cache-status"));
        all.next_back().and_then(|(_, value)| value.rsplit(", ").next()).unwrap_or("")
    }

    /// The body, if it arrived whole.
    pub fn whole(self) -> Vec<u8> {
        assert_eq!(self.ending, Ending::Complete, "broke off after {} bytes", self.body.len());
        self.body
    }
}
