//! The findings of `gupd doctor` that need a transfer: ranges and validators of each upstream, the speed of the line
//! against its limit, peers, and one object through the relay. The object is taken for a few seconds at most, outside of
//! the relay's limits.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header};
use http_body::Body;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::{Examination, State};
use crate::admin_client::{RequestError, own_certificate};
use crate::plan::rate;
use crate::table::bytes;
use gupd_config::units::Rate;
use gupd_config::{Ceiling, Config};
use gupd_net::shape::BandwidthClass;
use gupd_net::upstream::{Upstream, UpstreamRequest, Upstreams, connect_tls};

/// Bytes of the object that are taken and compared.
const MAX_BYTES: u64 = 64 << 20;

/// Time for one transfer.
const MAX_TIME: Duration = Duration::from_secs(5);

/// Bytes without which a transfer says nothing about the line: a smaller one is over before the line is full.
const MIN_MEASURED: u64 = 256 << 10;

/// What arrived of the object.
#[derive(Debug)]
pub(super) struct ReceivedObject {
    status: StatusCode,
    headers: HeaderMap,
    bytes: u64,
    sha256: [u8; 32],
    /// True if it is the whole object.
    is_whole: bool,
    elapsed: Duration,
}

/// What a test object is requested from.
pub(super) struct Sources<'a> {
    pub(super) config: &'a Config,
    pub(super) upstreams: &'a Upstreams,
    pub(super) runtime: &'a Runtime,
    pub(super) object: &'a PathAndQuery,
}

impl Examination {
    /// Examines everything that a transfer shows.
    pub(super) fn content(&mut self, sources: &Sources<'_>) {
        let mut fastest: Option<ReceivedObject> = None;
        for upstream in sources.upstreams.iter() {
            if let Some(received) = self.upstream_content(sources, upstream)
                && fastest.as_ref().is_none_or(|other| other.speed() < received.speed())
            {
                fastest = Some(received);
            }
        }
        self.line(sources.config, fastest.as_ref());
        for peer in sources.upstreams.peers() {
            self.peer(sources, peer);
        }
        self.through_relay(sources, fastest.as_ref());
    }

    /// Examines the object of one upstream; returns what it sent.
    fn upstream_content(
        &mut self,
        sources: &Sources<'_>,
        upstream: &Arc<Upstream>,
    ) -> Option<ReceivedObject> {
        let subject = format!("upstream {}", upstream.name);
        let object = sources.object;
        let whole = sources.request(upstream, &[]);
        let received = match whole {
            Ok(received) if received.status == StatusCode::OK => received,
            Ok(received) => {
                let finding = format!("{object}: it answers {}", received.status.as_u16());
                let remedy = "name an object that it has by --object";
                self.bad(State::Warning, &subject, finding, remedy);
                return None;
            }
            // The request before this one has told that it cannot be reached.
            Err(_) => return None,
        };
        self.good(
            &subject,
            format!("{object}: {} after {} ms", bytes(received.bytes), received.elapsed.as_millis()),
        );
        self.validators(&subject, &received);
        let validator =
            received.headers.get(header::ETAG).or(received.headers.get(header::LAST_MODIFIED)).cloned();
        let mut fields = vec![(header::RANGE, HeaderValue::from_static("bytes=0-0"))];
        fields.extend(validator.map(|validator| (header::IF_RANGE, validator)));
        match sources.request(upstream, &fields) {
            Ok(part) if part.status == StatusCode::PARTIAL_CONTENT && part.bytes == 1 => {
                self.good(&subject, "it serves ranges: a broken transfer is resumed");
            }
            Ok(part) => self.bad(
                State::Warning,
                &subject,
                format!("it answers {} to a range, with {}", part.status.as_u16(), bytes(part.bytes)),
                "enable ranges there: without them a broken transfer begins anew and costs the line twice",
            ),
            Err(error) => self.bad(
                State::Warning,
                &subject,
                format!("it does not answer a request for a range: {error}"),
                "see the log of the upstream",
            ),
        }
        Some(received)
    }

