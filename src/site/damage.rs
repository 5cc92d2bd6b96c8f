//! Damage to responses on a line: a flipped bit, which packet checksums miss once in many terabytes, or the end of the
//! line in the middle of a body.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::BytesMut;

use crate::lock;

/// Damage to come, and damage done.
#[derive(Debug, Default)]
pub struct Damage {
    next: Mutex<Option<(u64, DamageKind)>>,
    flipped: AtomicUsize,
    is_broken: AtomicBool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DamageKind {
    Flip,
    Break,
}

impl Damage {
    /// Inverts a bit of byte `at` of the next body that has it.
    pub fn flip(&self, at: u64) {
        *lock(&self.next) = Some((at, DamageKind::Flip));
    }

    /// Breaks the line for good before byte `at` of the next body that has it.
    pub fn break_at(&self, at: u64) {
        *lock(&self.next) = Some((at, DamageKind::Break));
    }

    /// Number of inverted bits.
    pub fn flipped(&self) -> usize {
        self.flipped.load(Ordering::SeqCst)
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::SeqCst)
    }
}

/// Does the damage to one direction of one connection.
pub(crate) struct Inspector<'a> {
    damage: Option<&'a Damage>,
    /// Bytes until the connection breaks.
    life: u64,
    last_four: [u8; 4],
    /// Position in the body; `None` before the first empty line. Bodies of tests contain none.
    position: Option<u64>,
}

impl<'a> Inspector<'a> {
    pub(crate) fn none() -> Self {
        Self { damage: None, life: u64::MAX, last_four: [0; 4], position: None }
    }

    pub(crate) fn new(damage: &'a Damage, life: u64) -> Self {
        Self { damage: Some(damage), life, ..Self::none() }
    }

    /// Damages a piece; returns true if the connection ends behind it.
    pub(crate) fn inspect(&mut self, piece: &mut BytesMut) -> bool {
        if piece.len() as u64 >= self.life {
            piece.truncate(self.life as usize);
            return true;
        }
        self.life -= piece.len() as u64;
        let Some(damage) = self.damage else { return false };
        let mut next = lock(&damage.next);
        let Some((at, kind)) = *next else {
            // Undamaged bytes pass at full speed; the next head tells the position again.
            (self.last_four, self.position) = ([0; 4], None);
            return false;
        };
        for index in 0..piece.len() {
            if self.position == Some(at) {
                *next = None;
                if kind == DamageKind::Break {
                    damage.is_broken.store(true, Ordering::SeqCst);
                    piece.truncate(index);
                    return true;
                }
                piece[index] ^= 1;
                damage.flipped.fetch_add(1, Ordering::SeqCst);
                return false;
            }
            self.position = self.position.map(|position| position + 1);
            let [_, b, c, d] = self.last_four;
            self.last_four = [b, c, d, piece[index]];
            if self.last_four == *b"\r\n\r\n" {
                self.position = Some(0);
            }
        }
        false
    }
}
