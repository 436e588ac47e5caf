//! Durations, as people write them.
//!
//! Owns the units of time. Does not own the arithmetic of numbers with units (`quantity`), nor any clock.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::quantity::{QuantityError, Scale, Unit};
use super::value::{Form, Setting, ValueError};

const NANOS_PER_SECOND: u64 = 1_000_000_000;
const NANOS_PER_DAY: u64 = 86_400 * NANOS_PER_SECOND;

/// A hundred years: far beyond any wait, and a sum of a few never leaves the range of a clock.
const DAYS_MAX: u64 = 36_500;

const SCALE: Scale = Scale {
    units: &[
        Unit { name: "ns", factor: 1 },
        Unit { name: "us", factor: 1_000 },
        Unit { name: "ms", factor: 1_000_000 },
        Unit { name: "s", factor: NANOS_PER_SECOND },
        Unit { name: "min", factor: 60 * NANOS_PER_SECOND },
        Unit { name: "h", factor: 3_600 * NANOS_PER_SECOND },
        Unit { name: "d", factor: NANOS_PER_DAY },
    ],
    bare: None,
    limit: (DAYS_MAX as u128) * (NANOS_PER_DAY as u128),
    limit_text: "36500d",
};

/// A length of time, written with a unit: `200ms`, `30s`, `5min`, `1h`. A number alone is refused, for nobody can tell
/// its unit. At most a hundred years are read. Printing gives the shortest text that reads as exactly the same length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub Duration);

impl Span {
    /// `count` milliseconds.
    pub const fn millis(count: u64) -> Self {
        Self(Duration::from_millis(count))
    }

    /// `count` seconds.
    pub const fn seconds(count: u64) -> Self {
        Self(Duration::from_secs(count))
    }

    /// `count` minutes, at most `u64::MAX` seconds.
    pub const fn minutes(count: u64) -> Self {
        Self(Duration::from_secs(count.saturating_mul(60)))
    }

    /// The length of time.
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl From<Span> for Duration {
    fn from(span: Span) -> Duration {
        span.0
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = if self.0.is_zero() { "0s".to_owned() } else { SCALE.print(self.0.as_nanos()) };
        f.pad(&text)
    }
}

impl FromStr for Span {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let nanos = SCALE.parse(text)?;
        let per_second = u128::from(NANOS_PER_SECOND);
        let seconds = u64::try_from(nanos / per_second).expect("the scale's limit is a hundred years");
        let rest = u32::try_from(nanos % per_second).expect("less than a second of nanoseconds");
        Ok(Self(Duration::new(seconds, rest)))
    }
}

impl Setting for Span {
    fn form() -> Form {
        Form::Duration
    }

    fn from_typed(value: &toml::Value) -> Result<Self, ValueError> {
        match value {
            toml::Value::String(text) => Self::from_text(text),
            toml::Value::Integer(number) => Self::from_text(&number.to_string()),
            other => Err(ValueError::Type { found: other.type_str() }),
        }
    }

    fn from_text(text: &str) -> Result<Self, ValueError> {
        Ok(text.parse::<Self>()?)
    }

    fn to_toml(&self) -> Option<toml::Value> {
        Some(toml::Value::String(self.to_string()))
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}