    fn validators(&mut self, subject: &str, received: &ReceivedObject) {
        let text = |name| received.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let finding = match (text(header::ETAG), text(header::LAST_MODIFIED)) {
            (Some(tag), _) if !tag.starts_with("W/") => format!("it sends a strong validator: ETag {tag}"),
            (Some(_), Some(date)) | (None, Some(date)) => {
                format!("it sends a validator: Last-Modified {date}")
            }
            (Some(tag), None) => {
                let remedy = "have it send a strong ETag or Last-Modified: a weak one resumes no transfer";
                self.bad(State::Warning, subject, format!("its only validator is weak: {tag}"), remedy);
                return;
            }
            (None, None) => {
                let remedy =
                    "have it send ETag or Last-Modified: without one, content is fetched anew each time";
                self.bad(State::Warning, subject, "it sends no validator", remedy);
                return;
            }
        };
        self.good(subject, finding);
    }

    fn line(&mut self, config: &Config, received: Option<&ReceivedObject>) {
        let limit = config.wan.limit.steps().filter_map(|(_, ceiling)| match ceiling {
            Ceiling::Rate(Rate(rate)) => Some(rate),
            Ceiling::Unlimited => None,
        });
        let limit = limit.max();
        let Some(received) = received else { return };
        let speed = received.speed();
        let shown = rate(speed as f64);
        if received.bytes < MIN_MEASURED {
            let finding = format!("{} are too few to measure it", bytes(received.bytes));
            self.bad(State::Warning, "line", finding, "name an object of a few MiB by --object");
            return;
        }
        match limit {
            Some(limit) if limit > speed.saturating_add(speed / 4) => self.bad(
                State::Warning,
                "line",
                format!("wan.limit is {}, one transfer reached {shown}", rate(limit as f64)),
                "set wan.limit below the rate of the line, or other traffic of the site waits behind the relay",
            ),
            Some(limit) => {
                self.good("line", format!("one transfer reached {shown}; wan.limit is {}", rate(limit as f64)));
            }
            None => self.bad(
                State::Warning,
                "line",
                format!("one transfer reached {shown}, and wan.limit is not set"),
                "set wan.limit to about 80 % of the line, so that other traffic of the site has room",
            ),
        }
    }

    fn peer(&mut self, sources: &Sources<'_>, peer: &Arc<Upstream>) {
        let subject = format!("peer {}", peer.name);
        match sources.runtime.block_on(async { timeout(MAX_TIME, peer.test_connection()).await }) {
            Ok(Ok(())) => self.good(&subject, "it accepts connections"),
            outcome => {
                let error = match outcome {
                    Ok(Err(error)) => error.to_string(),
                    _ => "no connection in time".to_owned(),
                };
                let remedy =
                    "start it, or check its address, firewall and certificate: misses cross the line twice";
                self.bad(State::Warning, &subject, error, remedy);
            }
        }
    }

    /// Requests the object as a client does, and compares it with the upstream's.
    fn through_relay(&mut self, sources: &Sources<'_>, direct: Option<&ReceivedObject>) {
        let (subject, object) = ("end to end", sources.object);
        let address = client_address(sources.config);
        let received = match sources
            .runtime
            .block_on(async { timeout(MAX_TIME * 2, sources.request_from_relay(address)).await })
        {
            Ok(Ok(received)) => received,
            outcome => {
                let error = match outcome {
                    Ok(Err(error)) => error.to_string(),
                    _ => "no response in time".to_owned(),
                };
                let remedy =
                    "start the relay; behind a proxy or with client certificates, test from a client";
                self.bad(
                    State::Warning,
                    subject,
                    format!("{address} does not serve {object}: {error}"),
                    remedy,
                );
                return;
            }
        };
        let cache =
            received.headers.get("cache-status").and_then(|value| value.to_str().ok()).unwrap_or("none");
        if received.status != StatusCode::OK {
            let finding = format!("{object}: the relay answers {}: {cache}", received.status.as_u16());
            let remedy =
                "gupd policy explain --client 127.0.0.1 --path PATH names the setting that decides it";
            self.bad(State::Warning, subject, finding, remedy);
            return;
        }
        let is_equal = direct
            .is_none_or(|direct| !direct.is_whole || !received.is_whole || direct.sha256 == received.sha256);
        if is_equal {
            let size = bytes(received.bytes);
            self.good(
                subject,
                format!("{object}: {size} after {} ms: {cache}", received.elapsed.as_millis()),
            );
        } else {
            let finding = format!("{object}: the relay has other content than the upstream");
            let remedy =
                "run it again: a catalog may be older for a minute; if it stays, run gupd store verify";
            self.bad(State::Problem, subject, finding, remedy);
        }
    }
}

