//! The sockets that clients and scrapers come to. Owns whether the guard accepts on them: a shut door watches nothing, so
//! that what comes is the worker's alone, and no wake-up is spent on it.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::task::Poll;

use tokio::net::{TcpListener, TcpStream};

use gupd_net::listen::Sockets;

/// All sockets, open or shut.
#[derive(Debug)]
pub(super) struct Door {
    /// Given up when the relay stops.
    sockets: Option<Sockets>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    clients: Vec<TcpListener>,
    admin: TcpListener,
}

/// Who came.
#[derive(Debug)]
pub(super) enum Visitor {
    /// A client of the relay.
    Client(TcpStream, SocketAddr),
    /// Somebody who asks how it is.
    Admin(TcpStream),
}

impl Door {
    /// Shut.
    pub(super) fn new(sockets: Sockets) -> Self {
        Self { sockets: Some(sockets), open: None }
    }

    /// Accepts from now on; must be called within a runtime.
    ///
    /// # Errors
    /// When it cannot watch a socket.
    pub(super) fn open(&mut self) -> io::Result<()> {
        let Some(Sockets { clients, admin }) = &self.sockets else { return Ok(()) };
        let watched = |socket: &std::net::TcpListener| TcpListener::from_std(socket.try_clone()?);
        let clients = clients.iter().map(watched).collect::<io::Result<_>>()?;
        self.open = Some(Open { clients, admin: watched(admin)? });
        Ok(())
    }

    /// Accepts no more, from this moment on.
    pub(super) fn shut(&mut self) {
        self.open = None;
    }

    /// Gives the sockets up: when nobody else has them, who comes is refused.
    pub(super) fn give_up(&mut self) {
        self.open = None;
        self.sockets = None;
    }

    /// Waits for the next visitor; for ever while it is shut. Those for whom
    /// there is no room wait in the backlog.
    pub(super) async fn next(&self, clients_fit: bool, scrapers_fit: bool) -> io::Result<Visitor> {
        poll_fn(|cx| {
            let Some(Open { clients, admin }) = &self.open else { return Poll::Pending };
            if scrapers_fit && let Poll::Ready(accepted) = admin.poll_accept(cx) {
                return Poll::Ready(accepted.map(|(stream, _)| Visitor::Admin(stream)));
            }
            for listener in clients.iter().filter(|_| clients_fit) {
                if let Poll::Ready(accepted) = listener.poll_accept(cx) {
                    return Poll::Ready(accepted.map(|(stream, peer)| Visitor::Client(stream, peer)));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// The sockets as a worker takes them: the admin address's is the last.
    pub(super) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let Some(Sockets { clients, admin }) = &self.sockets else { return Vec::new() };
        clients.iter().map(AsFd::as_fd).chain([admin.as_fd()]).collect()
    }

    /// The addresses clients connect to.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.as_ref().map(Sockets::addresses).unwrap_or_default()
    }
}
