//! URL of an endpoint.

use std::fmt;

use hyper::Uri;
use rollbook_core::url::{Parts, UrlError, is_loopback};

/// URL of an endpoint: `https://host[:port]/path`. It is shown without its path, which may be a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct ForwardUrl {
    uri: Uri,
    is_https: bool,
}

/// Reason why a text is not a valid URL of an endpoint. The text itself is never repeated: it may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForwardUrlError {
    /// The text is not a URL.
    #[error(transparent)]
    NotUrl(#[from] UrlError),
    /// The scheme is neither https nor http.
    #[error("does not begin with https://")]
    Scheme,
    /// The URL has a user or a password.
    #[error("contains a user or a password; requests are signed with the secret instead")]
    Login,
    /// The URL has a fragment, which is never sent.
    #[error("has a #, which no server receives")]
    Fragment,
    /// The URL has no valid host, port or path.
    #[error("has no valid host, port or path")]
    Invalid,
}

impl ForwardUrl {
    /// Parses a URL.
    ///
    /// # Errors
    /// [`ForwardUrlError`], which does not repeat the text.
    pub fn parse(text: &str) -> Result<Self, ForwardUrlError> {
        let text = text.trim();
        let parts = Parts::of(text)?;
        let is_https = match parts.scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err(ForwardUrlError::Scheme),
        };
        if parts.login.is_some() {
            return Err(ForwardUrlError::Login);
        }
        if parts.fragment.is_some() {
            return Err(ForwardUrlError::Fragment);
        }
        let uri: Uri = text.parse().map_err(|_| ForwardUrlError::Invalid)?;
        let host = uri.host().unwrap_or_default();
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        if host.is_empty() || !authority.ends_with(host) && uri.port_u16().is_none() {
            return Err(ForwardUrlError::Invalid);
        }
        Ok(Self { uri, is_https })
    }

    /// Whether changes would cross a network without encryption.
    pub fn is_plaintext(&self) -> bool {
        !self.is_https && !is_loopback(self.uri.host().unwrap_or_default())
    }

    /// Whether connections are encrypted.
    pub const fn is_https(&self) -> bool {
        self.is_https
    }

    /// Returns the whole URL, for a request.
    pub(crate) fn uri(&self) -> Uri {
        self.uri.clone()
    }
}

impl fmt::Display for ForwardUrl {
    /// Shows scheme, host and port.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_https { "https" } else { "http" };
        write!(f, "{scheme}://{}/…", self.uri.authority().map_or("", |authority| authority.as_str()))
    }
}

impl fmt::Debug for ForwardUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_https_or_http_and_is_shown_without_its_path() {
        for (text, shown, is_plaintext) in [
            ("https://app.example/hooks/secret?x=secret", "https://app.example/…", false),
            ("https://app.example:8443", "https://app.example:8443/…", false),
            ("http://127.0.0.1:3000/secret", "http://127.0.0.1:3000/…", false),
            ("http://[::1]:3000/secret", "http://[::1]:3000/…", false),
            ("http://localhost/secret", "http://localhost/…", false),
            ("http://app.internal/secret", "http://app.internal/…", true),
            ("http://127.0.0.1.example/", "http://127.0.0.1.example/…", true),
        ] {
            let url = ForwardUrl::parse(text).expect(text);
            assert_eq!((format!("{url}"), format!("{url:?}")), (shown.to_owned(), shown.to_owned()));
            assert_eq!(url.is_plaintext(), is_plaintext, "{text}");
        }
    }

    #[test]
    fn another_text_is_refused_and_never_quoted() {
        for text in [
            "secret",
            "ftp://secret/",
            "https://",
            "https:///secret",
            "https://u:secret@h/",
            "https://h/#secret",
            "https://h:99999/secret",
            "https://h:secret/",
            "https://h/secret secret",
            "https://h/\nsecret",
        ] {
            let error = ForwardUrl::parse(text).expect_err(text);
            assert!(!format!("{error} {error:?}").contains("secret,"), "{error}");
            assert!(!error.to_string().contains(text), "{error}");
        }
    }
}
