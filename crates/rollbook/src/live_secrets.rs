//! Secrets in use, which a reload replaces. Every secret with `is_live` in its setting has its place here.

use std::collections::BTreeMap;

use rollbook_api::Tokens;
use rollbook_core::live::Live;
use rollbook_core::signature::SigningSecrets;
use rollbook_receiver::EndpointSecrets;
use rollbook_session::{KeySet, Keys};

use crate::config::{Config, FORWARD, Settings};

/// Secrets of a process. Clones share them.
#[derive(Clone)]
pub(crate) struct LiveSecrets {
    signing: Option<EndpointSecrets>,
    api_tokens: Option<Live<Tokens>>,
    jwt_keys: Option<Keys>,
    forwards: BTreeMap<String, Live<SigningSecrets>>,
}

/// Outcome of the replacement of one setting's secrets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Replacement {
    /// The new secrets are in use. A log may show their number.
    Replaced(usize),
    /// The setting has no value any more. The secrets from before are still in use.
    Missing,
    /// The process did not have the setting at its start, so that nothing uses it.
    NeedsRestart,
}

impl LiveSecrets {
    /// Takes the secrets of a configuration into use.
    pub(crate) fn of(config: &Config) -> Self {
        let settings = &config.settings;
        let forwards = config.forwards.iter();
        Self {
            signing: settings.clerk_webhook_signing_secret.clone().map(EndpointSecrets::new),
            api_tokens: settings.api_tokens.clone().map(Live::new),
            jwt_keys: settings.clerk_jwt_key.clone().map(Keys::new),
            forwards: forwards.map(|(name, group)| (name.clone(), group.secret.clone().into())).collect(),
        }
    }

    /// Returns the signing secrets of the receiver.
    pub(crate) fn signing(&self) -> Option<EndpointSecrets> {
        self.signing.clone()
    }

    /// Returns the tokens of the API.
    pub(crate) fn api_tokens(&self) -> Option<Live<Tokens>> {
        self.api_tokens.clone()
    }

    /// Returns the fixed keys of session tokens.
    pub(crate) fn jwt_keys(&self) -> Option<Keys> {
        self.jwt_keys.clone()
    }

    /// Returns the secrets of a forward.
    pub(crate) fn forward(&self, name: &str) -> Option<Live<SigningSecrets>> {
        self.forwards.get(name).cloned()
    }

    /// Returns whether this process has a value for the setting with this key.
    pub(crate) fn has(&self, key: &str) -> bool {
        if key == Settings::clerk_webhook_signing_secret().about.key {
            self.signing.is_some()
        } else if key == Settings::api_tokens().about.key {
            self.api_tokens.is_some()
        } else if key == Settings::clerk_jwt_key().about.key {
            self.jwt_keys.is_some()
        } else {
            forward_of(key).is_some_and(|name| self.forwards.contains_key(name))
        }
    }

    /// Replaces the secrets of the setting with this key by those of a configuration.
    pub(crate) fn replace(&self, key: &str, config: &Config) -> Replacement {
        let settings = &config.settings;
        if key == Settings::clerk_webhook_signing_secret().about.key {
            let new = settings.clerk_webhook_signing_secret.clone();
            replace(self.signing.as_ref(), new, SigningSecrets::len, EndpointSecrets::replace)
        } else if key == Settings::api_tokens().about.key {
            replace(self.api_tokens.as_ref(), settings.api_tokens.clone(), Tokens::count, Live::replace)
        } else if key == Settings::clerk_jwt_key().about.key {
            let set = |keys: &Keys, new| {
                keys.replace(new);
            };
            replace(self.jwt_keys.as_ref(), settings.clerk_jwt_key.clone(), KeySet::len, set)
        } else {
            let Some(name) = forward_of(key) else { return Replacement::NeedsRestart };
            let new = config.forwards.get(name).map(|group| group.secret.clone());
            replace(self.forwards.get(name), new, SigningSecrets::len, Live::replace)
        }
    }
}

fn replace<L, T>(
    live: Option<&L>,
    new: Option<T>,
    count: impl Fn(&T) -> usize,
    replace: impl Fn(&L, T),
) -> Replacement {
    match (live, new) {
        (None, _) => Replacement::NeedsRestart,
        (Some(_), None) => Replacement::Missing,
        (Some(live), Some(new)) => {
            let number = count(&new);
            replace(live, new);
            Replacement::Replaced(number)
        }
    }
}

/// Returns the name of the forward with the secret of this key.
fn forward_of(key: &str) -> Option<&str> {
    key.strip_prefix(FORWARD)?.strip_prefix('.')?.strip_suffix(".secret")
}

#[cfg(test)]
mod tests {
    use rollbook_testkit::tokens::Signer;

    use super::*;
    use crate::config::{Environment, FileSource, SETTINGS, Sources};

    #[test]
    fn every_live_setting_has_its_place() {
        let toml = tempfile::NamedTempFile::new().expect("a file");
        let secret = "whsec_b2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xk";
        let key = Signer::of_the_instance().pem().replace('\n', "\\n");
        let text = format!(
            "clerk_webhook_signing_secret = \"{secret}\"\napi_tokens = \"0123456789abcdef0123456789abcdef\"\n\
             clerk_issuer = \"https://clerk.example.com\"\nclerk_jwt_key = \"{key}\"\n[forward.crm]\nurl = \"http://127.0.0.1:9/\"\nsecret = \"{secret}\"\n"
        );
        std::fs::write(toml.path(), text).expect("it is written");
        let file = FileSource::Named(toml.path());
        let config = Config::load(&Sources { flags: &[], environment: Environment::of(&[]), file });
        let config = config.unwrap_or_else(|problems| panic!("{problems}"));
        let (live, empty) = (LiveSecrets::of(&config), no_secrets());
        let keys = SETTINGS.iter().filter(|setting| setting.is_live).map(|setting| setting.key);
        for key in keys.chain(["forward.crm.secret"]) {
            assert!(live.has(key), "{key}");
            assert_eq!(live.replace(key, &config), Replacement::Replaced(1), "{key}");
            assert_eq!(live.replace(key, &empty), Replacement::Missing, "{key}");
            assert_eq!(LiveSecrets::of(&empty).replace(key, &config), Replacement::NeedsRestart, "{key}");
        }
        assert!(!live.has("forward.other.secret") && !live.has("listen"));
    }

    fn no_secrets() -> Config {
        let sources = Sources { flags: &[], environment: Environment::of(&[]), file: FileSource::None };
        Config::load(&sources).unwrap_or_else(|problems| panic!("{problems}"))
    }
}
