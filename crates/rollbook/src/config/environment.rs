//! Environment of the process. No other file reads it.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use super::problem::{Origin, Problem};
use super::setting::{About, find};
use super::settings::SETTINGS;
use super::source::{Given, Values};
use super::values::wrong;

/// Variable that a user may expect to name the file of settings. No setting can: the file is read after the environment.
const FILE_OF_SETTINGS: &str = "ROLLBOOK_CONFIG";

/// Variables of the process, read once at the start.
pub(crate) struct Environment(Vec<(String, OsString)>);

impl Environment {
    /// Reads the variables. A name that is not valid UTF-8 can't be a setting's.
    pub(crate) fn read() -> Self {
        let named = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value));
        Self(std::env::vars_os().filter_map(named).collect())
    }

    /// Returns an environment of these variables.
    #[cfg(test)]
    pub(crate) fn of(variables: &[(&str, &str)]) -> Self {
        Self(variables.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))).collect())
    }

    /// Keeps only these variables.
    pub(crate) fn only(self, names: &[String]) -> Self {
        Self(self.0.into_iter().filter(|(name, _)| names.contains(name)).collect())
    }

    /// Returns the names of the variables that are set and not empty.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|(_, value)| !value.is_empty()).map(|(name, _)| name.as_str())
    }

    /// Returns whether the user wants no colours (<https://no-color.org>).
    pub(crate) fn no_color(&self) -> bool {
        self.is_set("NO_COLOR")
    }

    /// Returns the value of a variable; `None` if it is unset or empty.
    pub(crate) fn get(&self, variable: &str) -> Option<&OsStr> {
        let found = self.0.iter().find(|(name, value)| name == variable && !value.is_empty());
        found.map(|(_, value)| value.as_os_str())
    }

    /// Returns whether a variable is set and not empty.
    pub(crate) fn is_set(&self, variable: &str) -> bool {
        self.get(variable).is_some()
    }

    /// Adds the values of settings to `values`, which is empty. Every `ROLLBOOK_…` must be a setting.
    pub(crate) fn values(&self, mut values: Values, problems: &mut Vec<Problem>) -> Values {
        for (name, value) in &self.0 {
            let origin = Origin::Environment(name.clone());
            match (find(&SETTINGS, name, "_FILE", About::environment, "unset it"), value.to_str()) {
                (Ok((setting, is_file)), Some(text)) => {
                    let given = Given { setting, text: text.to_owned(), origin };
                    values.give(setting.key, is_file, given, problems);
                }
                (Ok((setting, _)), None) => {
                    let wrong = wrong("is not valid UTF-8 text", "write it in UTF-8");
                    problems.push(Problem::of(setting.key, Some(&origin), wrong));
                }
                (Err(_), _) if name == FILE_OF_SETTINGS => {
                    let fix = "name the file by the flag --config FILE, or call it rollbook.toml";
                    problems.push(Problem::of(name, Some(&origin), wrong("there is no such setting", fix)));
                }
                (Err(fix), value) if name.starts_with("ROLLBOOK_") && !is_service_link(name, value) => {
                    problems.push(Problem::of(name, Some(&origin), wrong("there is no such setting", fix)));
                }
                (Err(_), _) => {}
            }
        }
        values
    }
}

/// Returns whether Kubernetes has set the variable. It gives every pod `ROLLBOOK_PORT_8080_TCP_ADDR` and the
/// like if a Service is called `rollbook` or `rollbook-…`. No setting has such a name. `ROLLBOOK_PORT` is a URL then: a
/// number is a user's.
fn is_service_link(name: &str, value: Option<&str>) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let port = |text: &str| {
        let mut words = text.split('_');
        let is_port = words.next().is_some_and(number);
        is_port && matches!(words.next(), Some("TCP" | "UDP" | "SCTP"))
    };
    let is_url = value.is_some_and(|value| value.contains("://"));
    (name.ends_with("_PORT") && is_url)
        || name.ends_with("_SERVICE_PORT")
        || name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT_")
        || name.match_indices("_PORT_").any(|(at, word)| port(&name[at + word.len()..]))
}

