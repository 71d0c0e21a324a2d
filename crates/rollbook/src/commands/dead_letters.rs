//! `dead-letters`: sums, lists, shows, redrives and discards dead letters (see [`rollbook_operator::dead_letters`]).
//!
//! With SQLite, the command opens the queue while the serving process has it open: WAL allows both to read, and
//! writers take turns.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::anyhow;
use rollbook_core::delivery::MessageId;
use rollbook_core::queue::{DeadLetterFilter, QueueAdmin, QueueError};
use rollbook_core::time::Clock;
use rollbook_operator::dead_letters::{
    self, BulkLimits, BulkResult, Change, DeadLetterView, FOLLOWED_MAX, Follower, Summary,
};
use rollbook_operator::words::{many, thousands};

use super::on_all_cores;
use super::subjects::NothingKnown;
use crate::cli::{Bulk, DeadLetters, Filter, Output};
use crate::clock::SystemClock;
use crate::config::{Config, Problems};
use crate::output::{Table, harmless, harmless_lines, print, print_as, print_json, say};
use crate::progress::ProgressLine;
use crate::wire;

/// Characters of a failure's details in a table.
const DETAIL_MAX: usize = 80;
/// Interval at which new dead letters are looked for.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

/// Runs the command.
pub(crate) fn run(config: &Config, command: DeadLetters) -> anyhow::Result<()> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    on_all_cores(async {
        let queue = || Ok::<_, anyhow::Error>(wire::open_queue(config, clock.clone())?.admin);
        match command {
            DeadLetters::Summary { filter, output } => {
                let summary = dead_letters::summary(&*queue()?, &read(filter, &*clock)).await?;
                Ok(print_as(output, &summary, sums)?)
            }
            DeadLetters::List { filter, follow: true, limit, output } => {
                follow(&*queue()?, &read(filter, &*clock), limit as usize, output).await
            }
            DeadLetters::List { filter, follow: false, limit, output } => {
                list(&*queue()?, &read(filter, &*clock), limit as usize, output).await
            }
            DeadLetters::Show { id, body, output } => show(&*queue()?, &id, body, output).await,
            DeadLetters::Redrive(bulk) => {
                check(&bulk)?;
                change(&*queue()?, bulk, Change::Redrive, &*clock).await
            }
            DeadLetters::Discard(bulk) => {
                check(&bulk)?;
                change(&*queue()?, bulk, Change::Discard, &*clock).await
            }
        }
    })
}

fn read(filter: Filter, clock: &dyn Clock) -> DeadLetterFilter {
    DeadLetterFilter {
        id: filter.id.or(filter.id_flag).map(MessageId::new),
        event_type: filter.event_type,
        reason: filter.reason,
        since: filter.since.map(|since| since.moment(clock.now())),
    }
}

/// Refuses a bulk operation without a filter, unless `--all` is given.
fn check(bulk: &Bulk) -> Result<(), Problems> {
    let filter = &bulk.filter;
    let filtered = filter.id.is_some()
        || filter.id_flag.is_some()
        || filter.event_type.is_some()
        || filter.reason.is_some()
        || filter.since.is_some();
    match (filtered, bulk.all) {
        (false, false) => {
            let fix = "give an ID, --type, --reason or --since; or --all if you mean every one";
            Err(Problems::one("dead-letters", "no filter says which", fix))
        }
        (true, true) => Err(Problems::one("--all", "is given together with a filter", "keep one of the two")),
        _ => Ok(()),
    }
}

async fn list(
    queue: &dyn QueueAdmin,
    filter: &DeadLetterFilter,
    limit: usize,
    output: Output,
) -> anyhow::Result<()> {
    let listed = dead_letters::list(queue, filter, limit).await?;
    match output {
        Output::Json => print_json(&listed)?,
        Output::Text if listed.is_empty() => print("no dead letters match")?,
        Output::Text => {
            let sums = sums(&dead_letters::summary(queue, filter).await?);
            let table = Table::new(&["id", "type", "reason", "attempts", "dead since", "detail"]);
            let table = table.with(listed.iter().map(cells));
            let more = if listed.len() == limit { "\nthere may be older ones: raise --limit\n" } else { "" };
            print(&format!("{sums}\n{table}{more}"))?;
        }
    }
    Ok(())
}

/// Formats the sums, with the total first.
fn sums(summary: &Summary) -> String {
    let mut text = format!("{}\n", many(summary.total, "dead letter"));
    if summary.groups.is_empty() {
        return text;
    }
    let table =
        Table::new(&["number", "reason", "type", "newest"]).with(summary.groups.iter().map(|group| {
            let of_type = type_of(group.event_type.as_deref());
            [thousands(group.count), group.reason.to_string(), of_type, group.newest_at.to_string()]
        }));
    text.push_str(&table.to_string());
    if summary.others > 0 {
        // Writing to a String can't fail.
        let _ = writeln!(text, "{} of further types", thousands(summary.others));
    }
    text
}

fn type_of(event_type: Option<&str>) -> String {
    event_type.unwrap_or("(unknown)").to_owned()
}

fn cells(letter: &DeadLetterView) -> [String; 6] {
    let mut detail: String = letter.detail.chars().take(DETAIL_MAX).collect();
    if detail.len() < letter.detail.len() {
        detail.push('…');
    }
    [
        letter.id.to_string(),
        type_of(letter.event_type.as_deref()),
        letter.reason.to_string(),
        letter.attempts.to_string(),
        letter.parked_at.to_string(),
        detail,
    ]
}

