//! Report of the demo, as text and as JSON.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use rollbook_core::change::Applied;
use rollbook_core::queue::Durability;
use rollbook_operator::words::thousands;
use serde_json::{Value, json};

use super::findings::{Findings, Person};
use super::repaired::{reconciliation, repaired};
use super::{CONNECTIONS, changes, counts::Counts};
use crate::output::{Style, Table, harmless, span};

/// Maximum number of differences that are listed; the rest is counted.
const NAMED_MAX: usize = 5;

/// Circumstances of a run.
pub(crate) struct Surroundings {
    /// Seed of the random numbers.
    pub(crate) seed: u64,
    /// Address of the receiver.
    pub(crate) receiver: SocketAddr,
    /// Address of health and metrics.
    pub(crate) ops: SocketAddr,
    /// Signing secret made for this run.
    pub(crate) secret: String,
    /// Whether the process continues to serve.
    pub(crate) keep: bool,
    /// Folder of the databases, if it stays.
    pub(crate) kept: Option<PathBuf>,
    /// Place of the queue.
    pub(crate) queue: String,
    /// Place of the store.
    pub(crate) store: String,
    /// Durability of the queue's acknowledgements.
    pub(crate) durability: Durability,
}

/// Formats the report as text.
pub(crate) fn text(findings: &Findings, surroundings: &Surroundings, style: Style) -> String {
    let mut text = format!("\n  {}\n\n", style.bold("Rollbook, from signed webhooks to right rows"));
    for (name, what) in summary(findings, surroundings) {
        // Writing to a String can't fail.
        let _ = writeln!(text, "  {}  {what}", style.dim(&format!("{name:<12}")));
    }
    text.push_str(&outcomes(&findings.counts, style));
    text.push_str(&repaired(findings, style));
    text.push_str(&people(findings, style));
    text.push_str(&verdict(findings, style));
    text.push_str(&changes::text(&findings.changes, style));
    text.push_str(&next(surroundings, style));
    text
}

fn summary(findings: &Findings, surroundings: &Surroundings) -> Vec<(&'static str, String)> {
    let count = |number: usize| thousands(number as u64);
    let sent = &findings.sent;
    let durability = &surroundings.durability;
    let worth = match (durability.is_degraded(), durability.vouched.is_empty()) {
        (true, _) => "NOT all on the disk",
        (false, true) => "each durable",
        (false, false) => "each durable, for which you vouch",
    };
    let weaknesses = durability.weaknesses.iter().map(|weakness| ("", format!("degraded: {weakness}")));
    let mut lines = vec![("queue", surroundings.queue.clone())];
    lines.extend(weaknesses);
    lines.extend([
        ("store", surroundings.store.clone()),
        (
            "sent",
            format!(
                "{} deliveries of {} events, {} event types, {CONNECTIONS} connections",
                count(findings.deliveries),
                count(findings.events),
                findings.event_types
            ),
        ),
        (
            "on purpose",
            format!(
                "{} sent twice, {} out of order",
                count(findings.deliveries - findings.events),
                count(findings.out_of_order)
            ),
        ),
        (
            "never sent",
            format!("{} events: from before the endpoint existed, or lost on the way", count(findings.lost)),
        ),
        (
            "acknowledged",
            format!(
                "{} in {} ({} a second), {worth} before its 200; half within {}, 99 % within {}",
                count(sent.acknowledged.len()),
                span(sent.elapsed),
                rate(findings.acknowledged_per_second()),
                span(sent.latencies.at(500)),
                span(sent.latencies.at(990))
            ),
        ),
        (
            "",
            format!(
                "{} queued, {} were still in the queue and counted as duplicates",
                thousands(sent.queued),
                thousands(sent.duplicates)
            ),
        ),
        ("applied", format!("the last {} after the first was sent", span(findings.applied_after))),
    ]);
    let lost = sent.refused.len() + sent.unanswered.len();
    if lost > 0 {
        lines.push(("given up", format!("{} deliveries had no 200", count(lost))));
    }
    if findings.dead_letters > 0 {
        lines.push(("not applied", format!("{} dead letters", thousands(findings.dead_letters))));
    }
    lines
}

/// Formats the outcomes by table.
fn outcomes(counts: &[Counts], style: Style) -> String {
    let mut headings = format!("{:<26}", "what the deliveries did");
    for applied in Applied::ALL {
        let _ = write!(headings, "{:>10}", applied.as_str());
    }
    let mut text = format!("\n  {}\n", style.dim(&headings));
    for of_table in counts {
        let _ = write!(text, "  {:<26}", of_table.table.unwrap_or("(events without a table)"));
        for count in of_table.outcomes {
            let _ = write!(text, "{:>10}", if count == 0 { "·".to_owned() } else { thousands(count) });
        }
        text.push('\n');
    }
    text.push_str(
        "  stale: the delivery was older than the row; unchanged: the row was as the delivery says; ignored: no table is for it\n",
    );
    text
}

