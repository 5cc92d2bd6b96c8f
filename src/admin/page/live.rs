//! Server-sent events at `/live`: one for each reading of the counters, upon which an open page fetches its newest version.
//! The stream ends when the process leaves: the browser connects again, to the process that has taken over.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::Response;
use futures_util::stream::unfold;
use tokio::time::{MissedTickBehavior, interval};

use super::set_headers;
use crate::auth::ReadAccess;
use crate::{AdminApi, RateMeter};
use gupd_net::listen::LifecycleStage;

/// An event. Its data is of no meaning, but without data browsers drop it.
const EVENT: &[u8] = b"data: changed\n\n";

pub(super) async fn stream(_: ReadAccess, State(api): State<AdminApi>) -> Response {
    let mut ticks = interval(RateMeter::INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let events = unfold((api.stage, ticks), async |(mut stage, mut ticks)| {
        tokio::select! {
            () = LifecycleStage::Leaving.wait_until_reached(&mut stage) => None,
            _ = ticks.tick() => Some((Ok::<_, Infallible>(Bytes::from_static(EVENT)), (stage, ticks))),
        }
    });
    let mut response = Response::new(Body::from_stream(events));
    set_headers(response.headers_mut(), "text/event-stream");
    response
}
