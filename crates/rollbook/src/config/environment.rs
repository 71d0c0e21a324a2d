//! The environment of the process. The only file that reads it.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use super::problem::{Origin, Problem};
use super::setting::{About, find};
use super::settings::SETTINGS;
use super::source::{Given, Values};
use super::values::wrong;

/// The variables of the process, read once at the start.
pub(crate) struct Environment(Vec<(String, OsString)>);

impl Environment {
    /// Reads them. A variable whose name is no text can't be one of ours.
    pub(crate) fn read() -> Self {
        let named = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value));
        Self(std::env::vars_os().filter_map(named).collect())
    }

    /// An environment that is made up.
    #[cfg(test)]
    pub(crate) fn of(variables: &[(&str, &str)]) -> Self {
        Self(variables.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))).collect())
    }

    /// The same with only these variables in it.
    pub(crate) fn only(self, names: &[String]) -> Self {
        Self(self.0.into_iter().filter(|(name, _)| names.contains(name)).collect())
    }

    /// Whether the user wants no colours (<https://no-color.org>).
    pub(crate) fn no_color(&self) -> bool {
        self.is_set("NO_COLOR")
    }

    /// What this variable says, if it is set and not to nothing.
    pub(crate) fn get(&self, variable: &str) -> Option<&OsStr> {
        let found = self.0.iter().find(|(name, value)| name == variable && !value.is_empty());
        found.map(|(_, value)| value.as_os_str())
    }

    /// Whether this variable is set, and not to nothing.
    pub(crate) fn is_set(&self, variable: &str) -> bool {
        self.get(variable).is_some()
    }

    /// The values of settings. Every `ROLLBOOK_…` must be one of them.
    pub(crate) fn values(&self, problems: &mut Vec<Problem>) -> Values {
        let mut values = Values::default();
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
                (Err(fix), _) if name.starts_with("ROLLBOOK_") && !is_service_link(name) => {
                    problems.push(Problem::of(name, Some(&origin), wrong("there is no such setting", fix)));
                }
                (Err(_), _) => {}
            }
        }
        values
    }
}

/// Kubernetes gives every pod `ROLLBOOK_PORT_8080_TCP_ADDR` and the like when a Service is called
/// `rollbook` or `rollbook-…`. They are not meant for us, and no setting of ours is called so.
fn is_service_link(name: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let port = |text: &str| {
        let mut words = text.split('_');
        let is_port = words.next().is_some_and(number);
        is_port && matches!(words.next(), Some("TCP" | "UDP" | "SCTP"))
    };
    name.ends_with("_PORT")
        || name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT_")
        || name.match_indices("_PORT_").any(|(at, word)| port(&name[at + word.len()..]))
}

/// Where this machine keeps what lives for a moment.
pub(crate) fn temporary_folder() -> PathBuf {
    std::env::temp_dir()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_variable_of_ours_is_refused_and_the_nearest_named() {
        let mut problems = Vec::new();
        Environment::of(&[("ROLLBOOK_LISTN", "x"), ("PATH", "/bin"), ("CLERK_JWT_KEY", "y")])
            .values(&mut problems);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].to_string().contains("did you mean ROLLBOOK_LISTEN?"), "{}", problems[0]);
    }

    #[test]
    fn what_kubernetes_adds_for_a_service_of_our_name_is_passed_over() {
        for name in [
            "ROLLBOOK_PORT",
            "ROLLBOOK_SERVICE_HOST",
            "ROLLBOOK_SERVICE_PORT",
            "ROLLBOOK_SERVICE_PORT_HTTP",
            "ROLLBOOK_PORT_8080_TCP",
            "ROLLBOOK_RECEIVER_PORT_8080_TCP_ADDR",
        ] {
            assert!(is_service_link(name), "{name}");
        }
        assert!(SETTINGS.iter().all(|setting| !is_service_link(&setting.environment())));
        assert!(!is_service_link("ROLLBOOK_PORT_NAME"));
    }
}
