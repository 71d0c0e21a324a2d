//! Configuration file: TOML, one key per setting, and `[GROUP.NAME]` for settings that may occur several times.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::contents::CONFIGURATION_MAX;
use super::problem::{Origin, Problem};
use super::setting::{About, find};
use super::settings::{GROUPS, Groups, SETTINGS};
use super::source::{Given, Values};
use super::values::{self, wrong};
use crate::secrets::looks_secret;

/// File that is read if `--config` names no other. It may be missing.
pub(crate) const DEFAULT_PATH: &str = "rollbook.toml";

/// Adds the values of the file to `empty`. Without a `path`, the default file is read, which may be missing.
pub(crate) fn values(path: Option<&Path>, mut empty: Values, problems: &mut Vec<Problem>) -> Values {
    let asked_for = path.is_some();
    let path = path.unwrap_or(Path::new(DEFAULT_PATH));
    if let Err(wrong) = values::path(&path.to_string_lossy(), "file") {
        problems.push(Problem::of("--config", None, wrong));
        return empty;
    }
    match empty.contents.text(path, CONFIGURATION_MAX) {
        Ok(text) => parse(path, &text, GROUPS, empty, problems),
        Err(error) if error.kind() == ErrorKind::NotFound && !asked_for => empty,
        Err(error) => {
            let what = format!("{} can't be read ({error})", path.display());
            problems.push(Problem::of("--config", None, wrong(what, "name a readable file")));
            empty
        }
    }
}

/// Adds the values in a text to `empty`. Each `[GROUP.NAME]` is a separate set of settings.
pub(super) fn parse(
    path: &Path,
    text: &str,
    groups: &Groups,
    empty: Values,
    problems: &mut Vec<Problem>,
) -> Values {
    let origin = |at: usize| Origin::File { path: PathBuf::from(path), line: line(text, at) };
    let table = match DeTable::parse(text) {
        Ok(table) => table,
        Err(error) => {
            // Only the message: the whole error quotes the line, and the line may hold a secret.
            let what = format!("is not valid TOML: {}", error.message().trim_end());
            let wrong = wrong(what, "see ops/rollbook.toml for a sample");
            let origin = error.span().map(|span| origin(span.start));
            problems.push(Problem::of(path.display().to_string(), origin.as_ref(), wrong));
            return empty;
        }
    };
    let mut found = Found { origin: &origin, values: empty, problems };
    for (key, value) in table.get_ref() {
        let group = groups.iter().find(|(name, _)| key.get_ref() == name);
        match (group, value.get_ref()) {
            (Some((group, settings)), DeValue::Table(members)) => found.group(group, &settings(), members),
            _ => found.value("", &SETTINGS, key, value),
        }
    }
    found.values
}

/// Values and problems that are found while a file is read.
struct Found<'a> {
    origin: &'a dyn Fn(usize) -> Origin,
    values: Values,
    problems: &'a mut Vec<Problem>,
}

impl Found<'_> {
    /// Takes the value of one key.
    fn value(
        &mut self,
        prefix: &str,
        settings: &[&'static About],
        key: &Spanned<DeString<'_>>,
        value: &Spanned<DeValue<'_>>,
    ) {
        let (name, origin) = (key.get_ref(), (self.origin)(key.span().start));
        let (setting, is_file) =
            match find(settings, name, "_file", |setting| setting.key.to_owned(), "remove it") {
                Ok(found) => found,
                Err(fix) => return self.refuse(prefix, key, "there is no such setting", &fix),
            };
        let name = format!("{prefix}{}", setting.key);
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().to_owned(),
            DeValue::Boolean(value) => value.to_string(),
            _ => {
                let wrong = wrong("is neither a text nor a whole number", "write it in quotes");
                return self.problems.push(Problem::of(name, Some(&origin), wrong));
            }
        };
        self.values.give(&name, is_file, Given { setting, text, origin }, self.problems);
    }

    /// Takes the values of every member of a group.
    fn group(&mut self, group: &str, settings: &[&'static About], members: &DeTable<'_>) {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        let is_name = |name: &str| !name.is_empty() && name.bytes().all(is_plain);
        for (name, member) in members {
            match member.get_ref() {
                DeValue::Table(table) if is_name(name.get_ref()) => {
                    self.values.add_member(group, name.get_ref());
                    let prefix = format!("{group}.{}.", name.get_ref());
                    table.iter().for_each(|(key, value)| self.value(&prefix, settings, key, value));
                }
                _ => {
                    let fix = format!("write [{group}.NAME], with a NAME of letters, digits, _ and -");
                    self.refuse(&format!("{group}."), name, "is not a set of settings", &fix);
                }
            }
        }
    }

    /// Refuses a key, which is shown unless it looks like a secret.
    fn refuse(&mut self, prefix: &str, key: &Spanned<DeString<'_>>, what: &str, fix: &str) {
        let shown = if looks_secret(key.get_ref()) { "a key" } else { key.get_ref() };
        let origin = (self.origin)(key.span().start);
        self.problems.push(Problem::of(format!("{prefix}{shown}"), Some(&origin), wrong(what, fix)));
    }
}

/// Returns the number of the line with this byte, from one.
fn line(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Values, Vec<String>) {
        let mut problems = Vec::new();
        let values = parse(Path::new("test.toml"), text, GROUPS, Values::default(), &mut problems);
        (values, problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn texts_and_numbers_are_taken_with_their_line() {
        let (values, problems) = read("# a comment\nlisten = \"127.0.0.1:1\"\n\nlanes = 1_0\n");
        assert_eq!(problems, [""; 0]);
        let lanes = values.get("lanes").expect("it is there");
        assert_eq!((lanes.text.as_str(), lanes.origin.to_string()), ("10", "test.toml:4".to_owned()));
    }

    #[test]
    fn an_unknown_key_names_the_nearest_and_its_line() {
        let (_, problems) = read("lanes = 2\nlissen = \"x\"\n");
        assert_eq!(
            problems,
            [
                "lissen (test.toml:2): there is no such setting; did you mean listen? (rollbook config lists every setting)"
            ]
        );
    }

    #[test]
    fn a_broken_file_is_refused_with_its_line_and_never_quoted() {
        let (_, problems) = read("clerk_webhook_signing_secret = \"whsec_topsecret\nlanes = 2\n");
        assert_eq!(problems.len(), 1);
        assert!(problems[0].starts_with("test.toml (test.toml:1): is not valid TOML: "), "{problems:?}");
        assert!(!problems[0].contains("topsecret"), "{problems:?}");
    }

    #[test]
    fn a_table_a_list_and_a_fraction_are_refused_as_values_and_a_boolean_is_its_word() {
        let (_, problems) = read("lanes = [2]\nlisten = 1.5\n[log]\nlevel = 1\n");
        assert_eq!(problems.len(), 3, "{problems:?}");
        let (values, problems) = read("ledger = false\n");
        assert_eq!(problems, [""; 0]);
        assert_eq!(values.get("ledger").expect("it is there").text, "false");
    }
}
