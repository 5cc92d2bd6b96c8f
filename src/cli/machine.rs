//! Facts about the machine that a configuration depends on: memory, the file system of the store, addresses, and files
//! that the configuration names. Reads only. `fitness` draws the conclusions.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

use rustix::fs::{StatVfsMountFlags, statfs, statvfs};

use gupd_admin::AdminTokens;
use gupd_config::clock::{Clock, UnixMillis};
use gupd_config::{CertificateFiles, Config, ListenerSettings};
use gupd_net::pem::{self, Validity};

/// File systems in memory, by the number that `statfs` has for them: tmpfs and ramfs.
const MEMORY_FILE_SYSTEMS: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// Facts about the machine.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) now: UnixMillis,
    /// Bytes that this process may use.
    pub(super) memory: Option<u64>,
    /// That of the store.
    pub(super) folder: Option<StoreFolder>,
    /// Addresses of the configuration that no interface has, with their setting.
    pub(super) foreign_addresses: Vec<(&'static str, IpAddr)>,
    pub(super) token: Option<TokenFile>,
    /// Certificates that the relay presents and revocation lists, with their setting.
    pub(super) certificates: Vec<(String, PathBuf, Validity)>,
}

/// The folder of the store, or of its nearest parent that exists.
#[derive(Clone, Debug)]
pub(super) struct StoreFolder {
    pub(super) path: PathBuf,
    pub(super) is_folder: bool,
    /// The store has no content yet.
    pub(super) is_empty: bool,
    pub(super) is_read_only: bool,
    pub(super) is_in_memory: bool,
    /// Bytes of the file system.
    pub(super) total: u64,
    /// Bytes that are free for this process.
    pub(super) free: u64,
}

/// State of the admin token's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TokenFile {
    Unusable(String),
    Good,
}

impl Machine {
    /// Reads what this configuration depends on.
    pub(super) fn read(config: &Config) -> Self {
        Self {
            now: Clock::system().now(),
            memory: memory(),
            folder: StoreFolder::read(&config.store.dir),
            foreign_addresses: foreign_addresses(config),
            token: config.server.admin_token_file.as_deref().map(TokenFile::read),
            certificates: certificates(config),
        }
    }
}

impl StoreFolder {
    fn read(dir: &Path) -> Option<Self> {
        let dir = std::path::absolute(dir).ok()?;
        let path = dir.ancestors().find(|path| path.exists())?;
        let (volume, kind) = (statvfs(path).ok()?, statfs(path).ok()?);
        let bytes = |blocks: u64| blocks.saturating_mul(volume.f_frsize);
        Some(Self {
            path: path.to_owned(),
            is_folder: path.is_dir(),
            is_empty: path != dir || fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none()),
            is_read_only: volume.f_flag.contains(StatVfsMountFlags::RDONLY),
            is_in_memory: u64::try_from(kind.f_type).is_ok_and(|kind| MEMORY_FILE_SYSTEMS.contains(&kind)),
            total: bytes(volume.f_blocks),
            free: bytes(volume.f_bavail),
        })
    }
}

impl TokenFile {
    fn read(path: &Path) -> Self {
        AdminTokens::read(path).map_or_else(Self::Unusable, |_| Self::Good)
    }
}

/// Returns the memory of the machine, or of the process's control group if that has less.
fn memory() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok()?;
    let total = machine.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
    let total = total?.parse::<u64>().ok()?.saturating_mul(1024);
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let limit = Path::new(group).ancestors().filter_map(|group| {
        fs::read_to_string(Path::new("/sys/fs/cgroup").join(group).join("memory.max"))
            .ok()?
            .trim()
            .parse()
            .ok()
    });
    limit.chain([total]).min()
}

/// Returns the addresses that no interface has. A socket for datagrams disturbs no listener.
fn foreign_addresses(config: &Config) -> Vec<(&'static str, IpAddr)> {
    let listen = config.server.client_addresses().map(|(setting, address)| (setting, address.ip()));
    let own = listen.chain([("server.admin", config.server.admin.ip())]);
    let is_foreign = |ip: IpAddr| {
        UdpSocket::bind(SocketAddr::new(ip, 0))
            .is_err_and(|error| error.kind() == ErrorKind::AddrNotAvailable)
    };
    own.filter(|(_, ip)| is_foreign(*ip)).collect()
}

/// Returns the start of the names of a listener's settings.
fn setting_prefix(listener: &ListenerSettings) -> String {
    match &*listener.name {
        ListenerSettings::DEFAULT => "server.".to_owned(),
        ListenerSettings::ADMIN => "server.admin_".to_owned(),
        name => format!("listener {name} "),
    }
}

/// Returns the certificates that the relay presents, and the revocation lists of clients' issuers. Files that cannot be read are errors of the check itself.
fn certificates(config: &Config) -> Vec<(String, PathBuf, Validity)> {
    let listeners: Vec<_> = config.server.all_listeners().chain(config.server.admin_listener()).collect();
    let with_tls =
        listeners.iter().filter_map(|listener| Some((setting_prefix(listener), listener.tls.as_ref()?)));
    let (mut server, mut lists) = (Vec::new(), Vec::new());
    for (prefix, tls) in with_tls {
        server.extend(tls.certificates.iter().map(|files| (format!("{prefix}tls_cert"), files)));
        lists.extend(tls.client_crl.iter().filter_map(|path| {
            Some((format!("{prefix}client_crl"), path.clone(), pem::read_crl_validity(path).ok()?))
        }));
    }
    let upstreams = config.upstreams.iter().map(|upstream| ("upstream", &upstream.name, &upstream.trust));
    let peers = config.peers.iter().map(|peer| ("peer", &peer.name, &peer.trust));
    let clients = upstreams.chain(peers).filter_map(|(kind, name, trust)| {
        Some((format!("{kind} {name} client_cert"), trust.client.as_ref()?))
    });
    let read = |(setting, files): (String, &CertificateFiles)| {
        Some((setting, files.cert.clone(), pem::read_validity(&files.cert).ok()?))
    };
    server.into_iter().chain(clients).filter_map(read).chain(lists).collect()
}
