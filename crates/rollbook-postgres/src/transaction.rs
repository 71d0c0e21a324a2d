//! Transactions: time limits, retries, and which connections are used again.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Executor as _, Row as _, raw_sql};
use tokio::time::{sleep, timeout};

use crate::address::Address;
use crate::connections::{Connections, Leased};
use crate::fault::{self, Again, Fault};
use crate::hosts::{self, Hosts};
use crate::migrations::state::{Guard, Refusal};
use crate::settings::PostgresSettings;
use crate::types::Sql;
use crate::values::Values;

/// Maximum attempts of a transaction that conflicts with another one.
const CONFLICT_TRIES: u32 = 4;
/// Pause before the second attempt; doubled before each further one.
const CONFLICT_PAUSE: Duration = Duration::from_millis(10);

/// Work for one transaction. It may run several times, so it must have no effect outside of the transaction.
pub(crate) trait Work: Sync {
    /// Result of the work.
    type Output: Send;
    /// End of the transaction after success.
    const END: End = End::Commit;

    /// Whether the schema is checked first: this Rollbook must be able to work on it.
    const GUARDED: bool = true;

    /// Classifies the error that ended the transaction.
    fn judge(&self, address: &Address, error: &sqlx::Error) -> Fault {
        fault::judge(address, error)
    }

    /// Runs the work.
    fn run(&self, session: &mut Session<'_>) -> impl Future<Output = sqlx::Result<Self::Output>> + Send;
}

/// End of a transaction after its work succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The work is committed.
    Commit,
    /// The work is rolled back.
    Rollback,
}

/// An open transaction.
pub(crate) struct Session<'a> {
    connection: &'a mut PgConnection,
    persistent: bool,
}

impl<'a> Session<'a> {
    /// Wraps the open transaction of a connection.
    pub(crate) const fn of(connection: &'a mut PgConnection) -> Self {
        Self { connection, persistent: false }
    }

    /// Runs a statement and returns its rows.
    pub(crate) async fn fetch(&mut self, sql: &Sql, arguments: PgArguments) -> sqlx::Result<Vec<PgRow>> {
        let query = sqlx::query_with(AssertSqlSafe(Arc::clone(sql)), arguments);
        (&mut *self.connection).fetch_all(query.persistent(self.persistent)).await
    }

    /// Runs statements without values, separated by semicolons, and returns their rows as texts.
    pub(crate) async fn ask(&mut self, sql: &str) -> sqlx::Result<Vec<PgRow>> {
        raw_sql(AssertSqlSafe(sql.to_owned())).fetch_all(&mut *self.connection).await
    }

    /// Checks that this session accepts writes.
    pub(crate) async fn must_be_writable(&mut self) -> sqlx::Result<()> {
        hosts::must_be_writable(self.connection).await
    }

    /// Runs statements without values, separated by semicolons. They must not end the transaction.
    pub(crate) async fn script(&mut self, sql: String) -> sqlx::Result<()> {
        raw_sql(AssertSqlSafe(sql)).execute(&mut *self.connection).await.map(drop)
    }
}

/// A database with its connections and transaction settings.
pub(crate) struct Database {
    address: Address,
    connections: Connections,
    persistent: bool,
    limit: Duration,
    begin: Sql,
    guard: Option<Guard>,
}

/// Undoes what a trigger may have set for the whole session (`SET`, not `SET LOCAL`), which would affect all
/// later rows. The session of a pooler is shared with other clients: only settings that our statements rely
/// on are reset there.
const RESET_ROLE: &str = "SET SESSION AUTHORIZATION DEFAULT; RESET ROLE";

/// Commits. The statement timeout is lifted first: during the wait for a synchronous standby it would not
/// undo the commit, but report it as done.
const COMMIT: &str = "SET LOCAL statement_timeout = 0; COMMIT";
/// Releases advisory locks that a trigger took for the whole session. Runs after a transaction, unless a
/// pooler shares the session.
const UNLOCK: &str = "; SELECT pg_catalog.pg_advisory_unlock_all()";

