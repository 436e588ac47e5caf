use std::cell::RefCell;
use std::pin::{Pin, pin};
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};

use super::*;
use crate::task;

fn lane(disk: &Disk, threads: usize, waiting_max: usize) -> Lane {
    Lane::new(disk, PathBuf::from("/data"), "disk-0", threads, waiting_max).unwrap()
}

fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// What every lane does.
async fn conforms(disk: &Disk) {
    let order = Arc::new(Mutex::new(Vec::new()));
    let one = lane(disk, 1, 3);
    let jobs: Vec<_> = (0..50)
        .map(|number| {
            let (one, order) = (one.clone(), order.clone());
            task::spawn(async move { one.run(move || order.lock().push(number)).await })
        })
        .collect();
    for job in jobs {
        job.await.unwrap().unwrap();
    }
    assert_eq!(*order.lock(), (0..50).collect::<Vec<_>>());

    assert_eq!(one.run(|| -> u32 { panic!("on purpose") }).await, Err(LaneError::Panicked));
    assert_eq!(one.run(|| "goes on").await, Ok("goes on"));
}

#[tokio::test]
async fn jobs_of_a_real_disk_run_in_order_and_a_panic_ends_none_but_its_own() {
    conforms(&Disk::real()).await;
}

#[tokio::test]
async fn a_job_that_is_queued_runs_whether_or_not_somebody_waits_and_the_queue_is_bounded() {
    let one = lane(&Disk::real(), 1, 2);
    let (begun, has_begun) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let mut blocking = pin!(one.run(move || {
        begun.send(()).unwrap();
        released.recv().unwrap();
    }));
    assert!(poll(blocking.as_mut()).is_pending());
    has_begun.recv().unwrap();

    let ran = Arc::new(Mutex::new(Vec::new()));
    for number in 0..3 {
        let ran = ran.clone();
        // The third finds no place, and is given up.
        assert!(poll(pin!(one.run(move || ran.lock().push(number)))).is_pending());
    }
    release.send(()).unwrap();
    blocking.await.unwrap();
    one.run(|| ()).await.unwrap();
    assert_eq!(*ran.lock(), [0, 1]);
}

#[tokio::test]
async fn threads_work_side_by_side_under_their_names_and_end_with_the_last_handle() {
    thread_local! {
        static HELD: RefCell<Option<mpsc::Sender<()>>> = const { RefCell::new(None) };
    }
    let two = lane(&Disk::real(), 2, 1);
    let (alive, ended) = mpsc::channel::<()>();
    let barrier = Arc::new(std::sync::Barrier::new(2));
    // Each waits for the other.
    let job = |alive: mpsc::Sender<()>| {
        let barrier = barrier.clone();
        move || {
            HELD.set(Some(alive));
            barrier.wait();
            thread::current().name().map(str::to_owned)
        }
    };
    let (one, other) = (two.clone(), two.clone());
    let (first, second) = tokio::join!(one.run(job(alive.clone())), other.run(job(alive)));
    let mut names = [first.unwrap().unwrap(), second.unwrap().unwrap()];
    names.sort();
    assert_eq!(names, ["disk-0-0", "disk-0-1"]);
    drop((two, one));
    assert_eq!(other.run(|| 1).await, Ok(1));
    drop(other);
    assert!(ended.recv().is_err(), "both threads have dropped what they held");
}

#[cfg(feature = "sim")]
mod simulated {
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::clock;
    use crate::disk::Latency;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn jobs_of_a_simulated_disk_run_in_order_and_a_panic_ends_none_but_its_own() {
        conforms(&Disk::simulated()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_takes_its_time_and_threads_share_the_work() {
        let disk = Disk::simulated();
        let faults = disk.faults().unwrap();
        let took = async |lane: Lane| {
            let start = clock::now();
            let jobs: Vec<_> = (0..4)
                .map(|_| {
                    task::spawn({
                        let lane = lane.clone();
                        async move { lane.run(|| ()).await }
                    })
                })
                .collect();
            for job in jobs {
                job.await.unwrap().unwrap();
            }
            clock::now() - start
        };
        assert_eq!(took(lane(&disk, 1, 1)).await, Duration::ZERO);
        faults.change(Path::new("/data"), |disk| disk.latency = Latency { min: SECOND, max: SECOND });
        assert_eq!(took(lane(&disk, 1, 1)).await, 4 * SECOND);
        assert_eq!(took(lane(&disk, 2, 4)).await, 2 * SECOND);
        faults.change(Path::new("/data"), |disk| disk.latency.max = 3 * SECOND);
        let (one, other) = (took(lane(&disk, 1, 1)).await, took(lane(&disk, 1, 1)).await);
        assert!([one, other].iter().all(|took| (4 * SECOND..12 * SECOND).contains(took)) && one != other);
    }

    #[tokio::test(start_paused = true)]
    async fn what_hangs_goes_on_when_the_disk_does_and_other_folders_never_waited() {
        let disk = Disk::simulated();
        let faults = disk.faults().unwrap();
        let one = lane(&disk, 1, 2);
        let other = Lane::new(&disk, PathBuf::from("/other"), "disk-1", 1, 1).unwrap();
        faults.change(Path::new("/data"), |disk| disk.hung = true);
        let ran = Arc::new(Mutex::new(Vec::new()));
        let job = |number| {
            let (one, ran) = (one.clone(), ran.clone());
            async move { one.run(move || ran.lock().push(number)).await }
        };
        assert!(clock::timeout(SECOND, job(0)).await.is_err());
        let waiting: Vec<_> = (1..4).map(|number| task::spawn(job(number))).collect();
        assert_eq!(clock::timeout(SECOND, other.run(|| 1)).await, Ok(Ok(1)));
        // The first is on the thread, two have a place in the queue.
        assert!(clock::timeout(SECOND, job(4)).await.is_err());
        assert!(ran.lock().is_empty());
        faults.change(Path::new("/data"), |disk| disk.hung = false);
        for job in waiting {
            job.await.unwrap().unwrap();
        }
        assert_eq!(*ran.lock(), [0, 1, 2, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_thread_that_is_busy_does_not_hang_and_one_that_stays_at_a_job_does() {
        let disk = Disk::simulated();
        let faults = disk.faults().unwrap();
        let one = lane(&disk, 1, 2);
        faults.change(Path::new("/data"), |disk| disk.latency = Latency { min: 6 * SECOND, max: 6 * SECOND });
        let (start, limit) = (clock::now(), 10 * SECOND);
        let within = || {
            let one = one.clone();
            task::spawn(async move { one.run_within(limit, || clock::now()).await })
        };
        let jobs: Vec<_> = (0..5).map(|_| within()).collect();
        for (job, number) in jobs.into_iter().zip(1..) {
            assert_eq!(job.await.unwrap(), Ok(start + number * 6 * SECOND));
        }
        faults.change(Path::new("/data"), |disk| disk.hung = true);
        // Whoever asked first is gone: the next one sees it all the same.
        assert!(clock::timeout(SECOND, one.run(|| ())).await.is_err());
        let asked = clock::now();
        assert_eq!(within().await.unwrap(), Err(LaneError::Hangs));
        assert_eq!(clock::since(asked), limit);
    }

    #[test]
    fn a_lane_ends_with_its_process() {
        let disk = Disk::simulated();
        let runtime = || tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert!(Lane::new(&disk, PathBuf::from("/data"), "disk-0", 1, 1).is_err());
        let process = runtime();
        let one = process.block_on(async { lane(&disk, 1, 1) });
        drop(process);
        assert_eq!(runtime().block_on(one.run(|| ())), Err(LaneError::Closed));
    }
}