fn people(findings: &Findings, style: Style) -> String {
    let cells = |person: &Person| {
        [&person.id, &person.name, &person.email, &person.organization, &person.role].map(String::clone)
    };
    Table::new(&["a few rows (invented)", "name", "primary e-mail", "organization", "role"])
        .with(findings.peek.iter().map(cells))
        .indented(style)
}

fn verdict(findings: &Findings, style: Style) -> String {
    let deleted = findings.deleted - findings.comparison.never_seen;
    let total = findings.living + deleted;
    let count = |number: usize| thousands(number as u64);
    let mut text = format!(
        "\n  by webhooks alone:    {} of {} rows\n  rows equal the truth: {} of {} ({} not deleted, {} deleted)\n",
        count(findings.by_webhooks.equal),
        count(total),
        count(findings.comparison.equal),
        count(total),
        count(findings.living),
        count(deleted)
    );
    if findings.comparison.never_seen > 0 {
        let _ = writeln!(
            text,
            "    without a row: {} that were created and deleted unseen",
            count(findings.comparison.never_seen)
        );
    }
    for line in differences(findings) {
        let _ = writeln!(text, "    {line}");
    }
    let verdict = if findings.passed() {
        style.green("✓ every row is as the simulated Clerk has it")
    } else {
        style.red("✗ not as it must be: please report this with the seed")
    };
    let _ = writeln!(text, "  {verdict}, {} in all", span(findings.took));
    text
}

/// Formats the first differences, by table, id and column.
fn differences(findings: &Findings) -> Vec<String> {
    let comparison = &findings.comparison;
    let missing = comparison.missing.iter().map(|(table, id)| format!("missing: {table} {id}"));
    let unexpected = comparison.unexpected.iter().map(|(table, id)| format!("unexpected: {table} {id}"));
    let different =
        comparison.different.iter().map(|(table, id, column)| format!("different: {table} {id} {column}"));
    let all: Vec<String> = missing.chain(unexpected).chain(different).map(|line| harmless(&line)).collect();
    let more = all.len().saturating_sub(NAMED_MAX);
    let more = (more > 0).then(|| format!("and {more} more"));
    all.into_iter().take(NAMED_MAX).chain(more).collect()
}

fn next(surroundings: &Surroundings, style: Style) -> String {
    let mut text = String::new();
    if let Some(folder) = &surroundings.kept {
        let _ = writeln!(text, "\n  {}  {}", style.dim("databases   "), folder.display());
    }
    if surroundings.keep {
        let _ = writeln!(text, "  {}  http://{}/metrics", style.dim("metrics     "), surroundings.ops);
        let _ = writeln!(
            text,
            "  {}  CLERK_WEBHOOK_SIGNING_SECRET={} \\\n                rollbook send user.created --url http://{}/webhooks/clerk",
            style.dim("next        "),
            surroundings.secret,
            surroundings.receiver
        );
        text.push_str("\n  Serving until Ctrl-C.\n");
        return text;
    }
    let _ = writeln!(
        text,
        "\n  {}  rollbook demo --keep to look around, --seed {} to see this one again,\n                rollbook serve for the real thing",
        style.dim("next        "),
        surroundings.seed
    );
    text
}

