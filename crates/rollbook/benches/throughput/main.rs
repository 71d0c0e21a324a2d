//! `ops/bench`: compares Rollbook with a bare client that does the same work, in one run.
//!
//! Absolute figures depend on the machine and its neighbours, so each is printed as a ratio to a
//! baseline measured around it, in turns, and with the disk's own fdatasync time.
//!
//! * Acknowledgements: `rollbook receive` under closed-loop load, against (a) the same HTTP stack
//!   answering without a queue and (b) raw SQLite inserts of the same bodies in the same batch sizes.
//! * Latency: `rollbook serve` at 1,000 deliveries a second, against the disk's fdatasync p99.
//! * Applying: `rollbook work` draining a backlog, against raw upserts of the same rows.
//! * Scraping: messages moved through a queue where a million wait, while `/metrics` is asked, against nobody asking.
//! * Reconciling (`reconcile`): `rollbook reconcile` with a million users and memberships at a simulated Clerk, against
//!   its rate limit; memory, and rows compared per CPU second. Acknowledgements meanwhile are a part of their own (`webhooks`).
//! * The change feed (`feed`): applying with it against applying without it, on both engines; lines through the
//!   sequencer; the time from a commit to the bell and to a stream of the API at 1,000 changes a second; pages at the end
//!   of a million kept lines.
//! * A forward (`forward`): changes that one forward pushes to a local server, against bare requests to it.
//! * Context (`context`): the time to an answer of `/v1/context` and `/v1/authorize` at 500 requests a second, with a million
//!   users and memberships on Postgres.
//! * Authorizing (`authorize`): the time that `/v1/authorize` adds to an answer of nginx (`auth_request`) at 500 requests a
//!   second, against the same location of nginx without the question.
//! * Large tables (`large`, only by name): applying to 2 M users and 4 M ledger entries on both engines, against raw
//!   upserts into the same tables.
//! * On Redis and Postgres (`distributed`): the same acknowledgements and the same draining, by one and by two
//!   workers; the whole path at once, with the load generator; memory of Redis; speed with a long backlog.

mod acknowledge;
mod apply;
mod cpu;
mod disk;
mod distributed;
mod forward;
mod hammer;
mod large;
mod latency;
mod load;
mod reconcile;
mod report;
mod scrape;

use crate::report::Report;

/// The binary's allocator, so that the baselines have it too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Scale of a run.
#[derive(Clone, Copy)]
pub(crate) struct Scale {
    /// Turns of each measurement; the median ratio counts.
    turns: usize,
    /// Divides the number of deliveries.
    divisor: usize,
}

const FULL: Scale = Scale { turns: 5, divisor: 1 };
/// Shows that everything runs; its figures mean nothing.
const QUICK: Scale = Scale { turns: 1, divisor: 20 };

/// The parts that can be asked for by name, in their order; without a name all of them.
const PARTS: [&str; 14] = [
    "acks",
    "latency",
    "apply",
    "scrape",
    "redis",
    "postgres",
    "path",
    "backlog",
    "feed",
    "forward",
    "context",
    "authorize",
    "reconcile",
    "webhooks",
];
/// Minutes and some 15 GB of disk: only measured where it is asked for by name.
const LARGE: &str = "large";

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let [load::NULL_RECEIVER, address] = arguments[..] {
        return load::null_receiver(address).await;
    }
    if let [reconcile::CLERK_API, ref instance @ ..] = arguments[..] {
        return reconcile::serve(instance).await;
    }
    let (flags, asked): (Vec<&str>, Vec<&str>) =
        arguments.into_iter().partition(|argument| argument.starts_with('-'));
    let is_known = flags.iter().all(|flag| ["--quick", "--json"].contains(flag))
        && asked.iter().all(|part| PARTS.contains(part) || *part == LARGE);
    if !is_known {
        eprintln!("usage: ops/bench [--quick] [--json] [{}|{LARGE}]…", PARTS.join("|"));
        std::process::exit(2);
    }
    let quick = flags.contains(&"--quick");
    let scale = if quick { QUICK } else { FULL };
    let mut report = Report::new(quick);
    report.disk("before", &disk::measure(scale));
    for part in PARTS.into_iter().filter(|part| asked.is_empty() || asked.contains(part)) {
        measure(part, scale, &mut report).await;
    }
    if asked.contains(&LARGE) {
        large::measure(scale, &mut report).await;
        distributed::large::measure(scale, &mut report).await;
    }
    report.disk("after", &disk::measure(scale));
    if flags.contains(&"--json") {
        println!("{}", report.json());
    } else {
        println!("{report}");
    }
}

async fn measure(part: &str, scale: Scale, report: &mut Report) {
    match part {
        "acks" => acknowledge::measure(scale, report).await,
        "latency" => latency::measure(scale, report).await,
        "apply" => apply::measure(scale, report).await,
        "scrape" => scrape::measure(scale, report).await,
        "redis" => distributed::acknowledge::measure(scale, report).await,
        "postgres" => distributed::apply::measure(scale, report).await,
        "path" => distributed::path::measure(scale, report).await,
        "backlog" => distributed::backlog::measure(scale, report).await,
        "feed" => {
            apply::measure_feed(scale, report).await;
            distributed::feed::measure(scale, report).await;
        }
        "forward" => forward::measure(scale, report).await,
        "context" => distributed::context::measure(scale, report).await,
        "authorize" => distributed::authorize::measure(scale, report).await,
        "reconcile" => reconcile::measure(scale, report).await,
        "webhooks" => reconcile::measure_webhooks(scale, report).await,
        _ => unreachable!("only parts of the list are measured"),
    }
}
