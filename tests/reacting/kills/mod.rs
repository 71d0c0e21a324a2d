//! Four worker processes, Redis and Postgres, all killed under load: the feed has every change once, and no reader misses one.

mod fleet;
mod watchers;

use std::time::Duration;

use rollbook_simulator::history::History;
use rollbook_testkit::feed_audit;
use rollbook_testkit::process::until;

use self::fleet::{Fleet, WORKERS};
use self::watchers::{BareSequence, Payloads, Readers, Stream};
use crate::crashes::{SEED, history, send};

const SCHEMA: &str = "clerk";
const ROUNDS: usize = 4;

/// Returns the first and the second half of a history.
fn halves(whole: &History) -> [History; 2] {
    let half = whole.events.len() / 2;
    [0..half, half..whole.events.len()].map(|events| {
        let mut part = history(60);
        part.events = whole.events[events].to_vec();
        part
    })
}

/// Kills a worker, the worker that gives positions at the moment, and the readers, again and again. Returns how many rounds
/// had begun when the last delivery was acknowledged.
async fn kill_workers(
    fleet: &mut Fleet,
    readers: &mut Readers,
    part: &History,
    random: &mut fastrand::Rng,
) -> usize {
    let (listen, done) = (fleet.receiver.home.listen, std::cell::Cell::new(false));
    let loading = async {
        let report = send(listen, part, 120).await;
        done.set(true);
        assert_eq!(report.unanswered.len() + report.refused.len(), 0, "{:?}", report.last_error);
    };
    let killing = async {
        let mut under_load = 0;
        for _ in 0..ROUNDS {
            under_load += usize::from(!done.get());
            fleet.kill_worker(random.usize(..WORKERS)).await;
            fleet.kill_sequencer().await;
            // At a random time on purpose, in the middle of anything.
            tokio::time::sleep(Duration::from_millis(random.u64(1..150))).await;
            readers.kill().await;
        }
        under_load
    };
    tokio::join!(loading, killing).1
}

/// Kills Postgres, and the readers meanwhile.
async fn kill_postgres(fleet: &mut Fleet, readers: &mut Readers, part: &History, random: &mut fastrand::Rng) {
    let listen = fleet.receiver.home.listen;
    let killing = async {
        for _ in 0..2 {
            let before = fleet.last().await;
            let moved = || async { fleet.last().await > before };
            until("changes get positions", moved).await;
            tokio::time::sleep(Duration::from_millis(random.u64(1..150))).await;
            fleet.postgres.kill();
            readers.kill().await;
            fleet.postgres.restart().await;
        }
    };
    let (report, ()) = tokio::join!(send(listen, part, 120), killing);
    assert_eq!(report.unanswered.len() + report.refused.len(), 0, "{:?}", report.last_error);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_is_in_the_feed_once_and_no_reader_misses_one_while_everything_is_killed() {
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut fleet = Fleet::start().await;
    fleet.sql(&feed_audit::triggers(SCHEMA)).await;
    let (mut readers, stream) = (Readers::start(&fleet), Stream::start(&fleet, random.fork()));
    let (mut bare, payloads) = (BareSequence::default(), Payloads::start(&fleet).await);
    let user = fleet.send_samples().await;

    // A transaction that has written a row, and stays open. Its line has a number already.
    let mut open = fleet.session().await;
    open.run("BEGIN").await;
    open.run(&format!("UPDATE clerk.users SET locked = NOT locked WHERE id = '{user}'")).await;
    let [first, second] = halves(&history(1_600));
    let under_load = kill_workers(&mut fleet, &mut readers, &first, &mut random).await;
    assert!(under_load >= ROUNDS / 2, "a run that kills idle processes shows nothing: {under_load}");
    fleet.until_applied().await;
    bare.read(&fleet).await;
    let before = fleet.last().await;
    open.run("COMMIT").await;
    until("the line of the transaction has its position", || async { fleet.last().await > before }).await;
    let late = format!(
        "SELECT string_agg(changed::text, ',') FROM clerk.changes WHERE position > {before} AND subject_id = '{user}'"
    );
    assert_eq!(fleet.sql(&late).await, "{locked}", "it comes last, and nothing waited for it");

    kill_postgres(&mut fleet, &mut readers, &second, &mut random).await;
    fleet.until_applied().await;
    assert_eq!(
        fleet.sql(&feed_audit::differences(SCHEMA)).await,
        "",
        "seed {SEED}: the audit and the feed differ"
    );
    let positions = fleet.sql(&feed_audit::positions(SCHEMA)).await;
    assert!(feed_audit::are_consecutive(&positions), "seed {SEED}: {positions}");
    assert_eq!(fleet.sql(&feed_audit::steps_back(SCHEMA)).await, "0", "times never decrease");

    let last = fleet.last().await;
    stream.saw_everything(last).await;
    readers.saw_everything(&fleet).await;
    bare.read(&fleet).await;
    let missed = bare.missed(&fleet).await;
    assert!(missed >= 1, "control: a reader of a bare sequence loses the change of the long transaction");
    let heard = payloads.heard();
    assert!(heard < last, "control: notifications alone name {heard} of {last} changes");
    println!("{last} changes; a bare sequence loses {missed}, notifications alone {}", last - heard);
}
