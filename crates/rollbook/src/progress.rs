//! Progress on standard error: an updated line on a terminal, a new line at intervals elsewhere.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use tokio::time::Instant;

/// Interval of updates on a terminal.
const LIVE: Duration = Duration::from_millis(100);
/// Interval of lines elsewhere.
const PLAIN: Duration = Duration::from_secs(2);

/// Width of a bar.
const BAR: u8 = 20;

/// Progress of long work.
pub(crate) struct ProgressLine {
    live: bool,
    plain: Duration,
    shown_at: Instant,
}

impl ProgressLine {
    /// Creates a line. The first output comes after one interval: short work prints none.
    pub(crate) fn new() -> Self {
        Self::every(PLAIN)
    }

    /// Creates a line that is printed at this interval elsewhere than on a terminal.
    pub(crate) fn every(plain: Duration) -> Self {
        Self { live: io::stderr().is_terminal(), plain, shown_at: Instant::now() }
    }

    /// Returns a bar for this share, from 0 to 1; empty elsewhere than on a terminal.
    pub(crate) fn bar(&self, share: f64) -> String {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "for display")]
        let full = (share.clamp(0.0, 1.0) * f64::from(BAR)) as usize;
        if self.live {
            format!("[{}{}] ", "#".repeat(full), "-".repeat(usize::from(BAR) - full))
        } else {
            String::new()
        }
    }

    /// Returns the interval of output.
    pub(crate) fn interval(&self) -> Duration {
        if self.live { LIVE } else { self.plain }
    }

    /// Returns whether an output is due.
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
