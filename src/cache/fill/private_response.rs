//! The part of a response that only the client that started the fill may have: all of a response that is not shared, or
//! the cookies of one that is. It is sent once, before the fill publishes its decision.

use http::HeaderMap;
use tokio::sync::oneshot;

use gupd_net::upstream::UpstreamResponse;

/// Receives the part of a response for the client that started a fill.
#[derive(Debug)]
pub struct PrivateResponse(oneshot::Receiver<PrivatePart>);

#[derive(Debug)]
pub(super) struct PrivateResponseSender(oneshot::Sender<PrivatePart>);

#[derive(Debug)]
enum PrivatePart {
    Response(Box<UpstreamResponse>),
    Cookies(Box<HeaderMap>),
}

impl PrivateResponse {
    pub(super) fn channel() -> (PrivateResponseSender, Self) {
        let (sender, receiver) = oneshot::channel();
        (PrivateResponseSender(sender), Self(receiver))
    }

    /// Waits for a response that is not shared. `None` if the fill ends without one.
    pub async fn response(self) -> Option<UpstreamResponse> {
        match self.0.await {
            Ok(PrivatePart::Response(response)) => Some(*response),
            Ok(PrivatePart::Cookies(_)) | Err(_) => None,
        }
    }

    /// Takes the cookies of a shared response with a known head.
    pub fn take_cookies(&mut self) -> Option<Box<HeaderMap>> {
        match self.0.try_recv() {
            Ok(PrivatePart::Cookies(cookies)) => Some(cookies),
            Ok(PrivatePart::Response(_)) | Err(_) => None,
        }
    }
}

impl PrivateResponseSender {
    /// Sends a response that is not shared. The client may have gone.
    pub(super) fn send(self, response: UpstreamResponse) {
        drop(self.0.send(PrivatePart::Response(Box::new(response))));
    }

    /// Sends the cookies of a shared response.
    pub(super) fn send_cookies(self, cookies: HeaderMap) {
        drop(self.0.send(PrivatePart::Cookies(Box::new(cookies))));
    }
}
