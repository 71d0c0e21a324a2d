//! A history: all events of a simulated Clerk instance, and the rows that must result from them.

use fastrand::Rng;
use rollbook_core::time::Timestamp;

pub use crate::event::{Event, INSTANCE_ID};
use crate::instance::Instance;
use crate::state::{ClerkState, Step};
use crate::truth::Truth;

/// Size and seed of a history. Equal settings give equal histories, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistorySettings {
    /// Seed of the random number generator.
    pub seed: u64,
    /// Number of users who sign up. All sign up within the first half if the history is long enough. At least
    /// one.
    pub users: usize,
    /// Number of organizations created. All are created within the first half if the history is long enough.
    pub organizations: usize,
    /// Minimum number of events. The result has a few more where the last action emits several events.
    pub changes: usize,
    /// Timestamp of the first event.
    pub start: Timestamp,
    /// Whether the history has every event type: also invitations, domains, sessions, roles, permissions, the
    /// waitlist, billing, and messages with one-time passwords, which must leave no row. Otherwise it has
    /// users, organizations and memberships only.
    pub every_event_type: bool,
}

impl Default for HistorySettings {
    fn default() -> Self {
        Self {
            seed: 1,
            users: 1500,
            organizations: 150,
            changes: 9000,
            start: Timestamp::from_millis(1_785_312_000_000),
            every_event_type: true,
        }
    }
}

/// Events of a Clerk instance in the order in which they happened, and the truth.
#[derive(Clone, Debug, PartialEq)]
pub struct History {
    /// Events to deliver.
    pub events: Vec<Event>,
    /// Rows that must exist once every event has arrived.
    pub truth: Truth,
    /// Creations, changes and deletions of the objects, in the order of the events.
    pub(crate) steps: Vec<Step>,
}

impl History {
    /// Generates the events of a simulated instance.
    pub fn generate(settings: &HistorySettings) -> Self {
        let mut instance = Instance::new(settings.seed, settings.start);
        let (mut users, mut organizations) = (0, 0);
        // Number of objects out of `total` that must exist after `events` events, so that all exist at half
        // time.
        let due = |events: usize, total: usize| total.min(1 + 2 * total * events / settings.changes.max(1));

        if settings.every_event_type {
            instance.emit_every_event_type();
        }
        while instance.events.len() < settings.changes || users == 0 {
            let events = instance.events.len();
            if users < due(events, settings.users.max(1)) {
                instance.create_user();
                users += 1;
            } else if organizations < due(events, settings.organizations) {
                instance.create_organization();
                organizations += 1;
            } else if settings.every_event_type {
                instance.act_on_any();
            } else {
                instance.act();
            }
        }
        Self { events: instance.events, truth: instance.truth, steps: instance.steps }
    }

    /// Returns the objects that exist at Clerk once every event has happened.
    pub fn state(&self) -> ClerkState {
        self.state_after(self.events.len())
    }

    /// Returns the objects that exist at Clerk after the first `events` events, whether they are delivered or
    /// not.
    pub fn state_after(&self, events: usize) -> ClerkState {
        let mut state = ClerkState::new(&self.events, &self.steps);
        state.advance_to(events);
        state
    }

    /// Returns an order of delivery: every event at least once, shuffled over the whole history, with
    /// `duplicates_per_mille` additional deliveries per thousand events. Each number is an index into
    /// [`Self::events`].
    pub fn schedule(&self, seed: u64, duplicates_per_mille: usize) -> Vec<usize> {
        let mut rng = Rng::with_seed(seed);
        let mut order = Vec::with_capacity(self.events.len() * (1000 + duplicates_per_mille) / 1000);
        for event in 0..self.events.len() {
            let chance = usize::from(rng.usize(..1000) < duplicates_per_mille % 1000);
            let deliveries = 1 + duplicates_per_mille / 1000 + chance;
            order.extend(std::iter::repeat_n(event, deliveries));
        }
        rng.shuffle(&mut order);
        order
    }
}
