//! What the guard counts. Small, because all of it goes to the worker whenever it changes: who scrapes the relay's
//! metrics gets the guard's with them.

use prometheus::core::Collector;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use serde::{Deserialize, Serialize};

/// How a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// By itself, with status 0, when nobody had told it to.
    Exited,
    /// By itself, with an error.
    Failed,
    /// By a signal that was not the guard's: a crash, or the system for want of memory.
    Killed,
    /// By the guard: it gave no sign of life.
    Hung,
    /// As it was told to: the next worker had taken over.
    HandedOver,
    /// As it was told to: the relay stops.
    Stopped,
}

/// What the guard answered to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// A redirect.
    Redirect,
    /// A manager's response.
    Relay,
    /// A refusal.
    Refused,
    /// That no manager answers.
    Unavailable,
}

/// All counts so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// Workers started.
    pub starts: u64,
    /// Workers that ended, by `Why`.
    ends: [u64; Why::ALL.len()],
    /// Responses, by `Answered`.
    responses: [u64; Answered::ALL.len()],
    /// Whether the guard answers clients now.
    pub answering: bool,
}

impl Why {
    const ALL: [Self; 6] =
        [Self::Exited, Self::Failed, Self::Killed, Self::Hung, Self::HandedOver, Self::Stopped];

    /// Word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exited => "exited",
            Self::Failed => "failed",
            Self::Killed => "killed",
            Self::Hung => "hung",
            Self::HandedOver => "handed-over",
            Self::Stopped => "stopped",
        }
    }
}

impl Answered {
    const ALL: [Self; 4] = [Self::Redirect, Self::Relay, Self::Refused, Self::Unavailable];

    /// Word for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Redirect => "redirect",
            Self::Relay => "relay",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
        }
    }
}

impl Figures {
    /// Counts the end of a worker.
    pub fn ended(&mut self, why: Why) {
        self.ends[why as usize] += 1;
    }

    /// Counts a response.
    pub fn answered(&mut self, answered: Answered) {
        self.responses[answered as usize] += 1;
    }
}

/// The figures as metrics.
#[derive(Clone, Debug)]
pub struct GuardMetrics {
    starts: IntCounter,
    ends: IntCounterVec,
    responses: IntCounterVec,
    answering: IntGauge,
}

impl GuardMetrics {
    /// Metrics of a registry that has none of these names yet.
    ///
    /// # Errors
    /// When it has.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            starts: IntCounter::new("gupd_guard_worker_starts_total", "Workers that the guard has started.")?,
            ends: IntCounterVec::new(
                Opts::new("gupd_guard_worker_ends_total", "Workers that have ended, by why."),
                &["why"],
            )?,
            responses: IntCounterVec::new(
                Opts::new(
                    "gupd_guard_responses_total",
                    "Responses of the guard while no worker served, by what they were.",
                ),
                &["answer"],
            )?,
            answering: IntGauge::new(
                "gupd_guard_answering",
                "Whether the guard answers clients, in its worker's place.",
            )?,
        };
        let all: [Box<dyn Collector>; 4] = [
            Box::new(metrics.starts.clone()),
            Box::new(metrics.ends.clone()),
            Box::new(metrics.responses.clone()),
            Box::new(metrics.answering.clone()),
        ];
        all.into_iter().try_for_each(|one| registry.register(one))?;
        metrics.show(&Figures::default());
        Ok(metrics)
    }

    /// Shows these figures from now on. They never become less.
    pub fn show(&self, figures: &Figures) {
        let set = |counter: &IntCounter, value: u64| counter.inc_by(value.saturating_sub(counter.get()));
        set(&self.starts, figures.starts);
        for (why, count) in Why::ALL.into_iter().zip(figures.ends) {
            set(&self.ends.with_label_values(&[why.as_str()]), count);
        }
        for (answered, count) in Answered::ALL.into_iter().zip(figures.responses) {
            set(&self.responses.with_label_values(&[answered.as_str()]), count);
        }
        self.answering.set(figures.answering.into());
    }
}

#[cfg(test)]
mod tests {
    use prometheus::TextEncoder;

    use super::*;

    #[test]
    fn figures_are_shown_by_their_words_and_from_the_first_moment() {
        let registry = Registry::new();
        let metrics = GuardMetrics::new(&registry).unwrap();
        let text = || TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        assert!(text().contains("gupd_guard_worker_ends_total{why=\"hung\"} 0\n"));
        let mut figures = Figures { starts: 3, answering: true, ..Figures::default() };
        figures.ended(Why::Hung);
        figures.answered(Answered::Redirect);
        metrics.show(&figures);
        metrics.show(&figures);
        for line in [
            "gupd_guard_worker_starts_total 3",
            "gupd_guard_worker_ends_total{why=\"hung\"} 1",
            "gupd_guard_worker_ends_total{why=\"handed-over\"} 0",
            "gupd_guard_responses_total{answer=\"redirect\"} 1",
            "gupd_guard_answering 1",
        ] {
            assert!(text().contains(&format!("{line}\n")), "{line} in {}", text());
        }
    }
}
