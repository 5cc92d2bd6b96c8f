//! The relay's processes from outside: which one serves, what it holds open, how much memory it has.

use std::fs;
use std::time::Instant;

use tokio::time::sleep;

use crate::process::{PATIENCE, Process};

/// A guard whose workers are watched.
pub(crate) struct Watched {
    guard: u32,
}

/// What the worker held at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) sockets: usize,
    /// Files of the store that are not complete.
    pub(crate) half_written: usize,
    /// Bytes of resident memory.
    pub(crate) resident: u64,
}

impl Watched {
    pub(crate) fn of(guard: &Process) -> Self {
        Self { guard: guard.id() }
    }

    /// The youngest worker, if there is one now.
    fn worker(&self) -> Option<u32> {
        let guard = self.guard;
        let children = fs::read_to_string(format!("/proc/{guard}/task/{guard}/children")).ok()?;
        children.split_whitespace().filter_map(|pid| pid.parse().ok()).max()
    }

    /// As a crash would end it; nothing if none runs just now.
    pub(crate) fn kill_worker(&self) {
        let pid = self.worker().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
        if let Some(pid) = pid {
            // It may have ended a moment ago.
            let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }

    pub(crate) fn now(&self) -> Held {
        let worker = self.worker().expect("no worker runs");
        let open: Vec<_> = fs::read_dir(format!("/proc/{worker}/fd"))
            .unwrap()
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
            .map(|target| target.to_string_lossy().into_owned())
            .collect();
        let count = |is: &dyn Fn(&str) -> bool| open.iter().filter(|target| is(target)).count();
        let status = fs::read_to_string(format!("/proc/{worker}/status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        Held {
            sockets: count(&|target| target.starts_with("socket:")),
            half_written: count(&|target| target.contains("/partial/") && !target.ends_with(" (deleted)")),
            resident: resident.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10,
        }
    }

    /// Waits until what is held is as it should be when nobody asks for anything.
    pub(crate) async fn settled(&self, is_well: impl Fn(Held) -> bool) -> Held {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = self.now();
            if is_well(now) && now.half_written == 0 {
                return now;
            }
            assert!(Instant::now() < deadline, "it still holds {now:?}");
            sleep(std::time::Duration::from_millis(100)).await;
        }
    }
}
