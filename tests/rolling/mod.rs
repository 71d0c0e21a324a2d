//! Receivers and workers are replaced one after the other, and then some are removed, under load: as an
//! orchestrator does it when it rolls out and scales down.

mod balancer;
mod fleet;

use std::collections::BTreeSet;

use rollbook_testkit::process::until;

use self::balancer::Load;
use self::fleet::Fleet;
use crate::crashes::{history, sent};
use crate::rows;

/// Number of times that every process is replaced.
const ROUNDS: usize = 2;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replacing_and_removing_processes_under_load_refuses_loses_and_doubles_nothing() {
    let history = history(8_000);
    let mut fleet = Fleet::start().await;
    let load =
        Load::new(&history, fleet.receivers.iter().map(|receiver| (receiver.home.listen, receiver.home.ops)));
    let changes = async {
        for round in 1..=ROUNDS {
            for index in 0..fleet.receivers.len() {
                load.some_more().await;
                fleet.receivers[index].replace(round).await;
            }
            for index in 0..fleet.workers.len() {
                load.some_more().await;
                fleet.replace_worker(index, round).await;
            }
        }
        load.some_more().await;
        fleet.receivers[1].stop().await;
        fleet.stop_worker(1).await;
        load.some_more().await;
        load.no_need_to_wait();
    };
    let (wrong, ()) = tokio::select! {
        done = async { tokio::join!(load.send(), changes) } => done,
        () = load.watch() => unreachable!("it watches until the end"),
    };
    assert_eq!(wrong, Vec::<String>::new(), "{}", fleet.logs());

    until("the queue is empty", || std::future::ready(fleet.messages() == 0)).await;
    let ledger = fleet.postgres.psql(fleet::DATABASE, "SELECT svix_id, attempts FROM clerk.deliveries").await;
    let ledger: Vec<(&str, &str)> = ledger.lines().filter_map(|line| line.split_once('|')).collect();
    let applied: BTreeSet<&str> = ledger.iter().map(|(id, _)| *id).collect();
    assert_eq!(applied, sent(&history), "each delivery is in the ledger, and nothing else");
    let again: Vec<_> = ledger.iter().filter(|(_, attempts)| *attempts != "1").collect();
    assert!(again.is_empty(), "a released lease is not an attempt: {again:?}");
    assert!(rows::equal(fleet.postgres.url(fleet::DATABASE), &history).await);
    fleet.stop().await;
}
