//! Plots as SVG that needs nothing else: of all scenarios, of one over time, and of anything that grows.
//!
//! They are light or dark as the reader's screen is, and scale to its width.

mod axis;
mod chart;
mod lines;
#[cfg(test)]
pub(crate) mod made_up;
mod over_time;
mod overview;
mod text;

pub(crate) use lines::lines;
pub(crate) use over_time::over_time;
pub(crate) use overview::overview;
pub(crate) use text::{NONE, bytes, counted, escape, hundredths, number, verdict, whole, with_interval};