/// Returns the folder for temporary files of this machine.
pub(crate) fn temporary_folder() -> PathBuf {
    std::env::temp_dir()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_rollbook_variable_is_refused_and_the_nearest_setting_named() {
        let mut problems = Vec::new();
        Environment::of(&[("ROLLBOOK_LISTN", "x"), ("PATH", "/bin"), ("CLERK_JWT_KEY", "y")])
            .values(Values::default(), &mut problems);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].to_string().contains("did you mean ROLLBOOK_LISTEN?"), "{}", problems[0]);
    }

    #[test]
    fn a_variable_with_a_prefix_too_many_or_another_one_is_named_with_its_own() {
        let mut seen = 0;
        for setting in SETTINGS.iter() {
            let variable = setting.environment();
            let bare = variable.trim_start_matches("ROLLBOOK_").trim_start_matches("CLERK_").to_owned();
            for wrong in ["", "CLERK_", "ROLLBOOK_", "ROLLBOOK_CLERK_"]
                .map(|prefix| format!("ROLLBOOK_{prefix}{bare}"))
            {
                for suffix in ["", "_FILE"].into_iter().take(1 + usize::from(setting.may_be_in_file())) {
                    let (wrong, right) = (format!("{wrong}{suffix}"), format!("{variable}{suffix}"));
                    let is_known = SETTINGS.iter().any(|known| known.environment() == wrong);
                    if is_known || is_service_link(&wrong, Some("x")) || wrong == right {
                        continue;
                    }
                    let mut problems = Vec::new();
                    Environment::of(&[(&wrong, "x")]).values(Values::default(), &mut problems);
                    let found: Vec<String> = problems.iter().map(ToString::to_string).collect();
                    assert!(found[0].contains(&format!("did you mean {right}?")), "{wrong}: {found:?}");
                    seen += 1;
                }
            }
        }
        assert!(seen > 100, "{seen}");
        let mut problems = Vec::new();
        Environment::of(&[("ROLLBOOK_DATABASE_URL_FILE", "x")]).values(Values::default(), &mut problems);
        assert!(problems[0].to_string().contains("did you mean DATABASE_URL_FILE?"), "{}", problems[0]);
    }

    #[test]
    fn variables_that_kubernetes_sets_for_a_service_named_rollbook_are_ignored() {
        for name in [
            "ROLLBOOK_PORT",
            "ROLLBOOK_SERVICE_HOST",
            "ROLLBOOK_SERVICE_PORT",
            "ROLLBOOK_SERVICE_PORT_HTTP",
            "ROLLBOOK_PORT_8080_TCP",
            "ROLLBOOK_RECEIVER_PORT_8080_TCP_ADDR",
        ] {
            assert!(is_service_link(name, Some("tcp://10.0.0.7:8080")), "{name}");
        }
        assert!(SETTINGS.iter().all(|setting| !is_service_link(&setting.environment(), Some("tcp://x"))));
        assert!(!is_service_link("ROLLBOOK_PORT_NAME", Some("tcp://10.0.0.7:8080")));
    }

    #[test]
    fn an_unknown_variable_is_compared_without_the_prefix_that_all_have() {
        for (variable, value, fix) in [
            ("ROLLBOOK_FOO", "x", "unset it (rollbook config"),
            ("ROLLBOOK_ZZZZZZ", "x", "unset it"),
            ("ROLLBOOK_LANE", "x", "did you mean ROLLBOOK_LANES?"),
            ("ROLLBOOK_DATADIR", "x", "did you mean ROLLBOOK_DATA_DIR?"),
            ("ROLLBOOK_WEBHOOK_PATHS", "x", "did you mean ROLLBOOK_WEBHOOK_PATH?"),
            ("ROLLBOOK_SIGNING_SECRET", "x", "did you mean CLERK_WEBHOOK_SIGNING_SECRET?"),
            ("ROLLBOOK_PORT", "8080", "did you mean PORT?"),
            ("ROLLBOOK_CONFIG", "/etc/rollbook.toml", "--config FILE"),
        ] {
            let mut problems = Vec::new();
            Environment::of(&[(variable, value)]).values(Values::default(), &mut problems);
            assert_eq!(problems.len(), 1, "{variable}");
            assert!(problems[0].to_string().contains(fix), "{}", problems[0]);
        }
    }
}
