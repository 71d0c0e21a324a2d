//! Parsing events: valid ones and malformed ones.

use bytes::Bytes;
use proptest::prelude::*;
use rollbook_core::catalog::{ORGANIZATION_MEMBERSHIPS, SUBSCRIPTIONS, USERS};
use rollbook_core::change::{Effect, Field, Origin, SubjectChange};
use rollbook_core::delivery::MessageId;
use rollbook_core::drift::Drift;
use rollbook_core::event::{
    INDEXED_TEXT_LENGTH_MAX, NAME_LENGTH_MAX, Parsed, mismatches_of, observed, parse,
};
use rollbook_core::queue::{Lease, LeaseToken};
use rollbook_core::retry::{Failure, Reason};
use rollbook_core::time::Timestamp;
use serde_json::{Value, json};

pub(super) fn read(event: &Value) -> Result<Parsed, Failure> {
    parse(event.to_string().as_bytes(), None)
}

pub(super) fn merged(event: &Value) -> SubjectChange {
    match read(event).expect("a readable event").effect {
        Effect::Merge(assertion) => *assertion,
        Effect::Ignore { .. } => panic!("{event} was ignored"),
    }
}

fn reason_of(body: impl AsRef<[u8]>) -> Reason {
    parse(body.as_ref(), None).expect_err("a refusal").reason
}

pub(super) fn user() -> Value {
    json!({
        "type": "user.updated", "object": "event", "timestamp": 1_785_312_000_032_i64, "instance_id": "ins_1",
        "data": {
            "id": "user_1", "first_name": "Ines", "banned": false, "updated_at": 1_785_312_000_015_i64,
            "created_at": 1_785_312_000_000_i64, "primary_email_address_id": "idn_2", "last_sign_in_at": null,
            "email_addresses": [
                {"id": "idn_1", "email_address": "first@kilnworks.example"},
                {"id": "idn_2", "email_address": "second@kilnworks.example"},
            ],
            "public_metadata": {"plan": "pro", "a": 1},
        }
    })
}

pub(super) fn column<'a>(assertion: &'a SubjectChange, name: &str) -> &'a Field {
    let position = assertion.resource.columns.iter().position(|column| column.name == name);
    &assertion.row.as_ref().expect("a row with content").values[position.expect("a column of that name")]
}

