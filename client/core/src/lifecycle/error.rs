//! What a lifecycle manager refuses, and why.

use mallorn_proto::id::{Generation, Token};

use super::Protection;

/// A shuffle cannot be declared like this.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// Numbers that make no sense.
    #[error(
        "a shuffle has 1 to {} partitions and, where it says, 1 to {} maps; asked for {partitions} and {maps:?}",
        mallorn_proto::limits::PARTITIONS_MAX,
        mallorn_proto::limits::MAPS_MAX
    )]
    Shape {
        /// Partitions asked for.
        partitions: u32,
        /// Maps asked for.
        maps: Option<u32>,
    },
    /// As many copies as nobody keeps.
    #[error("copies must be 1 or 2, not {copies}")]
    Copies {
        /// Copies asked for.
        copies: u32,
    },
    /// Declared before with another shape.
    #[error(
        "shuffle {shuffle} was registered with {partitions} partitions, {maps:?} maps, copies {} and durability {}",
        protection.copies,
        protection.durability.name()
    )]
    Differs {
        /// The shuffle.
        shuffle: u32,
        /// Its partitions.
        partitions: u32,
        /// Its maps.
        maps: Option<u32>,
        /// How well it is kept.
        protection: Protection,
    },
    /// Released before; numbers are not used again.
    #[error("shuffle {shuffle} was released; register a new number")]
    Released {
        /// The shuffle.
        shuffle: u32,
    },
    /// The application has too many shuffles, or numbers them with too many gaps for the released ones to be remembered.
    #[error(
        "an application has at most {} shuffles at once, numbered below 4294967295 and without many gaps; release some",
        super::SHUFFLES_MAX
    )]
    TooMany,
}

/// A shuffle, or a generation of it, is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// Never registered.
    #[error("shuffle {shuffle} was never registered")]
    Unknown {
        /// The shuffle.
        shuffle: u32,
    },
    /// Released.
    #[error("shuffle {shuffle} was released")]
    Released {
        /// The shuffle.
        shuffle: u32,
    },
    /// The generation is over.
    #[error("generation {generation} of shuffle {shuffle} is over, the current one is {current}")]
    Fenced {
        /// The shuffle.
        shuffle: u32,
        /// The generation asked for.
        generation: Generation,
        /// The current one.
        current: Generation,
    },
    /// A shuffle without a map count has one generation for life.
    #[error("shuffle {shuffle} was registered without a map count: re-run the maps that a loss names instead")]
    OneGeneration {
        /// The shuffle.
        shuffle: u32,
    },
    /// The application has used all its numbers on the wire.
    #[error("the application has used 2^32 generations")]
    TooManyGenerations,
}

/// An attempt cannot do this.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttemptError {
    /// The map is not one of the shuffle's.
    #[error("map {map} is not one of the shuffle's {maps}")]
    MapOutOfRange {
        /// The map.
        map: u32,
        /// Maps of the shuffle.
        maps: u32,
    },
    /// The same (map, attempt) was started by somebody else.
    #[error("attempt {attempt} of map {map} was started by another process; use a new attempt number")]
    Taken {
        /// The map.
        map: u32,
        /// The attempt.
        attempt: u32,
    },
    /// Never started, or with another nonce.
    #[error("attempt {attempt} of map {map} was not started here")]
    NotStarted {
        /// The map.
        map: u32,
        /// The attempt.
        attempt: u32,
    },
    /// Its lease is over, or its engine declared it failed.
    #[error("attempt {attempt} of map {map} is dead (its lease ended or it was declared failed)")]
    Dead {
        /// The map.
        map: u32,
        /// The attempt.
        attempt: u32,
    },
    /// The stage is over: every map has a winner.
    #[error("the stage has ended: every map has a winner")]
    StageEnded,
    /// Pages of an attempt's end must come in order.
    #[error("page {page} of the attempt's end came where page {expected} was expected")]
    PageOrder {
        /// The page.
        page: u32,
        /// The page expected.
        expected: u32,
    },
    /// A partition that the shuffle does not have, that is named twice or out of order, or an epoch of it that never was.
    #[error(
        "partition {partition} or its epoch is not one of the shuffle's, or it is out of order in the attempt's end"
    )]
    Partition {
        /// The partition.
        partition: u32,
    },
    /// More attempts than are kept.
    #[error("the shuffle has {} attempts, the most that are allowed", super::attempts::ATTEMPTS_MAX)]
    TooMany,
}

/// A set of tokens cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a token of this shuffle.
    #[error("token {token:016x} is not one of this shuffle's", token = token.0)]
    Unknown {
        /// The token.
        token: Token,
    },
    /// Two tokens of one map.
    #[error("two tokens name map {map}: name one attempt of each map")]
    SameMap {
        /// The map.
        map: u32,
    },
}
