//! Conditions between settings that are each well-formed.

use super::setting::About;
use super::url::Place;

/// Places of queue and store.
pub(crate) struct Places {
    /// Place of the queue.
    pub(crate) queue: Place,
    /// Place of the store.
    pub(crate) store: Place,
}

/// Condition on a setting of `S` that involves other settings.
pub(crate) struct Relation<S> {
    /// Setting to change if the condition is not met.
    pub(crate) setting: &'static About,
    /// Deployments that the condition applies to.
    pub(crate) scope: Scope,
    /// Required value, for the reference.
    pub(crate) fix: &'static str,
    /// The condition.
    pub(super) condition: fn(&S, &Places) -> bool,
    /// Description of the problem if the condition is not met.
    pub(super) wrong: &'static str,
}

/// Deployments that a relation applies to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// All deployments.
    Any,
    /// Deployments with the queue on Redis.
    Redis,
    /// Deployments with the store on Postgres.
    Postgres,
}

impl<S> Relation<S> {
    /// Returns whether the condition is met, or does not apply.
    pub(super) fn holds(&self, settings: &S, places: &Places) -> bool {
        let applies = match self.scope {
            Scope::Any => true,
            Scope::Redis => places.queue.server().is_some(),
            Scope::Postgres => places.store.server().is_some(),
        };
        !applies || (self.condition)(settings, places)
    }
}
