//! Sharing of responses between clients: what one client causes upstream, and which other clients may get the result.

use crate::support::{Request, Resource, Site};

const FILE: &str = "/files/setup.msi";

#[tokio::test(flavor = "multi_thread")]
async fn malformed_cache_control_is_read_restrictively() {
    let site = Site::new();
    for (at, (control, why)) in [
        ("no-cache; no-store; must-revalidate", "no-store"),
        ("private; max-age=600", "private"),
        ("private;no-store", "no-store"),
        ("no-store;max-age=0", "no-store"),
        ("no-store max-age=600", "no-store"),
        ("max-age=600 private", "private"),
        ("\"no-store\", max-age=600", "no-store"),
        ("'private', max-age=600", "private"),
        ("\"no-cache, no-store\", max-age=600", "no-store"),
        ("max-age=600, Cache-Control: private", "private"),
        ("public: private, max-age=600", "private"),
    ]
    .into_iter()
    .enumerate()
    {
        let path = format!("/files/{at}");
        for client in ["first", "second"] {
            site.manager.put(&path, Resource::new(client).header("Cache-Control", control));
            let response = site.get(&path).await;
            assert_eq!(response.cache_status(), format!("gupd; fwd=uri-miss; detail={why}"), "{control}");
            assert_eq!(response.expect_body(), client.as_bytes(), "{control}");
        }
    }
    assert_eq!(site.metric("gupd_store_objects").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_no_store_of_client_is_obeyed() {
    let site = Site::new();
    site.manager.put(FILE, Resource::new("x").header("Cache-Control", "max-age=600"));
    for control in
        ["no-store; max-age=0", "\"no-store\"", "no-cache no-store", "max-age=0;no-store", "'no-store'"]
    {
        let response = site.send(Request::get(FILE).header("Cache-Control", control)).await;
        assert_eq!(response.cache_status(), "gupd; fwd=uri-miss; detail=request-no-store", "{control}");
    }
    assert_eq!(site.metric("gupd_store_objects").await, 0.0);
}
