//! Sends a signed test event like one of Clerk's, and follows it until it is applied.
//!
//! Clerk has no such event type, so no row changes: the ledger says `ignored`, and retention removes the entry.

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
use crate::commands::send::{Target, new_id};
use crate::config::Config;
use crate::output::harmless;
use crate::wire;

/// Type of the test event.
const EVENT_TYPE: &str = "rollbook.doctor";
/// Maximum wait. An event is applied within a second if nothing waits before it.
const APPLIED_WITHIN: Duration = Duration::from_secs(10);
/// Interval of requests to the queue.
const ASK_EVERY: Duration = Duration::from_millis(50);

const SEND: &str = "send";

/// Places in which the event can be found.
struct Places {
    queue: Arc<dyn QueueAdmin>,
    /// `None` if the ledger is switched off, or the face uses none.
    ledger: Option<Arc<dyn FullStore>>,
}

/// Place in which the event was found.
enum Seen {
    /// In the queue.
    Waiting,
    /// In the ledger, with this outcome.
    InLedger(&'static str),
    /// Among the dead letters, for this reason.
    Dead(String),
    /// In no place.
    Gone,
}

/// Sends the event and waits until it is applied.
pub(super) async fn send(
    config: &Config,
    needs: &Needs,
    target: Option<Target>,
    clock: &Arc<dyn Clock>,
) -> Finding {
    let Ok(secrets) = config.signing_secrets() else {
        return failed(SEND, "there is no secret to sign with", "set CLERK_WEBHOOK_SIGNING_SECRET");
    };
    let target = target.unwrap_or_else(|| Target::of(config));
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
    let text = |error: anyhow::Error| format!("{error:#}");
    let queue = wire::open_queue(config, clock.clone()).map_err(text)?.admin;
    let has_ledger = needs.worker && config.settings.ledger;
    let ledger = if has_ledger { Some(wire::open_store(config, clock.clone()).map_err(text)?) } else { None };
    Ok(Places { queue, ledger })
}

async fn follow(places: &Places, id: &MessageId, acknowledged: &str, started: Instant) -> Finding {
    loop {
        let found = |what: &str| format!("{acknowledged}; {what} (svix-id {id})");
        match look(places, id).await {
            Ok(Seen::InLedger(outcome)) => {
                let after = started.elapsed().as_millis();
                return ok(SEND, found(&format!("applied within {after} ms, in the ledger as {outcome}")));
            }
            Ok(Seen::Gone) if places.ledger.is_none() => {
                return ok(
                    SEND,
                    found("no longer in the queue: a worker has acknowledged it; the ledger is not checked"),
                );
            }
            Ok(Seen::Gone) => {
                let fix = "give doctor the settings of the running process: the same folder, URLs and ledger";
                return failed(SEND, found("but neither the queue nor the ledger here knows it"), fix);
            }
            Ok(Seen::Dead(reason)) => {
                let fix = format!("rollbook dead-letters show {id}, then discard it");
                return failed(SEND, found(&format!("parked as a dead letter: {reason}")), fix);
            }
            Ok(Seen::Waiting) if started.elapsed() < APPLIED_WITHIN => tokio::time::sleep(ASK_EVERY).await,
            Ok(Seen::Waiting) => {
                let found = found(&format!("still in the queue after {} s", APPLIED_WITHIN.as_secs()));
                return failed(
                    SEND,
                    found,
                    "is a worker running, and what does its /readyz say of the store?",
                );
            }
            Err(why) => {
                return failed(
                    SEND,
                    found(&format!("not seen further: {why}")),
                    "see the queue's and the store's line",
                );
            }
        }
    }
}

/// Searches in the order in which the event moves, and again if it moved on meanwhile.
async fn look(places: &Places, id: &MessageId) -> Result<Seen, String> {
    if in_time(places.queue.message(id)).await?.is_some() {
        return Ok(Seen::Waiting);
    }
    let filter = DeadLetterFilter { id: Some(id.clone()), ..DeadLetterFilter::default() };
    if let Some(letter) = in_time(places.queue.dead_letters(&filter, None, 1)).await?.first() {
        return Ok(Seen::Dead(letter.failure.reason.to_string()));
    }
    // A worker writes the ledger before it acknowledges the message.
    let Some(ledger) = &places.ledger else { return Ok(Seen::Gone) };
    let entry = in_time(ledger.delivery(id)).await?;
    Ok(entry.map_or(Seen::Gone, |entry| Seen::InLedger(entry.outcome.as_str())))
}
