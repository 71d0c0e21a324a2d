//! A history: what a Clerk instance said in its life, and the rows that must come of it.

use std::fmt;

use bytes::Bytes;
use fastrand::Rng;
use rollbook_core::delivery::MessageId;
use rollbook_core::time::Timestamp;

use crate::ids;
use crate::instance::Instance;
use crate::truth::Truth;

/// The instance that every event of a history, and every built-in sample, names.
pub const INSTANCE_ID: &str = "ins_2oWzDXRWo6YxXgJNj6bdIs0eFeG";

/// One event, as Svix has it to deliver.
#[derive(Clone, PartialEq, Eq)]
pub struct Event {
    /// The `svix-id`.
    pub id: MessageId,
    /// The event's type.
    pub event_type: String,
    /// The event's own time: `timestamp` of the envelope.
    pub at: Timestamp,
    /// The bytes to sign and send.
    pub body: Bytes,
}

impl Event {
    /// An event with a fresh id.
    pub fn new(event_type: &str, at: Timestamp, body: Bytes, rng: &mut Rng) -> Self {
        Self { id: MessageId::new(ids::id("msg_", rng, at)), event_type: event_type.to_owned(), at, body }
    }
}

impl fmt::Debug for Event {
    /// Never the body.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Event({}, {}, {} bytes)", self.id, self.event_type, self.body.len())
    }
}

/// How big a history is. Equal settings give equal histories, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistorySettings {
    /// What chance begins with.
    pub seed: u64,
    /// How many users sign up, all within the first half if the history is long enough. At least one.
    pub users: usize,
    /// How many organizations are founded, likewise.
    pub organizations: usize,
    /// How many events there are at least; a handful more where the last thing that happens has several.
    pub changes: usize,
    /// When it begins.
    pub start: Timestamp,
    /// Whether all of Clerk lives, with every event type: invitations, domains, sessions, roles, permissions, the
    /// waiting list, billing, and messages with one-time passwords, which must leave no row. Otherwise users,
    /// organizations and memberships alone.
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

/// The events of a Clerk instance in the order in which they happened, and the truth they tell.
#[derive(Clone, Debug, PartialEq)]
pub struct History {
    /// What there is to deliver.
    pub events: Vec<Event>,
    /// The rows that must be there once all of it has arrived.
    pub truth: Truth,
}

impl History {
    /// Lets an instance live.
    pub fn generate(settings: &HistorySettings) -> Self {
        let mut instance = Instance::new(settings.seed, settings.start);
        let (mut users, mut organizations) = (0, 0);
        // What share of `total` is due when everything is to be there at half time.
        let due = |events: usize, total: usize| total.min(1 + 2 * total * events / settings.changes.max(1));

        if settings.every_event_type {
            instance.live_a_whole_life();
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
                instance.live_wholly();
            } else {
                instance.live();
            }
        }
        Self { events: instance.events, truth: instance.truth }
    }

    /// An order of delivery: every event at least once, shuffled over the whole history, and
    /// `duplicates_per_mille` more deliveries for every thousand events. The numbers are places in
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
