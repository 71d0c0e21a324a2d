//! `explain` and `erase` by names: addresses, slugs, external ids and usernames, and of what is not known, on both engines.

use rollbook_testkit::process::{Home, Process, until};
use rollbook_testkit::servers::postgres::PostgresServer;
use serde_json::{Value, json};

use super::{BINARY, run};

const AT: u64 = 1_785_312_000_000;

/// Posts a signed event.
fn post(home: &Home, event_type: &str, data: &Value) {
    let file = home.data().join("event.json");
    let event = json!({ "type": event_type, "object": "event", "timestamp": AT, "data": data });
    std::fs::write(&file, event.to_string()).expect("it is written");
    let url = format!("http://{}/webhooks/clerk", home.listen);
    run(home, &["send", "--file", file.to_str().expect("UTF-8"), "--url", &url]).ended(0);
}

fn address(number: usize, address: &str, status: &str) -> Value {
    json!({ "id": format!("idn_{number}"), "email_address": address, "verification": { "status": status } })
}

fn user(id: &str, addresses: &[Value]) -> Value {
    json!({
        "id": id, "username": format!("Name-{id}"), "external_id": format!("crm-{id}"), "updated_at": AT,
        "primary_email_address_id": addresses[0]["id"], "email_addresses": addresses,
    })
}

/// Starts a process, and applies two users who share an address, an organization, and an invitation.
async fn filled(home: &Home) -> Process {
    let process = home.start_ready(&["serve"]).await;
    let ann = [address(1, "ann@x.example", "verified"), address(2, "both@x.example", "verified")];
    let bob = [
        address(3, "bob@x.example", "verified"),
        address(4, "both@x.example", "verified"),
        address(5, "victim@x.example", "unverified"),
    ];
    post(home, "user.created", &user("user_ann", &ann));
    post(home, "user.created", &user("user_bob", &bob));
    post(
        home,
        "organization.created",
        &json!({ "id": "org_1", "name": "One", "slug": "acme", "updated_at": AT }),
    );
    let invitation =
        json!({ "id": "orginv_1", "organization_id": "org_1", "email_address": "ann@x.example" });
    post(home, "organizationInvitation.created", &invitation);
    until("all is applied", || async { home.metric("rollbook_applied_total").await == Some(4.0) }).await;
    process
}

fn json_of(home: &Home, arguments: &[&str], code: i32) -> Value {
    let ran = run(home, &[arguments, &["--output", "json"]].concat()).ended(code);
    serde_json::from_str(&ran.out).unwrap_or_else(|why| panic!("{why}\n{}\n{}", ran.out, ran.err))
}

fn rows(home: &Home, id: &str) -> bool {
    !json_of(home, &["explain", id], 0)["subject"]["row"].is_null()
}

fn names_are_explained(home: &Home) {
    for (name, id, by) in [
        ("user_ann", "user_ann", None),
        ("acme", "org_1", Some("slug")),
        ("ACME", "org_1", Some("slug")),
        ("crm-user_ann", "user_ann", Some("external_id")),
        ("name-user_bob", "user_bob", Some("username")),
        ("Ann@X.example", "user_ann", Some("primary_address")),
        ("victim@x.example", "user_bob", Some("unverified_address")),
    ] {
        let shown = json_of(home, &["explain", name], 0);
        assert_eq!((shown["id"].as_str(), shown["named"]["by"].as_str()), (Some(id), by), "{name}");
        assert!(!shown.to_string().contains("@x.example"), "no address is printed: {shown}");
    }
    let shown = run(home, &["explain", "ann@x.example"]).ended(0).out;
    assert!(shown.contains("user_ann: a user") && shown.contains("Found by: primary address"), "{shown}");
    assert!(
        shown.contains("Also found: orginv_1 (table organization_invitations, invited address)"),
        "{shown}"
    );
    let several = run(home, &["explain", "both@x.example"]).ended(1);
    assert!(several.out.contains("user_ann") && several.out.contains("user_bob"), "{}", several.out);
    assert!(several.err.contains("2 subjects match; explain one of them by its id"), "{}", several.err);
}

