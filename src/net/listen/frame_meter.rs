//! Bounds on the frames of one HTTP/2 connection (RFC 9113 §10.5). Reads nothing but the header of each frame, before
//! the HTTP/2 library sees it, so that a flood costs nine copied bytes a frame. A frame that brings no request content
//! is paid for by time, or by bytes that the client has received.

use std::time::Duration;

use tokio::time::Instant;

/// Bytes of a frame's header (RFC 9113 §4.1).
pub(super) const FRAME_HEADER: usize = 9;

/// Bytes that a client sends before its first frame (§3.4).
pub(super) const PREFACE: usize = 24;

/// Frames that carry no request content and may come at once: SETTINGS, PING, PRIORITY, WINDOW_UPDATE, unknown ones,
/// and DATA with next to nothing in it. Clients open a connection with a handful.
pub(super) const CONTROL_BURST: u32 = 1_000;

/// Further ones each second. A client answers pings and grants windows; none does so a hundred times a second without
/// receiving anything.
const CONTROL_RATE: u32 = 100;

/// Bytes sent to the client that pay for one more: window updates follow what a client receives. Some libraries send
/// one for each 4 KiB, for the stream and for the connection.
const BYTES_PER_CONTROL_FRAME: usize = 1 << 10;

/// Requests that a client may cancel at once. An updater cancels when it is stopped, a browser when it leaves a page.
pub(super) const RESET_BURST: u32 = 100;

/// Further ones each second.
const RESET_RATE: u32 = 10;

/// Maximum of CONTINUATION frames of one request head. The largest head fits into 64 frames, those of updaters into
/// none.
pub(super) const MAX_CONTINUATIONS: u32 = 64;

/// Bytes of content below which a DATA frame that does not end its request counts as a control frame.
pub(super) const SMALL_DATA: usize = 64;

/// Reason for which a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrameFlood {
    Control,
    Resets,
    Continuations,
}

/// Frames of one connection.
#[derive(Debug)]
pub(super) struct FrameMeter {
    /// Bytes of the preface that are still to come.
    preface: usize,
    header: [u8; FRAME_HEADER],
    /// Bytes of the next header that have come.
    filled: usize,
    kind: u8,
    /// Bytes of the frame that are still to come.
    payload: usize,
    is_head_open: bool,
    continuations: u32,
    /// When the client began what it has not completed.
    incomplete_since: Option<Instant>,
    control: FrameAllowance,
    resets: FrameAllowance,
    unpaid_bytes: usize,
}

/// A number that grows with time, up to a maximum.
#[derive(Debug)]
struct FrameAllowance {
    left: f64,
    burst: f64,
    rate: f64,
    grown: Instant,
}

impl FrameFlood {
    /// Returns the text for logs.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Control => "too many frames without content, such as SETTINGS, PING and empty DATA",
            Self::Resets => "too many cancelled requests",
            Self::Continuations => "too many CONTINUATION frames",
        }
    }
}

