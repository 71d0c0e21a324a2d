//! The store in one schema: the tables of the contract and the ledger.
//!
//! A batch is one transaction of a few statements, however many changes it has: one SELECT reads the states of
//! all its subjects and their parents, [`rollbook_core::merge::fold`] computes the effect of each change and the
//! final state of each subject, one upsert per table writes these states, sorted by id, and one INSERT
//! writes the ledger. A change that does not advance a row is not sent, so a redelivery writes nothing. Workers
//! that write the same row meet in the upsert, which accepts only the next revision of the row: the worker that
//! loses holds the row's lock, reads it again and folds again. After the commit, rows are rechecked
//! against their parents; see [`parents`] and [`recheck`].

mod access;
mod apply;
mod attempt;
mod bell;
mod cascade;
mod changes;
mod columns;
mod dependents;
mod entries;
mod erase;
mod floor;
mod forwards;
mod known;
mod ledger;
mod parents;
mod pending;
mod read;
mod recheck;
mod reconcile_sql;
mod reconciliation;
mod rehearse;
mod reset;
mod search;
mod sequence;
mod sql;
mod upkeep;
mod write;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use rollbook_core::catalog::Resource;
use rollbook_core::change::{Applied, Change};
use rollbook_core::delivery::MessageId;
use rollbook_core::pace::Pace;
use rollbook_core::protection::Protection;
use rollbook_core::store::{
    CascadeStep, ErasedCounts, Erasure, ErasureProgress, Freshness, Ledger, LedgerEntry, PendingCascades,
    ReadProgress, Reconciliation as _, RetentionChoices, RetentionLimits, RetentionStep, RowText, RowView,
    Rows, SequenceStep, Store, StoreError,
};
use rollbook_core::sweep::{LedgerSweep, Sweep};
use rollbook_core::time::{Clock, Timestamp};
use tokio::sync::Notify;

use self::apply::{Apply, Done};
use self::attempt::Steps;
use self::bell::Bell;
use self::parents::{Ids, Repair};
use self::pending::List;
use self::read::{entry, row_text, view};
use self::recheck::{Candidates, Recheck};
use self::rehearse::Rehearse;
use self::sequence::Noted;
use self::sql::Statements;
use crate::address::Address;
use crate::fault::Fault;
use crate::migrations::state::Guard;
use crate::migrations::{self, Ask};
use crate::rights;
use crate::settings::PostgresSettings;
use crate::transaction::Database;
use crate::values::Values;

/// A store in a schema of a Postgres database.
pub struct PostgresStore {
    database: Arc<Database>,
    clock: Arc<dyn Clock>,
    statements: Statements,
    access: access::Statements,
    schema: String,
    retention: RetentionChoices,
    statement_timeout: Duration,
    /// Pace of steps that write rows.
    pace: Pace,
    /// Pace of steps that remove ledger entries.
    ledger_pace: Pace,
    sweep: Mutex<Sweep>,
    ledger_sweep: Mutex<LedgerSweep>,
    /// Notified when work is left for [`Store::cascade`].
    left: Notify,
    /// Pace of steps that give lines of the change feed their positions, or remove lines.
    feed_pace: Pace,
    /// Notified when lines may wait for [`Store::sequence`].
    noted: Noted,
    /// Waits of readers of the change feed.
    bell: Bell,
}

impl PostgresStore {
    /// Returns a store that connects at its first use, and again whenever a connection is lost.
    ///
    /// # Errors
    /// The URL or the schema's name is invalid.
    pub fn new(settings: PostgresSettings, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let (address, _) = Address::of(&settings).map_err(StoreError::Deployment)?;
        let schema = migrations::schema(&settings.schema)?;
        let (statements, access) = (Statements::new(&schema), access::Statements::new(&schema));
        let guard = Guard::new(address.clone(), &schema);
        let database = Arc::new(Database::new(address, &settings).guarded(guard));
        let bell = Bell::new(&database, &schema);
        Ok(Self {
            database,
            clock,
            statements,
            access,
            schema: settings.schema,
            retention: RetentionChoices::default(),
            statement_timeout: settings.statement_timeout,
            pace: Pace::default(),
            ledger_pace: Pace::default(),
            sweep: Mutex::default(),
            ledger_sweep: Mutex::default(),
            left: Notify::new(),
            feed_pace: Pace::default(),
            noted: Noted::default(),
            bell,
        })
    }

