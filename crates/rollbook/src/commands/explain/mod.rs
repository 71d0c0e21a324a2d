//! `explain`: the story of one user, organization or delivery.
//!
//! Constraints:
//!
//! * Whoever reads it knows nothing of the code: each line is a sentence, and true. What can't be known (the
//!   ledger was pruned, the queue was not looked through to its end) is said.
//! * No body, no name, no address: ids, types, times, states and roles.
//! * It only reads, and looks at a bounded part of the queue.

mod cascades;
mod json;
mod queue;
mod reason;
mod row;
mod story;
mod text;
mod why;

use std::sync::Arc;

use anyhow::bail;
use rollbook_core::time::Clock;

use self::story::{Ask, Ledger};
use super::on_all_cores;
use crate::cli::{Explain, Output};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::output::{print, print_json};
use crate::wire;

/// Tells the story.
///
/// # Errors
/// The store can't be asked; or the queue, and then the rest is told all the same.
pub(crate) fn run(config: &Config, arguments: &Explain) -> anyhow::Result<()> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    on_all_cores(async {
        let store = wire::open_store(config, clock.clone())?;
        let queue = wire::open_queue(config, clock.clone()).map(|queue| queue.admin);
        let ledger = Ledger { is_on: config.settings.ledger, kept_for: config.settings.ledger_kept_for };
        let ask = Ask {
            id: &arguments.id,
            limit: arguments.limit as usize,
            scan: u64::from(arguments.scan),
            ledger,
            now: clock.now(),
        };
        let gathered = story::gather(&*store, queue, &ask).await?;
        match arguments.output {
            Output::Text => print(&text::tell(&gathered))?,
            Output::Json => print_json(&json::tell(&gathered))?,
        }
        match gathered.queue {
            Ok(_) => Ok(()),
            Err(why) => bail!("the queue's part of the story is missing: {why}"),
        }
    })
}

#[cfg(test)]
mod tests;
