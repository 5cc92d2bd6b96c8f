//! The life of a request: the steps in their order, one list. A step ends the request with a reply or lets it go on to
//! the next step; no step calls an earlier one, but `hold_slot` may wait for a slot at the end. Everything that steps
//! share about the request is in its [`Exchange`]. Steps off the hit path box their futures, so that the future of a
//! hit stays small.

use std::convert::Infallible;
use std::future::poll_fn;
use std::ops::ControlFlow::{self, Break, Continue};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body::Body;
use hyper::body::Incoming;

use crate::access::{AccessRecord, RequestObserver};
use crate::body::ResponseBody;
use crate::exchange::{Exchange, client_attributes};
use crate::fetch::serve_or_fill;
use crate::full_set::observe_full_set;
use crate::hit::serve_hit;
use crate::pacing::ResponsePacer;
use crate::passthrough::pass_through;
use crate::reply::Reply;
use crate::screening::{
    deny_blocked_content, open_exchange, redirect_while_draining, refuse_closed_path, refuse_unserved_client,
};
use crate::slot::{hold_slot, wait_for_slot};
use crate::view::{record_download, serve_visible_revision};
use crate::window::defer_outside_window;
use crate::{Generation, Proxy};
use gupd_config::policy::Group;
use gupd_http::http2;
use gupd_http::refusal::Refusal;
use gupd_net::listen::ClientConnection;

/// Decision of a step: go on to the next one, or end the request with this reply.
pub(crate) type StepResult<T = ()> = ControlFlow<Reply, T>;

/// Outcome of all steps.
struct StepsOutcome<'a> {
    reply: Reply,
    /// Group of the client; `None` if the request was refused before it was known.
    group: Option<&'a Arc<Group>>,
    observer: Option<Box<dyn RequestObserver>>,
}

/// Runs the steps of one request in their order. Each comment says when the step applies.
async fn run_steps(proxy: &Proxy, exchange: &mut Exchange<'_>, body: Incoming) -> StepResult<Infallible> {
    refuse_unserved_client(proxy, exchange)?; // Access lists of the server and the route.
    refuse_closed_path(proxy, exchange)?; // Consoles, and methods that no updater sends.
    deny_blocked_content(proxy, exchange)?; // The policy blocks the content type for the group or route.
    redirect_while_draining(proxy, exchange)?; // An administrator sends clients to the manager.
    serve_visible_revision(proxy, exchange).await?; // Rings: catalogs of the client's revision, payloads when due.
    defer_outside_window(proxy, exchange).await?; // Schedule windows and spread of the group.
    wait_for_slot(proxy, exchange).await?; // Limits on the number of downloads.
    serve_hit(proxy, exchange).await?; // Fresh, and its head is in memory: most hits.
    pass_through(proxy, exchange, body).await?; // Never cached: other methods, private paths, generic requests with a body.
    serve_or_fill(proxy, exchange).await // A hit from the index, a stale hit, or one fill for each key and variant.
}

impl Proxy {
    /// Answers one request. Never fails: errors and panics become a status, or a body that breaks off.
    pub async fn handle(
        &self,
        request: Request<Incoming>,
        mut connection: ClientConnection,
    ) -> Response<ResponseBody> {
        let generation = self.generations.load();
        let (mut head, body) = request.into_parts();
        let framing = http2::normalize_head(&mut head);
        let identity = connection.identify_client(&head.headers);
        let head_check = framing.and(identity.map_err(|_| Refusal::ClientAddress));
        let (metrics, log) = (self.metrics.clone(), generation.config.log.access);
        let mut access = AccessRecord::new(connection.address, &head, metrics, log);
        // A panic ends this request alone. Nothing that it leaves half done is shared: locks are held across no step.
        // Pinned in place: a combinator would copy the future twice.
        let mut steps = pin!(self.answer_request(&head, head_check, body, &connection, &generation));
        let StepsOutcome { reply, group, observer } = poll_fn(|context| {
            let polled = catch_unwind(AssertUnwindSafe(|| steps.as_mut().poll(context)));
            polled.unwrap_or_else(|_logged_by_the_hook| Poll::Ready(self.answer_panic()))
        })
        .await;
        access.observer = observer;
        access.group = group.cloned();
        let pacer = || {
            // A request without a valid target has no path either.
            let group = group.unwrap_or_else(|| generation.policy.group(&client_attributes(&connection, "")));
            ResponsePacer::new(self.limits.lan.clone(), connection.network(), group.clone())
        };
        reply.into_response(&head.method, access, pacer, self.limits.lan.is_limited())
    }

    async fn answer_request<'a>(
        &self,
        head: &'a Parts,
        head_check: Result<(), Refusal>,
        body: Incoming,
        connection: &'a ClientConnection,
        generation: &'a Arc<Generation>,
    ) -> StepsOutcome<'a> {
        // Refuses invalid targets and loops; selects route, group and upstreams.
        let opened = match head_check {
            Ok(()) if connection.listener().is_gateway() && !body.is_end_stream() => {
                Break(self.refuse(Refusal::NotContent))
            }
            Ok(()) => open_exchange(self, head, connection, generation),
            Err(refusal) => Break(self.refuse(refusal)),
        };
        match opened {
            Break(reply) => StepsOutcome { reply, group: None, observer: None },
            Continue(mut exchange) => {
                let Break(reply) = run_steps(self, &mut exchange, body).await;
                let reply = hold_slot(self, &mut exchange, reply).await;
                record_download(self, &exchange, &reply);
                observe_full_set(&mut exchange, &reply);
                StepsOutcome { reply, group: Some(exchange.group), observer: exchange.observer.take() }
            }
        }
    }

    fn answer_panic(&self) -> StepsOutcome<'static> {
        self.metrics.panics.inc();
        let reply =
            Reply::text(StatusCode::INTERNAL_SERVER_ERROR, "gupd: internal error: its log has the cause\n");
        StepsOutcome { reply, group: None, observer: None }
    }
}
