//! The screen of `top` as lines of text.

use rollbook_operator::words::{span, thousands};

use super::last_error::LastError;
use super::view::{Applied, Deliveries, ProcessView, Queue, View};
use crate::output::{Style, columns_of, harmless};

/// Width of the names before the values.
const NAMES: usize = 14;
/// Value of what no process knows now.
const UNKNOWN: &str = "unknown: no process here gets an answer from the queue";
const MIB: f64 = 1_048_576.0;

/// Treatment of a line that is longer than the columns.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Long {
    /// Cut, with a mark at its end: a screen has a limited number of lines.
    Cut,
    /// Continued below its value, so that nothing is left out.
    Continued,
}

/// Formats a view as lines of at most `columns` columns.
pub(super) fn lines(view: &View, style: Style, columns: usize, long: Long) -> Vec<String> {
    let mut page = Page { lines: Vec::new(), style, columns, long };
    page.heading(&format!("rollbook top  {}  rates of the last {:.0} s", view.at, view.over_seconds));
    page.empty();
    page.deliveries(view.deliveries.as_ref());
    page.applied(view.applied.as_ref());
    page.queue(view.queue.as_ref());
    page.dead_letters(view.dead_letters);
    if let Some(pending) = view.changes_pending_seconds {
        let is_late = pending > 60.0;
        page.line(
            "change feed",
            &format!("oldest change without a position: {}", time(pending)),
            Tone::of(is_late),
        );
    }
    for forward in &view.forwards_failing {
        page.line("forward", &forward.text(number), Tone::Attention);
    }
    page.empty();
    for process in &view.processes {
        page.process(process);
    }
    page.last_error(view.last_error.as_ref());
    page.lines
}

/// Weight of a line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tone {
    Plain,
    Attention,
    Failed,
}

impl Tone {
    const fn of(needs_attention: bool) -> Self {
        if needs_attention { Self::Attention } else { Self::Plain }
    }
}

struct Page {
    lines: Vec<String>,
    style: Style,
    columns: usize,
    long: Long,
}

impl Page {
    fn empty(&mut self) {
        self.lines.push(String::new());
    }

    fn heading(&mut self, text: &str) {
        let text = self.cut(text);
        self.lines.push(self.style.bold(&text));
    }

    /// Adds a name and its value. The text is escaped and cut before it is coloured.
    fn line(&mut self, name: &str, value: &str, tone: Tone) {
        let text = harmless(&format!("{name:<NAMES$}{value}"));
        let texts = match self.long {
            Long::Cut => vec![self.cut(&text)],
            Long::Continued => self.continued(&text),
        };
        self.lines.extend(texts.into_iter().map(|text| match tone {
            Tone::Plain => text,
            Tone::Attention => self.style.yellow(&text),
            Tone::Failed => self.style.red(&text),
        }));
    }

    /// Breaks a text between words, and a longer word at the last column.
    fn continued(&self, text: &str) -> Vec<String> {
        let (mut lines, mut line, mut used) = (Vec::new(), String::new(), 0);
        for word in text.split_inclusive(' ') {
            let width = columns_of(word.trim_end());
            if used + width > self.columns && used > NAMES {
                lines.push(std::mem::take(&mut line).trim_end().to_owned());
                line = " ".repeat(NAMES);
                used = NAMES;
            }
            for letter in word.chars() {
                let width = columns_of(letter.encode_utf8(&mut [0; 4]));
                if used + width > self.columns && letter != ' ' {
                    lines.push(std::mem::take(&mut line));
                    line = " ".repeat(NAMES);
                    used = NAMES;
                }
                line.push(letter);
                used += width;
            }
        }
        lines.push(line.trim_end().to_owned());
        lines
    }