/// Returns the report as JSON.
pub(crate) fn json(findings: &Findings, surroundings: &Surroundings) -> Value {
    let sent = &findings.sent;
    let of_table = |counts: &Counts| {
        let outcomes = Applied::ALL.iter().zip(counts.outcomes);
        let outcomes = outcomes.map(|(applied, count)| (applied.as_str().to_owned(), count.into())).collect();
        (counts.table.unwrap_or("none").to_owned(), Value::Object(outcomes))
    };
    json!({
        "passed": findings.passed(),
        "seed": surroundings.seed,
        "deliveries": findings.deliveries,
        "events": findings.events,
        "events_lost": findings.lost,
        "event_types": findings.event_types,
        "out_of_order": findings.out_of_order,
        "acknowledged": sent.acknowledged.len(),
        "refused": sent.refused.len(),
        "unanswered": sent.unanswered.len(),
        "acknowledged_per_second": findings.acknowledged_per_second().round(),
        "ack_p50_seconds": sent.latencies.at(500).as_secs_f64(),
        "ack_p99_seconds": sent.latencies.at(990).as_secs_f64(),
        "applied_after_seconds": findings.applied_after.as_secs_f64(),
        "applied": findings.counts.iter().map(of_table).collect::<serde_json::Map<_, _>>(),
        "dead_letters": findings.dead_letters,
        "rows": findings.living + findings.deleted - findings.comparison.never_seen,
        "rows_equal": findings.comparison.equal,
        "rows_equal_by_webhooks": findings.by_webhooks.equal,
        "reconciliation": reconciliation(&findings.repair),
        "naive": findings.naive,
        "last_position": findings.changes.last,
        "changes": findings.changes.lines,
        "rows_missing": findings.comparison.missing.len(),
        "rows_unexpected": findings.comparison.unexpected.len(),
        "values_different": findings.comparison.different.len(),
        "seconds": findings.took.as_secs_f64(),
        "receiver": format!("http://{}/webhooks/clerk", surroundings.receiver),
        "metrics": format!("http://{}/metrics", surroundings.ops),
        "queue": surroundings.queue,
        "store": surroundings.store,
        "weaknesses": surroundings.durability.weaknesses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "databases": surroundings.kept.as_ref().map(|folder| folder.display().to_string()),
    })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate is positive and below 2^64"
)]
fn rate(per_second: f64) -> String {
    thousands(per_second.round() as u64)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rollbook_simulator::sender::Report;
    use rollbook_simulator::truth::Comparison;

    use rollbook_core::weakness::Weakness;

    use super::super::repair::Repair;
    use super::*;

    fn findings() -> Findings {
        Findings {
            deliveries: 1250,
            events: 1000,
            lost: 0,
            by_webhooks: Comparison { equal: 800, ..Comparison::default() },
            repair: Repair {
                progress: <_>::default(),
                requests: 9,
                took: Duration::from_millis(100),
                approved: None,
            },
            naive: None,
            event_types: 45,
            out_of_order: 1200,
            sent: Report {
                acknowledged: vec![0; 1250],
                elapsed: Duration::from_secs(1),
                ..Report::default()
            },
            counts: vec![Counts { table: Some("users"), outcomes: [900, 0, 10, 20, 5, 0] }],
            dead_letters: 0,
            applied_after: Duration::from_millis(1300),
            living: 890,
            deleted: 10,
            comparison: Comparison { equal: 900, ..Comparison::default() },
            changes: <_>::default(),
            peek: Vec::new(),
            took: Duration::from_millis(1500),
        }
    }

    fn surroundings(keep: bool) -> Surroundings {
        Surroundings {
            seed: 7,
            receiver: SocketAddr::from(([127, 0, 0, 1], 1)),
            ops: SocketAddr::from(([127, 0, 0, 1], 2)),
            secret: "whsec_x".to_owned(),
            keep,
            kept: None,
            queue: "Redis at h:1".to_owned(),
            store: "SQLite /x, WAL, synchronous=FULL".to_owned(),
            durability: Durability::default(),
        }
    }

    #[test]
    fn right_rows_pass_and_the_secret_is_shown_only_while_the_demo_serves() {
        let text = text(&findings(), &surroundings(false), Style::PLAIN);
        assert!(text.contains("rows equal the truth: 900 of 900 (890 not deleted, 10 deleted)"), "{text}");
        assert!(text.contains("0 queued, 0 were still in the queue and counted as duplicates"), "{text}");
        assert!(text.contains("✓") && !text.contains("whsec_") && !text.contains('\u{1b}'), "{text}");
        assert!(super::text(&findings(), &surroundings(true), Style::PLAIN).contains("whsec_x"));
        assert_eq!(json(&findings(), &surroundings(false))["passed"], true);
    }

    #[test]
    fn queue_and_store_are_named_and_a_weak_queue_is_not_called_durable() {
        let said = text(&findings(), &surroundings(false), Style::PLAIN);
        assert!(said.contains("Redis at h:1") && said.contains("SQLite /x"), "{said}");
        assert!(said.contains("each durable before its 200") && !said.contains("degraded"), "{said}");
        let mut weak = surroundings(false);
        weak.durability.weaknesses = vec![Weakness::new("appendfsync is everysec", "CONFIG SET it")];
        let said = text(&findings(), &weak, Style::PLAIN);
        assert!(
            !said.contains("each durable") && said.contains("degraded: appendfsync is everysec"),
            "{said}"
        );
        assert_eq!(json(&findings(), &weak)["weaknesses"][0], "appendfsync is everysec; CONFIG SET it");
    }

    #[test]
    fn a_wrong_row_a_dead_letter_or_a_lost_delivery_fails_and_is_named() {
        let mut wrong = findings();
        wrong.comparison.missing = (0..7).map(|number| ("users", format!("user_{number}"))).collect();
        let said = text(&wrong, &surroundings(false), Style::PLAIN);
        assert!(said.contains("missing: users user_4") && said.contains("and 2 more"), "{said}");
        assert!(said.contains('✗') && !said.contains('✓'), "{said}");
        let dead = Findings { dead_letters: 1, ..findings() };
        assert!(!dead.passed());
        let mut lost = findings();
        lost.sent.acknowledged.pop();
        assert!(!lost.passed());
    }
}
