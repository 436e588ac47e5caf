//! Sizes in bytes, as people write them.
//!
//! Owns the units of bytes. Does not own the arithmetic of numbers with units (`quantity`).

use std::fmt;
use std::str::FromStr;

use serde::de::{Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::quantity::{QuantityError, Scale, Unit};
use super::value::{Form, Setting, ValueError};

const BYTE: Unit = Unit { name: "B", factor: 1 };

const SCALE: Scale = Scale {
    units: &[
        BYTE,
        Unit { name: "kB", factor: 1_000 },
        Unit { name: "MB", factor: 1_000_000 },
        Unit { name: "GB", factor: 1_000_000_000 },
        Unit { name: "TB", factor: 1_000_000_000_000 },
        Unit { name: "KiB", factor: 1 << 10 },
        Unit { name: "MiB", factor: 1 << 20 },
        Unit { name: "GiB", factor: 1 << 30 },
        Unit { name: "TiB", factor: 1 << 40 },
    ],
    bare: Some(BYTE),
    limit: u64::MAX as u128,
    limit_text: "18446744073709551615B",
};

/// A number of bytes, written with a unit: `64MiB`, `1.5GiB`, `2GB`; a number alone is bytes.
///
/// Units are read in any case (there are no units of bits to take them for). Printing gives the shortest text that
/// reads as exactly the same number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// `count` times 1024 bytes, at most `u64::MAX` bytes.
    pub const fn kib(count: u64) -> Self {
        Self(count.saturating_mul(1 << 10))
    }

    /// `count` times 1024^2 bytes, at most `u64::MAX` bytes.
    pub const fn mib(count: u64) -> Self {
        Self(count.saturating_mul(1 << 20))
    }

    /// `count` times 1024^3 bytes, at most `u64::MAX` bytes.
    pub const fn gib(count: u64) -> Self {
        Self(count.saturating_mul(1 << 30))
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = if self.0 == 0 { "0B".to_owned() } else { SCALE.print(u128::from(self.0)) };
        f.pad(&text)
    }
}

impl FromStr for ByteSize {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let bytes = SCALE.parse(text)?;
        Ok(Self(u64::try_from(bytes).expect("the scale's limit is the range of u64")))
    }
}

impl Setting for ByteSize {
    fn form() -> Form {
        Form::Size
    }

    fn from_typed(value: &toml::Value) -> Result<Self, ValueError> {
        match value {
            toml::Value::String(text) => Self::from_text(text),
            toml::Value::Integer(bytes) => {
                let bytes = u64::try_from(*bytes);
                bytes.map(Self).map_err(|_| ValueError::Range { lowest: 0, highest: i64::MAX })
            }
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

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SizeVisitor;

        impl Visitor<'_> for SizeVisitor {
            type Value = ByteSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", Form::Size)
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<ByteSize, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: serde::de::Error>(self, bytes: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(bytes))
            }

            fn visit_i64<E: serde::de::Error>(self, bytes: i64) -> Result<ByteSize, E> {
                let refused = |_| E::invalid_value(Unexpected::Signed(bytes), &self);
                u64::try_from(bytes).map(ByteSize).map_err(refused)
            }
        }

        deserializer.deserialize_any(SizeVisitor)
    }
}
