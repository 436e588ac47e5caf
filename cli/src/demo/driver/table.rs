//! One table on its way through a shuffle: its generation, and which attempt of each map counts.

use mallorn_client::{Generation, Token};

use super::ShuffledTable;
use crate::demo::map::Winner;
use crate::demo::workload::{RowSum, Table};

/// What the driver knows of a table.
#[derive(Debug)]
pub(super) struct TableState<T> {
    pub(super) table: T,
    pub(super) shuffle: u32,
    pub(super) generation: Generation,
    generations: u32,
    maps: Vec<MapState>,
    maps_again: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct MapState {
    /// Attempts made so far, over all generations: a number is used once.
    attempts: u32,
    winner: Option<Winner>,
}

impl<T: Table> TableState<T> {
    pub(super) fn new(table: T, shuffle: u32, generation: Generation, maps: u32) -> Self {
        let maps = vec![MapState::default(); maps as usize];
        Self { table, shuffle, generation, generations: 1, maps, maps_again: 0 }
    }

    /// The attempt of a map whose data counts.
    pub(super) fn winner(&self, map: u32) -> Option<&Winner> {
        self.maps[map as usize].winner.as_ref()
    }

    /// How many maps have a winner.
    pub(super) fn ended(&self) -> usize {
        self.maps.iter().filter(|map| map.winner.is_some()).count()
    }

    /// How many maps have none.
    pub(super) fn to_run(&self) -> u32 {
        (self.maps.len() - self.ended()) as u32
    }

    /// The number for the next attempt at a map.
    pub(super) fn next_attempt(&mut self, map: u32) -> u32 {
        let attempts = &mut self.maps[map as usize].attempts;
        *attempts += 1;
        *attempts - 1
    }

    /// Takes in an attempt whose data may count. The first one of a map does; where readers name attempts, none of them
    /// is told that it lost.
    pub(super) fn won(&mut self, map: u32, winner: Winner) {
        self.maps[map as usize].winner.get_or_insert(winner);
    }

    /// The tokens of all winners.
    pub(super) fn tokens(&self) -> Vec<Token> {
        self.maps.iter().filter_map(|map| map.winner).map(|winner| winner.token).collect()
    }

    /// Goes on in another generation, in which nothing was pushed yet.
    pub(super) fn restart(&mut self, generation: Generation) {
        self.generation = generation;
        self.generations += 1;
        self.forget_if(|_| true);
    }

    /// Forgets the winners with these tokens.
    pub(super) fn forget(&mut self, tokens: &[Token]) {
        self.forget_if(|winner| tokens.contains(&winner.token));
    }

    fn forget_if(&mut self, is_lost: impl Fn(&Winner) -> bool) {
        for map in &mut self.maps {
            if map.winner.take_if(|winner| is_lost(winner)).is_some() {
                self.maps_again += 1;
            }
        }
    }

    /// What is known in the end; what readers have accepted is not, yet.
    pub(super) fn figures(&self) -> ShuffledTable {
        let mut yielded = RowSum::default();
        self.maps.iter().filter_map(|map| map.winner).for_each(|winner| yielded.merge(winner.yielded));
        ShuffledTable {
            name: self.table.name(),
            yielded,
            accepted: RowSum::default(),
            generations: self.generations,
            maps_again: self.maps_again,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct OneTable;

    impl Table for OneTable {
        fn name(self) -> &'static str {
            "one"
        }
    }

    fn winner(token: u64, rows: u64) -> Winner {
        Winner { token: Token(token), yielded: RowSum { rows, bytes: rows, hash: rows } }
    }

    #[test]
    fn the_first_attempt_counts_and_numbers_are_used_once() {
        let mut state = TableState::new(OneTable, 0, Generation(0), 2);
        assert_eq!([state.next_attempt(1), state.next_attempt(1), state.next_attempt(0)], [0, 1, 0]);
        state.won(1, winner(7, 10));
        state.won(1, winner(8, 99));
        assert_eq!((state.ended(), state.to_run(), state.tokens()), (1, 1, vec![Token(7)]));
        state.restart(Generation(1));
        assert_eq!((state.ended(), state.next_attempt(1)), (0, 2));
        state.won(0, winner(9, 1));
        state.won(1, winner(10, 2));
        let figures = state.figures();
        assert_eq!((figures.yielded.rows, figures.generations, figures.maps_again), (3, 2, 1));
    }

    #[test]
    fn only_named_attempts_are_forgotten() {
        let mut state = TableState::new(OneTable, 0, Generation(0), 3);
        (0..3).for_each(|map| state.won(map, winner(u64::from(map), 1)));
        state.forget(&[Token(1), Token(99)]);
        assert!(state.winner(0).is_some() && state.winner(1).is_none() && state.winner(2).is_some());
        assert_eq!(state.figures().maps_again, 1);
    }
}
