//! Configuration: flags before environment before file before default, read and checked as a whole.
//!
//! Constraints:
//!
//! * All problems are found before a port is bound and reported together, each with the setting's name, where
//!   its value came from, what is wrong and how to fix it ([`Problems`]).
//! * No message, report or `Debug` holds the value of a secret.
//! * `environment.rs` alone reads the environment, `settings.rs` alone knows the names.

mod contents;
pub(crate) mod environment;
mod file;
mod forward;
mod hints;
mod problem;
mod reader;
pub(crate) mod reference;
mod relations;
mod reload;
pub(crate) mod report;
mod setting;
mod settings;
mod source;
mod url;
pub(crate) mod values;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rollbook_clerk::SecretKey;
use rollbook_core::signature::SigningSecrets;
use rollbook_forwarder::{FORWARDS_MAX, NAME_LENGTH_MAX};
use rollbook_receiver::WebhookPaths;

pub(crate) use self::environment::Environment;
pub(crate) use self::forward::{ForwardGroup, GROUP as FORWARD};
pub(crate) use self::hints::Hint;
pub(crate) use self::problem::{Origin, Problem, Problems};
use self::reader::Declared as _;
use self::relations::Places;
pub(crate) use self::reload::Difference;
pub(crate) use self::setting::{About, Kind};
pub(crate) use self::settings::{DurabilityMode, LogFormat, SETTINGS, Settings};
pub(crate) use self::source::{Given, Values};
pub(crate) use self::url::{Place, Role, ServerUrl, has_password, place};
pub(crate) use self::values::OpsListen;
use self::values::wrong;

/// Fix for a missing secret key.
pub(crate) const SECRET_KEY_FIX: &str =
    "copy the Secret key (sk_live_… or sk_test_…) from Clerk's dashboard, API keys, into CLERK_SECRET_KEY";

/// All settings, read and checked.
pub(crate) struct Config {
    /// Values of all settings.
    pub(crate) settings: Settings,
    /// Settings of each forward, by its name.
    pub(crate) forwards: BTreeMap<String, ForwardGroup>,
    /// Places of queue and store.
    pub(crate) places: Places,
    /// Variables that are probably meant for a setting without a value.
    pub(crate) hints: Vec<Hint>,
    values: Values,
}

/// A configuration, with all that is wrong with it.
pub(crate) struct Examined {
    /// The configuration, if every value could be read: its settings may not fit together.
    pub(crate) config: Option<Config>,
    /// Everything that is wrong.
    pub(crate) problems: Problems,
    /// Whether a source gives signing secrets, well-formed or not.
    pub(crate) has_secret: bool,
    /// Variables that are probably meant for a setting without a value.
    pub(crate) hints: Vec<Hint>,
}

/// Problem of a receiver without signing secrets.
pub(crate) fn missing_secret(hints: &[Hint]) -> Problems {
    let name = Settings::clerk_webhook_signing_secret().about.environment();
    let hint = hints.iter().find(|hint| hint.meant == name);
    let wrong =
        hint.map_or_else(|| "is not set".to_owned(), |hint| format!("is not set ({} is)", hint.variable));
    Problems::one(
        name,
        wrong,
        "copy the Signing Secret (whsec_…) of your endpoint from Clerk's dashboard, Webhooks; \
         or see it work without one: rollbook demo",
    )
}

/// A file that values came from.
pub(crate) struct FileRead {
    /// Path of the file.
    pub(crate) path: PathBuf,
    /// Whether a secret or a URL with a password is in it.
    pub(crate) is_secret: bool,
}

/// Sources of values.
pub(crate) struct Sources<'a> {
    /// Values of flags.
    pub(crate) flags: &'a [(&'static About, String)],
    /// Environment of the process.
    pub(crate) environment: Environment,
    /// Configuration file.
    pub(crate) file: FileSource<'a>,
}

/// Choice of the file.
pub(crate) enum FileSource<'a> {
    /// This file, which must exist.
    Named(&'a Path),
    /// `rollbook.toml`, if it exists.
    Default,
    /// No file.
    None,
}

