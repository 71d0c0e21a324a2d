//! Clocks that step back while a worker that was killed holds messages: its leases still end in time.

use rollbook_testkit::process::{Home, until};
use rollbook_testkit::servers::shim::Shim;

use super::clocks::{EVENT, HOUR, a_step_of_redis};
use super::on_shim;
use crate::audit;
use crate::crashes::BINARY;
use crate::raw_http::{exchange, signed, status};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_redis_steps_two_hours_back_the_messages_of_a_killed_worker_are_applied() {
    a_step_of_redis(-2 * HOUR).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_machine_steps_two_hours_back_the_messages_of_a_killed_worker_on_sqlite_are_applied() {
    let shim = Shim::new(".db");
    let home = on_shim(Home::new(BINARY).with("ROLLBOOK_LEASE_FOR", "5s"), &shim);
    let mut rollbook = home.start_ready(&["serve"]).await;
    let store = rusqlite::Connection::open(home.data().join("store.db")).expect("the store's file");
    store.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    assert_eq!(status(&exchange(home.listen, &signed("msg_held", EVENT)).await), 200);
    until("the message is held", || async { home.metric("rollbook_queue_leased").await == Some(1.0) }).await;
    rollbook.kill();
    store.execute_batch("ROLLBACK").expect("no lock");
    shim.shift_clock(-2 * HOUR);
    let _rollbook = home.start_ready(&["serve"]).await;
    until("what the killed process held is applied", || async { audit::waiting(&home.data()) == 0 }).await;
}
