//! Cause of an error of the server: one row, a time limit, or something that affects every row.
//!
//! A team's triggers, functions and policies run inside our statements and may raise any SQLSTATE, so the
//! state alone does not show the cause. Two fields do, in every language of the server:
//!
//! * the routine of the server that reported the error: `RAISE` and `ASSERT` of PL/pgSQL, the check of
//!   policies;
//! * the context, in which the server names the function that was running. A setting of the server
//!   (`log_parameter_max_length_on_error`) puts the parameters of our own statement there too; these are ignored.

use rollbook_core::store::SlowCause;
use sqlx::postgres::{PgDatabaseError, PgSeverity};

/// Maximum length of a repeated text of the server, in characters.
const WORDS_MAX: usize = 200;

/// Cause of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame {
    /// One row: a trigger or function raised the error for this row.
    Row,
    /// One row or all rows: the outcome of the others decides.
    RowOrAll,
    /// A time limit.
    Time(SlowCause),
    /// No row: the server, the connection or the deployment.
    Nobody,
}

/// Fields of an error that show its origin.
#[derive(Clone, Copy, Debug)]
struct Origin<'a> {
    state: &'a str,
    /// Whether the connection survives the error.
    is_mild: bool,
    routine: Option<&'a str>,
    context: Option<&'a str>,
}

impl<'a> Origin<'a> {
    fn of(error: &'a PgDatabaseError) -> Self {
        Self {
            state: error.code(),
            is_mild: error.severity() == PgSeverity::Error,
            routine: error.routine(),
            context: error.r#where(),
        }
    }

    /// Returns whether PL/pgSQL code raised the error on purpose: its state may be any.
    fn is_raised(self) -> bool {
        self.is_mild && matches!(self.routine, Some("exec_stmt_raise" | "exec_stmt_assert"))
    }

    /// Returns whether a function was running. The first line of the context is the innermost.
    fn is_in_function(self) -> bool {
        let first = self.context.and_then(|context| context.lines().next()).unwrap_or_default();
        let kind = first.split(['"', '«', '»', '„', '\'', '$', ':']).next().unwrap_or_default();
        ["PL/", "SQL"].iter().any(|language| kind.contains(language))
    }

    /// Returns whether a trigger may have caused an error that is not about a row: a trigger may end the
    /// session, or change the role, the limits or the transaction of the statements that follow.
    fn may_be_of_a_row(self) -> bool {
        match self.state.get(..2).unwrap_or_default() {
            // What a connection is refused with; a full or failing disk.
            "28" | "3D" | "53" | "58" => false,
            "08" | "25" | "57" => true,
            _ => !self.is_mild || self.state == "42501",
        }
    }

    fn is_missing_right(self) -> bool {
        self.state == "42501" && self.is_mild && self.blame() == Blame::Nobody
    }

    fn is_state_of_a_function(self) -> bool {
        self.is_mild && self.is_in_function() && matches!(self.state.get(..2), Some("08" | "57"))
    }

    fn blame(self) -> Blame {
        if self.is_raised() {
            return Blame::Row;
        }
        match self.state {
            "57014" => return Blame::Time(SlowCause::Statement),
            "25P04" => return Blame::Time(SlowCause::Call),
            "55P03" => return Blame::Time(SlowCause::Lock),
            "40001" | "40P01" => return Blame::Time(SlowCause::Conflict),
            _ if !self.is_mild => return Blame::Nobody,
            "42501" if self.routine == Some("ExecWithCheckOptions") => return Blame::RowOrAll,
            // No connection left; a full or failing disk, which refuses now this row and now that one, as
            // pages have room.
            "53300" | "53100" | "58000" | "58030" => return Blame::Nobody,
            _ => {}
        }
        let class = self.state.get(..2).unwrap_or_default();
        match class {
            // Resources, the system, damage, and what is not known here.
            "53" | "54" | "55" | "58" | "F0" | "XX" => Blame::RowOrAll,
            "08" | "25" | "26" | "57" if self.is_in_function() => Blame::RowOrAll,
            "08" | "25" | "26" | "57" => Blame::Nobody,
            _ if self.is_in_function() => Blame::Row,
            // Our own statement or login: a right, a table or a column is missing, or a prepared statement is stale.
            "0A" | "28" | "3D" | "3F" => Blame::Nobody,
            "42" if matches!(self.state, "42501" | "42P01" | "42P05" | "42703") => Blame::Nobody,
            _ => Blame::RowOrAll,
        }
    }
}

