//! Reports of the configuration: every setting with its value, where the value came from and what it means.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::Config;
use super::setting::{About, Kind};
use super::settings::{GROUPS, SETTINGS};
use super::source::Given;
use super::url::{without_password, without_path};
use super::values::jwt_key;
use crate::output::{columns_of, harmless};

/// Shown for a setting without a value.
const NOT_SET: &str = "(not set)";
/// Columns of the report.
const WIDTH: usize = 100;
/// Indentation of the meaning, and of what continues on the next line.
const INDENT: &str = "    ";
/// Shown for a URL that can't be used.
const UNUSABLE: &str = "(not shown: it can't be used; rollbook doctor says why)";

impl Config {
    /// Formats the report as text of at most [`WIDTH`] columns: a line with the value and its source, and the meaning
    /// below. Nothing is shown of the URLs in `unusable`: what seems a host may be part of a password.
    pub(crate) fn text(&self, unusable: &[&str]) -> String {
        let mut text = String::new();
        for (key, setting) in self.entries() {
            let (value, from) = self.shown(key, setting, unusable);
            let value = value.unwrap_or_else(|| NOT_SET.to_owned());
            wrap(&mut text, "", &harmless(&format!("{key} = {value} ({from})")));
            wrap(&mut text, INDENT, setting.help);
        }
        for hint in &self.hints {
            wrap(&mut text, "", &harmless(&hint.to_string()));
        }
        text.push_str(
            "\nEach setting is also a flag, with - for _: --data-dir. A secret or a public key has no flag.\n\
             In the environment it is ROLLBOOK_ and its name in capitals; ops/CONFIG.md names the others.\n",
        );
        text
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
            Kind::PublicKeys => match jwt_key(&given.text).map_or(1, |keys| keys.len()) {
                1 => "set, 1 public key".to_owned(),
                count => format!("set, {count} public keys"),
            },
            Kind::Url if unusable.contains(&setting.key) => UNUSABLE.to_owned(),
            Kind::Url => without_password(&given.text),
            Kind::Endpoint => without_path(&given.text),
            _ => given.text.clone(),
        };
        (Some(shown), given.origin.to_string())
    }
}

/// Adds a text in lines of at most [`WIDTH`] columns. Breaks between words, and a longer word at the last column.
fn wrap(text: &mut String, indent: &str, words: &str) {
    let mut line = indent.to_owned();
    let mut used = indent.len();
    let mut is_empty = true;
    let mut end_line = |line: &mut String, used: &mut usize| {
        text.push_str(line.trim_end());
        text.push('\n');
        INDENT.clone_into(line);
        *used = INDENT.len();
    };
    for word in words.split(' ') {
        if !is_empty {
            if used + 1 + columns_of(word) > WIDTH {
                end_line(&mut line, &mut used);
            } else {
                line.push(' ');
                used += 1;
            }
        }
        for letter in word.chars() {
            let columns = columns_of(letter.encode_utf8(&mut [0; 4]));
            if used + columns > WIDTH {
                end_line(&mut line, &mut used);
            }
            line.push(letter);
            used += columns;
        }
        is_empty = false;
    }
    end_line(&mut line, &mut used);
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
    let suffix = if matches!(setting.kind, Kind::Secret | Kind::PublicKeys) { "_file" } else { "" };
    format!("{}{suffix} = {value}", setting.key)
}

fn names(setting: &About) -> String {
    let name = setting.environment();
    if setting.may_be_in_file() { format!("{name}, or {name}_FILE with a path") } else { name }
}

#[cfg(test)]
mod tests {
    use rollbook_testkit::tokens::Signer;

    use super::super::{Environment, FileSource, Sources};
    use super::*;

    #[test]
    fn the_report_fits_its_width_and_leaves_nothing_out_with_values_of_any_length() {
        let long = "x".repeat(150);
        let paths =
            (0..12).map(|number| format!("/api/webhooks/clerk-{number}")).collect::<Vec<_>>().join(",");
        let values = [
            ("ROLLBOOK_DATA_DIR", format!("/srv/{long}/{long}")),
            ("ROLLBOOK_WEBHOOK_PATH", paths),
            ("ROLLBOOK_QUEUE_URL", format!("rediss://{}.internal:6379/1", "q".repeat(60))),
            ("DATABASE_URL", format!("postgres://me@{}.internal/{long}", "d".repeat(60))),
            ("ROLLBOOK_REDIS_CA_FILE", format!("/etc/{long}")),
            ("ROLLBOOK_LOG", ["rollbook_worker=debug"; 12].join(",")),
            ("CLERK_INSTANCE_ID", format!("ins_{}", "i".repeat(40))),
        ];
        let environment: Vec<(&str, &str)> =
            values.iter().map(|(name, value)| (*name, value.as_str())).collect();
        for environment in [&environment[..], &[]] {
            let sources =
                Sources { flags: &[], environment: Environment::of(environment), file: FileSource::None };
            let config = Config::load(&sources).unwrap_or_else(|problems| panic!("{problems}"));
            let text = config.text(&[]);
            let wide: Vec<&str> = text.lines().filter(|line| columns_of(line) > WIDTH).collect();
            assert!(wide.is_empty(), "{wide:#?}");
            assert!(text.lines().all(|line| !line.ends_with(' ')), "{text}");
            let joined: String = text.split_whitespace().collect();
            for setting in SETTINGS.iter() {
                let help: String = setting.help.split_whitespace().collect();
                assert!(joined.contains(&help), "{} has no meaning", setting.key);
                let (value, from) = config.shown(setting.key, setting, &[]);
                let line = format!("{}={}({from})", setting.key, value.as_deref().unwrap_or(NOT_SET));
                let line: String = line.split_whitespace().collect();
                assert!(joined.contains(&line), "{line}");
            }
        }
    }

    #[test]
    fn public_keys_are_counted_as_keys() {
        let signers = [Signer::of_the_instance(), Signer::of_another_instance()];
        let keys = signers.each_ref().map(Signer::pem);
        for (text, shown) in [
            (keys[0].clone(), "set, 1 public key"),
            (keys[0].trim().replace('\n', "\\n"), "set, 1 public key"),
            (keys.concat(), "set, 2 public keys"),
        ] {
            let environment =
                Environment::of(&[("CLERK_ISSUER", "https://clerk.example.com"), ("CLERK_JWT_KEY", &text)]);
            let config = Config::load(&Sources { flags: &[], environment, file: FileSource::None });
            let config = config.unwrap_or_else(|problems| panic!("{problems}"));
            assert_eq!(config.json(&[])["clerk_jwt_key"]["value"], json!(shown));
        }
    }

    #[test]
    fn a_text_is_broken_between_words_and_a_long_word_at_the_last_column() {
        let mut text = String::new();
        wrap(&mut text, "", &format!("key = {} (flag)", "x".repeat(300)));
        wrap(&mut text, INDENT, &"漢字 ".repeat(60));
        wrap(&mut text, "", &"y".repeat(WIDTH));
        assert!(text.lines().all(|line| columns_of(line) <= WIDTH), "{text}");
        let joined: String = text.split_whitespace().collect();
        assert_eq!(joined.matches('x').count(), 300, "nothing is left out");
        assert!(text.ends_with(&format!("\n{}\n", "y".repeat(WIDTH))), "{text}");
    }
}
