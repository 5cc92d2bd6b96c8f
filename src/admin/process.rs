//! Metrics of the process that serves, with the names and units that Prometheus' client libraries share. They are read
//! from `/proc` at each scrape; a figure that cannot be read keeps its last value. The `process` feature of the
//! `prometheus` crate counts CPU time in whole seconds and needs three more crates.

use std::fs;

use prometheus::{Counter, Gauge, IntGauge, Registry};

/// Ticks a second of times in `/proc`: `USER_HZ`, the same on every architecture of Linux that Rust's standard library
/// supports.
const TICKS: f64 = 100.0;

/// Gauges and counters of this process.
#[derive(Debug)]
pub(super) struct ProcessMetrics {
    cpu_seconds: Counter,
    resident_memory: IntGauge,
    virtual_memory: IntGauge,
    open_fds: IntGauge,
    max_fds: Gauge,
    start_time: Gauge,
}

/// Figures of a process.
#[derive(Clone, Copy, Debug, PartialEq)]
struct ProcessStat {
    cpu_seconds: f64,
    /// Seconds between the start of the system and of the process.
    started: f64,
}

impl ProcessMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name, help| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let metrics = Self {
            cpu_seconds: Counter::new(
                "process_cpu_seconds_total",
                "Total user and system CPU time spent in seconds.",
            )?,
            resident_memory: gauge("process_resident_memory_bytes", "Resident memory size in bytes.")?,
            virtual_memory: gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.")?,
            open_fds: gauge("process_open_fds", "Number of open file descriptors.")?,
            max_fds: Gauge::new("process_max_fds", "Maximum number of open file descriptors.")?,
            start_time: Gauge::new(
                "process_start_time_seconds",
                "Start time of the process since unix epoch in seconds.",
            )?,
        };
        registry.register(Box::new(metrics.cpu_seconds.clone()))?;
        registry.register(Box::new(metrics.max_fds.clone()))?;
        registry.register(Box::new(metrics.start_time.clone()))?;
        Ok(metrics)
    }

    /// Reads the current figures. Reads of `/proc` take microseconds and wait for no disk.
    pub(super) fn update(&self) {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        if let Some(stat) = parse_stat(&read("/proc/self/stat")) {
            self.cpu_seconds.inc_by((stat.cpu_seconds - self.cpu_seconds.get()).max(0.0));
            if let Some(booted) =
                field(&read("/proc/stat"), "btime ").and_then(|text| text.parse::<f64>().ok())
            {
                self.start_time.set(booted + stat.started);
            }
        }
        let status = read("/proc/self/status");
        let bytes = |name| field(&status, name)?.strip_suffix(" kB")?.trim().parse::<i64>().ok();
        let set = |gauge: &IntGauge, value: Option<i64>| value.into_iter().for_each(|value| gauge.set(value));
        set(&self.resident_memory, bytes("VmRSS:").map(|kib| kib << 10));
        set(&self.virtual_memory, bytes("VmSize:").map(|kib| kib << 10));
        // One of them is that of this listing.
        let open = fs::read_dir("/proc/self/fd").ok().map(|listed| listed.count().saturating_sub(1));
        set(&self.open_fds, open.and_then(|open| i64::try_from(open).ok()));
        if let Some(max) = field(&read("/proc/self/limits"), "Max open files").and_then(parse_limit) {
            self.max_fds.set(max);
        }
    }
}

/// Returns the rest of the line that begins with `name`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// Parses the soft limit, the first of two.
fn parse_limit(limits: &str) -> Option<f64> {
    match limits.split_whitespace().next()? {
        "unlimited" => Some(f64::INFINITY),
        number => number.parse().ok(),
    }
}

/// Parses `/proc/self/stat` (proc_pid_stat(5)). The name of the program, in parentheses, may have spaces.
fn parse_stat(text: &str) -> Option<ProcessStat> {
    let (_, fields) = text.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    // `fields` begins with the third one.
    let ticks = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    Some(ProcessStat { cpu_seconds: (ticks(14)? + ticks(15)?) / TICKS, started: ticks(22)? / TICKS })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_of_a_program_with_any_name_is_parsed() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 9 0 12345 1000 200";
        let expected = ProcessStat { cpu_seconds: 2.0, started: 123.45 };
        for name in ["gupd", "a b", "a) S 1 (b", ""] {
            assert_eq!(parse_stat(&format!("77 ({name}) {rest}")), Some(expected), "{name}");
        }
        for wrong in ["", "77 (gupd) S 1 2", "no parenthesis"] {
            assert_eq!(parse_stat(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn limit_of_open_files_may_be_unlimited() {
        for (text, expected) in [
            ("Max open files            1024                 4096                 files", Some(1024.0)),
            (
                "Max open files            unlimited            unlimited            files",
                Some(f64::INFINITY),
            ),
            ("Max open files", None),
            ("Max processes 5", None),
        ] {
            assert_eq!(field(text, "Max open files").and_then(parse_limit), expected, "{text}");
        }
    }

    #[test]
    fn figures_of_this_process_are_plausible() {
        let metrics = ProcessMetrics::register(&Registry::new()).unwrap();
        metrics.update();
        let first = metrics.cpu_seconds.get();
        metrics.update();
        assert!(metrics.cpu_seconds.get() >= first);
        assert!(metrics.resident_memory.get() > 1 << 20);
        assert!(metrics.virtual_memory.get() >= metrics.resident_memory.get());
        assert!(metrics.open_fds.get() >= 3 && metrics.max_fds.get() >= 3.0);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(
            (now - 3_600.0..now + 2.0).contains(&metrics.start_time.get()),
            "{}",
            metrics.start_time.get()
        );
    }
}
