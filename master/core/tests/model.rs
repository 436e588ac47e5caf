//! The master against a model: random calls, with time that is injected, ticks that come late and restarts.
//!
//! The model is written the other way round. It keeps the moment at which each lease ends in real time and moves all of
//! them when a tick was late, where the master keeps a clock that stands still; it keeps sets where the master keeps
//! ranges; and it looks at every instance where the master looks one up.

#[path = "model/rules.rs"]
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mallorn_master_core::{
    Address, Heartbeat, HeartbeatAnswer, Held, Master, Memory, Orders, PlaceRequest, Registration, Report, Settings,
    Strategy, WorkerState,
};
use mallorn_proto::id::{Application, Incarnation, Instance, WorkerId};
use proptest::prelude::{Just, ProptestConfig, any, prop, prop_oneof, proptest};
use proptest::strategy::Strategy as _;
use proptest::test_runner::RngSeed;

use rules::{APPLICATION_LEASE, Model, ROOM_BYTES, Standing, TICK, WORKER_LEASE};

/// One event.
#[derive(Clone, Debug)]
enum Event {
    /// Time passes without a tick.
    Wait {
        millis: u64,
    },
    /// Time passes with a tick whenever one is due.
    Run {
        ticks: u32,
    },
    /// Time passes in which the master does not run, then it ticks.
    Stall {
        millis: u64,
    },
    /// The master starts again and has forgotten everything.
    Restart,
    RegisterWorker {
        worker: u8,
        name: u8,
        drawn: Drawn,
        report: Reported,
    },
    Heartbeat {
        worker: u8,
        drawn: Drawn,
        report: Reported,
        held: Vec<(u8, BTreeSet<u32>)>,
    },
    RegisterApplication {
        application: u8,
    },
    Renew {
        application: u8,
        released: BTreeSet<u32>,
    },
    End {
        application: u8,
    },
    Place {
        application: u8,
        locations: u32,
        two_copies: bool,
        exclude: BTreeSet<u8>,
    },
}

/// Which of its incarnations a worker names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drawn {
    /// One that it draws now.
    Fresh,
    /// The one that it drew last.
    Present,
    /// The one before: a call that was long under way.
    Before,
}

#[derive(Clone, Copy, Debug)]
struct Reported {
    draining: bool,
    free_bytes: u64,
}

const WORKERS: u8 = 5;
const APPLICATIONS: u8 = 6;

fn event() -> impl proptest::strategy::Strategy<Value = Event> {
    let worker = 0..WORKERS;
    let application = 0..APPLICATIONS;
    let report = || {
        let free = prop_oneof![1 => 0..ROOM_BYTES, 4 => ROOM_BYTES..100 * ROOM_BYTES];
        (prop::bool::weighted(0.15), free).prop_map(|(draining, free_bytes)| Reported { draining, free_bytes })
    };
    let drawn = |fresh| prop_oneof![fresh => Just(Drawn::Fresh), 8 => Just(Drawn::Present), 2 => Just(Drawn::Before)];
    let shuffles = || prop::collection::btree_set(0u32..12, 0..8);
    let held = prop::collection::vec((application.clone(), shuffles()), 0..4);
    prop_oneof![
        4 => (0u64..900).prop_map(|millis| Event::Wait { millis }),
        8 => prop_oneof![9 => 1u32..12, 1 => 100u32..200].prop_map(|ticks| Event::Run { ticks }),
        2 => (0u64..40_000).prop_map(|millis| Event::Stall { millis }),
        1 => Just(Event::Restart),
        6 => (worker.clone(), 0..WORKERS, drawn(6), report())
            .prop_map(|(worker, name, drawn, report)| Event::RegisterWorker { worker, name, drawn, report }),
        9 => (worker, drawn(1), report(), held)
            .prop_map(|(worker, drawn, report, held)| Event::Heartbeat { worker, drawn, report, held }),
        3 => application.clone().prop_map(|application| Event::RegisterApplication { application }),
        5 => (application.clone(), shuffles())
            .prop_map(|(application, released)| Event::Renew { application, released }),
        1 => application.clone().prop_map(|application| Event::End { application }),
        6 => (application, 1u32..30, any::<bool>(), prop::collection::btree_set(0..WORKERS, 0..3)).prop_map(
            |(application, locations, two_copies, exclude)| {
                Event::Place { application, locations, two_copies, exclude }
            }
        ),
    ]
}