    /// Sets what the store retains.
    #[must_use]
    pub fn with_retention(self, retention: RetentionChoices) -> Self {
        Self { retention, ..self }
    }

    fn steps(&self) -> Steps<'_> {
        Steps { database: &self.database, statement_timeout: self.statement_timeout }
    }

    /// Returns an error with the statements that grant the rights that this SELECT finds missing.
    async fn check_rights(&self, forbidden: &str) -> Result<(), StoreError> {
        let (address, schema) = (self.database.address(), &self.schema);
        let lacking = self.database.run(&rights::Ask { sql: forbidden }).await?;
        if lacking.is_empty() {
            return Ok(());
        }
        Err(Fault::Deployment(format!(
            "{address}: user {} lacks rights in schema {schema}. Fix, as the owner of the tables or a superuser: {} ({})",
            address.user(),
            rights::grants(&lacking),
            rights::SCRIPT,
        ))
        .into())
    }

    /// Returns the error of a batch. If one row may have caused it, the store is checked first: a server that is
    /// unreachable or a missing right is reported instead.
    async fn checked(&self, fault: Fault) -> StoreError {
        if let (Fault::Ambiguous(_), Err(error)) = (&fault, self.ping().await) {
            return error;
        }
        fault.of_batch()
    }

    /// Repairs, after a commit, stale rows of the batch and stale child rows. Rows that are too many for one transaction,
    /// are refused or time out become pending work, durably, before the delivery can be acknowledged.
    async fn recheck(&self, candidates: &Candidates) -> Result<(), StoreError> {
        let statements = &self.statements;
        let address = Some(self.database.address());
        let found = self.database.run(&Recheck { address, statements, candidates }).await?;
        if found.is_empty() {
            return Ok(());
        }
        let mut rows = found.candidates.clone();
        for (number, ids) in found.children.iter().filter(|_| !found.has_more) {
            rows.entry(*number).or_default().extend(ids.iter().cloned());
        }
        let repair = Repair { statements, rows: &rows, now: self.clock.now() };
        let is_repaired = self.steps().attempt(parents::BATCH_MAX, &repair).await?.is_ok();
        let none = Ids::new();
        let entries = match (is_repaired, found.has_more) {
            (true, false) => return Ok(()),
            (true, true) => candidates.entries(true, &none),
            (false, has_more) => {
                candidates.entries(has_more || !found.children.is_empty(), &found.candidates)
            }
        };
        tracing::info!(
            entries = entries.len(),
            "child rows of deleted parents are many, or some could not be changed: they are processed in steps, while \
             deliveries continue"
        );
        let noted = pending::noting(&entries, Duration::ZERO);
        self.database.rows(&statements.pending.note, noted, |_| Ok(())).await?;
        self.left.notify_one();
        Ok(())
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn apply_many(&self, changes: &[Change]) -> Result<Vec<Applied>, StoreError> {
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        let (retention, now) = (self.retention, self.clock.now());
        let work = Apply { statements: &self.statements, changes, retention, now };
        let Done { outcomes, candidates } = match self.database.run(&work).await {
            Ok(done) => done,
            Err(fault) => return Err(self.checked(fault).await),
        };
        self.noted.note();
        if !candidates.is_empty() {
            self.recheck(&candidates).await?;
        }
        Ok(outcomes)
    }

    async fn remember_instance(&self, id: &str) -> Result<(), StoreError> {
        self.save_freshness(&Freshness::of_instance(id, self.clock.now())).await
    }

    async fn cascade(&self) -> Result<CascadeStep, StoreError> {
        let done = self.turn().await;
        self.noted.note_if(done.as_ref().map_or(1, |done| done.rows));
        done
    }

    async fn cascade_pending(&self) {
        self.left.notified().await;
    }

    async fn sequence(&self) -> Result<SequenceStep, StoreError> {
        self.sequence_step().await
    }

    async fn sequence_pending(&self) {
        self.noted.noted().await;
    }

    async fn retain(&self, due: &RetentionLimits) -> Result<RetentionStep, StoreError> {
        let done = self.retain(due).await;
        self.noted.note_if(done.as_ref().map_or(1, |done| done.rows));
        done
    }

    fn protection(&self) -> Option<Protection> {
        self.database.address().link().protection()
    }

    async fn ping(&self) -> Result<(), StoreError> {
        let (address, schema) = (self.database.address(), &self.schema);
        let state = match self.database.run(&Ask { schema }).await {
            Ok(state) => state,
            Err(fault) => return Err(rights::with_grants(&self.database, schema, fault).await.into()),
        };
        if let Some(name) = state.pending(address, schema).map_err(Fault::from)?.first() {
            return Err(
                Fault::Deployment(format!("migration {name} is pending; run: rollbook migrate")).into()
            );
        }
        self.check_rights(&self.statements.forbidden).await
    }

    async fn rehearse(&self) -> Result<bool, StoreError> {
        let (retention, now) = (self.retention, self.clock.now());
        self.database.run(&Rehearse { statements: &self.statements, retention, now }).await?;
        Ok(true)
    }

    async fn unpinned_triggers(&self) -> Result<Vec<String>, StoreError> {
        Ok(self.database.names(&self.statements.unpinned).await?)
    }
}

