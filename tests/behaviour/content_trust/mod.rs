//! Proof of content: a vendor signs catalogs, a manager publishes them over plain HTTP, and a man in the middle changes
//! what he likes. Clients get only what is proven. This file has the helpers of all these tests.

mod catalogs;
mod changes;
mod checks;
mod decisions;
mod payloads;
mod peers;

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use gupd_config::{Config, Verification};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::signing::Vendor;
use crate::support::{Request, Resource, Response, Site, get};

const CATALOG: &str = "/clu/sesc$20defs_14.3_symalllanguages_livetri.zip";
const LISTED: &str = "/clu/1369163480jtun_a.zip";
const UNLISTED: &str = "/clu/1369163480jtun_b.zip";
const MINITRI: &str = "/clu/minitri.flg";

/// Time that the first catalog states.
const STATED: u64 = 1_369_163_480;

const MINUTE: Duration = Duration::from_secs(61);
const TOKEN: &str = "0123456789abcdef-token";

/// A site with a relay that knows the root of its vendor.
struct TrustSite {
    site: Site,
    vendor: Vendor,
    _files: TempDir,
}

impl TrustSite {
    fn new(verification: Verification) -> Self {
        Self::with_config(verification, |_| {})
    }

    fn with_config(verification: Verification, change: impl FnOnce(&mut Config)) -> Self {
        let (vendor, files) = (Vendor::new(), tempfile::tempdir().unwrap());
        let (roots, token) = (files.path().join("roots.pem"), files.path().join("token"));
        std::fs::write(&roots, vendor.root_pem()).unwrap();
        std::fs::write(&token, TOKEN).unwrap();
        std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
        let site = Site::with_config(|config| {
            config.routes[0].verification = verification;
            config.verify.roots = vec![roots];
            config.server.admin_token_file = Some(token);
            config.fill.attempts = 2;
            change(config);
        });
        Self { site, vendor, _files: files }
    }

    /// Publishes the catalog of this payload, and the payload.
    fn publish(&self, stated: u64, body: &[u8]) {
        self.site.manager.put(CATALOG, Resource::new(self.vendor.catalog(stated, &[(LISTED, body)])));
        self.site.manager.put(LISTED, Resource::new(body));
    }

    /// Stores the catalog and its payload.
    async fn store(&self, stated: u64, body: &[u8]) {
        self.publish(stated, body);
        self.site.wait_until_stored(CATALOG).await;
        self.site.wait_until_stored(LISTED).await;
    }

    /// The held content, as the API lists it.
    async fn held(&self) -> Vec<Value> {
        let response = get(self.site.relay().admin(), "/api/v1/store/held").await;
        serde_json::from_slice(&response.expect_body()).unwrap()
    }

    /// Releases or rejects held content.
    async fn decide(&self, decision: &str, sha256: &str) -> Response {
        let body = format!(r#"{{"by":"anna","decision":"{decision}","sha256":"{sha256}"}}"#);
        let request = Request::new("POST", "/api/v1/store/held")
            .header("Authorization", &format!("Bearer {TOKEN}"))
            .body(body);
        request.send(self.site.relay().admin()).await
    }

    async fn unproven(&self, reason: &str, then: &str) -> f64 {
        self.site.metric(&format!("gupd_unproven_content_total{{reason=\"{reason}\",then=\"{then}\"}}")).await
    }

    /// Applies another policy of the only route.
    fn reload(&mut self, verification: Verification) {
        self.site.config.routes[0].verification = verification;
        let config = self.site.config.clone();
        self.site.relay_mut().reload(config).unwrap();
    }
}