/// A master and the model of it, driven together.
struct Pair {
    settings: Settings,
    master: Master,
    model: Model,
    now: Duration,
    /// The incarnation that each worker's process has, and the one before; whatever the master thinks of them.
    incarnations: BTreeMap<u8, (u64, u64)>,
    drawn: u64,
}

impl Pair {
    fn new(strategy: Strategy) -> Self {
        let settings = Settings {
            worker_lease: WORKER_LEASE,
            application_lease: APPLICATION_LEASE,
            tick: TICK,
            strategy,
            room_bytes: ROOM_BYTES,
        };
        let now = Duration::from_secs(1000);
        let (master, model) = (Master::new(settings, now), Model::new(now));
        Self { settings, master, model, now, incarnations: BTreeMap::new(), drawn: 0 }
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Wait { millis } => self.now += Duration::from_millis(millis),
            Event::Run { ticks } => (0..ticks).for_each(|_| self.tick_in(TICK)),
            Event::Stall { millis } => self.tick_in(Duration::from_millis(millis)),
            Event::Restart => {
                self.master = Master::new(self.settings, self.now);
                self.model = Model::new(self.now);
            }
            Event::RegisterWorker { worker, name, drawn, report } => self.register_worker(worker, name, drawn, report),
            Event::Heartbeat { worker, drawn, report, held } => self.heartbeat(worker, drawn, report, &held),
            Event::RegisterApplication { application } => {
                let got = self.master.register_application(self.now, &app(application));
                assert_eq!(got.is_ok(), self.model.register_application(self.now, &app(application)));
            }
            Event::Renew { application, released } => {
                let got =
                    self.master.renew_application(self.now, &app(application), released.iter().copied().collect());
                assert_eq!(got.is_ok(), self.model.renew(self.now, &app(application), released));
            }
            Event::End { application } => {
                let got = self.master.end_application(self.now, &app(application));
                assert_eq!(got, self.model.end(self.now, &app(application)));
            }
            Event::Place { application, locations, two_copies, exclude } => {
                self.place(application, locations, two_copies, &exclude);
            }
        }
        self.compare();
    }

    fn tick_in(&mut self, wait: Duration) {
        self.now += wait;
        let expired = self.master.tick(self.now);
        let (workers, applications) = self.model.tick(self.now);
        assert_eq!(expired.workers, workers.into_iter().map(id).collect::<Vec<_>>());
        assert_eq!(expired.applications, applications);
    }

    fn incarnation(&mut self, worker: u8, drawn: Drawn) -> u64 {
        let (mut present, mut before) = self.incarnations.get(&worker).copied().unwrap_or_default();
        if drawn == Drawn::Fresh || present == 0 {
            self.drawn += 1;
            (present, before) = (self.drawn, present);
            self.incarnations.insert(worker, (present, before));
        }
        if drawn == Drawn::Before && before != 0 { before } else { present }
    }

    fn register_worker(&mut self, worker: u8, name: u8, drawn: Drawn, report: Reported) {
        let incarnation = self.incarnation(worker, drawn);
        let (control, data) = ("host:1".to_owned(), "host:2".to_owned());
        let address = Address { name: name_of(name), control, data, rack: String::new() };
        let registration =
            Registration { worker: id(worker), incarnation: Incarnation(incarnation), address, report: full(report) };
        let got = self.master.register_worker(self.now, registration);
        let wanted = self.model.register_worker(self.now, worker, incarnation, name);
        assert_eq!(got.is_ok(), wanted, "{got:?}");
        if wanted {
            self.model.report(worker, report.draining, report.free_bytes);
        }
    }

    fn heartbeat(&mut self, worker: u8, drawn: Drawn, report: Reported, held: &[(u8, BTreeSet<u32>)]) {
        let incarnation = self.incarnation(worker, drawn);
        let reported = held.iter().map(|(application, shuffles)| Held {
            application: app(*application),
            shuffles: shuffles.iter().copied().collect(),
        });
        let heartbeat = Heartbeat {
            worker: id(worker),
            incarnation: Incarnation(incarnation),
            report: full(report),
            held: reported.collect(),
            taken_over: Vec::new(),
        };
        let answer = self.master.heartbeat(self.now, heartbeat);
        let is_believed = self.model.heartbeat(self.now, worker, incarnation);
        let HeartbeatAnswer::Renewed { orders, .. } = answer else {
            assert!(!is_believed);
            return;
        };
        assert!(is_believed);
        self.model.report(worker, report.draining, report.free_bytes);
        let mut wanted = Orders::default();
        for (application, shuffles) in held {
            match self.model.delete(self.now, &app(*application), shuffles) {
                None => wanted.ended.push(app(*application)),
                Some(shuffles) if shuffles.is_empty() => {}
                Some(shuffles) => {
                    wanted
                        .released
                        .push(Held { application: app(*application), shuffles: shuffles.into_iter().collect() });
                }
            }
        }
        assert_eq!(orders, wanted);
    }

    fn place(&mut self, application: u8, locations: u32, two_copies: bool, exclude: &BTreeSet<u8>) {
        let request = PlaceRequest {
            application: app(application),
            locations,
            two_copies,
            on_disk: false,
            exclude: exclude.iter().map(|worker| id(*worker)).collect(),
        };
        let got = self.master.place(self.now, &request);
        assert_eq!(got.is_ok(), self.model.admit(self.now, &app(application)));
        let Ok(placement) = got else { return };
        let usable: BTreeSet<WorkerId> = self.model.usable(exclude).into_iter().map(id).collect();
        assert_eq!(placement.candidates as usize, usable.len());
        let picked: BTreeSet<WorkerId> = placement.workers.iter().copied().collect();
        assert!(picked.is_subset(&usable), "lost, draining, full and excluded workers get nothing");
        assert_eq!(picked.len(), placement.workers.len(), "each worker is named once");
        let is_placed = usable.len() > usize::from(two_copies);
        let expected = if is_placed { locations as usize } else { 0 };
        assert_eq!((placement.picks.len(), placement.replicas.len()), (expected, expected * usize::from(two_copies)));
        let spread = usable.len().min(locations as usize);
        assert!(!is_placed || picked.len() >= spread, "a request is spread over all that are usable");
        assert!(two_copies || picked.len() == spread);
        assert!(placement.picks.iter().zip(&placement.replicas).all(|(primary, replica)| primary != replica));
        let named: BTreeSet<usize> =
            placement.picks.iter().chain(&placement.replicas).map(|pick| *pick as usize).collect();
        assert_eq!(named, (0..placement.workers.len()).collect());
    }

    fn compare(&self) {
        for worker in 0..WORKERS {
            let got = self.master.worker(id(worker)).map(|known| {
                let standing = match known.state {
                    WorkerState::Live => Standing::Live,
                    WorkerState::Draining => Standing::Draining,
                    WorkerState::Lost { .. } => Standing::Lost,
                };
                (standing, known.incarnation.0, self.master.lost_for(self.now, known))
            });
            assert_eq!(got, self.model.worker(self.now, worker), "worker {worker}");
        }
        let counts = self.master.census().applications;
        assert_eq!((counts.active, counts.fenced, counts.ended), self.model.counts());
    }
}

