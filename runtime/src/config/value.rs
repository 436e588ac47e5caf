//! What a setting's value can be, and how it is read from TOML and from plain text.
//!
//! Owns the trait of settings' types, its implementations for the ordinary types, and the words that describe them.
//! Does not own sizes and durations (`size`, `span`), nor enums of choices (`choice`).

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use thiserror::Error;

use super::choice::{Choice, ChoiceError};
use super::quantity::QuantityError;

/// What a value looks like, for the reference and for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// `true` or `false`.
    Boolean,
    /// A whole number.
    Integer,
    /// A number with or without decimals.
    Number,
    /// Any text.
    Text,
    /// A path of a file or folder.
    Path,
    /// An IP address and a port.
    Address,
    /// A number of bytes with a unit.
    Size,
    /// A length of time with a unit.
    Duration,
    /// One of a few names.
    Choice(&'static [Choice]),
    /// Any number of values of one form.
    List(Box<Form>),
    /// A value that may be left out.
    Optional(Box<Form>),
}

impl Form {
    /// The form as the reference names it: `size`, `list of paths`.
    pub fn name(&self) -> String {
        match self {
            Form::Boolean => "boolean".to_owned(),
            Form::Integer => "integer".to_owned(),
            Form::Number => "number".to_owned(),
            Form::Text => "text".to_owned(),
            Form::Path => "path".to_owned(),
            Form::Address => "address".to_owned(),
            Form::Size => "size".to_owned(),
            Form::Duration => "duration".to_owned(),
            Form::Choice(choices) => format!("one of {}", names(choices)),
            Form::List(item) => format!("list, each {}", item.name()),
            Form::Optional(inner) => format!("{}, optional", inner.name()),
        }
    }
}

/// The form as a message says it, with an example: `a size such as "64MiB"`.
impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Form::Boolean => f.write_str("true or false"),
            Form::Integer => f.write_str("a whole number"),
            Form::Number => f.write_str("a number"),
            Form::Text => f.write_str("text in quotes"),
            Form::Path => f.write_str("a path in quotes"),
            Form::Address => f.write_str("an address such as \"127.0.0.1:9100\""),
            Form::Size => f.write_str("a size such as \"64MiB\""),
            Form::Duration => f.write_str("a duration such as \"30s\""),
            Form::Choice(choices) => write!(f, "one of {}", names(choices)),
            Form::List(item) => write!(f, "a list in brackets, each item {item}"),
            Form::Optional(inner) => write!(f, "{inner}"),
        }
    }
}

fn names(choices: &[Choice]) -> String {
    choices.iter().map(|choice| choice.name).collect::<Vec<_>>().join(", ")
}

/// Why a value is refused. The message completes "`key` = value: ...".
#[derive(Clone, Debug, Error, PartialEq)]
pub enum ValueError {
    /// TOML of another type.
    #[error("this is of type {found}")]
    Type {
        /// The TOML type found.
        found: &'static str,
    },
    /// Text where the setting is something else.
    #[error("this can't be read")]
    Text,
    /// A number outside the setting's range.
    #[error("must lie between {lowest} and {highest}")]
    Range {
        /// The smallest number accepted.
        lowest: i64,
        /// The largest number accepted.
        highest: i64,
    },
    /// A size or duration that is none.
    #[error(transparent)]
    Quantity(#[from] QuantityError),
    /// A name that is none of the choices.
    #[error(transparent)]
    Choice(#[from] ChoiceError),
    /// One item of a list.
    #[error("item {position}: {why}")]
    Item {
        /// Counted from 1.
        position: usize,
        /// What is wrong with it.
        why: Box<ValueError>,
    },
    /// Text that starts like a TOML list but is none.
    #[error("this starts like a list but is none: {why}")]
    List {
        /// The TOML parser's words.
        why: String,
    },
}

/// The type of a setting: how a value is read and written.
///
/// Flags and environment variables are text without types; `from_text` takes them as a person types them. Files carry
/// types; `from_typed` insists on the right one.
pub trait Setting: Sized {
    /// What a value looks like.
    fn form() -> Form;

    /// Reads the text of a variable or flag.
    fn from_text(text: &str) -> Result<Self, ValueError>;

    /// Reads a value of a TOML file; unless a type says otherwise that is a string that holds the text.
    fn from_typed(value: &toml::Value) -> Result<Self, ValueError> {
        match value {
            toml::Value::String(text) => Self::from_text(text),
            other => Err(ValueError::Type { found: other.type_str() }),
        }
    }

    /// The value as a file would give it; `None` for an optional value that is not set.
    fn to_toml(&self) -> Option<toml::Value>;
}

impl Setting for bool {
    fn form() -> Form {
        Form::Boolean
    }

    fn from_text(text: &str) -> Result<Self, ValueError> {
        match text.trim() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(ValueError::Text),
        }
    }

    fn from_typed(value: &toml::Value) -> Result<Self, ValueError> {
        value.as_bool().ok_or(ValueError::Type { found: value.type_str() })
    }

    fn to_toml(&self) -> Option<toml::Value> {
        Some(toml::Value::Boolean(*self))
    }
}

/// TOML's integers have 64 bits with a sign, so settings of an unsigned type end there too.
macro_rules! integer_settings {
    ($($integer:ty),+) => {$(
        impl Setting for $integer {
            fn form() -> Form {
                Form::Integer
            }

            fn from_text(text: &str) -> Result<Self, ValueError> {
                let number = text.trim().parse::<i64>().map_err(|_| ValueError::Text)?;
                Self::from_typed(&toml::Value::Integer(number))
            }

            fn from_typed(value: &toml::Value) -> Result<Self, ValueError> {
                let number = value.as_integer().ok_or(ValueError::Type { found: value.type_str() })?;
                let lowest = i64::try_from(<$integer>::MIN).unwrap_or(i64::MIN);
                let highest = i64::try_from(<$integer>::MAX).unwrap_or(i64::MAX);
                <$integer>::try_from(number).map_err(|_| ValueError::Range { lowest, highest })
            }

            fn to_toml(&self) -> Option<toml::Value> {
                Some(toml::Value::Integer(i64::try_from(*self).unwrap_or(i64::MAX)))
            }
        }
    )+};
}

integer_settings!(u16, u32, u64, usize);

impl Setting for f64 {
    fn form() -> Form {
        Form::Number
    }