impl Database {
    /// Returns a database that connects at its first use. Each transaction sets everything that it relies on.
    /// Each statement is planned once per connection, with indexes and nested loops only: almost all
    /// statements read few rows by id, which a planner without statistics does not know, and a plan made for
    /// a small table must suit the table when it has grown.
    pub(crate) fn new(address: Address, settings: &PostgresSettings) -> Self {
        let statement = settings.statement_timeout.as_millis().clamp(1, i32::MAX.unsigned_abs().into());
        let pgbouncer = address.pooled;
        let reset = if pgbouncer { "RESET search_path" } else { "RESET ALL" };
        let begin = format!(
            "{RESET_ROLE}; {reset}; \
             BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL synchronous_commit = on; \
             SET LOCAL standard_conforming_strings = on; \
             SET LOCAL statement_timeout = {statement}; SET LOCAL lock_timeout = {lock}; \
             SET LOCAL idle_in_transaction_session_timeout = {statement}; \
             SET LOCAL client_min_messages = error; SET LOCAL plan_cache_mode = force_generic_plan; \
             SET LOCAL jit = off; SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off",
            lock = (statement / 2).max(1),
        );
        let mut all = address.hosts.clone();
        if pgbouncer {
            all = all.into_iter().map(|host| host.statement_cache_capacity(0)).collect();
        }
        let hosts = Hosts::new(all, address.writable, !pgbouncer);
        let (max, timeout) = (settings.connections_max, settings.connect_timeout);
        let begin: Sql = begin.into();
        Self {
            address,
            connections: Connections::new(hosts, max, timeout, Sql::clone(&begin)),
            persistent: !pgbouncer,
            // Enough for one wait for a connection and one statement at their limits, with reserve.
            limit: settings.connect_timeout * 2 + settings.statement_timeout,
            begin,
            guard: None,
        }
    }

    /// Adds a guard that checks the schema together with the `BEGIN` of each transaction.
    pub(crate) fn guarded(self, guard: Guard) -> Self {
        Self { guard: Some(guard), ..self }
    }