impl Config {
    /// Reads all sources and checks the result.
    pub(crate) fn load(sources: &Sources<'_>) -> Result<Self, Problems> {
        Self::load_from(sources, &Values::default())
    }

    /// Reads all sources as they are now. `empty` knows how files are read.
    fn load_from(sources: &Sources<'_>, empty: &Values) -> Result<Self, Problems> {
        let Examined { config, problems, .. } = Self::examine_from(sources, empty);
        problems.check()?;
        config.ok_or_else(Problems::default)
    }

    /// Reads all sources, and reports all that is wrong.
    pub(crate) fn examine(sources: &Sources<'_>) -> Examined {
        Self::examine_from(sources, &Values::default())
    }

    fn examine_from(sources: &Sources<'_>, empty: &Values) -> Examined {
        let mut problems = Vec::new();
        let mut values = match sources.file {
            FileSource::Named(path) => file::values(Some(path), empty.clone(), &mut problems),
            FileSource::Default => file::values(None, empty.clone(), &mut problems),
            FileSource::None => empty.clone(),
        };
        values.override_by(sources.environment.values(empty.clone(), &mut problems));
        let mut flags = Values::default();
        for (setting, text) in sources.flags {
            let given = Given { setting, text: text.clone(), origin: Origin::Flag(setting.dashed()) };
            flags.give(setting.key, false, given, &mut problems);
        }
        values.override_by(flags);
        let secret = Settings::clerk_webhook_signing_secret().about.key;
        let has_secret =
            values.get(secret).is_some() || problems.iter().any(|problem| problem.name == secret);
        let hints = hints::of(&sources.environment, &values);
        match Self::read(values, problems) {
            Ok(mut config) => {
                config.hints.clone_from(&hints);
                let problems = config.relation_problems();
                Examined { config: Some(config), problems, has_secret, hints }
            }
            Err(problems) => Examined { config: None, problems, has_secret, hints },
        }
    }

    fn read(mut values: Values, mut problems: Vec<Problem>) -> Result<Self, Problems> {
        let mut used = values.clone();
        if used.get(Settings::queue_url().about.key).is_some() {
            // REDIS_URL may belong to another program and is not read then.
            used.remove(Settings::redis_url().about.key);
        }
        let listen = &Settings::listen().about;
        if used.get(listen.key).is_some() {
            // PORT may belong to another program and is not read then.
            used.remove(Settings::port().about.key);
        }
        let settings = reader::read::<Settings>(&used, &mut problems);
        let forwards = reader::read_group::<ForwardGroup>(&used, forward::GROUP, &mut problems);
        let Some(mut settings) = settings.filter(|_| problems.is_empty()) else {
            return Err(Problems(problems));
        };
        if let (Some(port), Some(given)) = (settings.port, used.get(Settings::port().about.key)) {
            settings.listen = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
            let (text, origin) = (settings.listen.to_string(), given.origin.clone());
            values.set(listen.key, Given { setting: listen, text, origin });
        }
        let embedded = |file: &str| Place::Sqlite(settings.data_dir.join(file));
        let queue = settings.queue_url.as_ref().or(settings.redis_url.as_ref());
        let places = Places {
            queue: queue.cloned().unwrap_or_else(|| embedded("queue.db")),
            store: settings.database_url.clone().unwrap_or_else(|| embedded("store.db")),
        };
        Ok(Self { settings, forwards, places, hints: Vec::new(), values })
    }

    /// Returns the signing secrets.
    ///
    /// # Errors
    /// The setting has no value.
    pub(crate) fn signing_secrets(&self) -> Result<SigningSecrets, Problems> {
        self.settings.clerk_webhook_signing_secret.clone().ok_or_else(|| missing_secret(&self.hints))
    }

    /// Returns the secret key of the Clerk instance.
    ///
    /// # Errors
    /// The setting has no value.
    pub(crate) fn secret_key(&self) -> Result<SecretKey, Problems> {
        self.settings.clerk_secret_key.clone().ok_or_else(|| {
            let name = Settings::clerk_secret_key().about.environment();
            Problems::one(name, "is not set", SECRET_KEY_FIX)
        })
    }

