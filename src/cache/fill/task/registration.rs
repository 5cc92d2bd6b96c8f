//! The entry of a fill in the register of running fills, which new requests for its key join. A fill without
//! registration ends with its last follower. Followers are counted by the receivers of the phase, so none can leave
//! uncounted.

use std::collections::HashMap;

use super::FillTask;
use crate::fill::fetch::Followers;
use crate::fill::{FillHandle, FillKey};

impl FillTask {
    /// Removes the fill from the register: later requests start their own.
    pub(super) fn unregister(&self) {
        self.remove_from(&mut self.context.lock());
    }

    /// Returns true if the fill was registered until now.
    pub(super) fn remove_from(&self, running: &mut HashMap<FillKey, FillHandle>) -> bool {
        self.is_registered(running) && running.remove(&self.register_key).is_some()
    }

    /// Returns true if new requests for the key join this fill.
    fn is_registered(&self, running: &HashMap<FillKey, FillHandle>) -> bool {
        let registered = running.get(&self.register_key);
        registered.is_some_and(|fill| fill.phase.same_channel(&self.phase.subscribe()))
    }
}

impl Followers for FillTask {
    fn has_followers(&self) -> bool {
        // The register holds one receiver; each follower holds another.
        let registered = usize::from(self.is_registered(&self.context.lock()));
        self.phase.receiver_count() > registered
    }

    fn close_if_unfollowed(&self) -> bool {
        let mut running = self.context.lock();
        let registered = usize::from(self.is_registered(&running));
        let is_unfollowed = self.phase.receiver_count() <= registered;
        if is_unfollowed {
            self.remove_from(&mut running);
        }
        is_unfollowed
    }

    fn can_linger(&self) -> bool {
        let context = &self.context;
        self.request.background.is_none()
            && !self.flags.is_detached()
            && !context.store.is_released()
            && context.admission.has_room()
    }
}

impl Drop for FillTask {
    /// Unregisters the fill also after a panic or when the runtime drops the task.
    fn drop(&mut self) {
        self.unregister();
    }
}
