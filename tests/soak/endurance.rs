//! Endurance: a steady load, one user in a hundred refused by a trigger half of the time, one delivery in a
//! thousand poison, and no kills. After each round, once nothing waits, everything that could grow is
//! measured. A number that grows beyond its limit from the first sample to the last fails the run.
//!
//! The quick form, with controls that leak on purpose, is `tests/faults/growth.rs`.

use std::time::Duration;

use tokio::time::Instant;

use crate::audit::{dead_letters, lost};
use crate::fleet::{DATABASE, Fleet, Member};
use crate::growth::{Growth, Limit};
use crate::load::Load;

/// Deliveries a second, duplicates included.
const RATE: u32 = 500;
const POISON_PER_MILLE: usize = 1;
/// Duration of the load of one round.
const ROUND: Duration = Duration::from_secs(20);
/// Rounds before the first sample: pools, caches and tables fill.
const WARM_UP: u32 = 2;

const COUNT: Limit = Limit { absolute: 6.0, relative: 0.0 };
const MEMORY: Limit = Limit { absolute: 16e6, relative: 0.15 };
/// Tolerance of the bytes per row: Postgres's usage varies with its vacuum.
const TABLES: Limit = Limit { absolute: 0.1, relative: 0.5 };

/// A trigger of the team that refuses one user in a hundred, for 3 of every 6 seconds.
const REFUSALS: &str = "CREATE FUNCTION clerk.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
     IF hashtext(NEW.id) % 100 = 0 AND extract(epoch FROM clock_timestamp())::bigint % 6 < 3 THEN \
     RAISE EXCEPTION 'not now'; END IF; RETURN NEW; END $$; \
     CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON clerk.users FOR EACH ROW EXECUTE FUNCTION clerk.refuse()";

const PER_ROW: &str = "SELECT round(sum(pg_total_relation_size(relid)) / greatest(1, sum(n_live_tup)), 1), \
     round(sum(n_dead_tup) / greatest(1, sum(n_live_tup)), 3) FROM pg_stat_user_tables WHERE schemaname = 'clerk'";

/// Runs for this duration and prints the table. Returns whether nothing grew and nothing was lost.
pub(crate) async fn run(run_for: Duration, seed: u64) -> bool {
    let mut fleet = Fleet::start(None).await;
    fleet.postgres.psql(DATABASE, REFUSALS).await;
    let mut growth = Growth::default();
    let mut passed = true;
    let until = Instant::now() + run_for;
    let mut retries = 0.0;
    for round in 0.. {
        let load = Load::at_rate(RATE, POISON_PER_MILLE, ROUND, seed + u64::from(round));
        let sent = load.send(fleet.addresses()).await;
        fleet.until_quiet().await;
        retries = retried(&fleet).await;
        let (lost, dead) = (lost(&fleet, &sent).await, dead_letters(&fleet));
        let dead_is_poison = dead.iter().map(String::as_str).eq(load.poison());
        println!(
            "round {round}: {} acknowledged, {lost} lost, {} dead{}, {} failed, {retries} retried so far",
            sent.acknowledged.len(),
            dead.len(),
            if dead_is_poison { "" } else { " (not the poison)" },
            sent.failed
        );
        passed &= lost == 0 && dead_is_poison && sent.failed == 0;
        discard(&fleet.workers[0]);
        if round >= WARM_UP {
            sample(&fleet, &mut growth).await;
        }
        // At least three samples: a line is fitted to them.
        if Instant::now() >= until && round >= WARM_UP + 2 {
            break;
        }
    }
    passed &= fleet.stop().await && retries > 0.0 && growth.growing().is_empty();
    println!("\n{growth}\n{}", if passed { "✓ as it must be" } else { "✗ not as it must be" });
    if !passed {
        eprintln!("{}", fleet.logs());
    }
    passed
}

/// Returns the number of settlements that were retries.
async fn retried(fleet: &Fleet) -> f64 {
    let mut sum = 0.0;
    for worker in &fleet.workers {
        let retries = worker.home.metric_with("rollbook_settlements_total", r#"settlement="retry""#);
        sum += retries.await.unwrap_or(0.0);
    }
    sum
}

/// Removes the dead letters of poison, which would grow by design.
fn discard(member: &Member) {
    let done = member.home.command(&["dead-letters", "discard", "--all"]).output().expect("it runs");
    assert!(done.status.success(), "{done:?}");
}

async fn sample(fleet: &Fleet, growth: &mut Growth) {
    let members = fleet.receivers.iter().map(|member| ("receiver", member));
    let members = members.chain(fleet.workers.iter().map(|member| ("worker", member)));
    for (number, (face, member)) in members.enumerate() {
        let gauges = [
            ("process_resident_memory_bytes", MEMORY),
            ("process_open_fds", COUNT),
            ("process_threads", COUNT),
        ];
        for (gauge, limit) in gauges {
            let value = member.home.metric(gauge).await.expect("a gauge");
            growth.note(&format!("{face} {number}: {gauge}"), limit, value);
        }
    }
    let lengths = [
        ("xlen", "new"),
        ("xlen", "again"),
        ("hlen", "messages"),
        ("zcard", "due"),
        ("hlen", "tries"),
        ("zcard", "leases"),
    ];
    for (command, key) in lengths {
        let length = fleet.redis.cli(&[command, &format!("{{rollbook:0}}:{key}")]);
        growth.note(&format!("redis: {key}"), COUNT, length.parse().expect("a length"));
    }
    let info = fleet.redis.cli(&["info"]);
    let number = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|value| value.trim().parse::<f64>().ok()).expect("a number of Redis")
    };
    growth.note("redis: used_memory", MEMORY, number("used_memory"));
    growth.note("redis: connected_clients", COUNT, number("connected_clients"));
    let groups = fleet.redis.cli(&["xinfo", "groups", "{rollbook:0}:new"]);
    let consumers = groups.lines().skip_while(|line| *line != "consumers").nth(1);
    growth.note("redis: consumers", COUNT, consumers.and_then(|count| count.parse().ok()).expect("a count"));
    let per_row = fleet.postgres.psql(DATABASE, PER_ROW).await;
    let (bytes, dead) = per_row.trim().split_once('|').expect("two numbers");
    growth.note("postgres: bytes for each row", TABLES, bytes.parse().expect("a number"));
    growth.note("postgres: dead rows for each row", TABLES, dead.parse().expect("a number"));
    let clients = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'";
    let clients = fleet.postgres.psql(DATABASE, clients).await;
    growth.note("postgres: connections", COUNT, clients.trim().parse().expect("a count"));
}
