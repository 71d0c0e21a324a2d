//! Every wait has a limit.

use std::time::{Duration, Instant};

use rollbook_core::store::{Store as _, StoreError};
use rollbook_postgres::{PostgresSettings, apply_migrations};
use rollbook_testkit::process::until;
use rollbook_testkit::servers::postgres::PostgresServer;

use crate::world::{OURS, World, is_outage, open, settings, user_change};

/// Time limit: long for a statement here, short for a test.
const STATEMENT: Duration = Duration::from_secs(1);
/// Deadline for every test, on a busy machine too, and shorter than the sleeps that a limit cuts short.
const SOON: Duration = Duration::from_secs(20);
const SLEEP: u32 = 40;

fn impatient(settings: &PostgresSettings) -> PostgresSettings {
    PostgresSettings { statement_timeout: STATEMENT, ..settings.clone() }
}

/// Asserts that the server, not a message, is blamed with this text, within the deadline.
async fn assert_cut_short(settings: &PostgresSettings, words: &str) {
    let started = Instant::now();
    let result = open(settings).apply_many(&[user_change("user_1", 0)]).await;
    let Err(StoreError::Slow { detail, .. }) = result else { panic!("{result:?}") };
    assert!(detail.contains(words), "{detail}");
    assert!(started.elapsed() < SOON);
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_cut_short() {
    let world = World::new().await;
    // The fault that is tested: a trigger slower than the limit.
    let sleep = format!(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN PERFORM pg_sleep({SLEEP}); RETURN NEW; END $$;
         CREATE TRIGGER slow BEFORE INSERT ON mirror_2.users FOR EACH ROW EXECUTE FUNCTION slow()"
    );
    world.psql(&sleep).await;
    assert_cut_short(&impatient(&world.settings), "longer than statement_timeout").await;
}

#[tokio::test]
async fn a_lock_that_another_session_holds_is_waited_for_half_as_long() {
    let world = World::new().await;
    let mut holder = world.session().await;
    holder.run("BEGIN; LOCK TABLE mirror_2.users").await;
    assert_cut_short(&impatient(&world.settings), "a lock was not free").await;
    holder.run("COMMIT").await;
    assert!(world.store().apply_many(&[user_change("user_1", 0)]).await.is_ok());
}

#[tokio::test]
async fn a_server_that_says_nothing_any_more_is_given_up() {
    let server = PostgresServer::start_with(&[("fsync", "off")]).await;
    server.create_database("app").await;
    let settings = settings(server.url("app"));
    apply_migrations(&settings).await.expect("the migrations apply");
    let impatient = PostgresSettings { connect_timeout: Duration::from_secs(1), ..impatient(&settings) };
    let store = open(&impatient);
    until("a connection is there", || async { store.ping().await.is_ok() }).await;
    server.signal("STOP");
    // The idle connection is checked if it is a second old by now.
    let words = ["no answer within 3s", "no connection within database_connect_timeout"];
    for words in [&words[..], &words[1..]] {
        let started = Instant::now();
        let error = store.ping().await.expect_err("it is stopped");
        assert!(is_outage(&error), "{error}");
        assert!(words.iter().any(|words| error.to_string().contains(words)), "{error}");
        assert!(started.elapsed() < SOON);
    }
    server.signal("CONT");
    until("it is used again", || async { store.ping().await.is_ok() }).await;
}

#[tokio::test]
async fn calls_beyond_the_connections_wait_their_turn_and_not_for_ever() {
    let world = World::new().await;
    let one = PostgresSettings { connections_max: 1, ..world.settings.clone() };
    let store = open(&one);
    let changes = [user_change("user_1", 0)];
    let (first, second) = tokio::join!(store.apply_many(&changes), store.ping());
    assert!(first.is_ok() && second.is_ok(), "{first:?} {second:?}");
    assert_eq!(world.psql(OURS).await, "1\n");

    let store = open(&PostgresSettings { connect_timeout: Duration::from_secs(1), ..one });
    until("its connection is there", || async { store.ping().await.is_ok() }).await;
    let mut holder = world.session().await;
    holder.run("BEGIN; LOCK TABLE mirror_2.users").await;
    let changes = [user_change("user_2", 0)];
    let second = async {
        let error = store.ping().await.expect_err("there is no second connection");
        assert!(is_outage(&error) && error.to_string().contains("database_connections_max"), "{error}");
        holder.run("COMMIT").await;
    };
    let (first, ()) = tokio::join!(store.apply_many(&changes), second);
    assert!(first.is_ok(), "{first:?}");
}
