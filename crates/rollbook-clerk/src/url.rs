//! Base URL of Clerk's API.

use std::fmt;

use hyper::http::uri::{Authority, PathAndQuery};
use rollbook_core::url::{Parts, UrlError, is_loopback};

/// URL of Clerk's own API.
const CLERK: &str = "https://api.clerk.com/v1";

/// Base URL of the API: `https://host[:port][/prefix]`. With a host of this machine, http is allowed too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiUrl {
    /// URL without a slash at the end.
    base: String,
    is_https: bool,
}

/// Reason why a text is not a valid base URL. The text itself is never repeated: it may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiUrlError {
    /// The text is not a URL.
    #[error(transparent)]
    NotUrl(#[from] UrlError),
    /// The scheme is neither https nor http.
    #[error("does not begin with https://")]
    Scheme,
    /// The key would be sent over the network without encryption.
    #[error(
        "begins with http://, which sends the secret key without encryption: use https:// (http:// is allowed for this machine alone)"
    )]
    Plaintext,
    /// The URL has a user or a password.
    #[error("contains a user or a password: Clerk's key is a setting of its own")]
    Login,
    /// The URL has a query or a fragment.
    #[error("has a ? or a #: only a path may follow the host, as in https://api.clerk.com/v1")]
    Query,
    /// The URL has no valid host and port.
    #[error("has no valid host and port")]
    Host,
    /// The URL contains a secret key. The configuration shows the URL, so the key belongs elsewhere.
    #[error("contains a secret key: the key belongs in CLERK_SECRET_KEY")]
    Secret,
    /// The path has characters that must be percent-encoded.
    #[error("has a path with a character that must be percent-encoded")]
    Path,
}

/// Beginnings of secrets that somebody may paste into a URL.
const SECRETS: [&str; 3] = ["sk_test_", "sk_live_", "whsec_"];

impl ApiUrl {
    /// Parses a base URL. A slash at the end is removed.
    ///
    /// # Errors
    /// [`ApiUrlError`], which does not repeat the text.
    pub fn parse(text: &str) -> Result<Self, ApiUrlError> {
        let text = text.trim();
        if SECRETS.iter().any(|prefix| text.contains(prefix)) {
            return Err(ApiUrlError::Secret);
        }
        let parts = Parts::of(text)?;
        let is_https = match parts.scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err(ApiUrlError::Scheme),
        };
        if parts.login.is_some() {
            return Err(ApiUrlError::Login);
        }
        if text.contains(['?', '#']) {
            return Err(ApiUrlError::Query);
        }
        let authority: Authority = parts.hosts.parse().map_err(|_| ApiUrlError::Host)?;
        let is_valid_port = authority.as_str().ends_with(authority.host()) || authority.port_u16().is_some();
        if authority.host().is_empty() || !is_valid_port {
            return Err(ApiUrlError::Host);
        }
        if !is_https && !is_loopback(authority.host()) {
            return Err(ApiUrlError::Plaintext);
        }
        let path = parts.path.trim_end_matches('/');
        let path = if path.is_empty() { String::new() } else { format!("/{path}") };
        if !path.is_empty() && path.parse::<PathAndQuery>().is_err() {
            return Err(ApiUrlError::Path);
        }
        let scheme = if is_https { "https" } else { "http" };
        Ok(Self { base: format!("{scheme}://{authority}{path}"), is_https })
    }

    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    pub(crate) const fn is_https(&self) -> bool {
        self.is_https
    }
}

impl Default for ApiUrl {
    /// Clerk's own API: `https://api.clerk.com/v1`.
    fn default() -> Self {
        Self { base: CLERK.to_owned(), is_https: true }
    }
}

impl fmt::Display for ApiUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_keeps_its_port_and_its_path() {
        for (text, base) in [
            (CLERK, CLERK),
            ("https://api.clerk.com/v1/", CLERK),
            (" HTTPS://proxy.internal:8443/clerk/v1\n", "https://proxy.internal:8443/clerk/v1"),
            ("https://api.clerk.com", "https://api.clerk.com"),
            ("http://127.0.0.1:9000/v1", "http://127.0.0.1:9000/v1"),
            ("http://[::1]:9000/", "http://[::1]:9000"),
            ("http://localhost", "http://localhost"),
        ] {
            assert_eq!(ApiUrl::parse(text).expect(text).base(), base);
        }
        assert_eq!(ApiUrl::parse(CLERK), Ok(ApiUrl::default()));
    }

    #[test]
    fn a_url_that_would_reveal_the_key_or_is_ambiguous_is_refused() {
        for (text, error) in [
            ("api.clerk.com/v1", ApiUrlError::NotUrl(UrlError::NoScheme)),
            ("ftp://api.clerk.com", ApiUrlError::Scheme),
            ("http://api.clerk.com/v1", ApiUrlError::Plaintext),
            ("http://127.0.0.1.example.com", ApiUrlError::Plaintext),
            ("http://10.0.0.1", ApiUrlError::Plaintext),
            ("https://user:pass@api.clerk.com", ApiUrlError::Login),
            ("https://api.clerk.com@evil.example", ApiUrlError::Login),
            ("https://api.clerk.com/v1?x=1", ApiUrlError::Query),
            ("https://api.clerk.com/v1#x", ApiUrlError::Query),
            ("https:///v1", ApiUrlError::Host),
            ("https://:443/v1", ApiUrlError::Host),
            ("https://h:99999/v1", ApiUrlError::Host),
            ("https://h:/v1", ApiUrlError::Host),
            ("https://a b/v1", ApiUrlError::Host),
            ("https://h/v 1", ApiUrlError::Path),
            ("https://h/sk_live_c2VjcmV0", ApiUrlError::Secret),
            ("sk_test_c2VjcmV0", ApiUrlError::Secret),
        ] {
            assert_eq!(ApiUrl::parse(text), Err(error), "{text}");
        }
    }
}
