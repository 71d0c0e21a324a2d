//! `changes`: lists the change feed, or follows it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use rollbook_core::catalog::find_resource;
use rollbook_core::store::{
    ChangeKind, ChangesError, ChangesPage, ChangesQuery, FeedState, FullStore, LINES_MAX, Position,
    StoreError,
};
use rollbook_core::time::Clock;
use rollbook_operator::changes::{ChangeView, generation_name};
use rollbook_operator::forwards::{ForwardError, OfDeadLetters};
use serde_json::json;

use super::subjects::NothingKnown;
use super::{forwards, on_all_cores};
use crate::cli::{ChangesCommand, Output, Which};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::output::{Table, harmless, print, print_as, print_json, say};
use crate::wire;

/// Number of lines with which `tail` begins.
const TAIL: Position = 10;
/// Maximum time for which one call waits for a line.
const WAIT: Duration = Duration::from_secs(30);
/// Pause before a store that can't answer is asked again.
const AGAIN: Duration = Duration::from_secs(2);

/// Runs the command.
///
/// # Errors
/// The store can't be read, or does not have the lines after the position any more.
pub(crate) fn run(config: &Config, command: ChangesCommand) -> anyhow::Result<()> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let ended = on_all_cores(async {
        let store = wire::open_store(config, clock.clone())?;
        match command {
            ChangesCommand::List { which, limit } => list(&*store, &which, limit, &*clock).await,
            ChangesCommand::Tail { which } => tail(&*store, &which, &*clock).await,
            ChangesCommand::Status { forward, output } => {
                forwards::status(config, &*store, &*clock, forward.as_deref(), output).await
            }
            ChangesCommand::Failed(arguments) => forwards::failed(&*store, arguments).await,
            ChangesCommand::Redrive(arguments) => {
                forwards::change(&*store, &*clock, arguments, OfDeadLetters::Redrive).await
            }
            ChangesCommand::Discard(arguments) => {
                forwards::change(&*store, &*clock, arguments, OfDeadLetters::Discard).await
            }
            ChangesCommand::Replay(arguments) => forwards::replay(&*store, arguments).await,
            ChangesCommand::Resume(arguments) => forwards::resume(&*store, &arguments).await,
            ChangesCommand::Renew { output } => renew(&*store, output).await,
        }
    });
    ended.map_err(unknown_forward)
}

/// Gives the error of an unknown forward its exit code.
fn unknown_forward(error: anyhow::Error) -> anyhow::Error {
    match error.downcast::<ForwardError>() {
        Ok(unknown @ ForwardError::Unknown { .. }) => NothingKnown(harmless(&unknown.to_string())).into(),
        Ok(other) => other.into(),
        Err(error) => error,
    }
}

/// Gives the feed a new generation.
async fn renew(store: &dyn FullStore, output: Output) -> anyhow::Result<()> {
    let feed = generation_name(store.renew_feed().await?);
    let printed = print_as(output, &json!({ "feed": feed }), |_| {
        format!(
            "the feed has a new generation: {feed}. Forwards stop within seconds; start each when its endpoint has forgotten \
             the ids of later changes: rollbook changes resume"
        )
    });
    Ok(printed?)
}

/// Returns the query of the arguments. Without a beginning, it begins this many lines before the end.
async fn query(
    store: &dyn FullStore,
    which: &Which,
    lines: Position,
    clock: &dyn Clock,
) -> Result<ChangesQuery, StoreError> {
    let after = match (which.after, which.since) {
        (Some(after), _) => after,
        (None, Some(since)) => store.position_before(since.moment(clock.now())).await?,
        (None, None) => {
            let FeedState { last, removed_through, .. } = store.feed().await?;
            last.saturating_sub(lines).max(removed_through)
        }
    };
    let resources = which.resource.iter().filter_map(|name| find_resource(name)).collect();
    let kinds = which.kind.iter().filter_map(|name| ChangeKind::parse(name)).collect();
    Ok(ChangesQuery { after, resources, kinds, limit: LINES_MAX })
}

async fn list(store: &dyn FullStore, which: &Which, limit: u32, clock: &dyn Clock) -> anyhow::Result<()> {
    let limit = limit as usize;
    let mut query = query(store, which, limit as Position, clock).await?;
    let mut found: Vec<ChangeView> = Vec::new();
    let end = loop {
        query.limit = limit - found.len();
        let page = store.changes(&query).await?;
        query.after = page.through;
        let is_end = page.through >= page.last;
        let last = page.last;
        found.extend(page.lines.into_iter().map(ChangeView::from));
        if is_end || found.len() >= limit {
            break last;
        }
    };
    match which.output {
        Output::Json => print_json(&json!({ "changes": found, "through": query.after, "last": end }))?,
        Output::Text => {
            let headings = ["position", "at", "resource", "id", "kind", "origin", "cause", "changed"];
            print(&Table::new(&headings).with(found.iter().map(cells)).to_string())?;
            if query.after < end {
                say(&format!("more after position {}: --after {0}", query.after));
            }
        }
    }
    Ok(())
}

async fn tail(store: &dyn FullStore, which: &Which, clock: &dyn Clock) -> anyhow::Result<()> {
    let mut query = query(store, which, TAIL, clock).await?;
    let mut failing = false;
    loop {
        match turn(store, &query).await {
            Ok(page) => {
                failing = false;
                query.after = page.through;
                for line in page.lines {
                    let view = ChangeView::from(line);
                    print(&match which.output {
                        Output::Json => serde_json::to_string(&view)?,
                        Output::Text => harmless(&cells(&view).join("  ")),
                    })?;
                }
            }
            Err(ChangesError::Store(StoreError::Unavailable(why))) => {
                if !std::mem::replace(&mut failing, true) {
                    say(&format!("the store can't answer now, and is asked again: {}", harmless(&why)));
                }
                tokio::time::sleep(AGAIN).await;
            }
            Err(error) => bail!(error),
        }
    }
}

/// Waits for lines, and reads a page.
async fn turn(store: &dyn FullStore, query: &ChangesQuery) -> Result<ChangesPage, ChangesError> {
    let page = store.changes(query).await?;
    if page.through < page.last || !page.lines.is_empty() {
        return Ok(page);
    }
    store.wait_for_change(page.through, WAIT).await?;
    store.changes(&ChangesQuery { after: page.through, ..query.clone() }).await
}

fn cells(line: &ChangeView) -> [String; 8] {
    [
        line.position.to_string(),
        line.at.to_string(),
        line.resource.clone(),
        line.subject_id.clone(),
        line.kind.to_string(),
        line.origin.to_string(),
        line.cause.clone().unwrap_or_else(|| "-".to_owned()),
        if line.changed.is_empty() { "-".to_owned() } else { line.changed.join(",") },
    ]
}