    fn from_text(text: &str) -> Result<Self, ValueError> {
        let number = text.trim().parse::<f64>().map_err(|_| ValueError::Text)?;
        if number.is_finite() { Ok(number) } else { Err(ValueError::Text) }
    }

    fn from_typed(value: &toml::Value) -> Result<Self, ValueError> {
        match value {
            toml::Value::Float(number) if number.is_finite() => Ok(*number),
            toml::Value::Integer(number) => Self::from_text(&number.to_string()),
            other => Err(ValueError::Type { found: other.type_str() }),
        }
    }

    fn to_toml(&self) -> Option<toml::Value> {
        Some(toml::Value::Float(*self))
    }
}

impl Setting for String {
    fn form() -> Form {
        Form::Text
    }

    fn from_text(text: &str) -> Result<Self, ValueError> {
        Ok(text.to_owned())
    }

    fn to_toml(&self) -> Option<toml::Value> {
        Some(toml::Value::String(self.clone()))
    }
}

impl Setting for PathBuf {
    fn form() -> Form {
        Form::Path
    }

    fn from_text(text: &str) -> Result<Self, ValueError> {
        Ok(PathBuf::from(text))
    }

    fn to_toml(&self) -> Option<toml::Value> {
        Some(toml::Value::String(self.to_string_lossy().into_owned()))
    }
}

impl Setting for SocketAddr {
    fn form() -> Form {
        Form::Address
    }

    fn from_text(text: &str) -> Result<Self, ValueError> {
        text.trim().parse().map_err(|_| ValueError::Text)
    }

    fn to_toml(&self) -> Option<toml::Value> {
        Some(toml::Value::String(self.to_string()))
    }
}

/// A setting that may be left out. TOML leaves it out by not naming it; a variable or flag by an empty text, which so
/// can take back what the file says.
impl<T: Setting> Setting for Option<T> {
    fn form() -> Form {
        Form::Optional(Box::new(T::form()))
    }

    fn from_text(text: &str) -> Result<Self, ValueError> {
        if text.is_empty() { Ok(None) } else { T::from_text(text).map(Some) }
    }

    fn from_typed(value: &toml::Value) -> Result<Self, ValueError> {
        T::from_typed(value).map(Some)
    }

    fn to_toml(&self) -> Option<toml::Value> {
        self.as_ref().and_then(T::to_toml)
    }
}

/// A list. As text its items stand between commas, or, where an item holds a comma, it is written as in TOML.
impl<T: Setting> Setting for Vec<T> {
    fn form() -> Form {
        Form::List(Box::new(T::form()))
    }

    fn from_text(text: &str) -> Result<Self, ValueError> {
        let text = text.trim();
        if text.starts_with('[') {
            let list = text.parse::<toml::Value>();
            return Self::from_typed(&list.map_err(|error| ValueError::List { why: error.message().to_owned() })?);
        }
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        items.enumerate().map(|(index, item)| T::from_text(item).map_err(|why| at(index, why))).collect()
    }

    fn from_typed(value: &toml::Value) -> Result<Self, ValueError> {
        let items = value.as_array().ok_or(ValueError::Type { found: value.type_str() })?.iter();
        items.enumerate().map(|(index, item)| T::from_typed(item).map_err(|why| at(index, why))).collect()
    }

    fn to_toml(&self) -> Option<toml::Value> {
        Some(toml::Value::Array(self.iter().filter_map(T::to_toml).collect()))
    }
}

fn at(index: usize, why: ValueError) -> ValueError {
    ValueError::Item { position: index + 1, why: Box::new(why) }
}
