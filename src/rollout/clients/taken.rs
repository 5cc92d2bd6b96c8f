//! Which payloads a client has taken of the revision that it sees, and how often: what shows that it takes the same again
//! and again. Of fixed size, whatever a client does, since there is one for each.
//!
//! The first few stay, and who comes when there is no room takes the newest place of what was taken least. A client that
//! goes round and round through more objects than there is room for is found by those that stayed; keeping the last few
//! would forget each just before it comes again.

/// Objects kept of each client: as many as show a pattern. A client's rounds are longer; it takes one of its objects for
/// it to be found.
pub(super) const KEPT: usize = 8;

/// An object that was taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Object {
    /// XXH3-64 of its key.
    pub(super) hash: u64,
    /// How often, at least once.
    pub(super) times: u16,
    /// Whether it is a full set.
    pub(super) full: bool,
}

/// What a client has taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    objects: [Object; KEPT],
    count: u8,
}

impl Taken {
    /// Counts an object that was taken whole.
    pub(super) fn add(&mut self, hash: u64, full: bool) {
        let count = usize::from(self.count);
        if let Some(object) = self.objects.iter_mut().take(count).find(|object| object.hash == hash) {
            object.times = object.times.saturating_add(1);
            return;
        }
        let new = Object { hash, times: 1, full };
        if !self.push(new) {
            // Of equals `min_by_key` gives the first: the newest, when looked at from the end.
            let least = self.objects.iter_mut().rev().min_by_key(|object| object.times);
            if let Some(place) = least {
                *place = new;
            }
        }
    }

    /// Adds one that is not there; whether there was room.
    pub(super) fn push(&mut self, object: Object) -> bool {
        let Some(place) = self.objects.get_mut(usize::from(self.count)) else { return false };
        *place = object;
        self.count += 1;
        true
    }

    /// What it remembers.
    pub(super) fn objects(&self) -> &[Object] {
        self.objects.get(..usize::from(self.count)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn most_often(rounds: usize, objects: impl Iterator<Item = u64> + Clone) -> u16 {
        let mut taken = Taken::default();
        for _ in 0..rounds {
            objects.clone().for_each(|hash| taken.add(hash, false));
        }
        taken.objects().iter().map(|object| object.times).max().unwrap_or(0)
    }

    #[test]
    fn rounds_through_more_objects_than_are_kept_are_found() {
        for objects in [1, 8, 9, 100] {
            assert_eq!(most_often(3, 0..objects), 3, "{objects}");
        }
        assert_eq!(most_often(1, 0..100), 1);
    }

    #[test]
    fn one_that_is_taken_again_and_again_is_found_after_many_others() {
        assert_eq!(most_often(1, (0..100).chain([100, 100, 100])), 3);
    }
}
