//! Conditions between settings, each of which reads well by itself.

use super::{Config, Problems, SETTINGS, Settings};

/// A condition of a setting that involves other settings.
pub(crate) struct Relation {
    /// Deployments that the condition applies to.
    pub(crate) scope: Scope,
    /// What the setting must be.
    pub(crate) fix: &'static str,
    pub(super) holds: fn(&Settings, &Config) -> bool,
    pub(super) wrong: &'static str,
}

/// Deployments that a relation applies to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// All.
    Any,
    /// Those with the queue on Redis.
    Redis,
    /// Those with the store on Postgres.
    Postgres,
}

impl Scope {
    fn covers(self, config: &Config) -> bool {
        match self {
            Self::Any => true,
            Self::Redis => config.queue.server().is_some(),
            Self::Postgres => config.store.server().is_some(),
        }
    }
}

/// Finds the settings that do not fit together.
pub(crate) fn check(config: &Config) -> Problems {
    let broken = SETTINGS.iter().flat_map(|setting| {
        let broken = |one: &&Relation| one.scope.covers(config) && !(one.holds)(&config.settings, config);
        setting.relations.iter().filter(broken).map(|one| config.problem(setting, one.wrong, one.fix))
    });
    Problems(broken.collect())
}
