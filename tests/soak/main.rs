//! `ops/soak`: the real binary as a fleet, 2 receivers and 4 workers on Redis and Postgres. Processes and
//! servers are killed while a sender with retries delivers shuffled duplicates.
//!
//! * `outage`: Postgres is killed again and again. No attempt may be counted for it.
//! * `everything`: workers, receivers, Redis and Postgres are killed (`kill -9`), workers are paused for
//!   longer than a lease and wake up.
//! * `all at once`: everything is killed at the same time and restarted in random order.
//! * `control`: Redis flushes once a second, on a disk with flushes of seconds, and is killed: it
//!   loses acknowledged deliveries. The audit must detect that, otherwise its zeros mean nothing.
//!
//! With `--endurance` there is one experiment without kills instead: see [`endurance`].
//!
//! Each experiment reports Jepsen's figures for queues: lost (acknowledged and nowhere), unexpected (applied
//! and never sent), stuck (still waiting at the end); and whether the rows equal the truth.

mod audit;
mod chaos;
mod endurance;
mod experiment;
mod fleet;
#[path = "../growth.rs"]
mod growth;
mod load;
#[path = "../rows.rs"]
mod rows;

use std::time::Duration;

use crate::experiment::{Experiment, Kind, Outcome};

const BINARY: &str = env!("CARGO_BIN_EXE_rollbook");

/// Duration of the load of each experiment, in CI.
const QUICK: Duration = Duration::from_secs(12);
/// Default duration outside CI.
const MINUTES: u64 = 3;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let Some(Options { send_for, seed, endurance }) = parse(&arguments) else {
        eprintln!("usage: ops/soak [--endurance] [--quick | --minutes N] [--seed N]");
        std::process::exit(2);
    };
    if endurance {
        std::process::exit(i32::from(!endurance::run(send_for, seed).await));
    }
    println!(
        "seed {seed}; each experiment sends for {} s and then waits until all is quiet\n",
        send_for.as_secs()
    );
    println!("{}", Outcome::HEADER);
    let mut passed = true;
    for kind in [Kind::Outage, Kind::Everything, Kind::AllAtOnce, Kind::Control] {
        let outcome = Experiment { kind, send_for, seed }.run().await;
        println!("{outcome}");
        passed &= outcome.passed();
    }
    println!("\n{}", if passed { "✓ as it must be" } else { "✗ not as it must be" });
    std::process::exit(i32::from(!passed));
}

struct Options {
    send_for: Duration,
    seed: u64,
    endurance: bool,
}

fn parse(arguments: &[String]) -> Option<Options> {
    let (mut send_for, mut seed) = (Duration::from_secs(60 * MINUTES), 20_261_124);
    let mut endurance = false;
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--quick" => send_for = QUICK,
            "--minutes" => send_for = Duration::from_secs(60 * arguments.next()?.parse::<u64>().ok()?),
            "--endurance" => endurance = true,
            "--seed" => seed = arguments.next()?.parse().ok()?,
            _ => return None,
        }
    }
    Some(Options { send_for, seed, endurance })
}