    /// Returns a new connection that the caller closes.
    pub(crate) async fn connect(&self) -> Result<Leased<'_>, Fault> {
        self.connections.take(true).await.map_err(|none| fault::no_connection(&self.address, &none))
    }

    /// Runs work in a transaction.
    pub(crate) async fn run<W: Work>(&self, work: &W) -> Result<W::Output, Fault> {
        self.run_within(self.limit, work).await
    }

    /// Runs work that may take up to `limit`.
    pub(crate) async fn run_within<W: Work>(&self, limit: Duration, work: &W) -> Result<W::Output, Fault> {
        if let Ok(result) = timeout(limit, self.tries(work)).await {
            return result;
        }
        // The cause of the lost answer likely affects the idle connections too.
        self.connections.close_all();
        Err(fault::no_answer(&self.address, limit))
    }

    async fn tries<W: Work>(&self, work: &W) -> Result<W::Output, Fault> {
        let (mut conflicts, mut fresh) = (0, false);
        loop {
            let taken = self.connections.take(fresh).await;
            let leased = taken.map_err(|none| fault::no_connection(&self.address, &none))?;
            let reused = leased.reused;
            let error = match self.attempt(leased, work).await {
                Ok(output) => return Ok(output),
                Err(error) => error,
            };
            match fault::again(&error) {
                Some(Again::Conflict) if conflicts + 1 < CONFLICT_TRIES => {
                    sleep(CONFLICT_PAUSE * 2_u32.pow(conflicts)).await;
                    conflicts += 1;
                }
                Some(Again::Connection) if reused && !fresh => fresh = true,
                _ => {
                    let refusal = Refusal::of(&error).map(Fault::from);
                    return Err(refusal.unwrap_or_else(|| work.judge(&self.address, &error)));
                }
            }
        }
    }

    async fn attempt<W: Work>(&self, mut leased: Leased<'_>, work: &W) -> sqlx::Result<W::Output> {
        let result = self.transaction(&mut leased, work).await;
        match &result {
            Ok(_) => self.connections.give_back(leased),
            Err(error) if fault::again(error) == Some(Again::Connection) => {
                self.connections.close_like(&leased);
            }
            Err(error) if fault::spares_connection(error) => {
                // After an error of the COMMIT itself, the transaction has ended.
                if !leased.begun || self.roll_back(&mut leased).await.is_ok() {
                    self.connections.give_back(leased);
                }
            }
            Err(_) => {}
        }
        result
    }

    async fn transaction<W: Work>(&self, leased: &mut Leased<'_>, work: &W) -> sqlx::Result<W::Output> {
        let connection = &mut leased.connection;
        match &self.guard {
            Some(guard) if W::GUARDED => {
                let begin = if leased.begun { String::new() } else { format!("{}; ", self.begin) };
                guard.begin(connection, &begin).await?;
            }
            _ if leased.begun => {}
            _ => self.connections.begin(connection).await?,
        }
        leased.begun = true;
        let session = &mut Session { connection: &mut *connection, persistent: self.persistent };
        let output = work.run(session).await?;
        leased.begun = false;
        raw_sql(AssertSqlSafe(self.end(W::END))).execute(connection).await?;
        Ok(output)
    }

    /// Returns the statements that end a transaction.
    fn end(&self, end: End) -> String {
        let end = if end == End::Commit { COMMIT } else { "ROLLBACK" };
        format!("{end}{}", if self.persistent { UNLOCK } else { "" })
    }

    async fn roll_back(&self, leased: &mut Leased<'_>) -> sqlx::Result<()> {
        raw_sql(AssertSqlSafe(self.end(End::Rollback))).execute(&mut leased.connection).await.map(drop)
    }

    /// Runs one statement, and reads its rows.
    pub(crate) async fn rows<T: Send>(
        &self,
        sql: &Sql,
        values: Values,
        read: impl Fn(&PgRow) -> sqlx::Result<T> + Sync,
    ) -> Result<Vec<T>, Fault> {
        self.run(&Statement { sql, values, read }).await
    }

    /// Reads the names that a SELECT without values returns. It is not prepared: at a pooler that no setting names, a prepared
    /// statement may be another client's, and its rows would be shown as names.
    pub(crate) async fn names(&self, sql: &str) -> Result<Vec<String>, Fault> {
        self.run(&Names(sql)).await
    }

    /// Returns the address of the database.
    pub(crate) const fn address(&self) -> &Address {
        &self.address
    }
}

struct Names<'a>(&'a str);

impl Work for Names<'_> {
    type Output = Vec<String>;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<Vec<String>> {
        session.ask(self.0).await?.iter().map(|row| row.try_get(0)).collect()
    }
}

/// One statement with its values, and the function that reads a row.
pub(crate) struct Statement<'a, R> {
    pub(crate) sql: &'a Sql,
    pub(crate) values: Values,
    pub(crate) read: R,
}

impl<R: Fn(&PgRow) -> sqlx::Result<T> + Sync, T: Send> Work for Statement<'_, R> {
    type Output = Vec<T>;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<Vec<T>> {
        session.fetch(self.sql, self.values.arguments()?).await?.iter().map(&self.read).collect()
    }
}

/// A statement that reads in the order of an index, a page at a time: a sort would read all living rows for each
/// page.
pub(crate) struct InOrder<'a, R>(pub(crate) Statement<'a, R>);

impl<R: Fn(&PgRow) -> sqlx::Result<T> + Sync, T: Send> Work for InOrder<'_, R> {
    type Output = Vec<T>;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<Vec<T>> {
        session.script("SET LOCAL enable_sort = off; SET LOCAL enable_bitmapscan = off".to_owned()).await?;
        self.0.run(session).await
    }
}
