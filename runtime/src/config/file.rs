//! Settings in a TOML file.
//!
//! Owns the way from text to values by key, each with its line. Does not own what the keys mean.

use std::path::Path;

use serde::Deserialize;
use toml::de::{DeTable, DeValue, Error, ValueDeserializer};

use super::error::{ConfigError, Origin};
use super::section::{Given, Layer};

/// Largest file read, in bytes: a thousand times what all settings with their documentation take.
pub(super) const BYTES_MAX: u64 = 1 << 20;

/// Reads `text`; `path` is its name in messages and origins.
pub(super) fn parse(path: &Path, text: &str) -> Result<Layer, ConfigError> {
    let newlines = text.match_indices('\n').map(|(position, _)| position + 1);
    let document = Document { path, text, line_starts: std::iter::once(0).chain(newlines).collect() };
    let table = DeTable::parse(text).map_err(|error| document.syntax(&error))?;
    let mut layer = Layer::default();
    document.flatten("", table.into_inner(), &mut layer)?;
    Ok(layer)
}

struct Document<'a> {
    path: &'a Path,
    text: &'a str,
    /// The first byte of each line.
    line_starts: Vec<usize>,
}

impl<'a> Document<'a> {
    /// Puts every value that is no table into the layer, and every table that is empty: it may be misnamed too.
    fn flatten(&self, key: &str, table: DeTable<'a>, layer: &mut Layer) -> Result<(), ConfigError> {
        for (name, value) in table {
            let (line, _) = self.position(name.span().start);
            let key = below(key, name.get_ref());
            let span = value.span();
            match value.into_inner() {
                DeValue::Table(table) if !table.is_empty() => self.flatten(&key, table, layer)?,
                leaf => {
                    let leaf = ValueDeserializer::from(toml::Spanned::new(span, leaf));
                    let value = toml::Value::deserialize(leaf).map_err(|error| self.syntax_at(line, &error))?;
                    let origin = Origin::File { path: self.path.to_owned(), line };
                    layer.values.insert(key, (Given::Typed(value), origin));
                }
            }
        }
        Ok(())
    }

    fn syntax(&self, error: &Error) -> ConfigError {
        let (line, column) = self.position(error.span().map_or(0, |span| span.start));
        self.error(line, column, error)
    }

    fn syntax_at(&self, line: usize, error: &Error) -> ConfigError {
        match error.span() {
            Some(_) => self.syntax(error),
            None => self.error(line, 1, error),
        }
    }

    fn error(&self, line: usize, column: usize, error: &Error) -> ConfigError {
        let message = error.message().replace('\n', "; ");
        ConfigError::Syntax { path: self.path.to_owned(), line, column, message }
    }

    /// Line and column of a byte of the text, both counted from 1.
    fn position(&self, byte: usize) -> (usize, usize) {
        let line = self.line_starts.partition_point(|start| *start <= byte);
        let start = self.line_starts[line.saturating_sub(1)];
        let column = self.text.get(start..byte).map_or(1, |before| before.chars().count() + 1);
        (line, column)
    }
}

/// A name with a point in it is quoted, as TOML does, so that it is not taken for two.
fn below(key: &str, name: &str) -> String {
    let quoted = format!("{name:?}");
    super::section::join(key, if name.contains('.') || name.is_empty() { &quoted } else { name })
}
