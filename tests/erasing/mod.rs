//! An erased person is found nowhere, and no delivery restores the data.

mod person;
mod places;
mod refused;
mod running;

use std::time::Duration;

use bytes::Bytes;
use rollbook_core::delivery::{Delivery, MessageId};
use rollbook_core::queue::Settlement;
use rollbook_core::retry::{Failure, Reason};
use rollbook_core::signature::SigningSecrets;
use rollbook_core::time::{Clock as _, Timestamp};
use rollbook_http::client::Connection;
use rollbook_simulator::history::Event;
use rollbook_simulator::sender;
use rollbook_testkit::clock::WallClock;
use rollbook_testkit::process::{Home, SECRET, until};
use serde_json::Value;

use self::person::{ID, PERSONAL};
use self::places::{Places, Queue};
use rollbook_testkit::queues::{all_of, request};

const HOUR: Duration = Duration::from_secs(3_600);

/// Returns the output of a command that must end with this code.
async fn run(home: &Home, arguments: &[&str], code: i32) -> String {
    let mut command = home.command(arguments);
    let ran = tokio::task::spawn_blocking(move || command.output()).await.expect("it runs").expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, error) = (text(&ran.stdout), text(&ran.stderr));
    assert_eq!(ran.status.code(), Some(code), "{arguments:?}\n{out}\n{error}");
    for personal in PERSONAL {
        assert!(!out.contains(personal) && !error.contains(personal), "{arguments:?} prints {personal}");
    }
    out + &error
}

async fn run_json(home: &Home, arguments: &[&str]) -> Value {
    let output = run(home, &[arguments, &["--output", "json"]].concat(), 0).await;
    serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}\n{output}"))
}

/// Posts an event as Svix would.
async fn post(home: &Home, id: &str, event: &Value) {
    let mut connection =
        Connection::connect(home.listen, Duration::from_secs(15)).await.expect("a connection");
    let secrets = SigningSecrets::parse(SECRET).expect("a secret");
    let now = WallClock.now();
    let body = Bytes::from(event.to_string());
    let event = Event { id: MessageId::new(id), event_type: String::new(), at: now, body };
    let answer = sender::post(&mut connection, "/webhooks/clerk", &event, secrets.first(), now)
        .await
        .expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.body);
}

async fn drained(queue: &Queue) {
    until("the queue is empty", || async { queue.admin.stats().await.is_ok_and(|stats| stats.depth() == 0) })
        .await;
}

fn found_in(text: &[u8]) -> Vec<&'static str> {
    let holds = |personal: &&str| text.windows(personal.len()).any(|window| window == personal.as_bytes());
    PERSONAL.into_iter().filter(holds).collect()
}

/// Serves while these run one after the other, then ends.
async fn delivered(places: &Places, deliveries: &[(String, Value)]) {
    let mut serving = places.home.start_ready(&["serve"]).await;
    let queue = places.queue();
    for (id, event) in deliveries {
        post(&places.home, id, event).await;
        drained(&queue).await;
    }
    serving.signal("TERM");
    assert!(serving.exit().await.success(), "{}", places.home.log());
}

/// Puts messages of the person into every state, and one that only mentions the person.
async fn fill(queue: &Queue) {
    let put = async |id: &str, body: String| {
        let delivery = Delivery {
            id: MessageId::new(id),
            received_at: WallClock.now(),
            traceparent: None,
            body: body.into(),
        };
        all_of(queue.producer.enqueue_many(&[delivery]).await).expect("it is taken");
    };
    let take = async || {
        let request = request(1, HOUR, Duration::from_secs(20));
        queue.consumer.lease(request).await.expect("it is leased").pop().expect("a message")
    };
    let failure = |reason| Failure { reason, detail: "as the test says".to_owned(), event_type: None };
    let user = person::events().remove(1);
    let torn = user.to_string();
    let ends = [
        ("msg_dead", user.to_string(), Settlement::DeadLetter { failure: failure(Reason::StoreRefused) }),
        (
            "msg_torn",
            torn[..torn.len() - 200].to_owned(),
            Settlement::DeadLetter { failure: failure(Reason::InvalidJson) },
        ),
        (
            "msg_retry",
            user.to_string(),
            Settlement::Retry { after: HOUR, failure: failure(Reason::StoreRefused) },
        ),
    ];
    for (id, body, settlement) in ends {
        put(id, body).await;
        let lease = take().await;
        all_of(queue.consumer.settle_many(&[(lease, settlement)]).await).expect("it is settled");
    }
    put("msg_leased", user.to_string()).await;
    take().await;
    for (number, event) in person::queued().into_iter().enumerate() {
        put(&format!("msg_waiting_{number}"), event.to_string()).await;
    }
    let mention = format!(
        "{{\"type\":\"organization.created\",\"timestamp\":1785312000000,\"data\":{{\"id\":\"org_named\",\"created_by\":\"{ID}\"}}}}"
    );
    put("msg_mention", mention).await;
}

