//! Settings as people read them: the reference and the values in effect.
//!
//! Owns the layout. Does not own the words, which stand at the settings' declarations.

use std::fmt::Write as _;

use super::catalog::{SectionEntry, SettingEntry};
use super::environment::{FILE_VARIABLE, PREFIX};
use super::load::{Loaded, catalog_of};
use super::section::Section;
use super::value::Form;

/// The page that documents every setting of `T`, in Markdown.
pub fn reference_markdown<T: Section>() -> String {
    let mut page = String::from("# Configuration\n\n");
    page.push_str(&introduction());
    for section in catalog_of(&T::default()).sections() {
        if !section.settings.is_empty() {
            add_section(&mut page, section);
        }
    }
    page
}

fn introduction() -> String {
    format!(
        "This page is generated from the program (`mallorn config reference`).\n\n\
         A value comes from its default, from the TOML file (`--config FILE`, or the variable `{FILE_VARIABLE}`), from \
         the environment, or from a flag; each of these overrides those before it. In the environment a setting is named \
         by its section and name after the prefix `{PREFIX}`, joined by two underscores, in any case; a list is written \
         with commas, and an empty text unsets an optional setting. `mallorn config show` prints the values in effect \
         and where each comes from.\n\n\
         A *size* is a number of bytes with a unit: B, kB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB (powers of \
         1024); a number alone is bytes. A *duration* is a number with one of the units ns, us, ms, s, min, h, d.\n"
    )
}

fn add_section(page: &mut String, section: &SectionEntry) {
    if section.key.is_empty() {
        page.push_str("\n## At the top of the file\n\n");
    } else {
        let _ = write!(page, "\n## `[{}]`\n\n", section.key);
    }
    let _ = write!(page, "{}\n\n", paragraph(section.doc));
    page.push_str("| Setting | Type | Default | Meaning |\n|---|---|---|---|\n");
    for setting in &section.settings {
        let default = setting.value.as_ref().map_or_else(|| "not set".to_owned(), |value| format!("`{value}`"));
        let cells = [format!("`{}`", setting.name), setting.form.name(), default, meaning(setting)];
        let cells = cells.map(|cell| cell.replace('|', "\\|").replace('\n', " "));
        let _ = writeln!(page, "| {} |", cells.join(" | "));
    }
}

/// The documentation, and that of each choice where there are some.
fn meaning(setting: &SettingEntry) -> String {
    let mut text = paragraph(setting.doc);
    let form = match &setting.form {
        Form::Optional(inner) | Form::List(inner) => inner.as_ref(),
        form => form,
    };
    if let Form::Choice(choices) = form {
        for choice in *choices {
            let _ = write!(text, "<br>`{}`: {}", choice.name, paragraph(choice.doc));
        }
    }
    text
}

fn paragraph(doc: &[&str]) -> String {
    doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ").trim().to_owned()
}

/// The values in effect as a TOML file that would give them again, each with where it came from.
pub fn effective_toml<T: Section>(loaded: &Loaded<T>) -> String {
    let mut file = String::new();
    for section in catalog_of(&loaded.value).sections().iter().filter(|section| !section.settings.is_empty()) {
        if !section.key.is_empty() {
            let _ = writeln!(file, "{}[{}]", if file.is_empty() { "" } else { "\n" }, section.key);
        }
        for setting in &section.settings {
            let origin = loaded.origin(&setting.key).to_string().replace(char::is_control, " ");
            let _ = match &setting.value {
                Some(value) => writeln!(file, "{} = {value} # {origin}", setting.name),
                None => writeln!(file, "# {} is not set # {origin}", setting.name),
            };
        }
    }
    file
}
