//! Listeners: the addresses of `[server]`, which form the default listener, and each `[[listener]]` with settings of
//! its own. Every listener has TLS of its own, or none. A gateway is a listener for clients beyond the site: it needs
//! client certificates, serves content only, and its clients are in groups that name it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::access::{AccessSettings, read_access};
use crate::defaults::{self, Bounds};
use crate::document::{Document, Section};
use crate::reader::{boolean, choice, count, file, files, size, time};
use crate::server::{ServerSettings, address, conflict};
use crate::tls::{CertificateFiles, certificate_list};

/// Maximum length of a name: those of all sockets fit into one message of the guard.
const MAX_LISTENER_NAME: usize = 32;

/// TLS of a listener.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerTls {
    /// Certificates with their keys. Never empty. The first is for clients whose name no certificate has.
    pub certificates: Vec<CertificateFiles>,
    /// Whether clients present certificates.
    pub client_certificates: ClientCertificates,
    /// Issuers of the certificates of clients.
    pub client_ca: Option<PathBuf>,
    /// Revocation lists of those issuers. With any, each issuer needs a current one.
    pub client_crl: Vec<PathBuf>,
}

/// `client_certificates`: whether clients of a listener present certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    /// Clients are not asked for one.
    Off,
    /// A client without one is served too. A certificate that does not verify is refused.
    Optional,
    /// Only clients with a verified certificate are served.
    Required,
}

const CLIENT_CERTIFICATES: [(&str, ClientCertificates); 3] = [
    ("off", ClientCertificates::Off),
    ("optional", ClientCertificates::Optional),
    ("required", ClientCertificates::Required),
];

/// One listener.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerSettings {
    /// Unique name in logs: lower-case letters, digits, `-`.
    pub name: String,
    /// Addresses that clients connect to. Never empty.
    pub listen: Vec<SocketAddr>,
    /// TLS; `None` for plain HTTP.
    pub tls: Option<ListenerTls>,
    /// True if TLS clients may use HTTP/2.
    pub has_http2: bool,
    /// True for clients beyond the site.
    pub is_gateway: bool,
    /// Clients that are served, of those that the server serves.
    pub access: AccessSettings,
    /// Maximum number of open connections; `None` for that of `[server]`. Requests that one HTTP/2 connection has at
    /// the same time count like connections.
    pub connections: Option<ConnectionBounds>,
    /// Maximum size of a request head, 8 KiB to 1 MiB.
    pub max_header_bytes: usize,
    /// Time for a request head to arrive, and for a kept-alive connection to send its next one; 1 s to 1 h.
    pub header_timeout: Duration,
    /// Time in which a client must read, or in a request body send, at least one byte; 1 s to 1 h.
    pub stall_timeout: Duration,
}

/// Numbers of connections of one listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionBounds {
    /// Maximum number of open connections, 1 to 1,000,000.
    pub max: usize,
    /// Maximum number of one client's connections once three quarters of those are open.
    pub max_client: usize,
}

impl ListenerTls {
    /// Returns true if clients may present certificates.
    pub fn asks_clients(&self) -> bool {
        self.client_certificates != ClientCertificates::Off
    }
}

impl From<CertificateFiles> for ListenerTls {
    /// Returns TLS with one certificate, without client certificates.
    fn from(files: CertificateFiles) -> Self {
        Self {
            certificates: vec![files],
            client_certificates: ClientCertificates::Off,
            client_ca: None,
            client_crl: Vec::new(),
        }
    }
}

impl ListenerSettings {
    /// Name of the listener of `[server]`.
    pub const DEFAULT: &str = "default";

    /// Name of the admin listener, in logs only.
    pub const ADMIN: &str = "admin";
}

/// Reads every `[[listener]]`. `server` has no listeners yet; theirs are checked against its addresses.
pub(crate) fn read_listeners(document: &mut Document, server: &ServerSettings) -> Vec<ListenerSettings> {
    let mut listeners: Vec<ListenerSettings> = Vec::new();
    for mut s in document.take_tables("listener", None) {
        let listener = read_listener(&mut s, server);
        check_addresses(&mut s, &listener, server, &listeners);
        if listener.name == ListenerSettings::DEFAULT {
            s.refuse("name", "\"default\" is the listener of [server]: use another name");
        } else if listeners.iter().any(|other| other.name == listener.name) {
            s.refuse("name", format!("duplicate name {:?}: give each listener its own name", listener.name));
        }
        listeners.push(listener);
        document.close(s);
    }
    listeners
}

