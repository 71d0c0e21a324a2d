//! Progress of a run: how far it is, its rate, and the time left for the resource that it reads.

use std::fmt::Write as _;
use std::pin::pin;
use std::time::Duration;

use rollbook_operator::words::{many, span, thousands};
use rollbook_reconciler::{Progress, ResourceProgress};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::progress::ProgressLine;

/// Interval of lines elsewhere than on a terminal.
const PLAIN: Duration = Duration::from_secs(10);

/// Shows progress while work is done.
pub(super) async fn shown<T>(work: impl Future<Output = T>, seen: watch::Receiver<Progress>) -> T {
    let mut line = ProgressLine::every(PLAIN);
    let (mut work, mut pace) = (pin!(work), Pace::default());
    let mut ticks = tokio::time::interval(line.interval());
    ticks.tick().await;
    let done = loop {
        tokio::select! {
            done = work.as_mut() => break done,
            _ = ticks.tick() => {
                let text = pace.text(&seen.borrow(), Instant::now(), |share| line.bar(share));
                if let Some(text) = text {
                    line.show(&text);
                }
            }
        }
    };
    line.end();
    done
}

/// Resource that is being read, with the time and number at which its reading was first seen.
#[derive(Default)]
struct Pace(Option<(String, Instant, u64)>);

impl Pace {
    fn text(&mut self, progress: &Progress, now: Instant, bar: impl Fn(f64) -> String) -> Option<String> {
        let of = progress.resources.iter().find(|of| !of.is_done)?;
        let begun = self.0.take().filter(|(table, ..)| *table == of.table);
        let (table, since, first) = begun.unwrap_or_else(|| (of.table.clone(), now, of.read));
        self.0 = Some((table, since, first));
        let total = of.total.max(of.read);
        #[expect(clippy::cast_precision_loss, reason = "for display")]
        let (read, whole, rate) = (
            of.read as f64,
            total as f64,
            (of.read - first.min(of.read)) as f64 / now.duration_since(since).as_secs_f64(),
        );
        let share = if total == 0 { 0.0 } else { read / whole };
        let mut text = format!(
            "{}{}: {} of {} ({:.0} %)",
            bar(share),
            of.table.replace('_', " "),
            thousands(of.read),
            thousands(total),
            share * 100.0
        );
        if rate.is_finite() && rate >= 1.0 {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "for display")]
            let (rate, left) = (rate as u64, ((whole - read) / rate) as i64);
            // Writing to a String can't fail.
            _ = write!(text, " · {}/s · {} left", thousands(rate), span(left * 1_000));
        }
        let drifted = progress.sum(ResourceProgress::drifted);
        Some(format!("{text} · {}", many(drifted, "difference")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(read: u64, is_done: bool) -> Progress {
        let of = |table: &str, read, total, is_done| ResourceProgress {
            read,
            total,
            is_done,
            ..ResourceProgress::new(table)
        };
        let mut first = of("organizations", 3, 3, true);
        first.drift.insert("stale".to_owned(), 2);
        Progress { instance: String::new(), resources: vec![first, of("users", read, 1_000, is_done)] }
    }

    #[tokio::test(start_paused = true)]
    async fn the_resource_that_is_read_is_shown_with_its_rate_and_the_time_left() {
        let (mut pace, begun) = (Pace::default(), Instant::now());
        let bar = |_| String::new();
        let text = pace.text(&progress(100, false), begun, bar);
        assert_eq!(text.as_deref(), Some("users: 100 of 1,000 (10 %) · 2 differences"));
        let text = pace.text(&progress(300, false), begun + Duration::from_secs(2), bar);
        assert_eq!(text.as_deref(), Some("users: 300 of 1,000 (30 %) · 100/s · 7 s left · 2 differences"));
        assert_eq!(pace.text(&progress(1_000, true), begun + Duration::from_secs(3), bar), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_that_grew_while_it_was_read_is_not_more_than_complete() {
        let text = Pace::default().text(&progress(1_200, false), Instant::now(), |_| String::new());
        assert_eq!(text.as_deref(), Some("users: 1,200 of 1,200 (100 %) · 2 differences"));
    }
}
