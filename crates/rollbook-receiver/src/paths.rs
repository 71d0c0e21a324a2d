//! Paths of Svix's POST requests.

use std::fmt;

/// Maximum number of paths.
const PATHS_MAX: usize = 16;
/// Maximum length of a path, in bytes.
const LENGTH_MAX: usize = 256;
/// Path of the health check. It can't be a path of deliveries.
pub(crate) const HEALTH: &str = "/healthz";

/// Paths that accept deliveries: at least one, each without a trailing slash. A request may add one, as some
/// operators and proxies do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookPaths(Vec<String>);

/// Reason for which a text is not a list of paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongPath {
    /// The error, and the path that has it.
    pub what: String,
    /// Advice to the operator.
    pub fix: &'static str,
}

impl WebhookPaths {
    /// Parses paths such as `/api/webhooks/clerk`, separated by commas or white space.
    ///
    /// # Errors
    /// There is no path, or more than 16; or one has another form than `/a/b`, is longer than 256 bytes, or is the
    /// path of the health check.
    pub fn parse(text: &str) -> Result<Self, WrongPath> {
        let parts = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|part| !part.is_empty());
        let paths: Vec<String> = parts.map(path).collect::<Result<_, _>>()?;
        match paths.len() {
            0 => Err(wrong("has no path", "write a path such as /webhooks/clerk")),
            1..=PATHS_MAX => Ok(Self(paths)),
            count => Err(wrong(format!("has {count} paths"), "write at most 16 paths")),
        }
    }

    /// Returns whether a request's path is one of these, with or without a slash at its end.
    pub(crate) fn contains(&self, path: &str) -> bool {
        let path = path.strip_suffix('/').unwrap_or(path);
        self.0.iter().any(|known| known == path)
    }

    /// Returns the paths.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Returns the first path, which examples and test deliveries use.
    #[must_use]
    pub fn first(&self) -> &str {
        &self.0[0]
    }
}

impl Default for WebhookPaths {
    fn default() -> Self {
        Self(vec!["/webhooks/clerk".to_owned()])
    }
}

impl fmt::Display for WebhookPaths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

fn path(text: &str) -> Result<String, WrongPath> {
    let shown = || text.escape_debug();
    if text.len() > LENGTH_MAX {
        return Err(wrong(format!("has a path of {} bytes", text.len()), "write at most 256 bytes"));
    }
    let path = text.strip_suffix('/').unwrap_or(text);
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
    let is_segment =
        |part: &str| !part.is_empty() && part.chars().all(is_plain) && !matches!(part, "." | "..");
    let is_path = path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(is_segment));
    if !is_path {
        let fix = "write /webhooks/clerk, or another path of letters, digits, -, ., _ and ~ between slashes";
        return Err(wrong(format!("\"{}\" is not a path", shown()), fix));
    }
    if path == HEALTH {
        return Err(wrong(format!("\"{}\" is the path of the health check", shown()), "write another path"));
    }
    Ok(path.to_owned())
}

fn wrong(what: impl Into<String>, fix: &'static str) -> WrongPath {
    WrongPath { what: what.into(), fix }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_separated_by_commas_or_spaces_and_matched_with_or_without_a_slash_at_their_end() {
        let paths = WebhookPaths::parse("/api/webhooks/clerk, /webhooks/clerk/ /x").expect("three paths");
        assert_eq!(paths.to_string(), "/api/webhooks/clerk, /webhooks/clerk, /x");
        assert_eq!(paths.first(), "/api/webhooks/clerk");
        for path in ["/api/webhooks/clerk", "/webhooks/clerk", "/webhooks/clerk/", "/x/"] {
            assert!(paths.contains(path), "{path}");
        }
        for path in ["/", "", "/y", "/x//", "//x", "/X", "/x/y", "/webhooks"] {
            assert!(!paths.contains(path), "{path}");
        }
        assert_eq!(WebhookPaths::parse("/webhooks/clerk"), Ok(WebhookPaths::default()));
    }

    #[test]
    fn a_text_that_is_not_a_path_is_refused_by_name_with_the_fix() {
        for text in [
            "",
            " ,",
            "/",
            "//",
            "x",
            "https://h/x",
            "/x?y",
            "/x#y",
            "/a//b",
            "/a/../b",
            "/a/.",
            "/%20",
            "/ü",
            "/healthz",
        ] {
            assert!(WebhookPaths::parse(text).is_err_and(|wrong| !wrong.fix.is_empty()), "{text}");
        }
    }

    #[test]
    fn sixteen_paths_of_256_bytes_are_the_most() {
        let longest = format!("/{}", "x".repeat(LENGTH_MAX - 1));
        let most = vec![longest.clone(); PATHS_MAX].join(",");
        assert!(WebhookPaths::parse(&most).is_ok());
        assert!(WebhookPaths::parse(&format!("{most},/y")).is_err());
        assert!(WebhookPaths::parse(&format!("{longest}x")).is_err());
    }
}
