//! Applications: their instances, leases and released shuffles, and what workers are told to delete.
//!
//! Owns the table of applications and the orders that a heartbeat is answered with. Does not own the clock of leases
//! (`expiry`); times here are on it, and it started with the master.
//!
//! Invariants: of two instances of one name of which one is known to be newer, the older gets nothing any more; only the
//! end of a lease, its lifecycle manager's word, or the silence of all lifecycle managers for a whole lease ends an
//! application; no deletion is ordered before the master is one lease old.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use mallorn_proto::id::{Application, Instance};
use mallorn_proto::range_set::RangeSet;
use mallorn_sabotage::{self as sabotage, Sabotage};

use crate::{APPLICATIONS_MAX, INSTANCES_MAX, ORDERED_APPLICATIONS_MAX, ORDERED_RANGES_MAX, RELEASED_RANGES_TOTAL_MAX};

/// How an instance came to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// It registered with this master: it is newer than every instance that was there before.
    Registered,
    /// It was there before this master started; it told so by a call.
    TakenIn,
}

/// The life of an instance: it is active, may be fenced, and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// Renewed and served.
    Active,
    /// A newer instance has registered: calls are refused, data is kept until the lease is over.
    Fenced { by: Instance },
    /// Over: whatever workers report of it is deleted.
    Ended { since: Duration },
}

/// What is known of one instance of an application.
#[derive(Clone, Debug)]
struct Record {
    life: Life,
    origin: Origin,
    renewed_at: Duration,
    /// When a worker last said that it holds something of it.
    reported_at: Duration,
    released: RangeSet,
}

/// Why a lifecycle manager's call is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplicationError {
    /// A newer instance has registered under the same name.
    #[error(
        "application {application} is fenced: instance {by:016x} registered under the same name after it; only one \
         lifecycle manager of a name is served, stop this one",
        by = by.0
    )]
    Fenced {
        /// The older one, which called.
        application: Application,
        /// The newer one.
        by: Instance,
    },
    /// It was ended, or its lease ran out.
    #[error(
        "application {application} has ended, by its own word or because its lease ran out; start it as a new instance"
    )]
    Ended {
        /// The one that called.
        application: Application,
    },
    /// As many applications as a master keeps, and none of them over.
    #[error("the cluster has {APPLICATIONS_MAX} applications already: end one first")]
    TooManyApplications,
    /// As many instances of one name as a master keeps, and none of them over.
    #[error("application `{name}` has {INSTANCES_MAX} instances already: wait until the leases of older ones are over")]
    TooManyInstances {
        /// Their common name.
        name: String,
    },
}

/// What the registration of an application was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegisteredApplication {
    /// It is new, and these older instances of its name are fenced from here on.
    New {
        /// The older ones that were active.
        fenced: Vec<Instance>,
    },
    /// The same registration once more; the lease is renewed.
    Repeated,
}

/// What a renewal was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenewedApplication {
    /// The lease is renewed.
    Renewed,
    /// The application was there before this master started; it is taken in.
    TakenIn,
}

/// What a worker holds of an application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The application.
    pub application: Application,
    /// Its shuffles.
    pub shuffles: RangeSet,
}

/// What a worker is to delete. Bounded; what does not fit is told at a later heartbeat, for the worker still reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// Applications that are over: everything of them.
    pub ended: Vec<Application>,
    /// Shuffles that were released.
    pub released: Vec<Held>,
}

/// How many applications there are, by where they stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ApplicationCounts {
    /// Served.
    pub active: usize,
    /// Refused, but kept until their lease is over.
    pub fenced: usize,
    /// Over, and remembered for a while.
    pub ended: usize,
}

/// The table of applications.
#[derive(Debug, Default)]
pub(crate) struct Applications {
    records: BTreeMap<Application, Record>,
    /// Ranges of released shuffles in all records.
    ranges: usize,
}

