//! Progress on standard error: an updated line on a terminal, a new line at intervals elsewhere.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use tokio::time::Instant;

/// Interval of updates on a terminal.
const LIVE: Duration = Duration::from_millis(100);
/// Interval of lines elsewhere.
const PLAIN: Duration = Duration::from_secs(2);

/// Progress of long work.
pub(crate) struct ProgressLine {
    live: bool,
    shown_at: Instant,
}

impl ProgressLine {
    /// Creates a line. The first output comes after one interval: short work prints none.
    pub(crate) fn new() -> Self {
        Self { live: io::stderr().is_terminal(), shown_at: Instant::now() }
    }

    /// Returns the interval of output.
    pub(crate) fn interval(&self) -> Duration {
        if self.live { LIVE } else { PLAIN }
    }

    /// Whether an output is due.
    pub(crate) fn is_due(&self) -> bool {
        self.shown_at.elapsed() >= self.interval()
    }

    /// Shows a text. An error of the output is ignored.
    pub(crate) fn show(&mut self, line: &str) {
        self.shown_at = Instant::now();
        let _ = if self.live {
            write!(io::stderr(), "\r\u{1b}[2K  {line}")
        } else {
            writeln!(io::stderr(), "{line}")
        };
    }

    /// Ends the updated line.
    pub(crate) fn end(&self) {
        if self.live {
            let _ = write!(io::stderr(), "\r\u{1b}[2K");
        }
    }
}
