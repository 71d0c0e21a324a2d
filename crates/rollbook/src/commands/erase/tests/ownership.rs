//! Whose an address is: what is not proven to be the person's stays.

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
async fn an_address_that_someone_lists_without_proof_stays_with_whoever_it_belongs_to_and_is_listed() {
    for verification in [Value::Null, json!({ "status": "unverified" }), json!({ "status": "expired" })] {
        let stage = Stage::new();
        stage.applied("msg_1", &user_who_lists("user_1", "victim@x.example", &verification)).await;
        stage.applied("msg_2", &entry("wle_1", "victim@x.example")).await;
        stage.applied("msg_3", &invitation("orginv_1", "victim@x.example")).await;
        stage.queued("msg_4", &entry("wle_2", "Victim@x.example").to_string()).await;
        let mut person = ines();
        let done = stage.erased(&mut person).await;
        assert_eq!(stage.left(), ["msg_4"]);
        assert_eq!(done.found.mentions, 1);
        for row in stage.store.rows_of(&WAITLIST_ENTRIES) {
            assert!(!row.columns["data"].is_null(), "{} is another's", row.id);
        }
        assert!(!stage.store.rows_of(&ORGANIZATION_INVITATIONS)[0].columns["data"].is_null());
        assert!(stage.store.rows_of(&USERS)[0].columns["data"].is_null());
        let report = report::done(&person, &done, &Mentions::default(), &[]);
        for told in [
            "victim@x.example: listed, but not verified",
            "2 rows, which stay: organization_invitations orginv_1, waitlist_entries wle_1",
            "rollbook erase user_1 --also ADDRESS",
        ] {
            assert!(report.contains(told), "{report}");
        }
        let json = report::json(&person, &Found::default(), Some(&done), &Mentions::default(), &[]);
        assert_eq!(
            json["addresses_not_taken"],
            json!([{ "address": "victim@x.example", "reason": "not_verified" }])
        );

        let mut insisted = Person::new(&USERS, "user_1", &["victim@x.example".to_owned()]);
        stage.erased(&mut insisted).await;
        assert_eq!(stage.left(), [""; 0]);
        assert!(stage.store.rows_of(&WAITLIST_ENTRIES).iter().all(|row| row.columns["data"].is_null()));
        assert!(stage.store.rows_of(&ORGANIZATION_INVITATIONS)[0].columns["data"].is_null());
    }
}

#[tokio::test]
async fn an_address_that_moved_to_another_user_is_theirs_now_whatever_an_old_message_says() {
    let stage = Stage::new();
    let verified = json!({ "status": "verified" });
    let mut other = user("user_2", START);
    other["email_addresses"][1]["email_address"] = json!("moved@x.example");
    stage.applied("msg_1", &event("user.created", START, &other)).await;
    stage.applied("msg_2", &entry("wle_1", "moved@x.example")).await;
    stage.queued("msg_3", &user_who_lists("user_1", "Moved@x.example", &verified).to_string()).await;
    let mut person = ines();
    let done = stage.erased(&mut person).await;
    assert!(!stage.store.rows_of(&WAITLIST_ENTRIES)[0].columns["data"].is_null());
    let report = report::done(&person, &done, &Mentions::default(), &[]);
    assert!(report.contains("Moved@x.example: the primary address of another user"), "{report}");
}

#[tokio::test]
async fn an_unreadable_message_goes_however_its_address_is_spelled_and_one_that_shows_none_is_counted() {
    let stage = Stage::new();
    stage.applied("msg_1", &of_user()).await;
    stage.queued("escaped", "{\"data\":{\"email_address\":\"ines\\u0040work.example\",").await;
    stage.queued("nothing", "{\"data\":{\"email_address\":\"").await;
    let mut person = ines();
    let done = stage.erased(&mut person).await;
    assert_eq!(stage.left(), ["nothing"]);
    assert_eq!((done.found.unreadable, done.found.unrecognized), (1, 1));
    let report = report::done(&person, &done, &Mentions::default(), &[]);
    assert!(report.contains("not judged: 1 message in the queue or the dead letters"), "{report}");
}