    fn cut(&self, text: &str) -> String {
        if columns_of(text) <= self.columns {
            return text.to_owned();
        }
        let (mut cut, mut used) = (String::new(), 0);
        for letter in text.chars() {
            used += columns_of(letter.encode_utf8(&mut [0; 4]));
            // One column for the mark.
            if used >= self.columns {
                break;
            }
            cut.push(letter);
        }
        cut.push('…');
        cut
    }

    fn deliveries(&mut self, deliveries: Option<&Deliveries>) {
        let Some(deliveries) = deliveries else { return };
        let Deliveries { accepted_per_second, unavailable_per_second, refused_per_second, ack_p99_seconds } =
            deliveries;
        let ack = ack_p99_seconds.map_or_else(|| "-".to_owned(), |seconds| format!("< {}", time(seconds)));
        let value = format!(
            "{} accepted, {} answered 503, {} refused; answer p99 {ack}",
            rate(*accepted_per_second),
            rate(*unavailable_per_second),
            rate(*refused_per_second)
        );
        self.line("deliveries", &value, Tone::of(*unavailable_per_second > 0.0));
    }

    fn applied(&mut self, applied: Option<&Applied>) {
        let Some(applied) = applied else { return };
        let Applied { per_second, retries_per_second, dead_letters_per_second, lag_p99_seconds } = applied;
        let value = format!(
            "{} changes, {} retries, {} dead letters",
            rate(*per_second),
            rate(*retries_per_second),
            rate(*dead_letters_per_second)
        );
        let needs_attention = *retries_per_second > 0.0 || *dead_letters_per_second > 0.0;
        self.line("applied", &value, Tone::of(needs_attention));
        let lag = lag_p99_seconds.map_or_else(|| "-".to_owned(), |seconds| format!("< {}", time(seconds)));
        self.line("lag", &format!("p99 from Clerk's event to the row {lag}"), Tone::Plain);
    }

    fn queue(&mut self, queue: Option<&Queue>) {
        let Some(queue) = queue else { return self.line("queue depth", UNKNOWN, Tone::Attention) };
        let limit = queue.depth_limit.map_or_else(String::new, |limit| format!(" of {}", number(limit)));
        let value = format!(
            "{}{limit}; {} leased, {} wait for a retry; oldest {}",
            number(queue.depth),
            number(queue.leased),
            number(queue.delayed),
            time(queue.oldest_age_seconds)
        );
        let is_full = queue.depth_limit.is_some_and(|limit| queue.depth >= limit * 0.8);
        self.line("queue depth", &value, Tone::of(is_full));
        let change = queue.change_per_second;
        let (empty, tone) = match queue.seconds_to_empty {
            _ if queue.depth <= 0.0 => ("empty".to_owned(), Tone::Plain),
            Some(seconds) => (format!("{} ({change:+.1}/s)", time(seconds)), Tone::Plain),
            None if change > 0.0 => (format!("never: it grows ({change:+.1}/s)"), Tone::Attention),
            None => ("it does not shrink".to_owned(), Tone::Plain),
        };
        self.line("time to empty", &empty, tone);
        if let Some(used) = queue.space_used_ratio {
            let of = if queue.space == Some("disk") { "its disk, as df counts" } else { "Redis' maxmemory" };
            let free = queue
                .space_free_bytes
                .map_or_else(String::new, |free| format!("; {} MiB free", number(free / MIB)));
            let percent = if used > 10.0 { "over 1,000".to_owned() } else { format!("{:.0}", used * 100.0) };
            self.line("queue space", &format!("{percent} % of {of}{free}"), Tone::of(used >= 0.8));
        }
    }

    fn dead_letters(&mut self, dead: Option<f64>) {
        let Some(dead) = dead else { return self.line("dead letters", UNKNOWN, Tone::Attention) };
        let fix = if dead > 0.0 { "  rollbook dead-letters summary" } else { "" };
        self.line("dead letters", &format!("{}{fix}", number(dead)), Tone::of(dead > 0.0));
    }

