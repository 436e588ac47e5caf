//! The simulated machines, and the real processes on them.
//!
//! Owns what each host runs and keeps over a crash: a worker's disk, an executor's queue. Does not own when hosts crash.

use std::cell::Cell;
use std::future::pending;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;

use mallorn_master::{MasterSettings, PlacementStrategy};
use mallorn_runtime::config::{ByteSize, Span};
use mallorn_runtime::disk::Disk;
use mallorn_runtime::random::Random;
use mallorn_runtime::task::Shutdown;
use mallorn_worker::{Surroundings, WorkerConfig};
use prometheus::Registry;
use turmoil::Sim;

use crate::engine::{self, Queue, World};
use crate::job;
use crate::setup::{CLUSTER, MASTER_PORT, Settings, derive};

const WORKER_CONTROL_PORT: u16 = 9101;
const WORKER_DATA_PORT: u16 = 9102;

/// Puts all hosts into the simulation.
pub(crate) fn add_hosts(sim: &mut Sim<'_>, world: &World) {
    add_master(sim, &world.settings);
    for number in 0..world.settings.arenas_mib.len() {
        add_worker(sim, world, number);
    }
    let executors = |role: &str, count: u32, first: u32| -> Vec<(String, u32, Queue)> {
        (0..count).map(|n| (format!("{role}-{n}"), first + n, Queue::default())).collect()
    };
    let mappers = executors("mapper", world.settings.mappers, 0);
    let reducers = executors("reducer", world.settings.reducers, world.settings.mappers);
    for (name, number, queue) in mappers.iter().chain(&reducers) {
        add_executor(sim, world, name, (*number, queue.clone()));
    }
    let queues = |executors: Vec<(String, u32, Queue)>| executors.into_iter().map(|(_, _, queue)| queue).collect();
    sim.client("driver", job::drive(world.clone(), queues(mappers), queues(reducers)));
}

fn add_master(sim: &mut Sim<'_>, settings: &Settings) {
    let placement = if settings.round_robin { PlacementStrategy::RoundRobin } else { PlacementStrategy::LoadAware };
    let config = mallorn_master::Config {
        cluster: CLUSTER.to_owned(),
        body_limit_bytes: settings.body_limit_bytes,
        master: MasterSettings {
            listen: any_address(MASTER_PORT),
            admin: None,
            worker_lease: Span::millis(settings.worker_lease_ms),
            application_lease: Span::millis(settings.application_lease_ms),
            placement,
        },
    };
    sim.host("master", move || {
        let config = config.clone();
        async move {
            let _running = mallorn_master::start(config, &Registry::new(), Shutdown::new()).await?;
            pending().await
        }
    });
}

fn add_worker(sim: &mut Sim<'_>, world: &World, number: usize) {
    let name = format!("worker-{number}");
    let (disk, lives) = (Disk::simulated(), Rc::new(Cell::new(0)));
    let (seed, board) = (world.seed, world.board.clone());
    let config = WorkerConfig {
        name: Some(name.clone()),
        master: format!("master:{MASTER_PORT}"),
        control_listen: any_address(WORKER_CONTROL_PORT),
        data_listen: any_address(WORKER_DATA_PORT),
        admin_listen: None,
        advertised_host: Some(name.clone()),
        data_folders: vec![PathBuf::from("/data")],
        memory: ByteSize::mib(world.settings.arenas_mib[number]),
        ..WorkerConfig::default()
    };
    let body_limit_bytes = world.settings.body_limit_bytes;
    sim.host(name.clone(), move || {
        let (config, disk, board, name) = (config.clone(), disk.clone(), board.clone(), name.clone());
        let life = next(&lives);
        async move {
            let registry = Registry::new();
            let surroundings = Surroundings {
                cluster: CLUSTER.to_owned(),
                body_limit_bytes,
                disk,
                random: Random::seeded(derive(seed, "worker", &[number as u32, life])),
                registry: registry.clone(),
            };
            let _running = mallorn_worker::start(config, surroundings).await?;
            board.registered(&name, registry);
            pending().await
        }
    });
}

fn add_executor(sim: &mut Sim<'_>, world: &World, name: &str, (number, queue): (u32, Queue)) {
    let (world, lives) = (world.clone(), Rc::new(Cell::new(0)));
    sim.host(name, move || engine::run(world.clone(), queue.clone(), number, next(&lives)));
}

fn next(lives: &Cell<u32>) -> u32 {
    let life = lives.get();
    lives.set(life + 1);
    life
}

fn any_address(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))
}