    /// Returns whether all work is refused while an acknowledged delivery could be lost.
    pub(crate) fn is_strict(&self) -> bool {
        self.settings.durability == DurabilityMode::Strict
    }

    /// Returns whether the operator vouches that the queue's server keeps what it acknowledges.
    pub(crate) fn is_trusted(&self) -> bool {
        self.settings.durability == DurabilityMode::Trusted
    }

    /// Returns for how long the figures of an empty queue hold. A file is asked each time: that costs nothing.
    pub(crate) fn idle_check(&self) -> Duration {
        match &self.places.queue {
            Place::Sqlite(_) => Duration::ZERO,
            Place::Server(_) => self.settings.redis_idle_poll,
        }
    }

    /// Returns the files that values came from, each once.
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

    /// Returns the setting that names the queue.
    pub(crate) fn queue_setting(&self) -> &'static About {
        let queue_url = &Settings::queue_url().about;
        if self.values.get(queue_url.key).is_some() { queue_url } else { &Settings::redis_url().about }
    }

    /// Returns the address of health and metrics.
    pub(crate) fn ops_address(&self) -> SocketAddr {
        match self.settings.ops_listen {
            OpsListen::Own(address) => address,
            OpsListen::Same => self.settings.listen,
        }
    }

    /// Returns the configuration with queue and store in these places, this schema, these secrets and the default path.
    ///
    /// # Errors
    /// The values do not fit the other settings.
    pub(crate) fn for_demo(
        self,
        queue: Place,
        store: Place,
        schema: String,
        secrets: SigningSecrets,
    ) -> Result<Self, Problems> {
        let webhook_path = WebhookPaths::default();
        let ops_listen = match self.settings.ops_listen {
            OpsListen::Same => OpsListen::Own(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
            own @ OpsListen::Own(_) => own,
        };
        let settings = Settings {
            schema,
            webhook_path,
            ops_listen,
            ops_tokens: None,
            clerk_webhook_signing_secret: Some(secrets),
            ..self.settings
        };
        Self { settings, places: Places { queue, store }, ..self }.checked()
    }

    /// Returns the configuration if its settings fit together.
    fn checked(self) -> Result<Self, Problems> {
        self.relation_problems().check()?;
        Ok(self)
    }

    /// Returns the settings that do not fit together.
    fn relation_problems(&self) -> Problems {
        let relations = Settings::relations();
        let broken = relations.iter().filter(|one| !one.holds(&self.settings, &self.places));
        let mut problems: Vec<Problem> =
            broken.map(|one| self.problem(one.setting, one.wrong, one.fix)).collect();
        problems.extend(self.forward_problems());
        Problems(problems)
    }

    /// Returns what is wrong with the forwards as a whole, and with settings of each that do not fit together.
    fn forward_problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut refuse = |name: String, what: String, fix: &str| {
            let origin = self.values.get(&name).map(|given| &given.origin);
            problems.push(Problem::of(name, origin, wrong(what, fix)));
        };
        if self.forwards.len() > FORWARDS_MAX {
            let what = format!("there are {} forwards", self.forwards.len());
            refuse(forward::GROUP.to_owned(), what, &format!("at most {FORWARDS_MAX}"));
        }
        if !self.forwards.is_empty() && !self.settings.changes {
            let what =
                "there are forwards, and changes is set to no: there would be nothing to send".to_owned();
            refuse(forward::GROUP.to_owned(), what, "changes = \"yes\", or remove the forwards");
        }
        for (name, settings) in &self.forwards {
            if name.len() > NAME_LENGTH_MAX {
                let what = format!("has a name of {} characters", name.len());
                refuse(format!("{}.{name}", forward::GROUP), what, &format!("at most {NAME_LENGTH_MAX}"));
            }
            for broken in ForwardGroup::relations().iter().filter(|one| !one.holds(settings, &self.places)) {
                let key = format!("{}.{name}.{}", forward::GROUP, broken.setting.key);
                refuse(key, broken.wrong.to_owned(), broken.fix);
            }
        }
        problems
    }

    /// Returns a problem with a setting that has a well-formed value which can't be used.
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
