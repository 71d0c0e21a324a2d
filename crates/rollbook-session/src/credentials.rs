//! Finds session tokens in the headers of a request.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use crate::limits::SESSION_COOKIES_MAX;
use crate::refusal::Refusal;

/// Name of Clerk's session cookie.
pub const SESSION_COOKIE: &str = "__session";
/// Scheme of the header `Authorization`.
const BEARER: &str = "bearer";
/// Length of a suffix of the cookie.
const SUFFIX_LENGTH: usize = 8;

/// Returns the suffix that Clerk gives to the cookies of an instance: eight characters that follow from the
/// publishable key (`pk_live_…`).
pub fn cookie_suffix(publishable_key: &str) -> String {
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, publishable_key.as_bytes());
    let mut suffix = URL_SAFE.encode(hash);
    suffix.truncate(SUFFIX_LENGTH);
    suffix
}

/// Session tokens of a request, unverified.
pub(crate) struct Credentials<'a>(Vec<&'a str>);

impl<'a> Credentials<'a> {
    /// Reads the values of the headers `Authorization` and `Cookie`.
    pub(crate) fn read(
        authorization: impl IntoIterator<Item = &'a [u8]>,
        cookies: impl IntoIterator<Item = &'a [u8]>,
        suffix: Option<&str>,
    ) -> Result<Self, Refusal> {
        if let Some(token) = bearer(authorization)? {
            return Ok(Self(vec![token]));
        }
        let found = session_cookies(cookies, suffix)?;
        if found.is_empty() { Err(Refusal::TokenMissing) } else { Ok(Self(found)) }
    }

    pub(crate) fn tokens(&self) -> impl Iterator<Item = &'a str> {
        self.0.iter().copied()
    }
}

/// Returns the bearer token. Other schemes are left to others: a proxy may use `Basic`. A value that begins with `Bearer` is
/// a bearer token or malformed, whatever follows the word: no cookie replaces it.
fn bearer<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Result<Option<&'a str>, Refusal> {
    let mut found = None;
    for value in values {
        let value = std::str::from_utf8(value).map_err(|_| Refusal::CredentialsMalformed)?.trim();
        let Some((scheme, rest)) = value.split_at_checked(BEARER.len()) else { continue };
        if !scheme.eq_ignore_ascii_case(BEARER) {
            continue;
        }
        if found.is_some() {
            return Err(Refusal::CredentialsAmbiguous);
        }
        let token = rest.strip_prefix(' ').unwrap_or_default().trim();
        if token.is_empty() || token.contains(|letter: char| !letter.is_ascii_graphic() || letter == ',') {
            return Err(Refusal::CredentialsMalformed);
        }
        found = Some(token);
    }
    Ok(found)
}

fn session_cookies<'a>(
    values: impl IntoIterator<Item = &'a [u8]>,
    suffix: Option<&str>,
) -> Result<Vec<&'a str>, Refusal> {
    let mut plain = Vec::new();
    let mut suffixed = Vec::new();
    for value in values {
        // Other cookies may contain any bytes.
        for cookie in value.split(|byte| *byte == b';') {
            let Some(rest) = cookie.trim_ascii().strip_prefix(SESSION_COOKIE.as_bytes()) else { continue };
            let Some(equals) = rest.iter().position(|byte| *byte == b'=') else { continue };
            let (name, token) = (&rest[..equals], &rest[equals + 1..]);
            let list = match name.strip_prefix(b"_") {
                None if name.is_empty() => &mut plain,
                Some(found) if suffix.is_none_or(|suffix| suffix.as_bytes() == found) => &mut suffixed,
                _ => continue,
            };
            let token = std::str::from_utf8(token).map_err(|_| Refusal::CredentialsMalformed)?;
            // Clerk empties the cookie of a user who signs out.
            if !token.is_empty() && !list.contains(&token) {
                list.push(token);
            }
            if list.len() > SESSION_COOKIES_MAX {
                return Err(Refusal::CredentialsAmbiguous);
            }
        }
    }
    if suffix.is_some() {
        return Ok(if suffixed.is_empty() { plain } else { suffixed });
    }
    plain.retain(|token| !suffixed.contains(token));
    plain.extend(suffixed);
    if plain.len() > SESSION_COOKIES_MAX { Err(Refusal::CredentialsAmbiguous) } else { Ok(plain) }
}
