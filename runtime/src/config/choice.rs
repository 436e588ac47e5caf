//! Settings that name one of a few choices.
//!
//! Owns the macro that declares such an enum with the text and the documentation of each choice. Does not own any enum.

use thiserror::Error;

use super::nearest::nearest;

/// One choice: the text that names it, and what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The text in files, variables and flags.
    pub name: &'static str,
    /// Lines of documentation as written in the source.
    pub doc: &'static [&'static str],
}

/// A text that names none of the choices.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("`{given}` is none of {names}{hint}")]
pub struct ChoiceError {
    /// What was given, cut to 64 characters.
    pub given: String,
    /// All names.
    pub names: String,
    /// A guess at what was meant, or nothing.
    pub hint: String,
}

/// The position in `choices` of the one that `text` names.
pub fn parse_choice(choices: &[Choice], text: &str) -> Result<usize, ChoiceError> {
    choices.iter().position(|choice| choice.name == text).ok_or_else(|| {
        let names = choices.iter().map(|choice| choice.name);
        let hint = nearest(text, names.clone()).map_or_else(String::new, |name| format!("; did you mean `{name}`?"));
        ChoiceError { given: text.chars().take(64).collect(), names: names.collect::<Vec<_>>().join(", "), hint }
    })
}

/// Declares an enum whose values are named by text, to be the type of a setting or of a command line flag.
///
/// Generates the enum (`Clone`, `Copy`, `Debug`, `PartialEq`, `Eq`), `name()`, `Display` and `FromStr` by these names,
/// and [`Setting`](crate::config::Setting).
///
/// ```
/// mallorn_runtime::choices! {
///     /// When a shuffle counts as safe.
///     pub enum Safety {
///         /// Held in memory.
///         Memory = "memory",
///         /// Written to a file.
///         Written = "written",
///     }
/// }
/// assert_eq!("written".parse::<Safety>().unwrap(), Safety::Written);
/// assert!("writen".parse::<Safety>().unwrap_err().to_string().contains("did you mean `written`?"));
/// ```
#[macro_export]
macro_rules! choices {
    (
        $(#[doc = $doc:literal])+
        $vis:vis enum $name:ident {
            $( $(#[doc = $choice_doc:literal])+ $choice:ident = $text:literal ),+ $(,)?
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $vis enum $name {
            $( $(#[doc = $choice_doc])+ $choice ),+
        }

        impl $name {
            /// Every value, in the order of their declaration.
            $vis const ALL: &'static [Self] = &[$( Self::$choice ),+];

            const CHOICES: &'static [$crate::config::Choice] =
                &[$( $crate::config::Choice { name: $text, doc: &[$( $choice_doc ),+] } ),+];

            /// The text that names this value.
            $vis const fn name(self) -> &'static str {
                match self {
                    $( Self::$choice => $text ),+
                }
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.pad(self.name())
            }
        }

        impl ::std::str::FromStr for $name {
            type Err = $crate::config::ChoiceError;

            fn from_str(text: &str) -> ::std::result::Result<Self, Self::Err> {
                $crate::config::parse_choice(Self::CHOICES, text).map(|position| Self::ALL[position])
            }
        }

        impl $crate::config::Setting for $name {
            fn form() -> $crate::config::Form {
                $crate::config::Form::Choice(Self::CHOICES)
            }

            fn from_text(text: &str) -> ::std::result::Result<Self, $crate::config::ValueError> {
                Ok(text.parse::<Self>()?)
            }

            fn to_toml(&self) -> ::std::option::Option<$crate::config::TomlValue> {
                Some($crate::config::TomlValue::String(self.name().to_owned()))
            }
        }
    };
}