/// Returns the cause of an error.
pub(crate) fn of(error: &PgDatabaseError) -> Blame {
    Origin::of(error).blame()
}

/// Returns whether a trigger may have caused an error that is not about a row, by a change of the session.
pub(crate) fn may_be_of_a_row(error: &PgDatabaseError) -> bool {
    Origin::of(error).may_be_of_a_row()
}

/// Returns whether a statement of our own lacks a right. The check of a policy has the same state.
pub(crate) fn is_missing_right(error: &PgDatabaseError) -> bool {
    Origin::of(error).is_missing_right()
}

/// Returns whether a function raised a state that the server would use about itself or the connection: the
/// server ends the session with its own.
pub(crate) fn is_state_of_a_function(error: &PgDatabaseError) -> bool {
    Origin::of(error).is_state_of_a_function()
}

/// Returns whether a function raised the error on purpose: its state shows nothing about server and connection.
pub(crate) fn is_raised(error: &PgDatabaseError) -> bool {
    Origin::of(error).is_raised()
}

/// Returns the innermost function that was running, in the server's words: `PL/pgSQL function f() line 3 at
/// RAISE`. The text contains identifiers only: lines that quote a statement, which may quote values, are left out.
pub(crate) fn function(error: &PgDatabaseError) -> Option<String> {
    function_in(error.r#where()?)
}

fn function_in(context: &str) -> Option<String> {
    let quotes = ['"', '«', '»', '„', '\'', '$'];
    let mut lines = context.lines().filter(|line| line.contains("PL/") && !line.contains(quotes));
    lines.next().map(short)
}

/// Returns the server's own words. Only for errors that name identifiers and no values: of a refused
/// connection and of a policy.
pub(crate) fn words(error: &PgDatabaseError) -> String {
    short(error.message())
}

/// Returns the text in one line, at most [`WORDS_MAX`] characters.
fn short(text: &str) -> String {
    let plain = |letter: char| if letter.is_control() { ' ' } else { letter };
    text.chars().take(WORDS_MAX).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FUNCTION: &str = "PL/pgSQL function public.t() line 1 at SQL statement";

    fn error(state: &str) -> Origin<'_> {
        Origin { state, is_mild: true, routine: None, context: None }
    }

    #[test]
    fn what_a_function_raises_on_purpose_is_the_rows_whatever_its_state() {
        for state in [
            "P0001", "PT402", "42P01", "42501", "0A000", "XX000", "25006", "57014", "40001", "08006",
            "53100", "57P01", "58000", "26000",
        ] {
            for routine in ["exec_stmt_raise", "exec_stmt_assert"] {
                let raised = Origin { routine: Some(routine), ..error(state) };
                assert_eq!(raised.blame(), Blame::Row, "{state}");
                let fatal = Origin { is_mild: false, ..raised };
                assert_ne!(fatal.blame(), Blame::Row, "{state}: the server ends the session");
            }
        }
    }

    #[test]
    fn what_goes_wrong_inside_a_function_is_the_rows_unless_it_may_be_the_servers() {
        for context in [
            FUNCTION,
            "SQL statement \"insert into nosuch values(1)\"\nPL/pgSQL function public.t() line 1 at SQL statement",
            "PL/pgSQL-Funktion public.t() Zeile 1 bei SQL-Anweisung",
            "fonction PL/pgSQL public.t(), ligne 1, à instruction SQL",
            "SQL-Anweisung »insert into nosuch values(1)«",
            "PL/Python function \"t\"",
            "SQL function \"t\" statement 1",
        ] {
            for state in ["42P01", "42883", "42501", "42601", "0A000", "PT402", "38000", "2F005"] {
                let inside = Origin { context: Some(context), ..error(state) };
                assert_eq!(inside.blame(), Blame::Row, "{state} in {context}");
            }
            for state in ["53200", "XX000", "25006", "57P05", "08006"] {
                let inside = Origin { context: Some(context), ..error(state) };
                assert_eq!(inside.blame(), Blame::RowOrAll, "{state} in {context}");
            }
            for state in ["53100", "58030"] {
                let inside = Origin { context: Some(context), ..error(state) };
                assert_eq!(inside.blame(), Blame::Nobody, "{state} in {context}: the disk");
            }
        }
    }

    #[test]
    fn parameters_in_the_context_do_not_count_as_a_function() {
        for context in [
            "unnamed portal with parameters: $1 = '{SQL}'",
            "extended query with parameters: $1 = 'PL/pgSQL'",
            "Portal »c_1« mit Parametern: $1 = 'SQL'",
            "while inserting index tuple (0,1) in relation \"users\"",
        ] {
            let ours = Origin { context: Some(context), ..error("42501") };
            assert_eq!(ours.blame(), Blame::Nobody, "{context}");
            assert_eq!(function_in(context), None, "{context}");
        }
    }

    #[test]
    fn a_policy_and_damage_may_be_one_rows_and_a_full_disk_a_missing_right_or_table_is_not() {
        let policy = Origin { routine: Some("ExecWithCheckOptions"), ..error("42501") };
        assert_eq!(policy.blame(), Blame::RowOrAll);
        for state in
            ["42704", "42883", "42804", "53200", "54000", "55000", "XX000", "XX001", "F0000", "99999"]
        {
            assert_eq!(error(state).blame(), Blame::RowOrAll, "{state}");
        }
        for state in [
            "42501", "42P01", "42703", "0A000", "28P01", "3D000", "53100", "53300", "57P01", "58030",
            "08006", "25006",
        ] {
            assert_eq!(error(state).blame(), Blame::Nobody, "{state}");
        }
    }

    #[test]
    fn a_state_of_the_server_is_a_functions_only_inside_one_and_a_missing_right_only_outside() {
        for state in ["57P01", "57P03", "08006"] {
            let inside = Origin { context: Some("PL/Python function \"t\""), ..error(state) };
            assert!(inside.is_state_of_a_function() && !error(state).is_state_of_a_function(), "{state}");
            let fatal = Origin { is_mild: false, ..inside };
            assert!(!fatal.is_state_of_a_function(), "{state}: the server ends the session");
        }
        let inside = Origin { context: Some(FUNCTION), ..error("42501") };
        let policy = Origin { routine: Some("ExecWithCheckOptions"), ..error("42501") };
        assert!(error("42501").is_missing_right());
        assert!(
            !inside.is_missing_right() && !policy.is_missing_right() && !error("25006").is_missing_right()
        );
    }

    #[test]
    fn the_end_of_the_session_and_a_changed_role_may_be_a_triggers_and_a_full_disk_or_a_refused_login_is_not()
    {
        let fatal = |state| Origin { is_mild: false, ..error(state) };
        for state in ["57P01", "08006", "25006", "42501"] {
            assert!(error(state).may_be_of_a_row(), "{state}");
        }
        assert!(fatal("57P01").may_be_of_a_row() && fatal("XX000").may_be_of_a_row());
        for state in ["53100", "53300", "58030", "28P01", "3D000"] {
            assert!(!error(state).may_be_of_a_row() && !fatal(state).may_be_of_a_row(), "{state}");
        }
        for state in ["42P01", "42703", "26000", "42P05", "0A000"] {
            assert!(!error(state).may_be_of_a_row(), "{state}: a migration or a pooler");
        }
    }

    #[test]
    fn time_limits_are_distinguished() {
        for (state, cause) in [
            ("57014", SlowCause::Statement),
            ("55P03", SlowCause::Lock),
            ("40001", SlowCause::Conflict),
            ("40P01", SlowCause::Conflict),
        ] {
            let inside = Origin { context: Some(FUNCTION), ..error(state) };
            assert_eq!((error(state).blame(), inside.blame()), (Blame::Time(cause), Blame::Time(cause)));
        }
    }

    #[test]
    fn the_function_is_named_without_a_statement_or_a_value() {
        let context = "SQL statement \"select 'ImASecret'\"\nPL/pgSQL function public.t() line 1 at EXECUTE\n\
                       unnamed portal with parameters: $1 = 'PL/ImASecret'";
        let named = function_in(context).expect("a function");
        assert_eq!(named, "PL/pgSQL function public.t() line 1 at EXECUTE");
        assert_eq!(function_in("SQL statement \"select 'PL/ImASecret'\""), None);
        assert_eq!(short(&"é\n".repeat(500)), "é ".repeat(100));
    }
}
