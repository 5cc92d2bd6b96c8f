//! The stage before a client's turn: what it is not to have is answered as if there were none. Owns that answer and what
//! is counted; `policy` says what is denied to whom. Not a refusal and no failure: an administrator wants it so.

use super::reply::Reply;
use super::{Asked, Proxy};
use gupd_http::status::CacheStatus;

impl Proxy {
    /// What a client gets that is denied what it asks for. Where nothing is denied, this is one comparison.
    pub(super) fn denied(&self, asked: &Asked<'_>) -> Option<Reply> {
        let Asked { target, group, generation, .. } = asked;
        let denied = generation.policy.find_denial(group, &target.route, target.normalized.path())?;
        let content_type = &*denied.classified.content_type;
        self.metrics.denied.with_label_values(&[&*group.name, content_type]).inc();
        let sentence = "gupd: the policy of this site does not give this content to this client\n";
        let reply = Reply::text(denied.status, sentence);
        Some(reply.told(CacheStatus::Denied, &denied.classified, None))
    }
}
