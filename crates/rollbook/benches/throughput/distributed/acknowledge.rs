//! Durable acknowledgements a second on Redis.
//!
//! The baselines: the HTTP stack without a queue; a bare client that sends the same bytes in batches of the
//! same size, each as one call of a script with one XADD for each message and nothing else; and what two
//! cores allow where both are at work, from the CPU time that each of the two took alone.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use redis::Script;
use rollbook_simulator::history::Event;
use rollbook_testkit::process::Home;
use rollbook_testkit::servers::redis::RedisServer;

use super::{home, redis_sharer, start_redis, turns};
use crate::acknowledge::{batch_between, enqueued};
use crate::cpu::{Split, Watch, Who};
use crate::hammer::{hammer, requests};
use crate::load::{self, NullReceiver, per_second};
use crate::report::{Baseline, Report, median, progress};
use crate::{Scale, cpu};

const CONNECTIONS: [usize; 2] = [64, 256];
const DELIVERIES: usize = 50_000;
const RAW_RATIO_MIN: f64 = 0.7;

/// All that a stream needs to hold a message.
const RAW: &str =
    "for i = 1, #ARGV, 2 do redis.call('XADD', KEYS[1], '*', 'i', ARGV[i], 'b', ARGV[i + 1]) end";

pub(crate) async fn measure(scale: Scale, report: &mut Report) {
    let history = load::history(2_000);
    let null = NullReceiver::start().await;
    for connections in CONNECTIONS {
        let mut measured = Vec::new();
        for turn in 0..turns(scale) {
            progress(&format!("acknowledgements on Redis, {connections} connections, turn {}", turn + 1));
            let events = load::fresh(&history, &format!("{connections}_{turn}"), DELIVERIES / scale.divisor);
            let redis = start_redis().await;
            let home = home(&redis);
            let rollbook = home.start_ready(&["receive"]).await;
            measured.push(measure_turn(&events, connections, &null, &home, &redis).await);
            report.memory("receive on Redis", rollbook.memory_peak());
        }
        report_turns(report, connections, &measured);
    }
}

struct Turn {
    null: f64,
    ours: f64,
    raw: f64,
    batch: f64,
    /// CPU seconds that a delivery takes of the HTTP stack and the load generator.
    null_seconds: f64,
    /// CPU seconds that a message takes of Redis and the bare client.
    raw_seconds: f64,
    /// CPU seconds that a delivery takes of all in our part.
    our_seconds: f64,
    /// CPU time during Rollbook's part.
    split: Split,
}

impl Turn {
    /// The most that the cores allow where both are at work, and neither is faster than alone.
    fn together(&self) -> f64 {
        (cpu::cores() / (self.null_seconds + self.raw_seconds)).min(self.raw).min(self.null)
    }
}

async fn measure_turn(
    events: &[Event],
    connections: usize,
    null: &NullReceiver,
    home: &Home,
    redis: &RedisServer,
) -> Turn {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let count = events.len() as f64;
    let generator = ("generator", Who::this());
    let requests = requests(events);
    let sharers = [generator.clone(), ("receiver", Who::children_with(load::NULL_RECEIVER))];
    let bare = hammer(null.address, &requests, connections, None, &sharers).await;
    let null_seconds = bare.watch.split().seconds / count;
    let before = enqueued(home).await;
    let sharers = [generator, ("receiver", Who::children_with("receive")), redis_sharer(redis)];
    let sent = hammer(home.listen, &requests, connections, None, &sharers).await;
    let split = sent.watch.split();
    let batch = batch_between(before, enqueued(home).await);
    let [null, ours] = [bare, sent].map(|sent| per_second(events.len(), sent.elapsed));
    let (raw, raw_seconds) = raw_adds(events, batch).await;
    let (our_seconds, raw_seconds) = (split.seconds / count, raw_seconds / count);
    Turn { null, ours, raw, batch, null_seconds, raw_seconds, our_seconds, split }
}

/// Two calls at once, each on a connection of its own, as the receiver has. Returns messages a second, and the
/// CPU seconds of Redis and of this client.
async fn raw_adds(events: &[Event], batch: f64) -> (f64, f64) {
    let redis = start_redis().await;
    let client = redis::Client::open(redis.url()).expect("a URL");
    let script = Script::new(RAW);
    let batches = load::batches(events, batch);
    let mut connections = Vec::new();
    for _ in 0..2 {
        let mut connection = client.get_multiplexed_async_connection().await.expect("a connection");
        script.load_async(&mut connection).await.expect("a script");
        connections.push(connection);
    }
    let next = AtomicUsize::new(0);
    let send = async |mut connection: redis::aio::MultiplexedConnection| {
        while let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut command = redis::cmd("EVALSHA");
            command.arg(script.get_hash()).arg(1).arg("raw");
            for event in *batch {
                command.arg(event.id.as_str()).arg(&event.body[..]);
            }
            let () = command.query_async(&mut connection).await.expect("a durable batch");
        }
    };
    let [one, other] = connections.try_into().expect("two");
    let client = ("client", Who::this());
    let watch = Watch::start(&[client, redis_sharer(&redis)]);
    let started = Instant::now();
    tokio::join!(send(one), send(other));
    (per_second(events.len(), started.elapsed()), watch.split().seconds)
}

fn report_turns(report: &mut Report, connections: usize, turns: &[Turn]) {
    let of = |figure: &dyn Fn(&Turn) -> f64| median(turns.iter().map(figure));
    let what = format!("acknowledged/s on Redis, {connections} connections");
    let batch = format!("batch {:.1}", of(&|turn| turn.batch));
    let ours = of(&|turn| turn.ours);
    let shown =
        turns.iter().find(|turn| turn.ours.total_cmp(&ours).is_eq()).expect("the median is one of them");
    let mut against = |name, theirs: fn(&Turn) -> f64, limit, detail: &str| {
        let ratio = of(&|turn| turn.ours / theirs(turn));
        let baseline = Baseline { name, rate: of(&theirs), ratio, limit };
        report.ratio(&what, ours, &baseline, detail);
    };
    let micros = |figure: fn(&Turn) -> f64| 1e6 * of(&figure);
    let each = format!(
        "CPU µs for each: HTTP {:.1}, raw XADD {:.1}, ours {:.1}",
        micros(|turn| turn.null_seconds),
        micros(|turn| turn.raw_seconds),
        micros(|turn| turn.our_seconds)
    );
    against("HTTP without a queue", |turn| turn.null, None, &shown.split.text);
    against("both on these cores", Turn::together, None, &each);
    let raw = format!("{batch}; one EVALSHA each, an XADD a message, 2 connections");
    against("raw XADDs", |turn| turn.raw, Some(RAW_RATIO_MIN), &raw);
}
