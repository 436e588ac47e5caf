//! The simulated machines, and the real processes on them.
//!
//! Owns what each host runs and keeps over a crash: a worker's disk, an executor's queue. Does not own when hosts crash.

use std::cell::Cell;
use std::future::pending;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use mallorn_master::{MasterSettings, PlacementStrategy};
use mallorn_runtime::clock;
use mallorn_runtime::config::{ByteSize, Span};
use mallorn_runtime::disk::{Conditions, Disk, DiskFaults};
use mallorn_runtime::random::Random;
use mallorn_runtime::task::Shutdown;
use mallorn_worker::{StartError, Surroundings, WorkerConfig};
use prometheus::Registry;
use turmoil::Sim;

use crate::engine::{self, Queue, Spoil, World};
use crate::job;
use crate::setup::{CLUSTER, MASTER_PORT, Settings, derive};

const WORKER_CONTROL_PORT: u16 = 9101;
const WORKER_DATA_PORT: u16 = 9102;
/// Before a worker that did not start is started again.
const START_AGAIN: Duration = Duration::from_millis(500);

/// Puts all hosts into the simulation.
pub(crate) fn add_hosts(sim: &mut Sim<'_>, world: &World) {
    add_master(sim, world);
    for (number, name) in (0..).zip(world.settings.workers()) {
        add_worker(sim, world, &name, number);
    }
    let hosts = (0..).zip(world.settings.executors());
    let queues: Vec<_> = hosts.map(|(number, name)| add_executor(sim, world, &name, number)).collect();
    let (mappers, reducers) = queues.split_at(world.settings.mappers as usize);
    let (driver, of_maps, of_reads) = (world.clone(), mappers.to_vec(), reducers.to_vec());
    sim.host("driver", move || {
        let (world, mappers, reducers) = (driver.clone(), of_maps.clone(), of_reads.clone());
        async move {
            world.enter("driver");
            job::drive(world, mappers, reducers).await
        }
    });
    // The run is over when somebody who never dies has seen its end.
    sim.client("watcher", job::watch(world.clone(), queues));
}

fn add_master(sim: &mut Sim<'_>, world: &World) {
    let (world, settings) = (world.clone(), &world.settings);
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
        let (world, config) = (world.clone(), config.clone());
        async move {
            world.enter("master");
            let _running = mallorn_master::start(config, &Registry::new(), Shutdown::new()).await?;
            pending().await
        }
    });
}

fn add_worker(sim: &mut Sim<'_>, world: &World, name: &str, number: u32) {
    let disk = disks(world, name, number);
    let (world, lives) = (world.clone(), Rc::new(Cell::new(0)));
    let config = worker_config(&world.settings, name, number);
    let name = name.to_owned();
    sim.host(name.clone(), move || {
        let (config, disk, world, name) = (config.clone(), disk.clone(), world.clone(), name.clone());
        let life = next(&lives);
        async move {
            world.enter(&name);
            for tries in 0.. {
                let registry = Registry::new();
                let surroundings = Surroundings {
                    cluster: CLUSTER.to_owned(),
                    body_limit_bytes: world.settings.body_limit_bytes,
                    disk: disk.clone(),
                    random: Random::seeded(derive(world.seed, "worker", &[number, life, tries])),
                    registry: registry.clone(),
                };
                match mallorn_worker::start(config.clone(), surroundings).await {
                    Ok(running) => {
                        world.board.started(&name, registry).wait().await;
                        running.stop().await;
                        take_away(&world, &disk);
                        return Ok(());
                    }
                    Err(error) => does_not_start(&world, &name, &disk, &error),
                }
                clock::sleep(START_AGAIN).await;
            }
            Ok(())
        }
    });
}

fn worker_config(settings: &Settings, name: &str, number: u32) -> WorkerConfig {
    WorkerConfig {
        name: Some(name.to_owned()),
        master: format!("master:{MASTER_PORT}"),
        control_listen: any_address(WORKER_CONTROL_PORT),
        data_listen: any_address(WORKER_DATA_PORT),
        admin_listen: None,
        advertised_host: Some(name.to_owned()),
        data_folders: settings.disks.folders(),
        memory: Some(ByteSize::mib(settings.arenas_mib[number as usize])),
        disk_returns: settings.disk_returns,
        grace: Span::millis(settings.grace_ms),
        soft_split: ByteSize(settings.soft_split_bytes),
        hard_split: ByteSize(settings.hard_split_bytes),
        ..WorkerConfig::default()
    }
}

/// Disks that outlive the worker's processes.
fn disks(world: &World, name: &str, number: u32) -> Disk {
    let disk = Disk::simulated_with(Random::seeded(derive(world.seed, "disk", &[number])));
    let disks = world.settings.disks;
    let in_order = Conditions { lies: world.spoil == Some(Spoil::Lie), ..disks.in_order() };
    if let Some(faults) = disk.faults() {
        disks.folders().iter().for_each(|folder| faults.change(folder, |conditions| *conditions = in_order.clone()));
    }
    world.board.add_disks(name, disk.clone());
    disk
}

/// What becomes of the disks of a worker that has ended.
fn take_away(world: &World, disk: &Disk) {
    if world.settings.disk_returns {
        return;
    }
    for folder in world.settings.disks.folders() {
        if let Err(error) = disk.remove_dir_all(&folder) {
            world.oracle.violated(format_args!("take a disk away: {error}"));
        }
    }
}

/// A worker may refuse to start while something is wrong with its disks; whoever supervises it starts it again.
fn does_not_start(world: &World, name: &str, disk: &Disk, error: &StartError) {
    world.trace.say(format_args!("{name} does not start: {error}"));
    world.board.count("workers that did not start");
    let disks = world.settings.disks;
    let is_in_order = |faults: DiskFaults| {
        !faults.has_died() && disks.folders().iter().all(|folder| faults.conditions(folder) == disks.in_order())
    };
    if disk.faults().is_some_and(is_in_order) {
        world.oracle.violated(format_args!("{name} does not start, and its disks are in order: {error}"));
    }
}

fn add_executor(sim: &mut Sim<'_>, world: &World, name: &str, number: u32) -> Queue {
    let (world, lives, queue) = (world.clone(), Rc::new(Cell::new(0)), Queue::default());
    let (kept, host) = (queue.clone(), name.to_owned());
    sim.host(name, move || {
        let (world, queue, host, life) = (world.clone(), kept.clone(), host.clone(), next(&lives));
        async move {
            world.enter(&host);
            engine::run(world, queue, number, life).await
        }
    });
    queue
}

fn next(lives: &Cell<u32>) -> u32 {
    let life = lives.get();
    lives.set(life + 1);
    life
}

fn any_address(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))
}
