//! `explain`: shows the history of one user, organization or delivery (see [`rollbook_operator::explain`]).

mod pending;
mod text;

use std::sync::Arc;

use anyhow::bail;
use rollbook_core::time::Clock;
use rollbook_operator::explain::{History, Ledger, Question, explain, held};

use super::on_all_cores;
use crate::cli::{Explain, Output};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::output::{harmless, print, print_json};
use crate::wire;

/// Shows the history of an id.
///
/// # Errors
/// The store or the queue cannot be read: the other part is shown. Or nothing is known of the id.
pub(crate) fn run(config: &Config, arguments: &Explain) -> anyhow::Result<()> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    on_all_cores(async {
        let store = wire::open_store(config, clock.clone())?;
        let queue = wire::open_queue(config, clock.clone()).map(|queue| queue.admin);
        let question = Question {
            id: &arguments.id,
            limit: arguments.limit as usize,
            scan: u64::from(arguments.scan),
            ledger: Ledger { is_on: config.settings.ledger, kept_for: config.settings.ledger_kept_for },
        };
        let queue = queue.as_ref().map(|queue| &**queue).map_err(|error| format!("{error:#}"));
        let mut history = explain(&*store, queue, &*clock, &question).await;
        if history.store.is_ok() {
            match held(&*store, history.subject_id()).await {
                Ok(held) => history.held = held,
                Err(why) => history.store = Err(why.to_string()),
            }
        }
        match arguments.output {
            Output::Text => print(&text::history(&history, clock.now()))?,
            Output::Json => print_json(&history)?,
        }
        check(&history)
    })
}

/// Fails if a part of the history is missing or the id is unknown.
fn check(history: &History) -> anyhow::Result<()> {
    let queued = match (&history.store, &history.queue) {
        (Err(store), Err(queue)) => bail!("neither the store nor the queue could be read: {store}; {queue}"),
        (Err(why), Ok(_)) => bail!("the store could not be read, only the queue is shown: {why}"),
        (Ok(()), Err(why)) => bail!("the queue could not be read, only the store is shown: {why}"),
        (Ok(()), Ok(queued)) => queued,
    };
    if history.is_known {
        return Ok(());
    }
    let id = harmless(&history.id);
    if queued.is_cut_short {
        bail!("{id} is not known here as far as the queue was read; raise --scan to read more of it");
    }
    bail!("{id} is not known here: no row, no ledger entry and no message in the queue has this id");
}

#[cfg(test)]
mod tests;
