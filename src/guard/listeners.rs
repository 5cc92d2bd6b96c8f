//! The listening sockets of clients and of the admin address, and whether the guard accepts on them. Paused listeners
//! are not registered with the runtime: connections go to the worker alone and do not wake the guard.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::task::Poll;

use tokio::net::{TcpListener, TcpStream};

use gupd_config::ListenerSettings;
use gupd_net::listen::Sockets;

/// All sockets, active or paused.
#[derive(Debug)]
pub(super) struct Listeners {
    /// `None` once the relay stops.
    sockets: Option<Sockets>,
    active: Option<ActiveListeners>,
}

#[derive(Debug)]
struct ActiveListeners {
    /// With the names of their listeners.
    clients: Vec<(Arc<str>, TcpListener)>,
    admin: TcpListener,
}

/// An accepted connection.
#[derive(Debug)]
pub(super) enum Accepted {
    /// To an address for clients.
    Client(AcceptedClient),
    /// To the admin address.
    Admin(TcpStream),
}

/// A connection of a client.
#[derive(Debug)]
pub(super) struct AcceptedClient {
    pub(super) stream: TcpStream,
    pub(super) address: SocketAddr,
    /// Name of the listener.
    pub(super) listener: Arc<str>,
}

impl Listeners {
    /// Creates paused listeners.
    pub(super) fn new(sockets: Sockets) -> Self {
        Self { sockets: Some(sockets), active: None }
    }

    /// Starts to accept; must be called within a runtime.
    ///
    /// # Errors
    /// When the runtime cannot register a socket.
    pub(super) fn resume(&mut self) -> io::Result<()> {
        let Some(Sockets { clients, admin }) = &self.sockets else { return Ok(()) };
        let register = |socket: &std::net::TcpListener| TcpListener::from_std(socket.try_clone()?);
        let clients = clients.iter().map(|client| Ok((client.listener.clone(), register(&client.socket)?)));
        let clients = clients.collect::<io::Result<_>>()?;
        self.active = Some(ActiveListeners { clients, admin: register(admin)? });
        Ok(())
    }

    /// Stops accepting at once.
    pub(super) fn pause(&mut self) {
        self.active = None;
    }

    /// Closes the sockets. Once no worker holds them either, the system refuses connections.
    pub(super) fn close(&mut self) {
        self.active = None;
        self.sockets = None;
    }

    /// Waits for the next connection; forever while paused. Connections that are not wanted now stay in the backlog.
    pub(super) async fn accept(&self, clients: bool, scrapers: bool) -> io::Result<Accepted> {
        poll_fn(|cx| {
            let Some(ActiveListeners { clients: listeners, admin }) = &self.active else {
                return Poll::Pending;
            };
            if scrapers && let Poll::Ready(accepted) = admin.poll_accept(cx) {
                return Poll::Ready(accepted.map(|(stream, _)| Accepted::Admin(stream)));
            }
            for (listener, socket) in listeners.iter().filter(|_| clients) {
                if let Poll::Ready(accepted) = socket.poll_accept(cx) {
                    return Poll::Ready(accepted.map(|(stream, address)| {
                        Accepted::Client(AcceptedClient { stream, address, listener: listener.clone() })
                    }));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Returns the descriptors in the order that a worker expects: the admin address is the last.
    pub(super) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let Some(Sockets { clients, admin }) = &self.sockets else { return Vec::new() };
        clients.iter().map(|client| client.socket.as_fd()).chain([admin.as_fd()]).collect()
    }

    /// Returns the names of the listeners in the order of the descriptors; empty if all are of `server.listen`, which a
    /// program without other listeners understands.
    pub(super) fn names(&self) -> Vec<String> {
        let names = self.sockets.as_ref().map(Sockets::listeners).unwrap_or_default();
        if names.iter().all(|name| name == ListenerSettings::DEFAULT) { Vec::new() } else { names }
    }

    /// Returns the addresses that clients connect to.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.as_ref().map(Sockets::addresses).unwrap_or_default()
    }
}
