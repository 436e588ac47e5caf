//! Where a location was before it came here.

use mallorn_proto::id::WorkerId;
use mallorn_proto::limits::ORIGINS_MAX;

/// The workers that had a location one after the other, the first one first; the last one handed it over to this worker.
/// A lifecycle manager may still name any of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origins(Vec<WorkerId>);

impl Origins {
    /// Those of a location that comes from `from` to the worker `own`, and was at `earlier` ones before. What has come home
    /// was never gone; of more than [`ORIGINS_MAX`] the first ones are forgotten.
    #[must_use]
    pub fn new(earlier: &[WorkerId], from: WorkerId, own: WorkerId) -> Self {
        let mut origins: Vec<_> =
            earlier.iter().copied().filter(|worker| ![from, own, WorkerId::default()].contains(worker)).collect();
        origins.push(from);
        origins.drain(..origins.len().saturating_sub(ORIGINS_MAX));
        Self(origins)
    }

    /// Those that were written down.
    pub(crate) fn recorded(origins: Vec<WorkerId>) -> Self {
        Self(origins)
    }

    /// Who handed it over; `None` where it was reserved here.
    #[must_use]
    pub fn from(&self) -> Option<WorkerId> {
        self.0.last().copied()
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[WorkerId] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_never_among_its_own_and_the_last_ones_are_kept() {
        let ids = |numbers: &[u128]| numbers.iter().map(|number| WorkerId(*number)).collect::<Vec<_>>();
        let origins = Origins::new(&ids(&[1, 2, 0]), WorkerId(3), WorkerId(2));
        assert_eq!((origins.all(), origins.from()), (&ids(&[1, 3])[..], Some(WorkerId(3))));
        let many: Vec<u128> = (10..10 + ORIGINS_MAX as u128).collect();
        let origins = Origins::new(&ids(&many), WorkerId(3), WorkerId(2));
        assert_eq!(origins.all().len(), ORIGINS_MAX);
        assert_eq!((origins.all()[0], origins.from()), (WorkerId(11), Some(WorkerId(3))));
        assert_eq!(Origins::default().from(), None);
    }
}