fn id(worker: u8) -> WorkerId {
    WorkerId(u128::from(worker) + 1)
}

fn name_of(name: u8) -> String {
    format!("worker-{name}")
}

/// Two names, three instances of each.
fn app(application: u8) -> Application {
    Application { name: format!("application-{}", application % 2), instance: Instance(u64::from(application / 2) + 1) }
}

fn full(report: Reported) -> Report {
    let memory = Memory { arena_bytes: 1 << 30, held_bytes: 0, push_free_bytes: report.free_bytes };
    Report { memory, disks: Vec::new(), draining: report.draining }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 800,
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_master_does_what_the_model_does(
        is_load_aware in any::<bool>(),
        events in prop::collection::vec(event(), 1..150),
    ) {
        let mut pair = Pair::new(if is_load_aware { Strategy::LoadAware } else { Strategy::RoundRobin });
        for event in events {
            pair.apply(event);
        }
        // The first of these ticks may be late, and a lease may start half-way between two.
        let ticks = (APPLICATION_LEASE + TICK * 2).div_duration_f64(TICK) as u32;
        pair.apply(Event::Run { ticks });
        let census = pair.master.census();
        assert_eq!((census.live, census.draining), (0, 0), "whoever is silent is lost in the end");
        assert_eq!((census.applications.active, census.applications.fenced), (0, 0), "and ended");
    }
}
