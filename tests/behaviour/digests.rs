//! Digests: the relay's own for those who want one, the origin's and the catalogs' that content is checked against, and
//! what becomes of content that is not what was announced.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256, Sha512};

use crate::support::{PAYLOAD, Request, Resource, Site, bytes};

fn sha256(body: &[u8]) -> String {
    format!("sha-256=:{}:", BASE64_STANDARD.encode(Sha256::digest(body)))
}

fn sha512(body: &[u8]) -> String {
    format!("sha-512=:{}:", BASE64_STANDARD.encode(Sha512::digest(body)))
}

fn md5(body: &[u8]) -> String {
    BASE64_STANDARD.encode(md5::Md5::digest(body))
}

#[tokio::test(flavor = "multi_thread")]
async fn who_wants_a_digest_of_stored_content_gets_it_of_the_whole() {
    let site = Site::new();
    let body = bytes(1, 3_000);
    site.manager.put(PAYLOAD, Resource::new(body.clone()));
    site.stored(PAYLOAD).await;
    let wanting = |request: Request| request.header("Want-Repr-Digest", "sha-512=3, sha-256=1");
    for (request, status) in [
        (Request::get(PAYLOAD), 200),
        (Request::head(PAYLOAD), 200),
        (Request::get(PAYLOAD).range("0-9"), 206),
        (Request::get(PAYLOAD).range("0-9,90-99"), 206),
    ] {
        let response = site.send(wanting(request.clone())).await;
        assert_eq!((response.status, response.header("Repr-Digest")), (status, Some(&*sha256(&body))));
        assert_eq!(site.send(request).await.header("Repr-Digest"), None);
    }
    let gone = "/content/{535CB6A4-441F-4e8a-A897-804CD859100E}/261121001/gone.dax";
    site.manager.put(gone, Resource::new("gone").status(404));
    site.stored(gone).await;
    assert_eq!(site.send(wanting(Request::get(gone))).await.header("Repr-Digest"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_origins_own_digest_is_passed_on_once_and_of_a_part_only_what_is_true_of_it() {
    let site = Site::new();
    let body = bytes(2, 3_000);
    let resource = Resource::new(body.clone())
        .header("Repr-Digest", &sha512(&body))
        .header("Content-Digest", &sha256(&body))
        .header("Content-MD5", &md5(&body));
    site.manager.put(PAYLOAD, resource);
    site.stored(PAYLOAD).await;
    let request = Request::get(PAYLOAD).header("Want-Repr-Digest", "sha-256=1");
    for (request, status) in [
        (request.clone(), 200),
        (request.clone().range("0-2999"), 206),
        (request.clone().range("5-9"), 206),
        (request.range("0-9,90-99"), 206),
    ] {
        let response = site.send(request).await;
        assert_eq!(response.status, status);
        let own: Vec<_> =
            response.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("Repr-Digest")).collect();
        assert_eq!(own.len(), 1);
        assert_eq!(own[0].1, sha512(&body));
        assert_eq!(response.header("Content-Digest").is_some(), status == 200);
        assert_eq!(response.header("Content-MD5").is_some(), status == 200);
    }
}
