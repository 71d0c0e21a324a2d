//! A story as JSON: the same facts under names that stay.

use rollbook_core::queue::MessageState;
use rollbook_core::time::Timestamp;
use serde_json::{Map, Value, json};

use super::queue::{Parked, Seen, Waiting};
use super::row::{Membership, Row, State};
use super::story::{Memberships, Story, Subject};
use super::why::{Told, Why};
use super::{cascades, text};

/// The whole story.
pub(super) fn tell(story: &Story) -> Value {
    let kept_for = story.ledger.kept_for.map(|kept_for| kept_for.as_secs());
    let mut told = json!({
        "id": story.id,
        "is_known": story.knows_something(),
        "deliveries": story.deliveries.iter().map(delivery).collect::<Vec<_>>(),
        "has_older_deliveries": story.has_older,
        "ledger": { "is_on": story.ledger.is_on, "kept_for_seconds": kept_for },
        "queue": story.queue.as_ref().map_or_else(|why| json!({ "error": why }), queue),
        "notes": text::notes(story),
    });
    if let cascades @ Some(_) = cascades::json(&story.cascades) {
        told["left_to_do"] = json!(cascades);
    }
    if let Some(subject) = &story.subject {
        told["subject"] = self::subject(subject);
    }
    if !story.knows_something() {
        told["can_mean"] = json!(text::meanings(story));
    }
    told
}

fn subject(subject: &Subject) -> Value {
    json!({
        "table": subject.resource.map(|resource| resource.table),
        "row": subject.row.as_ref().map(row),
        "memberships": subject.memberships.as_ref().map(memberships),
    })
}

fn row(row: &Row) -> Value {
    let state = match row.state {
        State::Place => "place",
        State::Alive => "alive",
        State::Deleted => "deleted",
        State::Erased => "erased",
    };
    let columns: Map<String, Value> =
        row.columns.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    json!({
        "state": state,
        "ended_with": row.ended_with.as_ref().map(|(parent, id)| json!({ "table": parent.table, "id": id })),
        "has_content": row.has_content,
        "columns": columns,
    })
}

fn memberships(memberships: &Memberships) -> Value {
    let listed = memberships.listed.iter().map(|membership| {
        let Membership { id, organization_id, user_id, role, since, row } = membership;
        json!({
            "id": id,
            "organization_id": organization_id,
            "user_id": user_id,
            "role": role,
            "since": since,
            "ended_at": row.deleted_at,
            "ended_with": row.ended_with.as_ref().map(|(parent, id)| json!({ "table": parent.table, "id": id })),
        })
    });
    json!({
        "living": memberships.living,
        "all": memberships.all,
        "has_more": memberships.has_more,
        "listed": listed.collect::<Vec<_>>(),
    })
}

fn delivery(told: &Told) -> Value {
    let line = &told.line;
    let millis = |from: Timestamp, to: Timestamp| to.as_millis().saturating_sub(from.as_millis());
    let (other, made_later_by) = match &told.why {
        Why::Older { than: Some(rival), .. } => (Some(rival.id.as_str()), Some(rival.made_later_by)),
        Why::Removed { by: Some(id) } | Why::Same { like: Some(id), .. } => (Some(id.as_str()), None),
        _ => (None, None),
    };
    json!({
        "svix_id": line.message_id.as_str(),
        "type": line.event_type,
        "subject_id": line.subject_id,
        "outcome": line.outcome.as_str(),
        "event_at": line.event_at.to_string(),
        "received_at": line.received_at.to_string(),
        "applied_at": line.applied_at.to_string(),
        "received_after_ms": millis(line.event_at, line.received_at),
        "applied_after_ms": millis(line.received_at, line.applied_at),
        "attempts": line.attempts,
        "reason": {
            "code": told.why.code(),
            "text": told.sentences().join(" "),
            "other_svix_id": other,
            "other_made_later_by_ms": made_later_by,
        },
        "left_the_row_as_it_is": told.is_last,
    })
}

fn queue(seen: &Seen) -> Value {
    json!({
        "messages": seen.messages.iter().map(waiting).collect::<Vec<_>>(),
        "dead_letters": seen.dead_letters.iter().map(parked).collect::<Vec<_>>(),
        "untold": seen.untold,
        "about_what_belongs_to_it": seen.of_its_own,
        "looked_at": seen.looked_at,
        "is_cut_short": seen.is_cut_short,
    })
}

fn waiting(message: &Waiting) -> Value {
    let (state, until) = match message.state {
        MessageState::Waiting => ("waiting", None),
        MessageState::Delayed { until } => ("delayed", Some(until.to_string())),
        MessageState::Leased { until } => ("leased", Some(until.to_string())),
    };
    json!({
        "svix_id": message.id.as_str(),
        "type": message.event_type,
        "state": state,
        "until": until,
        "received_at": message.received_at.to_string(),
        "traceparent": message.traceparent.map(|traceparent| traceparent.to_string()),
        "attempts": message.attempts,
    })
}

fn parked(letter: &Parked) -> Value {
    json!({
        "svix_id": letter.id.as_str(),
        "type": letter.event_type,
        "reason": letter.reason.as_str(),
        "detail": letter.detail,
        "received_at": letter.received_at.to_string(),
        "traceparent": letter.traceparent.map(|traceparent| traceparent.to_string()),
        "parked_at": letter.at.to_string(),
        "attempts": letter.attempts,
    })
}
