//! The table at the end, and the progress on the way.

use std::fmt;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use serde_json::{Value, json};

use crate::disk::Disk;

/// The most memory that a process may have resident.
const MEMORY_MAX: u64 = 60 << 20;

/// The middle of the figures.
pub(crate) fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_unstable_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Says on a terminal what is being measured.
pub(crate) fn progress(what: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K{what} …");
        drop(std::io::stderr().flush());
    }
}

pub(crate) struct Report {
    quick: bool,
    lines: Vec<Line>,
}

/// Baseline of a rate.
pub(crate) struct Baseline {
    pub(crate) name: &'static str,
    pub(crate) rate: f64,
    /// Ours to this rate: the median of the turns, not the ratio of the medians.
    pub(crate) ratio: f64,
    /// Minimum of the ratio.
    pub(crate) limit: Option<f64>,
}

struct Line {
    what: String,
    figure: String,
    baseline: String,
    ratio: Option<f64>,
    limit: Option<Limit>,
    detail: String,
}

#[derive(Clone, Copy)]
enum Limit {
    AtLeast(f64),
    AtMost(f64),
}

impl Limit {
    fn holds(self, ratio: f64) -> bool {
        match self {
            Self::AtLeast(least) => ratio >= least,
            Self::AtMost(most) => ratio <= most,
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, "≥ {least:?}"),
            Self::AtMost(most) => write!(f, "≤ {most:?}"),
        }
    }
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.2} ms", seconds * 1000.0)
}

impl Report {
    /// A `quick` one says that its figures mean nothing.
    pub(crate) fn new(quick: bool) -> Self {
        Self { quick, lines: Vec::new() }
    }

    pub(crate) fn disk(&mut self, when: &str, disk: &Disk) {
        self.lines.push(Line {
            what: format!("disk's fdatasync, {when}"),
            figure: format!("p50 {}", milliseconds(disk.at(500).as_secs_f64())),
            baseline: format!("p99 {}", milliseconds(disk.at(990).as_secs_f64())),
            ratio: None,
            limit: None,
            detail: "8 KiB appended".into(),
        });
    }

    /// Adds a rate and its baseline. `detail` says how it was measured.
    pub(crate) fn ratio(&mut self, what: &str, ours: f64, baseline: &Baseline, detail: &str) {
        self.lines.push(Line {
            what: what.to_owned(),
            figure: format!("{ours:.0}"),
            baseline: format!("{} {:.0}", baseline.name, baseline.rate),
            ratio: Some(baseline.ratio),
            limit: baseline.limit.map(Limit::AtLeast),
            detail: detail.to_owned(),
        });
    }

    /// A rate that must reach a limit by itself.
    pub(crate) fn rate(&mut self, what: &str, rate: f64, least: f64, detail: &str) {
        let aim = Baseline { name: "the aim:", rate: least, ratio: rate / least, limit: Some(1.0) };
        self.ratio(what, rate, &aim, detail);
    }

    /// Adds the bytes used per item, and the bytes of the items themselves, over all of `count`.
    pub(crate) fn bytes(&mut self, what: &str, ours: usize, name: &str, theirs: usize, count: usize) {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let (ours, theirs, all) = (ours as f64, theirs as f64, count as f64);
        self.lines.push(Line {
            what: what.to_owned(),
            figure: format!("{:.0} B", ours / all),
            baseline: format!("{name} {:.0} B", theirs / all),
            ratio: Some(ours / theirs),
            limit: Some(Limit::AtMost(1.0)),
            detail: format!("{count} events"),
        });
    }

    pub(crate) fn latency(&mut self, p50: f64, p99: f64, disk: f64, ratio: f64, limit: f64) {
        self.lines.push(Line {
            what: "acknowledgement at 1,000/s, p99".into(),
            figure: milliseconds(p99),
            baseline: format!("disk's p99 {}", milliseconds(disk)),
            ratio: Some(ratio),
            limit: Some(Limit::AtMost(limit)),
            detail: format!("p50 {}", milliseconds(p50)),
        });
    }

    /// An answer that may take so long.
    pub(crate) fn answer(&mut self, what: &str, took: Duration, most: Duration, detail: &str) {
        self.lines.push(Line {
            what: what.to_owned(),
            figure: milliseconds(took.as_secs_f64()),
            baseline: format!("limit {}", milliseconds(most.as_secs_f64())),
            ratio: Some(took.as_secs_f64() / most.as_secs_f64()),
            limit: Some(Limit::AtMost(1.0)),
            detail: detail.to_owned(),
        });
    }

    pub(crate) fn memory(&mut self, command: &str, peak: u64) {
        self.memory_within(command, peak, MEMORY_MAX);
    }

    /// Peak of memory, which may be so many bytes.
    pub(crate) fn memory_within(&mut self, command: &str, peak: u64, most: u64) {
        let what = format!("peak memory of {command}");
        let mib = |bytes: u64| format!("{} MiB", bytes.div_ceil(1 << 20));
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let ratio = peak as f64 / most as f64;
        let line = Line {
            what: what.clone(),
            figure: mib(peak),
            baseline: format!("limit {}", mib(most)),
            ratio: Some(ratio),
            limit: Some(Limit::AtMost(1.0)),
            detail: String::new(),
        };
        // Of several turns the worst counts.
        match self.lines.iter_mut().find(|known| known.what == what) {
            Some(known) if known.ratio < line.ratio => *known = line,
            Some(_) => {}
            None => self.lines.push(line),
        }
    }

    /// Reports a duration with other work going on, and the same without it.
    pub(crate) fn slowed(
        &mut self,
        what: &str,
        (with, without, ratio): (f64, f64, f64),
        most: f64,
        detail: &str,
    ) {
        self.lines.push(Line {
            what: what.to_owned(),
            figure: milliseconds(with),
            baseline: format!("without {}", milliseconds(without)),
            ratio: Some(ratio),
            limit: Some(Limit::AtMost(most)),
            detail: detail.to_owned(),
        });
    }

    pub(crate) fn json(&self) -> Value {
        let line = |line: &Line| {
            let holds = line.limit.zip(line.ratio).map(|(limit, ratio)| limit.holds(ratio));
            json!({
                "what": line.what, "figure": line.figure, "beside": line.baseline, "ratio": line.ratio,
                "limit": line.limit.map(|limit| limit.to_string()), "holds": holds, "detail": line.detail,
            })
        };
        self.lines.iter().map(line).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.quick {
            writeln!(f, "A quick run: everything works, the figures mean nothing.\n")?;
        }
        writeln!(
            f,
            "Every acknowledgement waits for the disk (SQLite synchronous=FULL, WAL; Redis appendfsync=always), \
             every commit too (Postgres\nfsync and synchronous_commit on). Medians of the turns.\n"
        )?;
        writeln!(f, "{:<43} {:>12}  {:<30} {:>6}  limit", "what", "figure", "baseline", "ratio")?;
        for line in &self.lines {
            let ratio = line.ratio.map_or(String::new(), |ratio| format!("{ratio:.2}"));
            let limit = line.limit.map_or(String::new(), |limit| limit.to_string());
            let verdict = match line.limit.zip(line.ratio) {
                _ if self.quick => "",
                Some((limit, ratio)) if limit.holds(ratio) => "holds",
                Some(_) => "SHORT",
                None => "",
            };
            writeln!(
                f,
                "{:<43} {:>12}  {:<30} {ratio:>6}  {limit:<6} {verdict:<5} {}",
                line.what, line.figure, line.baseline, line.detail
            )?;
        }
        Ok(())
    }
}
