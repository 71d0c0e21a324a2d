//! A client behind a load balancer like a Kubernetes Service: half of the senders keep their connections, the
//! other half makes one for each delivery, and new connections go only to receivers that were ready at the
//! last check. No request is repeated: every answer other than 2xx, and every missing one, is reported.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use rollbook_core::signature::{SigningSecret, SigningSecrets};
use rollbook_core::time::Clock as _;
use rollbook_http::client::Connection;
use rollbook_simulator::history::{Event, History};
use rollbook_simulator::sender::post;
use rollbook_testkit::clock::WallClock;
use rollbook_testkit::process::{SECRET, until};
use tokio::time::Instant;

const CONNECTIONS: usize = 16;
/// Time between the starts of two deliveries at the normal rate.
const EVERY: Duration = Duration::from_millis(2);
/// Number of deliveries in "some more".
const SOME: usize = 150;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Interval of readiness checks. Between two checks, a stopping receiver still gets deliveries.
const WATCH_EVERY: Duration = Duration::from_millis(100);

pub(super) struct Load<'a> {
    events: &'a [Event],
    order: Vec<usize>,
    receivers: Vec<Receiver>,
    secret: SigningSecret,
    next: AtomicUsize,
    turn: AtomicUsize,
    acknowledged: AtomicUsize,
    hurry: AtomicBool,
}

struct Receiver {
    listen: SocketAddr,
    ops: SocketAddr,
    is_ready: AtomicBool,
}

impl<'a> Load<'a> {
    /// Returns a shuffled history with every fourth delivery twice, for receivers at these public and private
    /// addresses.
    pub(super) fn new(
        history: &'a History,
        receivers: impl Iterator<Item = (SocketAddr, SocketAddr)>,
    ) -> Self {
        let receivers =
            receivers.map(|(listen, ops)| Receiver { listen, ops, is_ready: AtomicBool::new(true) });
        Self {
            events: &history.events,
            order: history.schedule(1, 250),
            receivers: receivers.collect(),
            secret: SigningSecrets::parse(SECRET).expect("a secret").first().clone(),
            next: AtomicUsize::new(0),
            turn: AtomicUsize::new(0),
            acknowledged: AtomicUsize::new(0),
            hurry: AtomicBool::new(false),
        }
    }

    /// Returns once some more deliveries are acknowledged.
    pub(super) async fn some_more(&self) {
        let before = self.acknowledged.load(Ordering::Relaxed);
        until(
            "some more deliveries are acknowledged: the load must outlast what is done to the fleet",
            || std::future::ready(self.acknowledged.load(Ordering::Relaxed) >= before + SOME),
        )
        .await;
    }

    /// Sends the remaining deliveries as fast as possible.
    pub(super) fn no_need_to_wait(&self) {
        self.hurry.store(true, Ordering::Relaxed);
    }

    /// Sends every delivery once. Returns the failures.
    pub(super) async fn send(&self) -> Vec<String> {
        let started = Instant::now();
        join_all((0..CONNECTIONS).map(|line| self.line(started, line % 2 == 0))).await.concat()
    }

    async fn line(&self, started: Instant, keeps: bool) -> Vec<String> {
        let mut connection = None;
        let mut wrong = Vec::new();
        for place in std::iter::repeat_with(|| self.next.fetch_add(1, Ordering::Relaxed)) {
            let Some(event) = self.order.get(place) else { break };
            if !self.hurry.load(Ordering::Relaxed) {
                let due = started + EVERY * u32::try_from(place).expect("few deliveries");
                tokio::time::sleep_until(due).await;
            }
            match self.deliver(&mut connection, &self.events[*event]).await {
                Ok(()) => _ = self.acknowledged.fetch_add(1, Ordering::Relaxed),
                Err(why) => wrong.push(why),
            }
            connection = connection.filter(|_| keeps);
        }
        wrong
    }

    async fn deliver(&self, kept: &mut Option<Connection>, event: &Event) -> Result<(), String> {
        let connection = match kept.take().filter(Connection::is_open) {
            Some(open) => open,
            None => self.connect().await?,
        };
        let connection = kept.insert(connection);
        let answer = post(connection, "/webhooks/clerk", event, &self.secret, WallClock.now()).await;
        let answer = answer.map_err(|error| error.to_string())?;
        if answer.is_success() { Ok(()) } else { Err(format!("{}: {}", answer.status, answer.body)) }
    }

    async fn connect(&self) -> Result<Connection, String> {
        let ready: Vec<_> =
            self.receivers.iter().filter(|receiver| receiver.is_ready.load(Ordering::Relaxed)).collect();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let receiver = ready.get(turn % ready.len().max(1)).ok_or("no receiver is ready")?;
        Connection::connect(receiver.listen, ANSWER_TIMEOUT).await.map_err(|error| error.to_string())
    }

    /// Checks the readiness of each receiver repeatedly. Never returns.
    pub(super) async fn watch(&self) {
        loop {
            for receiver in &self.receivers {
                let ready = is_ready(receiver.ops).await;
                receiver.is_ready.store(ready, Ordering::Relaxed);
            }
            tokio::time::sleep(WATCH_EVERY).await;
        }
    }
}

async fn is_ready(ops: SocketAddr) -> bool {
    let answer = async { Connection::connect(ops, ANSWER_TIMEOUT).await?.get("/readyz").await };
    answer.await.is_ok_and(|answer| answer.is_success())
}
