//! A signed test event, all the way: posted like one of Clerk's, and looked for until it is applied.
//!
//! Its type is none of Clerk's, so that it makes no row: the ledger says `ignored`, and forgets it in time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rollbook_core::delivery::MessageId;
use rollbook_core::queue::{DeadLetterFilter, QueueAdmin};
use rollbook_core::store::FullStore;
use rollbook_core::time::Clock;
use rollbook_http::client::Connection;
use rollbook_simulator::history::Event;
use rollbook_simulator::sender::{REQUEST_TIMEOUT, post};
use serde_json::json;
use tokio::time::Instant;

use super::finding::{Finding, failed, ok, warning};
use super::{Needs, in_time};
use crate::commands::healthcheck::reachable;
use crate::commands::send::{PATH, Target, new_id};
use crate::config::Config;
use crate::output::harmless;
use crate::wire;

/// What the event calls itself.
const EVENT_TYPE: &str = "rollbook.doctor";
/// An event is applied within a second where nothing waits before it.
const APPLIED_WITHIN: Duration = Duration::from_secs(10);
/// How often the queue is asked.
const ASK_EVERY: Duration = Duration::from_millis(50);

const SEND: &str = "send";

/// Where the event can be looked for.
struct Places {
    queue: Arc<dyn QueueAdmin>,
    /// Where there is a ledger.
    ledger: Option<Arc<dyn FullStore>>,
}

/// Where the event is.
enum Seen {
    /// On its way.
    Waiting,
    /// The ledger tells of it, by this word.
    InLedger(&'static str),
    /// Among the dead letters, for this reason.
    Dead(String),
    /// Nowhere.
    Gone,
}

/// Sends it and waits.
pub(super) async fn send(
    config: &Config,
    needs: &Needs,
    target: Option<Target>,
    clock: &Arc<dyn Clock>,
) -> Finding {
    let Ok(secrets) = config.signing_secrets() else {
        return failed(SEND, "there is no secret to sign with", "set CLERK_WEBHOOK_SIGNING_SECRET");
    };
    let target = target
        .unwrap_or_else(|| Target { address: reachable(config.settings.listen), path: PATH.to_owned() });
    let now = clock.now();
    let body = json!({ "type": EVENT_TYPE, "object": "event", "timestamp": now.as_millis(), "data": {} });
    let event = Event {
        id: new_id(),
        event_type: EVENT_TYPE.to_owned(),
        at: now,
        body: Bytes::from(body.to_string()),
    };
    let started = Instant::now();
    let posted = async {
        let mut connection = Connection::connect(target.address, REQUEST_TIMEOUT).await?;
        post(&mut connection, &target.path, &event, secrets.first(), now).await
    };
    let answer = match posted.await {
        Ok(answer) => answer,
        Err(error) => {
            return failed(
                SEND,
                error.to_string(),
                "start rollbook serve, or give its address by --url or --listen",
            );
        }
    };
    if !answer.is_success() {
        let found = format!("answered {} {}", answer.status, harmless(answer.body.trim()));
        return failed(SEND, found, refusal(answer.status));
    }
    let acknowledged = format!("answered {} after {} ms", answer.status, started.elapsed().as_millis());
    match places(config, needs, clock) {
        Ok(places) => follow(&places, &event.id, &acknowledged, started).await,
        Err(why) => warning(
            SEND,
            format!("{acknowledged}; not seen further: {why}"),
            "see the queue's and the store's line",
        ),
    }
}

fn refusal(status: u16) -> &'static str {
    match status {
        400 => "give doctor and the running process the same CLERK_WEBHOOK_SIGNING_SECRET",
        503 => "see the queue's line, and the process's own /readyz",
        _ => "is it rollbook's receiver that listens there?",
    }
}

fn places(config: &Config, needs: &Needs, clock: &Arc<dyn Clock>) -> Result<Places, String> {
    let told = |error: anyhow::Error| format!("{error:#}");
    let queue = wire::open_queue(config, clock.clone()).map_err(told)?.admin;
    let has_ledger = needs.worker && config.settings.ledger;
    let ledger = if has_ledger { Some(wire::open_store(config, clock.clone()).map_err(told)?) } else { None };
    Ok(Places { queue, ledger })
}

async fn follow(places: &Places, id: &MessageId, acknowledged: &str, started: Instant) -> Finding {
    loop {
        let told = |what: &str| format!("{acknowledged}; {what} (svix-id {id})");
        match look(places, id).await {
            Ok(Seen::InLedger(outcome)) => {
                let after = started.elapsed().as_millis();
                return ok(SEND, told(&format!("applied within {after} ms, in the ledger as {outcome}")));
            }
            Ok(Seen::Gone) if places.ledger.is_none() => {
                return ok(
                    SEND,
                    told("gone from the queue: a worker has acknowledged it, no ledger is looked at"),
                );
            }
            Ok(Seen::Gone) => {
                let fix = "give doctor the settings of the running process: the same folder, URLs and ledger";
                return failed(SEND, told("but neither the queue nor the ledger here knows it"), fix);
            }
            Ok(Seen::Dead(reason)) => {
                let fix = format!("rollbook dead-letters show {id}, then discard it");
                return failed(SEND, told(&format!("parked as a dead letter: {reason}")), fix);
            }
            Ok(Seen::Waiting) if started.elapsed() < APPLIED_WITHIN => tokio::time::sleep(ASK_EVERY).await,
            Ok(Seen::Waiting) => {
                let found = told(&format!("still in the queue after {} s", APPLIED_WITHIN.as_secs()));
                return failed(
                    SEND,
                    found,
                    "is a worker running, and what does its /readyz say of the store?",
                );
            }
            Err(why) => {
                return failed(
                    SEND,
                    told(&format!("not seen further: {why}")),
                    "see the queue's and the store's line",
                );
            }
        }
    }
}

/// Looks in the order in which it moves, and once more where it has just passed by.
async fn look(places: &Places, id: &MessageId) -> Result<Seen, String> {
    if in_time(places.queue.message(id)).await?.is_some() {
        return Ok(Seen::Waiting);
    }
    let filter = DeadLetterFilter { id: Some(id.clone()), ..DeadLetterFilter::default() };
    if let Some(letter) = in_time(places.queue.dead_letters(&filter, None, 1)).await?.first() {
        return Ok(Seen::Dead(letter.failure.reason.to_string()));
    }
    // Written before the message left the queue.
    let Some(ledger) = &places.ledger else { return Ok(Seen::Gone) };
    let entry = in_time(ledger.delivery(id)).await?;
    Ok(entry.map_or(Seen::Gone, |entry| Seen::InLedger(entry.outcome.as_str())))
}
