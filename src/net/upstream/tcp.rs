//! Linux socket options without a safe library: `TCP_INFO` and `TCP_WINDOW_CLAMP`. The only `unsafe` code: two system
//! calls on a borrowed descriptor.

#![allow(unsafe_code, reason = "no library has these options; see SAFETY at each call")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// Measurements of a connection by the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TcpMeasurement {
    /// Round trip measured by the receiver; `None` before the first measurement.
    pub(super) round_trip: Option<Duration>,
    /// Bytes received so far.
    pub(super) received: u64,
    /// Packets received out of order so far.
    pub(super) disordered: u32,
}

/// Bytes of Linux's `struct tcp_info` up to the last field read here; kernels append to it and never reorder it.
const INFO: usize = 228;
const RECEIVE_ROUND_TRIP: usize = 92;
const BYTES_RECEIVED: usize = 128;
const OUT_OF_ORDER: usize = 224;

/// Reads the kernel's measurements.
///
/// # Errors
/// If the kernel does not provide them, as before Linux 5.4.
pub(super) fn measure(socket: &impl AsFd) -> io::Result<TcpMeasurement> {
    let mut info = [0_u8; INFO];
    let mut length = INFO as libc::socklen_t;
    // SAFETY: the descriptor is open for as long as `socket` is borrowed; the kernel writes at most `length` bytes to
    // `info`, which has as many, and the number it wrote to `length`, and keeps neither pointer.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if (length as usize) < INFO {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let word = |at: usize| {
        u32::from_ne_bytes(info.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default())
    };
    let received =
        info.get(BYTES_RECEIVED..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default();
    let round_trip = Duration::from_micros(word(RECEIVE_ROUND_TRIP).into());
    Ok(TcpMeasurement {
        round_trip: (!round_trip.is_zero()).then_some(round_trip),
        received: u64::from_ne_bytes(received),
        disordered: word(OUT_OF_ORDER),
    })
}

/// Limits the receive window to `bytes`.
///
/// # Errors
/// If the kernel refuses.
pub(super) fn clamp_window(socket: &impl AsFd, bytes: u64) -> io::Result<()> {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    // SAFETY: the descriptor is open for as long as `socket` is borrowed; the kernel reads an int from a pointer to
    // one.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_WINDOW_CLAMP,
            (&raw const bytes).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn measurement_counts_received_bytes() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut receiver, _) = listener.accept().unwrap();
        assert_eq!(measure(&receiver).unwrap().received, 0);
        sender.write_all(&[7; 100_000]).unwrap();
        drop(sender);
        let mut bytes = Vec::new();
        receiver.read_to_end(&mut bytes).unwrap();
        let TcpMeasurement { received, disordered, .. } = measure(&receiver).unwrap();
        // The end counts as one byte.
        assert!((100_000..=100_001).contains(&received), "{received}");
        assert_eq!(disordered, 0);
    }

    #[test]
    fn clamped_window_limits_bytes_in_flight() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (receiver, _) = listener.accept().unwrap();
        clamp_window(&receiver, 16 << 10).unwrap();
        sender.set_nonblocking(true).unwrap();
        while sender.write(&[7; 4096]).is_ok() {}
        let received = measure(&receiver).unwrap().received;
        assert!(received <= 128 << 10, "{received} bytes came ahead");
    }

    #[test]
    fn file_instead_of_socket_is_an_error() {
        assert!(measure(&std::fs::File::open("/dev/null").unwrap()).is_err());
        assert!(clamp_window(&std::fs::File::open("/dev/null").unwrap(), 1).is_err());
    }
}
