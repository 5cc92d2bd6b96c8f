//! What guard and worker say to each other: one message a packet of a Unix socket pair, with the descriptors that go
//! along. Owns its form and its bounds. A packet is sent and read whole or not at all, so that neither side can be
//! found in the middle of one; the end of either process is the end of the socket.

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

use crate::metrics::Figures;

/// Bytes of a packet, at most: a few hundred are usual.
const MAX_PACKET: usize = 16 << 10;

/// Descriptors that go with one packet, at most: Linux's `SCM_MAX_FD`.
pub(super) const MAX_DESCRIPTORS: usize = 253;

/// What the guard tells a worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Order {
    /// Give signs of life. The first order of all.
    Begin {
        /// How often, in milliseconds.
        beat: u64,
    },
    /// Open the store, with the sockets that come along, the last of which is the admin address's; do not accept.
    Open,
    /// Accept from now on.
    Go(Figures),
    /// The guard's figures have changed.
    Count(Figures),
    /// So many processes keep the limits of the site together.
    Share(u32),
    /// Stop accepting, release the store to the next worker, finish what runs, end.
    HandOver,
    /// Read the configuration again.
    Reload,
    /// Stop accepting, finish what runs, end. Told again: end at once.
    Stop,
    /// How the upgrade that an administrator asked for goes.
    Upgraded(Result<(), String>),
}

/// What a worker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Said {
    /// Its configuration is good.
    Prepared,
    /// The store is open; it could accept.
    Ready,
    /// It accepts no more, and the store is free.
    Released,
    /// It is alive: all its threads have turned.
    Beat,
    /// An administrator asks for an upgrade.
    Upgrade,
    /// An administrator asks for a reload, which the guard takes part in.
    Reload,
}

/// A message with its descriptors; `None` at the end.
pub type Packet<M> = Option<(M, Vec<OwnedFd>)>;

/// One end of the socket pair.
#[derive(Debug)]
pub struct Channel(UnixDatagram);

/// Two ends, neither inherited by other processes.
///
/// # Errors
/// When the system has no descriptors left.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// Sends a packet without waiting.
///
/// # Errors
/// When the other end is gone, or has not read what it was sent before: either way it is of no use any more.
pub fn send<M: Serialize>(end: impl AsFd, message: &M, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let packet = serde_json::to_vec(message)?;
    if packet.len() > MAX_PACKET || descriptors.len() > MAX_DESCRIPTORS {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut along = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !along.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(end, &[IoSlice::new(&packet)], &mut along, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
    Ok(())
}

/// Takes the next packet, if there is one; an error of kind `WouldBlock` if there is none yet, `None` at the end.
///
/// # Errors
/// When what came is no message.
pub fn receive<M: DeserializeOwned>(end: impl AsFd) -> io::Result<Packet<M>> {
    let mut packet = vec![0; MAX_PACKET];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut along = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let mut into = [IoSliceMut::new(&mut packet)];
    let received = match recvmsg(&end, &mut into, &mut along, flags) {
        // The other end was closed before it had read everything: told once, ahead of what it had said.
        Err(Errno::CONNRESET) => recvmsg(&end, &mut into, &mut along, flags)?,
        received => received?,
    };
    let descriptors = along
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
    /// This end, watched by the runtime that this is called in.
    ///
    /// # Errors
    /// When the runtime cannot watch it.
    pub fn new(end: OwnedFd) -> io::Result<Self> {
        // A socket of packets; tokio has no other name for one.
        Ok(Self(UnixDatagram::from_std(end.into())?))
    }

    /// Sends a packet without waiting; see [`send`].
    ///
    /// # Errors
    /// As there.
    pub fn send<M: Serialize>(&self, message: &M, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        send(&self.0, message, descriptors)
    }

    /// Waits for the next packet; `None` when the other end is gone. May be dropped and asked again.
    ///
    /// # Errors
    /// When what came is no message.
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
    async fn messages_arrive_one_by_one_with_their_descriptors_and_then_the_end() {
        let (ours, theirs) = pair().unwrap();
        let (ours, theirs) = (Channel::new(ours).unwrap(), Channel::new(theirs).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        ours.send(&Order::Begin { beat: 3_000 }, &[listener.as_fd(), listener.as_fd()]).unwrap();
        ours.send(&Order::Go(Figures::default()), &[]).unwrap();
        theirs.send(&Said::Beat, &[]).unwrap();
        drop(ours);
        let (order, mut descriptors) = theirs.receive::<Order>().await.unwrap().unwrap();
        assert_eq!((order, descriptors.len()), (Order::Begin { beat: 3_000 }, 2));
        let same = TcpListener::from(descriptors.pop().unwrap());
        assert_eq!(same.local_addr().unwrap(), listener.local_addr().unwrap());
        let (order, descriptors) = theirs.receive::<Order>().await.unwrap().unwrap();
        assert_eq!((order, descriptors.len()), (Order::Go(Figures::default()), 0));
        assert!(theirs.receive::<Order>().await.unwrap().is_none());
        assert!(theirs.send(&Said::Ready, &[]).is_err(), "and no signal");
    }

    #[test]
    fn a_side_that_reads_nothing_holds_nobody_up() {
        let (ours, _theirs) = pair().unwrap();
        let sent = (0..1_000_000).take_while(|_| send(&ours, &Said::Beat, &[]).is_ok()).count();
        assert!(sent < 1_000_000);
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        let (ours, theirs) = pair().unwrap();
        send(&ours, &"gibberish", &[]).unwrap();
        assert_eq!(receive::<Order>(&theirs).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let large = "x".repeat(MAX_PACKET);
        assert!(send(&ours, &large, &[]).is_err());
        assert_eq!(receive::<Order>(&theirs).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
