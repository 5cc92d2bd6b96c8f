//! Entry points of the fuzz targets (`fuzz/lib.rs`): decoders of the first bytes of a connection and of HTTP/2 frames.
//! Each takes any bytes and returns. Both must decide alike however the network cuts the bytes.

use std::io;
use std::mem::discriminant;

use futures_util::FutureExt;
use tokio::time::Instant;

use super::frame_meter::{
    CONTROL_BURST, FRAME_HEADER, FrameFlood, FrameMeter, MAX_CONTINUATIONS, PREFACE, RESET_BURST, SMALL_DATA,
    flag, kind,
};
use super::proxy_header::{HeaderSource, ProxiedAddresses, ProxyHeaderError, read_proxy_header};

/// Maximum bytes of frames that a target sends: enough for every bound of the meter.
const MAX_SENT: usize = 20 << 10;

/// A connection whose bytes have all arrived, in pieces.
struct ReceivedBytes<'a> {
    left: &'a [u8],
    piece: usize,
}

impl ReceivedBytes<'_> {
    fn copy_into(&self, buffer: &mut [u8]) -> usize {
        let length = buffer.len().min(self.piece).min(self.left.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..length), self.left.get(..length)) {
            to.copy_from_slice(from);
        }
        length
    }
}

impl HeaderSource for ReceivedBytes<'_> {
    async fn read_some(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.copy_into(buffer);
        self.left = self.left.get(length..).unwrap_or_default();
        Ok(length)
    }

    async fn peek_some(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(self.copy_into(buffer))
    }
}

/// Reads a PROXY header from pieces of the length that the first byte says, and at once.
pub fn read_proxied_connection(data: &[u8]) {
    let Some((piece, bytes)) = data.split_first() else { return };
    let read = |piece| {
        let mut stream = ReceivedBytes { left: bytes, piece };
        let header = read_proxy_header(&mut stream).now_or_never();
        (header.unwrap_or(Ok(None)), stream.left)
    };
    let (whole, rest) = read(usize::MAX);
    let (cut, cut_rest) = read(usize::from(*piece).max(1));
    assert!(is_alike(&whole, &cut), "pieces change the header: {whole:?} {cut:?}");
    if whole.is_ok() {
        assert_eq!(rest, cut_rest, "pieces change where the header ends");
        let header = bytes.get(..bytes.len().saturating_sub(rest.len())).unwrap_or_default();
        let mut again = ReceivedBytes { left: header, piece: usize::MAX };
        let again = read_proxy_header(&mut again).now_or_never().unwrap_or(Ok(None));
        assert!(is_alike(&whole, &again), "bytes behind the header change it");
    }
}

fn is_alike(
    one: &Result<Option<ProxiedAddresses>, ProxyHeaderError>,
    other: &Result<Option<ProxiedAddresses>, ProxyHeaderError>,
) -> bool {
    match (one, other) {
        (Ok(one), Ok(other)) => one == other,
        (Err(one), Err(other)) => discriminant(one) == discriminant(other),
        _ => false,
    }
}

/// Meters the bytes of an HTTP/2 client: as they are, and as a list of frames, each with kind, flags, two bytes of
/// length and a number of repetitions. The first byte is the length of pieces.
pub fn meter_http2_frames(data: &[u8]) {
    let Some((piece, data)) = data.split_first() else { return };
    let piece = usize::from(*piece).max(1);
    assert_metered(data, piece);
    let mut sent = Vec::new();
    for command in data.chunks_exact(5) {
        let &[kind, flags, high, low, repeated] = command else { continue };
        let length = usize::from(u16::from_be_bytes([high, low]));
        for _ in 0..=repeated {
            if sent.len().saturating_add(length) > MAX_SENT {
                break;
            }
            sent.extend_from_slice(&[0, high, low, kind, flags, 0, 0, 0, 1]);
            sent.resize(sent.len().saturating_add(length), 0);
        }
    }
    assert_metered(&sent, piece);
}

fn assert_metered(frames: &[u8], piece: usize) {
    let now = Instant::now();
    let metered = |piece: usize| -> (Result<(), FrameFlood>, bool) {
        let mut meter = FrameMeter::new(now);
        let opened = meter.record_read(&[0; PREFACE], now);
        let read = frames.chunks(piece).try_for_each(|read| meter.record_read(read, now));
        (opened.and(read), meter.incomplete_since().is_some())
    };
    let (whole, cut) = (metered(usize::MAX), metered(piece));
    assert_eq!(whole.0, cut.0, "pieces change the verdict");
    assert_eq!(whole.0, judge_whole_frames(frames), "the verdict is not that of the frames");
    if whole.0.is_ok() {
        assert_eq!(whole.1, cut.1, "pieces change whether a frame is complete");
    }
}

/// A model of the meter: returns the bound that frames exceed first which come at one moment.
fn judge_whole_frames(mut frames: &[u8]) -> Result<(), FrameFlood> {
    let (mut control, mut resets, mut continuations) = (0_u32, 0_u32, 0_u32);
    while let Some(([high, middle, low, kind, flags, ..], rest)) = frames.split_first_chunk::<FRAME_HEADER>()
    {
        let length = usize::from(*high) << 16 | usize::from(*middle) << 8 | usize::from(*low);
        let brings_content = *kind == kind::DATA
            && flags & flag::PADDED == 0
            && (length >= SMALL_DATA || flags & flag::END_STREAM != 0);
        let counted = match *kind {
            kind::HEADERS => {
                continuations = 0;
                None
            }
            kind::CONTINUATION => Some((&mut continuations, MAX_CONTINUATIONS, FrameFlood::Continuations)),
            kind::RST_STREAM => Some((&mut resets, RESET_BURST, FrameFlood::Resets)),
            _ if brings_content => None,
            _ => Some((&mut control, CONTROL_BURST, FrameFlood::Control)),
        };
        if let Some((count, most, flood)) = counted {
            *count = count.saturating_add(1);
            if *count > most {
                return Err(flood);
            }
        }
        frames = rest.get(length..).unwrap_or_default();
    }
    Ok(())
}
