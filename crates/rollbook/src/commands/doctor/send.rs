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
use serde_json::{Value, json};
use tokio::time::Instant;

use super::finding::{Finding, failed, ok, warning};
use super::in_time;
use crate::commands::send::{Target, new_id};
use crate::config::Config;
use crate::faces::Faces;
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
    needs: Faces,
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
            let fix = "start rollbook serve, or give its address by --url or --listen";
            return failed(SEND, error.to_string(), fix);
        }
    };
    if !answer.is_success() {
        let found = format!("answered {} {}", answer.status, harmless(answer.body.trim()));
        return failed(SEND, found, refusal(answer.status, &answer.body));
    }
    let acknowledged = format!("answered {} after {} ms", answer.status, started.elapsed().as_millis());
    match places(config, needs, clock) {
        Ok(places) => follow(&places, &event.id, &acknowledged, started).await,
        Err(why) => {
            let found = format!("{acknowledged}; not seen further: {why}");
            warning(SEND, found, "follow the lines about queue and store")
        }
    }
}

/// Parts of the reason in an answer, each with its fix. The first part that the reason contains counts.
const REASONS: [(u16, &str, &str); 14] = [
    (
        400,
        "no signature matches",
        "give doctor and the running process the same CLERK_WEBHOOK_SIGNING_SECRET; if the line process names another \
         installation, its receiver may have this address",
    ),
    (
        400,
        "timestamp too",
        "set the clocks of this machine and of the process's machine (timedatectl set-ntp true)",
    ),
    (
        400,
        "headers do not agree",
        "remove the webhook-* header that a proxy in front of the receiver adds to the svix-* ones",
    ),
    (
        400,
        "header",
        "a proxy in front of the receiver must pass svix-id, svix-timestamp and svix-signature once, as they come",
    ),
    (400, "malformed", "a proxy in front of the receiver must pass the svix-* headers unchanged"),
    (400, "body not whole", "look for a proxy that cuts or re-chunks bodies, or gives up early"),
    (404, "accepted", "send to an accepted path: --url, or webhook_path as the process has it"),
    (405, "", "the receiver takes POST only: look for a proxy that redirects or rewrites the method"),
    (408, "", "look for a slow proxy or network; see body_timeout and body_rate_min"),
    (413, "", "raise body_max of the process: the test event is small"),
    (
        503,
        "queue full",
        "messages wait for workers: see the queue's line, start workers, or raise queue_depth_max",
    ),
    (503, "queue has no room", "give the queue's server memory, or its disk space: see the queue's line"),
    (503, "too many", "the process is overloaded: try again; see in_flight_max and buffered_max"),
    (503, "stopping", "the process is stopping: start rollbook serve, and run doctor again"),
];

/// Returns the fix for a refusal: by the reason in the answer, if it is one of the receiver's.
fn refusal(status: u16, body: &str) -> &'static str {
    let reason = serde_json::from_str::<Value>(body).ok();
    let reason = reason.as_ref().and_then(|answer| answer.get("error")?.as_str());
    let Some(reason) = reason else {
        return "this is not an answer of rollbook's receiver: give its address by --url or --listen, and look for a proxy before it";
    };
    let known = REASONS.iter().find(|(of, part, _)| *of == status && reason.contains(part));
    match (known, status) {
        (Some((_, _, fix)), _) => fix,
        (None, 503) => "see the queue's line, and the process's own /readyz",
        (None, _) => "see the reason in the answer, and the log of the process",
    }
}

fn places(config: &Config, needs: Faces, clock: &Arc<dyn Clock>) -> Result<Places, String> {
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
                let seen = "no longer in the queue: a worker has acknowledged it; the ledger is not checked";
                return ok(SEND, found(seen));
            }
            Ok(Seen::Gone) => {
                let fix = "give doctor the settings of the running process: the same folder, URLs and ledger; if the line \
                           process names another installation, its receiver has this address: --url or --listen";
                return failed(SEND, found("but neither the queue nor the ledger here knows it"), fix);
            }
            Ok(Seen::Dead(reason)) => {
                let fix = format!("rollbook dead-letters show {id}, then discard it");
                return failed(SEND, found(&format!("became a dead letter: {reason}")), fix);
            }
            Ok(Seen::Waiting) if started.elapsed() < APPLIED_WITHIN => tokio::time::sleep(ASK_EVERY).await,
            Ok(Seen::Waiting) => {
                let found = found(&format!("still in the queue after {} s", APPLIED_WITHIN.as_secs()));
                return failed(
                    SEND,
                    found,
                    "check that a worker runs (rollbook serve or work), and follow the lines about the store",
                );
            }
            Err(why) => {
                return failed(
                    SEND,
                    found(&format!("not seen further: {why}")),
                    "follow the lines about queue and store",
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
    if let Some(letter) = in_time(places.queue.dead_letters(&filter.page(None, 1))).await?.first() {
        return Ok(Seen::Dead(letter.failure.reason.to_string()));
    }
    // A worker writes the ledger before it acknowledges the message.
    let Some(ledger) = &places.ledger else { return Ok(Seen::Gone) };
    let entry = in_time(ledger.delivery(id)).await?;
    Ok(entry.map_or(Seen::Gone, |entry| Seen::InLedger(entry.outcome.as_str())))
}

#[cfg(test)]
mod tests {
    use rollbook_core::signature::VerifyError;

    use super::*;

    #[test]
    fn each_reason_of_the_receiver_has_a_fix_of_its_own() {
        let fix = |status: u16, reason: &str| refusal(status, &json!({ "error": reason }).to_string());
        for (reason, part) in [
            (VerifyError::NoMatch, "CLERK_WEBHOOK_SIGNING_SECRET"),
            (VerifyError::TooOld, "clocks"),
            (VerifyError::TooNew, "clocks"),
            (VerifyError::MixedHeaders, "remove the webhook-* header"),
            (VerifyError::MissingHeader("svix-id"), "must pass svix-id"),
            (VerifyError::RepeatedHeader("svix-id"), "must pass svix-id"),
            (VerifyError::MalformedId, "unchanged"),
            (VerifyError::MalformedTimestamp, "unchanged"),
            (VerifyError::MalformedSignature, "unchanged"),
        ] {
            assert!(fix(400, &reason.to_string()).contains(part), "{reason}");
        }
        for (status, reason, part) in [
            (413, "body too large", "body_max"),
            (405, "method not allowed", "POST"),
            (503, "queue full", "queue_depth_max"),
            (503, "queue has no room", "disk space"),
            (503, "too many deliveries at once", "in_flight_max"),
            (503, "queue unavailable", "/readyz"),
            (503, "stopping", "start rollbook serve"),
        ] {
            assert!(fix(status, reason).contains(part), "{reason}");
        }
        for body in ["<html>Bad Gateway</html>", "", "{}", "[1]"] {
            assert!(refusal(502, body).contains("not an answer of rollbook's receiver"), "{body}");
        }
    }
}
