//! What a run's faults may not cost.
//!
//! Owns which runs must come without any loss: what two copies, or the durability asked for, promise. Does not own how it
//! is seen that something was lost.

use mallorn_client::Durability;

use crate::faults::{Fault, Kind, Phase, Trouble};
use crate::setup::{JobKind, Setup};

/// Beside the time that a worker is away, to find out that it is back.
const FOUND_WITHIN_MS: u64 = 2000;

/// A grace in which everything can be handed over.
const HAND_OVER_GRACE_MS: u64 = 4000;

/// Whether a worker that drains is back with its disks in time, or has the time to hand over what it holds to others.
fn is_waited_for_drain(setup: &Setup, kind: &Kind) -> bool {
    let settings = &setup.settings;
    let Kind::Drain { back_after_ms, .. } = kind else { return false };
    let has_disks = settings.disks.count > 0;
    let drains = setup.schedule.faults.len();
    has_disks
        && if settings.disk_returns {
            back_after_ms + FOUND_WITHIN_MS <= settings.wait_for_return_ms
        } else {
            // Others must be there to take it, and not be about to leave themselves.
            drains == 1 && settings.grace_ms >= HAND_OVER_GRACE_MS
        }
}

/// Why nothing may be lost in this run, if it may not.
pub(crate) fn nothing_lost(setup: &Setup) -> Option<&'static str> {
    let faults = &setup.schedule.faults;
    // What was acked may find its disk filled by others when it is committed.
    let has_room = setup.settings.disks.capacity_mib.is_none();
    let costs_nothing = |kind: &Kind| match kind {
        Kind::Jump { .. } => true,
        Kind::Crash { host, .. } => host == "master",
        _ => false,
    };
    if has_room && setup.schedule.loss_ppm == 0 && faults.iter().all(|fault| costs_nothing(&fault.kind)) {
        return Some("only the master was away, or clocks jumped");
    }
    if !has_room || setup.schedule.loss_ppm > 0 || faults.iter().any(|fault| fault.kind.worker().is_none()) {
        return None;
    }
    if faults.is_empty() {
        return Some("nothing went wrong");
    }
    if faults.iter().all(|fault| is_waited_for_drain(setup, &fault.kind)) {
        return Some("workers were told to end, in time to save what they held");
    }
    let first = faults.first()?;
    let is_one_worker = faults.iter().all(|fault| fault.kind.worker() == first.kind.worker());
    if is_one_worker && setup.job.shuffles.iter().all(|kept| kept.copies == 2) {
        return Some("every location has two copies, and only one worker had trouble");
    }
    let [fault] = faults.as_slice() else { return None };
    comes_back(setup, fault).map(|durability| match durability {
        Durability::Synced => "what is committed is synced, and the worker came back",
        Durability::Memory | Durability::Written => "what is committed is written, and the worker came back",
    })
}

/// Why nothing may be lost in this run that a stage's end did not say is lost: disks may not have synced what was asked,
/// but then nobody says that they have.
pub(crate) fn nothing_lost_after_commit(setup: &Setup) -> Option<&'static str> {
    let is_unsynced = |fault: &&Fault| matches!(fault.kind, Kind::Disk { trouble: Trouble::FailsSyncs, .. });
    let mut others = setup.schedule.faults.iter().filter(|fault| !is_unsynced(fault));
    let (fault, no_more) = (others.next()?, others.next());
    let has_room = setup.settings.disks.capacity_mib.is_none() && setup.schedule.loss_ppm == 0;
    let comes_back = no_more.is_none() && has_room && comes_back(setup, fault).is_some();
    comes_back.then_some("its stage's end had said that it is all there")
}

/// What is kept of a run with one shuffle if this fault strikes after its commit: a crash that it survives, or a loss of
/// power, with the worker back before it is given up.
fn comes_back(setup: &Setup, fault: &Fault) -> Option<Durability> {
    // Other shuffles are in phases of their own.
    let [kept] = setup.job.shuffles.as_slice() else { return None };
    let is_committed = matches!(fault.at.phase, Phase::Committed | Phase::Read)
        && fault.at.round == 0
        && setup.job.kind == JobKind::Winners;
    let settings = &setup.settings;
    let is_waited_for =
        |away_ms: u64| away_ms + FOUND_WITHIN_MS <= settings.wait_for_return_ms + settings.worker_lease_ms;
    let survives = match &fault.kind {
        Kind::Power { back_after_ms, .. } if is_waited_for(*back_after_ms) => kept.durability == Durability::Synced,
        Kind::Crash { host, back_after_ms, .. } if host.starts_with("worker") && is_waited_for(*back_after_ms) => {
            kept.durability != Durability::Memory
        }
        _ => false,
    };
    (is_committed && survives).then_some(kept.durability)
}