#[test]
fn a_user_is_parsed_by_the_catalog() {
    let assertion = merged(&user());
    assert_eq!(assertion.resource, &USERS);
    assert_eq!(assertion.id, "user_1");
    assert_eq!(column(&assertion, "first_name"), &Field::Text("Ines".into()));
    assert_eq!(column(&assertion, "banned"), &Field::Bool(false));
    assert_eq!(column(&assertion, "locked"), &Field::Null);
    assert_eq!(column(&assertion, "last_sign_in_at"), &Field::Null);
    assert_eq!(column(&assertion, "public_metadata"), &Field::Json(r#"{"a":1,"plan":"pro"}"#.into()));
    assert_eq!(assertion.version.updated_at, 1_785_312_000_015);
    assert_eq!(assertion.version.event_at, 1_785_312_000_032);
    assert!(!assertion.version.is_deleted);
    let row = assertion.row.expect("a row with content");
    assert_eq!(row.updated_at, Some(Timestamp::from_millis(1_785_312_000_015)));
    assert_eq!(serde_json::from_str::<Value>(&row.data).expect("JSON"), user()["data"]);
}

#[test]
fn the_primary_address_is_the_one_with_the_primary_id_and_not_the_first() {
    let email = |event: &Value| column(&merged(event), "primary_email_address").clone();
    assert_eq!(email(&user()), Field::Text("second@kilnworks.example".into()));
    for none in [Value::Null, json!("idn_9"), json!(7)] {
        let mut event = user();
        event["data"]["primary_email_address_id"] = none;
        assert_eq!(email(&event), Field::Null);
    }
}

#[test]
fn the_change_has_the_origin_of_its_delivery() {
    let message = Lease {
        token: LeaseToken("1".into()),
        id: MessageId::new("msg_1"),
        attempt: 3,
        unsettled: 0,
        received_at: Timestamp::from_millis(5),
        traceparent: None,
        body: Bytes::new(),
        unreadable: None,
    };
    let origin = read(&user()).expect("a readable event").into_change(&message).origin;
    assert_eq!((origin.entry_id().as_str(), origin.synced_by()), ("msg_1", "msg_1"));
    assert_eq!(origin.event_type(), "user.updated");
    assert_eq!(origin.attempt(), 3);
    assert_eq!(origin.received_at(), Timestamp::from_millis(5));
    assert_eq!(origin.event_at(), Timestamp::from_millis(1_785_312_000_032));
}

#[test]
fn an_observed_object_is_the_content_of_an_event_with_the_same_data_and_writes_rows_as_reconcile() {
    let mut event = user();
    event["timestamp"] = json!(1_785_400_000_000_i64);
    let read_at = Timestamp::from_millis(1_785_400_000_000);
    let object = event["data"].as_object().cloned().expect("an object");
    let (subject, mismatched) = observed(&USERS, object, read_at).expect("an id");
    assert_eq!((&subject, mismatched), (&merged(&event), 0));
    let origin = Origin::reconcile("run_1", &subject, Drift::Stale, read_at);
    assert_eq!(
        (origin.entry_id().as_str(), origin.synced_by()),
        ("reconcile:run_1:users:user_1", "reconcile")
    );
    assert_eq!((origin.event_type(), origin.event_at()), ("reconcile.stale", read_at));
    assert_eq!(observed(&USERS, serde_json::Map::new(), read_at), None);
}

#[test]
fn a_membership_delete_is_recognised_by_its_type_although_it_has_content_and_no_flag() {
    let event = json!({
        "type": "organizationMembership.deleted", "timestamp": 1_786_100_405_021_i64,
        "data": {"id": "orgmem_1", "updated_at": 1_785_337_205_005_i64, "organization": {"id": "org_1"}},
    });
    let assertion = merged(&event);
    assert_eq!(assertion.resource, &ORGANIZATION_MEMBERSHIPS);
    assert_eq!(assertion.row, None);
    assert!(assertion.version.is_deleted);
    assert_eq!((assertion.version.updated_at, assertion.version.event_at), (0, 1_786_100_405_021));
}

#[test]
fn without_a_usable_updated_at_the_event_time_is_used() {
    for odd in [Value::Null, json!("soon"), json!(-1), json!(1_000_000_000_000_000_000_i64), json!(1.5)] {
        let mut event = user();
        event["data"]["updated_at"] = odd.clone();
        assert_eq!(merged(&event).version.updated_at, 1_785_312_000_032, "{odd}");
    }
}

#[test]
fn a_field_of_an_unexpected_type_leaves_its_column_null_and_is_counted() {
    let mut event = user();
    event["data"]["first_name"] = json!({"not": "text"});
    event["data"]["banned"] = json!("no");
    event["data"]["email_addresses"] = json!("none");
    event["data"]["primary_phone_number_id"] = json!(7);
    let parsed = read(&event).expect("a readable event");
    assert_eq!(parsed.mismatched, 4);
    let assertion = merged(&event);
    assert_eq!(column(&assertion, "first_name"), &Field::Null);
    assert_eq!(column(&assertion, "banned"), &Field::Null);
    assert_eq!(column(&assertion, "primary_email_address"), &Field::Null);
}

#[test]
fn a_value_of_the_wrong_type_on_the_path_to_a_field_is_counted_and_a_missing_one_is_not() {
    let payment = |payer: Value, totals: Value| {
        json!({"type": "paymentAttempt.created", "timestamp": 1_785_312_000_032_i64,
               "data": {"id": "cpa_1", "payer": payer, "totals": totals}})
    };
    for (payer, totals, mismatched) in [
        (json!(null), json!({"grand_total": null}), 0),
        (json!("someone"), json!({}), 3),
        (json!({}), json!({"grand_total": [61]}), 2),
        (json!({"user_id": ""}), json!({"grand_total": {"amount": 61.25, "currency": "USD"}}), 1),
    ] {
        let event = payment(payer, totals);
        assert_eq!(read(&event).expect("a readable event").mismatched, mismatched, "{event}");
        assert_eq!(column(&merged(&event), "user_id"), &Field::Null);
        assert_eq!(column(&merged(&event), "amount"), &Field::Null);
    }
}

#[test]
fn each_column_that_is_null_because_its_value_does_not_fit_is_named_with_the_reason_and_without_the_value() {
    let mut event = user();
    event["data"]["first_name"] = json!({"not": "text"});
    event["data"]["banned"] = json!("no");
    event["data"]["external_id"] = json!("ada".repeat(INDEXED_TEXT_LENGTH_MAX));
    event["data"]["email_addresses"] = json!("ada@example.com");
    event["data"]["created_at"] = json!(-5);
    event["data"]["last_sign_in_at"] = json!("yesterday");
    let found: Vec<String> =
        mismatches_of(&merged(&event)).iter().map(|(column, why)| format!("{column}: {why}")).collect();
    assert_eq!(
        found,
        [
            "created_at: a number outside of the range of the column",
            "external_id: a text of more than 2000 bytes",
            "first_name: an object in place of a text",
            "primary_email_address: a text in place of a list",
            "banned: a text in place of true or false",
            "last_sign_in_at: a text in place of a number",
        ]
    );
    assert_eq!(read(&event).expect("a readable event").mismatched, found.len());
    assert_eq!(mismatches_of(&merged(&user())), []);
}

#[test]
fn an_empty_id_is_null_and_one_that_is_too_long_does_not_fit() {
    let mut event = json!({"type": "session.created", "timestamp": 1_785_312_000_032_i64,
                           "data": {"id": "sess_1", "user_id": "", "client_id": "x".repeat(NAME_LENGTH_MAX)}});
    let assertion = merged(&event);
    assert_eq!(column(&assertion, "user_id"), &Field::Null);
    assert_eq!(column(&assertion, "client_id"), &Field::Text("x".repeat(NAME_LENGTH_MAX)));
    event["data"]["client_id"] = json!("x".repeat(NAME_LENGTH_MAX + 1));
    assert_eq!(read(&event).expect("a readable event").mismatched, 1);
    assert_eq!(column(&merged(&event), "client_id"), &Field::Null);
}

#[test]
fn the_organization_of_an_invitation_is_its_own_id_or_the_nested_one() {
    let of = |organization_id: Value| {
        let nested = json!({"public_organization_data": {"id": "org_nested"}});
        let data = json!({"id": "orginv_1", "organization_id": organization_id, "data": nested});
        let event = json!({"type": "organizationInvitation.created", "timestamp": 1, "data": data});
        column(&merged(&event), "organization_id").clone()
    };
    assert_eq!(of(json!("org_1")), Field::Text("org_1".into()));
    assert_eq!(of(Value::Null), Field::Text("org_nested".into()));
}

#[test]
fn a_ticket_is_removed_from_the_stored_content_and_nothing_else_is() {
    let ticket = "https://accounts.example/sign-up?__clerk_ticket=geheim";
    for (event_type, mut data) in [
        ("organizationInvitation.created", json!({"id": "orginv_1", "url": ticket, "urls": 1})),
        (
            "waitlistEntry.updated",
            json!({"id": "wle_1", "invitation": {"id": "inv_1", "url": ticket, "urls": 1}}),
        ),
    ] {
        let event = |data: &Value| json!({"type": event_type, "timestamp": 1, "data": data});
        let with_ticket = merged(&event(&data));
        assert!(!format!("{with_ticket:?}").contains("geheim"), "{event_type}");
        let holder = if data["url"].is_null() { &mut data["invitation"] } else { &mut data };
        holder.as_object_mut().expect("an object").remove("url");
        assert_eq!(with_ticket, merged(&event(&data)), "{event_type}");
    }
}

#[test]
fn a_nested_object_makes_no_change_of_its_own() {
    let item = json!({"id": "csub_item_1", "status": "active", "updated_at": 1_785_312_000_000_i64});
    let event = json!({"type": "subscription.active", "timestamp": 1_785_312_000_032_i64,
                       "data": {"id": "csub_1", "status": "active", "items": [item]}});
    let assertion = merged(&event);
    assert_eq!((assertion.resource, assertion.id.as_str()), (&SUBSCRIPTIONS, "csub_1"));
    assert_eq!(read(&event).expect("a readable event").mismatched, 0);
}

#[test]
fn the_version_depends_on_the_content_and_not_on_its_formatting() {
    let spelled = r#"{"data":{"updated_at":1785312000015,"id":"user_1"},"timestamp":1785312000032,"type":"user.created"}"#;
    let other = r#" { "type": "user.created", "timestamp": 1785312000032, "data": { "id": "user_1", "updated_at": 1785312000015 } }"#;
    let version = |body: &'static str| match parse(body.as_bytes(), None).expect("an event").effect {
        Effect::Merge(assertion) => assertion.version,
        Effect::Ignore { .. } => panic!("ignored"),
    };
    assert_eq!(version(spelled), version(other));
    let mut changed = user();
    changed["data"]["unknown_field"] = json!(1);
    assert_ne!(merged(&user()).version.hash, merged(&changed).version.hash);
}

#[test]
fn keys_are_sorted_and_numbers_keep_every_digit() {
    let body = r#"{"type":"user.updated","timestamp":1785312000032,
        "data":{"z":1,"id":"user_1","a":{"y":123456789012345678901234567890,"x":1e400,"b":1.10}}}"#;
    let Effect::Merge(assertion) = parse(body.as_bytes(), None).expect("an event").effect else {
        panic!("ignored")
    };
    let data = assertion.row.expect("a row with content").data;
    assert_eq!(data, r#"{"a":{"b":1.10,"x":1e+400,"y":123456789012345678901234567890},"id":"user_1","z":1}"#);
}

#[test]
fn an_event_without_a_table_is_ignored_with_its_subject_id() {
    let event = json!({"type": "user.frobnicated", "timestamp": 1, "data": {"id": "user_9"}});
    assert_eq!(
        read(&event).expect("a readable event").effect,
        Effect::Ignore { subject_id: Some("user_9".into()) }
    );
    for data in [json!(null), json!([1]), json!({"id": 7})] {
        let event = json!({"type": "thing.happened", "timestamp": 1, "data": data});
        assert_eq!(read(&event).expect("a readable event").effect, Effect::Ignore { subject_id: None });
    }
}

#[test]
fn one_time_passwords_leave_no_trace_and_are_never_parked_because_of_their_instance() {
    for event_type in ["email.created", "sms.created"] {
        let event = json!({
            "type": event_type, "timestamp": 1, "instance_id": "ins_2", "data": {"id": "ema_1", "body": "123456"},
        });
        let parsed = parse(event.to_string().as_bytes(), Some("ins_1")).expect("a readable event");
        assert_eq!(parsed.effect, Effect::Ignore { subject_id: None });
    }
}

#[test]
fn an_event_of_another_instance_is_refused_and_one_without_an_instance_is_accepted() {
    let body = user().to_string();
    assert!(parse(body.as_bytes(), Some("ins_1")).is_ok());
    assert_eq!(parse(body.as_bytes(), Some("ins_2")).expect_err("a refusal").reason, Reason::WrongInstance);
    let mut event = user();
    event.as_object_mut().expect("an object").remove("instance_id");
    assert!(parse(event.to_string().as_bytes(), Some("ins_2")).is_ok());
}

#[test]
fn each_kind_of_unreadable_body_has_its_reason() {
    for body in ["", "{", "nonsense", "{\"a\":1}x", "\u{feff}{}"] {
        assert_eq!(reason_of(body), Reason::InvalidJson, "{body:?}");
    }
    assert_eq!(reason_of(vec![b'"', 0xff, b'"']), Reason::InvalidJson);
    assert_eq!(reason_of("[".repeat(100_000)), Reason::TooDeep);
    assert_eq!(reason_of("[]"), Reason::NotAnEvent);
    let without = |key: &str| {
        let mut event = user();
        event.as_object_mut().expect("an object").remove(key);
        reason_of(event.to_string())
    };
    assert_eq!(without("type"), Reason::NotAnEvent);
    assert_eq!(without("timestamp"), Reason::NotAnEvent);
    assert_eq!(without("data"), Reason::NotAnEvent);
    for id in [Value::Null, json!(""), json!(5), json!("x".repeat(NAME_LENGTH_MAX + 1))] {
        let mut event = user();
        event["data"]["id"] = id;
        assert_eq!(reason_of(event.to_string()), Reason::MissingId);
    }
    let mut longest = user();
    longest["data"]["id"] = json!("x".repeat(NAME_LENGTH_MAX));
    assert!(read(&longest).is_ok());
}

#[test]
fn a_failure_has_the_position_and_never_a_value() {
    let failure =
        parse(br#"{"type":"user.created","first_name":"Ines" "geheim"}"#, None).expect_err("a refusal");
    assert!(failure.detail.contains("line 1"), "{}", failure.detail);
    assert!(!failure.detail.contains("Ines") && !failure.detail.contains("geheim"), "{}", failure.detail);
    let mut event = user();
    event["data"]["id"] = Value::Null;
    let failure = read(&event).expect_err("a refusal");
    assert_eq!(failure.event_type.as_deref(), Some("user.updated"));
}

#[test]
fn the_type_of_an_unreadable_body_is_known_if_it_is_an_object() {
    let deep = |event_type: &str, depth: usize| {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        format!(
            r#"{{"data":{{"id":"ema_1","otp":"\ud800","x":{open}{close}}},"timestamp":1,"type":{event_type}}}"#
        )
    };
    let failure = parse(deep(r#""email.created""#, 100_000).as_bytes(), None).expect_err("a refusal");
    assert_eq!((failure.reason, failure.event_type.as_deref()), (Reason::TooDeep, Some("email.created")));
    let no_text = [&br#"{"type":"sms.created","data":"42"#[..], &[0xff], br#"42"}"#].concat();
    let failure = parse(no_text.as_ref(), None).expect_err("a refusal");
    assert_eq!((failure.reason, failure.event_type.as_deref()), (Reason::InvalidJson, Some("sms.created")));
    let whole = r#"{"type":"sms.created","timestamp":1,"data":{"id":"sms_1","otp":"42@"}}"#;
    for odd in [
        format!("\u{feff}{whole}"),
        format!("{whole}x"),
        whole.repeat(2),
        whole.replace('@', "\u{0}"),
        whole.replace('@', "\n"),
    ] {
        let failure = parse(odd.as_ref(), None).expect_err("a refusal");
        assert_eq!(
            (failure.reason, failure.event_type.as_deref()),
            (Reason::InvalidJson, Some("sms.created"))
        );
    }
    for body in [deep("[[]]", 300), deep("7", 300), "[".repeat(300), r#"{"type":"user.created""#.into()] {
        assert_eq!(parse(body.as_bytes(), None).expect_err("a refusal").event_type, None);
    }
}

#[test]
fn metadata_with_private_keys_of_serde_json_is_not_misread() {
    let body = r#"{"type":"user.updated","timestamp":1785312000032,"data":{"id":"user_1",
        "public_metadata":{"$serde_json::private::Number":"1"},"private_metadata":{"a":1e131072},
        "unsafe_metadata":{"\u0024serde_json::private::RawValue":"\"\\u0000\""}}}"#;
    let parsed = parse(body.as_bytes(), None).expect("a readable event");
    assert_eq!((parsed.sanitized, parsed.mismatched), (3, 0));
    let Effect::Merge(assertion) = parsed.effect else { panic!("ignored") };
    let is = |name: &str, json: &str| assert_eq!(column(&assertion, name), &Field::Json(json.into()));
    is("public_metadata", r#"{"_serde_json::private::Number":"1"}"#);
    is("private_metadata", r#"{"a":"1e+131072"}"#);
    is("unsafe_metadata", r#"{"_serde_json::private::RawValue":"\"\\u0000\""}"#);
}

#[test]
fn nul_and_lone_surrogates_are_replaced_and_counted() {
    let body = r#"{"type":"user.updated","timestamp":1785312000032,"data":{"id":"user_1","first_name":"a\u0000\ud800b"}}"#;
    let parsed = parse(body.as_bytes(), None).expect("a readable event");
    assert_eq!(parsed.sanitized, 2);
    let Effect::Merge(assertion) = parsed.effect else { panic!("ignored") };
    assert_eq!(column(&assertion, "first_name"), &Field::Text("a\u{fffd}\u{fffd}b".into()));
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_or_refused_without_a_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
        let _verdict = parse(&body, Some("ins_1"));
    }

    #[test]
    fn any_change_of_one_byte_of_an_event_is_read_or_refused_without_a_panic(
        at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut body = user().to_string().into_bytes();
        let at = at.index(body.len());
        body[at] = byte;
        let _verdict = parse(&body, None);
    }
}
