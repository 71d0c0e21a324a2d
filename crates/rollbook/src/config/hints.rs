//! Variables of the environment that are probably meant for a setting that no source gives.
//!
//! An unknown `ROLLBOOK_…` is refused. Other programs share the environment, so another name is only a hint.

use std::fmt;

use super::environment::Environment;
use super::setting::About;
use super::settings::SETTINGS;
use super::source::Values;

/// Minimum similarity of a name, up to 1.0: a letter or two of difference.
const ALIKE_MIN: f64 = 0.8;

/// Names for a setting in other software and in older documentation: (name, key of the setting).
const OTHER_NAMES: [(&str, &str); 8] = [
    ("CLERK_WEBHOOK_SECRET", "clerk_webhook_signing_secret"),
    ("CLERK_SIGNING_SECRET", "clerk_webhook_signing_secret"),
    ("WEBHOOK_SIGNING_SECRET", "clerk_webhook_signing_secret"),
    ("WEBHOOK_SECRET", "clerk_webhook_signing_secret"),
    ("SIGNING_SECRET", "clerk_webhook_signing_secret"),
    ("SVIX_SECRET", "clerk_webhook_signing_secret"),
    ("CLERK_API_KEY", "clerk_secret_key"),
    ("POSTGRES_URL", "database_url"),
];

/// A variable that is set and not read, and the variable that was probably meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hint {
    /// The variable that is set.
    pub(crate) variable: String,
    /// The variable that is read.
    pub(crate) meant: String,
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is set, and Rollbook does not read it: did you mean {}?", self.variable, self.meant)
    }
}

/// Returns the hints for settings that no source gives.
pub(super) fn of(environment: &Environment, given: &Values) -> Vec<Hint> {
    let missing: Vec<&About> =
        SETTINGS.iter().copied().filter(|setting| given.get(setting.key).is_none()).collect();
    environment.names().filter_map(|name| hint(name, &missing)).collect()
}

fn hint(name: &str, missing: &[&About]) -> Option<Hint> {
    // An unknown one is refused, and those of a Kubernetes service are not meant for Rollbook.
    if name.starts_with("ROLLBOOK_") || SETTINGS.iter().any(|setting| is_of(setting, name)) {
        return None;
    }
    let by_list = OTHER_NAMES.iter().find(|(other, _)| *other == name);
    let listed = by_list.and_then(|(_, key)| missing.iter().find(|setting| setting.key == *key));
    let alike = |setting: &About| strsim::normalized_damerau_levenshtein(name, &setting.environment());
    // Of a short name, one letter makes another word.
    let similar =
        || missing.iter().find(|setting| setting.environment().len() > 8 && alike(setting) >= ALIKE_MIN);
    let setting = listed.or_else(similar)?;
    Some(Hint { variable: name.to_owned(), meant: setting.environment() })
}

/// Returns whether the variable is the setting's, or names the file of its value.
fn is_of(setting: &About, name: &str) -> bool {
    let known = setting.environment();
    name == known || (setting.may_be_in_file() && name.strip_suffix("_FILE") == Some(&*known))
}

#[cfg(test)]
mod tests {
    use super::super::{Config, FileSource, Sources};
    use super::*;

    fn hints(variables: &[(&str, &str)]) -> Vec<String> {
        let sources = Sources { flags: &[], environment: Environment::of(variables), file: FileSource::None };
        Config::examine(&sources).hints.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_name_of_other_software_or_with_a_slip_is_a_hint_while_the_setting_has_no_value() {
        for (variable, meant) in [
            ("CLERK_WEBHOOK_SECRET", "CLERK_WEBHOOK_SIGNING_SECRET"),
            ("CLERK_WEBHOOK_SIGNING_SECRETS", "CLERK_WEBHOOK_SIGNING_SECRET"),
            ("CLERK_API_KEY", "CLERK_SECRET_KEY"),
            ("CLERK_SECRETKEY", "CLERK_SECRET_KEY"),
            ("DATABASE_URI", "DATABASE_URL"),
            ("REDIS_URI", "REDIS_URL"),
        ] {
            let found = hints(&[(variable, "x")]);
            assert_eq!(found.len(), 1, "{variable}: {found:?}");
            assert!(
                found[0].contains(variable) && found[0].ends_with(&format!("did you mean {meant}?")),
                "{found:?}"
            );
        }
        let both = [("DATABASE_URI", "x"), ("DATABASE_URL", "postgres://h/x")];
        assert_eq!(hints(&both), [""; 0], "the setting has a value");
    }

    #[test]
    fn variables_of_other_programs_and_those_that_are_read_draw_no_hint() {
        let others = [
            "PATH",
            "HOME",
            "CLERK_PUBLISHABLE_KEY",
            "NEXT_PUBLIC_CLERK_PUBLISHABLE_KEY",
            "CLERK_SIGN_IN_URL",
            "PGPORT",
            "CLERK_ENCRYPTION_KEY",
            "CLERK_API_VERSION",
            "POSTGRES_PASSWORD",
            "REDIS_HOST",
            "PORTS",
            "NODE_ENV",
        ];
        for name in others {
            assert_eq!(hints(&[(name, "x")]), [""; 0], "{name}");
        }
        assert_eq!(hints(&[("CLERK_SECRET_KEY_FILE", "/no/such/file")]), [""; 0]);
    }
}
