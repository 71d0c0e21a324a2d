//! `dead-letters`: what was parked, and what becomes of it.
//!
//! On SQLite it opens the queue beside the process that serves it: WAL lets both read, and writers
//! take turns.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{anyhow, bail};
use rollbook_core::delivery::MessageId;
use rollbook_core::queue::{
    BulkStep, DeadLetter, DeadLetterFilter, DeadLetterPosition, QueueAdmin, QueueError,
};
use rollbook_core::time::Clock;
use serde_json::{Value, json};

use super::{DEAD_LETTERS_PAGE, on_all_cores};
use crate::cli::{Bulk, DeadLetters, Filter, Output, Since};
use crate::clock::SystemClock;
use crate::config::{Config, Problems};
use crate::output::{Table, harmless, harmless_lines, print, print_json, thousands};
use crate::progress::ProgressLine;
use crate::wire;

/// Dead letters in one step, which is one transaction: deliveries wait for no longer than that.
const STEP: usize = 500;
/// Dead letters in one step of counting them, which reads no bodies.
const COUNT_STEP: usize = 5_000;
/// The pause between two steps, which leaves the queue to deliveries and workers.
const PAUSE: Duration = Duration::from_millis(5);
/// How often a step is tried while the queue is busy or unreachable, and how much longer each wait is.
const TRIES_MAX: u32 = 8;
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(250);

/// Does what is asked.
pub(crate) fn run(config: &Config, command: DeadLetters) -> anyhow::Result<()> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    on_all_cores(async {
        let queue = || Ok::<_, anyhow::Error>(wire::open_queue(config, clock.clone())?.admin);
        match command {
            DeadLetters::List { filter, limit, output } => {
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
        since: filter.since.map(|since| match since {
            Since::Moment(moment) => moment,
            Since::Ago(span) => clock.now().minus(span),
        }),
    }
}

/// Nobody discards everything by leaving a filter out.
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
    let mut table = Table::new(&["id", "type", "reason", "attempts", "parked at"]);
    let mut listed = Vec::new();
    let mut count = 0;
    each_page(queue, filter, limit, |page| {
        count += page.len();
        for letter in page {
            match output {
                Output::Text => table.row(cells(letter)),
                Output::Json => listed.push(metadata(letter)),
            }
        }
    })
    .await?;
    match output {
        Output::Json => print_json(&Value::Array(listed))?,
        Output::Text if count == 0 => print("no dead letters match")?,
        Output::Text => {
            let more = if count == limit { "\nthere may be more: raise --limit\n" } else { "" };
            print(&format!("{table}{more}"))?;
        }
    }
    Ok(())
}

/// Hands on at most `limit` dead letters, page by page.
async fn each_page(
    queue: &dyn QueueAdmin,
    filter: &DeadLetterFilter,
    limit: usize,
    mut each: impl FnMut(&[DeadLetter]),
) -> Result<(), QueueError> {
    let mut after = None;
    let mut left = limit;
    while left > 0 {
        let asked = left.min(DEAD_LETTERS_PAGE);
        let page = queue.dead_letters(filter, after, asked).await?;
        // A page may be short of what was asked for: only an empty one is the end.
        let Some(last) = page.last() else { break };
        after = Some(last.position);
        each(&page);
        left -= page.len().min(left);
    }
    Ok(())
}

fn cells(letter: &DeadLetter) -> [String; 5] {
    [
        letter.id.to_string(),
        letter.failure.event_type.clone().unwrap_or_else(|| "(unknown)".to_owned()),
        letter.failure.reason.to_string(),
        letter.attempts.to_string(),
        letter.parked_at.to_string(),
    ]
}

fn metadata(letter: &DeadLetter) -> Value {
    let mut about = json!({
        "id": letter.id.as_str(),
        "type": letter.failure.event_type,
        "reason": letter.failure.reason.as_str(),
        "detail": letter.failure.detail,
        "attempts": letter.attempts,
        "received_at": letter.received_at.to_string(),
        "parked_at": letter.parked_at.to_string(),
        "body_bytes": letter.body.len(),
    });
    if let Some(traceparent) = letter.traceparent {
        about["traceparent"] = traceparent.to_string().into();
    }
    about
}

async fn show(queue: &dyn QueueAdmin, id: &str, with_body: bool, output: Output) -> anyhow::Result<()> {
    let filter = DeadLetterFilter { id: Some(MessageId::new(id)), ..DeadLetterFilter::default() };
    let Some(letter) = queue.dead_letters(&filter, None, 1).await?.pop() else {
        bail!("there is no dead letter {}; rollbook dead-letters list shows those there are", harmless(id));
    };
    let body = String::from_utf8_lossy(&letter.body);
    let mut about = metadata(&letter);
    if output == Output::Json {
        if with_body {
            about["body"] = body.into();
        }
        return Ok(print_json(&about)?);
    }
    let mut table = Table::new(&[]);
    for (name, value) in about.as_object().into_iter().flatten() {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        table.row([name.clone(), value]);
    }
    let body = if with_body { format!("\n{}", harmless_lines(&body)) } else { String::new() };
    Ok(print(&format!("{}{body}", table.to_string().trim_start()))?)
}

/// What is done to dead letters.
#[derive(Clone, Copy)]
enum Change {
    Redrive,
    Discard,
}

impl Change {
    const fn done(self) -> &'static str {
        match self {
            Self::Redrive => "redriven",
            Self::Discard => "discarded",
        }
    }

    /// What was done, for people. Whether a redriven message is then applied is known later.
    fn report(self, done: usize) -> String {
        match self {
            Self::Redrive if done > 0 => {
                format!("{done} sent back to the queue; rollbook explain ID shows its outcome")
            }
            Self::Redrive => format!("{done} sent back to the queue"),
            Self::Discard => format!("{done} discarded"),
        }
    }

    async fn step(
        self,
        queue: &dyn QueueAdmin,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterPosition>,
        limit: usize,
    ) -> Result<BulkStep, QueueError> {
        match self {
            Self::Redrive => queue.redrive(filter, after, limit).await,
            Self::Discard => queue.discard(filter, after, limit).await,
        }
    }
}

