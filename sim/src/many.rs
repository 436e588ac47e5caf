//! Many seeds, each in each scenario, as many at once as there are processors.
//!
//! Owns the order of the runs and what is said of them together. Does not own a run (`run`), nor what is kept of a long
//! series of them (`progress`).

use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::Args;
use mallorn_sabotage::Sabotage;

use crate::children::{self, Child};
use crate::progress::Progress;
use crate::run::Case;
use crate::scenario::Scenario;
use crate::shrink;
use crate::tally::Tally;

/// Runs that are wrong of which the shortest form is looked for.
const SHRUNK_MAX: usize = 3;

/// What to run.
#[derive(Args, Debug)]
pub(crate) struct Many {
    /// How many seeds, each in each scenario
    #[arg(long, default_value_t = 20)]
    pub(crate) seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 1)]
    pub(crate) first_seed: u64,
    /// Only this scenario
    #[arg(long)]
    pub(crate) scenario: Option<Scenario>,
    /// Goes on where the series in this file was left, and adds to it: long runs add up over days
    #[arg(long, value_name = "FILE", conflicts_with_all = ["first_seed", "sabotage"])]
    pub(crate) resume: Option<PathBuf>,
    /// A rule that the processes do not keep: the run ends, as one that is wrong, when that is noticed
    #[arg(long, value_name = "NAME")]
    pub(crate) sabotage: Option<Sabotage>,
}

impl Many {
    /// Runs them all; whether none is wrong.
    pub(crate) fn run(self) -> bool {
        let mut progress = match self.resume.as_deref().map(Progress::read).transpose() {
            Ok(progress) => progress,
            Err(why) => {
                println!("{why}");
                return false;
            }
        };
        let first = progress.as_ref().map_or(self.first_seed, Progress::next_seed);
        let scenarios = self.scenario.map_or_else(|| Scenario::ALL.to_vec(), |scenario| vec![scenario]);
        let seeds = first..first.saturating_add(self.seeds);
        let runs = seeds.flat_map(|seed| scenarios.iter().map(move |scenario| (*scenario, seed)));
        let (mut count, mut wrong, mut tally) = (0, Vec::new(), Tally::default());
        children::each(
            runs,
            |(scenario, seed)| Child::replay(*scenario, *seed, self.sabotage),
            |(scenario, seed), output| {
                count += 1;
                print!("{}", output.text);
                tally.add(*scenario, *seed, &output.text);
                if !output.good {
                    wrong.push((*scenario, *seed));
                }
                if let Some(progress) = &mut progress {
                    progress.ran((*scenario, *seed), output.good, *scenario == scenarios[scenarios.len() - 1]);
                }
                let is_noticed = self.sabotage.is_some() && !wrong.is_empty();
                if is_noticed { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            },
        );
        if let Some(sabotage) = self.sabotage {
            let noticed = if wrong.is_empty() { "NOT NOTICED" } else { "noticed" };
            println!("{sabotage}: {noticed} in {count} runs");
            return wrong.is_empty();
        }
        println!("in all: {}", tally.totals());
        let never_struck = tally.never_struck();
        never_struck.iter().for_each(|line| println!("WRONG: {line}"));
        for (scenario, seed) in wrong.iter().take(SHRUNK_MAX) {
            shrink::and_tell(Case::draw(*scenario, *seed), None, None);
        }
        let names: Vec<_> = wrong.iter().map(|(scenario, seed)| format!("{scenario} {seed}")).collect();
        println!("{count} runs, {} wrong{}{}", wrong.len(), if wrong.is_empty() { "" } else { ": " }, names.join(", "));
        if let Some(progress) = &progress {
            println!("{progress}");
        }
        wrong.is_empty() && never_struck.is_empty()
    }
}