impl FrameMeter {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            preface: PREFACE,
            header: [0; FRAME_HEADER],
            filled: 0,
            kind: 0,
            payload: 0,
            is_head_open: false,
            continuations: 0,
            incomplete_since: Some(now),
            control: FrameAllowance::new(CONTROL_BURST, CONTROL_RATE, now),
            resets: FrameAllowance::new(RESET_BURST, RESET_RATE, now),
            unpaid_bytes: 0,
        }
    }

    /// Counts the frames in bytes that the client sent.
    ///
    /// # Errors
    /// If a bound is exceeded.
    pub(super) fn record_read(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), FrameFlood> {
        let mut has_completed = false;
        loop {
            skip(&mut bytes, &mut self.preface);
            skip(&mut bytes, &mut self.payload);
            has_completed |= !self.is_incomplete();
            let Some((byte, rest)) = bytes.split_first() else { break };
            bytes = rest;
            if let Some(place) = self.header.get_mut(self.filled) {
                *place = *byte;
            }
            self.filled = self.filled.saturating_add(1);
            if self.filled == FRAME_HEADER {
                self.filled = 0;
                self.begin_frame(now)?;
            }
        }
        match (self.is_incomplete(), has_completed) {
            (false, _) => self.incomplete_since = None,
            (true, true) => self.incomplete_since = Some(now),
            (true, false) => _ = self.incomplete_since.get_or_insert(now),
        }
        Ok(())
    }

    /// Counts bytes sent to the client.
    pub(super) fn record_written(&mut self, bytes: usize) {
        self.unpaid_bytes = self.unpaid_bytes.saturating_add(bytes);
        if self.unpaid_bytes >= BYTES_PER_CONTROL_FRAME {
            self.control.grant(self.unpaid_bytes / BYTES_PER_CONTROL_FRAME);
            self.unpaid_bytes %= BYTES_PER_CONTROL_FRAME;
        }
    }

    /// Returns the time at which the client began a request head or a control frame that it has not completed. A DATA
    /// frame takes as long as its request's content.
    pub(super) fn incomplete_since(&self) -> Option<Instant> {
        self.incomplete_since
    }

    fn is_incomplete(&self) -> bool {
        let is_in_frame = self.payload > 0 && self.kind != kind::DATA;
        self.preface > 0 || self.filled > 0 || is_in_frame || self.is_head_open
    }

    fn begin_frame(&mut self, now: Instant) -> Result<(), FrameFlood> {
        let [high, middle, low, kind, flags, ..] = self.header;
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        (self.kind, self.payload) = (kind, length);
        let ends_head = flags & flag::END_HEADERS != 0;
        match kind {
            kind::DATA => {
                let is_padded = flags & flag::PADDED != 0;
                let is_small = length < SMALL_DATA && flags & flag::END_STREAM == 0;
                if (is_padded || is_small) && !self.control.take(now) {
                    return Err(FrameFlood::Control);
                }
            }
            kind::HEADERS => (self.is_head_open, self.continuations) = (!ends_head, 0),
            kind::CONTINUATION => {
                self.continuations = self.continuations.saturating_add(1);
                self.is_head_open &= !ends_head;
                if self.continuations > MAX_CONTINUATIONS {
                    return Err(FrameFlood::Continuations);
                }
            }
            kind::RST_STREAM if !self.resets.take(now) => return Err(FrameFlood::Resets),
            kind::RST_STREAM => {}
            _ if !self.control.take(now) => return Err(FrameFlood::Control),
            _ => {}
        }
        Ok(())
    }
}

/// Types of frames that are counted in their own way (RFC 9113 §6).
pub(super) mod kind {
    pub(in crate::listen) const DATA: u8 = 0;
    pub(in crate::listen) const HEADERS: u8 = 1;
    pub(in crate::listen) const RST_STREAM: u8 = 3;
    pub(in crate::listen) const CONTINUATION: u8 = 9;
}

pub(super) mod flag {
    pub(in crate::listen) const END_STREAM: u8 = 1;
    pub(in crate::listen) const END_HEADERS: u8 = 4;
    pub(in crate::listen) const PADDED: u8 = 8;
}

impl FrameAllowance {
    fn new(burst: u32, rate: u32, now: Instant) -> Self {
        Self { left: burst.into(), burst: burst.into(), rate: rate.into(), grown: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        if self.left < 1.0 {
            // The clock is read once a read of the connection, and this rarely.
            let grown: Duration = now.saturating_duration_since(self.grown);
            self.left = (self.left + grown.as_secs_f64() * self.rate).min(self.burst);
            self.grown = now;
        }
        let is_left = self.left >= 1.0;
        if is_left {
            self.left -= 1.0;
        }
        is_left
    }

    fn grant(&mut self, frames: usize) {
        self.left = (self.left + frames as f64).min(self.burst);
    }
}

fn skip(bytes: &mut &[u8], left: &mut usize) {
    let now = bytes.len().min(*left);
    *left = left.saturating_sub(now);
    *bytes = bytes.get(now..).unwrap_or_default();
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends by a panic")]

    use super::*;

    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const WINDOW_UPDATE: u8 = 8;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let [.., high, middle, low] = length.to_be_bytes();
        let mut frame = vec![high, middle, low, kind, flags, 0, 0, 0, 1];
        frame.resize(FRAME_HEADER + length, 0);
        frame
    }

    fn opened() -> (FrameMeter, Instant) {
        let now = Instant::now();
        let mut meter = FrameMeter::new(now);
        meter.record_read(&[0; PREFACE], now).unwrap();
        (meter, now)
    }

