//! Rehearsal: every kind of write of a worker, in one transaction that is rolled back.
//!
//! The rehearsal runs with the worker's role and the worker's statements, so that it fails for the same
//! reasons: rights, row-level policies, triggers, checks, an encoding, a read-only server. The rollback also
//! undoes what triggers do within the transaction, NOTIFY included; sequences keep their values.

use std::time::Duration;

use rollbook_core::catalog::{RESOURCES, USERS};
use rollbook_core::rehearsal;
use rollbook_core::store::cascades::Entry;
use rollbook_core::store::{PendingWork, RetentionChoices};
use rollbook_core::time::Timestamp;

use super::apply::{Apply, Done};
use super::entries::{Forget, old};
use super::parents::Repair;
use super::pending;
use super::recheck::Recheck;
use super::sql::Statements;
use super::upkeep::EraseContent;
use crate::transaction::{End, Session, Work};

/// Id that no user has.
const NOBODY: &str = "user_rehearsal";
/// Checks deferred constraints now, because there is no commit.
const CHECK_NOW: &str = "SET CONSTRAINTS ALL IMMEDIATE";

/// Applies made-up batches, then runs the recheck and one step of retention.
pub(super) struct Rehearse<'a> {
    pub(super) statements: &'a Statements,
    pub(super) retention: RetentionChoices,
    pub(super) now: Timestamp,
}

impl Work for Rehearse<'_> {
    type Output = ();
    const END: End = End::Rollback;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<()> {
        let Self { statements, retention, now } = *self;
        for changes in &rehearsal::batches(now) {
            let Done { candidates, .. } = Apply { statements, changes, retention, now }.run(session).await?;
            if !candidates.is_empty() {
                let recheck = Recheck { address: None, statements, candidates: &candidates };
                let found = recheck.run(session).await?;
                for rows in [found.candidates, found.children] {
                    Repair { statements, rows: &rows, now }.run(session).await?;
                }
            }
        }
        let left = [Entry::new(&USERS, NOBODY.to_owned(), PendingWork::Children)];
        let noted = pending::note(&statements.pending, session, &left, Duration::ZERO).await?;
        pending::remove(&statements.pending, session, noted.iter()).await?;
        // No row is this old.
        let before = Timestamp::from_millis(0);
        let ids = &[NOBODY.to_owned()];
        old(statements, before, None, &[], 1).run(session).await?;
        Forget { statements, entries: ids }.run(session).await?;
        for resource in RESOURCES {
            EraseContent { statements, resource, ids, before }.run(session).await?;
        }
        session.script(CHECK_NOW.to_owned()).await
    }
}
