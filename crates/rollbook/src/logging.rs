//! Logging to standard error. Standard output is for data.
//!
//! Each event is one line, whatever it contains, and no text controls the terminal. `tracing-subscriber` and
//! JSON escape most characters; [`Harmless`] escapes the rest.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write};

use anyhow::{Context as _, anyhow};
use tracing_subscriber::EnvFilter;

use crate::config::{Environment, LogFormat, Settings};
use crate::output::turns;

/// Starts logging. The configuration has checked the filter.
pub(crate) fn start(settings: &Settings, environment: &Environment) -> anyhow::Result<()> {
    let filter = EnvFilter::builder().parse(&settings.log).context("the filter of the log")?;
    let on_terminal = io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| Harmless(io::stderr()))
        .with_ansi(on_terminal && !environment.no_color());
    let started = match settings.log_format {
        Some(LogFormat::Json) => builder.json().try_init(),
        None if !on_terminal => builder.json().try_init(),
        _ => builder.compact().try_init(),
    };
    started.map_err(|error| anyhow!("the log can't be started: {error}"))
}

/// Writes complete events.
struct Harmless<Out>(Out);

impl<Out: Write> Write for Harmless<Out> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.0.write_all(harmless(&String::from_utf8_lossy(event)).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Escapes every line break but the last, every control character of the upper half (U+009B begins commands
/// too) and every character that changes the direction of writing, in the form of JSON, where they occur in
/// strings only. Colours begin with U+001B, which `tracing-subscriber` escapes in values.
fn harmless(event: &str) -> Cow<'_, str> {
    let line = event.strip_suffix('\n').unwrap_or(event);
    let steers =
        |c: char| matches!(c, '\n' | '\r' | '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}') || turns(c);
    if !line.contains(steers) {
        return Cow::Borrowed(event);
    }
    let mut clean = String::with_capacity(event.len() + 16);
    for c in line.chars() {
        if steers(c) {
            // Writing to a String can't fail.
            let _ = write!(clean, "\\u{:04x}", u32::from(c));
        } else {
            clean.push(c);
        }
    }
    clean.push_str(&event[line.len()..]);
    Cow::Owned(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_without_control_characters() {
        let plain = "INFO \u{1b}[1mZoë\u{1b}[0m 漢字\n";
        assert!(matches!(harmless(plain), Cow::Borrowed(same) if same == plain), "colours are left");
        assert_eq!(harmless("a\nINFO b\r\u{9b}1m\u{202e}c\n"), "a\\u000aINFO b\\u000d\\u009b1m\\u202ec\n");
        let json = format!("{}\n", serde_json::json!({ "type": "\u{9b}\u{202e}\n" }));
        let read: serde_json::Value = serde_json::from_str(&harmless(&json)).expect("it is still JSON");
        assert_eq!(read["type"], "\u{9b}\u{202e}\n", "and has the same value");
    }

    #[test]
    fn the_whole_event_is_written() {
        let mut out = Harmless(Vec::new());
        out.write_all("a\u{85}b\n".as_bytes()).expect("memory");
        assert_eq!(out.0, b"a\\u0085b\n");
    }
}
