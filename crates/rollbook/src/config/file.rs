//! The configuration file: TOML, one plain key per setting.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::problem::{Origin, Problem};
use super::settings::{SETTINGS, Setting};
use super::source::{Given, Values};
use super::values::looks_secret;
use crate::nearest::nearest;

/// Read when `--config` names no other; it need not be there.
pub(crate) const DEFAULT_PATH: &str = "rollbook.toml";

/// What the file says. With no `path`, the default file, which may be missing.
pub(crate) fn values(path: Option<&Path>, problems: &mut Vec<Problem>) -> Values {
    let asked_for = path.is_some();
    let path = path.unwrap_or(Path::new(DEFAULT_PATH));
    match std::fs::read_to_string(path) {
        Ok(text) => parse(path, &text, problems),
        Err(error) if error.kind() == ErrorKind::NotFound && !asked_for => Values::default(),
        Err(error) => {
            problems.push(Problem {
                name: "--config".to_owned(),
                origin: None,
                wrong: format!("{} can't be read ({error})", path.display()),
                mend: "name a readable file".to_owned(),
            });
            Values::default()
        }
    }
}

fn parse(path: &Path, text: &str, problems: &mut Vec<Problem>) -> Values {
    let origin = |at: usize| Origin::File { path: PathBuf::from(path), line: line(text, at) };
    let table = match DeTable::parse(text) {
        Ok(table) => table,
        Err(error) => {
            // Only the message: the whole error quotes the line, and the line may hold a secret.
            problems.push(Problem {
                name: path.display().to_string(),
                origin: error.span().map(|span| origin(span.start)),
                wrong: format!("is no TOML: {}", error.message().trim_end()),
                mend: "see ops/rollbook.toml for a sample".to_owned(),
            });
            return Values::default();
        }
    };
    let mut values = Values::default();
    for (key, value) in table.get_ref() {
        let origin = origin(key.span().start);
        let mut refuse = |name: &str, wrong: &str, mend: String| {
            problems.push(Problem {
                name: name.to_owned(),
                origin: Some(origin.clone()),
                wrong: wrong.to_owned(),
                mend,
            });
        };
        let Some((setting, is_file)) = known(key.get_ref()) else {
            let name = if looks_secret(key.get_ref()) { "a key" } else { key.get_ref() };
            refuse(name, "there is no such setting", mend_unknown(key.get_ref()));
            continue;
        };
        let given = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().to_owned(),
            _ => {
                refuse(setting.key, "is neither a text nor a number", "write it in quotes".to_owned());
                continue;
            }
        };
        values.give(setting, is_file, Given { text: given, origin }, problems);
    }
    values
}

/// The line that this byte of the text is on, from one.
fn line(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

/// The setting of this key, and whether the key is that of a file which holds the value.
fn known(key: &str) -> Option<(&'static Setting, bool)> {
    SETTINGS.iter().find_map(|setting| {
        if key == setting.key {
            return Some((setting, false));
        }
        (setting.may_be_in_file() && key.strip_suffix("_file") == Some(setting.key))
            .then_some((setting, true))
    })
}

fn mend_unknown(key: &str) -> String {
    match nearest(key, SETTINGS.iter().map(|setting| setting.key.to_owned())) {
        Some(meant) => format!("did you mean {meant}? (rollbook config lists every setting)"),
        None => "remove it (rollbook config lists every setting)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Values, Vec<String>) {
        let mut problems = Vec::new();
        let values = parse(Path::new("test.toml"), text, &mut problems);
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
    fn a_broken_file_is_told_by_its_line_and_never_quoted() {
        let (_, problems) = read("clerk_webhook_signing_secret = \"whsec_topsecret\nlanes = 2\n");
        assert_eq!(problems.len(), 1);
        assert!(problems[0].starts_with("test.toml (test.toml:1): is no TOML: "), "{problems:?}");
        assert!(!problems[0].contains("topsecret"), "{problems:?}");
    }

    #[test]
    fn a_table_a_list_and_a_switch_are_no_values() {
        let (_, problems) = read("lanes = [2]\nlisten = true\n[log]\nlevel = 1\n");
        assert_eq!(problems.len(), 3, "{problems:?}");
    }
}
