//! `explain`: shows the history of one user, organization or delivery (see [`rollbook_operator::explain`]), by its id or
//! another name (see [`rollbook_operator::lookup`]).

mod pending;
mod text;

use std::sync::Arc;

use anyhow::{anyhow, bail};
use rollbook_core::queue::QueueAdmin;
use rollbook_core::store::FullStore;
use rollbook_core::time::Clock;
use rollbook_operator::explain::{History, Ledger, Question, explain, held};
use rollbook_operator::lookup::{self, Lookup, Named};
use rollbook_operator::resource_of_id;

use super::on_all_cores;
use super::subjects::{self, NothingKnown, accepted};
use crate::cli::Explain;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::output::{harmless, print_as};
use crate::wire;

/// Shows the history of a subject or a delivery.
///
/// # Errors
/// The store or the queue cannot be read: the other part is shown. Nothing is known of the name, or it names several
/// subjects.
pub(crate) fn run(config: &Config, arguments: &Explain) -> anyhow::Result<()> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    on_all_cores(async {
        let store = wire::open_store(config, clock.clone())?;
        let queue = wire::open_queue(config, clock.clone()).map(|queue| queue.admin);
        let queue = queue.as_ref().map(|queue| &**queue).map_err(|error| format!("{error:#}"));
        let ledger = Ledger { is_on: config.settings.ledger, kept_for: config.settings.ledger_kept_for };
        let explainer = Explainer { store: &*store, queue, clock: &*clock, ledger, arguments };
        match explainer.answer(&arguments.id).await? {
            Answer::History(history) => {
                print_as(arguments.output, &*history, |history| text::history(history, clock.now()))?;
                check(&history)
            }
            Answer::Subjects(lookup) => {
                subjects::show(&lookup, arguments.output)?;
                Err(undecided(&lookup))
            }
        }
    })
}

/// Answer to a question.
enum Answer {
    /// The name stands for one subject or delivery.
    History(Box<History>),
    /// The name stands for several subjects, or is an address of none.
    Subjects(Lookup),
}

struct Explainer<'a> {
    store: &'a dyn FullStore,
    queue: Result<&'a dyn QueueAdmin, String>,
    clock: &'a dyn Clock,
    ledger: Ledger,
    arguments: &'a Explain,
}

impl Explainer<'_> {
    /// Explains an id, or the one subject that another name stands for. What looks like an id is read as one first, since
    /// the search for other names reads whole tables.
    async fn answer(&self, name: &str) -> anyhow::Result<Answer> {
        let is_address = lookup::is_address(name);
        let mut by_id = None;
        if !is_address && name.contains('_') {
            let history = self.history(name).await;
            let is_id = resource_of_id(name).is_some() || name.starts_with("msg_");
            if history.is_known || history.store.is_err() || is_id {
                return Ok(Answer::History(Box::new(history)));
            }
            by_id = Some(history);
        }
        let found = lookup::find(self.store, name, Some(lookup::SEARCH_FOR)).await;
        let found = if is_address { found? } else { found.unwrap_or_default() };
        let single = Some(found.matches.as_slice()).filter(|matches| matches.len() == 1);
        if let Some(subject) = found.best().or_else(|| single?.first()) {
            let mut history = self.history(&subject.id).await;
            history.named = Some(Named::of(&found, subject));
            return Ok(Answer::History(Box::new(history)));
        }
        if is_address || !found.matches.is_empty() {
            return Ok(Answer::Subjects(found));
        }
        let history = match by_id {
            Some(history) => history,
            None => self.history(name).await,
        };
        Ok(Answer::History(Box::new(history)))
    }

    async fn history(&self, id: &str) -> History {
        let Self { arguments, ledger, .. } = self;
        let question = Question {
            id,
            limit: arguments.limit as usize,
            scan: u64::from(arguments.scan),
            ledger: *ledger,
        };
        let mut history = explain(self.store, self.queue.clone(), self.clock, &question).await;
        if history.store.is_ok() {
            match held(self.store, history.subject_id()).await {
                Ok(held) => history.held = held,
                Err(why) => history.store = Err(why.to_string()),
            }
        }
        history
    }
}

/// Reports a name that stands for no subject, or for several.
fn undecided(found: &Lookup) -> anyhow::Error {
    if !found.matches.is_empty() {
        return anyhow!("{} subjects match; explain one of them by its id", found.matches.len());
    }
    if found.is_cut_short {
        return anyhow!("the search ended early, and nothing was found by then; explain an id");
    }
    let nothing = "nothing is known of this address: no user, invitation or waitlist entry has it. Messages in the queue are \
                   found by ids only";
    NothingKnown(nothing.to_owned()).into()
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
    let unknown =
        format!("{id} is not known here: no row, no ledger entry and no message in the queue has this id");
    let is_name = resource_of_id(&history.id).is_none() && history.subject.is_some();
    let takes = if is_name { format!(", slug or name. {}", accepted("explain")) } else { String::new() };
    Err(NothingKnown(format!("{unknown}{takes}")).into())
}

#[cfg(test)]
mod tests;
