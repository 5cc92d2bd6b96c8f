//! What of the table is not saved yet, first changed, first saved. A client is queued once however often it changes, and
//! keeps its place in the queue; who goes before that is never written.

use std::collections::VecDeque;

use super::Identity;

/// Clients to be saved, by their numbers in the table, and those to be removed from what is saved.
#[derive(Debug, Default)]
pub(super) struct Changes {
    queue: VecDeque<u32>,
    /// By number. Who takes the number of one that went takes its place in the queue too: the queue is never longer
    /// than the table.
    queued: Vec<bool>,
    /// Never more than are saved: only they are removed, each once.
    gone: VecDeque<Identity>,
}

impl Changes {
    /// A client has changed.
    pub(super) fn changed(&mut self, at: u32) {
        let place = at as usize;
        if self.queued.len() <= place {
            self.queued.resize(place + 1, false);
        }
        if !std::mem::replace(&mut self.queued[place], true) {
            self.queue.push_back(at);
        }
    }

    /// A client that is saved is to be no more.
    pub(super) fn gone(&mut self, client: Identity) {
        self.gone.push_back(client);
    }

    /// The next that changed; it may have gone since.
    pub(super) fn next_changed(&mut self) -> Option<u32> {
        let at = self.queue.pop_front()?;
        if let Some(queued) = self.queued.get_mut(at as usize) {
            *queued = false;
        }
        Some(at)
    }

    /// The next to be removed.
    pub(super) fn next_gone(&mut self) -> Option<Identity> {
        self.gone.pop_front()
    }
}
