//! Loading: the sources one over the other, then the checks.
//!
//! Owns precedence, origins and the list of everything that is wrong. Does not own the sources themselves (`file`,
//! `environment`).

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::catalog::Catalog;
use super::environment::Variables;
use super::error::{ConfigError, Origin, Problem, cut};
use super::file;
use super::nearest::nearest;
use super::section::{Given, Layer, Place, Section};
use crate::disk::Disk;

/// Most problems that are looked into and listed; the rest is counted.
const PROBLEMS_MAX: usize = 20;

/// Gathers the sources of settings. The order of calls counts for nothing but among flags, where the last wins.
#[derive(Clone, Debug, Default)]
pub struct Loader {
    file: Option<PathBuf>,
    text: Option<(PathBuf, String)>,
    variables: Variables,
    flags: Vec<(String, Given, String)>,
    problems: Vec<Problem>,
}

/// Settings with what is known about where they came from.
#[derive(Clone, Debug)]
pub struct Loaded<T> {
    /// The settings.
    pub value: T,
    origins: BTreeMap<String, Origin>,
}

impl<T> Loaded<T> {
    /// Where the value of `key` came from.
    pub fn origin(&self, key: &str) -> &Origin {
        self.origins.get(key).unwrap_or(&Origin::Default)
    }
}

impl Loader {
    /// Defaults only, until a source is added.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads this TOML file, which must exist. It is read by [`Loader::load`]. Without this call the environment may
    /// name one ([`FILE_VARIABLE`](super::FILE_VARIABLE)).
    pub fn file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(path.into());
        self
    }

    /// Uses this text in place of a file; `name` stands for the file in messages.
    pub fn toml(mut self, name: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        self.text = Some((name.into(), text.into()));
        self
    }

    /// Adds the variables among these that are ours, by their names.
    pub fn environment(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        for (name, text) in variables {
            self.variables.add(name, text);
        }
        self
    }

    /// Adds the variables of this process.
    pub fn process_environment(mut self) -> Self {
        self.variables = Variables::of_process();
        self
    }

    /// Sets one key by a flag, whose name is told to people who ask where the value comes from.
    pub fn set(mut self, key: impl Into<String>, value: impl ToString, flag: impl Into<String>) -> Self {
        self.flags.push((key.into(), Given::Text(value.to_string()), flag.into()));
        self
    }

    /// As [`Loader::set`], if the flag was given.
    pub fn set_some(self, key: impl Into<String>, value: Option<impl ToString>, flag: impl Into<String>) -> Self {
        match value {
            Some(value) => self.set(key, value, flag),
            None => self,
        }
    }

    /// Sets a list by a flag that may be repeated; given no item, it leaves the list as it is.
    pub fn set_list(
        mut self,
        key: impl Into<String>,
        items: impl IntoIterator<Item = impl ToString>,
        flag: impl Into<String>,
    ) -> Self {
        let items: Vec<_> = items.into_iter().map(|item| toml::Value::String(item.to_string())).collect();
        if !items.is_empty() {
            self.flags.push((key.into(), Given::Typed(toml::Value::Array(items)), flag.into()));
        }
        self
    }

    /// Sets what a flag like `--set worker.memory=2GiB` says.
    pub fn assign(mut self, assignment: &str, flag: &str) -> Self {
        match assignment.split_once('=') {
            Some((key, value)) => self.set(key.trim(), value.trim(), flag),
            None => {
                self.problems.push(Problem::NotAssignment { flag: flag.to_owned(), given: cut(assignment) });
                self
            }
        }
    }

    /// Reads everything, each source over those before it, and checks the result. All problems are reported at once,
    /// but for a file that can't be read or parsed, which leaves nothing to look at.
    pub fn load<T: Section>(mut self) -> Result<Loaded<T>, ConfigError> {
        let mut problems = std::mem::take(&mut self.problems);
        problems.append(&mut self.variables.problems);
        let mut loaded = Loaded { value: T::default(), origins: BTreeMap::new() };
        let catalog = catalog_of(&loaded.value);
        let mut unknown = Vec::new();
        for mut layer in self.layers()? {
            loaded.value.apply("", &mut layer);
            loaded.origins.append(&mut layer.taken);
            problems.extend(layer.refusals.into_iter().map(Problem::from));
            unknown.extend(layer.values);
        }
        let mut unlisted = 0;
        for (key, (given, origin)) in unknown {
            if problems.len() < PROBLEMS_MAX {
                problems.extend(unknown_problem(&catalog, &key, &given, origin));
            } else {
                unlisted += 1;
            }
        }
        if problems.is_empty() {
            problems = check(&loaded);
        }
        if problems.is_empty() { Ok(loaded) } else { Err(ConfigError::Settings { problems, unlisted }) }
    }

    /// The sources, lowest precedence first.
    fn layers(self) -> Result<Vec<Layer>, ConfigError> {
        let mut layers = Vec::with_capacity(3);
        let path = self.file.or_else(|| self.variables.file.clone().map(PathBuf::from));
        match (self.text, path) {
            (Some((name, text)), _) => layers.push(file::parse(&name, &text)?),
            (None, Some(path)) => {
                let bytes = Disk::real().read(&path, file::BYTES_MAX)?;
                let text = String::from_utf8(bytes).map_err(|error| ConfigError::Encoding {
                    path: path.clone(),
                    valid_bytes: error.utf8_error().valid_up_to(),
                })?;
                layers.push(file::parse(&path, &text)?);
            }
            (None, None) => {}
        }
        layers.push(self.variables.layer());
        let mut flags = Layer::default();
        for (key, given, name) in self.flags {
            flags.values.insert(key, (given, Origin::Flag { name }));
        }
        layers.push(flags);
        Ok(layers)
    }
}

