//! Lines of several threads in the order of their timestamps. Every line begins with its time at the same column in the
//! same width (RFC 3339 in UTC with microseconds), so comparing these bytes compares times. Lines of one time keep the
//! order of their thread. Lines that are not before a given time are held for the next round.

use std::io::Write;

use super::buffer::{ThreadBuffer, TimedLines};

/// Length of a timestamp such as `2026-11-30T01:09:44.383806Z`.
const TIMESTAMP_LEN: usize = 27;

/// Bytes written at once.
const PIECE_BYTES: usize = 256 << 10;

/// Merges lines.
#[derive(Debug)]
pub(super) struct LineMerger {
    /// Column of the timestamp.
    column: usize,
    /// Lines of this round: the held ones first, then those of each thread.
    rounds: Vec<TimedLines>,
    entries: Vec<Entry>,
    piece: Vec<u8>,
}

/// A line by its place.
#[derive(Clone, Copy, Debug)]
struct Entry {
    list: usize,
    start: usize,
    end: usize,
}

impl LineMerger {
    pub(super) fn new(column: usize) -> Self {
        Self { column, rounds: vec![TimedLines::default()], entries: Vec::new(), piece: Vec::new() }
    }

    /// Takes the lines of all threads, and writes those before `time`, all without one, in order. An error is ignored: a
    /// log that cannot be written cannot be reported either.
    pub(super) fn write<'a>(
        &mut self,
        threads: impl Iterator<Item = &'a ThreadBuffer>,
        time: Option<&[u8]>,
        file: &mut dyn Write,
    ) {
        let mut lists = 1;
        for thread in threads {
            if lists == self.rounds.len() {
                self.rounds.push(TimedLines::default());
            }
            thread.swap(&mut self.rounds[lists]);
            lists += 1;
        }
        self.rounds.truncate(lists);
        self.sort();
        let written = match time {
            Some(time) => self.entries.partition_point(|entry| self.timestamp(entry) < time),
            None => self.entries.len(),
        };
        let (written, later) = self.entries.split_at(written);
        let mut piece = std::mem::take(&mut self.piece);
        for entry in written {
            piece.extend_from_slice(self.line(entry));
            if piece.len() >= PIECE_BYTES {
                let _unwritable = file.write_all(&piece);
                piece.clear();
            }
        }
        if !written.is_empty() {
            let _unwritable = file.write_all(&piece).and_then(|()| file.flush());
        }
        piece.clear();
        let mut held = TimedLines::default();
        later.iter().for_each(|entry| held.push(self.line(entry)));
        self.piece = piece;
        self.rounds.iter_mut().for_each(TimedLines::clear);
        if let Some(first) = self.rounds.first_mut() {
            *first = held;
        }
    }

    fn sort(&mut self) {
        let mut entries = std::mem::take(&mut self.entries);
        entries.clear();
        for (list, lines) in self.rounds.iter().enumerate() {
            let starts = std::iter::once(0).chain(lines.ends.iter().copied());
            entries.extend(starts.zip(&lines.ends).map(|(start, end)| Entry { list, start, end: *end }));
        }
        // Stable, and fast on lists that are sorted already.
        entries.sort_by(|a, b| self.timestamp(a).cmp(self.timestamp(b)));
        self.entries = entries;
    }

    fn line(&self, entry: &Entry) -> &[u8] {
        &self.rounds[entry.list].bytes[entry.start..entry.end]
    }

    /// Returns the timestamp; nothing for a line without one, which then comes first.
    fn timestamp(&self, entry: &Entry) -> &[u8] {
        let found = self.line(entry).get(self.column..self.column + TIMESTAMP_LEN);
        found.filter(|text| text[0].is_ascii_digit()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(lines: &[(u32, &str)]) -> ThreadBuffer {
        let buffer = ThreadBuffer::default();
        for (micros, text) in lines {
            buffer.begin_line();
            buffer.append(format!("> 2026-11-30T01:09:44.{micros:06}Z {text}\n").as_bytes());
        }
        buffer
    }

    fn merged(merger: &mut LineMerger, threads: &[ThreadBuffer], before: Option<u32>) -> String {
        let time = before.map(|micros| format!("2026-11-30T01:09:44.{micros:06}Z"));
        let mut text = Vec::new();
        merger.write(threads.iter(), time.as_ref().map(String::as_bytes), &mut text);
        let text = String::from_utf8(text).unwrap();
        text.lines().map(|line| line.rsplit_once(' ').unwrap().1).collect()
    }

    #[test]
    fn lines_of_all_threads_are_in_order_of_time() {
        let mut merger = LineMerger::new(2);
        let first = [buffer(&[(10, "b"), (30, "d"), (30, "e"), (99, "g")]), buffer(&[(5, "a"), (20, "c")])];
        assert_eq!(merged(&mut merger, &first, Some(40)), "abcde");
        assert_eq!(merged(&mut merger, &[buffer(&[(50, "f")])], Some(99)), "f", "equal to the limit is held");
        assert_eq!(merged(&mut merger, &[], Some(100)), "g");
        assert_eq!(merged(&mut merger, &[buffer(&[(70, "i"), (60, "h")])], None), "hi", "a clock set back");
        assert_eq!(merged(&mut merger, &[], None), "");
    }

    #[test]
    fn line_without_a_timestamp_is_written() {
        let mut merger = LineMerger::new(2);
        let buffer = ThreadBuffer::default();
        for line in ["", "x\n", "> unable to format the following event\n"] {
            buffer.append(line.as_bytes());
        }
        let mut text = Vec::new();
        merger.write([&buffer].into_iter(), Some(b"2026"), &mut text);
        assert_eq!(text, b"x\n> unable to format the following event\n");
    }
}
