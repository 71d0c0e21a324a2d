//! Load: the deliveries, and their receivers.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use prometheus::Registry;
use rollbook_core::delivery::{Delivery, MessageId};
use rollbook_core::queue::{Enqueued, Producer, QueueError};
use rollbook_core::signature::{SigningSecret, SigningSecrets};
use rollbook_core::time::Timestamp;
use rollbook_http::client::Connection;
use rollbook_receiver::{Receiver, Settings};
use rollbook_simulator::history::{Event, History, HistorySettings};
use rollbook_testkit::clock::WallClock;
use rollbook_testkit::process::{DEADLINE, SECRET, until};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_rollbook");
pub(crate) const NULL_RECEIVER: &str = "--null-receiver";

pub(crate) fn secret() -> SigningSecret {
    SigningSecrets::parse(SECRET).expect("a secret").first().clone()
}

/// Real-sized events of users, organizations and memberships.
pub(crate) fn history(events: usize) -> History {
    History::generate(&HistorySettings {
        users: events / 6,
        organizations: events / 60,
        changes: events,
        every_event_type: false,
        ..HistorySettings::default()
    })
}

/// Deliveries that no queue has seen yet, with bodies of a history in turn.
pub(crate) fn fresh(history: &History, name: &str, count: usize) -> Vec<Event> {
    let event = |(index, event): (usize, &Event)| Event {
        id: MessageId::new(format!("msg_{name}_{index:08}")),
        event_type: event.event_type.clone(),
        at: event.at,
        body: event.body.clone(),
    };
    history.events.iter().cycle().take(count).enumerate().map(event).collect()
}

/// The events in batches of this size on average: a fraction carries over to the next.
pub(crate) fn batches(events: &[Event], mean: f64) -> Vec<&[Event]> {
    let (mut batches, mut sent, mut due) = (Vec::new(), 0, 0.0);
    while sent < events.len() {
        due += mean;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a small positive number"
        )]
        let end = (due as usize).clamp(sent + 1, events.len());
        batches.push(&events[sent..end]);
        sent = end;
    }
    batches
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
pub(crate) fn per_second(count: usize, elapsed: std::time::Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64()
}

/// A queue that keeps nothing and answers at once.
struct NullQueue;

#[async_trait]
impl Producer for NullQueue {
    async fn enqueue_many(&self, deliveries: &[Delivery]) -> Vec<Result<Enqueued, QueueError>> {
        vec![Ok(Enqueued::Queued); deliveries.len()]
    }
}

/// The receiver's HTTP stack without a queue, in this process, until it is killed.
pub(crate) async fn null_receiver(address: &str) {
    let secrets = SigningSecrets::parse(SECRET).expect("a secret");
    let registry = Registry::new();
    let clock = Arc::new(WallClock);
    let receiver = Receiver::new(Settings::default(), secrets, Arc::new(NullQueue), clock, &registry);
    let listener = TcpListener::bind(address).await.expect("a port");
    receiver.expect("its metrics").serve(listener, CancellationToken::new()).await.expect("a receiver");
}

/// Second process of this program as a null receiver, killed when dropped.
pub(crate) struct NullReceiver {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl NullReceiver {
    pub(crate) async fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let this = std::env::current_exe().expect("this program");
        let child =
            Command::new(this).args([NULL_RECEIVER, &address.to_string()]).stdout(Stdio::null()).spawn();
        let started = Self { child: child.expect("this program again"), address };
        until("the null receiver listens", || async { Connection::connect(address, DEADLINE).await.is_ok() })
            .await;
        started
    }
}

impl Drop for NullReceiver {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A body as the queue would get it.
pub(crate) fn delivery(event: &Event) -> Delivery {
    Delivery { id: event.id.clone(), received_at: event.at, traceparent: None, body: event.body.clone() }
}

/// A lease as a worker would get it.
pub(crate) fn lease(event: &Event) -> rollbook_core::queue::Lease {
    rollbook_core::queue::Lease {
        token: rollbook_core::queue::LeaseToken(String::new()),
        id: event.id.clone(),
        attempt: 1,
        unsettled: 0,
        received_at: Timestamp::from_millis(0),
        traceparent: None,
        body: Bytes::clone(&event.body),
        unreadable: None,
    }
}