impl Applications {
    /// An application starts; older instances of its name are fenced.
    pub(crate) fn register(
        &mut self,
        now: Duration,
        application: &Application,
    ) -> Result<RegisteredApplication, ApplicationError> {
        if let Some(record) = self.records.get_mut(application) {
            record.serve(application)?;
            record.renewed_at = now;
            return Ok(RegisteredApplication::Repeated);
        }
        self.make_room(&application.name)?;
        let mut fenced = Vec::new();
        for (older, record) in self.records.range_mut(instances_of(&application.name)) {
            match record.life {
                Life::Active => {
                    record.life = Life::Fenced { by: application.instance };
                    fenced.push(older.instance);
                }
                Life::Fenced { .. } | Life::Ended { .. } => {}
            }
        }
        self.records.insert(application.clone(), Record::new(Life::Active, Origin::Registered, now));
        Ok(RegisteredApplication::New { fenced })
    }

    /// Renews the lease; `released` is all that the instance has released so far, and replaces what was said before.
    pub(crate) fn renew(
        &mut self,
        now: Duration,
        application: &Application,
        released: RangeSet,
    ) -> Result<RenewedApplication, ApplicationError> {
        let renewed = self.admit(now, application)?;
        let record = self.records.get_mut(application).expect("an admitted application has a record");
        record.renewed_at = now;
        let ranges = self.ranges - record.released.runs().len() + released.runs().len();
        if ranges <= RELEASED_RANGES_TOTAL_MAX {
            self.ranges = ranges;
            record.released = released;
        }
        Ok(renewed)
    }

    /// Whether the application is served; one that was there before this master started is taken in, unless an instance
    /// of its name has registered with this master, for that one is newer.
    pub(crate) fn admit(
        &mut self,
        now: Duration,
        application: &Application,
    ) -> Result<RenewedApplication, ApplicationError> {
        if let Some(record) = self.records.get(application) {
            return record.serve(application).map(|()| RenewedApplication::Renewed);
        }
        let others = self.records.range(instances_of(&application.name));
        let registered = others.filter(|(_, record)| record.origin == Origin::Registered);
        if let Some((newer, _)) = registered.max_by_key(|(_, record)| record.renewed_at) {
            return Err(ApplicationError::Fenced { application: application.clone(), by: newer.instance });
        }
        self.make_room(&application.name)?;
        self.records.insert(application.clone(), Record::new(Life::Active, Origin::TakenIn, now));
        Ok(RenewedApplication::TakenIn)
    }

    /// Ends an application by its lifecycle manager's word; answers whether it was not over before. One that is not
    /// known is remembered as ended, so that workers are told; where there is no room for that, they are told once the
    /// master is one lease old.
    pub(crate) fn end(&mut self, now: Duration, application: &Application) -> bool {
        if let Some(record) = self.records.get_mut(application) {
            return match record.life {
                Life::Active | Life::Fenced { .. } => {
                    self.ranges -= record.end(now);
                    true
                }
                Life::Ended { .. } => false,
            };
        }
        if self.make_room(&application.name).is_ok() {
            let record = Record::new(Life::Ended { since: now }, Origin::TakenIn, now);
            self.records.insert(application.clone(), record);
        }
        true
    }

    /// Ends the applications whose lease is over and forgets those that ended long ago and that no worker has reported
    /// for as long. Answers with those that are newly ended.
    pub(crate) fn expire(&mut self, now: Duration, lease: Duration, keep_ended: Duration) -> Vec<Application> {
        let mut ended = Vec::new();
        for (application, record) in &mut self.records {
            match record.life {
                Life::Active | Life::Fenced { .. } if now.saturating_sub(record.renewed_at) >= lease => {
                    self.ranges -= record.end(now);
                    ended.push(application.clone());
                }
                Life::Active | Life::Fenced { .. } | Life::Ended { .. } => {}
            }
        }
        self.records.retain(|_, record| match record.life {
            Life::Active | Life::Fenced { .. } => true,
            Life::Ended { since } => now.saturating_sub(since.max(record.reported_at)) < keep_ended,
        });
        ended
    }

