//! The terminal's second screen: drawn anew in place, and left as it was before.

use std::io::{self, Write as _};

/// Escape sequences: second screen and no cursor; and back.
const OPEN: &str = "\u{1b}[?1049h\u{1b}[?25l";
const CLOSE: &str = "\u{1b}[?25h\u{1b}[?1049l";
/// Size of a terminal that does not report one.
const SIZE: (usize, usize) = (100, 30);

/// The screen. Dropping it restores the terminal.
pub(super) struct Screen(());

impl Screen {
    /// Opens the second screen of the terminal on standard output.
    pub(super) fn open() -> io::Result<Self> {
        let screen = Self(());
        write(OPEN)?;
        Ok(screen)
    }

    /// Shows lines in place of the lines before. `lines` gets the columns of the terminal.
    #[expect(clippy::unused_self, reason = "only an open screen is drawn")]
    pub(super) fn show(&mut self, lines: impl FnOnce(usize) -> Vec<String>) -> io::Result<()> {
        let (columns, rows) = size();
        write(&frame(&lines(columns), rows))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = write(CLOSE);
    }
}

/// Returns the text that draws these lines from the top, and removes the rest of the screen.
fn frame(lines: &[String], rows: usize) -> String {
    let mut text = String::from("\u{1b}[H");
    let shown = lines.len().min(rows.max(1));
    for (number, line) in lines.iter().take(shown).enumerate() {
        text.push_str(line);
        text.push_str("\u{1b}[K");
        // A line break in the last row would scroll.
        if number + 1 < shown {
            text.push_str("\r\n");
        }
    }
    text.push_str("\u{1b}[J");
    text
}

/// Returns columns and rows of the terminal.
fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
            (usize::from(size.ws_col), usize::from(size.ws_row))
        }
        _ => SIZE,
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_fits_the_rows_and_does_not_scroll() {
        let lines: Vec<String> = (0..9).map(|number| format!("line {number}")).collect();
        let text = frame(&lines, 3);
        assert_eq!(text.matches("\r\n").count(), 2);
        assert!(
            text.starts_with("\u{1b}[Hline 0\u{1b}[K\r\n") && text.ends_with("line 2\u{1b}[K\u{1b}[J"),
            "{text:?}"
        );
        assert_eq!(frame(&lines, 100).matches("\r\n").count(), 8);
        assert_eq!(frame(&[], 5), "\u{1b}[H\u{1b}[J");
    }
}
