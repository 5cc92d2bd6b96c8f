//! What the index remembers of an object: variants, refreshed heads, uses.

use super::*;
use gupd::store::MAX_VARIANTS;

async fn store_variant(store: &Arc<Store>, selecting: &str, response_time: i64) {
    let mut writer = InOrder::begin(store, Some(1)).await.unwrap();
    writer.write(vec![Bytes::from_static(b"x")]).await.unwrap();
    let new = NewObject { selecting: selecting.to_owned(), response_time, ..response("key") };
    writer.commit(new).await.unwrap();
}

#[tokio::test]
async fn an_object_is_found_as_it_was_stored() {
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
async fn variants_come_newest_first_and_the_oldest_gives_way() {
    let site = Site::new();
    let store = site.open();
    for variant in 0..=i64::try_from(MAX_VARIANTS).unwrap() {
        store_variant(&store, &variant.to_string(), NOW + variant).await;
    }
    let selecting =
        |objects: Vec<gupd::store::Object>| objects.into_iter().map(|o| o.selecting).collect::<Vec<_>>();
    assert_eq!(selecting(store.lookup("key").await.unwrap()), ["8", "7", "6", "5", "4", "3", "2", "1"]);
    store_variant(&store, "3", NOW + 100).await;
    assert_eq!(selecting(store.lookup("key").await.unwrap()), ["3", "8", "7", "6", "5", "4", "2", "1"]);
    assert_eq!(store.facts().objects, 8);
}

#[tokio::test]
async fn a_refreshed_head_replaces_the_stored_one() {
    let site = Site::new();
    let store = site.open();
    let object = super::store(&store, "key", &body(1, 100)).await.unwrap().object;
    let mut headers = HeaderMap::new();
    headers.append("x", HeaderValue::from_static("1"));
    headers.append("x", HeaderValue::from_bytes(b"\xe9").unwrap());
    store.refresh(object.id, &headers, NOW + 5, NOW + 6).await.unwrap();
    let found = store.lookup("key").await.unwrap();
    assert_eq!(
        (&found[0].headers, found[0].request_time, found[0].response_time),
        (&headers, NOW + 5, NOW + 6)
    );
}

#[tokio::test]
async fn a_head_too_large_for_a_trailer_is_refused_and_nothing_is_left() {
    let site = Site::new();
    let store = site.open();
    let mut writer = InOrder::begin(&store, None).await.unwrap();
    writer.write(vec![body(1, 10)]).await.unwrap();
    let mut new = response("key");
    new.headers.insert("big", HeaderValue::from_bytes(&[b'x'; 70_000]).unwrap());
    assert!(matches!(writer.commit(new).await, Err(StoreError::HeadTooLarge { .. })));
    assert!(store.lookup("key").await.unwrap().is_empty());
}

#[test]
#[ignore = "fills an index with as many rows as the variable ROWS says; the time is printed"]
fn opening_takes_the_same_time_with_many_objects() {
    let rows: i64 = std::env::var("ROWS").ok().and_then(|rows| rows.parse().ok()).unwrap_or(100_000);
    let site = Site::new();
    drop(site.open());
    let index = rusqlite::Connection::open(site.config.dir.join("index.db")).unwrap();
    index.execute_batch("BEGIN").unwrap();
    let mut blob = index.prepare("INSERT INTO blobs VALUES (?1, ?2, 1000, 4096)").unwrap();
    let mut object = index
        .prepare("INSERT INTO objects VALUES (?1, ?2, '', 200, ?3, 'test', 'manager', ?1, ?1, ?1, ?1)")
        .unwrap();
    for row in 1..=rows {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&row.wrapping_mul(0x5851_f42d_4c95_7f2d).to_be_bytes());
        blob.execute((row, hash)).unwrap();
        let key = format!("all/content/{{{row:032x}}}/full.zip");
        object.execute((row, key, &[0; 0][..])).unwrap();
    }
    drop((blob, object));
    index.execute_batch("COMMIT").unwrap();
    drop(index);
    let begun = std::time::Instant::now();
    let store = site.open();
    let opened = begun.elapsed();
    run(async {
        let begun = std::time::Instant::now();
        assert_eq!(
            store.lookup(&format!("all/content/{{{:032x}}}/full.zip", rows / 2)).await.unwrap().len(),
            1
        );
        println!("{rows} objects: open {opened:?}, first look-up {:?}", begun.elapsed());
    });
    assert_eq!(store.facts().objects, u64::try_from(rows).unwrap());
    assert!(opened < Duration::from_secs(1));
}