/// Prints the last dead letters, and each new one as it comes. Ends with its reader or a signal.
async fn follow(
    queue: &dyn QueueAdmin,
    filter: &DeadLetterFilter,
    limit: usize,
    output: Output,
) -> anyhow::Result<()> {
    let show = |letter: &DeadLetterView| -> anyhow::Result<()> {
        let line = match output {
            Output::Json => serde_json::to_string(letter)?,
            Output::Text => harmless(&cells(letter).join("  ")),
        };
        Ok(print(&line)?)
    };
    let mut follower = Follower::default();
    let present = follower.turn(queue, filter).await?;
    present.iter().skip(present.len().saturating_sub(limit)).try_for_each(show)?;
    let mut is_failing = false;
    loop {
        tokio::time::sleep(FOLLOW_EVERY).await;
        match follower.turn(queue, filter).await {
            Ok(new) => {
                is_failing = false;
                new.iter().try_for_each(show)?;
                if new.len() == FOLLOWED_MAX {
                    say("older ones of these were left out: rollbook dead-letters summary");
                }
            }
            Err(QueueError::Unavailable(why)) => {
                if !std::mem::replace(&mut is_failing, true) {
                    say(&format!("the queue can't answer now, and is asked again: {}", harmless(&why)));
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}

async fn show(queue: &dyn QueueAdmin, id: &str, with_body: bool, output: Output) -> anyhow::Result<()> {
    let Some(mut letter) = dead_letters::show(queue, id, with_body).await? else {
        return Err(unknown(id, "rollbook dead-letters list shows those there are").into());
    };
    if output == Output::Json {
        return Ok(print_json(&letter)?);
    }
    let body = letter.body.take().map(|body| format!("\n{}", harmless_lines(&body))).unwrap_or_default();
    let mut table = Table::new(&[]);
    for (name, value) in serde_json::to_value(&letter)?.as_object().into_iter().flatten() {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        table.row([name.clone(), value]);
    }
    Ok(print(&format!("{}{body}", table.to_string().trim_start()))?)
}

async fn change(queue: &dyn QueueAdmin, bulk: Bulk, change: Change, clock: &dyn Clock) -> anyhow::Result<()> {
    let filter = read(bulk.filter, clock);
    let limits = BulkLimits {
        total: bulk.limit.map_or(usize::MAX, |limit| limit as usize),
        per_second: bulk.rate,
        dry_run: bulk.dry_run,
    };
    let line = Mutex::new(ProgressLine::new());
    let progress = |text: &dyn Fn() -> String| {
        let mut line = line.lock().unwrap_or_else(PoisonError::into_inner);
        if line.is_due() {
            line.show(&text());
        }
    };
    let mut result = dead_letters::change(queue, &filter, change, limits, &progress).await;
    let unknown = filter.id.as_ref().filter(|_| result.matching == 0 && result.error.is_none());
    line.into_inner().unwrap_or_else(PoisonError::into_inner).end();
    result.error = result.error.as_deref().map(harmless);
    match bulk.output {
        Output::Json => print_json(&result)?,
        Output::Text if result.error.is_some() || unknown.is_some() => {}
        Output::Text if bulk.dry_run => {
            print(&format!("{} would be {}", result.matching, change.done()))?;
        }
        Output::Text => print(&report(change, result.done()))?,
    }
    if let Some(id) = unknown {
        let fix = format!("nothing was {}. rollbook explain ID shows where a delivery is", change.done());
        return Err(self::unknown(id.as_str(), &fix).into());
    }
    result.error.as_ref().map_or(Ok(()), |error| Err(stopped(change, &result, error)))
}

/// Reports an id that no dead letter has.
fn unknown(id: &str, fix: &str) -> NothingKnown {
    NothingKnown(format!("there is no dead letter {}; {fix}", harmless(id)))
}

/// Reports a complete operation. The outcome of a redriven message is not known yet.
fn report(change: Change, done: usize) -> String {
    match change {
        Change::Redrive if done > 0 => {
            format!("{done} sent back to the queue; rollbook explain ID shows its outcome")
        }
        Change::Redrive => format!("{done} sent back to the queue"),
        Change::Discard => format!("{done} discarded"),
    }
}

/// Reports an operation that an error ended early, and how to continue.
fn stopped(change: Change, result: &BulkResult, error: &str) -> anyhow::Error {
    anyhow!(
        "{} of {} dead letters are {}, then: {error}. The others are unchanged. Fix: run the same command again; it \
         continues with the remaining ones",
        result.done(),
        result.matching,
        change.done(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_that_failed_says_how_far_it_got_and_how_to_continue() {
        for (change, redriven, discarded) in
            [(Change::Redrive, Some(500), None), (Change::Discard, None, Some(500))]
        {
            let result = BulkResult { matching: 1_200, redriven, discarded, dry_run: false, error: None };
            let why = stopped(change, &result, "no rights").to_string();
            assert!(why.starts_with(&format!("500 of 1200 dead letters are {}", change.done())), "{why}");
            assert!(why.contains("no rights") && why.contains("run the same command again"), "{why}");
        }
    }
}
