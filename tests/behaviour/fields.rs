//! Fields that end at the relay, that it adds, and that it keeps, in both directions.

use std::time::Duration;

use crate::support::{PAYLOAD, Request, Resource, Site};

const PRIVATE: &str = "/secars/secars.dll";

#[tokio::test(flavor = "multi_thread")]
async fn hop_by_hop_fields_end_at_the_relay() {
    let site = Site::new();
    let hop_by_hop = |resource: Resource| {
        resource
            .header("Connection", "X-Private, keep-alive")
            .header("X-Private", "1")
            .header("Keep-Alive", "timeout=5")
            .header("Proxy-Connection", "keep-alive")
            .header("X-Public", "2")
    };
    for path in [PRIVATE, PAYLOAD] {
        site.manager.put(path, hop_by_hop(Resource::new("x")));
        let request = Request::get(path)
            .header("Connection", "X-Mine, TE")
            .header("X-Mine", "1")
            .header("TE", "trailers")
            .header("Keep-Alive", "timeout=9")
            .header("Upgrade", "h2c")
            .header("Proxy-Connection", "keep-alive")
            .header("X-Everyones", "2");
        let response = site.send(request).await;
        let seen = &site.manager.requests_for(path)[0];
        for name in ["x-mine", "te", "keep-alive", "upgrade", "proxy-connection", "connection"] {
            assert_eq!(seen.header(name), None, "{name} {path}");
        }
        // A fill of content sends only what such content can depend on.
        assert_eq!(seen.header("x-everyones"), (path == PRIVATE).then_some("2"));
        assert_eq!(seen.header("host"), Some(site.manager.address().to_string().as_str()));
        for name in ["x-private", "keep-alive", "proxy-connection", "connection"] {
            assert_eq!(response.header(name), None, "{name} {path}");
        }
        assert_eq!(response.header("x-public"), Some("2"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hop_by_hop_request_field_never_reaches_manager() {
    let site = Site::new();
    let proxied = format!("http://{}", site.manager.address());
    let file = "/files/setup.msi";
    for path in [PRIVATE, PAYLOAD, "/minitri.flg", file] {
        site.manager.put(path, Resource::new("x").header("Cache-Control", "max-age=1"));
    }
    for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PROPFIND"] {
        for path in [PRIVATE, PAYLOAD, "/minitri.flg", file] {
            for target in [path.to_owned(), format!("{proxied}{path}")] {
                let mut request = Request::new(method, &target).header("Connection", "x-one, HTTP2-Settings");
                for (name, value) in [
                    ("Proxy-Authorization", "Basic c2l0ZTpzZWNyZXQ="),
                    ("Proxy-Authenticate", "Basic realm=\"p\""),
                    ("Proxy-Authentication-Info", "nextnonce=\"n\""),
                    ("Proxy-Connection", "keep-alive"),
                    ("Connection", "X-Two"),
                    ("X-One", "1"),
                    ("X-Two", "2"),
                    ("HTTP2-Settings", "AAMAAABk"),
                    ("Keep-Alive", "timeout=9"),
                    ("TE", "trailers, deflate"),
                    ("Trailer", "X-Checksum"),
                    ("Upgrade", "h2c"),
                ] {
                    request = request.header(name, value);
                }
                site.send(request).await;
            }
        }
    }
    for path in [PRIVATE, PAYLOAD, "/minitri.flg", file] {
        let seen = site.manager.requests_for(path);
        assert!(
            seen.iter().any(|seen| seen.method == "POST") && seen.iter().any(|seen| seen.method == "GET")
        );
        for request in seen {
            for name in [
                "proxy-authorization",
                "proxy-authenticate",
                "proxy-authentication-info",
                "proxy-connection",
                "connection",
                "x-one",
                "x-two",
                "http2-settings",
                "keep-alive",
                "te",
                "trailer",
                "upgrade",
            ] {
                assert_eq!(request.header(name), None, "{name}: {} {path}", request.method);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn proxy_challenge_of_manager_ends_at_the_relay() {
    let site = Site::new();
    for path in [PRIVATE, PAYLOAD] {
        let challenge = Resource::new("x").header("Proxy-Authenticate", "Basic realm=\"p\"");
        site.manager.put(path, challenge.header("Proxy-Authentication-Info", "nextnonce=\"n\""));
        let response = site.get(path).await;
        assert_eq!(response.header("proxy-authenticate"), None, "{path}");
        assert_eq!(response.header("proxy-authentication-info"), None, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn via_is_always_sent_and_client_address_only_when_private() {
    let site = Site::new();
    for path in [PRIVATE, PAYLOAD] {
        site.manager.put(path, Resource::new("x").header("Via", "1.0 parent"));
        let response = site.send(Request::get(path).header("Via", "1.1 floor")).await;
        assert_eq!(response.header("via"), Some("1.0 parent, 1.1 gupd"), "{path}");
        let seen = site.manager.requests_for(path).remove(0);
        assert!(seen.header("via").unwrap().starts_with("1.1 floor, 1.1 gupd-"), "{path}");
    }
    let passed = &site.manager.requests_for(PRIVATE)[0];
    assert_eq!(passed.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(passed.header("forwarded"), Some("for=127.0.0.1"));
    let filled = &site.manager.requests_for(PAYLOAD)[0];
    assert_eq!((filled.header("x-forwarded-for"), filled.header("forwarded")), (None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn date_of_origin_is_kept_or_set_on_arrival() {
    let site = Site::new();
    let date = "Sun, 06 Nov 1994 08:49:37 GMT";
    for path in [PRIVATE, PAYLOAD] {
        site.manager.put(path, Resource::new("x").header("Date", date));
        assert_eq!(site.get(path).await.header("date"), Some(date), "{path}");
    }
    site.wait_until_stored(PAYLOAD).await;
    assert_eq!(site.get(PAYLOAD).await.header("date"), Some(date));
    site.clock.advance(Duration::from_secs(86_400));
    let arrived = site.clock.now();
    let undated = PAYLOAD.replace("261121001", "261121002");
    for path in [PRIVATE, &undated] {
        site.manager.put(path, Resource::new("x").undated());
        assert!(site.get(path).await.header("date").is_some(), "{path}");
    }
    site.wait_until_stored(&undated).await;
    site.clock.advance(Duration::from_secs(1000));
    let hit = site.get(&undated).await;
    let secs = u64::try_from(arrived / 1000).unwrap();
    let arrived = httpdate::fmt_http_date(std::time::UNIX_EPOCH + Duration::from_secs(secs));
    assert_eq!((hit.header("date"), hit.header("age")), (Some(arrived.as_str()), Some("1000")));
}