    fn process(&mut self, process: &ProcessView) {
        let ProcessView { address, version, status, parts, since, .. } = process;
        let Some(status) = status else {
            return self.line("process", &format!("{address}  no answer"), Tone::Failed);
        };
        let version = version.as_deref().unwrap_or("of unknown version");
        let tone = match status.as_str() {
            "ok" => Tone::Plain,
            "failing" | "no answer" => Tone::Failed,
            _ => Tone::Attention,
        };
        self.line("process", &format!("{address}  {version}  {status}"), tone);
        let fine: Vec<&str> =
            parts.iter().filter(|(_, state)| *state == "ok").map(|(name, _)| name.as_str()).collect();
        if !fine.is_empty() {
            self.line("  parts ok", &fine.join(", "), Tone::Plain);
        }
        for (name, state) in parts.iter().filter(|(_, state)| *state != "ok") {
            let since = since.get(name).map_or_else(String::new, |since| format!(" (since {since})"));
            self.line(&format!("  {name}"), &format!("{state}{since}"), tone);
        }
    }

    fn last_error(&mut self, last: Option<&LastError>) {
        self.empty();
        let Some(LastError { at, since, address, part, error }) = last else {
            return self.line("last error", "none since the start of this command", Tone::Plain);
        };
        let part = part.as_ref().map(|part| format!(" {part}")).unwrap_or_default();
        let text = format!("since {since}, last seen {at}  {address}{part}: {error}");
        self.line("last error", &text, Tone::Attention);
    }
}

fn rate(per_second: f64) -> String {
    if per_second < 10.0 { format!("{per_second:.1}/s") } else { format!("{}/s", number(per_second)) }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "for display: counts of messages"
)]
fn number(value: f64) -> String {
    thousands(value.round().max(0.0) as u64)
}

