//! Output: tables, JSON, and text that may come from strangers.
//!
//! Constraints:
//!
//! * A reader that closes the pipe (`rollbook … | head`) ends the program quietly, never with a panic.
//! * No control character of a payload reaches a terminal.
//! * Colours are printed on a terminal only, and never with `NO_COLOR`.

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use serde::Serialize;

use crate::cli::Output;
use crate::config::Environment;

/// Prints a text and ends its line.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// Prints a result as indented JSON.
///
/// # Errors
/// The result has no JSON form, or the output failed.
pub(crate) fn print_json<T: Serialize + ?Sized>(result: &T) -> io::Result<()> {
    print(&format!("{:#}", serde_json::to_value(result)?))
}

/// Prints a result as JSON, or as this text.
///
/// # Errors
/// As [`print_json`].
pub(crate) fn print_as<T: Serialize + ?Sized>(
    output: Output,
    result: &T,
    text: impl FnOnce(&T) -> String,
) -> io::Result<()> {
    match output {
        Output::Json => print_json(result),
        Output::Text => print(&text(result)),
    }
}

/// Prints a message on standard error. A failure is ignored.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Returns whether standard output is a terminal.
pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Escapes every control character, line breaks and tabs included, and every character that changes the
/// direction of writing: the text stays on its line.
pub(crate) fn harmless(text: &str) -> String {
    escape(text, |_| false)
}

/// Escapes a text of several lines and keeps its line breaks.
pub(crate) fn harmless_lines(text: &str) -> String {
    escape(text, |c| matches!(c, '\n' | '\t'))
}

/// Returns whether the character changes the direction of writing.
pub(crate) fn turns(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escape(text: &str, keep: fn(char) -> bool) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        if (c.is_control() && !keep(c)) || turns(c) {
            clean.extend(c.escape_default());
        } else {
            clean.push(c);
        }
    }
    clean
}

/// Style of output: with or without colours.
#[derive(Clone, Copy)]
pub(crate) struct Style(bool);

impl Style {
    /// Returns colours if standard output is a terminal and the user wants them.
    pub(crate) fn of(environment: &Environment) -> Self {
        Self(is_terminal() && !environment.no_color())
    }

    /// Returns no colours.
    #[cfg(test)]
    pub(crate) const PLAIN: Self = Self(false);

    pub(crate) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.paint("1;32", text)
    }

    pub(crate) fn yellow(self, text: &str) -> String {
        self.paint("1;33", text)
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.paint("1;31", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.0 { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// Table with columns as wide as their widest cell.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Creates a table with these headings.
    pub(crate) fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|heading| (*heading).to_owned()).collect()] }
    }

    /// Adds a row. The cells are escaped here.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| harmless(&cell)).collect());
    }

    /// Adds rows.
    pub(crate) fn with(mut self, rows: impl IntoIterator<Item: IntoIterator<Item = String>>) -> Self {
        rows.into_iter().for_each(|cells| self.row(cells));
        self
    }

    /// Formats the table with an indentation and dim headings, below an empty line.
    pub(crate) fn indented(&self, style: Style) -> String {
        let mut text = String::from("\n");
        for (index, line) in self.to_string().lines().enumerate() {
            let line = if index == 0 { style.dim(line) } else { line.to_owned() };
            text = text + "  " + &line + "\n";
        }
        text
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let mut widths = vec![0; columns];
        for row in &self.rows {
            for (cell, width) in row.iter().zip(&mut widths) {
                *width = columns_of(cell).max(*width);
            }
        }
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(cell);
                line.push_str(&" ".repeat(width + 2 - columns_of(cell)));
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Returns the width of a text on a terminal, well enough for a table: two columns for ideographs, Hangul and
/// emoji, none for combining marks.
pub(crate) fn columns_of(cell: &str) -> usize {
    let columns = |c: char| match c {
        '\u{300}'..='\u{36f}' | '\u{200b}'..='\u{200d}' | '\u{fe00}'..='\u{fe0f}' => 0,
        '\u{1100}'..='\u{115f}'
        | '\u{2e80}'..='\u{a4cf}'
        | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}'
        | '\u{ff00}'..='\u{ff60}'
        | '\u{1f300}'..='\u{1faff}'
        | '\u{20000}'..='\u{3fffd}' => 2,
        _ => 1,
    };
    cell.chars().map(columns).sum()
}

/// Returns a duration as text, with about three digits.
pub(crate) fn span(span: Duration) -> String {
    let seconds = span.as_secs_f64();
    match seconds {
        1.0.. => format!("{seconds:.1} s"),
        0.1.. => format!("{:.0} ms", seconds * 1000.0),
        _ => format!("{:.1} ms", seconds * 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_of_a_payload_are_escaped() {
        assert_eq!(harmless("a\u{1b}[31mb\r\n\u{9b}c\u{202e}d"), "a\\u{1b}[31mb\\r\\n\\u{9b}c\\u{202e}d");
        assert_eq!(harmless_lines("a\n\tb\u{7}"), "a\n\tb\\u{7}");
        assert_eq!(harmless("Zoë 漢字 🎉"), "Zoë 漢字 🎉");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["id", "reason"]);
        table.row(["msg_1".to_owned(), "too_deep".to_owned()]);
        table.row(["é".to_owned(), "a\nb".to_owned()]);
        table.row(["美咲".to_owned(), "x".to_owned()]);
        assert_eq!(table.to_string(), "id     reason\nmsg_1  too_deep\né      a\\nb\n美咲   x\n");
    }
}
