//! Everything that a worker writes, in one transaction that is rolled back.
//!
//! It runs as the worker's role through the worker's own statements, so that what would refuse the worker refuses it:
//! rights, row-level policies, triggers, checks, an encoding, a read-only server. What a trigger does within the
//! transaction is undone with it, NOTIFY included; sequences keep what they counted.

use rollbook_core::rehearsal;
use rollbook_core::store::{Due, Keeping};
use rollbook_core::time::Timestamp;

use super::apply::{Apply, Done};
use super::inherit::Mend;
use super::look::Look;
use super::sql::Statements;
use super::upkeep::Tidy;
use crate::transaction::{End, Session, Work};

/// Constraints that wait for the commit are checked here: there is none.
const CHECK_NOW: &str = "SET CONSTRAINTS ALL IMMEDIATE";

/// Applies the made-up batches, does what follows a commit and one step of retention.
pub(super) struct Rehearse<'a> {
    pub(super) statements: &'a Statements,
    pub(super) keeping: Keeping,
    pub(super) now: Timestamp,
}

impl Work for Rehearse<'_> {
    type Output = ();
    const END: End = End::Rollback;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<()> {
        let Self { statements, keeping, now } = *self;
        for changes in &rehearsal::batches(now) {
            let Done { doubts, .. } = Apply { statements, changes, keeping, now }.run(session).await?;
            if !doubts.is_empty() {
                let doubtful = Look { statements, doubts: &doubts, now }.run(session).await?;
                while (Mend { statements, doubtful: &doubtful, now }).run(session).await? {}
            }
        }
        // Nothing is so old.
        let never = Some(Timestamp::from_millis(0));
        let due = Due { ledger_before: never, deleted_before: never, limit: 1 };
        Tidy { statements, due: &due, now }.run(session).await?;
        session.script(CHECK_NOW.to_owned()).await
    }
}
