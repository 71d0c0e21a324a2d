//! Events that never arrive, and what a reconciliation can repair of them.

use std::collections::BTreeSet;

use fastrand::Rng;
use rollbook_core::catalog::find_event;
use rollbook_core::source::RECONCILED;

use crate::history::History;
use crate::truth::{Expected, Subject, Tolerance};

impl History {
    /// Whether a reconciliation repairs the loss of an event: it is about an object that the API lists in the
    /// shape of the events. Sessions, subscriptions, their items and payment attempts are not among them.
    pub fn is_repairable(&self, event: usize) -> bool {
        let resource = self.events.get(event).and_then(|event| find_event(&event.event_type));
        resource.is_some_and(|(resource, _)| RECONCILED.contains(&resource))
    }

    /// Chooses events that never arrive, all of them repairable: those among the first `before`, which happen
    /// before the endpoint exists, and `per_mille` of a thousand of the others.
    pub fn losses(&self, seed: u64, before: usize, per_mille: usize) -> BTreeSet<usize> {
        let mut rng = Rng::with_seed(seed);
        let mut lost: BTreeSet<usize> = (0..self.events.len())
            .filter(|event| (rng.usize(..1000) < per_mille || *event < before) && self.is_repairable(*event))
            .collect();
        for event in self.unprovable_deletions(&lost) {
            lost.remove(&event);
        }
        lost
    }

    /// Returns lost deletions of users that no row shows. The API can't list what is deleted, so nothing would
    /// ever delete the sessions of such a user.
    fn unprovable_deletions(&self, lost: &BTreeSet<usize>) -> BTreeSet<usize> {
        let known: BTreeSet<&str> = self
            .steps
            .iter()
            .filter(|step| step.exists && step.table == "users" && !lost.contains(&step.event))
            .map(|step| step.id.as_str())
            .collect();
        let of_sessions: BTreeSet<usize> = self
            .steps
            .iter()
            .filter(|step| step.table == "sessions" && !step.exists)
            .map(|step| step.event)
            .collect();
        let deletions = self.steps.iter().filter(|step| step.table == "users" && !step.exists);
        deletions
            .filter(|step| of_sessions.contains(&step.event) && !known.contains(step.id.as_str()))
            .map(|step| step.event)
            .collect()
    }

    /// Returns how far rows may differ from the truth if these events never arrive, or arrive after a reading
    /// of the API, and a reconciliation has read the state at the end of the history.
    pub fn tolerance(&self, lost: &BTreeSet<usize>) -> Tolerance {
        let mut tolerance = Tolerance::default();
        // Deleted subjects with content that arrived.
        let mut seen = BTreeSet::new();
        for step in &self.steps {
            let subject = (step.table, step.id.clone());
            match (step.exists, lost.contains(&step.event)) {
                (true, true) => {
                    tolerance.content.insert(subject);
                }
                (true, false) => {
                    // The last content decides.
                    tolerance.content.remove(&subject);
                    seen.insert(subject);
                }
                (false, true) => {
                    tolerance.deletion_time.insert(subject);
                }
                (false, false) => {}
            }
        }
        let is_deleted =
            |subject: &Subject| matches!(self.truth.rows.get(subject), Some(Expected::Deleted { .. }));
        let unseen =
            tolerance.content.iter().filter(|subject| is_deleted(subject) && !seen.contains(subject));
        tolerance.row = unseen.cloned().collect();
        tolerance
    }
}