fn read_listener(s: &mut Section, server: &ServerSettings) -> ListenerSettings {
    let name = s.read_required("name", listener_name).unwrap_or_default();
    let listen = s.read_list("listen", address).unwrap_or_default();
    if !s.is_given("listen") {
        s.refuse_missing("listen");
    }
    let is_gateway = s.read("gateway", boolean).unwrap_or(false);
    let by_default = if is_gateway { ClientCertificates::Required } else { ClientCertificates::Optional };
    let tls = read_tls(s, by_default);
    let is_strict = tls.as_ref().is_some_and(|tls| tls.client_certificates == ClientCertificates::Required);
    if is_gateway && !is_strict && !["tls_cert", "client_ca"].iter().any(|key| s.is_given(key)) {
        s.refuse("gateway", "needs TLS with client certificates: set tls_cert, tls_key and client_ca");
    } else if is_gateway && !is_strict {
        s.refuse("gateway", "needs client_certificates = \"required\", with tls_cert, tls_key and client_ca");
    }
    let bounds = |gateway, site| if is_gateway { gateway } else { site };
    let header = bounds(defaults::GATEWAY_HEADER_BYTES, server.max_header_bytes as u64);
    let header = Bounds { default: header, ..defaults::MAX_HEADER_BYTES };
    let header_timeout = if is_gateway { defaults::GATEWAY_HEADER_TIMEOUT } else { server.header_timeout };
    let stall_timeout = if is_gateway { defaults::GATEWAY_STALL_TIMEOUT } else { server.stall_timeout };
    ListenerSettings {
        name,
        listen,
        tls,
        has_http2: s.read("http2", boolean).unwrap_or(true),
        is_gateway,
        access: read_access(s),
        connections: Some(read_connections(s, is_gateway, server)),
        // At most 1 MiB.
        max_header_bytes: usize::try_from(size(s, "max_header_bytes", header)).unwrap_or(usize::MAX),
        header_timeout: time(
            s,
            "header_timeout",
            Bounds { default: header_timeout, ..defaults::HEADER_TIMEOUT },
        ),
        stall_timeout: time(s, "stall_timeout", Bounds { default: stall_timeout, ..defaults::STALL_TIMEOUT }),
    }
}

fn read_connections(s: &mut Section, is_gateway: bool, server: &ServerSettings) -> ConnectionBounds {
    let site = server.max_connections;
    let default = if is_gateway { (site / 16).max(1) } else { site };
    let max = count(s, "max_connections", Bounds { default, ..defaults::MAX_CONNECTIONS });
    if max > site {
        s.refuse(
            "max_connections",
            format!("{max} exceeds server.max_connections ({site}), which includes it"),
        );
    }
    let part = if is_gateway { max / 16 } else { max / 4 };
    let default = part.max(1);
    let max_client = count(s, "max_client_connections", Bounds { default, ..defaults::MAX_CONNECTIONS });
    ConnectionBounds { max, max_client }
}

/// Reads the TLS keys of a listener. `with_ca` applies if `client_ca` is set and `client_certificates` is not.
pub(crate) fn read_tls(s: &mut Section, with_ca: ClientCertificates) -> Option<ListenerTls> {
    let certificates = certificate_list(s, "tls_cert", "tls_key");
    let client_ca = file(s, "client_ca");
    let client_crl = files(s, "client_crl").unwrap_or_default();
    let given = s.read("client_certificates", |text| choice(text, &CLIENT_CERTIFICATES));
    for key in ["client_ca", "client_crl", "client_certificates"] {
        if s.is_given(key) && !s.is_given("tls_cert") {
            s.refuse(key, "is set without tls_cert: clients present certificates over TLS only");
            return None;
        }
    }
    let has_ca = s.is_given("client_ca");
    if s.is_given("client_crl") && !has_ca {
        s.refuse("client_crl", "is set without client_ca, whose certificates it revokes: set both");
    }
    let client_certificates = given.unwrap_or(if has_ca { with_ca } else { ClientCertificates::Off });
    match client_certificates {
        ClientCertificates::Off if has_ca => {
            s.refuse("client_ca", "is never used with client_certificates = \"off\": remove one of them");
        }
        ClientCertificates::Optional | ClientCertificates::Required if !has_ca => {
            s.refuse("client_certificates", "needs client_ca, the issuers of the certificates: set it");
        }
        _ => {}
    }
    if certificates.is_empty() {
        return None;
    }
    Some(ListenerTls { certificates, client_certificates, client_ca, client_crl })
}

fn check_addresses(
    s: &mut Section,
    listener: &ListenerSettings,
    server: &ServerSettings,
    earlier: &[ListenerSettings],
) {
    let others = earlier.iter().flat_map(|other| &other.listen).chain(&server.listen).chain([&server.admin]);
    let others: Vec<_> = others.collect();
    for (number, own) in listener.listen.iter().enumerate() {
        let mut before = listener.listen.iter().take(number).chain(others.iter().copied());
        if before.any(|other| conflict(own, other)) {
            s.refuse("listen", format!("{own} overlaps another listen address: list each port once"));
        }
    }
}

fn listener_name(text: &str) -> Result<String, String> {
    crate::reader::label(text).and_then(|name| match name.len() {
        ..=MAX_LISTENER_NAME => Ok(name),
        _ => Err(format!("{text:?} is too long for a name: use at most {MAX_LISTENER_NAME} characters")),
    })
}
