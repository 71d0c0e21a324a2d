//! `explain` of deletions and erasures that a row refuses: its text about the parent, and about the row
//! itself.

use rollbook_testkit::process::{Home, until};
use rollbook_testkit::servers::postgres::PostgresServer;
use serde_json::{Value, json};

use super::{BINARY, run};

/// Posts an event of this type at this time.
fn post(home: &Home, event_type: &str, at: u64, data: &Value) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("event.json");
    let event = json!({ "type": event_type, "object": "event", "timestamp": at, "data": data });
    std::fs::write(&file, event.to_string()).expect("it is written");
    let url = format!("http://{}/webhooks/clerk", home.listen);
    run(home, &["send", "--file", file.to_str().expect("UTF-8"), "--url", &url]).ended(0);
}

fn explained(home: &Home, id: &str) -> String {
    run(home, &["explain", id]).ended(0).out
}

const REFUSE: &str = "
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'members stay'; END $$;
    CREATE TRIGGER refuse BEFORE UPDATE ON clerk.organization_memberships FOR EACH ROW EXECUTE FUNCTION refuse()";

async fn with_a_member() -> (PostgresServer, Home) {
    let postgres = PostgresServer::start_with(&[("fsync", "off")]).await;
    postgres.create_database("app").await;
    let home = Home::new(BINARY).with("DATABASE_URL", postgres.url("app"));
    run(&home, &["migrate"]).ended(0);
    (postgres, home)
}

async fn applied(home: &Home, count: f64) {
    until("all is applied", || async { home.metric("rollbook_applied_total").await == Some(count) }).await;
}

fn member(home: &Home, at: u64) {
    post(home, "organization.created", at, &json!({ "id": "org_1", "name": "One", "updated_at": at }));
    let membership = json!({
        "id": "orgmem_1", "organization": { "id": "org_1" }, "public_user_data": { "user_id": "user_1" },
        "role": "org:member", "created_at": at, "updated_at": at,
    });
    post(home, "organizationMembership.created", at, &membership);
}

#[tokio::test]
async fn a_refused_deletion_and_a_refused_erasure_are_shown_as_pending_work() {
    let (postgres, home) = with_a_member().await;
    let _rollbook = home.start_ready(&["serve"]).await;
    let at = 1_785_312_000_000;
    member(&home, at);
    applied(&home, 2.0).await;
    postgres.psql("app", REFUSE).await;
    post(
        &home,
        "organization.deleted",
        at + 1,
        &json!({ "id": "org_1", "object": "organization", "deleted": true }),
    );
    until("the row has refused", || async {
        let refused = "SELECT count(*) FROM clerk.rollbook_cascades WHERE what = 'row'";
        postgres.psql("app", refused).await.trim() == "1"
    })
    .await;
    for (id, about) in [("org_1", "its child rows"), ("orgmem_1", "its row")] {
        let shown = explained(&home, id);
        assert!(shown.contains(&format!("Pending work on {about}")), "{shown}");
        let deleted =
            "orgmem_1 (organization_memberships) does not show yet that its organization org_1 was deleted: ";
        assert!(shown.contains(deleted) && shown.contains("refuse"), "{shown}");
    }
    let erased = run(&home, &["erase", "org_1", "--yes"]).ended(1);
    assert!(erased.out.contains("org_1 is not erased completely. Left to do:"), "{}", erased.out);
    assert!(erased.out.contains("removed") && erased.err.contains("not complete"), "{}", erased.err);
    for id in ["org_1", "orgmem_1"] {
        let shown = explained(&home, id);
        let erased = "orgmem_1 (organization_memberships) still has content, although its organization org_1 was erased: ";
        assert!(shown.contains(erased), "{shown}");
        assert!(!shown.contains("was deleted: "), "{shown}");
    }
    postgres.psql("app", "DROP TRIGGER refuse ON clerk.organization_memberships").await;
    let erased = run(&home, &["erase", "org_1", "--yes"]).ended(0);
    assert!(erased.out.starts_with("org_1 is erased."), "{}", erased.out);
    assert!(!explained(&home, "orgmem_1").contains("Pending work"), "nothing is left");
}

#[tokio::test]
async fn in_files_no_work_is_pending_and_the_row_names_the_parent_it_was_deleted_with() {
    let home = Home::new(BINARY);
    let _rollbook = home.start_ready(&["serve"]).await;
    let at = 1_785_312_000_000;
    member(&home, at);
    post(
        &home,
        "organization.deleted",
        at + 1,
        &json!({ "id": "org_1", "object": "organization", "deleted": true }),
    );
    applied(&home, 3.0).await;
    let shown = explained(&home, "orgmem_1");
    assert!(shown.contains("with the organization org_1 that it belongs to"), "{shown}");
    assert!(!shown.contains("Pending work"), "{shown}");
    run(&home, &["erase", "org_1", "--yes"]).ended(0);
    let shown = explained(&home, "orgmem_1");
    assert!(shown.contains("erased with the organization org_1 that it belongs to"), "{shown}");
    assert!(!shown.contains("Pending work"), "{shown}");
}