impl Sources<'_> {
    fn request(
        &self,
        upstream: &Arc<Upstream>,
        fields: &[(header::HeaderName, HeaderValue)],
    ) -> Result<ReceivedObject, RequestError> {
        let mut headers: HeaderMap = fields.iter().cloned().collect();
        self.upstreams.instance().mark(&mut headers, Version::HTTP_11);
        let request = UpstreamRequest::get(self.object.clone(), headers, BandwidthClass::default());
        self.runtime.block_on(async {
            let started = Instant::now();
            let answer = timeout(MAX_TIME, self.upstreams.send_to(upstream, &request)).await??;
            receive(answer.response, started).await
        })
    }

    async fn request_from_relay(&self, address: SocketAddr) -> Result<ReceivedObject, RequestError> {
        let stream = TcpStream::connect(address).await?;
        match self.config.server.tls.as_ref().and_then(|tls| tls.certificates.first()) {
            None => self.request_over(stream, address).await,
            Some(own) => {
                let trust =
                    own_certificate(own).map_err(|_| "server.tls_cert cannot be read by this user")?;
                self.request_over(connect_tls(stream, &trust).await?, address).await
            }
        }
    }

    async fn request_over<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        stream: S,
        address: SocketAddr,
    ) -> Result<ReceivedObject, RequestError> {
        let started = Instant::now();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // An error of the connection is one of the request too.
        let connection = tokio::spawn(async move { drop(connection.await) });
        let request = Request::get(self.object.as_str()).header(header::HOST, address.to_string());
        let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        let received = receive(response, started).await;
        connection.abort();
        received
    }
}

impl ReceivedObject {
    /// Returns the bytes a second.
    fn speed(&self) -> u64 {
        let millis = u64::try_from(self.elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
        self.bytes.saturating_mul(1_000) / millis
    }
}

/// Reads a response for at most [`MAX_TIME`] and [`MAX_BYTES`].
async fn receive<B>(response: Response<B>, started: Instant) -> Result<ReceivedObject, RequestError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let (head, mut body) = response.into_parts();
    let (mut count, mut digest, mut is_whole) = (0, Sha256::new(), true);
    let until = tokio::time::Instant::now() + MAX_TIME;
    loop {
        let Ok(frame) = tokio::time::timeout_at(until, body.frame()).await else {
            is_whole = false;
            break;
        };
        let Some(frame) = frame else { break };
        let Ok(data) = frame?.into_data() else { continue };
        digest.update(&data);
        count += data.len() as u64;
        if count > MAX_BYTES {
            is_whole = false;
            break;
        }
    }
    let sha256 = digest.finalize().into();
    Ok(ReceivedObject {
        status: head.status,
        headers: head.headers,
        bytes: count,
        sha256,
        is_whole,
        elapsed: started.elapsed(),
    })
}

/// Returns an address of the relay for clients, as this machine reaches it.
fn client_address(config: &Config) -> SocketAddr {
    let listen = config.server.listen.first().copied();
    let mut address = listen.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 2967)));
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}
