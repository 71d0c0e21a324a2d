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
    assert!(report.contains("moved@x.example: the primary address of another user"), "{report}");
}

#[tokio::test]
async fn an_address_that_another_user_has_verified_by_now_stays_with_them_unless_the_operator_insists() {
    let stage = Stage::new();
    let verified = json!({ "status": "verified" });
    let other = user_who_lists("user_2", "Moved@x.example", &verified);
    let other = other.to_string().replace("ines@", "other@").replace("5550100", "5550101");
    stage.applied("msg_1", &serde_json::from_str(&other).expect("JSON")).await;
    stage.applied("msg_2", &entry("wle_1", "moved@x.example")).await;
    stage.applied("msg_3", &user_who_lists("user_1", "moved@x.example", &verified)).await;
    let mut person = ines();
    let done = stage.erased(&mut person).await;
    assert!(!stage.store.rows_of(&WAITLIST_ENTRIES)[0].columns["data"].is_null());
    let report = report::done(&person, &done, &Mentions::default(), &[]);
    assert!(report.contains("moved@x.example: a verified address of another user"), "{report}");
    assert!(report.contains("1 row, which stay: waitlist_entries wle_1"), "{report}");
    stage.erased(&mut Person::new(&USERS, "user_1", &["moved@x.example".to_owned()])).await;
    assert!(stage.store.rows_of(&WAITLIST_ENTRIES)[0].columns["data"].is_null());
}

#[tokio::test]
async fn an_address_that_a_deleted_user_had_is_theirs() {
    let stage = Stage::new();
    let verified = json!({ "status": "verified" });
    stage.applied("msg_1", &user_who_lists("user_2", "moved@x.example", &verified)).await;
    stage.applied("msg_2", &event("user.deleted", START + 9, &deleted("user", "user_2"))).await;
    stage.applied("msg_3", &entry("wle_1", "moved@x.example")).await;
    stage.applied("msg_4", &user_who_lists("user_1", "moved@x.example", &verified)).await;
    stage.erased(&mut ines()).await;
    assert!(stage.store.rows_of(&WAITLIST_ENTRIES)[0].columns["data"].is_null());
}

#[tokio::test]
async fn rows_and_messages_that_hold_an_address_of_theirs_in_another_case_go() {
    let stage = Stage::new();
    stage.applied("msg_1", &of_user()).await;
    stage.applied("msg_2", &entry("wle_1", "Ines@Work.Example")).await;
    stage.applied("msg_3", &invitation("orginv_1", "INES@home.example")).await;
    stage.applied("msg_4", &entry("wle_other", "Jines@Work.Example")).await;
    stage.queued("msg_5", &entry("wle_2", "inES@work.example").to_string()).await;
    stage.erased(&mut ines()).await;
    assert_eq!(stage.left(), [""; 0]);
    assert!(stage.store.rows_of(&ORGANIZATION_INVITATIONS)[0].columns["data"].is_null());
    for row in stage.store.rows_of(&WAITLIST_ENTRIES) {
        assert_eq!(row.columns["data"].is_null(), row.id != "wle_other", "{}", row.id);
    }
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