#[async_trait]
impl Rows for PostgresStore {
    async fn get(&self, resource: &'static Resource, id: &str) -> Result<Option<RowView>, StoreError> {
        let sql = &self.statements.of(resource).get;
        Ok(self.database.rows(sql, Values::default().with(id), |row| view(resource, row)).await?.pop())
    }

    async fn get_text(&self, resource: &'static Resource, id: &str) -> Result<Option<RowText>, StoreError> {
        let sql = &self.statements.of(resource).get;
        Ok(self.database.rows(sql, Values::default().with(id), |row| row_text(resource, row)).await?.pop())
    }

    async fn rows(
        &self,
        resource: &'static Resource,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<RowView>, StoreError> {
        let sql = &self.statements.of(resource).rows;
        let values = Values::default().with(after.unwrap_or_default()).with_limit(limit);
        Ok(self.database.rows(sql, values, |row| view(resource, row)).await?)
    }

    async fn rows_where(
        &self,
        resource: &'static Resource,
        column: &'static str,
        value: &str,
        limit: usize,
    ) -> Result<Vec<RowView>, StoreError> {
        let Some(sql) = sql::rows_where(&self.schema, resource, column) else { return Ok(Vec::new()) };
        let values = Values::default().with(value).with_limit(limit);
        Ok(self.database.rows(&sql, values, |row| view(resource, row)).await?)
    }

    async fn ids_holding(
        &self,
        resource: &'static Resource,
        texts: &[String],
        limit: usize,
        progress: &ReadProgress<'_>,
    ) -> Result<Vec<String>, StoreError> {
        self.search(resource, texts, limit, progress).await
    }

    async fn cascades(&self, about: Option<&str>, limit: usize) -> Result<PendingCascades, StoreError> {
        Ok(self.database.run(&List { statements: &self.statements.pending, about, limit }).await?)
    }
}

#[async_trait]
impl Ledger for PostgresStore {
    async fn deliveries(&self, subject_id: &str, limit: usize) -> Result<Vec<LedgerEntry>, StoreError> {
        let values = Values::default().with(subject_id).with_limit(limit);
        let mut entries = self.database.rows(&self.statements.deliveries, values, entry).await?;
        entries.reverse();
        Ok(entries)
    }

    async fn delivery(&self, id: &MessageId) -> Result<Option<LedgerEntry>, StoreError> {
        let values = Values::default().with(id.as_str());
        Ok(self.database.rows(&self.statements.delivery, values, entry).await?.pop())
    }
}

#[async_trait]
impl Erasure for PostgresStore {
    async fn erase_in_steps(
        &self,
        subjects: &[(&'static Resource, String)],
        at: Timestamp,
        progress: &ErasureProgress<'_>,
    ) -> Result<ErasedCounts, StoreError> {
        let mut subjects = subjects.to_vec();
        subjects.sort_by(|(one, id), (other, other_id)| (one.number, id).cmp(&(other.number, other_id)));
        let erased = self.erase_subjects(&subjects, at, progress).await;
        self.noted.note();
        erased
    }

    async fn hidden_tables(&self) -> Result<Vec<String>, StoreError> {
        Ok(self.database.names(&self.statements.hidden).await?)
    }
}
