//! The configuration, told: every setting with its value, where it came from and what it means.

use std::fmt::Write as _;

use rollbook_core::signature::SigningSecrets;
use serde_json::{Value, json};

use super::url::without_password;
use super::{Config, Kind, SETTINGS, Setting};
use crate::output::Table;

/// Stands where a setting has no value.
const NOT_SET: &str = "(not set)";
/// Stands where a URL can't be used.
const UNUSABLE: &str = "(not shown: it can't be used; rollbook doctor says why)";

impl Config {
    /// As a table. Nothing is shown of these URLs, which can't be used: what seems a host may be part of a password.
    pub(crate) fn table(&self, unusable: &[&str]) -> String {
        let mut table = Table::new(&["setting", "value", "from", "meaning"]);
        for setting in SETTINGS {
            let (value, from) = self.shown(setting, unusable);
            let value = value.unwrap_or_else(|| NOT_SET.to_owned());
            table.row([setting.key.to_owned(), value, from, setting.help.to_owned()]);
        }
        table.to_string()
    }

    /// As JSON: an object by key.
    pub(crate) fn json(&self, unusable: &[&str]) -> Value {
        let entry = |setting: &Setting| {
            let (value, from) = self.shown(setting, unusable);
            let entry = json!({
                "value": value,
                "from": from,
                "environment": setting.environment(),
                "flag": setting.flag().map(|flag| format!("--{flag}")),
                "default": setting.default,
                "meaning": setting.help,
            });
            (setting.key.to_owned(), entry)
        };
        Value::Object(SETTINGS.iter().map(entry).collect())
    }

    /// The value as it may be shown, and where it came from.
    fn shown(&self, setting: &Setting, unusable: &[&str]) -> (Option<String>, String) {
        let Some(given) = self.values.get(setting.key) else {
            return (None, "default".to_owned());
        };
        let shown = match setting.kind {
            Kind::Secret => match SigningSecrets::parse(&given.text) {
                Ok(secrets) if secrets.len() > 1 => format!("set, {} secrets", secrets.len()),
                _ => "set, 1 secret".to_owned(),
            },
            Kind::Url if unusable.contains(&setting.key) => UNUSABLE.to_owned(),
            Kind::Url => without_password(&given.text),
            _ => given.text.clone(),
        };
        (Some(shown), given.origin.to_string())
    }
}

/// A configuration file with every setting in it, each commented out and at its default. A test holds
/// `ops/rollbook.toml` against it.
pub(crate) fn sample() -> String {
    let mut text = String::from(
        "# Every setting of Rollbook, at its default. Remove the # before those that you change.\n\
         # Flags come before the environment, the environment before this file. What is in force, and\n\
         # where it came from: rollbook config\n\
         #\n\
         # Made by: rollbook config --sample\n",
    );
    for setting in SETTINGS {
        let value = match (setting.default, setting.kind) {
            (Some(default), Kind::Number(_) | Kind::Count(_)) => default.to_owned(),
            (Some(default), _) => format!("\"{default}\""),
            (None, _) => format!("\"{}\"", example(setting)),
        };
        let key = if setting.kind == Kind::Secret {
            format!("{}_file", setting.key)
        } else {
            setting.key.to_owned()
        };
        // Writing to a String can't fail.
        let _ = write!(
            text,
            "\n# {}\n# In the environment: {}\n#{key} = {value}\n",
            setting.help,
            names(setting)
        );
    }
    text
}

fn names(setting: &Setting) -> String {
    let name = setting.environment();
    if setting.may_be_in_file() { format!("{name}, or {name}_FILE with a path") } else { name }
}

/// What a setting without a default may look like.
fn example(setting: &Setting) -> &'static str {
    match setting.key {
        "queue_url" => "rediss://redis.internal:6379",
        "redis_url" => "redis://127.0.0.1:6379",
        "database_url" => "postgres://rollbook@127.0.0.1:5432/rollbook",
        "redis_ca_file" => "/etc/ssl/private-ca.pem",
        "clerk_instance_id" => "ins_…",
        "log_format" => "json",
        _ => "/run/secrets/…",
    }
}
