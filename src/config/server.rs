//! `[server]`: the addresses that clients connect to, and the limits of one connection. Addresses that cannot be bound
//! together are refused here, before any socket is opened. Further listeners are in `listener`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::access::{AccessSettings, read_access};
use crate::client_network::ClientIdentity;
use crate::defaults::{self, Bounds};
use crate::document::{Document, Section};
use crate::listener::{ClientCertificates, ListenerSettings, ListenerTls, read_listeners, read_tls};
use crate::proxies::{ProxySettings, read_proxies};
use crate::public_name::PublicName;
use crate::reader::{boolean, choice, count, file, number, size, time};
use crate::server_url::warn_reserved;
use crate::tls::certificate_list;

/// `[server]`
#[derive(Clone, Debug, PartialEq)]
pub struct ServerSettings {
    /// Addresses that clients connect to. Never empty.
    pub listen: Vec<SocketAddr>,
    /// Further names and addresses by which clients reach the relay.
    pub public_names: Vec<PublicName>,
    /// Address of the admin listener.
    pub admin: SocketAddr,
    /// File with the token that changes over the admin listener need. Without it nobody can make changes.
    pub admin_token_file: Option<PathBuf>,
    /// TLS of the admin listener; `None` for plain HTTP.
    pub admin_tls: Option<ListenerTls>,
    /// Threads that serve clients, 1 to 1,024; one for each core by default.
    pub workers: usize,
    /// TLS of every `listen` address; `None` for plain HTTP.
    pub tls: Option<ListenerTls>,
    /// True if TLS clients of `listen` may use HTTP/2.
    pub has_http2: bool,
    /// Listeners besides that of `listen`, each with settings of its own.
    pub listeners: Vec<ListenerSettings>,
    /// Clients that are served.
    pub access: AccessSettings,
    /// Proxies between clients and the relay.
    pub proxies: ProxySettings,
    /// Identity of clients without a certificate, in limits, shares and budgets.
    pub client_identity: ClientIdentity,
    /// Maximum number of open connections, 1 to 1,000,000.
    pub max_connections: usize,
    /// Maximum number of one client's connections once three quarters of `max_connections` are open; a quarter of
    /// `max_connections` by default.
    pub max_client_connections: usize,
    /// Maximum size of a request head, 8 KiB to 1 MiB.
    pub max_header_bytes: usize,
    /// Maximum size of a request target, 256 B to 64 KiB.
    pub max_uri_bytes: usize,
    /// Time for a request head to arrive, and for a kept-alive connection to send its next one; 1 s to 1 h.
    pub header_timeout: Duration,
    /// Time in which a client must read, or in a request body send, at least one byte; 1 s to 1 h.
    pub stall_timeout: Duration,
    /// Time for running downloads to finish after SIGTERM, 0 to 24 h.
    pub drain_timeout: Duration,
    /// Whether the processes of `gupd serve` restrict themselves as far as the kernel offers it.
    pub is_sandboxed: bool,
}

impl ServerSettings {
    /// Returns every listener: that of `listen` first.
    pub fn all_listeners(&self) -> impl Iterator<Item = ListenerSettings> {
        let own = ListenerSettings {
            name: ListenerSettings::DEFAULT.to_owned(),
            listen: self.listen.clone(),
            tls: self.tls.clone(),
            has_http2: self.has_http2,
            is_gateway: false,
            access: AccessSettings::default(),
            connections: None,
            max_header_bytes: self.max_header_bytes,
            header_timeout: self.header_timeout,
            stall_timeout: self.stall_timeout,
        };
        std::iter::once(own).chain(self.listeners.iter().cloned())
    }

    /// Returns the admin listener, if it has TLS.
    pub fn admin_listener(&self) -> Option<ListenerSettings> {
        let tls = Some(self.admin_tls.clone()?);
        let (name, listen) = (ListenerSettings::ADMIN.to_owned(), vec![self.admin]);
        Some(ListenerSettings { name, listen, tls, has_http2: false, ..self.all_listeners().next()? })
    }

    /// Returns the addresses for clients, with the setting that names them.
    pub fn client_addresses(&self) -> impl Iterator<Item = (&'static str, &SocketAddr)> {
        let of_listeners = self.listeners.iter().flat_map(|listener| &listener.listen);
        let own = self.listen.iter().map(|address| ("server.listen", address));
        own.chain(of_listeners.map(|address| ("listener.listen", address)))
    }

    /// Returns true if clients of some listener may present certificates.
    pub(crate) fn asks_clients(&self) -> bool {
        let all = self.listeners.iter().map(|listener| &listener.tls).chain([&self.tls]);
        all.flatten().any(ListenerTls::asks_clients)
    }
}