/// Every section and setting of `root` with its present values.
pub(super) fn catalog_of<T: Section>(root: &T) -> Catalog {
    let mut catalog = Catalog::default();
    root.describe(Place { section_key: "", section: 0, name: "", doc: &[] }, &mut catalog);
    catalog
}

/// What is wrong with a key that no setting took; nothing, if it is an empty section of ours.
fn unknown_problem(catalog: &Catalog, key: &str, given: &Given, origin: Origin) -> Option<Problem> {
    let is_empty_table = matches!(given, Given::Typed(toml::Value::Table(table)) if table.is_empty());
    if catalog.is_section(key) {
        return (!is_empty_table).then(|| Problem::IsSection { key: key.to_owned(), origin });
    }
    let above = key.match_indices('.').find_map(|(point, _)| catalog.setting(&key[..point]));
    if let Some(setting) = above {
        return Some(Problem::IsSetting { key: setting.key.clone(), origin, form: setting.form.to_string() });
    }
    let sections = catalog.sections().iter().map(|section| section.key.as_str()).filter(|key| !key.is_empty());
    let keys = || catalog.settings().map(|setting| setting.key.as_str());
    let near =
        if is_empty_table { nearest(key, sections) } else { nearest(key, keys()).or_else(|| elsewhere(key, keys())) };
    Some(Problem::unknown(key, origin, near))
}

/// The setting of the same name in another section: its section was forgotten or mistaken.
fn elsewhere<'a>(key: &str, mut known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name = key.rsplit('.').next().unwrap_or(key);
    known.find(|key| key.rsplit('.').next() == Some(name))
}

fn check<T: Section>(loaded: &Loaded<T>) -> Vec<Problem> {
    let catalog = catalog_of(&loaded.value);
    let mut refusals = Vec::new();
    loaded.value.check_all("", &mut refusals);
    let problem = |(key, why): (String, String)| {
        let value = catalog.setting(&key).and_then(|setting| setting.value.as_ref());
        let given = value.map_or_else(|| "not set".to_owned(), |value| cut(&value.to_string()));
        Problem::Invalid { origin: loaded.origin(&key).clone(), key, given, why }
    };
    refusals.into_iter().map(problem).collect()
}