    #[test]
    fn frames_are_bounded_by_kind_and_not_by_reads() {
        for (kind, flags, length, accepted) in [
            (SETTINGS, 0, 6, CONTROL_BURST),
            (PING, 0, 8, CONTROL_BURST),
            (WINDOW_UPDATE, 0, 4, CONTROL_BURST),
            (0x77, 0, 0, CONTROL_BURST),
            (kind::DATA, 0, 0, CONTROL_BURST),
            (kind::DATA, flag::PADDED, 200, CONTROL_BURST),
            (kind::RST_STREAM, 0, 4, RESET_BURST),
            (kind::CONTINUATION, 0, 0, MAX_CONTINUATIONS),
        ] {
            for at_once in [1, 7, 100, 16_384] {
                let (mut meter, now) = opened();
                let sent = frame(kind, flags, length).repeat(accepted as usize);
                for read in sent.chunks(at_once) {
                    meter.record_read(read, now).unwrap();
                }
                let next = frame(kind, flags, length);
                let refused = next.chunks(at_once).try_for_each(|read| meter.record_read(read, now));
                assert!(refused.is_err(), "{kind} in reads of {at_once}");
            }
        }
    }

    #[test]
    fn content_and_heads_are_free() {
        let (mut meter, now) = opened();
        for _ in 0..10 * CONTROL_BURST {
            meter.record_read(&frame(kind::HEADERS, flag::END_HEADERS, 30), now).unwrap();
            meter.record_read(&frame(kind::DATA, 0, 1_024), now).unwrap();
            meter.record_read(&frame(kind::DATA, flag::END_STREAM, 0), now).unwrap();
        }
    }

    #[test]
    fn time_and_received_bytes_pay_for_control_frames() {
        let (mut meter, start) = opened();
        let send = |meter: &mut FrameMeter, at| {
            (0..2 * CONTROL_BURST).take_while(|_| meter.record_read(&frame(PING, 0, 8), at).is_ok()).count()
        };
        assert_eq!(send(&mut meter, start), CONTROL_BURST as usize);
        let (mut meter, _) = opened();
        // A download with a window update for each KiB never ends.
        for _ in 0..100_000 {
            meter.record_written(BYTES_PER_CONTROL_FRAME);
            meter.record_read(&frame(WINDOW_UPDATE, 0, 4), start).unwrap();
        }
        let (mut meter, start) = opened();
        for second in 0..100 {
            for _ in 0..CONTROL_RATE {
                meter.record_read(&frame(PING, 0, 8), start + Duration::from_secs(second)).unwrap();
            }
        }
    }

    #[test]
    fn incomplete_heads_are_known_and_content_is_not_one() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut meter = FrameMeter::new(start);
        meter.record_read(&[0; PREFACE - 1], at(1)).unwrap();
        assert_eq!(meter.incomplete_since(), Some(start));
        meter.record_read(&[0], at(2)).unwrap();
        assert_eq!(meter.incomplete_since(), None);
        // A head without its end, byte by byte, with continuations.
        let head = [frame(kind::HEADERS, 0, 3), frame(kind::CONTINUATION, 0, 3)].concat();
        for (second, byte) in head.chunks(1).enumerate() {
            meter.record_read(byte, at(3 + second as u64)).unwrap();
            assert_eq!(meter.incomplete_since(), Some(at(3)));
        }
        meter.record_read(&frame(kind::CONTINUATION, flag::END_HEADERS, 0), at(90)).unwrap();
        assert_eq!(meter.incomplete_since(), None);
        // A complete frame and the begin of another in one read.
        let both = [frame(PING, 0, 8), frame(PING, 0, 8)].concat();
        meter.record_read(&both[..3], at(100)).unwrap();
        meter.record_read(&both[3..20], at(101)).unwrap();
        assert_eq!(meter.incomplete_since(), Some(at(101)));
        meter.record_read(&both[20..], at(102)).unwrap();
        meter.record_read(&frame(kind::DATA, 0, 1_000)[..100], at(103)).unwrap();
        assert_eq!(meter.incomplete_since(), None, "content has the time of its request");
    }
}
