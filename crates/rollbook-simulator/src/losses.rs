//! Events that never arrive, and what a reconciliation can repair of them.

use std::collections::BTreeSet;

use fastrand::Rng;
use rollbook_core::catalog::find_event;
use rollbook_core::source::RECONCILED;

use crate::history::History;
use crate::truth::{Expected, Subject, Tolerance};

/// Table of the domains.
const DOMAINS: &str = "organization_domains";
/// Event type of a domain's own deletion.
const DOMAIN_DELETED: &str = "organizationDomain.deleted";

impl History {
    /// Returns whether a reconciliation repairs the loss of an event: it is about an object that the API
    /// lists in the shape of the events. Sessions, subscriptions, their items and payment attempts are not among them.
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

    /// Returns deletions that the API cannot prove. Users that no row shows: the API can't list what is
    /// deleted, so nothing would ever delete their sessions. Domains, if the instance has none left: an empty
    /// list proves nothing, and a domain has no read of its own.
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
        let living = |(subject, expected): (&Subject, &Expected)| {
            subject.0 == DOMAINS && matches!(expected, Expected::Live(_))
        };
        let has_domains = self.truth.rows.iter().any(living);
        let is_unprovable = |table: &str, event: usize, id: &str| match table {
            "users" => of_sessions.contains(&event) && !known.contains(id),
            // A domain that goes with its organization is deleted with the organization's row.
            DOMAINS => !has_domains && self.events[event].event_type == DOMAIN_DELETED,
            _ => false,
        };
        let deletions = self.steps.iter().filter(|step| !step.exists);
        deletions
            .filter(|step| is_unprovable(step.table, step.event, &step.id))
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
