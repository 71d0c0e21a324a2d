//! A request to the API, and its description in errors.

use rollbook_core::source::SourceError;
use rollbook_core::url::encoded;

/// Maximum length of an answer, in bytes: 500 users with all their metadata have about a third.
pub const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;

/// A GET request. Errors show the template, never the path, which may contain ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// Path with names in place of ids, such as `/users/{id}`.
    template: &'static str,
    /// Path and query, percent-encoded.
    target: String,
    /// Maximum size of the answer, in bytes.
    bytes_max: usize,
}

impl Request {
    /// Request for a path without ids.
    pub(crate) fn new(path: &'static str) -> Self {
        Self { template: path, target: path.to_owned(), bytes_max: ANSWER_BYTES_MAX }
    }

    /// Request for a path with the `ids` in place of the names in braces, in order.
    pub(crate) fn with_ids(template: &'static str, ids: &[&str]) -> Self {
        let mut ids = ids.iter();
        let segments = template.split('/').map(|segment| {
            if segment.starts_with('{') { encoded(ids.next().unwrap_or(&"")) } else { segment.to_owned() }
        });
        Self { template, target: segments.collect::<Vec<_>>().join("/"), bytes_max: ANSWER_BYTES_MAX }
    }

    /// Adds a parameter. A parameter that occurs again is a list.
    pub(crate) fn query(mut self, name: &str, value: &str) -> Self {
        self.target.push(if self.target.contains('?') { '&' } else { '?' });
        self.target.push_str(name);
        self.target.push('=');
        self.target.push_str(&encoded(value));
        self
    }

    /// Limits the size of the answer further.
    pub(crate) fn at_most(mut self, bytes: usize) -> Self {
        self.bytes_max = self.bytes_max.min(bytes);
        self
    }

    pub(crate) const fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    pub(crate) fn target(&self) -> &str {
        &self.target
    }

    /// Returns the text of an error: `GET /users/{id}: …`.
    pub(crate) fn describe(&self, what: &str) -> String {
        format!("GET {}: {what}", self.template)
    }

    pub(crate) fn unreadable(&self, what: &str) -> SourceError {
        SourceError::Unreadable(self.describe(what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_values_are_percent_encoded_and_errors_show_the_template_alone() {
        let request =
            Request::with_ids("/a/{id}/b/{id}", &["x/../y?", "ä&_-"]).query("q", "+1=2 ~").query("q", "");
        assert_eq!(request.target(), "/a/x%2F%2E%2E%2Fy%3F/b/%C3%A4%26_-?q=%2B1%3D2%20~&q=");
        assert_eq!(request.describe("404"), "GET /a/{id}/b/{id}: 404");
        assert_eq!(Request::new("/users").target(), "/users");
    }
}