#[expect(clippy::cast_possible_truncation, reason = "for display: `as` saturates")]
fn time(seconds: f64) -> String {
    span((seconds * 1_000.0) as i64)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn view() -> View {
        let part = |name: &str, state: &str| (name.to_owned(), state.to_owned());
        View {
            at: "2026-07-29T08:00:00.000Z".to_owned(),
            over_seconds: 30.0,
            processes: vec![
                ProcessView {
                    address: "127.0.0.1:9464".to_owned(),
                    answers: true,
                    version: Some("1.2.3".to_owned()),
                    status: Some("impaired".to_owned()),
                    parts: BTreeMap::from([part("queue", "ok"), part("store", "impaired: a\u{1b}[31m lock")]),
                    since: BTreeMap::from([part("store", "2026-07-29T07:58:00.000Z")]),
                },
                ProcessView {
                    address: "127.0.0.1:9465".to_owned(),
                    answers: false,
                    version: None,
                    status: None,
                    parts: BTreeMap::new(),
                    since: BTreeMap::new(),
                },
            ],
            deliveries: Some(Deliveries {
                accepted_per_second: 1_234.0,
                unavailable_per_second: 0.0,
                refused_per_second: 0.25,
                ack_p99_seconds: Some(0.05),
            }),
            applied: Some(Applied {
                per_second: 900.0,
                retries_per_second: 0.0,
                dead_letters_per_second: 2.0,
                lag_p99_seconds: None,
            }),
            queue: Some(Queue {
                depth: 12_480.0,
                depth_limit: Some(1_000_000.0),
                leased: 100.0,
                delayed: 3.0,
                oldest_age_seconds: 61.0,
                change_per_second: -104.0,
                seconds_to_empty: Some(120.0),
                space_used_ratio: Some(0.42),
                space_free_bytes: Some(3.0e9),
                space: Some("disk"),
            }),
            dead_letters: Some(7.0),
            forwards_failing: Vec::new(),
            changes_pending_seconds: Some(0.0),
            last_error: Some(LastError {
                at: "2026-07-29T07:59:00.000Z".to_owned(),
                since: "2026-07-29T07:58:00.000Z".to_owned(),
                address: "127.0.0.1:9465".to_owned(),
                part: None,
                error: "refused".to_owned(),
            }),
        }
    }

    #[test]
    fn one_screen_has_rates_lag_depth_time_to_empty_dead_letters_parts_and_the_last_error() {
        let text = lines(&view(), Style::PLAIN, 120, Long::Cut).join("\n");
        for line in [
            "deliveries    1,234/s accepted, 0.0/s answered 503, 0.2/s refused; answer p99 < 50 ms",
            "applied       900/s changes, 0.0/s retries, 2.0/s dead letters",
            "lag           p99 from Clerk's event to the row -",
            "queue depth   12,480 of 1,000,000; 100 leased, 3 wait for a retry; oldest 1 min 1 s",
            "time to empty 2 min (-104.0/s)",
            "queue space   42 % of its disk, as df counts; 2,861 MiB free",
            "dead letters  7  rollbook dead-letters summary",
            "process       127.0.0.1:9464  1.2.3  impaired",
            "  parts ok    queue",
            "  store       impaired: a\\u{1b}[31m lock (since 2026-07-29T07:58:00.000Z)",
            "process       127.0.0.1:9465  no answer",
            "last error    since 2026-07-29T07:58:00.000Z, last seen 2026-07-29T07:59:00.000Z  127.0.0.1:9465: refused",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}\nin\n{text}");
        }
    }

    #[test]
    fn a_queue_that_does_not_answer_has_no_figures() {
        let view = View { queue: None, dead_letters: None, ..view() };
        let text = lines(&view, Style::PLAIN, 120, Long::Cut).join("\n");
        for line in ["queue depth   unknown: ", "dead letters  unknown: "] {
            assert!(text.contains(line), "{line}\nin\n{text}");
        }
        assert!(!text.contains("12,480") && !text.contains("time to empty"), "{text}");
    }

    #[test]
    fn space_that_is_used_more_than_ten_times_over_has_no_long_number() {
        for (ratio, shown) in [(10.0, "queue space   1000 % of"), (2.1e6, "queue space   over 1,000 % of")] {
            let mut view = view();
            view.queue.as_mut().expect("a queue").space_used_ratio = Some(ratio);
            let text = lines(&view, Style::PLAIN, 120, Long::Cut).join("\n");
            assert!(text.contains(shown), "{shown}\nin\n{text}");
        }
    }

    #[test]
    fn a_narrow_terminal_cuts_lines_and_a_queue_that_grows_is_never_empty() {
        let mut view = view();
        if let Some(queue) = &mut view.queue {
            (queue.seconds_to_empty, queue.change_per_second) = (None, 5.0);
        }
        let lines = lines(&view, Style::PLAIN, 40, Long::Cut);
        assert!(lines.iter().all(|line| columns_of(line) <= 40), "{lines:#?}");
        assert!(lines.contains(&"time to empty never: it grows (+5.0/s)".to_owned()), "{lines:#?}");
        assert!(lines.iter().any(|line| line.ends_with('…')), "{lines:#?}");
    }

    #[test]
    fn a_snapshot_leaves_nothing_out_and_continues_long_lines_below_their_values() {
        let mut view = view();
        let why = format!("refused: {}, and {}", "a word ".repeat(30), "x".repeat(90));
        if let Some(error) = &mut view.last_error {
            error.error.clone_from(&why);
        }
        let lines = lines(&view, Style::PLAIN, 70, Long::Continued);
        assert!(lines.iter().all(|line| columns_of(line) <= 70), "{lines:#?}");
        let shown: String = lines.concat().split_whitespace().collect();
        let expected: String = why.split_whitespace().collect();
        assert!(shown.contains(&expected) && !shown.contains('…'), "{lines:#?}");
        let rest = lines.iter().skip_while(|line| !line.starts_with("last error")).skip(1);
        assert!(
            rest.clone().count() > 3 && rest.clone().all(|line| line.starts_with("              ")),
            "{lines:#?}"
        );
    }
}
