//! Ownership of addresses: what is not proved to belong to the person stays.

use rollbook_core::catalog::ORGANIZATION_INVITATIONS;

use super::*;

fn user_who_lists(id: &str, address: &str, verification: &Value) -> Value {
    let mut object = user(id, START);
    let listed = json!({ "id": "idn_x", "email_address": address, "verification": verification });
    object["email_addresses"].as_array_mut().expect("a list").push(listed);
    event("user.created", START, &object)
}

fn invitation(id: &str, address: &str) -> Value {
    let object =
        json!({ "id": id, "organization_id": "org_9", "email_address": address, "status": "pending" });
    event("organizationInvitation.created", START, &object)
}

#[tokio::test]
async fn an_unverified_address_is_not_taken_and_its_rows_and_messages_stay_and_are_reported() {
    for verification in [Value::Null, json!({ "status": "unverified" }), json!({ "status": "expired" })] {
        let stage = Stage::new();
        stage.applied("msg_1", &user_who_lists("user_1", "victim@x.example", &verification)).await;
        stage.applied("msg_2", &entry("wle_1", "victim@x.example")).await;
        stage.applied("msg_3", &invitation("orginv_1", "victim@x.example")).await;
        stage.queued("msg_4", &entry("wle_2", "Victim@x.example").to_string()).await;
        let done = stage.erased(&[]).await;
        assert_eq!(stage.left(), ["msg_4"]);
        assert_eq!(done.queue.mentions, 1);
        for row in stage.store.rows_of(&WAITLIST_ENTRIES) {
            assert!(!row.columns["data"].is_null(), "{} is another's", row.id);
        }
        assert!(!stage.store.rows_of(&ORGANIZATION_INVITATIONS)[0].columns["data"].is_null());
        assert!(stage.store.rows_of(&USERS)[0].columns["data"].is_null());
        let json = json_of(&done);
        let rows = [("organization_invitations", "orginv_1"), ("waitlist_entries", "wle_1")];
        let rows = rows.map(|(table, id)| json!({ "table": table, "id": id }));
        assert_eq!(json["rows_by_address_not_taken"], json!(rows));
        assert_eq!(
            json["addresses_not_taken"],
            json!([{ "address": "victim@x.example", "reason": "not_verified" }])
        );

        stage.erased(&["victim@x.example"]).await;
        assert_eq!(stage.left(), [""; 0]);
        assert!(stage.store.rows_of(&WAITLIST_ENTRIES).iter().all(|row| row.columns["data"].is_null()));
        assert!(stage.store.rows_of(&ORGANIZATION_INVITATIONS)[0].columns["data"].is_null());
    }
}

#[tokio::test]
async fn the_primary_address_of_another_user_is_not_taken_even_if_an_old_message_proves_it() {
    let stage = Stage::new();
    let verified = json!({ "status": "verified" });
    let mut other = user("user_2", START);
    other["email_addresses"][1]["email_address"] = json!("moved@x.example");
    stage.applied("msg_1", &event("user.created", START, &other)).await;
    stage.applied("msg_2", &entry("wle_1", "moved@x.example")).await;
    stage.queued("msg_3", &user_who_lists("user_1", "Moved@x.example", &verified).to_string()).await;
    let done = stage.erased(&[]).await;
    assert!(!stage.store.rows_of(&WAITLIST_ENTRIES)[0].columns["data"].is_null());
    let rejected = json_of(&done)["addresses_not_taken"].clone();
    let moved = json!({ "address": "moved@x.example", "reason": "primary_of_another" });
    assert!(rejected.as_array().is_some_and(|all| all.contains(&moved)), "{rejected}");
}

#[tokio::test]
async fn a_verified_address_of_another_user_is_not_taken_unless_the_operator_gives_it() {
    let stage = Stage::new();
    let verified = json!({ "status": "verified" });
    let other = user_who_lists("user_2", "Moved@x.example", &verified);
    let other = other.to_string().replace("ines@", "other@").replace("5550100", "5550101");
    stage.applied("msg_1", &serde_json::from_str(&other).expect("JSON")).await;
    stage.applied("msg_2", &entry("wle_1", "moved@x.example")).await;
    stage.applied("msg_3", &user_who_lists("user_1", "moved@x.example", &verified)).await;
    let done = stage.erased(&[]).await;
    assert!(!stage.store.rows_of(&WAITLIST_ENTRIES)[0].columns["data"].is_null());
    let rejected = json_of(&done)["addresses_not_taken"].clone();
    let moved = json!({ "address": "moved@x.example", "reason": "verified_by_another" });
    assert!(rejected.as_array().is_some_and(|all| all.contains(&moved)), "{rejected}");
    assert_eq!(done.rejected_rows, [RowName { table: "waitlist_entries", id: "wle_1".to_owned() }]);
    stage.erased(&["moved@x.example"]).await;
    assert!(stage.store.rows_of(&WAITLIST_ENTRIES)[0].columns["data"].is_null());
}

#[tokio::test]
async fn an_address_of_a_deleted_user_is_taken() {
    let stage = Stage::new();
    let verified = json!({ "status": "verified" });
    stage.applied("msg_1", &user_who_lists("user_2", "moved@x.example", &verified)).await;
    stage.applied("msg_2", &event("user.deleted", START + 9, &deleted("user", "user_2"))).await;
    stage.applied("msg_3", &entry("wle_1", "moved@x.example")).await;
    stage.applied("msg_4", &user_who_lists("user_1", "moved@x.example", &verified)).await;
    stage.erased(&[]).await;
    assert!(stage.store.rows_of(&WAITLIST_ENTRIES)[0].columns["data"].is_null());
}

#[tokio::test]
async fn rows_and_messages_with_the_address_in_another_case_are_erased() {
    let stage = Stage::new();
    stage.applied("msg_1", &of_user()).await;
    stage.applied("msg_2", &entry("wle_1", "Ines@Work.Example")).await;
    stage.applied("msg_3", &invitation("orginv_1", "INES@home.example")).await;
    stage.applied("msg_4", &entry("wle_other", "Jines@Work.Example")).await;
    stage.queued("msg_5", &entry("wle_2", "inES@work.example").to_string()).await;
    stage.erased(&[]).await;
    assert_eq!(stage.left(), [""; 0]);
    assert!(stage.store.rows_of(&ORGANIZATION_INVITATIONS)[0].columns["data"].is_null());
    for row in stage.store.rows_of(&WAITLIST_ENTRIES) {
        assert_eq!(row.columns["data"].is_null(), row.id != "wle_other", "{}", row.id);
    }
}

#[tokio::test]
async fn an_unreadable_message_with_an_escaped_address_is_removed_and_one_without_is_counted() {
    let stage = Stage::new();
    stage.applied("msg_1", &of_user()).await;
    stage.queued("escaped", "{\"data\":{\"email_address\":\"ines\\u0040work.example\",").await;
    stage.queued("nothing", "{\"data\":{\"email_address\":\"").await;
    let done = stage.erased(&[]).await;
    assert_eq!(stage.left(), ["nothing"]);
    assert_eq!((done.queue.unreadable, done.queue.unrecognized), (1, 1));
}
