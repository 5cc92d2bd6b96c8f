//! Client rows: they survive a restart, and a lost index is rebuilt without them.

use super::*;

fn row(number: usize, value: Option<&str>) -> (String, Option<Vec<u8>>) {
    (format!("10.0.{}.{}", number / 256, number % 256), value.map(|value| value.as_bytes().to_vec()))
}

async fn all(store: &Store) -> Vec<(String, Vec<u8>)> {
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let page = store.load_clients(&after).await.unwrap();
        let Some((last, _)) = page.last() else { return all };
        assert!(*last > after);
        after.clone_from(last);
        all.extend(page);
    }
}

#[tokio::test]
async fn client_rows_survive_a_restart_and_removed_ones_do_not() {
    let site = Site::new();
    let store = site.open();
    store.save_clients((0..3000).map(|number| row(number, Some("new"))).collect()).await.unwrap();
    store.save_clients(vec![row(7, Some("seen again")), row(8, None), row(5000, None)]).await.unwrap();
    drop(store);
    let store = site.open();
    let known = all(&store).await;
    assert_eq!(known.len(), 2999);
    assert!(known.is_sorted());
    let value = |name: &str| known.iter().find(|(client, _)| client == name).map(|(_, value)| &value[..]);
    assert_eq!(value("10.0.0.7"), Some(&b"seen again"[..]));
    assert_eq!((value("10.0.0.8"), value("10.0.11.183")), (None, Some(&b"new"[..])));
}

#[tokio::test]
async fn corrupt_client_row_is_skipped() {
    let site = Site::new();
    let store = site.open();
    store.save_clients((0..5).map(|number| row(number, Some("value"))).collect()).await.unwrap();
    drop(store);
    let index = rusqlite::Connection::open(site.config.dir.join("index.db")).unwrap();
    index.execute("UPDATE clients SET value = x'00' WHERE name = '10.0.0.3'", []).unwrap();
    drop(index);
    let known = all(&site.open()).await;
    let names: Vec<_> = known.iter().map(|(name, _)| &name[..]).collect();
    assert_eq!(names, ["10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.4"]);
}

#[tokio::test]
async fn rebuilt_index_has_no_clients_and_accepts_new_ones() {
    let site = Site::new();
    let store = site.open();
    let before = fs::metadata(site.config.dir.join("index.journal")).unwrap().len();
    store.save_clients((0..300).map(|number| row(number, Some("value"))).collect()).await.unwrap();
    assert_eq!(fs::metadata(site.config.dir.join("index.journal")).unwrap().len(), before);
    drop(store);
    fs::remove_file(site.config.dir.join("index.db")).unwrap();
    let store = site.open();
    assert_eq!(all(&store).await, []);
    store.save_clients(vec![row(1, Some("value"))]).await.unwrap();
    assert_eq!(all(&store).await.len(), 1);
}
