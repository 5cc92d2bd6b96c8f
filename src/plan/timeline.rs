//! Timeline of a simulated rollout: exact rates between events, and the number of current clients. Gives the times at
//! which clients were current, peaks, and means for a chart.

/// Rates and counts from one time until the next point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TimelinePoint {
    /// Seconds since the start.
    pub from: f64,
    /// Bytes a second over the line.
    pub wan: f64,
    /// Bytes a second to clients.
    pub lan: f64,
    /// Number of running downloads.
    pub downloads: u32,
    /// Number of current clients.
    pub current: u32,
}

/// The points of one rollout.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timeline(Vec<TimelinePoint>);

/// Mean rates over a span.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MeanRates {
    /// Mean bytes a second over the line.
    pub wan: f64,
    /// Mean bytes a second to clients.
    pub lan: f64,
}

/// Selects one of the rates of a point.
pub type RateSelector = fn(&TimelinePoint) -> f64;

impl Timeline {
    /// Appends a point. Points come in order of time; a point at the same time replaces the previous one.
    pub fn push(&mut self, moment: TimelinePoint) {
        match self.0.last_mut() {
            Some(last) if last.from == moment.from => *last = moment,
            Some(last) if TimelinePoint { from: moment.from, ..*last } == moment => {}
            _ => self.0.push(moment),
        }
    }

    /// Returns the points in order of time; the last one is the end.
    pub fn moments(&self) -> &[TimelinePoint] {
        &self.0
    }

    /// Returns the time at which this many clients were current; `None` if they never were.
    pub fn current_at(&self, clients: u32) -> Option<f64> {
        let first = self.0.partition_point(|moment| moment.current < clients);
        self.0.get(first).map(|moment| moment.from)
    }

    /// Returns the time of the last point; 0 if there is none.
    pub fn end(&self) -> f64 {
        self.0.last().map_or(0.0, |moment| moment.from)
    }

    /// Returns the maximum rate, bytes a second.
    pub fn peak(&self, rate: RateSelector) -> f64 {
        self.0.iter().map(rate).fold(0.0, f64::max)
    }

    /// Returns the maximum number of concurrent downloads.
    pub fn max_downloads(&self) -> u32 {
        self.0.iter().map(|moment| moment.downloads).max().unwrap_or(0)
    }

    /// Returns the maximum mean rate over any span of this many seconds. Total bytes are linear between points, so the
    /// busiest span starts or ends at a point.
    pub fn busiest_mean(&self, rate: RateSelector, span: f64) -> f64 {
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

    /// Returns the total bytes.
    pub fn total(&self, rate: RateSelector) -> f64 {
        self.bytes(rate).last().copied().unwrap_or(0.0)
    }

    /// Returns the means over `columns` equal spans from the start to `until`.
    pub fn means(&self, until: f64, columns: usize) -> Vec<MeanRates> {
        let (wan, lan): (RateSelector, RateSelector) = (|moment| moment.wan, |moment| moment.lan);
        let (wan_bytes, lan_bytes) = (self.bytes(wan), self.bytes(lan));
        let (mut wan, mut lan) = (Cursor::new(self, &wan_bytes, wan), Cursor::new(self, &lan_bytes, lan));
        let width = until / columns.max(1) as f64;
        let (mut wan_before, mut lan_before) = (0.0, 0.0);
        let mean = |column: usize| {
            let end = (column + 1) as f64 * width;
            let (wan_now, lan_now) = (wan.bytes_at(end), lan.bytes_at(end));
            let mean = MeanRates { wan: (wan_now - wan_before) / width, lan: (lan_now - lan_before) / width };
            (wan_before, lan_before) = (wan_now, lan_now);
            mean
        };
        (0..columns).map(mean).collect()
    }

    /// Returns the total bytes at each point.
    fn bytes(&self, rate: RateSelector) -> Vec<f64> {
        let mut sum = 0.0;
        let mut sums = Vec::with_capacity(self.0.len());
        let mut before: Option<&TimelinePoint> = None;
        for moment in &self.0 {
            sum += before.map_or(0.0, |before| rate(before) * (moment.from - before.from));
            sums.push(sum);
            before = Some(moment);
        }
        sums
    }
}

/// Reads total bytes at ascending times.
struct Cursor<'a> {
    moments: &'a [TimelinePoint],
    bytes: &'a [f64],
    rate: RateSelector,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn new(timeline: &'a Timeline, bytes: &'a [f64], rate: RateSelector) -> Self {
        Self { moments: &timeline.0, bytes, rate, at: 0 }
    }

    fn bytes_at(&mut self, time: f64) -> f64 {
        while self.moments.get(self.at + 1).is_some_and(|next| next.from <= time) {
            self.at += 1;
        }
        match (self.moments.get(self.at), self.bytes.get(self.at)) {
            // No bytes move after the last point.
            (Some(_), Some(bytes)) if self.at + 1 == self.moments.len() => *bytes,
            (Some(moment), Some(bytes)) => bytes + (self.rate)(moment) * (time - moment.from).max(0.0),
            _ => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(from: f64, wan: f64, current: u32) -> TimelinePoint {
        TimelinePoint { from, wan, lan: 0.0, downloads: 0, current }
    }

    const WAN: RateSelector = |moment| moment.wan;

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
            timeline.push(moment);
        }
        assert_eq!(timeline.moments().len(), 5);
        assert_eq!(timeline.total(WAN), 20.0 + 10.0 + 36.0);
        assert_eq!(
            (timeline.peak(WAN), timeline.busiest_mean(WAN, 1.0), timeline.busiest_mean(WAN, 2.0)),
            (10.0, 10.0, 7.0)
        );
        assert_eq!(timeline.busiest_mean(WAN, 1e9), 66.0 / 20.0);
        assert_eq!([1, 2, 3, 4].map(|n| timeline.current_at(n)), [Some(10.0), Some(20.0), Some(20.0), None]);
        let means: Vec<f64> = timeline.means(20.0, 4).iter().map(|mean| mean.wan).collect();
        assert_eq!(means, [0.0, 4.0, 26.0 / 5.0, 4.0]);
    }
}