async fn explained(home: &Home) {
    let story = run(home, &["explain", ID], 0).await;
    for output in [
        &format!("{ID}: a user (table users)"),
        "The row: alive.",
        "Memberships: 1 now, 1 in all",
        "user.updated (msg_1): updated",
        "It is newer than the content of the row and replaced it.",
        "Leased by a worker until",
        "It failed; the next attempt is at",
        "Reason: store_refused: as the test says",
        "rollbook dead-letters redrive msg_dead",
        "Also about objects that belong to it: 1 organizationMembership.deleted",
    ] {
        assert!(story.contains(output), "{output} is not in\n{story}");
    }
    let delivery = run_json(home, &["explain", "msg_0"]).await;
    assert_eq!(delivery["deliveries"][0]["outcome"], "inserted", "{delivery}");
    let parked = run_json(home, &["explain", "msg_torn"]).await;
    assert_eq!(parked["queue"]["dead_letters"][0]["reason"], "invalid_json", "{parked}");
}

async fn is_erased_for_good(places: &Places) {
    let (home, queue) = (&places.home, places.queue());
    let named = |prefix: &str, events: Vec<Value>| -> Vec<(String, Value)> {
        let number = |(number, event)| (format!("{prefix}_{number}"), event);
        events.into_iter().enumerate().map(number).collect()
    };
    delivered(places, &named("msg", person::events())).await;
    fill(&queue).await;
    assert_eq!(found_in(places.dump().await.as_bytes()), PERSONAL, "the control: all of it is there");
    explained(home).await;

    let plan = run_json(home, &["erase", ID, "--dry-run"]).await;
    assert_eq!(plan["rows_by_table"]["waitlist_entries"], 1, "{plan}");
    assert_eq!(plan["rows_by_table"]["organization_invitations"], 1, "{plan}");
    let states = |output: &Value| {
        ["waiting", "delayed", "leased", "dead_letters", "unreadable", "mentions"]
            .map(|state| output["queue"][state].clone())
    };
    assert_eq!(states(&plan), [4, 1, 1, 2, 1, 1], "{plan}");
    run(home, &["erase", ID], 2).await;
    assert_eq!(found_in(places.dump().await.as_bytes()), PERSONAL, "nobody has said yes");

    let done = run_json(home, &["erase", ID, "--yes"]).await;
    assert_eq!(states(&done), [4, 1, 1, 2, 1, 1], "{done}");
    assert_eq!((&done["removed"]["messages"], &done["removed"]["ledger"]), (&8.into(), &12.into()), "{done}");
    assert_eq!(found_in(places.dump().await.as_bytes()), [""; 0]);
    assert_eq!(queue.admin.stats().await.expect("numbers").depth(), 1, "what only names them stays");

    // All events are repeated, unchanged and as newer ones.
    let at = WallClock.now().plus(HOUR).as_millis();
    let all = person::events().into_iter().chain(person::queued());
    let newer = all.zip(at..).map(|(event, at)| person::newer(event, at)).collect();
    let mut again = named("msg", person::events());
    again.extend(named("msg_newer", newer));
    delivered(places, &again).await;
    assert_eq!(found_in(places.dump().await.as_bytes()), [""; 0]);
    let story = run(home, &["explain", ID], 0).await;
    assert!(story.contains("The row: erased. An operator removed its content permanently"), "{story}");
    assert!(story.contains("The event is from before the user was erased here"), "{story}");
    assert!(story.contains("its content was erased; no delivery restores it"), "{story}");
    let row =
        places.store().get(&rollbook_core::catalog::USERS, ID).await.expect("rows").expect("a tombstone");
    assert!(row.columns["deleted_at"].as_str().and_then(Timestamp::parse).is_some(), "{row:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_is_erased_from_files_for_good_and_their_bytes_go_when_the_files_are_rewritten() {
    let places = Places::files();
    is_erased_for_good(&places).await;
    assert_ne!(found_in(&places.bytes()), [""; 0], "the control: freed is not yet gone");
    let mut serving = places.home.start_ready(&["serve"]).await;
    let output = run(&places.home, &["erase", ID, "--yes", "--vacuum"], 0).await;
    assert!(output.contains("is erased") && !output.contains("free pages"), "{output}");
    assert_eq!(found_in(&places.bytes()), [""; 0], "also while it serves");
    serving.signal("TERM");
    assert!(serving.exit().await.success(), "{}", places.home.log());
    assert_eq!(found_in(&places.bytes()), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_is_erased_from_redis_and_postgres_for_good() {
    let places = Places::servers().await;
    is_erased_for_good(&places).await;
    let output = run(&places.home, &["erase", ID, "--yes"], 0).await;
    for place in
        ["BGREWRITEAOF", "psql -c 'VACUUM (ANALYZE) clerk.organizations, clerk.users,", "Svix", "backups"]
    {
        assert!(output.contains(place), "{place} is not in\n{output}");
    }
    assert!(!output.contains("SQLite"), "{output}");
    run(&places.home, &["erase", ID, "--yes", "--vacuum"], 2).await;
}
