//! Permits of a fill's runs. The permit of the fill covers one run; each further one needs a permit of the client that
//! reads its bytes. A reader whose client has no permit is served by the runs that there are, one range after the
//! other, so a fill always goes on. A wait ends with the demand that caused it.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::Poll;

use super::admission::{FillAdmission, FillPermit};
use super::plan::MAX_RUNS;

/// Permits of one fill's runs.
pub(super) struct RunPermits<'a> {
    admission: &'a FillAdmission,
    /// No run uses the permit of the fill.
    is_own_free: bool,
    /// Clients with a demand that lacks a permit, each once.
    waits: Vec<Wait<'a>>,
    /// Permit of the run that the plan has just admitted.
    admitted: Option<RunPermit>,
}

/// Right to one run of a fill.
pub(super) enum RunPermit {
    /// The permit of the fill.
    Own,
    /// A permit for this run alone, released with it.
    Further { _permit: FillPermit },
}

struct Wait<'a> {
    client: Option<IpAddr>,
    state: WaitState<'a>,
    /// The last plan still had a demand of the client.
    is_wanted: bool,
}

enum WaitState<'a> {
    Queued(Pin<Box<dyn Future<Output = Option<FillPermit>> + Send + 'a>>),
    Granted(FillPermit),
}

impl<'a> RunPermits<'a> {
    /// Permits of a fill without runs.
    pub(super) fn new(admission: &'a FillAdmission) -> Self {
        Self { admission, is_own_free: true, waits: Vec::new(), admitted: None }
    }

    /// Begins another look at the demands: waits that none of them needs end with it.
    pub(super) fn begin_plan(&mut self) {
        self.waits.iter_mut().for_each(|wait| wait.is_wanted = false);
    }

    /// Returns true if a run may start for this client; [`take`](Self::take) then gives its permit. Otherwise the
    /// client waits for one.
    pub(super) fn admits(&mut self, client: Option<IpAddr>) -> bool {
        if self.is_own_free {
            self.admitted = Some(RunPermit::Own);
            return true;
        }
        let Some(index) = self.waits.iter().position(|wait| wait.client == client) else {
            if self.waits.len() < MAX_RUNS {
                let queued = WaitState::Queued(Box::pin(self.admission.admit_run(client)));
                self.waits.push(Wait { client, state: queued, is_wanted: true });
            }
            return false;
        };
        let mut wait = self.waits.swap_remove(index);
        if let WaitState::Granted(permit) = wait.state {
            self.admitted = Some(RunPermit::Further { _permit: permit });
            return true;
        }
        wait.is_wanted = true;
        self.waits.push(wait);
        false
    }

    /// Returns the permit of the run that the plan has admitted. A run that no reader demanded uses the fill's own.
    pub(super) fn take(&mut self) -> RunPermit {
        let permit = self.admitted.take().unwrap_or(RunPermit::Own);
        if matches!(permit, RunPermit::Own) {
            self.is_own_free = false;
        }
        permit
    }

    /// Ends the waits, and returns the permits, that no demand of the last plan needs.
    pub(super) fn end_plan(&mut self) {
        self.waits.retain(|wait| wait.is_wanted);
    }

    /// Takes back the permit of a run that has ended.
    pub(super) fn give_back(&mut self, permit: &RunPermit) {
        self.is_own_free |= matches!(permit, RunPermit::Own);
    }

    /// Waits until a client that waits has a permit. Cancel-safe.
    pub(super) async fn wait_for_grant(&mut self) {
        poll_fn(|context| {
            let mut is_granted = false;
            for wait in &mut self.waits {
                if let WaitState::Queued(queued) = &mut wait.state
                    && let Poll::Ready(Some(permit)) = queued.as_mut().poll(context)
                {
                    wait.state = WaitState::Granted(permit);
                    is_granted = true;
                }
            }
            if is_granted { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}