pub(crate) fn read_server(document: &mut Document) -> ServerSettings {
    let mut s = document.take_section("server");
    let (listen, admin) = read_addresses(&mut s);
    let public_names: Vec<PublicName> = s.read_list("public_names", str::parse).unwrap_or_default();
    for name in &public_names {
        warn_reserved(&mut s, "public_names", name.host());
    }
    let admin_token_file = file(&mut s, "admin_token_file");
    let admin_tls = read_admin_tls(&mut s);
    check_admin(&mut s, admin, admin_token_file.is_some(), admin_tls.is_some());
    let tls = read_tls(&mut s, ClientCertificates::Optional);
    let has_http2 = s.read("http2", boolean).unwrap_or(true);
    let workers = s.read("workers", workers).unwrap_or_else(available_cores);
    let max_header_bytes = size(&mut s, "max_header_bytes", defaults::MAX_HEADER_BYTES);
    let max_uri_bytes = size(&mut s, "max_uri_bytes", defaults::MAX_URI_BYTES);
    if max_uri_bytes > max_header_bytes {
        s.refuse("max_uri_bytes", "exceeds max_header_bytes, which includes the request target");
    }
    let max_connections = count(&mut s, "max_connections", defaults::MAX_CONNECTIONS);
    let quarter = Bounds { default: (max_connections / 4).max(1), ..defaults::MAX_CONNECTIONS };
    let max_client_connections = count(&mut s, "max_client_connections", quarter);
    let mut server = ServerSettings {
        listen,
        public_names,
        admin,
        admin_token_file,
        admin_tls,
        workers,
        tls,
        has_http2,
        listeners: Vec::new(),
        access: read_access(&mut s),
        proxies: read_proxies(&mut s),
        client_identity: s.read("client_identity", identity).unwrap_or_default(),
        max_connections,
        max_client_connections,
        // Both are at most 1 MiB.
        max_header_bytes: usize::try_from(max_header_bytes).unwrap_or(usize::MAX),
        max_uri_bytes: usize::try_from(max_uri_bytes).unwrap_or(usize::MAX),
        header_timeout: time(&mut s, "header_timeout", defaults::HEADER_TIMEOUT),
        stall_timeout: time(&mut s, "stall_timeout", defaults::STALL_TIMEOUT),
        drain_timeout: time(&mut s, "drain_timeout", defaults::DRAIN_TIMEOUT),
        is_sandboxed: s.read("sandbox", sandbox).unwrap_or(true),
    };
    document.close(s);
    server.listeners = read_listeners(document, &server);
    server
}

fn read_addresses(s: &mut Section) -> (Vec<SocketAddr>, SocketAddr) {
    let listen = s.read_list("listen", address).unwrap_or_else(|| vec![defaults::LISTEN]);
    let admin = s.read("admin", address).unwrap_or(defaults::ADMIN);
    if let Some((_, address)) =
        listen.iter().enumerate().find(|(i, a)| listen.iter().take(*i).any(|b| conflict(a, b)))
    {
        s.refuse("listen", format!("{address} overlaps another listen address: list each port once"));
    }
    if let Some(listen) = listen.iter().find(|listen| conflict(listen, &admin)) {
        s.refuse("admin", format!("{admin} overlaps the listen address {listen}: use another port"));
    }
    (listen, admin)
}

fn read_admin_tls(s: &mut Section) -> Option<ListenerTls> {
    let certificates = certificate_list(s, "admin_tls_cert", "admin_tls_key");
    let client_certificates = ClientCertificates::Off;
    let tls = ListenerTls { certificates, client_certificates, client_ca: None, client_crl: Vec::new() };
    (!tls.certificates.is_empty()).then_some(tls)
}

/// Checks the admin address of a relay: beyond this machine it needs a token and TLS, or the administrator's word that
/// no client can reach it.
fn check_admin(s: &mut Section, admin: SocketAddr, has_token: bool, has_tls: bool) {
    let is_allowed = s.read("admin_allow_insecure", boolean).unwrap_or(false);
    if admin.ip().to_canonical().is_loopback() {
        return;
    }
    let missing = match (has_token, has_tls) {
        (true, true) => return,
        (false, true) => "admin_token_file",
        (true, false) => "admin_tls_cert and admin_tls_key",
        (false, false) => "admin_token_file, admin_tls_cert and admin_tls_key",
    };
    if is_allowed {
        let message =
            format!("{admin} is reachable from other machines without {missing}: keep clients away from it");
        s.warn("admin_allow_insecure", message);
    } else {
        s.refuse_for_relay(
            "admin",
            format!(
                "{admin} is reachable from other machines: set {missing}, or admin_allow_insecure = true if no client reaches it"
            ),
        );
    }
}

fn workers(text: &str) -> Result<usize, String> {
    if text == "auto" { Ok(available_cores()) } else { number(text, defaults::WORKERS) }
}

fn identity(text: &str) -> Result<ClientIdentity, String> {
    choice(text, &[("address", ClientIdentity::Address), ("mac", ClientIdentity::Mac)])
}

fn sandbox(text: &str) -> Result<bool, String> {
    choice(text, &[("auto", true), ("off", false)])
}

fn available_cores() -> usize {
    std::thread::available_parallelism()
        .map_or(defaults::WORKERS.default, |cores| cores.get().min(defaults::WORKERS.most))
}

pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("{text:?} is not an address with a port: write it like 0.0.0.0:2967 or [::1]:2967")
    })
}

// A wildcard address covers every other of its family and port. Port 0 is a free port each time.
pub(crate) fn conflict(a: &SocketAddr, b: &SocketAddr) -> bool {
    a.port() == b.port()
        && a.port() != 0
        && a.is_ipv4() == b.is_ipv4()
        && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}
