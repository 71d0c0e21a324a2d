//! Values of columns: timestamps, integers, ids and texts in every notation that a sender may use.

use rollbook_core::change::Field;
use rollbook_core::event::INDEXED_TEXT_LENGTH_MAX;
use serde_json::{Value, json};

use super::events::{column, merged, read, user};

#[test]
fn an_integer_timestamp_is_read_in_every_json_notation() {
    for spelled in ["1785312000000", "1785312000000.0", "1.785312e12", "1785312000.0"] {
        let mut event = user();
        event["timestamp"] = serde_json::from_str(spelled).expect("a number");
        event["data"]["updated_at"] = event["timestamp"].clone();
        let parsed = read(&event).expect("a readable event");
        assert_eq!(parsed.mismatched, 0, "{spelled}");
        let version = merged(&event).version;
        assert_eq!(
            (version.updated_at, version.event_at),
            (1_785_312_000_000, 1_785_312_000_000),
            "{spelled}"
        );
    }
}

#[test]
fn an_invitation_with_an_empty_organization_id_gets_the_nested_one() {
    for nothing in [json!(""), Value::Null] {
        let invitation = json!({
            "type": "organizationInvitation.accepted",
            "timestamp": 1_785_312_000_032_i64,
            "data": {
                "id": "orginv_1", "organization_id": nothing,
                "data": { "public_organization_data": { "id": "org_1" } },
            },
        });
        assert_eq!(column(&merged(&invitation), "organization_id"), &Field::Text("org_1".to_owned()));
    }
}

#[test]
fn a_text_too_long_for_an_index_is_null_in_an_indexed_column_and_stays_in_data() {
    // The limit is in bytes, not characters, as in Postgres.
    let longest = format!("\u{e9}{}", "x".repeat(INDEXED_TEXT_LENGTH_MAX - 2));
    for (text, mismatched, indexed) in [
        (longest.clone(), 0, Field::Text(longest.clone())),
        (format!("{longest}x"), 1, Field::Null),
        (String::new(), 0, Field::Text(String::new())),
    ] {
        let mut event = user();
        event["data"]["external_id"] = json!(text);
        event["data"]["last_name"] = json!(text);
        assert_eq!(read(&event).expect("a readable event").mismatched, mismatched);
        let assertion = merged(&event);
        assert_eq!(column(&assertion, "external_id"), &indexed);
        // The column `last_name` has no index.
        assert_eq!(column(&assertion, "last_name"), &Field::Text(text.clone()));
        let data: Value =
            serde_json::from_str(&assertion.row.expect("a row with content").data).expect("JSON");
        assert_eq!(data["external_id"], json!(text));
    }
}

#[test]
fn timestamps_in_seconds_are_converted_to_milliseconds() {
    let mut event = user();
    event["timestamp"] = json!(1_785_312_000);
    event["data"]["updated_at"] = json!(1_785_311_999);
    let version = merged(&event).version;
    assert_eq!((version.updated_at, version.event_at), (1_785_311_999_000, 1_785_312_000_000));
}
