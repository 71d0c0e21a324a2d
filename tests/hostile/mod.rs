//! Values that JSON, Postgres or SQLite can fail on, through the real worker into both stores: each body ends
//! as the contract says, and the good ones right before and after it in the same batch are applied at once.
//!
//! The clock stands still, so a message that waits for a backoff is never due again: every applied message
//! was applied without a wait.

mod lengths;
mod numbers;
mod payloads;
mod stage;
mod types;

use std::sync::Arc;

use bytes::Bytes;
use rollbook_core::catalog::RESOURCES;
use rollbook_core::store::FullStore;
use rollbook_core::time::Clock;
use rollbook_sqlite::{Schema, SqliteStore, apply_migrations};
use rollbook_testkit::servers::postgres::PostgresServer;

use self::stage::{Case, check, neighbours_of_one_that_is_refused_do_not_wait};
use crate::stores;

/// A store in a separate file.
fn sqlite(folder: &tempfile::TempDir) -> Arc<dyn FullStore> {
    let path = folder.path().join("store.db");
    apply_migrations(&path, Schema::Store).expect("the tables");
    let clock: Arc<dyn Clock> = stage::clock();
    Arc::new(SqliteStore::open(&path, clock).expect("the store opens"))
}

/// A separate server.
async fn postgres() -> (PostgresServer, Arc<dyn FullStore>) {
    let (server, store) = stores::start(stage::clock()).await;
    (server, store)
}

/// Returns the bodies of all cases.
pub(crate) fn bodies() -> Vec<Bytes> {
    let all = payloads::everywhere().chain(wrong_types()).chain(long_texts());
    all.map(|case| case.body).collect()
}

fn wrong_types() -> Vec<Case> {
    RESOURCES.into_iter().flat_map(types::of).chain(types::of_the_envelope()).collect()
}

fn long_texts() -> impl Iterator<Item = Case> {
    RESOURCES.into_iter().flat_map(lengths::of)
}

#[tokio::test]
async fn hostile_bodies_end_as_the_contract_says_on_sqlite() {
    let folder = tempfile::tempdir().expect("a folder");
    check(sqlite(&folder), payloads::everywhere()).await;
}

#[tokio::test]
async fn hostile_bodies_end_as_the_contract_says_on_postgres() {
    let (_server, store) = postgres().await;
    check(store, payloads::everywhere()).await;
}

#[tokio::test]
async fn a_value_of_another_type_leaves_null_and_is_counted_wherever_it_is_on_sqlite() {
    let folder = tempfile::tempdir().expect("a folder");
    check(sqlite(&folder), wrong_types()).await;
}

#[tokio::test]
async fn a_value_of_another_type_leaves_null_and_is_counted_wherever_it_is_on_postgres() {
    let (_server, store) = postgres().await;
    check(store, wrong_types()).await;
}

#[tokio::test]
async fn a_text_too_long_for_an_index_leaves_null_and_is_counted_and_one_at_the_limit_is_kept_on_sqlite() {
    let folder = tempfile::tempdir().expect("a folder");
    check(sqlite(&folder), long_texts()).await;
}

#[tokio::test]
async fn a_text_too_long_for_an_index_leaves_null_and_is_counted_and_one_at_the_limit_is_kept_on_postgres() {
    let (_server, store) = postgres().await;
    check(store, long_texts()).await;
}

#[tokio::test]
async fn a_message_that_postgres_refuses_waits_alone_and_is_parked_in_the_end() {
    let (server, store) = postgres().await;
    let trigger = format!(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON clerk.users FOR EACH ROW
         WHEN (NEW.first_name = '{}') EXECUTE FUNCTION refuse()",
        payloads::REFUSED_NAME
    );
    server.psql("app", &trigger).await;
    neighbours_of_one_that_is_refused_do_not_wait(Arc::clone(&store), payloads::refused()).await;
    check(store, [payloads::refused()]).await;
}
