//! Sections: structs of settings, declared once by a macro.
//!
//! Owns the macro and the traits through which loading, checking and describing walk over a struct. Does not own the
//! sources of values (`load`) nor the types of single settings (`value`).
//!
//! A field of a section is either a setting or another section; both are [`Field`]s, so that the macro need not know.

use std::collections::BTreeMap;

use thiserror::Error;

use super::catalog::{Catalog, SettingEntry};
use super::error::Origin;
use super::value::{Form, Setting, ValueError};

/// `name` below `key`; the root's key is empty.
pub fn join(key: &str, name: &str) -> String {
    if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") }
}

/// A value that a section refuses after all values are read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("`{key}` {why}")]
pub struct Invalid {
    /// The setting, relative to the section: `memory`, or `admin.listen` for one of a section within.
    pub key: &'static str,
    /// Completes "`memory` ...": "must be at least 16MiB".
    pub why: String,
}

impl Invalid {
    /// Refuses the setting `key` of the section; `why` completes "`key` ...".
    pub fn new(key: &'static str, why: impl Into<String>) -> Self {
        Self { key, why: why.into() }
    }
}

/// Rules about values that types can't say: least sizes, one setting against another.
pub trait Check {
    /// Refuses the first setting that breaks a rule. It runs once all values have been read, each of the right type.
    fn check(&self) -> Result<(), Invalid> {
        Ok(())
    }
}

/// A struct of settings made by [`settings!`](crate::settings).
pub trait Section: Field + Check + Default {}

/// Where a field stands in the tree of sections.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The key of the section around it; empty for the root.
    pub section_key: &'a str,
    /// That section in the catalog.
    pub section: usize,
    /// The field's name.
    pub name: &'static str,
    /// Lines of documentation as written in the source.
    pub doc: &'static [&'static str],
}

impl Place<'_> {
    /// The field's whole key.
    pub fn key(&self) -> String {
        join(self.section_key, self.name)
    }
}

/// What a section may hold: a setting, or a section.
pub trait Field: Sized {
    /// Adds itself, with its present value, to the catalog.
    fn describe(&self, place: Place<'_>, catalog: &mut Catalog);

    /// Takes the values meant for it out of the layer.
    fn apply(&mut self, key: &str, layer: &mut Layer);

    /// Runs the checks of the sections in it.
    fn check_all(&self, key: &str, refusals: &mut Vec<(String, String)>);
}

impl<T: Setting> Field for T {
    fn describe(&self, place: Place<'_>, catalog: &mut Catalog) {
        let setting =
            SettingEntry { key: place.key(), name: place.name, form: T::form(), doc: place.doc, value: self.to_toml() };
        catalog.add(place.section, setting);
    }

    fn apply(&mut self, key: &str, layer: &mut Layer) {
        if let Some(value) = layer.take::<T>(key) {
            *self = value;
        }
    }

    fn check_all(&self, _key: &str, _refusals: &mut Vec<(String, String)>) {}
}

/// A value as a source gave it.
#[derive(Clone, Debug)]
pub(super) enum Given {
    Typed(toml::Value),
    Text(String),
}

/// A value that its setting's type refused.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub(super) key: String,
    pub(super) origin: Origin,
    pub(super) given: Given,
    pub(super) why: ValueError,
    pub(super) form: Form,
}

/// The values of one source, by key, on their way into a struct.
#[derive(Debug, Default)]
pub struct Layer {
    pub(super) values: BTreeMap<String, (Given, Origin)>,
    pub(super) taken: BTreeMap<String, Origin>,
    pub(super) refusals: Vec<Refusal>,
}

impl Layer {
    /// Takes the value with this key out, if there is one and it fits; one that does not is noted as refused.
    pub fn take<T: Setting>(&mut self, key: &str) -> Option<T> {
        let (given, origin) = self.values.remove(key)?;
        let read = match &given {
            Given::Typed(value) => T::from_typed(value),
            Given::Text(text) => T::from_text(text),
        };
        match read {
            Ok(value) => {
                self.taken.insert(key.to_owned(), origin);
                Some(value)
            }
            Err(why) => {
                self.refusals.push(Refusal { key: key.to_owned(), origin, given, why, form: T::form() });
                None
            }
        }
    }
}

/// Declares a section: a struct of settings with their types, defaults and documentation, each said once.
///
/// A field's type is a [`Setting`](crate::config::Setting) or another section. Its default is given after `=`, or is
/// that of the type. Every field must be documented: the text is both rustdoc and the reference.
///
/// Generates the struct (`Clone`, `Debug`, `PartialEq`), `Default`, and what the loader and the reference need. The rules
/// about its values are written by hand as [`Check`](crate::config::Check), if only `impl Check for X {}`.
///
/// ```
/// use mallorn_runtime::config::{ByteSize, Check, Invalid, Loader};
///
/// mallorn_runtime::settings! {
///     /// Settings of a worker.
///     pub struct WorkerConfig {
///         /// Bytes of memory for shuffle data.
///         pub memory: ByteSize = ByteSize::mib(64),
///         /// Name shown to people.
///         pub name: Option<String>,
///     }
/// }
///
/// impl Check for WorkerConfig {
///     fn check(&self) -> Result<(), Invalid> {
///         if self.memory < ByteSize::mib(16) {
///             return Err(Invalid::new("memory", "must be at least 16MiB"));
///         }
///         Ok(())
///     }
/// }
///
/// let loaded = Loader::new().toml("worker.toml", "memory = '32MiB'").load::<WorkerConfig>().unwrap();
/// assert_eq!(loaded.value.memory, ByteSize::mib(32));
/// assert_eq!(loaded.origin("memory").to_string(), "worker.toml:1");
/// ```
#[macro_export]
macro_rules! settings {
    (@default) => {
        ::std::default::Default::default()
    };
    (@default $default:expr) => {
        $default
    };
    (
        $(#[doc = $doc:literal])+
        $vis:vis struct $name:ident {
            $( $(#[doc = $field_doc:literal])+ $field_vis:vis $field:ident : $kind:ty $(= $default:expr)? ),+ $(,)?
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq)]
        $vis struct $name {
            $( $(#[doc = $field_doc])+ $field_vis $field: $kind ),+
        }

        impl ::std::default::Default for $name {
            fn default() -> Self {
                Self { $( $field: $crate::settings!(@default $($default)?) ),+ }
            }
        }

        impl $crate::config::Field for $name {
            fn describe(&self, place: $crate::config::Place<'_>, catalog: &mut $crate::config::Catalog) {
                let key = place.key();
                let section = catalog.open(&key, &[$( $doc ),+]);
                $(
                    let place = $crate::config::Place {
                        section_key: &key,
                        section,
                        name: stringify!($field),
                        doc: &[$( $field_doc ),+],
                    };
                    $crate::config::Field::describe(&self.$field, place, catalog);
                )+
            }

            fn apply(&mut self, key: &str, layer: &mut $crate::config::Layer) {
                $(
                    let field_key = $crate::config::join(key, stringify!($field));
                    $crate::config::Field::apply(&mut self.$field, &field_key, layer);
                )+
            }

            fn check_all(
                &self,
                key: &str,
                refusals: &mut ::std::vec::Vec<(::std::string::String, ::std::string::String)>,
            ) {
                $(
                    let field_key = $crate::config::join(key, stringify!($field));
                    $crate::config::Field::check_all(&self.$field, &field_key, refusals);
                )+
                if let ::std::result::Result::Err(invalid) = $crate::config::Check::check(self) {
                    refusals.push(($crate::config::join(key, invalid.key), invalid.why));
                }
            }
        }

        impl $crate::config::Section for $name {}
    };
}