async fn change(queue: &dyn QueueAdmin, bulk: Bulk, change: Change, clock: &dyn Clock) -> anyhow::Result<()> {
    let limit = bulk.limit.map_or(usize::MAX, |limit| limit as usize);
    let filter = read(bulk.filter, clock);
    let mut steps = InSteps::new(queue, &filter, change);
    // Counted first: a redriven message that dies again must not be redriven for ever.
    let mut outcome = steps.count(limit).await;
    if outcome.is_ok() && !bulk.dry_run {
        outcome = steps.run(bulk.rate).await;
    }
    steps.line.end();
    let (matching, done) = (steps.matching, steps.done);
    match bulk.output {
        Output::Json => print_json(&steps.json(bulk.dry_run, outcome.as_ref().err()))?,
        Output::Text if outcome.is_err() => {}
        Output::Text if bulk.dry_run => print(&format!("{matching} would be {}", change.done()))?,
        Output::Text => print(&change.report(done))?,
    }
    outcome.map_err(|error| steps.stopped(&error))
}

/// A bulk operation under way.
struct InSteps<'a> {
    queue: &'a dyn QueueAdmin,
    filter: &'a DeadLetterFilter,
    change: Change,
    /// Dead letters that match; while they are counted, so far.
    matching: usize,
    done: usize,
    line: ProgressLine,
}

impl<'a> InSteps<'a> {
    fn new(queue: &'a dyn QueueAdmin, filter: &'a DeadLetterFilter, change: Change) -> Self {
        Self { queue, filter, change, matching: 0, done: 0, line: ProgressLine::new() }
    }

    /// Counts those that match, at most `limit`.
    async fn count(&mut self, limit: usize) -> Result<(), QueueError> {
        let mut after = None;
        loop {
            let (queue, filter) = (self.queue, self.filter);
            let step = patiently(|| queue.count_dead_letters(filter, after, COUNT_STEP)).await?;
            self.matching = limit.min(self.matching + step.changed);
            after = step.next;
            if after.is_none() || self.matching == limit {
                return Ok(());
            }
            if self.line.is_due() {
                self.line.show(&format!("{} dead letters match so far", thousands(self.matching as u64)));
            }
        }
    }

    /// Changes those that were counted, no more than `rate` in each second.
    async fn run(&mut self, rate: Option<u32>) -> Result<(), QueueError> {
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        let (mut after, mut is_over) = (None, self.matching == 0);
        while !is_over {
            let mut left_in_second = self.matching - self.done;
            if let Some(rate) = rate {
                seconds.tick().await;
                left_in_second = left_in_second.min(rate as usize);
            }
            while left_in_second > 0 && !is_over {
                let (change, queue, filter) = (self.change, self.queue, self.filter);
                let step = patiently(|| change.step(queue, filter, after, left_in_second.min(STEP))).await?;
                self.done += step.changed;
                left_in_second -= step.changed.min(left_in_second);
                after = step.next;
                is_over = after.is_none() || self.done >= self.matching;
                if self.line.is_due() {
                    let (done, matching) = (thousands(self.done as u64), thousands(self.matching as u64));
                    self.line.show(&format!("{done} of {matching} {}", change.done()));
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
        Ok(())
    }

    /// How far it came, for programs.
    fn json(&self, is_dry_run: bool, error: Option<&QueueError>) -> Value {
        let mut result =
            json!({ "matching": self.matching, self.change.done(): self.done, "dry_run": is_dry_run });
        if let Some(error) = error {
            result["error"] = harmless(&error.to_string()).into();
        }
        result
    }

    /// How far it came before it failed, and what to do.
    fn stopped(&self, error: &QueueError) -> anyhow::Error {
        let Self { change, matching, done, .. } = self;
        anyhow!(
            "{done} of {matching} dead letters are {}, then: {error}. The others are untouched. Fix: run the same \
             command again; it goes on with those that are left",
            change.done(),
        )
    }
}

/// Makes a call, and again while the queue is busy or unreachable for a short time. A step that was done though its
/// answer was lost is not done twice: what it changed is no dead letter any more.
async fn patiently<T, Call>(mut call: impl FnMut() -> Call) -> Result<T, QueueError>
where
    Call: Future<Output = Result<T, QueueError>>,
{
    let mut tries = 0;
    loop {
        let error = match call().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        tries += 1;
        if tries >= TRIES_MAX || !matches!(error, QueueError::Unavailable(_)) {
            return Err(error);
        }
        tokio::time::sleep(TRY_AGAIN_AFTER * tries).await;
    }
}

#[cfg(test)]
mod tests;
