//! `changes status`, `failed`, `redrive`, `discard`, `replay`, `resume`: the forwards of the change feed.

use anyhow::bail;
use rollbook_core::store::{ForwardState, FullStore};
use rollbook_core::time::{Clock, Timestamp};
use rollbook_operator::forwards::{self, ForwardView, OfDeadLetters, RecordedChange, Resumed};
use rollbook_operator::words::many;
use serde_json::json;

use crate::cli::{Failed, FailedOf, OneForward, Output, Replay};
use crate::config::{Config, Problems};
use crate::forwards::names;
use crate::output::{Table, harmless, print, print_as, print_json};

/// Prints the state of each forward, or of one. Exit code 1 if one stopped.
pub(super) async fn status(
    config: &Config,
    store: &dyn FullStore,
    clock: &dyn Clock,
    name: Option<&str>,
    output: Output,
) -> anyhow::Result<()> {
    let mut all = forwards::status(store, store, &names(config), clock.now()).await?;
    if let Some(name) = name {
        if all.iter().all(|view| view.forward != name) {
            forwards::find(store, name).await?;
        }
        all.retain(|view| view.forward == name);
    }
    match output {
        Output::Json => print_json(&all)?,
        Output::Text if all.is_empty() => {
            print("there is no forward; a section [forward.NAME] of the configuration file makes one")?;
        }
        Output::Text => {
            let table = Table::new(&[
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
            print(&table.with(all.iter().map(cells)).to_string())?;
        }
    }
    match all.iter().find(|view| view.stop_reason.is_some() && view.is_configured) {
        Some(view) => bail!("the forward {} stopped; start it again: rollbook changes resume", view.forward),
        None => Ok(()),
    }
}

fn cells(view: &ForwardView) -> [String; 9] {
    [
        view.forward.clone(),
        view.state.as_str().to_owned(),
        view.position.to_string(),
        view.last.to_string(),
        view.blocked_subjects.to_string(),
        view.waiting_changes.to_string(),
        view.dead_letters.to_string(),
        view.saved_at.map_or_else(|| "-".to_owned(), |at| at.to_string()),
        remark(view),
    ]
}

/// Returns the facts that need attention, or explain why changes wait.
fn remark(view: &ForwardView) -> String {
    let failing = view.last_error.as_deref().map(|reason| {
        let next = view.next_try_at.map_or_else(String::new, |at| format!(", the next at {at}"));
        format!("{} (after {}{next})", harmless(reason), many(view.tries.into(), "request"))
    });
    let remarks = [
        view.stop_reason.as_deref().map(harmless),
        (!view.is_configured).then(|| "not in this configuration".to_owned()),
        view.full.as_ref().map(|full| format!("reads no more: {full}")),
        view.paused_until.map(|until| format!("the endpoint asked for no requests until {until}")),
        failing,
    ];
    let remarks: Vec<String> = remarks.into_iter().flatten().collect();
    if remarks.is_empty() { "-".to_owned() } else { remarks.join("; ") }
}

/// Lists dead letters, or changes that wait.
pub(super) async fn failed(store: &dyn FullStore, arguments: Failed) -> anyhow::Result<()> {
    let limit = arguments.limit as usize;
    let state = if arguments.waiting { ForwardState::Waiting } else { ForwardState::Failed };
    let name = arguments.forward.as_deref();
    let listed = forwards::recorded(store, name, state, limit).await?;
    if let Output::Json = arguments.output {
        return Ok(print_json(&listed)?);
    }
    let what = if arguments.waiting { "changes that wait" } else { "dead letters" };
    let mut text = format!("there are no {what}");
    if !listed.is_empty() {
        let table = Table::new(&[
            "forward",
            "position",
            "at",
            "resource",
            "id",
            "kind",
            "requests",
            "failed at",
            "next at",
            "reason",
        ]);
        text = table.with(listed.iter().map(recorded_cells)).to_string();
        if listed.len() >= limit {
            text += "\nthere may be more: raise --limit";
        }
    }
    let all = store.forwards().await?;
    let waiting: u64 =
        all.iter().filter(|of| name.is_none_or(|name| name == of.name)).map(|of| of.waiting).sum();
    if waiting > 0 && !arguments.waiting {
        let wait = if waiting == 1 { "waits" } else { "wait" };
        text = format!("{text}\n{} {wait} for another attempt: --waiting", many(waiting, "change"));
    }
    Ok(print(&text)?)
}

fn recorded_cells(recorded: &RecordedChange) -> [String; 10] {
    let change = &recorded.change;
    let time = |at: Option<Timestamp>| at.map_or_else(|| "-".to_owned(), |at| at.to_string());
    [
        recorded.forward.clone(),
        change.position.to_string(),
        change.at.to_string(),
        change.resource.clone(),
        change.subject_id.clone(),
        change.kind.to_string(),
        recorded.tries.to_string(),
        time(recorded.failed_at),
        time(recorded.next_try_at),
        recorded.reason.as_deref().map_or_else(|| "-".to_owned(), harmless),
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
    if !arguments.all && arguments.position.is_empty() {
        let fix = format!("give --position POSITION, or --all; rollbook changes failed {forward} lists them");
        return Err(Problems::one("--position", "is not given: which dead letters?", &fix).into());
    }
    let positions = (!arguments.all).then_some(arguments.position);
    let changed = forwards::change_dead_letters(store, clock, &forward, positions.as_deref(), what).await?;
    let (key, done) = match what {
        OfDeadLetters::Redrive => ("redriven", "will be sent again"),
        OfDeadLetters::Discard => ("discarded", "discarded"),
    };
    print_as(output, &json!({ "forward": forward, key: changed }), |_| {
        format!("{} {done}", many(changed, "dead letter"))
    })?;
    if let Some(missing) =
        positions.map(|positions| positions.len() as u64 - changed).filter(|left| *left > 0)
    {
        bail!(
            "{} without a dead letter of this forward: rollbook changes failed lists them",
            many(missing, "position")
        );
    }
    Ok(())
}

/// Sends changes again from a position on.
pub(super) async fn replay(store: &dyn FullStore, arguments: Replay) -> anyhow::Result<()> {
    let Replay { of: OneForward { forward, output }, after } = arguments;
    let before = forwards::replay(store, store, &forward, after).await?;
    let replayed = json!({ "forward": forward, "before": before, "position": after });
    Ok(print_as(output, &replayed, |_| {
        format!("the forward was at position {before}, and sends every change after {after}")
    })?)
}

/// Starts a forward again.
pub(super) async fn resume(store: &dyn FullStore, arguments: &OneForward) -> anyhow::Result<()> {
    let OneForward { forward, output } = arguments;
    let Resumed { before, position, is_other_feed } = forwards::resume(store, store, forward).await?;
    if let Output::Json = output {
        let resumed = json!({
            "forward": forward, "before": before, "position": position, "is_other_feed": is_other_feed,
        });
        return Ok(print_json(&resumed)?);
    }
    let mut text = format!("the forward goes on after position {position}");
    if before < position {
        text = format!("{text}: the changes {} to {position} were removed and are not sent", before + 1);
    }
    if is_other_feed {
        text = format!(
            "{text}\nthe feed is another one than before: its changes up to {position} count as sent. To send some of them: \
             rollbook changes replay {forward} --after POSITION"
        );
    }
    Ok(print(&text)?)
}
