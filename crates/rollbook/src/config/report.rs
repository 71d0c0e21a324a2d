//! Reports of the configuration: every setting with its value, where the value came from and what it means.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::Config;
use super::setting::{About, Kind};
use super::settings::{GROUPS, SETTINGS};
use super::source::Given;
use super::url::{without_password, without_path};
use crate::output::Table;

/// Shown for a setting without a value.
const NOT_SET: &str = "(not set)";
/// Shown for a URL that can't be used.
const UNUSABLE: &str = "(not shown: it can't be used; rollbook doctor says why)";

impl Config {
    /// Formats the report as a table. Nothing is shown of the URLs in `unusable`: what seems a host may be
    /// part of a password.
    pub(crate) fn table(&self, unusable: &[&str]) -> String {
        let mut table = Table::new(&["setting", "value", "from", "meaning"]);
        for (key, setting) in self.entries() {
            let (value, from) = self.shown(key, setting, unusable);
            let value = value.unwrap_or_else(|| NOT_SET.to_owned());
            table.row([key.to_owned(), value, from, setting.help.to_owned()]);
        }
        table.to_string()
    }

    /// Formats the report as JSON: an object by key.
    pub(crate) fn json(&self, unusable: &[&str]) -> Value {
        let entry = |(key, setting): (&str, &About)| {
            let (value, from) = self.shown(key, setting, unusable);
            // A setting of a group is in the file only.
            let is_alone = key == setting.key;
            let entry = json!({
                "value": value,
                "from": from,
                "environment": is_alone.then(|| setting.environment()),
                "flag": setting.flag().filter(|_| is_alone),
                "default": setting.default,
                "meaning": setting.help,
            });
            (key.to_owned(), entry)
        };
        Value::Object(self.entries().map(entry).collect())
    }

    /// Returns all settings by key. A setting of a group has the key `GROUP.NAME.KEY`, and is listed if a
    /// source gives it.
    fn entries(&self) -> impl Iterator<Item = (&str, &'static About)> {
        let in_group = |(key, given): (_, &Given)| (given.setting.key != key).then_some((key, given.setting));
        SETTINGS.iter().map(|setting| (setting.key, *setting)).chain(self.values.all().filter_map(in_group))
    }

    /// Returns the value as it may be shown, and its source.
    fn shown(&self, key: &str, setting: &About, unusable: &[&str]) -> (Option<String>, String) {
        let Some(given) = self.values.get(key) else {
            return (setting.default.map(str::to_owned), "default".to_owned());
        };
        let shown = match setting.kind {
            Kind::Secret => {
                let separators = |c: char| c == ',' || c.is_whitespace();
                match given.text.split(separators).filter(|secret| !secret.is_empty()).count() {
                    0 | 1 => "set, 1 secret".to_owned(),
                    count => format!("set, {count} secrets"),
                }
            }
            Kind::Url if unusable.contains(&setting.key) => UNUSABLE.to_owned(),
            Kind::Url => without_password(&given.text),
            Kind::Endpoint => without_path(&given.text),
            _ => given.text.clone(),
        };
        (Some(shown), given.origin.to_string())
    }
}

/// Returns a configuration file with every setting, each commented out and at its default. A test compares
/// `ops/rollbook.toml` with it.
pub(crate) fn sample() -> String {
    let mut text = String::from(
        "# Every setting of Rollbook, at its default. Remove the # before those that you change.\n\
         # Flags come before the environment, the environment before this file. What is in force, and\n\
         # where it came from: rollbook config\n\
         #\n\
         # Made by: rollbook config --sample\n",
    );
    for setting in SETTINGS.iter() {
        // Writing to a String can't fail.
        let _ = write!(
            text,
            "\n# {}\n# In the environment: {}\n#{}\n",
            setting.help,
            names(setting),
            sample_line(setting)
        );
    }
    for (group, settings) in GROUPS {
        let _ = write!(
            text,
            "\n# One section for each {group}, with a name of your choice. In the file only.\n#[{group}.name]\n"
        );
        for setting in settings() {
            let _ = write!(text, "\n# {}\n#{}\n", setting.help, sample_line(setting));
        }
    }
    text
}

/// Returns the line of a setting, at its default or with its example.
fn sample_line(setting: &About) -> String {
    let value = match (setting.default, &setting.kind) {
        (Some(default), Kind::Number(_) | Kind::Count(_)) => default.to_owned(),
        (Some(default), _) => format!("\"{default}\""),
        (None, _) => format!("\"{}\"", setting.example),
    };
    let suffix = if setting.kind == Kind::Secret { "_file" } else { "" };
    format!("{}{suffix} = {value}", setting.key)
}

fn names(setting: &About) -> String {
    let name = setting.environment();
    if setting.may_be_in_file() { format!("{name}, or {name}_FILE with a path") } else { name }
}
