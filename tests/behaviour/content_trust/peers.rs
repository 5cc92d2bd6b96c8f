//! Content from peers: the word of a peer without TLS proves nothing.

use gupd_config::{PeerVerification, Trust, Verification};

use super::{CATALOG, LISTED, STATED, TrustSite, UNLISTED};
use crate::support::{Authority, Front, Manager, PAYLOAD, Resource, Site, bytes};

/// A host that answers in the place of a peer, with content of its own.
fn evil_peer(body: &[u8]) -> Manager {
    let peer = Manager::start();
    for path in [PAYLOAD, LISTED, UNLISTED] {
        peer.put(path, Resource::new(body));
    }
    peer
}

fn set_peer(site: &mut Site, peer: &Manager, verify: PeerVerification) {
    site.set_peers(&[peer.address()]);
    site.config.peers[0].verify = verify;
    let config = site.config.clone();
    site.relay_mut().reload(config).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_peer_is_asked_only_for_listed_payloads() {
    for (verification, verify) in [
        (Verification::Hold, PeerVerification::Off),
        (Verification::Pass, PeerVerification::Off),
        (Verification::Off, PeerVerification::Listed),
        (Verification::Changes, PeerVerification::Listed),
    ] {
        let (mut trust, body) = (TrustSite::new(verification), bytes(1, 100_000));
        let peer = evil_peer(b"evil");
        set_peer(&mut trust.site, &peer, verify);
        trust.publish(STATED, &body);
        trust.site.wait_until_stored(CATALOG).await;
        for path in [PAYLOAD, UNLISTED] {
            trust.site.manager.put(path, Resource::new(body.clone()));
            trust.site.get(path).await;
            assert_eq!(peer.request_count(path), 0, "{verification:?} {path}");
        }
        // Its bytes are compared, and the manager has the right ones.
        assert!(trust.site.get(LISTED).await.expect_body() == body, "{verification:?}");
        assert_eq!(peer.request_count(LISTED), 1, "{verification:?}");
        trust.site.wait_until_stored(LISTED).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn right_bytes_of_a_plain_peer_are_accepted() {
    let (mut trust, body) = (TrustSite::new(Verification::Hold), bytes(2, 100_000));
    let peer = evil_peer(&body);
    set_peer(&mut trust.site, &peer, PeerVerification::Listed);
    trust.publish(STATED, &body);
    trust.site.wait_until_stored(CATALOG).await;
    trust.site.wait_until_stored(LISTED).await;
    assert_eq!((peer.request_count(LISTED), trust.site.manager.request_count(LISTED)), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn peer_with_tls_is_believed() {
    let (mut trust, authority) = (TrustSite::new(Verification::Hold), Authority::new());
    let peer = evil_peer(b"definitions");
    let ca = trust.site.store().join("ca.pem");
    std::fs::write(&ca, authority.pem()).unwrap();
    let front = Front::start(peer.address(), authority.issue("127.0.0.1")).await;
    let manager = Front::start(trust.site.manager.address(), authority.issue("127.0.0.1")).await;
    trust.site.set_peers(&[peer.address()]);
    trust.site.config.peers[0].url = front.url().parse().unwrap();
    trust.site.config.peers[0].trust = Trust { ca: Some(ca.clone()), ..Trust::default() };
    let plain = trust.site.config.clone();
    trust.site.relay_mut().reload(plain).unwrap();
    assert_eq!(trust.site.get(PAYLOAD).await.status, 503, "the rest could come from a plain upstream");
    trust.site.config.upstreams[0].url = manager.url().parse().unwrap();
    trust.site.config.upstreams[0].trust = Trust { ca: Some(ca), ..Trust::default() };
    let config = trust.site.config.clone();
    trust.site.relay_mut().reload(config).unwrap();
    trust.site.wait_until_stored(PAYLOAD).await;
    assert_eq!(trust.site.get(PAYLOAD).await.expect_body(), b"definitions");
    assert_eq!(trust.site.manager.request_count(PAYLOAD), 0);
}
