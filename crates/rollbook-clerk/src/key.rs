//! Secret key of a Clerk instance. Never printed.

use std::fmt;

use hyper::header::HeaderValue;

/// Maximum length of a key, in bytes. Clerk's own have about 50.
const LENGTH_MAX: usize = 255;

/// Beginning of the keys of production and development instances.
const PREFIXES: [(&str, Environment); 2] =
    [("sk_live_", Environment::Production), ("sk_test_", Environment::Development)];

/// Kind of instance that a key belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Environment {
    /// Production: `sk_live_…`.
    Production,
    /// Development: `sk_test_…`.
    Development,
}

impl Environment {
    /// Returns the requests that Clerk answers in ten seconds, for all users of the instance's keys together.
    pub const fn requests_per_ten_seconds(self) -> u32 {
        match self {
            Self::Production => 1000,
            Self::Development => 100,
        }
    }
}

/// Secret key (`sk_live_…`, `sk_test_…`). Never printed.
#[derive(Clone)]
pub struct SecretKey {
    header: HeaderValue,
    environment: Environment,
}

/// Reason why a text is not a secret key. The text itself is never repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text is empty.
    #[error("is empty")]
    Empty,
    /// The text is a publishable key.
    #[error(
        "is a publishable key (pk_…); copy the Secret key (sk_live_… or sk_test_…) from Clerk's dashboard"
    )]
    Publishable,
    /// The text is a signing secret of webhooks.
    #[error(
        "is a signing secret of webhooks (whsec_…); copy the Secret key (sk_live_… or sk_test_…) instead"
    )]
    SigningSecret,
    /// The text begins otherwise than a secret key.
    #[error("does not begin with sk_live_ or sk_test_; copy the Secret key from Clerk's dashboard, API keys")]
    Prefix,
    /// The text has other characters than letters, digits, `_`, `-`, `.`, `=`, `+` and `/`, or is too short or long.
    #[error(
        "is damaged: it contains a space, a line break or another character that no key has, or is cut off"
    )]
    Damaged,
}

impl SecretKey {
    /// Parses a secret key. White space around it is removed.
    ///
    /// # Errors
    /// [`KeyError`], which does not repeat the text.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        let known = PREFIXES.into_iter().find_map(|(prefix, of)| Some((text.strip_prefix(prefix)?, of)));
        let Some((rest, environment)) = known else {
            return Err(match text {
                "" => KeyError::Empty,
                _ if text.starts_with("pk_") => KeyError::Publishable,
                _ if text.starts_with("whsec_") => KeyError::SigningSecret,
                _ => KeyError::Prefix,
            });
        };
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.=+/".contains(&byte);
        if rest.is_empty() || text.len() > LENGTH_MAX || !rest.bytes().all(is_allowed) {
            return Err(KeyError::Damaged);
        }
        let mut header = HeaderValue::try_from(format!("Bearer {text}")).map_err(|_| KeyError::Damaged)?;
        header.set_sensitive(true);
        Ok(Self { header, environment })
    }

    /// Returns the kind of instance that the key belongs to.
    pub const fn environment(&self) -> Environment {
        self.environment
    }

    /// Returns the value of the `Authorization` header, marked as sensitive.
    pub(crate) const fn header(&self) -> &HeaderValue {
        &self.header
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_key_names_its_environment_and_is_never_printed() {
        let key = |text: &str| SecretKey::parse(text);
        let live = key(" sk_live_abcDEF123\n").expect("a key");
        assert_eq!(live.environment(), Environment::Production);
        assert_eq!(key("sk_test_x").expect("a key").environment(), Environment::Development);
        assert_eq!(live.header(), "Bearer sk_live_abcDEF123");
        assert!(live.header().is_sensitive());
        assert_eq!(format!("{live:?} {:?}", live.header()), "SecretKey(redacted) Sensitive");
    }

    #[test]
    fn another_kind_of_key_is_refused_with_a_hint_and_without_its_text() {
        for (text, error) in [
            ("", KeyError::Empty),
            (" \n", KeyError::Empty),
            ("pk_live_c2VjcmV0", KeyError::Publishable),
            ("whsec_c2VjcmV0", KeyError::SigningSecret),
            ("c2VjcmV0", KeyError::Prefix),
            ("sk_live_", KeyError::Damaged),
            ("sk_live_c2Vj cmV0", KeyError::Damaged),
            ("sk_live_c2Vj\ncmV0", KeyError::Damaged),
            ("sk_live_c2VjcmV0\u{200b}", KeyError::Damaged),
        ] {
            let found = SecretKey::parse(text).expect_err(text);
            assert_eq!(found, error, "{text:?}");
            assert!(!format!("{found} {found:?}").contains("c2Vj"), "{found}");
        }
        assert!(SecretKey::parse(&format!("sk_live_{}", "x".repeat(LENGTH_MAX - 8))).is_ok());
        assert!(SecretKey::parse(&format!("sk_live_{}", "x".repeat(LENGTH_MAX - 7))).is_err());
    }
}