    /// What a worker that holds this is to delete: what is over or released, and once the master is one lease old also
    /// what no lifecycle manager has spoken for. Before that nothing at all.
    pub(crate) fn orders(&mut self, now: Duration, lease: Duration, held: Vec<Held>) -> Orders {
        let is_young = now < lease && !sabotage::is(Sabotage::YoungMasterDeletes);
        let mut orders = Orders::default();
        let mut ranges_left = ORDERED_RANGES_MAX;
        for Held { application, shuffles } in held {
            let verdict = self.judge(now, &application, &shuffles, ranges_left);
            if is_young || orders.ended.len() + orders.released.len() == ORDERED_APPLICATIONS_MAX {
                continue;
            }
            match verdict {
                Verdict::Over => orders.ended.push(application),
                Verdict::Released(shuffles) if shuffles.is_empty() => {}
                Verdict::Released(shuffles) => {
                    ranges_left -= shuffles.runs().len();
                    orders.released.push(Held { application, shuffles });
                }
            }
        }
        orders
    }

    /// Whether the application is known to be over.
    pub(crate) fn is_over(&self, application: &Application) -> bool {
        self.records.get(application).is_some_and(|record| matches!(record.life, Life::Ended { .. }))
    }

    /// How many there are.
    pub(crate) fn counts(&self) -> ApplicationCounts {
        let mut counts = ApplicationCounts::default();
        for record in self.records.values() {
            match record.life {
                Life::Active => counts.active += 1,
                Life::Fenced { .. } => counts.fenced += 1,
                Life::Ended { .. } => counts.ended += 1,
            }
        }
        counts
    }

    /// Notes that a worker holds this of an application, and says what of it is to be deleted.
    fn judge(&mut self, now: Duration, application: &Application, held: &RangeSet, ranges_left: usize) -> Verdict {
        let Some(record) = self.records.get_mut(application) else { return Verdict::Over };
        record.reported_at = now;
        match record.life {
            Life::Active | Life::Fenced { .. } => Verdict::Released(held.intersection(&record.released, ranges_left)),
            Life::Ended { .. } => Verdict::Over,
        }
    }

    /// Makes sure that one more instance of this name fits; of the ended ones in the way the one that ended first is
    /// forgotten for it. What workers still hold of that one is found to be nobody's.
    fn make_room(&mut self, name: &str) -> Result<(), ApplicationError> {
        let longest = if self.records.range(instances_of(name)).count() >= INSTANCES_MAX {
            let longest = longest_ended(self.records.range(instances_of(name)));
            longest.ok_or_else(|| ApplicationError::TooManyInstances { name: name.to_owned() })?
        } else if self.records.len() >= APPLICATIONS_MAX {
            longest_ended(self.records.iter()).ok_or(ApplicationError::TooManyApplications)?
        } else {
            return Ok(());
        };
        self.records.remove(&longest);
        Ok(())
    }
}

/// What is to be deleted of an application on a worker.
enum Verdict {
    /// Everything.
    Over,
    /// These shuffles; often none.
    Released(RangeSet),
}

impl Record {
    fn new(life: Life, origin: Origin, now: Duration) -> Self {
        Self { life, origin, renewed_at: now, reported_at: now, released: RangeSet::new() }
    }

    /// Whether calls are served.
    fn serve(&self, application: &Application) -> Result<(), ApplicationError> {
        match self.life {
            Life::Active => Ok(()),
            Life::Fenced { by } => Err(ApplicationError::Fenced { application: application.clone(), by }),
            Life::Ended { .. } => Err(ApplicationError::Ended { application: application.clone() }),
        }
    }

    /// Ends it; answers how many ranges of released shuffles need no longer be kept.
    fn end(&mut self, now: Duration) -> usize {
        self.life = Life::Ended { since: now };
        std::mem::take(&mut self.released).runs().len()
    }
}

/// All instances of a name.
fn instances_of(name: &str) -> RangeInclusive<Application> {
    let bound = |instance| Application { name: name.to_owned(), instance: Instance(instance) };
    bound(0)..=bound(u64::MAX)
}

