//! The configuration: flags before environment before file before default, read and judged as a whole.
//!
//! Constraints:
//!
//! * Everything that is wrong is found before a port is bound, and reported at once, each with the setting's name,
//!   where its value came from, what is wrong and how to fix it ([`Problems`]).
//! * No message, report or `Debug` holds the value of a secret.
//! * `environment.rs` alone reads the environment, `settings.rs` alone knows the names.

pub(crate) mod environment;
mod file;
mod problem;
mod reader;
pub(crate) mod reference;
mod relations;
pub(crate) mod report;
mod setting;
mod settings;
mod source;
mod url;
pub(crate) mod values;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rollbook_clerk::SecretKey;
use rollbook_core::signature::SigningSecrets;

pub(crate) use self::environment::Environment;
pub(crate) use self::problem::{Origin, Problem, Problems};
use self::reader::Declared as _;
use self::relations::Places;
pub(crate) use self::setting::{About, Kind};
pub(crate) use self::settings::{DurabilityMode, LogFormat, SETTINGS, Settings};
pub(crate) use self::source::{Given, Values};
pub(crate) use self::url::{Place, Role, ServerUrl, has_password, place};
use self::values::wrong;

/// How to set the secret key.
pub(crate) const SECRET_KEY_FIX: &str =
    "copy the Secret key (sk_live_… or sk_test_…) from Clerk's dashboard, API keys, into CLERK_SECRET_KEY";

/// Every setting, read and judged.
pub(crate) struct Config {
    /// The values of all settings.
    pub(crate) settings: Settings,
    /// The places of queue and store.
    pub(crate) places: Places,
    values: Values,
}

/// A file that values came from.
pub(crate) struct FileRead {
    /// Path of the file.
    pub(crate) path: PathBuf,
    /// Whether a secret or a URL with a password is in it.
    pub(crate) is_secret: bool,
}

/// Where values may come from.
pub(crate) struct Sources<'a> {
    /// The values of flags.
    pub(crate) flags: &'a [(&'static About, String)],
    /// The environment.
    pub(crate) environment: Environment,
    /// The file.
    pub(crate) file: FileSource<'a>,
}

/// Which file is read.
pub(crate) enum FileSource<'a> {
    /// This one, which must be there.
    Named(&'a Path),
    /// `rollbook.toml`, if it is there.
    Default,
    /// None at all.
    None,
}

impl Config {
    /// Reads every source and judges the whole.
    pub(crate) fn load(sources: &Sources<'_>) -> Result<Self, Problems> {
        let mut problems = Vec::new();
        let mut values = match sources.file {
            FileSource::Named(path) => file::values(Some(path), &mut problems),
            FileSource::Default => file::values(None, &mut problems),
            FileSource::None => Values::default(),
        };
        values.override_by(sources.environment.values(&mut problems));
        let mut flags = Values::default();
        for (setting, text) in sources.flags {
            let given = Given { setting, text: text.clone(), origin: Origin::Flag(setting.dashed()) };
            flags.give(setting.key, false, given, &mut problems);
        }
        values.override_by(flags);
        Self::read(values, problems)?.checked()
    }

    fn read(values: Values, mut problems: Vec<Problem>) -> Result<Self, Problems> {
        let mut used = values.clone();
        if used.get(Settings::queue_url().about.key).is_some() {
            // Whatever another program's REDIS_URL holds.
            used.remove(Settings::redis_url().about.key);
        }
        let settings = reader::read::<Settings>(&used, &mut problems);
        let Some(settings) = settings.filter(|_| problems.is_empty()) else {
            return Err(Problems(problems));
        };
        let embedded = |file: &str| Place::Sqlite(settings.data_dir.join(file));
        let queue = settings.queue_url.as_ref().or(settings.redis_url.as_ref());
        let places = Places {
            queue: queue.cloned().unwrap_or_else(|| embedded("queue.db")),
            store: settings.database_url.clone().unwrap_or_else(|| embedded("store.db")),
        };
        Ok(Self { settings, places, values })
    }

    /// The signing secrets.
    ///
    /// # Errors
    /// None is set.
    pub(crate) fn signing_secrets(&self) -> Result<SigningSecrets, Problems> {
        let secrets = self.settings.clerk_webhook_signing_secret.clone();
        secrets.ok_or_else(|| {
            Problems::one(
                Settings::clerk_webhook_signing_secret().about.environment(),
                "is not set",
                "copy the Signing Secret (whsec_…) of your endpoint from Clerk's dashboard, Webhooks; \
                 or see it work without one: rollbook demo",
            )
        })
    }

    /// The secret key of the Clerk instance.
    ///
    /// # Errors
    /// None is set.
    pub(crate) fn secret_key(&self) -> Result<SecretKey, Problems> {
        self.settings.clerk_secret_key.clone().ok_or_else(|| {
            let name = Settings::clerk_secret_key().about.environment();
            Problems::one(name, "is not set", SECRET_KEY_FIX)
        })
    }

    /// Whether nothing runs while an acknowledged delivery could be lost.
    pub(crate) fn is_strict(&self) -> bool {
        self.settings.durability == DurabilityMode::Strict
    }

    /// The files that values came from, each once.
    pub(crate) fn files_read(&self) -> Vec<FileRead> {
        let mut found: BTreeMap<PathBuf, bool> = BTreeMap::new();
        for (_, given) in self.values.all() {
            let is_secret = match given.setting.kind {
                Kind::Secret => true,
                Kind::Url => has_password(&given.text),
                _ => false,
            };
            let mut note = |path: &Path, is_secret| *found.entry(path.to_owned()).or_default() |= is_secret;
            match &given.origin {
                Origin::File { path, .. } => note(path, is_secret),
                Origin::Content { path, named_by } => {
                    note(path, is_secret);
                    if let Origin::File { path, .. } = &**named_by {
                        note(path, false);
                    }
                }
                _ => {}
            }
        }
        found.into_iter().map(|(path, is_secret)| FileRead { path, is_secret }).collect()
    }

    /// The setting that says where the queue is.
    pub(crate) fn queue_setting(&self) -> &'static About {
        let queue_url = &Settings::queue_url().about;
        if self.values.get(queue_url.key).is_some() { queue_url } else { &Settings::redis_url().about }
    }

    /// The same with queue and store in these places, in a schema of this name, and these secrets.
    ///
    /// # Errors
    /// They do not fit the other settings.
    pub(crate) fn for_demo(
        self,
        queue: Place,
        store: Place,
        schema: String,
        secrets: SigningSecrets,
    ) -> Result<Self, Problems> {
        let settings = Settings { schema, clerk_webhook_signing_secret: Some(secrets), ..self.settings };
        Self { settings, places: Places { queue, store }, ..self }.checked()
    }

    /// The same, where its settings fit together.
    fn checked(self) -> Result<Self, Problems> {
        let relations = Settings::relations();
        let broken = relations.iter().filter(|one| !one.holds(&self.settings, &self.places));
        Problems(broken.map(|one| self.problem(one.setting, one.wrong, one.fix)).collect()).check()?;
        Ok(self)
    }

    /// A problem with a setting of which the value reads well and still can't be used.
    pub(crate) fn problem(
        &self,
        setting: &About,
        what: impl Into<String>,
        fix: impl Into<String>,
    ) -> Problem {
        let origin = self.values.get(setting.key).map_or(&Origin::Default, |given| &given.origin);
        Problem::of(setting.key, Some(origin), wrong(what, fix))
    }
}

#[cfg(test)]
mod tests;
