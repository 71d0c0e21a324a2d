//! Conditions between settings, each of which reads well by itself.

use super::setting::About;
use super::url::Place;

/// The places of queue and store.
pub(crate) struct Places {
    /// Place of the queue.
    pub(crate) queue: Place,
    /// Place of the store.
    pub(crate) store: Place,
}

/// A condition that a setting of `S` must meet, and that involves other settings.
pub(crate) struct Relation<S> {
    /// The setting to change where the condition is not met.
    pub(crate) setting: &'static About,
    /// Deployments that the condition applies to.
    pub(crate) scope: Scope,
    /// What the setting must be.
    pub(crate) fix: &'static str,
    /// The condition.
    pub(super) condition: fn(&S, &Places) -> bool,
    /// What is wrong where it is not met.
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

impl<S> Relation<S> {
    /// Whether the condition is met, or does not apply.
    pub(super) fn holds(&self, settings: &S, places: &Places) -> bool {
        let applies = match self.scope {
            Scope::Any => true,
            Scope::Redis => places.queue.server().is_some(),
            Scope::Postgres => places.store.server().is_some(),
        };
        !applies || (self.condition)(settings, places)
    }
}
