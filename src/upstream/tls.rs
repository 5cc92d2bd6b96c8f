//! Whom to trust that an upstream is the one that is meant. Owns reading certificates and the rules for them; rustls does the rest.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

use super::ConnectError;
use crate::config;

/// Reads what is trusted, the system's roots only once and only if they are needed.
#[derive(Default)]
pub(super) struct Trust {
    system: Option<Arc<RootCertStore>>,
}

impl Trust {
    /// Settings of TLS toward one upstream.
    pub(super) fn toward(&mut self, _upstream: &config::Upstream) -> Result<Arc<ClientConfig>, ConnectError> {
        let roots = self.system()?;
        let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    fn system(&mut self) -> Result<Arc<RootCertStore>, ConnectError> {
        if let Some(roots) = &self.system {
            return Ok(roots.clone());
        }
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let why = found.errors.first().map_or_else(|| "none found".to_owned(), ToString::to_string);
            return Err(ConnectError::NoRoots(why));
        }
        Ok(self.system.insert(Arc::new(roots)).clone())
    }
}
