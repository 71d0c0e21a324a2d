//! `erase`: removes a person's data (see [`rollbook_operator::erase`]): confirmation, progress, report.
//!
//! Constraints:
//!
//! * A name that several subjects have erases none of them.
//! * Nothing is written about an id that is unknown here, unless `--tombstone` asks for it: a mistyped id must leave no trace.

mod report;

use std::io::{self, BufRead, IsTerminal as _};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, bail};
use rollbook_core::catalog::Resource;
use rollbook_core::store::FullStore;
use rollbook_core::time::Clock;
use rollbook_operator::erase::{
    Backend, BackendKind, Erasure, Ports, Progress, RemainingCopy, remaining_copies,
};
use rollbook_operator::lookup::{self, ACCEPTED};

use super::on_all_cores;
use super::subjects::{self, NothingKnown};
use crate::cli::Erase;
use crate::clock::SystemClock;
use crate::config::{Config, Place, Problems};
use crate::output::{harmless, print_as, say};
use crate::progress::ProgressLine;
use crate::wire::{self, Component};

/// Erases.
///
/// # Errors
/// A part failed, some rows are refused, or the confirmation is missing. The text says what is done already.
pub(crate) fn run(config: &Config, arguments: &Erase) -> anyhow::Result<()> {
    check(config, arguments)?;
    on_all_cores(async {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let queue = wire::open_queue(config, clock.clone())?.admin;
        let store = wire::open_store(config, clock.clone())?;
        let line = Mutex::new(ProgressLine::new());
        let progress = |progress: Progress| {
            let mut line = line.lock().unwrap_or_else(PoisonError::into_inner);
            if line.is_due() {
                line.show(&progress.to_string());
            }
        };
        let end_line = || line.lock().unwrap_or_else(PoisonError::into_inner).end();
        let ports = Ports { store: &*store, queue: &*queue, clock: &*clock, progress: &progress };
        let (resource, id) = subject(&*store, arguments).await?;
        let erasure = Erasure::plan(ports, resource, &id, &arguments.addresses);
        let erasure = erasure.await.context("nothing was erased");
        end_line();
        let erasure = erasure?;
        if !arguments.tombstone && !erasure.is_known().await.context("nothing was erased")? {
            end_line();
            let plan = erasure.preview().await.context("nothing was erased")?;
            print_as(arguments.output, &plan, report::unknown)?;
            return Err(
                NothingKnown(format!("nothing is known of {}; nothing was erased", harmless(&id))).into()
            );
        }
        check_confirmation(arguments)?;
        if arguments.dry_run || !arguments.yes {
            let plan = erasure.preview().await.context("nothing was erased");
            end_line();
            let plan = plan?;
            if arguments.dry_run {
                return Ok(print_as(arguments.output, &plan, report::plan)?);
            }
            say(&report::plan(&plan));
            say("This can't be undone. Type yes to continue:");
            if !agreed(&mut io::stdin().lock()) {
                bail!("nothing was erased");
            }
        }
        let report = erasure.run().await;
        end_line();
        let mut report = report?;
        let rewritten = if arguments.vacuum { vacuum(config)? } else { Vec::new() };
        report.not_reached = remaining_copies(&harmless(&report.id), &backends(config, &rewritten));
        report.not_reached.extend(endpoints(config));
        print_as(arguments.output, &report, report::done)?;
        match report.left {
            Some(left) if !left.is_empty() => {
                bail!("the erasure is not complete: {}", harmless(&left.join("; ")))
            }
            _ => Ok(()),
        }
    })
}

/// Returns the endpoints that may have copies of rows: those of forwards that send rows.
fn endpoints(config: &Config) -> impl Iterator<Item = RemainingCopy> {
    config.forwards.iter().filter(|(_, forward)| forward.expand).map(|(name, forward)| RemainingCopy {
        place: forward.url.to_string(),
        what: format!("the endpoint of the forward {name} received rows, and keeps what it stored of them"),
        fix: None,
    })
}

/// Refuses invalid arguments before anything is opened.
fn check(config: &Config, arguments: &Erase) -> Result<(), Problems> {
    if arguments.id.starts_with("msg_") {
        let fix = "a delivery has personal data only in the queue: rollbook dead-letters discard removes a dead letter";
        return Err(Problems::one(format!("ID {:?}", arguments.id), "is the id of a delivery", fix));
    }
    let is_file = |part: &Component| matches!(part.place(config), Place::Sqlite(_));
    if arguments.vacuum && !Component::ALL.iter().any(is_file) {
        let wrong = "is for files of SQLite, and neither queue nor store is one";
        return Err(Problems::one("--vacuum", wrong, "omit it"));
    }
    Ok(())
}

/// Refuses to erase without a confirmation where nobody can be asked for one.
fn check_confirmation(arguments: &Erase) -> Result<(), Problems> {
    if arguments.dry_run || arguments.yes || io::stdin().is_terminal() {
        return Ok(());
    }
    let wrong = "is missing, and there is no terminal for the confirmation";
    Err(Problems::one("--yes", wrong, "read the plan of --dry-run first, then use --yes"))
}

/// Returns whether the next line confirms.
fn agreed(input: &mut impl BufRead) -> bool {
    let mut line = String::new();
    input.read_line(&mut line).is_ok() && line.trim() == "yes"
}

/// Returns the subject to erase: by its id, or the only one that another name stands for.
async fn subject(store: &dyn FullStore, arguments: &Erase) -> anyhow::Result<(&'static Resource, String)> {
    let (name, nothing) = (&arguments.id, "nothing was erased");
    if !lookup::is_address(name)
        && let Some(resource) = lookup::kind_of(store, name).await.context(nothing)?
    {
        return Ok((resource, name.clone()));
    }
    // Without a time limit: another subject with this name must not be missed.
    let found = lookup::find(store, name, None).await.context(nothing)?;
    if let Some(one) = found.only() {
        say(&format!("{} is meant (found by {})", harmless(&one.id), one.by.text()));
        return Ok((one.resource, one.id.clone()));
    }
    subjects::show(&found, arguments.output)?;
    if found.matches.is_empty() && !found.is_cut_short {
        let what = if lookup::is_address(name) { "this address".to_owned() } else { harmless(name) };
        let why = format!(
            "nothing is known of {what}; {nothing}. erase takes {ACCEPTED}. A person of whom only messages in the queue \
             are known is found by the id"
        );
        return Err(NothingKnown(why).into());
    }
    bail!(
        "the name does not say for certain which subject is meant; {nothing}. Fix: rollbook erase with the id of one"
    )
}

fn backends(config: &Config, rewritten: &[Component]) -> Vec<Backend> {
    let backend = |part: Component| Backend {
        place: wire::describe(config, part),
        kind: match (part, part.place(config)) {
            (_, Place::Sqlite(_)) => BackendKind::Sqlite { is_rewritten: rewritten.contains(&part) },
            (Component::Queue, Place::Server(_)) => BackendKind::Redis,
            (Component::Store, Place::Server(_)) => {
                BackendKind::Postgres { schema: config.settings.schema.clone() }
            }
        },
    };
    Component::ALL.into_iter().map(backend).collect()
}

/// Rewrites the files of SQLite. Returns the components that are files.
fn vacuum(config: &Config) -> anyhow::Result<Vec<Component>> {
    let mut rewritten = Vec::new();
    for part in Component::ALL {
        let written = wire::backend(config, part).rewrite();
        if written.map_err(|why| anyhow::anyhow!("the erasure is done, but {why}; run it again"))? {
            rewritten.push(part);
        }
    }
    Ok(rewritten)
}

#[cfg(test)]
mod tests;
