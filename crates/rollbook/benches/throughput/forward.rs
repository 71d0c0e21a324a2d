//! Changes a second that one forward pushes, against bare requests to the same server.

use std::time::Instant;

use rollbook_testkit::hooks::{HookAnswer, HookServer};
use rollbook_testkit::process::{Home, until};
use rusqlite::Connection;

use crate::Scale;
use crate::hammer::{hammer, requests};
use crate::load::{self, BINARY, per_second};
use crate::report::{Baseline, Report, median, progress};

const CHANGES: usize = 20_000;
/// Objects that the changes are of: those of one are sent one after the other.
const SUBJECTS: usize = 1_000;
const CONCURRENCIES: [usize; 2] = [8, 64];

pub(crate) async fn measure(scale: Scale, report: &mut Report) {
    let count = CHANGES / scale.divisor;
    let history = load::history(2_000);
    for concurrency in CONCURRENCIES {
        let mut turns = Vec::new();
        for turn in 0..scale.turns {
            progress(&format!(
                "forwarding {count} changes, {concurrency} requests at once, turn {}",
                turn + 1
            ));
            let events = load::fresh(&history, &format!("forward_{concurrency}_{turn}"), count);
            let bare = server();
            let hammered = hammer(bare.address, &requests(&events), concurrency, None, &[]).await;
            turns.push((forwarded(count, concurrency, report).await, per_second(count, hammered.elapsed)));
        }
        let of = |figure: fn(&(f64, f64)) -> f64| median(turns.iter().map(figure));
        let (ours, rate, ratio) = (of(|turn| turn.0), of(|turn| turn.1), of(|turn| turn.0 / turn.1));
        let baseline = Baseline { name: "bare requests", rate, ratio, limit: None };
        report.ratio(
            &format!("forwarded/s, {concurrency} requests at once"),
            ours,
            &baseline,
            "SQLite, signed, in order per object",
        );
    }
}

fn server() -> HookServer {
    HookServer::start(|_| HookAnswer::Status(200, Vec::new()))
}

/// Returns the rate at which a worker forwards a feed with so many changes.
async fn forwarded(count: usize, concurrency: usize, report: &mut Report) -> f64 {
    let server = server();
    let home = Home::new(BINARY).with("ROLLBOOK_LOG", "warn");
    home.migrate();
    home.configure(&format!(
        "[forward.bench]\nurl = \"{}\"\nsecret = \"whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\"\n\
         concurrency = {concurrency}\n",
        server.url("/")
    ));
    let store = Connection::open(home.data().join("store.db")).expect("the file opens");
    store
        .execute_batch(&format!(
            "INSERT INTO forwards (name, position, epoch, saved_at) VALUES ('bench', 0, 1, '2026-07-29T08:00:00.000Z');
             WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count})
             INSERT INTO changes (resource, subject_id, kind, changed, origin, cause, event_at, at)
             SELECT 'users', 'user_' || n % {SUBJECTS}, 'updated', '[\"data\"]', 'webhook', 'msg_' || n,
                    '2026-07-29T08:00:00.000Z', '2026-07-29T08:00:00.000Z' FROM numbers"
        ))
        .expect("a feed");
    drop(store);
    let rollbook = home.start_ready(&["work"]).await;
    until("the first change arrives", || async { server.received_count() > 0 }).await;
    let (began, before) = (Instant::now(), server.received_count());
    until("all changes arrive", || async { server.received_count() >= count }).await;
    report.memory("work with a forward", rollbook.memory_peak());
    per_second(count - before, began.elapsed())
}
