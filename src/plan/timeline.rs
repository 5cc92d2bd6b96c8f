//! What a simulated rollout did: rates between its events, exactly, and the clients that were done. Owns what is read off
//! that: when a share of the clients was current, the peaks, and means for a chart.

/// What held from a moment on, until the next one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moment {
    /// Seconds since the start.
    pub from: f64,
    /// Bytes a second over the line.
    pub wan: f64,
    /// Bytes a second to clients.
    pub lan: f64,
    /// Downloads under way.
    pub downloads: u32,
    /// Clients that are current.
    pub current: u32,
}

/// The course of one rollout.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timeline(Vec<Moment>);

/// Rates over a span, for a chart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mean {
    /// Mean bytes a second over the line.
    pub wan: f64,
    /// Mean bytes a second to clients.
    pub lan: f64,
}

/// One of the rates, of a moment.
pub type Rate = fn(&Moment) -> f64;

impl Timeline {
    /// Notes what holds from now on. Moments come in order; a later word on the same moment replaces the earlier.
    pub fn note(&mut self, moment: Moment) {
        match self.0.last_mut() {
            Some(last) if last.from == moment.from => *last = moment,
            Some(last) if Moment { from: moment.from, ..*last } == moment => {}
            _ => self.0.push(moment),
        }
    }

    /// In order of time; the last one is the end.
    pub fn moments(&self) -> &[Moment] {
        &self.0
    }

    /// When so many clients were current; `None` if they never were.
    pub fn current_at(&self, clients: u32) -> Option<f64> {
        let first = self.0.partition_point(|moment| moment.current < clients);
        self.0.get(first).map(|moment| moment.from)
    }

    /// When the last byte moved, or the last client was current; 0 if nothing ever happened.
    pub fn end(&self) -> f64 {
        self.0.last().map_or(0.0, |moment| moment.from)
    }

    /// The highest rate at any moment, bytes a second.
    pub fn peak(&self, rate: Rate) -> f64 {
        self.0.iter().map(rate).fold(0.0, f64::max)
    }

    /// The most downloads at once.
    pub fn most_downloads(&self) -> u32 {
        self.0.iter().map(|moment| moment.downloads).max().unwrap_or(0)
    }

    /// The highest mean over any span of so many seconds. Bytes so far are straight between moments, so the best span
    /// begins or ends at one of them.
    pub fn busiest(&self, rate: Rate, span: f64) -> f64 {
        let bytes = self.bytes(rate);
        let span = span.min(self.end());
        if span <= 0.0 {
            return self.peak(rate);
        }
        let (mut behind, mut ahead) = (Cursor::new(self, &bytes, rate), Cursor::new(self, &bytes, rate));
        let ending =
            self.0.iter().zip(&bytes).map(|(moment, here)| here - behind.bytes_at(moment.from - span));
        let most = ending.fold(0.0, f64::max);
        let beginning =
            self.0.iter().zip(&bytes).map(|(moment, here)| ahead.bytes_at(moment.from + span) - here);
        beginning.fold(most, f64::max) / span
    }

    /// Bytes moved in all.
    pub fn total(&self, rate: Rate) -> f64 {
        self.bytes(rate).last().copied().unwrap_or(0.0)
    }

    /// Means over `columns` equal spans from the start to `until`.
    pub fn means(&self, until: f64, columns: usize) -> Vec<Mean> {
        let (wan, lan): (Rate, Rate) = (|moment| moment.wan, |moment| moment.lan);
        let (wan_bytes, lan_bytes) = (self.bytes(wan), self.bytes(lan));
        let (mut wan, mut lan) = (Cursor::new(self, &wan_bytes, wan), Cursor::new(self, &lan_bytes, lan));
        let width = until / columns.max(1) as f64;
        let (mut wan_before, mut lan_before) = (0.0, 0.0);
        let mean = |column: usize| {
            let end = (column + 1) as f64 * width;
            let (wan_now, lan_now) = (wan.bytes_at(end), lan.bytes_at(end));
            let mean = Mean { wan: (wan_now - wan_before) / width, lan: (lan_now - lan_before) / width };
            (wan_before, lan_before) = (wan_now, lan_now);
            mean
        };
        (0..columns).map(mean).collect()
    }

    /// Bytes moved by each moment.
    fn bytes(&self, rate: Rate) -> Vec<f64> {
        let mut sum = 0.0;
        let mut sums = Vec::with_capacity(self.0.len());
        let mut before: Option<&Moment> = None;
        for moment in &self.0 {
            sum += before.map_or(0.0, |before| rate(before) * (moment.from - before.from));
            sums.push(sum);
            before = Some(moment);
        }
        sums
    }
}

/// Reads bytes so far at times that do not go back.
struct Cursor<'a> {
    moments: &'a [Moment],
    bytes: &'a [f64],
    rate: Rate,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn new(timeline: &'a Timeline, bytes: &'a [f64], rate: Rate) -> Self {
        Self { moments: &timeline.0, bytes, rate, at: 0 }
    }

    fn bytes_at(&mut self, time: f64) -> f64 {
        while self.moments.get(self.at + 1).is_some_and(|next| next.from <= time) {
            self.at += 1;
        }
        match (self.moments.get(self.at), self.bytes.get(self.at)) {
            // Nothing moves after the last moment.
            (Some(_), Some(bytes)) if self.at + 1 == self.moments.len() => *bytes,
            (Some(moment), Some(bytes)) => bytes + (self.rate)(moment) * (time - moment.from).max(0.0),
            _ => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(from: f64, wan: f64, current: u32) -> Moment {
        Moment { from, wan, lan: 0.0, downloads: 0, current }
    }

    const WAN: Rate = |moment| moment.wan;

    #[test]
    fn timeline_gives_peaks_means_and_marks() {
        let mut timeline = Timeline::default();
        for moment in [
            moment(0.0, 0.0, 0),
            moment(5.0, 9.0, 0),
            moment(5.0, 4.0, 0),
            moment(10.0, 10.0, 1),
            moment(11.0, 4.0, 1),
            moment(15.0, 4.0, 1),
            moment(20.0, 0.0, 3),
        ] {
            timeline.note(moment);
        }
        assert_eq!(timeline.moments().len(), 5);
        assert_eq!(timeline.total(WAN), 20.0 + 10.0 + 36.0);
        assert_eq!(
            (timeline.peak(WAN), timeline.busiest(WAN, 1.0), timeline.busiest(WAN, 2.0)),
            (10.0, 10.0, 7.0)
        );
        assert_eq!(timeline.busiest(WAN, 1e9), 66.0 / 20.0);
        assert_eq!([1, 2, 3, 4].map(|n| timeline.current_at(n)), [Some(10.0), Some(20.0), Some(20.0), None]);
        let means: Vec<f64> = timeline.means(20.0, 4).iter().map(|mean| mean.wan).collect();
        assert_eq!(means, [0.0, 4.0, 26.0 / 5.0, 4.0]);
    }
}
