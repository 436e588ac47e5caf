//! Rules that the processes do not keep, and that the simulation must notice: one test for each.

use mallorn_sabotage::Sabotage;

use crate::run::{self, Case, How};
use crate::scenario::Scenario;

/// Seeds within which each must be noticed.
const SEEDS: u64 = 80;

/// The first seed of a scenario at which it is noticed that a rule is not kept.
fn noticed(sabotage: Sabotage, scenario: Scenario) -> Option<u64> {
    let how = How { sabotage: Some(sabotage), ..How::default() };
    (1..=SEEDS).find(|seed| !run::run(Case::draw(scenario, *seed), how).wrong.is_empty())
}

macro_rules! each_is_noticed {
    ($($name:ident: $sabotage:ident in $scenario:ident,)+) => {
        $(
            #[test]
            fn $name() {
                assert!(noticed(Sabotage::$sabotage, Scenario::$scenario).is_some());
            }
        )+

        #[test]
        fn there_is_a_test_for_every_sabotage() {
            let tested = [$((Sabotage::$sabotage, stringify!($name))),+];
            for sabotage in Sabotage::ALL {
                let name = sabotage.name().replace('-', "_");
                assert!(tested.contains(&(sabotage, name.as_str())), "{sabotage}");
            }
        }
    };
}

each_is_noticed! {
    ack_before_append: AckBeforeAppend in Full,
    ack_before_the_replica: AckBeforeTheReplica in Copies,
    forget_the_replica: ForgetTheReplica in Copies,
    ack_after_the_freeze: AckAfterTheFreeze in Split,
    skip_the_fence: SkipTheFence in Power,
    count_based_in_flight: CountBasedInFlight in Split,
    statuses_merged_in_the_wrong_order: StatusesMergedInTheWrongOrder in Copies,
    silence_taken_for_an_ack: SilenceTakenForAnAck in Network,
    torn_location_served_after_restart: TornLocationServedAfterRestart in Power,
    duplicate_dropped_in_the_worker: DuplicateDroppedInTheWorker in Network,
    fsync_error_ignored: FsyncErrorIgnored in Power,
    kept_before_the_record: KeptBeforeTheRecord in Power,
    lease_counted_from_the_reply: LeaseCountedFromTheReply in Network,
    released_shuffle_answered_as_empty: ReleasedShuffleAnsweredAsEmpty in Crash,
    unknown_location_answered_as_empty: UnknownLocationAnsweredAsEmpty in Clocks,
    seal_shorter_than_acked: SealShorterThanAcked in Crash,
    seal_of_its_own_for_each_copy: SealOfItsOwnForEachCopy in Copies,
    last_attempt_wins: LastAttemptWins in Network,
    loser_delivered: LoserDelivered in Network,
    repeat_delivered: RepeatDelivered in Full,
    loss_taken_for_the_end: LossTakenForTheEnd in Tokens,
    checksum_not_looked_at: ChecksumNotLookedAt in Disk,
    hand_over_deleted_before_it_is_kept: HandOverDeletedBeforeItIsKept in Drain,
    young_master_deletes: YoungMasterDeletes in Crash,
    late_tick_not_extended: LateTickNotExtended in Clocks,
}
