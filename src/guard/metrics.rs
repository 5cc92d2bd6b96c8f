//! Counters of the guard. The guard sends all of them to the worker on every change, so that a scrape of the relay
//! includes them; they are therefore few.

use prometheus::core::Collector;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use serde::{Deserialize, Serialize};

/// Reason why a worker exited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// The worker exited with status 0 without a command to stop.
    Exited,
    /// The worker exited with an error.
    Failed,
    /// A signal other than the guard's killed the worker: a crash, or lack of memory.
    Killed,
    /// The guard killed the worker, which had sent no heartbeat.
    Hung,
    /// The worker exited as told after the next worker had taken over.
    HandedOver,
    /// The worker exited as told: the relay stops.
    Stopped,
}

/// Kind of a response that the guard gave a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardResponse {
    /// A redirect.
    Redirect,
    /// The response of a manager, passed on.
    Relay,
    /// A refusal.
    Refused,
    /// `503`: no manager answers.
    Unavailable,
}

/// All counts since the start. Serialized names are part of the protocol between guard and worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardStats {
    /// Workers started.
    pub starts: u64,
    /// Workers that exited, by [`ExitReason`].
    ends: [u64; ExitReason::ALL.len()],
    /// Responses, by [`GuardResponse`].
    responses: [u64; GuardResponse::ALL.len()],
    /// True while the guard answers clients.
    pub answering: bool,
}

impl ExitReason {
    const ALL: [Self; 6] =
        [Self::Exited, Self::Failed, Self::Killed, Self::Hung, Self::HandedOver, Self::Stopped];

    /// Returns the value in logs and metrics.
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

impl GuardResponse {
    const ALL: [Self; 4] = [Self::Redirect, Self::Relay, Self::Refused, Self::Unavailable];

    /// Returns the value in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Redirect => "redirect",
            Self::Relay => "relay",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
        }
    }
}

impl GuardStats {
    /// Counts the exit of a worker.
    pub fn count_exit(&mut self, reason: ExitReason) {
        self.ends[reason as usize] += 1;
    }

    /// Counts a response.
    pub fn count_response(&mut self, response: GuardResponse) {
        self.responses[response as usize] += 1;
    }
}

/// [`GuardStats`] as Prometheus metrics.
#[derive(Clone, Debug)]
pub struct GuardMetrics {
    starts: IntCounter,
    ends: IntCounterVec,
    responses: IntCounterVec,
    answering: IntGauge,
}

impl GuardMetrics {
    /// Registers the metrics, at zero.
    ///
    /// # Errors
    /// When the registry has metrics of these names.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            starts: IntCounter::new("gupd_guard_worker_starts_total", "Workers started by the guard.")?,
            ends: IntCounterVec::new(
                Opts::new("gupd_guard_worker_ends_total", "Workers that exited, by reason."),
                &["why"],
            )?,
            responses: IntCounterVec::new(
                Opts::new(
                    "gupd_guard_responses_total",
                    "Responses of the guard while no worker served, by kind.",
                ),
                &["answer"],
            )?,
            answering: IntGauge::new(
                "gupd_guard_answering",
                "1 while the guard answers clients in place of a worker.",
            )?,
        };
        let all: [Box<dyn Collector>; 4] = [
            Box::new(metrics.starts.clone()),
            Box::new(metrics.ends.clone()),
            Box::new(metrics.responses.clone()),
            Box::new(metrics.answering.clone()),
        ];
        all.into_iter().try_for_each(|metric| registry.register(metric))?;
        metrics.update(&GuardStats::default());
        Ok(metrics)
    }

    /// Sets the metrics to these counts. A counter never decreases.
    pub fn update(&self, stats: &GuardStats) {
        let set = |counter: &IntCounter, value: u64| counter.inc_by(value.saturating_sub(counter.get()));
        set(&self.starts, stats.starts);
        for (reason, count) in ExitReason::ALL.into_iter().zip(stats.ends) {
            set(&self.ends.with_label_values(&[reason.as_str()]), count);
        }
        for (response, count) in GuardResponse::ALL.into_iter().zip(stats.responses) {
            set(&self.responses.with_label_values(&[response.as_str()]), count);
        }
        self.answering.set(stats.answering.into());
    }
}

#[cfg(test)]
mod tests {
    use prometheus::TextEncoder;

    use super::*;

    #[test]
    fn metrics_of_all_reasons_exist_from_the_start() {
        let registry = Registry::new();
        let metrics = GuardMetrics::register(&registry).unwrap();
        let text = || TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        assert!(text().contains("gupd_guard_worker_ends_total{why=\"hung\"} 0\n"));
        let mut stats = GuardStats { starts: 3, answering: true, ..GuardStats::default() };
        stats.count_exit(ExitReason::Hung);
        stats.count_response(GuardResponse::Redirect);
        metrics.update(&stats);
        metrics.update(&stats);
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
