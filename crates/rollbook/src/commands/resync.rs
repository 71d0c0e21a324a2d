//! `resync`: reads single objects at Clerk now, and repairs their rows.

use anyhow::bail;
use rollbook_reconciler::{ResyncOutcome, Resynced};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::subjects::NothingKnown;
use super::{on_all_cores, reconcile};
use crate::cli::Resync;
use crate::config::Config;
use crate::output::{Table, print_as};

/// Runs the command.
///
/// # Errors
/// Some row does not show what Clerk shows, or nothing is known of the ids.
pub(crate) fn run(config: &Config, arguments: &Resync) -> anyhow::Result<()> {
    on_all_cores(async {
        let (reconciler, _) = reconcile::open(config)?;
        let stop = CancellationToken::new();
        let work = reconciler.resync(&arguments.ids, arguments.force, &stop);
        let results = match reconcile::until_signal(&stop, work).await? {
            Ok(results) => results,
            Err(error) => {
                let (error, fix) = reconcile::explained(&error, reconcile::AGAIN);
                return Err(reconcile::with_fix(&error, fix));
            }
        };
        let views: Vec<_> = results.iter().map(as_json).collect();
        print_as(arguments.output, &views, |_| text(&results))?;
        let is_known = |of: &Resynced| of.outcome != ResyncOutcome::UnknownKind;
        match results.iter().filter(|of| !of.outcome.is_success()).count() {
            0 => Ok(()),
            count if !results.iter().any(is_known) => {
                let ids = if count == 1 { "this id" } else { "these ids" };
                Err(NothingKnown(format!("nothing is known of {ids}; nothing was changed")).into())
            }
            count => bail!("{count} of {} are not in sync with Clerk", results.len()),
        }
    })
}

fn as_json(of: &Resynced) -> serde_json::Value {
    json!({ "id": of.id, "table": of.table, "outcome": of.outcome.as_str(), "fix": fix(of.outcome) })
}

fn text(results: &[Resynced]) -> String {
    let mut table = Table::new(&["id", "outcome"]);
    for of in results {
        let fix = fix(of.outcome).map_or_else(String::new, |fix| format!(" → {fix}"));
        table.row([of.id.clone(), format!("{}{fix}", meaning(of.outcome))]);
    }
    table.to_string()
}

const fn meaning(outcome: ResyncOutcome) -> &'static str {
    match outcome {
        ResyncOutcome::Inserted => "inserted: the row was missing",
        ResyncOutcome::Updated => "updated: the row was behind",
        ResyncOutcome::Unchanged => "unchanged: the row shows Clerk's object already",
        ResyncOutcome::Deleted => "deleted: Clerk does not have it any more",
        ResyncOutcome::Absent => {
            "absent: Clerk does not have it, and there is no row here that is not deleted"
        }
        ResyncOutcome::Revived => "revived: the row was deleted, and shows Clerk's object now",
        ResyncOutcome::RowIsLater => {
            "not changed: the row differs, and has a later version or deletion than Clerk's answer"
        }
        ResyncOutcome::WronglyDeleted => "deleted here, and present at Clerk",
        ResyncOutcome::Erased => "erased by an operator: it stays erased",
        ResyncOutcome::Refused => "refused: a trigger or constraint prevents the change",
        ResyncOutcome::Unproven => "unknown: Clerk's answers do not prove whether it exists",
        ResyncOutcome::NotReadable => "not read: Clerk's API has no read of one object of this table",
        ResyncOutcome::UnknownKind => "unknown: not a user or an organization, and no row has this id",
    }
}

const fn fix(outcome: ResyncOutcome) -> Option<&'static str> {
    match outcome {
        ResyncOutcome::WronglyDeleted => Some("--force revives it"),
        ResyncOutcome::RowIsLater => {
            Some("try again in a minute; if it stays, --force writes what Clerk shows")
        }
        ResyncOutcome::Refused => Some("change the trigger or constraint that the log names, then try again"),
        ResyncOutcome::Unproven => {
            Some("try again in five minutes: Clerk's answer may be older than a row that was written lately")
        }
        ResyncOutcome::NotReadable => Some("rollbook reconcile reads its list"),
        ResyncOutcome::UnknownKind => Some(
            "rollbook reconcile reads every object that Clerk's API lists; sessions, subscriptions and payments come by \
             webhooks only",
        ),
        _ => None,
    }
}
