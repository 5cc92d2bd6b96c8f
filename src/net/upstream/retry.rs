//! Requests to one upstream after the other until one answers. A second upstream gets a request only if the first cannot
//! have acted on it (RFC 9110 §9.2.2). The complication is a connection that closes without a response: a kept one may
//! have reached its idle time-out, a new one says that the upstream fails, on this path or for a moment.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::error::is_unavailable;
use super::send::RequestTimeouts;
use super::{Upstream, UpstreamError, UpstreamRequest, UpstreamResponse, Upstreams};
use gupd_config::{FillSettings, UpstreamId};

/// Wait before an upstream that closed a new connection unanswered gets the request once more: a service that restarts
/// takes longer than an immediate repetition.
const RETRY_BACKOFF: Duration = Duration::from_millis(100);

/// Attempts of one request that brought no final response.
#[derive(Default)]
struct FailedAttempts {
    /// Last response of an upstream that is unavailable.
    unavailable: Option<UpstreamResponse>,
    last_error: Option<UpstreamError>,
    /// Upstreams that closed the connection without an answer. They may get a repeatable request once more.
    closed: Vec<Arc<Upstream>>,
}

impl Upstreams {
    /// Sends a request to the upstreams of `order` until one gives a final response. An upstream that cannot be
    /// reached, times out or answers `502`, `503`, `504` or `508` passes it to the next. So does one that closes a new
    /// connection unanswered; if no other one answers, it gets the request once more, unless `fill.attempts` is 1.
    ///
    /// # Errors
    /// The failure of the last upstream; at once if none may get requests.
    pub async fn send(
        &self,
        order: &[UpstreamId],
        outgoing: &UpstreamRequest,
    ) -> Result<UpstreamResponse, UpstreamError> {
        let FillSettings { head_timeout, total_timeout, attempts, .. } = self.settings;
        let mut timeouts = RequestTimeouts::shared(head_timeout, total_timeout);
        let mut failures = FailedAttempts::default();
        let candidates = self.order_for(order, outgoing);
        if let Some(answer) = self.try_each(candidates, outgoing, &mut timeouts, &mut failures).await {
            return Ok(answer);
        }
        let closed = std::mem::take(&mut failures.closed);
        if !closed.is_empty() && attempts > 1 {
            sleep(RETRY_BACKOFF.min(timeouts.left())).await;
            // Boxed, like everything rare: every request would have room for it.
            let again = Box::pin(self.try_each(closed, outgoing, &mut timeouts, &mut failures)).await;
            if let Some(answer) = again {
                return Ok(answer);
            }
        }
        let FailedAttempts { unavailable, last_error, .. } = failures;
        unavailable.map_or_else(|| Err(last_error.unwrap_or_else(|| self.no_upstream_error(order))), Ok)
    }

    /// Sends a request to one upstream after the other. `None` if all have failed, or the next one must not get it.
    async fn try_each(
        &self,
        candidates: Vec<Arc<Upstream>>,
        outgoing: &UpstreamRequest,
        timeouts: &mut RequestTimeouts,
        failures: &mut FailedAttempts,
    ) -> Option<UpstreamResponse> {
        for upstream in candidates {
            if timeouts.is_over() {
                break;
            }
            let Some(permit) = self.admit(&upstream, outgoing) else { continue };
            if let Some(UpstreamResponse { upstream, response, .. }) = failures.unavailable.take() {
                tracing::warn!(upstream = &*upstream.name, status = %response.status(), "trying the next upstream");
            }
            let mut answer = self.send_admitted(permit, outgoing, timeouts).await;
            if matches!(answer, Err(UpstreamError::Closed { was_kept: true, .. }))
                && outgoing.is_repeatable()
                && let Some(permit) = self.admit(&upstream, outgoing)
            {
                // Most likely its idle time-out closed the connection as the request left; a new one decides
                // (RFC 9112 §9.3.1).
                answer = Box::pin(self.send_admitted(permit, outgoing, timeouts)).await;
            }
            match answer {
                Ok(answer) if outgoing.is_repeatable() && is_unavailable(answer.response.status()) => {
                    failures.unavailable = Some(answer);
                }
                Ok(answer) => return Some(answer),
                Err(error) => {
                    tracing::warn!(%error, "upstream did not answer");
                    let is_unsent =
                        matches!(error, UpstreamError::Connect { .. }) && outgoing.body.is_unread();
                    let is_closed = matches!(error, UpstreamError::Closed { .. });
                    failures.last_error = Some(error);
                    if !is_unsent && !outgoing.is_repeatable() {
                        break;
                    }
                    failures.closed.extend(is_closed.then_some(upstream));
                }
            }
        }
        None
    }

    /// Returns the upstreams of `order` by preference, first those that the client has a connection of its own with.
    fn order_for(&self, order: &[UpstreamId], outgoing: &UpstreamRequest) -> Vec<Arc<Upstream>> {
        let mut candidates = self.order_by_preference(order);
        if let Some(pin) = &outgoing.pin {
            pin.retain(|id| self.get(id).is_some());
            candidates.sort_by_key(|upstream| !pin.has(&upstream.id));
        }
        candidates
    }

    fn no_upstream_error(&self, order: &[UpstreamId]) -> UpstreamError {
        if order.is_empty() {
            return UpstreamError::Request { reason: Arc::from("the route has no upstream") };
        }
        UpstreamError::Unavailable { retry: self.time_to_probe(order).unwrap_or_default() }
    }
}
