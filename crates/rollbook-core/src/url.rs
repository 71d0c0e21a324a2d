//! Parsing URLs of servers without ever repeating them.
//!
//! A URL may hold a password. A password that is not percent-encoded shifts the boundaries between the parts:
//! in `postgres://me:12?cret@db/app` the host seems to be `me`, and the rest of the password a parameter. An
//! `@` after the host therefore makes the whole URL invalid. No error quotes any part of it.

use std::fmt::Write as _;
use std::net::IpAddr;

/// Parts of a URL, as written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Parts<'a> {
    /// Text before `://`.
    pub scheme: &'a str,
    /// User and password, still encoded: the text before the last `@`. `None` without an `@`.
    pub login: Option<(&'a str, &'a str)>,
    /// Host, or several hosts.
    pub hosts: &'a str,
    /// Text between the `/` after the host and a `?`.
    pub path: &'a str,
    /// Text after a `?`.
    pub query: &'a str,
    /// Text after a `#`, if there is one.
    pub fragment: Option<&'a str>,
}

/// Reason why a text is not a valid URL. The text itself is never repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// The text has no `://`.
    #[error("has no scheme")]
    NoScheme,
    /// The text has an `@` after the host, as with an unencoded `/`, `?` or `#` in the password.
    #[error(
        "has an @ after its host: percent-encode the special characters of user and password \
         (/ as %2F, ? as %3F, # as %23, @ as %40, % as %25)"
    )]
    Misplaced,
    /// The text has a line break or another control character.
    #[error("contains a control character, such as a line break")]
    Control,
    /// The text has a `%` without two hexadecimal digits.
    #[error("has a % that is not followed by two hexadecimal digits: write % as %25")]
    Percent,
    /// The bytes that `%XX` stand for are not valid UTF-8.
    #[error("has a part that is not valid UTF-8 after percent-decoding")]
    NotUtf8,
}

impl<'a> Parts<'a> {
    /// Splits a URL into its parts.
    ///
    /// # Errors
    /// The URL is invalid or ambiguous.
    pub fn of(url: &'a str) -> Result<Self, UrlError> {
        if url.contains(char::is_control) {
            return Err(UrlError::Control);
        }
        let (scheme, rest) = url.split_once("://").ok_or(UrlError::NoScheme)?;
        let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if tail.contains('@') {
            return Err(UrlError::Misplaced);
        }
        let (login, hosts) =
            authority.rsplit_once('@').map_or((None, authority), |(login, hosts)| (Some(login), hosts));
        let (tail, fragment) =
            tail.split_once('#').map_or((tail, None), |(tail, fragment)| (tail, Some(fragment)));
        let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
        let path = path.strip_prefix('/').unwrap_or(path);
        let login = login.map(|login| login.split_once(':').unwrap_or((login, "")));
        Ok(Self { scheme, login, hosts, path, query, fragment })
    }

    /// Returns the names and values of the query, still encoded.
    pub fn parameters(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.query
            .split('&')
            .filter(|parameter| !parameter.is_empty())
            .map(|parameter| parameter.split_once('=').unwrap_or((parameter, "")))
    }
}

/// Returns whether a host, which may be in brackets, is this machine.
pub fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// Replaces each `%XX` by the byte that it stands for.
///
/// # Errors
/// [`UrlError::Percent`] and [`UrlError::NotUtf8`].
pub fn decoded(text: &str) -> Result<String, UrlError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(rest.next()), digit(rest.next())) else {
            return Err(UrlError::Percent);
        };
        bytes.push(u8::try_from(high * 16 + low).map_err(|_| UrlError::Percent)?);
    }
    String::from_utf8(bytes).map_err(|_| UrlError::NotUtf8)
}

/// Percent-encodes a text so that it can be used in any part of a URL. A `.` is encoded too, since a path
/// segment of dots has a meaning. The inverse of [`decoded`].
pub fn encoded(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut url, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~') {
            url.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(url, "%{byte:02X}");
        }
        url
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_split_into_login_hosts_path_and_parameters() {
        let parts = Parts::of("postgres://me:a:b@[::1]:1,h/app?x=1&y#z").expect("a URL");
        assert_eq!((parts.scheme, parts.login), ("postgres", Some(("me", "a:b"))));
        assert_eq!((parts.hosts, parts.path, parts.fragment), ("[::1]:1,h", "app", Some("z")));
        assert_eq!(parts.parameters().collect::<Vec<_>>(), [("x", "1"), ("y", "")]);
        let parts = Parts::of("redis://h").expect("a URL");
        assert_eq!((parts.login, parts.hosts, parts.path, parts.query), (None, "h", "", ""));
        let parts = Parts::of("postgres://me:p@ss@h").expect("the last @ is the border");
        assert_eq!((parts.login, parts.hosts), (Some(("me", "p@ss")), "h"));
    }

    #[test]
    fn a_url_with_an_unencoded_password_is_refused() {
        for password in
            ["12/x", "12?x", "12#x", "/x", "?x", "#x", "x?y=z", "12@x/y", "1?host=x", "1?dbname=x"]
        {
            for url in [format!("postgres://me:{password}@h:1/app"), format!("redis://:{password}@h")] {
                assert_eq!(Parts::of(&url).err(), Some(UrlError::Misplaced), "{url}");
            }
        }
        for error in [UrlError::Misplaced, UrlError::Percent] {
            assert!(error.to_string().contains("%25"), "{error}");
        }
        assert_eq!(Parts::of("postgres://me:a\nb@h").err(), Some(UrlError::Control));
        assert_eq!(Parts::of("me:pass@h").err(), Some(UrlError::NoScheme));
    }

    #[test]
    fn an_encoded_text_decodes_to_itself_and_stays_in_its_part() {
        for text in ["", "plain", "a/b?c#d@e:f%g&h=i+j", "ä 漢\u{1f600}", "%41"] {
            assert_eq!(decoded(&encoded(text)).as_deref(), Ok(text));
            let url = format!("postgres://me:{}@h/x", encoded(text));
            assert_eq!(Parts::of(&url).expect("a URL").hosts, "h");
        }
        assert_eq!([decoded("%"), decoded("%4"), decoded("%4g")], [const { Err(UrlError::Percent) }; 3]);
        assert_eq!(decoded("%ff"), Err(UrlError::NotUtf8));
    }
}
