//! Meaning of an error of a migration's statement.
//!
//! Statements of migrations contain no values, so Postgres's messages about them name objects only. They are shown unless
//! the error comes from within a trigger or function.

use sqlx::postgres::{PgDatabaseError, PgSeverity};

use crate::address::Address;
use crate::fault::{self, Fault, database_error};
use crate::rights::plain;

/// Maximum characters shown of the list of objects that depend on a table.
const DETAIL_MAX: usize = 600;

/// Classifies an error of a statement of a migration.
pub(super) fn judge(address: &Address, step: &str, error: &sqlx::Error) -> Fault {
    let of_others = database_error(error).and_then(of_others);
    if let Some(what) = of_others {
        return Fault::Deployment(format!("{address}: migration {step} can't be applied: {what}"));
    }
    if database_error(error).is_some_and(|error| error.code() == "55P03") {
        return Fault::Unavailable(format!(
            "{address}: migration {step} is not applied yet: another session has had an open transaction on a table that it \
             changes for too long. Fix: end that session (pg_stat_activity shows it), then run rollbook migrate again; it \
             continues where it stopped"
        ));
    }
    match fault::judge(address, error).innermost() {
        // A migration contains no values: a constraint or a trigger of the team refuses rows that it rewrites.
        Fault::Data(text) => Fault::Deployment(format!(
            "{address}: migration {step} can't be applied: {text}; drop the constraint or disable the trigger on the table, \
             run rollbook migrate again, then restore it"
        )),
        Fault::Deployment(text) => Fault::Deployment(format!("migration {step} can't be applied: {text}")),
        other => Fault::Unavailable(format!("migration {step} is not applied yet: {other}")),
    }
}

/// Names the object of another owner that prevents the migration, if there is one.
fn of_others(error: &PgDatabaseError) -> Option<String> {
    let is_of_step = error.r#where().is_none() && error.severity() == PgSeverity::Error;
    let words = if is_of_step { error.message() } else { "an object depends on a table that it changes" };
    let mut what = match error.code() {
        "2BP01" | "2B000" | "42P16" | "0A000" => format!(
            "objects that are not Rollbook's depend on a table that it changes. Drop them, run rollbook migrate again, then \
             create them again (in a view name the columns instead of *): {words}"
        ),
        "55006" => format!(
            "a trigger or a query that is not Rollbook's is still at work on a table that it changes. Disable the table's \
             deferred triggers, run rollbook migrate again, then enable them: {words}"
        ),
        _ => return None,
    };
    if let Some(detail) = error.detail().filter(|_| is_of_step) {
        let detail: String = detail.chars().take(DETAIL_MAX).collect();
        what = format!("{what}: {}", detail.replace('\n', "; "));
    }
    Some(format!("{} (SQLSTATE {})", plain(what), error.code()))
}
