//! What an operator or time takes away.

use std::collections::BTreeSet;

use rollbook_core::catalog::{LINKS_MAX, RESOURCES, Resource};
use rollbook_core::merge::Inherited;
use rollbook_core::store::{Due, ErasedCounts, Tidied};
use rollbook_core::time::Timestamp;
use sqlx::Arguments as _;
use sqlx::Row as _;
use sqlx::postgres::PgArguments;

use super::apply::{self, Asked, Seen};
use super::inherit::{Doubtful, Mend};
use super::sql::{Statements, number_of};
use super::write::{Write, arguments};
use crate::fault::NotWritten;
use crate::transaction::{Session, Work};
use crate::types::Time;

/// What an erasure is told by, in the place of a `svix-id`.
const ERASED_BY: &str = "erase";
/// How often a subject is written that others write meanwhile; see [`apply`].
const WRITES_MAX: usize = 3;

/// Removes what is kept of these subjects and of what is theirs.
pub(super) struct Erase<'a> {
    pub(super) statements: &'a Statements,
    /// In the order in which tables are written.
    pub(super) subjects: &'a [(&'static Resource, String)],
    pub(super) at: Timestamp,
}

impl Work for Erase<'_> {
    type Output = ErasedCounts;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<ErasedCounts> {
        for (resource, id) in self.subjects {
            self.bury(session, resource, id).await?;
        }
        let doubtful = self.doubtful();
        let mut gone: BTreeSet<String> = doubtful.belonging(self.statements, session).await?;
        mend_all(self.statements, session, &doubtful, self.at).await?;
        gone.extend(self.subjects.iter().map(|(_, id)| id.clone()));
        let mut arguments = PgArguments::default();
        arguments.add(gone.iter().map(String::as_str).collect::<Vec<&str>>()).map_err(sqlx::Error::Encode)?;
        let ledger = session.fetch(&self.statements.forget, arguments).await?.len();
        Ok(ErasedCounts { rows: gone.len() as u64, ledger: ledger as u64 })
    }
}

impl Erase<'_> {
    /// What hangs on or belongs to the subjects.
    pub(super) fn doubtful(&self) -> Doubtful {
        let mut doubtful = Doubtful { with_survivors: true, ..Doubtful::default() };
        for (resource, id) in self.subjects {
            doubtful.parents.entry(resource.table).or_default().insert(id.clone());
        }
        doubtful
    }

    async fn bury(
        &self,
        session: &mut Session<'_>,
        resource: &'static Resource,
        id: &str,
    ) -> sqlx::Result<()> {
        let number = number_of(resource);
        for _ in 0..WRITES_MAX {
            let mut asked = Asked::default();
            asked.subjects[number].insert(id);
            let known = apply::known(self.statements, session, &asked).await?;
            let Seen { stored, revision, .. } = known[number].get(id).copied().unwrap_or_default();
            let (state, inherited) = (stored.forgotten(self.at), Inherited::default());
            let write = Write {
                id,
                row: None,
                parents: [None; LINKS_MAX],
                state,
                revision: revision + 1,
                inherited,
                synced_by: ERASED_BY,
            };
            let arguments = arguments(resource, &[write], self.at).map_err(sqlx::Error::Encode)?;
            if !session.fetch(&self.statements.of(resource).upsert, arguments).await?.is_empty() {
                return Ok(());
            }
        }
        Err(NotWritten.into())
    }
}

/// Within one transaction, for what it has done to parents itself.
async fn mend_all(
    statements: &Statements,
    session: &mut Session<'_>,
    doubtful: &Doubtful,
    now: Timestamp,
) -> sqlx::Result<()> {
    while (Mend { statements, doubtful, now }).run(session).await? {}
    Ok(())
}

/// One small step of what time brings about. Gives those parents too whose content is gone now.
pub(super) struct Tidy<'a> {
    pub(super) statements: &'a Statements,
    pub(super) due: &'a Due,
    pub(super) now: Timestamp,
}

impl Work for Tidy<'_> {
    type Output = (Tidied, Doubtful);

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<(Tidied, Doubtful)> {
        let (mut tidied, mut doubtful) = (Tidied::default(), Doubtful::default());
        let limit = |limit| i64::try_from(limit).unwrap_or(i64::MAX);
        if let Some(before) = self.due.ledger_before {
            let mut arguments = PgArguments::default();
            arguments.add(Time(before)).map_err(sqlx::Error::Encode)?;
            arguments.add(limit(self.due.limit)).map_err(sqlx::Error::Encode)?;
            tidied.ledger = session.fetch(&self.statements.prune, arguments).await?.len() as u64;
        }
        let Some(before) = self.due.deleted_before else { return Ok((tidied, doubtful)) };
        for resource in RESOURCES {
            let left = self.due.limit.saturating_sub(usize::try_from(tidied.rows).unwrap_or(usize::MAX));
            let mut arguments = PgArguments::default();
            arguments.add(Time(before)).map_err(sqlx::Error::Encode)?;
            arguments.add(limit(left)).map_err(sqlx::Error::Encode)?;
            let rows = session.fetch(&self.statements.of(resource).erase_ended, arguments).await?;
            tidied.rows += rows.len() as u64;
            for row in rows {
                doubtful.parents.entry(resource.table).or_default().insert(row.try_get(0)?);
            }
        }
        mend_all(self.statements, session, &doubtful, self.now).await?;
        Ok((tidied, doubtful))
    }
}
