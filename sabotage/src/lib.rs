//! What can be broken in Mallorn on purpose: each sabotage takes one rule away, so that a test which is there to notice
//! that can be seen to notice it.
//!
//! Owns the list, and which one is chosen. Does not own what breaks: the code asks [`is`] at the place of the rule. In
//! every build but the simulation's the answer is the constant `false`, and neither the places nor the names are in the
//! binary. docs/correctness.md has the table of rules and tests.

#![forbid(unsafe_code)]

/// One rule that is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sabotage {
    /// A worker acks a batch whether or not it could append it.
    AckBeforeAppend,
    /// A primary acks a batch when it has forwarded it, not when its replica has it.
    AckBeforeTheReplica,
    /// A primary forwards nothing, and acks.
    ForgetTheReplica,
    /// A worker goes on acking batches of a location that was frozen.
    AckAfterTheFreeze,
    /// An attempt that was declared dead goes on as if nothing had been said.
    SkipTheFence,
    /// A client counts the batches that a worker took, and forgets the first so many that it pushed.
    CountBasedInFlight,
    /// Of what two copies answer for a batch the better status counts, not the worse one.
    StatusesMergedInTheWrongOrder,
    /// A client takes a push that it got no answer to for taken.
    SilenceTakenForAnAck,
    /// A restarted worker takes its records' word for what was written.
    TornLocationServedAfterRestart,
    /// A worker drops batches of an attempt that it takes for a repeat of the first one.
    DuplicateDroppedInTheWorker,
    /// A disk whose sync failed counts as synced.
    FsyncErrorIgnored,
    /// A location counts as kept before its record is written.
    KeptBeforeTheRecord,
    /// A client counts an attempt's lease from the answer to its renewal, however long that took.
    LeaseCountedFromTheReply,
    /// A read of a released shuffle ends at once, with nothing.
    ReleasedShuffleAnsweredAsEmpty,
    /// A worker answers for a location that it does not have as for an empty one.
    UnknownLocationAnsweredAsEmpty,
    /// A worker answers a freeze with less than it has acked.
    SealShorterThanAcked,
    /// Each copy of a location is told a seal id of its own.
    SealOfItsOwnForEachCopy,
    /// Every attempt that ends is its map's winner.
    LastAttemptWins,
    /// A reader delivers batches of attempts that lost.
    LoserDelivered,
    /// A reader delivers a batch as often as it gets it.
    RepeatDelivered,
    /// What is lost of a partition is left out of its plan, and its end is said all the same.
    LossTakenForTheEnd,
    /// A reader does not look at checksums.
    ChecksumNotLookedAt,
    /// A worker that leaves deletes what it has sent, whether or not the other one keeps it.
    HandOverDeletedBeforeItIsKept,
    /// A master that was started just now has everything deleted that nobody has spoken for yet.
    YoungMasterDeletes,
    /// A master whose own tick was late ends the leases that could not be renewed meanwhile.
    LateTickNotExtended,
}

/// Whether this rule is not kept in this process. Only the simulation can say so.
#[cfg(not(feature = "sim"))]
#[must_use]
#[inline(always)]
pub const fn is(_: Sabotage) -> bool {
    false
}

#[cfg(feature = "sim")]
pub use chosen::{choose, is};

#[cfg(feature = "sim")]
mod chosen {
    use std::cell::Cell;

    use super::Sabotage;

    thread_local! {
        /// Of the simulation that runs on this thread: all of its processes do.
        static CHOSEN: Cell<Option<Sabotage>> = const { Cell::new(None) };
    }

    /// Chooses what is not kept from here on, on this thread.
    pub fn choose(sabotage: Option<Sabotage>) {
        CHOSEN.set(sabotage);
    }

    /// Whether this rule is not kept.
    #[must_use]
    pub fn is(sabotage: Sabotage) -> bool {
        CHOSEN.get() == Some(sabotage)
    }

    impl Sabotage {
        /// All of them.
        pub const ALL: [Self; 25] = [
            Self::AckBeforeAppend,
            Self::AckBeforeTheReplica,
            Self::ForgetTheReplica,
            Self::AckAfterTheFreeze,
            Self::SkipTheFence,
            Self::CountBasedInFlight,
            Self::StatusesMergedInTheWrongOrder,
            Self::SilenceTakenForAnAck,
            Self::TornLocationServedAfterRestart,
            Self::DuplicateDroppedInTheWorker,
            Self::FsyncErrorIgnored,
            Self::KeptBeforeTheRecord,
            Self::LeaseCountedFromTheReply,
            Self::ReleasedShuffleAnsweredAsEmpty,
            Self::UnknownLocationAnsweredAsEmpty,
            Self::SealShorterThanAcked,
            Self::SealOfItsOwnForEachCopy,
            Self::LastAttemptWins,
            Self::LoserDelivered,
            Self::RepeatDelivered,
            Self::LossTakenForTheEnd,
            Self::ChecksumNotLookedAt,
            Self::HandOverDeletedBeforeItIsKept,
            Self::YoungMasterDeletes,
            Self::LateTickNotExtended,
        ];

        /// What it is called on the command line.
        #[must_use]
        pub const fn name(self) -> &'static str {
            match self {
                Self::AckBeforeAppend => "ack-before-append",
                Self::AckBeforeTheReplica => "ack-before-the-replica",
                Self::ForgetTheReplica => "forget-the-replica",
                Self::AckAfterTheFreeze => "ack-after-the-freeze",
                Self::SkipTheFence => "skip-the-fence",
                Self::CountBasedInFlight => "count-based-in-flight",
                Self::StatusesMergedInTheWrongOrder => "statuses-merged-in-the-wrong-order",
                Self::SilenceTakenForAnAck => "silence-taken-for-an-ack",
                Self::TornLocationServedAfterRestart => "torn-location-served-after-restart",
                Self::DuplicateDroppedInTheWorker => "duplicate-dropped-in-the-worker",
                Self::FsyncErrorIgnored => "fsync-error-ignored",
                Self::KeptBeforeTheRecord => "kept-before-the-record",
                Self::LeaseCountedFromTheReply => "lease-counted-from-the-reply",
                Self::ReleasedShuffleAnsweredAsEmpty => "released-shuffle-answered-as-empty",
                Self::UnknownLocationAnsweredAsEmpty => "unknown-location-answered-as-empty",
                Self::SealShorterThanAcked => "seal-shorter-than-acked",
                Self::SealOfItsOwnForEachCopy => "seal-of-its-own-for-each-copy",
                Self::LastAttemptWins => "last-attempt-wins",
                Self::LoserDelivered => "loser-delivered",
                Self::RepeatDelivered => "repeat-delivered",
                Self::LossTakenForTheEnd => "loss-taken-for-the-end",
                Self::ChecksumNotLookedAt => "checksum-not-looked-at",
                Self::HandOverDeletedBeforeItIsKept => "hand-over-deleted-before-it-is-kept",
                Self::YoungMasterDeletes => "young-master-deletes",
                Self::LateTickNotExtended => "late-tick-not-extended",
            }
        }
    }

    impl std::fmt::Display for Sabotage {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.name())
        }
    }

    impl std::str::FromStr for Sabotage {
        type Err = String;

        fn from_str(name: &str) -> Result<Self, String> {
            let known = || Self::ALL.map(Self::name).join(", ");
            let found = Self::ALL.into_iter().find(|sabotage| sabotage.name() == name);
            found.ok_or_else(|| format!("there is no sabotage {name}; there are: {}", known()))
        }
    }
}
