//! `ops/bench`: what Rollbook costs beside a bare client that does the same work, in one run.
//!
//! Absolute figures depend on the machine and its neighbours, so each is printed as a ratio to a
//! baseline measured around it, in turns, and beside the disk's own fdatasync time.
//!
//! * Acknowledgements: `rollbook receive` under closed-loop load, against (a) the same HTTP stack
//!   answering without a queue and (b) raw SQLite inserts of the same bodies in the same batch sizes.
//! * Latency: `rollbook serve` at 1,000 deliveries a second, against the disk's fdatasync p99.
//! * Applying: `rollbook work` draining a backlog, against raw upserts of the same rows.

mod acknowledge;
mod apply;
mod disk;
mod hammer;
mod latency;
mod load;
mod report;

use crate::report::Report;

/// The binary's allocator, so that the baselines have it too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How much is measured.
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

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let flags: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match flags[..] {
        [load::NULL_RECEIVER, address] => return load::null_receiver(address).await,
        [] | ["--quick" | "--json"] | ["--quick", "--json"] | ["--json", "--quick"] => {}
        _ => {
            eprintln!("usage: ops/bench [--quick] [--json]");
            std::process::exit(2);
        }
    }
    let quick = flags.contains(&"--quick");
    let scale = if quick { QUICK } else { FULL };
    let mut report = Report::new(quick);
    report.disk("before", &disk::measure(scale));
    acknowledge::measure(scale, &mut report).await;
    latency::measure(scale, &mut report).await;
    apply::measure(scale, &mut report).await;
    report.disk("after", &disk::measure(scale));
    if flags.contains(&"--json") {
        println!("{}", report.json());
    } else {
        println!("{report}");
    }
}