fn what_is_unknown_has_its_own_exit_code(home: &Home) {
    for name in ["nobody", "user_nobody", "sess_nobody", "msg_nobody", "no@x.example", "+447700900999"] {
        let ran = run(home, &["explain", name]).ended(3);
        assert!(ran.err.contains("known"), "{}", ran.err);
        assert!(!ran.err.contains("x.example") && !ran.err.contains("900999"), "no address: {}", ran.err);
    }
    let unknown = run(home, &["explain", "nobody"]).ended(3).err;
    assert!(unknown.contains("explain takes an id of Clerk's") && unknown.contains("slug"), "{unknown}");
    for name in ["nobody", "no@x.example", "user_nobody"] {
        let ran = run(home, &["erase", name, "--yes"]).ended(3);
        assert!(ran.err.contains("nothing was erased"), "{}", ran.err);
    }
    // Whether an id is known is said before the confirmation is missing.
    let unconfirmed = run(home, &["erase", "user_nobody"]).ended(3);
    assert!(unconfirmed.err.contains("nothing is known of user_nobody"), "{}", unconfirmed.err);
    for name in ["nobody", "user_nobody", "sess_nobody", "no@x.example", "+447700900999", "no-slug", "org_x"]
    {
        let [dry, real] = ["--dry-run", "--yes"].map(|flag| run(home, &["erase", name, flag]).ended(3));
        assert_eq!((&dry.out, &dry.err), (&real.out, &real.err), "{name}");
        assert!(dry.err.contains("nothing is known of") && !dry.out.contains("to remove"), "{}", dry.out);
        run(home, &["explain", name]).ended(3);
    }
    for arguments in [
        &["dead-letters", "show", "msg_nobody"][..],
        &["dead-letters", "redrive", "msg_nobody"],
        &["dead-letters", "redrive", "msg_nobody", "--dry-run"],
        &["dead-letters", "discard", "msg_nobody"],
        &["dead-letters", "discard", "msg_nobody", "--dry-run", "--output", "json"],
        &["changes", "status", "nobody"],
        &["changes", "failed", "nobody"],
        &["changes", "redrive", "nobody", "--all"],
        &["changes", "discard", "nobody", "--position", "1"],
        &["changes", "replay", "nobody", "--after", "0"],
        &["changes", "resume", "nobody"],
    ] {
        let ran = run(home, arguments).ended(3);
        let says = ["there is no dead letter msg_nobody", "the forward nobody never ran"];
        assert!(says.iter().any(|text| ran.err.contains(text)), "{arguments:?}: {}", ran.err);
    }
    assert!(run(home, &["explain", "user_nobody"]).ended(3).out.contains("The row: none"), "no tombstone");
    assert_eq!(json_of(home, &["erase", "user_nobody", "--dry-run"], 3)["was_known"], false);
    let asked = run(home, &["erase", "user_nobody", "--tombstone", "--yes"]).ended(0).out;
    assert!(asked.contains("A tombstone blocks every later delivery"), "{asked}");
    assert_eq!(json_of(home, &["explain", "user_nobody"], 0)["subject"]["row"]["state"], "erased");
    assert_eq!(
        json_of(home, &["erase", "user_nobody", "--yes"], 0)["was_known"],
        true,
        "the tombstone is known"
    );
}

fn only_one_subject_is_erased_by_a_name(home: &Home) {
    for (name, known) in [("both@x.example", 2), ("victim@x.example", 1)] {
        let listed = json_of(home, &["erase", name, "--yes"], 1);
        assert_eq!(listed["matches"].as_array().map(Vec::len), Some(known), "{name}: {listed}");
    }
    assert!(rows(home, "user_ann") && rows(home, "user_bob"));
    let done = run(home, &["erase", "ann@x.example", "--yes"]).ended(0);
    assert!(done.out.starts_with("user_ann is erased."), "{}", done.out);
    assert!(done.err.contains("user_ann is meant (found by primary address)"), "{}", done.err);
    for (id, state) in
        [("user_ann", "erased"), ("orginv_1", "erased"), ("user_bob", "alive"), ("org_1", "alive")]
    {
        assert_eq!(json_of(home, &["explain", id], 0)["subject"]["row"]["state"], state, "{id}");
    }
    run(home, &["erase", "acme", "--yes"]).ended(0);
    assert_eq!(json_of(home, &["explain", "org_1"], 0)["subject"]["row"]["state"], "erased");
}

async fn all(home: Home) {
    let _process = filled(&home).await;
    names_are_explained(&home);
    what_is_unknown_has_its_own_exit_code(&home);
    only_one_subject_is_erased_by_a_name(&home);
}

#[tokio::test]
async fn names_of_subjects_are_understood_and_unknown_ones_change_nothing_in_files() {
    all(Home::new(BINARY)).await;
}

#[tokio::test]
async fn names_of_subjects_are_understood_and_unknown_ones_change_nothing_on_postgres() {
    let postgres = PostgresServer::start_with(&[("fsync", "off")]).await;
    postgres.create_database("app").await;
    let home = Home::new(BINARY).with("DATABASE_URL", postgres.url("app"));
    run(&home, &["migrate"]).ended(0);
    all(home).await;
}
