//! Load: a history with some poison, shuffled, partly doubled, sent to two receivers.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rollbook_core::delivery::MessageId;
use rollbook_core::signature::SigningSecrets;
use rollbook_simulator::history::{Event, History, HistorySettings};
use rollbook_simulator::sender::{DeliverSettings, Endpoint, Report, deliver};
use rollbook_testkit::clock::WallClock;
use rollbook_testkit::process::SECRET;

/// Deliveries a second, duplicates included.
const RATE: u32 = 1_000;
/// Numbers of events that are delivered twice and that are poison, of a thousand.
const DUPLICATES_PER_MILLE: usize = 250;
const POISON_PER_MILLE: usize = 10;

pub(crate) struct Load {
    rate: u32,
    /// History with the truth that the rows must equal.
    pub(crate) history: History,
    events: Vec<Event>,
    order: Vec<usize>,
}

impl Load {
    pub(crate) fn new(send_for: Duration, seed: u64) -> Self {
        Self::at_rate(RATE, POISON_PER_MILLE, send_for, seed)
    }

    pub(crate) fn at_rate(rate: u32, poison_per_mille: usize, send_for: Duration, seed: u64) -> Self {
        let deliveries = usize::try_from(send_for.as_secs()).unwrap_or(usize::MAX) * rate as usize;
        let changes = deliveries * 1000 / (1000 + DUPLICATES_PER_MILLE);
        let settings = HistorySettings {
            seed,
            users: changes / 6,
            organizations: changes / 60,
            changes,
            ..HistorySettings::default()
        };
        let mut history = History::generate(&settings);
        let poison =
            (0..changes * poison_per_mille / 1000).map(|number| poison(number, history.events[0].at));
        history.events.extend(poison.collect::<Vec<_>>());
        let order = history.schedule(seed, DUPLICATES_PER_MILLE);
        Self { rate, events: history.events.clone(), history, order }
    }

    /// Sends deliveries to the two receivers in turn, each until it is acknowledged. A duplicate may reach
    /// either receiver.
    pub(crate) async fn send(&self, receivers: [SocketAddr; 2]) -> Sent<'_> {
        let half = |first: usize| self.order.iter().skip(first).step_by(2).copied().collect::<Vec<_>>();
        let (one, other) = (half(0), half(1));
        let (one, other) = tokio::join!(self.send_to(receivers[0], &one), self.send_to(receivers[1], &other));
        let failed = one.unanswered.len() + other.unanswered.len() + one.refused.len() + other.refused.len();
        let acknowledged = one.acknowledged.iter().chain(&other.acknowledged);
        let acknowledged = acknowledged.map(|event| self.events[*event].id.as_str()).collect();
        Sent {
            acknowledged,
            all: self.events.iter().map(|event| event.id.as_str()).collect(),
            retries: one.attempts + other.attempts - self.order.len() as u64,
            failed,
        }
    }

    async fn send_to(&self, address: SocketAddr, order: &[usize]) -> Report {
        let endpoint = Endpoint {
            address,
            path: "/webhooks/clerk".into(),
            secret: SigningSecrets::parse(SECRET).expect("a secret").first().clone(),
        };
        let settings = DeliverSettings {
            connections: 16,
            backoff: Duration::from_millis(50),
            backoff_max: Duration::from_millis(500),
            give_up_after: Duration::from_secs(120),
            rate_per_second: NonZeroU32::new(self.rate / 2),
            ..DeliverSettings::default()
        };
        deliver(&endpoint, &self.events, order, Arc::new(WallClock), &settings, Arc::new(|_| {})).await
    }

    /// Returns the ids of the poison.
    pub(crate) fn poison(&self) -> BTreeSet<&str> {
        self.events.iter().map(|event| event.id.as_str()).filter(|id| id.contains("poison")).collect()
    }
}

/// Signed body that is not an event: it must become a dead letter and affect no other message.
fn poison(number: usize, at: rollbook_core::time::Timestamp) -> Event {
    let bodies: [&[u8]; 4] = [b"not json", b"{\"type\":\"user.updated\"", b"[]", b"\xff\xfe"];
    Event {
        id: MessageId::new(format!("msg_poison_{number}")),
        event_type: "user.updated".to_owned(),
        at,
        body: Bytes::from_static(bodies[number % bodies.len()]),
    }
}

/// Answer of the receiver.
pub(crate) struct Sent<'a> {
    pub(crate) acknowledged: BTreeSet<&'a str>,
    pub(crate) all: BTreeSet<&'a str>,
    /// Number of repeated requests.
    pub(crate) retries: u64,
    /// Number of deliveries that were never acknowledged.
    pub(crate) failed: usize,
}
