//! Index entries: variants, refreshed heads, uses.

use super::*;
use gupd_store::MAX_VARIANTS;

async fn store_variant(store: &Arc<Store>, selecting: &str, response_time: i64) {
    let mut writer = InOrder::begin(store, Some(1)).await.unwrap();
    writer.write(vec![Bytes::from_static(b"x")]).await.unwrap();
    let new = NewObject { selecting: selecting.to_owned(), response_time, ..response("key") };
    writer.commit(new).await.unwrap();
}

#[tokio::test]
async fn stored_object_is_found_unchanged() {
    let site = Site::new();
    let store = site.open();
    let committed = super::store(&store, "key", &body(1, 100)).await.unwrap();
    let found = store.lookup("key").await.unwrap();
    let [found] = &found[..] else { panic!("{found:?}") };
    assert_eq!(format!("{found:?}"), format!("{:?}", committed.object));
    assert_eq!((found.status, found.headers["etag"].as_bytes()), (StatusCode::OK, &b"\"1\""[..]));
    assert_eq!(found.last_used(), NOW);
    assert!(store.lookup("other").await.unwrap().is_empty());
}

#[tokio::test]
async fn variants_are_newest_first_and_bounded() {
    let site = Site::new();
    let store = site.open();
    for variant in 0..=i64::try_from(MAX_VARIANTS).unwrap() {
        store_variant(&store, &variant.to_string(), NOW + variant).await;
    }
    let selecting =
        |objects: Vec<gupd_store::Object>| objects.into_iter().map(|o| o.selecting).collect::<Vec<_>>();
    assert_eq!(selecting(store.lookup("key").await.unwrap()), ["8", "7", "6", "5", "4", "3", "2", "1"]);
    store_variant(&store, "3", NOW + 100).await;
    assert_eq!(selecting(store.lookup("key").await.unwrap()), ["3", "8", "7", "6", "5", "4", "2", "1"]);
    assert_eq!(store.stats().objects, 8);
}

#[tokio::test]
async fn refreshed_head_replaces_the_stored_one() {
    let site = Site::new();
    let store = site.open();
    let object = super::store(&store, "key", &body(1, 100)).await.unwrap().object;
    let mut headers = HeaderMap::new();
    headers.append("x", HeaderValue::from_static("1"));
    headers.append("x", HeaderValue::from_bytes(b"\xe9").unwrap());
    store.refresh(&object, &headers, NOW + 5, NOW + 6).await.unwrap();
    let found = store.lookup("key").await.unwrap();
    assert_eq!(
        (&found[0].headers, found[0].request_time, found[0].response_time),
        (&headers, NOW + 5, NOW + 6)
    );
}

#[tokio::test]
async fn oversized_head_is_refused_and_leaves_nothing() {
    let site = Site::new();
    let store = site.open();
    let mut writer = InOrder::begin(&store, None).await.unwrap();
    writer.write(vec![body(1, 10)]).await.unwrap();
    let mut new = response("key");
    new.headers.insert("big", HeaderValue::from_bytes(&[b'x'; 70_000]).unwrap());
    assert!(matches!(writer.commit(new).await, Err(StoreError::HeadTooLarge { .. })));
    assert!(store.lookup("key").await.unwrap().is_empty());
}
