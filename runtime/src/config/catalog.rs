//! The list of all settings of a root: what the reference, the view of the values in effect and suggestions work from.
//!
//! Owns the entries. Does not own how they come about (`section`) nor how they are printed (`render`).

use super::value::Form;

/// One setting with the value it had when it was described.
#[derive(Clone, Debug)]
pub struct SettingEntry {
    /// The whole key: `worker.memory`.
    pub key: String,
    /// Its last part: `memory`.
    pub name: &'static str,
    /// What values look like.
    pub form: Form,
    /// Lines of documentation as written in the source.
    pub doc: &'static [&'static str],
    /// The value; `None` where an optional one is not set.
    pub value: Option<toml::Value>,
}

/// One section with the settings directly in it.
#[derive(Clone, Debug)]
pub struct SectionEntry {
    /// The whole key: `worker`; empty for the root.
    pub key: String,
    /// Lines of documentation as written in the source.
    pub doc: &'static [&'static str],
    /// Its settings in the order of their declaration.
    pub settings: Vec<SettingEntry>,
}

/// All sections and settings, in the order of their declaration.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    sections: Vec<SectionEntry>,
}

impl Catalog {
    /// The sections, the root first.
    pub fn sections(&self) -> &[SectionEntry] {
        &self.sections
    }

    /// The settings of all sections.
    pub fn settings(&self) -> impl Iterator<Item = &SettingEntry> {
        self.sections.iter().flat_map(|section| section.settings.iter())
    }

    /// The setting with this key.
    pub fn setting(&self, key: &str) -> Option<&SettingEntry> {
        self.settings().find(|setting| setting.key == key)
    }

    /// Starts a section; the answer names it to [`Catalog::add`].
    pub fn open(&mut self, key: &str, doc: &'static [&'static str]) -> usize {
        self.sections.push(SectionEntry { key: key.to_owned(), doc, settings: Vec::new() });
        self.sections.len() - 1
    }

    /// Adds a setting to the section that [`Catalog::open`] answered with.
    pub fn add(&mut self, section: usize, setting: SettingEntry) {
        self.sections[section].settings.push(setting);
    }

    /// Whether `key` names a section.
    pub(super) fn is_section(&self, key: &str) -> bool {
        self.sections.iter().any(|section| section.key == key)
    }
}
