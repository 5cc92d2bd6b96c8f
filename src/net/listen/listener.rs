//! The listeners of a relay, each with its TLS, its limits and its kind of client. A listener keeps its TLS settings
//! behind one pointer: a renewed certificate is for the next handshake, and no connection ends. All other settings of
//! a listener stay as they were at the start.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use hyper::server::conn::http1;
use tokio_rustls::TlsAcceptor;

use super::certificate_watch::{FileStates, read_states};
use super::client_rules::ClientRules;
use super::connection_limits::ConnectionLimits;
use super::neighbours::Neighbours;
use super::tls;
use crate::pem::{self, PemError};
use gupd_config::clock::UnixMillis;
use gupd_config::{ListenerSettings, ListenerTls, ServerSettings};

/// Maximum of fields in a request head: three times as many as browsers send.
const MAX_FIELDS: usize = 128;

/// One listener.
pub struct ClientListener {
    name: Arc<str>,
    is_gateway: bool,
    tls: ArcSwapOption<LoadedTls>,
    pub(super) http1: http1::Builder,
    pub(super) limits: Arc<ConnectionLimits>,
    /// Those of all listeners.
    rules: Arc<ArcSwap<ClientRules>>,
    /// Those of the relay.
    neighbours: Arc<Neighbours>,
    pub(super) has_http2: bool,
    pub(super) max_header_bytes: usize,
    pub(super) header_timeout: Duration,
    pub(super) stall_timeout: Duration,
}

/// TLS in use, and the settings that it was loaded from.
pub(super) struct LoadedTls {
    pub(super) acceptor: TlsAcceptor,
    pub(super) settings: ListenerTls,
    /// The files as they were when they were read.
    pub(super) files: FileStates,
    /// Expiry of the earliest revocation list.
    pub(super) crl_expiry: Option<UnixMillis>,
}

/// State that all listeners share.
struct SharedByListeners {
    site: Arc<ConnectionLimits>,
    rules: Arc<ArcSwap<ClientRules>>,
    neighbours: Arc<Neighbours>,
}

/// All listeners.
#[derive(Debug)]
pub struct ClientListeners {
    /// That of `[server]` first.
    clients: Vec<Arc<ClientListener>>,
    /// The admin address, if it speaks TLS.
    admin: Option<Arc<ClientListener>>,
    neighbours: Arc<Neighbours>,
}

impl ClientListeners {
    /// Loads the certificates of all listeners.
    ///
    /// # Errors
    /// If a file cannot be read or used.
    pub fn load(server: &ServerSettings) -> Result<Self, PemError> {
        let site = ConnectionLimits::new(server.max_connections, server.max_client_connections);
        let rules = Arc::new(ArcSwap::from_pointee(ClientRules::new(server)));
        let neighbours = Arc::new(Neighbours::default());
        neighbours.configure(server.client_identity);
        let shared = SharedByListeners { site, rules, neighbours: neighbours.clone() };
        let load = |settings| ClientListener::load(settings, &shared).map(Arc::new);
        let clients = server.all_listeners().map(load).collect::<Result<_, _>>()?;
        Ok(Self { clients, admin: server.admin_listener().map(load).transpose()?, neighbours })
    }

    /// Returns the hosts of the relay's link. Their addresses count by themselves until its task runs.
    pub fn neighbours(&self) -> &Arc<Neighbours> {
        &self.neighbours
    }

