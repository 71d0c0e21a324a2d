//! Findings of checks, as text and as JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::output::{Style, Table, harmless};

/// State of what was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Works as it should.
    Ok,
    /// Works, and needs attention.
    Warning,
    /// Does not work, or will not.
    Failed,
    /// Not checked; the finding says why.
    Skipped,
}

impl State {
    const ALL: [Self; 4] = [Self::Failed, Self::Warning, Self::Ok, Self::Skipped];

    const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }

    fn paint(self, style: Style) -> String {
        match self {
            Self::Ok => style.green(self.name()),
            Self::Warning => style.yellow(self.name()),
            Self::Failed => style.red(self.name()),
            Self::Skipped => style.dim(self.name()),
        }
    }
}

/// One line of the report.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    pub(super) check: &'static str,
    pub(super) state: State,
    pub(super) found: String,
    fix: Option<String>,
}

/// All findings, in the order of the report.
pub(super) type Findings = Vec<Finding>;

/// Returns a finding in state [`State::Ok`].
pub(super) fn ok(check: &'static str, found: impl Into<String>) -> Finding {
    Finding { check, state: State::Ok, found: found.into(), fix: None }
}

/// Returns a finding in state [`State::Skipped`].
pub(super) fn skipped(check: &'static str, why: impl Into<String>) -> Finding {
    Finding { check, state: State::Skipped, found: why.into(), fix: None }
}

/// Returns a finding in state [`State::Warning`].
pub(super) fn warning(check: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding { check, state: State::Warning, found: found.into(), fix: Some(fix.into()) }
}

/// Returns a finding in state [`State::Failed`].
pub(super) fn failed(check: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding { check, state: State::Failed, found: found.into(), fix: Some(fix.into()) }
}

/// Formats the findings as a table, with the number of findings in each state.
pub(super) fn text(findings: &[Finding], style: Style) -> String {
    let mut table = Table::new(&["check", "state", "found"]);
    for Finding { check, state, found, fix } in findings {
        let fix = fix.as_ref().map_or(String::new(), |fix| format!(" → {fix}"));
        table.row([(*check).to_owned(), state.name().to_owned(), format!("{found}{fix}")]);
    }
    let table = table.to_string();
    let mut lines = table.lines();
    let mut text = lines.next().map(|heading| style.bold(heading)).unwrap_or_default();
    for (line, Finding { check, state, .. }) in lines.zip(findings) {
        // Colours are added after the alignment: their escape codes have no width on the screen.
        let rest = line[check.len()..].replacen(state.name(), &state.paint(style), 1);
        // Writing to a String can't fail.
        let _ = write!(text, "\n{check}{rest}");
    }
    let _ = write!(text, "\n\n{}", counts(findings));
    text
}

fn counts(findings: &[Finding]) -> String {
    let count = |state: State| findings.iter().filter(|finding| finding.state == state).count();
    let present = State::ALL.into_iter().filter(|state| count(*state) > 0);
    present.map(|state| format!("{} {}", count(state), state.name())).collect::<Vec<_>>().join(", ")
}

/// Formats the findings as JSON.
pub(super) fn json(findings: &[Finding]) -> Value {
    let entry = |Finding { check, state, found, fix }: &Finding| {
        json!({
            "check": check,
            "state": state.name(),
            "found": harmless(found),
            "fix": fix.as_deref().map(harmless),
        })
    };
    json!({
        "healthy": findings.iter().all(|finding| finding.state != State::Failed),
        "checks": findings.iter().map(entry).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_finding_is_one_line_that_lines_up_with_the_others_and_says_the_fix() {
        let findings = [
            ok("queue", "SQLite q.db"),
            warning("dead_letters", "2 are\nparked", "rollbook dead-letters list"),
            failed("store", "unreachable", "start it"),
        ];
        let expected = "check         state    found\n\
                        queue         ok       SQLite q.db\n\
                        dead_letters  warning  2 are\\nparked → rollbook dead-letters list\n\
                        store         failed   unreachable → start it\n\n\
                        1 failed, 1 warning, 1 ok";
        assert_eq!(text(&findings, Style::PLAIN), expected);
        assert_eq!(json(&findings)["healthy"], false);
        assert_eq!(json(&findings[..2])["healthy"], true);
    }
}
