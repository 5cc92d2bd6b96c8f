//! The relay's worker process seen from outside: sockets, open files and memory.

use std::fs;
use std::time::Instant;

use tokio::time::sleep;

use crate::process::{PATIENCE, Process};

/// Observes the worker of a guard.
pub(crate) struct WorkerProbe {
    guard: u32,
}

/// Resources of the worker at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WorkerResources {
    pub(crate) sockets: usize,
    /// Open partial files of the store.
    pub(crate) half_written: usize,
    /// Bytes of resident memory.
    pub(crate) resident: u64,
}

impl WorkerProbe {
    pub(crate) fn new(guard: &Process) -> Self {
        Self { guard: guard.id() }
    }

    /// The youngest worker, if one runs.
    fn worker(&self) -> Option<u32> {
        let guard = self.guard;
        let children = fs::read_to_string(format!("/proc/{guard}/task/{guard}/children")).ok()?;
        children.split_whitespace().filter_map(|pid| pid.parse().ok()).max()
    }

    /// Kills the worker, if one runs.
    pub(crate) fn kill_worker(&self) {
        let pid = self.worker().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
        if let Some(pid) = pid {
            // The process may have exited in between.
            let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }

    pub(crate) fn now(&self) -> WorkerResources {
        let worker = self.worker().expect("no worker runs");
        let open: Vec<_> = fs::read_dir(format!("/proc/{worker}/fd"))
            .unwrap()
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
            .map(|target| target.to_string_lossy().into_owned())
            .collect();
        let count = |is: &dyn Fn(&str) -> bool| open.iter().filter(|target| is(target)).count();
        let status = fs::read_to_string(format!("/proc/{worker}/status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        WorkerResources {
            sockets: count(&|target| target.starts_with("socket:")),
            half_written: count(&|target| target.contains("/partial/") && !target.ends_with(" (deleted)")),
            resident: resident.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10,
        }
    }

    /// Waits until the worker's resources satisfy `is_idle`.
    pub(crate) async fn wait_until_idle(&self, is_idle: impl Fn(WorkerResources) -> bool) -> WorkerResources {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = self.now();
            if is_idle(now) && now.half_written == 0 {
                return now;
            }
            assert!(Instant::now() < deadline, "the worker still holds {now:?}");
            sleep(std::time::Duration::from_millis(100)).await;
        }
    }
}