    /// Returns the listener of this name.
    pub fn find(&self, name: &str) -> Option<&Arc<ClientListener>> {
        self.clients.iter().find(|listener| *listener.name == *name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<ClientListener>> {
        self.clients.iter()
    }

    /// Returns the TLS of the admin address for a new connection; `None` for plain HTTP.
    pub fn admin_tls(&self) -> Option<TlsAcceptor> {
        Some(self.admin.as_ref()?.tls()?.acceptor.clone())
    }

    /// Returns the listeners with files: those for clients, and the admin address.
    pub(super) fn with_files(&self) -> impl Iterator<Item = &Arc<ClientListener>> {
        self.clients.iter().chain(&self.admin)
    }

    /// Applies the rules about addresses, and loads the certificates of a configuration for new connections. A listener
    /// that started without TLS stays without, and one with TLS stays with it.
    ///
    /// # Errors
    /// If a file of some listener cannot be used; all keep their old certificates.
    pub fn reload(&self, server: &ServerSettings) -> Result<(), PemError> {
        let mut renewed = Vec::new();
        let own = |settings: ListenerSettings| Some((self.find(&settings.name)?, settings.tls?));
        let admin = server.admin_listener().and_then(|settings| Some((self.admin.as_ref()?, settings.tls?)));
        for (listener, tls) in server.all_listeners().filter_map(own).chain(admin) {
            renewed.push((listener, LoadedTls::load(tls, listener.has_http2)?));
        }
        if let Some(listener) = self.clients.first() {
            listener.rules.store(Arc::new(ClientRules::new(server)));
        }
        self.neighbours.configure(server.client_identity);
        for (listener, renewed) in renewed {
            if let Some(tls) = listener.tls() {
                listener.replace_tls(&tls, renewed);
            }
        }
        Ok(())
    }
}

impl ClientListener {
    fn load(settings: ListenerSettings, shared: &SharedByListeners) -> Result<Self, PemError> {
        let SharedByListeners { site, rules, neighbours } = shared;
        let mut http1 = http1::Builder::new();
        // `pipeline_flush` stays off: with it, hyper copies every body behind its head. `keep_alive` bounds the time of
        // a head.
        http1
            .header_read_timeout(None)
            .max_buf_size(settings.max_header_bytes)
            .max_headers(MAX_FIELDS)
            .preserve_header_case(true)
            .title_case_headers(true);
        let has_http2 = settings.has_http2;
        let tls = settings.tls.map(|tls| LoadedTls::load(tls, has_http2)).transpose()?;
        let limits = match settings.connections {
            Some(own) => ConnectionLimits::within(site, own.max, own.max_client),
            None => site.clone(),
        };
        Ok(Self {
            name: settings.name.into(),
            is_gateway: settings.is_gateway,
            tls: ArcSwapOption::new(tls.map(Arc::new)),
            http1,
            limits,
            rules: rules.clone(),
            neighbours: neighbours.clone(),
            has_http2,
            max_header_bytes: settings.max_header_bytes,
            header_timeout: settings.header_timeout,
            stall_timeout: settings.stall_timeout,
        })
    }

    /// Returns its name in the configuration.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Returns true if its clients are beyond the site: they get content only.
    pub fn is_gateway(&self) -> bool {
        self.is_gateway
    }

    /// Returns true if connections of this address may carry requests of any client, in whose place it does not count.
    pub fn is_proxy(&self, peer: IpAddr) -> bool {
        self.rules.load().is_proxy(peer)
    }

    /// Returns the address by which the client at an address counts.
    pub(super) fn network_of(&self, client: IpAddr) -> IpAddr {
        self.neighbours.network_of(client)
    }

    /// Returns true if this client is served.
    pub(super) fn permits(&self, client: IpAddr) -> bool {
        self.rules.load().permits(&self.name, client)
    }

    /// Returns the rules about addresses.
    pub(super) fn rules(&self) -> Guard<Arc<ClientRules>> {
        self.rules.load()
    }

    /// Returns its TLS; `None` for plain HTTP.
    pub(super) fn tls(&self) -> Option<Arc<LoadedTls>> {
        self.tls.load_full()
    }

    /// Replaces its TLS for new connections, unless it is no longer `current`.
    pub(super) fn replace_tls(&self, current: &Arc<LoadedTls>, renewed: LoadedTls) {
        let _overtaken = self.tls.compare_and_swap(current, Some(Arc::new(renewed)));
    }
}

impl LoadedTls {
    pub(super) fn load(settings: ListenerTls, has_http2: bool) -> Result<Self, PemError> {
        // Read first: a change after this is seen by the watch.
        let files = read_states(&settings);
        let acceptor = tls::load_acceptor(&settings, has_http2)?;
        let mut crl_expiry = None;
        for path in settings.client_crl.iter().filter(|_| settings.asks_clients()) {
            let until = pem::read_crl_validity(path)?.until;
            crl_expiry = Some(crl_expiry.map_or(until, |earliest: UnixMillis| earliest.min(until)));
        }
        Ok(Self { acceptor, settings, files, crl_expiry })
    }
}

impl fmt::Debug for ClientListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientListener").field("name", &self.name).finish_non_exhaustive()
    }
}
