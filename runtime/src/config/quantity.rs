//! Numbers with units as text: the parsing and printing that sizes and durations share.
//!
//! Owns the decimal arithmetic, which is exact (no floating point). Does not own the units.

use thiserror::Error;

/// Longest text that is looked at; more cannot be a quantity that fits.
const TEXT_CHARS_MAX: usize = 64;

/// Most decimals that printing tries: more digits are no easier to read than a smaller unit.
const PRINTED_DECIMALS_MAX: u32 = 3;

/// A unit and how many of the smallest unit it holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unit {
    pub(super) name: &'static str,
    pub(super) factor: u64,
}

/// Why a text is not a size or a duration. The message lists the units where one is wrong or missing.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum QuantityError {
    /// Nothing but white space.
    #[error("nothing is given")]
    Empty,
    /// No number at the start, or one with more than one point.
    #[error("`{text}` does not start with a number")]
    Number {
        /// What was given, cut to 64 characters.
        text: String,
    },
    /// A number alone where a unit is needed to know what it means.
    #[error("`{number}` has no unit: write one of {units} after it")]
    UnitMissing {
        /// The number given.
        number: String,
        /// All units, smallest first.
        units: String,
    },
    /// A unit that is none of ours.
    #[error("unknown unit `{unit}`: use one of {units}")]
    UnitUnknown {
        /// The unit given.
        unit: String,
        /// All units, smallest first.
        units: String,
    },
    /// More than the type holds.
    #[error("`{text}` is too large: at most {limit}")]
    TooLarge {
        /// What was given.
        text: String,
        /// The largest value accepted.
        limit: String,
    },
}

/// What the units of one kind of quantity are, smallest first, and how much fits.
pub(super) struct Scale {
    pub(super) units: &'static [Unit],
    /// The unit of a number without one; `None` refuses such a number.
    pub(super) bare: Option<Unit>,
    /// Largest value accepted, in the smallest unit.
    pub(super) limit: u128,
    /// The same, as the message says it.
    pub(super) limit_text: &'static str,
}

impl Scale {
    /// Reads `text` as a number of the smallest unit. A fraction of the smallest unit is dropped.
    pub(super) fn parse(&self, text: &str) -> Result<u128, QuantityError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(QuantityError::Empty);
        }
        if text.chars().count() > TEXT_CHARS_MAX {
            return Err(QuantityError::Number { text: text.chars().take(TEXT_CHARS_MAX).collect() });
        }
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = (&text[..end], text[end..].trim_start());
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
            return Err(QuantityError::Number { text: text.to_owned() });
        }
        let unit = self.unit(number, unit)?;
        let value = scaled(whole, fraction, unit.factor).filter(|value| *value <= self.limit);
        value.ok_or_else(|| QuantityError::TooLarge { text: text.to_owned(), limit: self.limit_text.to_owned() })
    }

    /// The shortest text that [`Scale::parse`] reads as exactly `value`; of equally short ones that with the larger unit.
    pub(super) fn print(&self, value: u128) -> String {
        let texts = self.units.iter().filter_map(|unit| exact(value, *unit));
        texts.reduce(|best, next| if next.len() <= best.len() { next } else { best }).unwrap_or_default()
    }

    fn unit(&self, number: &str, name: &str) -> Result<Unit, QuantityError> {
        if name.is_empty() {
            let missing = || QuantityError::UnitMissing { number: number.to_owned(), units: self.names() };
            return self.bare.ok_or_else(missing);
        }
        let known = self.units.iter().find(|unit| unit.name.eq_ignore_ascii_case(name));
        known.copied().ok_or_else(|| QuantityError::UnitUnknown { unit: name.to_owned(), units: self.names() })
    }

    fn names(&self) -> String {
        self.units.iter().map(|unit| unit.name).collect::<Vec<_>>().join(", ")
    }
}

/// `whole.fraction` times `factor`, rounded down; `None` where that leaves the range of the arithmetic.
fn scaled(whole: &str, fraction: &str, factor: u64) -> Option<u128> {
    let fraction = fraction.trim_end_matches('0');
    let one = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let part = if fraction.is_empty() { 0 } else { fraction.parse::<u128>().ok()? };
    let whole = whole.parse::<u128>().ok()?.checked_mul(u128::from(factor))?;
    whole.checked_add(part.checked_mul(u128::from(factor))? / one)
}

/// `value` in `unit` with as few decimals as are exact; `None` where more than a few would be needed, or where it is
/// less than one: `200ms` reads better than `0.2s`.
fn exact(value: u128, unit: Unit) -> Option<String> {
    let factor = u128::from(unit.factor);
    let (whole, rest) = (value / factor, value % factor);
    if rest == 0 {
        return Some(format!("{whole}{}", unit.name));
    }
    if whole == 0 {
        return None;
    }
    (1..=PRINTED_DECIMALS_MAX).find_map(|decimals| {
        let part = rest * 10u128.pow(decimals);
        let width = decimals as usize;
        (part % factor == 0).then(|| format!("{whole}.{:0width$}{}", part / factor, unit.name))
    })
}
