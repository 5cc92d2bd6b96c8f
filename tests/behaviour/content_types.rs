//! Stored and evicted content by type, for administrators: in the API and on the Content page.

use serde_json::Value;

use crate::support::{Resource, Site, bytes, get};

const VIRUS: &str = "/content/{535CB6A4-441F-4e8a-A897-804CD859100E}";
const CATALOG: &str = "/minitri.flg";
const MIB: usize = 1 << 20;

/// Objects and bytes of a content type, stored and evicted.
async fn content_of(site: &Site, name: &str) -> [u64; 4] {
    let body = get(site.relay().admin(), "/api/v1/content").await.expect_body();
    let report: Value = serde_json::from_slice(&body).unwrap();
    let types = report["types"].as_array().unwrap();
    let Some(row) = types.iter().find(|row| row["content_type"] == name) else { return [0; 4] };
    ["objects", "bytes", "evicted_objects", "evicted_bytes"].map(|field| row[field].as_u64().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn content_is_counted_by_type_as_stored_and_evicted() {
    let site = Site::with_config(|config| config.store.quota = 8 * MIB as u64);
    site.manager.put(CATALOG, Resource::new(bytes(0, 1_000)));
    site.wait_until_stored(CATALOG).await;
    for number in 1..=20 {
        let target = format!("{VIRUS}/2611200{number:02}/full.zip");
        site.manager.put(&target, Resource::new(bytes(number, MIB)));
        site.wait_until_stored(&target).await;
    }
    let virus = content_of(&site, "virus-definitions-32").await;
    let [objects, stored, evicted_objects, evicted] = virus;
    assert_eq!([objects + evicted_objects, stored + evicted], [20, 20 * MIB as u64]);
    assert!(stored <= 8 * MIB as u64 && evicted_objects >= 12, "{virus:?}");
    assert_eq!(content_of(&site, "unheard-of").await, [0; 4]);
    let page = get(site.relay().admin(), "/content").await.expect_body();
    let page = String::from_utf8(page).unwrap();
    let table = page.split("id=\"stored\"").nth(1).unwrap().split("</table>").next().unwrap();
    for text in ["virus-definitions-32", "catalog", &format!("<td class=\"number\">{objects}</td>")] {
        assert!(table.contains(text), "{text}: {table}");
    }
    assert!(table.contains(&format!("<td class=\"number\">{evicted_objects}</td>")), "{table}");
}
