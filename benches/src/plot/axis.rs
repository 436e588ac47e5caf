//! Where a value lies between the ends of an axis, and the round numbers that are written along it.

use super::text::whole;

/// Beyond it, a figure is no measurement, and the steps would lose their digits.
const SIZE_MAX: f64 = 1e15;
/// Part of a step that rounding may shift a tick by.
const SLACK: f64 = 1e-9;
/// With fewer powers of ten than this, their multiples get a tick too.
const DECADES_MIN: usize = 3;

/// One direction of a chart.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    logarithmic: bool,
    ticks: Vec<(f64, String)>,
}

impl Axis {
    /// From 0 to the largest value, with about so many ticks.
    pub(super) fn exact(values: impl Iterator<Item = f64>, wanted: f64) -> Self {
        let (low, high) = span(values, f64::MIN);
        let (low, high) = (low.min(0.0), high.max(0.0));
        let high = if high > low { high } else { low + 1.0 };
        Self::linear(low, high, step(high - low, wanted))
    }

    /// From 0 to the first tick that is not below the largest value.
    pub(super) fn rounded(values: impl Iterator<Item = f64>, wanted: f64) -> Self {
        let exact = Self::exact(values, wanted);
        let step = step(exact.high - exact.low, wanted);
        let low = (exact.low / step + SLACK).floor() * step;
        let high = (exact.high / step - SLACK).ceil() * step;
        Self::linear(low, high, step)
    }

    /// From the smallest value above 0 to the largest, each tenfold as long as the other.
    pub(super) fn logarithmic(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = span(values, 0.0);
        let (low, high) = if high > low { (low, high) } else { (low.max(1.0) / 2.0, high.max(1.0) * 2.0) };
        let decades = decades(low, high, &[1.0]);
        let ticks = if decades.len() < DECADES_MIN { decades_or_ends(low, high) } else { decades };
        Self { low, high, logarithmic: true, ticks }
    }

    fn linear(low: f64, high: f64, step: f64) -> Self {
        let first = (low / step - SLACK).ceil() as i64;
        let last = (high / step + SLACK).floor() as i64;
        let digits = (-(step.log10() + SLACK).floor()).max(0.0) as usize;
        let label = |value: f64| if digits == 0 { whole(value) } else { format!("{value:.digits$}") };
        let ticks = (first..=last).map(|index| index as f64 * step).map(|value| (value, label(value))).collect();
        Self { low, high, logarithmic: false, ticks }
    }

    /// From 0 at the low end to 1 at the high one; none for what cannot be drawn.
    pub(super) fn share(&self, value: f64) -> Option<f64> {
        if !value.is_finite() || (self.logarithmic && value <= 0.0) {
            return None;
        }
        let share = if self.logarithmic {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        Some(share.clamp(0.0, 1.0))
    }

    /// Values and their labels, from the low end.
    pub(super) fn ticks(&self) -> &[(f64, String)] {
        &self.ticks
    }
}

/// Smallest and largest of the values above the bound; 0 and 0 when there are none.
fn span(values: impl Iterator<Item = f64>, above: f64) -> (f64, f64) {
    let drawn = values.filter(|value| value.is_finite() && *value > above && value.abs() < SIZE_MAX);
    let ends = drawn.fold(None, |ends: Option<(f64, f64)>, value| {
        let (low, high) = ends.unwrap_or((value, value));
        Some((low.min(value), high.max(value)))
    });
    ends.unwrap_or((0.0, 0.0))
}

/// 1, 2 or 5 times a power of ten.
fn step(length: f64, wanted: f64) -> f64 {
    let rough = length / wanted.max(1.0);
    let decade = 10_f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * decade >= rough * (1.0 - SLACK));
    factor.unwrap_or(10.0) * decade
}

/// The factors' multiples of powers of ten between two ends.
fn decades(low: f64, high: f64, factors: &[f64]) -> Vec<(f64, String)> {
    let exponents = low.log10().floor() as i32..=high.log10().ceil() as i32;
    let mut ticks = Vec::new();
    for exponent in exponents {
        let digits = usize::try_from(-exponent).unwrap_or(0);
        for factor in factors {
            let value = factor * 10_f64.powi(exponent);
            if value >= low * (1.0 - SLACK) && value <= high * (1.0 + SLACK) {
                let label = if digits == 0 { whole(value) } else { format!("{value:.digits$}") };
                ticks.push((value, label));
            }
        }
    }
    ticks
}

/// Multiples of powers of ten; between ends so close that there are none, the ends.
fn decades_or_ends(low: f64, high: f64) -> Vec<(f64, String)> {
    let ticks = decades(low, high, &[1.0, 2.0, 5.0]);
    if ticks.is_empty() { [low, high].map(|end| (end, super::text::number(end))).to_vec() } else { ticks }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks().iter().map(|(_, label)| label.as_str()).collect()
    }

    #[test]
    fn ticks_are_round_and_end_at_or_above_the_largest_value() {
        let axis = Axis::rounded([0.31, 1.13].into_iter(), 5.0);
        assert_eq!(labels(&axis), ["0.0", "0.5", "1.0", "1.5"]);
        assert_eq!(labels(&Axis::rounded([1.0].into_iter(), 5.0)), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(
            labels(&Axis::rounded([4300.0].into_iter(), 5.0)),
            ["0", "1,000", "2,000", "3,000", "4,000", "5,000"]
        );
    }

    #[test]
    fn an_exact_axis_ends_with_its_values() {
        let axis = Axis::exact([37.0].into_iter(), 4.0);
        assert_eq!(labels(&axis), ["0", "10", "20", "30"]);
        assert_eq!(axis.share(37.0), Some(1.0));
    }

    #[test]
    fn powers_of_ten_are_equally_far_apart() {
        let axis = Axis::logarithmic([100.0, 100_000.0].into_iter());
        assert_eq!(labels(&axis), ["100", "1,000", "10,000", "100,000"]);
        assert!((axis.share(1000.0).unwrap() - 1.0 / 3.0).abs() < 1e-9);
        assert_eq!(labels(&Axis::logarithmic([0.01, 0.2].into_iter())), ["0.01", "0.02", "0.05", "0.1", "0.2"]);
    }

    #[test]
    fn no_values_and_values_that_are_none_leave_an_axis() {
        assert_eq!(labels(&Axis::rounded(std::iter::empty(), 2.0)), ["0.0", "0.5", "1.0"]);
        assert_eq!(labels(&Axis::rounded([f64::NAN, f64::INFINITY, 0.0].into_iter(), 2.0)), ["0.0", "0.5", "1.0"]);
        let logarithmic = Axis::logarithmic([0.0, -3.0, f64::NAN].into_iter());
        assert_eq!(labels(&logarithmic), ["0.5", "1", "2"]);
        assert_eq!(logarithmic.share(0.0), None);
        assert_eq!(logarithmic.share(f64::NAN), None);
        assert_eq!(labels(&Axis::logarithmic([3.0, 4.0].into_iter())), ["3.00", "4.00"]);
    }
}
