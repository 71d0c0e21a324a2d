//! `changes status`, `failed`, `redrive`, `discard`, `replay`, `resume`: the forwards of the change feed.

use anyhow::bail;
use rollbook_core::store::FullStore;
use rollbook_core::time::Clock;
use rollbook_operator::forwards::{self, FailedChange, ForwardView, OfDeadLetters};
use rollbook_operator::words::thousands;
use serde_json::json;

use crate::cli::{Failed, FailedOf, OneForward, Output, Replay};
use crate::config::Config;
use crate::forwards::names;
use crate::output::{Table, harmless, print, print_json};

/// Prints the state of each forward. Exit code 1 if one stopped.
pub(super) async fn status(config: &Config, store: &dyn FullStore, output: Output) -> anyhow::Result<()> {
    let all = forwards::status(store, store, &names(config)).await?;
    match output {
        Output::Json => print_json(&all)?,
        Output::Text if all.is_empty() => {
            print("there is no forward; a section [forward.NAME] of the configuration file makes one")?;
        }
        Output::Text => {
            let mut table = Table::new(&[
                "forward",
                "state",
                "position",
                "of",
                "blocked",
                "waiting",
                "dead letters",
                "saved at",
                "remark",
            ]);
            for view in &all {
                table.row(cells(view));
            }
            print(&table.to_string())?;
        }
    }
    match all.iter().find(|view| view.stop_reason.is_some() && view.is_configured) {
        Some(view) => bail!("the forward {} stopped; start it again: rollbook changes resume", view.forward),
        None => Ok(()),
    }
}

fn cells(view: &ForwardView) -> [String; 9] {
    let remark = match &view.stop_reason {
        Some(reason) => harmless(reason),
        None if !view.is_configured => "not in this configuration".to_owned(),
        None => "-".to_owned(),
    };
    [
        view.forward.clone(),
        view.state.as_str().to_owned(),
        view.position.to_string(),
        view.last.to_string(),
        view.blocked_subjects.to_string(),
        view.waiting_changes.to_string(),
        view.dead_letters.to_string(),
        view.saved_at.map_or_else(|| "-".to_owned(), |at| at.to_string()),
        remark,
    ]
}

/// Lists dead letters.
pub(super) async fn failed(store: &dyn FullStore, arguments: Failed) -> anyhow::Result<()> {
    let limit = arguments.limit as usize;
    let listed = forwards::failed(store, arguments.forward.as_deref(), limit).await?;
    match arguments.output {
        Output::Json => print_json(&listed)?,
        Output::Text if listed.is_empty() => print("there are no dead letters")?,
        Output::Text => {
            let mut table = Table::new(&[
                "forward",
                "position",
                "at",
                "resource",
                "id",
                "kind",
                "tries",
                "failed at",
                "reason",
            ]);
            for letter in &listed {
                table.row(failed_cells(letter));
            }
            let more = if listed.len() >= limit { "\nthere may be more: raise --limit" } else { "" };
            print(&format!("{table}{more}"))?;
        }
    }
    Ok(())
}

fn failed_cells(letter: &FailedChange) -> [String; 9] {
    let change = &letter.change;
    [
        letter.forward.clone(),
        change.position.to_string(),
        change.at.to_string(),
        change.resource.clone(),
        change.subject_id.clone(),
        change.kind.to_string(),
        letter.tries.to_string(),
        letter.failed_at.map_or_else(|| "-".to_owned(), |at| at.to_string()),
        letter.reason.as_deref().map_or_else(|| "-".to_owned(), harmless),
    ]
}

/// Redrives or discards dead letters.
pub(super) async fn change(
    store: &dyn FullStore,
    clock: &dyn Clock,
    arguments: FailedOf,
    what: OfDeadLetters,
) -> anyhow::Result<()> {
    let OneForward { forward, output } = arguments.of;
    let positions = (!arguments.all).then_some(arguments.position);
    let changed = forwards::change_dead_letters(store, clock, &forward, positions.as_deref(), what).await?;
    let (key, done) = match what {
        OfDeadLetters::Redrive => ("redriven", "will be sent again"),
        OfDeadLetters::Discard => ("discarded", "discarded"),
    };
    match output {
        Output::Json => print_json(&json!({ "forward": forward, key: changed }))?,
        Output::Text => print(&format!("{} dead letters {done}", thousands(changed)))?,
    }
    if let Some(missing) =
        positions.map(|positions| positions.len() as u64 - changed).filter(|left| *left > 0)
    {
        bail!(
            "{missing} of the positions are not dead letters of this forward: rollbook changes failed lists them"
        );
    }
    Ok(())
}

/// Sends changes again from a position on.
pub(super) async fn replay(store: &dyn FullStore, arguments: Replay) -> anyhow::Result<()> {
    let (Replay { of: OneForward { forward, output }, from }, after) = (&arguments, arguments.from - 1);
    let before = forwards::replay(store, store, forward, *from).await?;
    match output {
        Output::Json => print_json(&json!({ "forward": forward, "before": before, "position": after }))?,
        Output::Text => {
            print(&format!("the forward was at position {before}, and sends every change from {from} on"))?;
        }
    }
    Ok(())
}

/// Starts a forward again.
pub(super) async fn resume(store: &dyn FullStore, arguments: &OneForward) -> anyhow::Result<()> {
    let OneForward { forward, output } = arguments;
    let (before, position) = forwards::resume(store, store, forward).await?;
    match output {
        Output::Json => print_json(&json!({ "forward": forward, "before": before, "position": position }))?,
        Output::Text if before < position => {
            print(&format!(
                "the forward goes on after position {position}: the changes {} to {position} were removed and are not sent",
                before + 1
            ))?;
        }
        Output::Text => print(&format!("the forward goes on after position {position}"))?,
    }
    Ok(())
}