/// The one that ended first.
fn longest_ended<'a>(records: impl Iterator<Item = (&'a Application, &'a Record)>) -> Option<Application> {
    let ended = records.filter_map(|(application, record)| match record.life {
        Life::Active | Life::Fenced { .. } => None,
        Life::Ended { since } => Some((since, application)),
    });
    ended.min().map(|(_, application)| application.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mallorn_proto::limits::PAGE_LOCATIONS_MAX;

    const LEASE: Duration = Duration::from_secs(60);
    const KEEP: Duration = Duration::from_secs(600);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn app(name: &str, instance: u64) -> Application {
        Application { name: name.to_owned(), instance: Instance(instance) }
    }

    fn shuffles(first: u32, end: u32) -> RangeSet {
        (first..end).collect()
    }

    fn orders(applications: &mut Applications, now: Duration, application: &Application) -> Orders {
        let held = Held { application: application.clone(), shuffles: shuffles(0, 10) };
        applications.orders(now, LEASE, vec![held])
    }

    fn ended(application: &Application) -> Orders {
        Orders { ended: vec![application.clone()], released: Vec::new() }
    }

    #[test]
    fn a_newer_instance_fences_the_older_and_its_data_stays_for_its_lease() {
        let mut applications = Applications::default();
        let (old, new) = (app("etl", 9), app("etl", 3));
        applications.register(at(100), &old).unwrap();
        let registered = applications.register(at(120), &new).unwrap();
        assert_eq!(registered, RegisteredApplication::New { fenced: vec![Instance(9)] });
        let fenced = ApplicationError::Fenced { application: old.clone(), by: Instance(3) };
        assert_eq!(applications.renew(at(130), &old, RangeSet::new()), Err(fenced.clone()));
        assert_eq!(applications.admit(at(130), &old), Err(fenced.clone()));
        assert_eq!(applications.register(at(130), &old), Err(fenced));
        assert_eq!(applications.expire(at(159), LEASE, KEEP), []);
        assert_eq!(orders(&mut applications, at(159), &old), Orders::default());
        assert_eq!(applications.expire(at(160), LEASE, KEEP), std::slice::from_ref(&old));
        assert_eq!(orders(&mut applications, at(160), &old), ended(&old));
        assert_eq!(
            applications.renew(at(161), &old, RangeSet::new()),
            Err(ApplicationError::Ended { application: old })
        );
        assert_eq!(applications.register(at(161), &new), Ok(RegisteredApplication::Repeated));
    }

    #[test]
    fn after_a_restart_a_renewal_is_taken_in_unless_a_newer_instance_registered() {
        let mut applications = Applications::default();
        let (old, new, other) = (app("etl", 1), app("etl", 2), app("etl", 3));
        assert_eq!(applications.renew(at(1), &old, shuffles(0, 1)), Ok(RenewedApplication::TakenIn));
        assert_eq!(applications.renew(at(2), &old, shuffles(0, 2)), Ok(RenewedApplication::Renewed));
        assert_eq!(applications.admit(at(3), &other), Ok(RenewedApplication::TakenIn), "neither is known to be newer");
        let registered = applications.register(at(4), &new).unwrap();
        assert_eq!(registered, RegisteredApplication::New { fenced: vec![Instance(1), Instance(3)] });
        let late = app("etl", 4);
        let fenced = ApplicationError::Fenced { application: late.clone(), by: Instance(2) };
        assert_eq!(applications.renew(at(5), &late, RangeSet::new()), Err(fenced));
        assert!(applications.end(at(6), &new));
        assert!(!applications.end(at(6), &new));
        assert!(applications.renew(at(7), &late, RangeSet::new()).is_err(), "a newer one was there, if over");
    }

    #[test]
    fn a_young_master_orders_no_deletion() {
        let mut applications = Applications::default();
        let (over, stranger) = (app("over", 1), app("stranger", 1));
        applications.end(at(1), &over);
        for application in [&over, &stranger] {
            assert_eq!(orders(&mut applications, at(59), application), Orders::default());
            assert_eq!(orders(&mut applications, at(60), application), ended(application));
        }
    }

    #[test]
    fn released_shuffles_are_deleted_while_a_worker_reports_them() {
        let mut applications = Applications::default();
        let application = app("etl", 1);
        applications.register(at(100), &application).unwrap();
        assert_eq!(orders(&mut applications, at(100), &application), Orders::default());
        applications.renew(at(101), &application, shuffles(8, 20)).unwrap();
        let released = Held { application: application.clone(), shuffles: shuffles(8, 10) };
        let expected = Orders { ended: Vec::new(), released: vec![released] };
        assert_eq!(orders(&mut applications, at(101), &application), expected);
        let rest = Held { application, shuffles: shuffles(0, 8) };
        assert_eq!(applications.orders(at(102), LEASE, vec![rest]), Orders::default());
    }

    #[test]
    fn an_ended_application_is_remembered_while_it_is_reported() {
        let mut applications = Applications::default();
        let application = app("etl", 1);
        applications.register(at(100), &application).unwrap();
        applications.end(at(110), &application);
        orders(&mut applications, at(500), &application);
        applications.expire(at(1099), LEASE, KEEP);
        assert_eq!(applications.counts().ended, 1);
        applications.expire(at(1100), LEASE, KEEP);
        assert_eq!(applications.counts(), ApplicationCounts::default());
    }

    #[test]
    fn orders_are_cut_and_the_rest_follows() {
        let mut applications = Applications::default();
        let count = u64::try_from(ORDERED_APPLICATIONS_MAX).unwrap() + 5;
        let held = |from| (from..count).map(|i| Held { application: app("x", i), shuffles: shuffles(0, 1) }).collect();
        let first = applications.orders(at(60), LEASE, held(0));
        assert_eq!(first.ended.len(), ORDERED_APPLICATIONS_MAX);
        let rest = applications.orders(at(61), LEASE, held(count - 5));
        assert_eq!(rest.ended.len(), 5);
    }

    #[test]
    fn released_ranges_are_bounded_in_all_and_a_lease_is_renewed_nevertheless() {
        let mut applications = Applications::default();
        let most: RangeSet = (0..).step_by(2).take(PAGE_LOCATIONS_MAX).collect();
        let count = RELEASED_RANGES_TOTAL_MAX / PAGE_LOCATIONS_MAX;
        for i in 0..=count {
            applications.renew(at(100), &app(&format!("etl-{i}"), 1), most.clone()).unwrap();
        }
        let last = app(&format!("etl-{count}"), 1);
        assert_eq!(orders(&mut applications, at(100), &last), Orders::default());
        applications.renew(at(159), &last, most.clone()).unwrap();
        assert_eq!(applications.expire(at(160), LEASE, KEEP).len(), count, "only the last was renewed");
        applications.renew(at(161), &last, most).unwrap();
        assert_eq!(orders(&mut applications, at(161), &last).released.len(), 1);
    }

    #[test]
    fn full_tables_forget_the_longest_ended_or_refuse() {
        let mut applications = Applications::default();
        let count = u64::try_from(INSTANCES_MAX).unwrap();
        for instance in 1..=count {
            applications.renew(at(1), &app("etl", instance), RangeSet::new()).unwrap();
        }
        let refused = applications.register(at(2), &app("etl", 0));
        assert_eq!(refused, Err(ApplicationError::TooManyInstances { name: "etl".to_owned() }));
        assert_eq!(applications.admit(at(2), &app("etl", 5)), Ok(RenewedApplication::Renewed), "nobody was fenced");
        applications.end(at(3), &app("etl", 7));
        applications.end(at(4), &app("etl", 8));
        applications.register(at(5), &app("etl", 0)).unwrap();
        assert_eq!(applications.counts(), ApplicationCounts { active: 1, fenced: INSTANCES_MAX - 2, ended: 1 });
        for i in 0..APPLICATIONS_MAX - INSTANCES_MAX {
            applications.register(at(6), &app(&format!("other-{i}"), 1)).unwrap();
        }
        applications.register(at(7), &app("one more", 1)).unwrap();
        assert_eq!(applications.counts().ended, 0);
        assert_eq!(applications.register(at(8), &app("too many", 1)), Err(ApplicationError::TooManyApplications));
    }
}
