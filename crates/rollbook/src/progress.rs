//! A line of progress on standard error: one that moves on a terminal, a plain one now and then elsewhere.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use tokio::time::Instant;

/// How often a terminal is written to.
const LIVE: Duration = Duration::from_millis(100);
/// How often anything else is.
const PLAIN: Duration = Duration::from_secs(2);

/// Shows how far long work has come.
pub(crate) struct ProgressLine {
    live: bool,
    shown_at: Instant,
}

impl ProgressLine {
    /// A line that is not shown before its first interval has passed: short work prints none.
    pub(crate) fn new() -> Self {
        Self { live: io::stderr().is_terminal(), shown_at: Instant::now() }
    }

    /// How often the line should be shown.
    pub(crate) fn interval(&self) -> Duration {
        if self.live { LIVE } else { PLAIN }
    }

    /// Whether the line has stood for its interval.
    pub(crate) fn is_due(&self) -> bool {
        self.shown_at.elapsed() >= self.interval()
    }

    /// Shows this. Progress that nobody can see is no reason to stop.
    pub(crate) fn show(&mut self, line: &str) {
        self.shown_at = Instant::now();
        let _ = if self.live {
            write!(io::stderr(), "\r\u{1b}[2K  {line}")
        } else {
            writeln!(io::stderr(), "{line}")
        };
    }

    /// Ends the line that moves.
    pub(crate) fn end(&self) {
        if self.live {
            let _ = write!(io::stderr(), "\r\u{1b}[2K");
        }
    }
}
