//! Rollbook keeps a team's own SQL database in sync with Clerk.
//!
//! Binary: command line, configuration, wiring, signals. The rules are in `rollbook-core`.
//! Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 nothing is known of the id or name.

mod application;
mod arguments;
mod audit;
mod cli;
mod clock;
mod commands;
mod config;
mod faces;
mod file_modes;
mod flags;
mod forwards;
mod installation;
mod links;
mod live_secrets;
mod logging;
mod nearest;
mod ops_port;
mod output;
mod processes;
mod progress;
mod receiver_calls;
mod reconciliation;
mod reload;
mod secret_use;
mod secrets;
mod service;
mod signals;
mod stage;
mod startup;
mod startup_ports;
mod store_check;
mod supervisor;
mod systemd;
mod url_notes;
mod wire;
mod worker_calls;

use std::io;
use std::process::ExitCode;

use clap::Parser as _;

/// Allocator. Parsing an event makes a hundred small allocations; this allocator halves the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const FAILED: u8 = 1;
const MISUSED: u8 = 2;
const NOTHING_KNOWN: u8 = 3;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misused(&error),
    };
    let Err(error) = commands::run(cli) else {
        return ExitCode::SUCCESS;
    };
    if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
        // The reader of our output has closed it.
        return ExitCode::SUCCESS;
    }
    if let Some(problems) = error.downcast_ref::<config::Problems>() {
        // A command that has printed its problems returns none.
        output::say(format!("rollbook: a setting or an argument is wrong\n{problems}").trim_end());
        return ExitCode::from(MISUSED);
    }
    output::say(&format!("rollbook: {error:#}"));
    let is_unknown = error.downcast_ref::<commands::NothingKnown>().is_some();
    ExitCode::from(if is_unknown { NOTHING_KNOWN } else { FAILED })
}

/// Exits after wrong usage, or after printing the help.
fn misused(error: &clap::Error) -> ExitCode {
    match arguments::without_secrets(error, std::env::args_os()) {
        Some(text) => output::say(text.trim_end()),
        None => error.exit(),
    }
    ExitCode::from(MISUSED)
}
