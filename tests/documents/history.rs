//! A small history for the queries: two organizations, four people, and their events up to [`NOW`].

use rollbook_core::change::Origin;
use rollbook_core::store::FullStore;
use rollbook_core::time::Timestamp;
use rollbook_testkit::clock::ManualClock;
use rollbook_testkit::events::{change_of, deleted, event, membership, organization, user};
use serde_json::{Value, json};

/// Time at which the queries run.
pub(super) const NOW: &str = "2026-08-03T12:00:00Z";

fn at(moment: &str) -> i64 {
    Timestamp::parse(moment).expect("a moment").as_millis()
}

/// Returns the object with these values for these keys.
fn with(mut object: Value, more: &Value) -> Value {
    for (key, value) in more.as_object().expect("an object") {
        object[key] = value.clone();
    }
    object
}

fn person(id: &str, names: [&str; 2], address: &str, created: &str, metadata: &Value) -> Value {
    let addresses = json!([{ "id": "idn_work", "email_address": address }]);
    let more = json!({ "first_name": names[0], "last_name": names[1], "email_addresses": addresses,
                       "created_at": at(created), "public_metadata": metadata });
    with(user(id, at(created)), &more)
}

fn named(id: &str, name: &str, created: &str) -> Value {
    with(organization(id, at(created)), &json!({ "name": name, "created_at": at(created) }))
}

fn joined(id: &str, organization: &str, user: &str, role: &str, created: &str) -> Value {
    let more = json!({ "role": role, "created_at": at(created) });
    with(membership(id, organization, user, at(created)), &more)
}

fn invited(id: &str, address: &str, status: &str, expires: &str) -> Value {
    json!({ "id": id, "organization_id": "org_1", "email_address": address, "role": "org:member",
            "status": status, "expires_at": at(expires), "updated_at": at("2026-07-20T09:00:00Z") })
}

fn item(id: &str, plan: &str, status: &str, amount: i64, period_end: &str) -> Value {
    json!({ "id": id, "subscription_id": "csub_1", "status": status, "plan_id": format!("cplan_{plan}"),
            "plan": { "slug": plan, "amount": amount, "currency": "USD" }, "seats": { "quantity": 12 },
            "payer": { "id": "cpayer_1", "user_id": "", "organization_id": "org_1" },
            "period_end": at(period_end), "updated_at": at("2026-07-20T09:00:00Z") })
}

/// Events of the example: the delivery's id, the time at Clerk, the event, and its object.
fn events() -> Vec<(&'static str, &'static str, &'static str, Value)> {
    let pro = json!({ "plan": "pro" });
    let (may_4, july_28, july_30) = ("2026-05-04T09:00:00Z", "2026-07-28T09:00:00Z", "2026-07-30T09:00:00Z");
    let ines = person("user_1", ["Ines", "Okafor"], "ines@work.example", may_4, &pro);
    let rafael = person(
        "user_2",
        ["Rafael", "Dimitrov"],
        "Rafael@Kilnworks.example",
        july_30,
        &json!({ "plan": "free" }),
    );
    // A former account with the address of user_1, deleted at the end.
    let former = person("user_3", ["Ines", "Okafor"], "ines@work.example", july_28, &pro);
    let noor = person("user_4", ["Noor", "Haddad"], "noor@home.example", "2026-07-31T09:00:00Z", &json!({}));
    let changed = |moment: &str| with(rafael.clone(), &json!({ "updated_at": at(moment) }));
    let subscription = json!({ "id": "csub_1", "status": "active", "payer_id": "cpayer_1", "updated_at": at(may_4),
                               "payer": { "user_id": "", "organization_id": "org_1" } });
    let (created, accepted) = ("organizationInvitation.created", "organizationInvitation.accepted");
    let member = "organizationMembership.created";
    vec![
        ("msg_1", may_4, "organization.created", named("org_1", "Kilnworks Studio", may_4)),
        ("msg_2", may_4, "organization.created", named("org_2", "Glaze Cooperative", may_4)),
        ("msg_3", may_4, "user.created", ines),
        ("msg_4", july_30, "user.created", rafael.clone()),
        ("msg_5", july_28, "user.created", former),
        ("msg_6", "2026-07-31T09:00:00Z", "user.created", noor),
        ("msg_7", may_4, member, joined("orgmem_1", "org_1", "user_1", "org:admin", may_4)),
        ("msg_8", may_4, member, joined("orgmem_2", "org_2", "user_1", "org:member", may_4)),
        ("msg_9", july_30, member, joined("orgmem_3", "org_1", "user_2", "org:member", july_30)),
        ("msg_10", july_28, member, joined("orgmem_4", "org_1", "user_3", "org:member", july_28)),
        (
            "msg_11",
            july_30,
            created,
            invited("orginv_1", "noor@home.example", "pending", "2026-08-28T09:00:00Z"),
        ),
        (
            "msg_12",
            july_30,
            created,
            invited("orginv_2", "late@home.example", "pending", "2026-07-31T09:00:00Z"),
        ),
        (
            "msg_13",
            july_30,
            accepted,
            invited("orginv_3", "ines@work.example", "accepted", "2026-08-28T09:00:00Z"),
        ),
        ("msg_14", may_4, "subscription.active", subscription),
        (
            "msg_15",
            july_30,
            "subscriptionItem.active",
            item("csubitem_1", "team", "active", 4900, "2026-08-28T09:00:00Z"),
        ),
        ("msg_16", july_30, "subscriptionItem.ended", item("csubitem_2", "starter", "ended", 900, july_30)),
        ("msg_17", "2026-08-01T09:00:00Z", "user.deleted", deleted("user", "user_3")),
        ("msg_18", "2026-08-03T11:40:00Z", "user.updated", changed("2026-08-03T11:40:00Z")),
        // Arrives after a newer event.
        ("msg_late", "2026-08-03T11:30:00Z", "user.updated", changed("2026-08-03T11:30:00Z")),
    ]
}

/// Applies each event two seconds after it happened, and the late one a quarter of an hour after.
pub(super) async fn play(store: &dyn FullStore, clock: &ManualClock) {
    for (id, happened, event_type, data) in events() {
        let delay = if id == "msg_late" { 900_000 } else { 2_000 };
        let applied = Timestamp::from_millis(at(happened) + delay);
        let mut change = change_of(id, &event(event_type, at(happened), &data));
        if let Origin::Delivery { received_at, .. } = &mut change.origin {
            *received_at = applied;
        }
        clock.set(applied);
        store.apply_many(&[change]).await.expect("the store applies it");
    }
}
