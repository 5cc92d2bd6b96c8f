//! The control protocol between guard and worker: one JSON message a packet of a Unix socket pair, with descriptors
//! attached. The module owns the format and its limits. A packet is sent and read whole or not at all, so no side is
//! ever left in the middle of one. The exit of either process closes the socket.
//!
//! A guard may talk to a worker of a newer program: serialized names never change.

use std::future::poll_fn;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::net::UnixDatagram;

use crate::metrics::GuardStats;

/// Maximum bytes of a packet; a few hundred are usual.
const MAX_PACKET: usize = 16 << 10;

/// Maximum descriptors of a packet: `SCM_MAX_FD` of Linux.
pub(super) const MAX_DESCRIPTORS: usize = 253;

/// Command of the guard to a worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum WorkerCommand {
    /// Send heartbeats. Always the first command.
    Begin {
        /// Interval in milliseconds.
        beat: u64,
    },
    /// Open the store and take the attached sockets, the last of which is the admin address; do not accept.
    Open,
    /// As `Open`, with the names of the listeners of the sockets for clients. Sent if one is not the default listener.
    OpenListeners(Vec<String>),
    /// Accept clients.
    #[serde(rename = "Go")]
    Accept(GuardStats),
    /// Show these counts of the guard in the metrics.
    #[serde(rename = "Count")]
    SetStats(GuardStats),
    /// Keep an equal part of the limits: this many processes share them.
    #[serde(rename = "Share")]
    ShareLimits(u32),
    /// Stop accepting, release the store to the next worker, finish running downloads, exit.
    HandOver,
    /// Read the configuration again.
    Reload,
    /// Stop accepting, finish running downloads, exit. The second time: exit at once.
    Stop,
    /// Answer the administrator's upgrade request with this result.
    #[serde(rename = "Upgraded")]
    AnswerUpgrade(Result<(), String>),
}

/// Message of a worker to the guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkerMessage {
    /// The configuration is accepted.
    Prepared,
    /// The store is open; the worker can accept clients.
    Ready,
    /// The worker has stopped accepting and closed the store.
    Released,
    /// All threads of the worker make progress.
    #[serde(rename = "Beat")]
    Heartbeat,
    /// An administrator requests an upgrade.
    Upgrade,
    /// An administrator requests a reload, which concerns the guard too.
    Reload,
}

/// A message and its descriptors; `None` once the other end is closed.
pub type Packet<M> = Option<(M, Vec<OwnedFd>)>;

/// One end of the control socket, registered with the runtime.
#[derive(Debug)]
pub struct Channel(UnixDatagram);

/// Creates a socket pair that child processes do not inherit.
///
/// # Errors
/// When no file descriptors are left.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// Sends a packet without waiting.
///
/// # Errors
/// When the other end is closed, or has not read its earlier packets.
pub fn send<M: Serialize>(end: impl AsFd, message: &M, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let packet = serde_json::to_vec(message)?;
    if packet.len() > MAX_PACKET || descriptors.len() > MAX_DESCRIPTORS {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(end, &[IoSlice::new(&packet)], &mut ancillary, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
    Ok(())
}

/// Receives the next packet without waiting: `WouldBlock` if there is none yet, `None` once the other end is closed.
///
/// # Errors
/// `WouldBlock` as above, or when the packet is not a message.
pub fn receive<M: DeserializeOwned>(end: impl AsFd) -> io::Result<Packet<M>> {
    let mut packet = vec![0; MAX_PACKET];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let mut buffers = [IoSliceMut::new(&mut packet)];
    let received = match recvmsg(&end, &mut buffers, &mut ancillary, flags) {
        // The other end was closed with unread packets. The kernel reports it once, before the packets that it sent.
        Err(Errno::CONNRESET) => recvmsg(&end, &mut buffers, &mut ancillary, flags)?,
        received => received?,
    };
    let descriptors = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    if received.bytes == 0 {
        return Ok(None);
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(Some((serde_json::from_slice(&packet[..received.bytes])?, descriptors)))
}

impl Channel {
    /// Registers this end with the current runtime.
    ///
    /// # Errors
    /// When the runtime cannot register it.
    pub fn new(end: OwnedFd) -> io::Result<Self> {
        // tokio has no type for SOCK_SEQPACKET; a datagram socket is polled in the same way.
        Ok(Self(UnixDatagram::from_std(end.into())?))
    }

    /// Sends a packet without waiting; see [`send`].
    ///
    /// # Errors
    /// As [`send`].
    pub fn send<M: Serialize>(&self, message: &M, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        send(&self.0, message, descriptors)
    }

    /// Waits for the next packet; `None` once the other end is closed. Cancel safe.
    ///
    /// # Errors
    /// When the packet is not a message.
    pub async fn receive<M: DeserializeOwned>(&self) -> io::Result<Packet<M>> {
        poll_fn(|cx| self.poll_receive(cx)).await
    }

    pub(super) fn poll_receive<M: DeserializeOwned>(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Packet<M>>> {
        loop {
            ready!(self.0.poll_recv_ready(cx))?;
            match self.0.try_io(Interest::READABLE, || receive(&self.0)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => return Poll::Ready(received),
            }
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn messages_arrive_in_order_with_descriptors_then_the_end() {
        let (ours, theirs) = pair().unwrap();
        let (ours, theirs) = (Channel::new(ours).unwrap(), Channel::new(theirs).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        ours.send(&WorkerCommand::Begin { beat: 3_000 }, &[listener.as_fd(), listener.as_fd()]).unwrap();
        ours.send(&WorkerCommand::Accept(GuardStats::default()), &[]).unwrap();
        theirs.send(&WorkerMessage::Heartbeat, &[]).unwrap();
        drop(ours);
        let (command, mut descriptors) = theirs.receive::<WorkerCommand>().await.unwrap().unwrap();
        assert_eq!((command, descriptors.len()), (WorkerCommand::Begin { beat: 3_000 }, 2));
        let same = TcpListener::from(descriptors.pop().unwrap());
        assert_eq!(same.local_addr().unwrap(), listener.local_addr().unwrap());
        let (command, descriptors) = theirs.receive::<WorkerCommand>().await.unwrap().unwrap();
        assert_eq!((command, descriptors.len()), (WorkerCommand::Accept(GuardStats::default()), 0));
        assert!(theirs.receive::<WorkerCommand>().await.unwrap().is_none());
        assert!(theirs.send(&WorkerMessage::Ready, &[]).is_err(), "an error, not SIGPIPE");
    }

    #[test]
    fn send_to_stalled_reader_fails_without_waiting() {
        let (ours, _theirs) = pair().unwrap();
        let sent = (0..1_000_000).take_while(|_| send(&ours, &WorkerMessage::Heartbeat, &[]).is_ok()).count();
        assert!(sent < 1_000_000);
    }

    #[test]
    fn invalid_packet_is_an_error() {
        let (ours, theirs) = pair().unwrap();
        send(&ours, &"gibberish", &[]).unwrap();
        assert_eq!(receive::<WorkerCommand>(&theirs).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let large = "x".repeat(MAX_PACKET);
        assert!(send(&ours, &large, &[]).is_err());
        assert_eq!(receive::<WorkerCommand>(&theirs).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
