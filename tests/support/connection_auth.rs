//! A server that authenticates connections instead of requests, as IIS does with NTLM and Negotiate. After the exchange
//! of a scheme, every request on the connection is the user's.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{PATIENCE, Request, WireClient};

/// Path with a response before the end of the connection.
pub const CLOSING: &str = "/secars/close";

/// Path with a response that authenticates the connection unasked.
pub const ADOPTING: &str = "/secars/adopt";

/// Path that asks for credentials of a proxy.
pub const PROXIED: &str = "/secars/proxy";

/// Path that needs no user, with a response that may be stored.
pub const PUBLIC: &str = "/public";

/// The server. It ends when it is dropped.
pub struct ConnectionAuthServer {
    pub address: SocketAddr,
    /// Numbers of the open connections.
    open: watch::Sender<BTreeSet<usize>>,
    requests: Arc<Mutex<Vec<(usize, String)>>>,
    task: JoinHandle<()>,
}

/// State of one connection.
#[derive(Default)]
struct Session {
    user: Option<String>,
    is_challenged: bool,
}

struct Answer {
    status: u16,
    fields: String,
    body: String,
    closes: bool,
}

impl ConnectionAuthServer {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (open, requests) = (watch::Sender::new(BTreeSet::new()), Arc::<Mutex<Vec<_>>>::default());
        let (opened, received) = (open.clone(), requests.clone());
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            for number in 0.. {
                let Ok((stream, _)) = listener.accept().await else { return };
                let (opened, received) = (opened.clone(), received.clone());
                let open = OpenConnection::new(opened, number);
                connections.spawn(async move {
                    let _ended = serve(stream, |line| received.lock().unwrap().push((number, line))).await;
                    drop(open);
                });
            }
        });
        Self { address, open, requests, task }
    }

    /// Closes all connections and accepts no more.
    pub async fn stop(self) {
        self.task.abort();
        self.wait_for_open(0).await;
    }

    /// Number of open connections.
    pub fn open(&self) -> usize {
        self.open.borrow().len()
    }

    /// Waits until this many connections are open.
    pub async fn wait_for_open(&self, count: usize) {
        let mut open = self.open.subscribe();
        let reached = timeout(PATIENCE, open.wait_for(|open| open.len() == count)).await.is_ok();
        assert!(reached, "{} connections are open, expected {count}", self.open());
    }

    /// Waits until the connection of this number is closed.
    pub async fn wait_until_closed(&self, number: usize) {
        let mut open = self.open.subscribe();
        let reached = timeout(PATIENCE, open.wait_for(|open| !open.contains(&number))).await.is_ok();
        assert!(reached, "connection {number} is still open");
    }

    /// Numbers of the connections that carried a request for this path.
    pub fn connections_for(&self, path: &str) -> Vec<usize> {
        let requests = self.requests.lock().unwrap();
        requests.iter().filter(|(_, line)| line.contains(path)).map(|(connection, _)| *connection).collect()
    }
}

impl Drop for ConnectionAuthServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A connection in the list of the open ones, until its task ends.
struct OpenConnection(watch::Sender<BTreeSet<usize>>, usize);

impl OpenConnection {
    fn new(open: watch::Sender<BTreeSet<usize>>, number: usize) -> Self {
        open.send_if_modified(|open| open.insert(number));
        Self(open, number)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.send_if_modified(|open| open.remove(&self.1));
    }
}

async fn serve(stream: TcpStream, received: impl Fn(String)) -> io::Result<()> {
    let (mut stream, mut session) = (BufReader::new(stream), Session::default());
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).await? == 0 {
                return Ok(());
            }
        }
        let mut lines = head.lines();
        let line = lines.next().unwrap_or_default().to_owned();
        let fields: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(": ")).collect();
        let field = |name: &str| fields.iter().find(|(is, _)| is.eq_ignore_ascii_case(name)).map(|(_, v)| *v);
        let mut body = vec![0; field("content-length").map_or(0, |length| length.parse().unwrap())];
        stream.read_exact(&mut body).await?;
        received(line.clone());
        let path = line.split(' ').nth(1).unwrap_or_default();
        let answer = session.answer(path, field("authorization"), body.len());
        let Answer { status, fields, body: text, closes } = answer;
        let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n{fields}\r\n", text.len());
        let text = if line.starts_with("HEAD ") { String::new() } else { text };
        stream.get_mut().write_all((head + &text).as_bytes()).await?;
        if closes {
            return Ok(());
        }
    }
}

impl Session {
    fn answer(&mut self, path: &str, authorization: Option<&str>, uploaded: usize) -> Answer {
        let (mut fields, mut user) = (String::new(), None);
        if let Some((scheme, token)) = authorization.and_then(|value| value.split_once(' ')) {
            let was_challenged = std::mem::take(&mut self.is_challenged);
            self.user = None;
            match token.split_once('-') {
                None => {
                    self.is_challenged = true;
                    return Answer::unauthorized(format!("WWW-Authenticate: {scheme} challenge\r\n"));
                }
                Some(("finish", name)) if was_challenged => self.user = Some(name.to_owned()),
                Some(("ticket", name)) => {
                    fields += "Persistent-Auth: true\r\n";
                    self.user = Some(name.to_owned());
                }
                Some(("once", name)) => {
                    fields += "Persistent-Auth: false\r\n";
                    user = Some(name.to_owned());
                }
                Some(_) => {}
            }
        }
        let user = user.or_else(|| self.user.clone());
        let text = |user: Option<&str>| format!("{uploaded} bytes for {}", user.unwrap_or("anyone"));
        let (status, body) = match path {
            PUBLIC => {
                fields += "Cache-Control: public, max-age=60\r\n";
                (200, text(user.as_deref()))
            }
            ADOPTING => {
                fields += "Persistent-Auth: true\r\n";
                self.user = Some("ghost".to_owned());
                (200, text(user.as_deref()))
            }
            PROXIED => {
                fields += "Proxy-Authenticate: NTLM\r\n";
                (407, String::new())
            }
            _ if user.is_none() => return Answer::unauthorized(String::new()),
            _ => (200, text(user.as_deref())),
        };
        Answer {
            status,
            fields: fields + "Last-Modified: Sat, 28 Nov 2026 08:00:00 GMT\r\n",
            body,
            closes: path == CLOSING,
        }
    }
}

impl Answer {
    /// A challenge, by default with every scheme and no token.
    fn unauthorized(challenge: String) -> Self {
        let all = "WWW-Authenticate: Negotiate\r\nWWW-Authenticate: NTLM\r\n";
        let fields = if challenge.is_empty() { all.to_owned() } else { challenge };
        Self { status: 401, fields, body: "who?".to_owned(), closes: false }
    }
}

/// Sends a request with these credentials and returns the status and the body.
pub async fn ask(client: &mut WireClient, path: &str, credentials: &str) -> (u16, String) {
    let request = Request::get(path);
    let request = if credentials.is_empty() { request } else { request.header("Authorization", credentials) };
    let response = client.send(&request).await.unwrap();
    let status = response.status;
    (status, String::from_utf8(response.expect_body()).unwrap())
}

/// Authenticates the client's connection in two steps.
pub async fn log_in(client: &mut WireClient, path: &str, scheme: &str, user: &str) {
    assert_eq!(ask(client, path, &format!("{scheme} begin")).await.0, 401);
    let finished = ask(client, path, &format!("{scheme} finish-{user}")).await;
    assert_eq!(finished, (200, format!("0 bytes for {user}")));
}
