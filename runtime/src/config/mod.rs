//! Settings: how they are declared, where their values come from, and how both are shown.
//!
//! Owns the macros [`settings!`](crate::settings) and [`choices!`](crate::choices) by which a role declares its section
//! once (key, type, default, documentation), the unit types [`ByteSize`] and [`Span`], the loader, and the rendering of
//! the reference and of the values in effect. It is the only place that reads the process environment.
//!
//! Does not own any setting: each role declares its own section, and the binary assembles the root.
//!
//! A value comes, in rising order of precedence, from its default, from the TOML file, from the environment
//! (`MALLORN_WORKER__MEMORY=2GiB`: prefix, then the key with `__` between section and name, in any case), or from a
//! flag. Each value remembers which of them it was.

mod catalog;
mod choice;
mod environment;
mod error;
mod file;
mod load;
mod nearest;
mod quantity;
mod render;
mod section;
mod size;
mod span;
mod value;

pub use catalog::{Catalog, SectionEntry, SettingEntry};
pub use choice::{Choice, ChoiceError, parse_choice};
pub use environment::{FILE_VARIABLE, PREFIX, variable_name};
pub use error::{ConfigError, Origin, Problem};
pub use load::{Loaded, Loader};
pub use quantity::QuantityError;
pub use render::{effective_toml, reference_markdown};
pub use section::{Check, Field, Invalid, Layer, Place, Refusal, Section, join};
pub use size::ByteSize;
pub use span::Span;
pub use toml::Value as TomlValue;
pub use value::{Form, Setting, ValueError};

#[doc(inline)]
pub use crate::{choices, settings};

#[cfg(test)]
mod tests;
