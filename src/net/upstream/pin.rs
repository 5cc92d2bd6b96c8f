//! Upstream connections of one client connection alone. A server that authenticates connections takes every request on
//! one for its user's. Such a connection therefore carries the requests of one client connection and ends with it; the
//! pool never has it. A client connection has at most one with each upstream. If the upstream closes it, the next
//! request goes out on a new one, whose user the server does not know.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::SendRequest;
use tokio::time::timeout;

use super::limited_stream::LineHandle;
use super::send::{RequestTimeouts, wait_for_head};
use super::{RequestBody, Upstream, UpstreamError, root_cause};
use gupd_config::UpstreamId;

/// Maximum time that a kept connection takes until it can send. Its last response has arrived, so it needs none.
const READY_TIMEOUT: Duration = Duration::from_secs(1);

/// The upstream connections of a client connection. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct ConnectionPin(
    // Locked to take a connection or to put it back; a client has one request at a time.
    Arc<Mutex<Vec<PinnedConnection>>>,
);

#[derive(Debug)]
struct PinnedConnection {
    upstream: UpstreamId,
    sender: SendRequest<RequestBody>,
    line: LineHandle,
}

impl ConnectionPin {
    /// Returns true if there is a connection with this upstream.
    pub(super) fn has(&self, upstream: &UpstreamId) -> bool {
        self.lock()
            .iter()
            .any(|connection| connection.upstream == *upstream && !connection.sender.is_closed())
    }

    /// Closes the connections with upstreams that are not configured any more.
    pub(super) fn retain(&self, is_configured: impl Fn(&UpstreamId) -> bool) {
        self.lock().retain(|connection| is_configured(&connection.upstream));
    }

    /// Returns the connection with this upstream if it can send.
    async fn take(&self, upstream: &UpstreamId) -> Option<PinnedConnection> {
        let mut taken = {
            let mut connections = self.lock();
            let position = connections.iter().position(|connection| connection.upstream == *upstream)?;
            connections.swap_remove(position)
        };
        let is_ready = matches!(timeout(READY_TIMEOUT, taken.sender.ready()).await, Ok(Ok(())));
        is_ready.then_some(taken)
    }

    fn put(&self, connection: PinnedConnection) {
        self.lock().push(connection);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<PinnedConnection>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PinnedConnection {
    async fn open(upstream: &Upstream, uri: Uri, timeouts: &RequestTimeouts) -> Result<Self, UpstreamError> {
        let name = || upstream.name.clone();
        let after = timeouts.left();
        let opened = timeout(after, upstream.pool.open(uri)).await;
        let opened = opened.map_err(|_| UpstreamError::HeadTimeout { upstream: name(), after })?;
        let (sender, line) = opened
            .map_err(|error| UpstreamError::Connect { upstream: name(), reason: root_cause(&*error) })?;
        Ok(Self { upstream: upstream.id.clone(), sender, line })
    }

    /// Sends a request and waits for the response head.
    async fn send(
        &mut self,
        request: Request<RequestBody>,
        timeouts: &mut RequestTimeouts,
    ) -> Result<Result<Response<Incoming>, TrySendError<Request<RequestBody>>>, Duration> {
        let (body, line) = (request.body().clone(), || Some(self.line.clone()));
        let mut answer = wait_for_head(self.sender.try_send_request(request), &body, line, timeouts).await?;
        if let Ok(response) = &mut answer {
            // As hyper-util does for pooled connections.
            response.extensions_mut().insert(self.line.clone());
        }
        Ok(answer)
    }
}

impl Upstream {
    /// Sends a request on the client's own connection, and waits for the response head. Opens the connection if there is
    /// none, or if the upstream has closed it before it got anything of the request.
    pub(super) async fn send_pinned(
        &self,
        (pin, client): (&ConnectionPin, Option<IpAddr>),
        mut request: Request<RequestBody>,
        timeouts: &mut RequestTimeouts,
    ) -> Result<Response<Incoming>, UpstreamError> {
        let uri = request.uri().clone();
        if self.pool.forward_proxy().is_none() {
            *request.uri_mut() =
                uri.path_and_query().map_or_else(Uri::default, |target| target.clone().into());
        }
        let mut kept = pin.take(&self.id).await;
        loop {
            let was_kept = kept.is_some();
            let mut connection = match kept.take() {
                Some(connection) => connection,
                None => PinnedConnection::open(self, uri.clone(), timeouts).await?,
            };
            connection.line.begin_request(client);
            let answer = connection.send(request, timeouts).await;
            let late = |after| UpstreamError::HeadTimeout { upstream: self.name.clone(), after };
            let mut error = match answer.map_err(late)? {
                Ok(response) => {
                    pin.put(connection);
                    return Ok(response);
                }
                Err(error) => error,
            };
            match error.take_message().filter(|_| was_kept) {
                Some(unsent) => request = unsent,
                None => {
                    return Err(UpstreamError::from_client_error(error.error(), self.name.clone(), was_kept));
                }
            }
        }
    }
}
