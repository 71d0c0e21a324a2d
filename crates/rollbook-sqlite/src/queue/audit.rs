//! Audit: compares bodies with the tables that lead to them, and the counters with both.
//!
//! A message with a `seq` up to `leased_to` is found only by its row in `leases`. A row there without a
//! message leads nowhere. The counters decide which deliveries are refused and which number the next message
//! gets. Each of these can be lost without the bodies (a restored file, a manual change of the database), so
//! the audit trusts the bodies.
//!
//! The audit reads in steps on the connection that only reads, each step in its own transaction. Damage that
//! a step finds is repaired in one short transaction, which checks again: deliveries and workers wait for
//! that transaction at most.

use rollbook_core::queue::{Audit, QueueError};
use rollbook_core::time::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row};

use super::{Counters, SqliteQueue, count};
use crate::fault::Fault;

/// Rows in one step.
const STEP: usize = 1_000;

/// Check of one table, and the repair of a row.
struct Check {
    /// Selects the next rows after `?1`, at most `?2`, each with whether it is wrong.
    page: &'static str,
    /// Repairs the row `?1` if it is still wrong; `?2` is the current time.
    repair: &'static str,
}

/// Messages that nothing leads to. The repair makes them due now.
const STRANDED: Check = Check {
    page: "SELECT seq, NOT EXISTS (SELECT 1 FROM leases WHERE leases.seq = messages.seq)
             FROM messages WHERE seq > ?1 AND seq <= (SELECT leased_to FROM counters) ORDER BY seq LIMIT ?2",
    repair: "INSERT INTO leases (seq, due_at, token, attempts, unsettled, received_at)
             SELECT seq, ?2, NULL, 0, 0, received_at FROM messages
              WHERE seq = ?1 AND seq <= (SELECT leased_to FROM counters)
             ON CONFLICT (seq) DO NOTHING",
};

/// Rows of `leases` without a message.
const DANGLING: Check = Check {
    page: "SELECT seq, NOT EXISTS (SELECT 1 FROM messages WHERE messages.seq = leases.seq)
             FROM leases WHERE seq > ?1 ORDER BY seq LIMIT ?2",
    repair: "DELETE FROM leases WHERE seq = ?1 AND ?2 IS NOT NULL
                AND NOT EXISTS (SELECT 1 FROM messages WHERE messages.seq = leases.seq)",
};

impl SqliteQueue {
    /// Checks all tables, and repairs damage if `repair` is set.
    pub(super) async fn audited(&self, repair: bool) -> Result<Audit, QueueError> {
        let (counted, now) = (self.reads.read(Counted::read).await?, self.clock.now());
        let mut audit = Audit { messages: counted.depth, notes: counted.notes(), ..Audit::default() };
        if repair && !audit.notes.is_empty() {
            self.database.run(move |connection| counted.restore(connection, now)).await?;
        }
        audit.stranded = self.check(&STRANDED, repair).await?;
        audit.dangling = self.check(&DANGLING, repair).await?;
        if repair && audit.stranded > 0 {
            self.due.notify_waiters();
        }
        Ok(audit)
    }

    /// Checks one table from its first row to its last. Returns the number of wrong rows.
    async fn check(&self, check: &'static Check, repair: bool) -> Result<u64, Fault> {
        let (mut after, mut wrong) = (i64::MIN, 0);
        loop {
            let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
            let rows: Vec<(i64, bool)> = self.reads.rows(check.page, (after, STEP), read).await?;
            let Some((last, _)) = rows.last() else { return Ok(wrong) };
            after = *last;
            let damaged: Vec<i64> =
                rows.iter().filter(|(_, is_wrong)| *is_wrong).map(|(seq, _)| *seq).collect();
            wrong += count(damaged.len());
            if repair && !damaged.is_empty() {
                let now = self.clock.now().as_millis();
                let work = move |connection: &Connection| {
                    let mut statement = connection.prepare_cached(check.repair)?;
                    damaged.iter().try_for_each(|seq| statement.execute((seq, now)).map(drop))
                };
                self.database.run(work).await?;
            }
        }
    }
}

/// Facts of the tables, and the counters in the same state of the file.
struct Counted {
    /// Counters; `None` if their row is missing.
    counters: Option<Counters>,
    depth: u64,
    dead: u64,
    /// Largest `seq` of a message, or zero.
    seq: i64,
    /// Largest token of a lease, or zero.
    token: i64,
}

impl Counted {
    fn read(connection: &Connection) -> rusqlite::Result<Self> {
        // The count reads the indexes by id, which hold no bodies.
        let one = |sql| connection.prepare_cached(sql)?.query_row([], |row| row.get::<_, i64>(0));
        let count = |sql| connection.prepare_cached(sql)?.query_row([], |row| row.get::<_, u64>(0));
        Ok(Self {
            counters: Counters::read(connection).optional()?,
            depth: count("SELECT count(*) FROM messages")?,
            dead: count("SELECT count(*) FROM dead_letters")?,
            seq: one("SELECT max(0, coalesce(max(seq), 0)) FROM messages")?,
            token: one("SELECT coalesce(max(token), 0) FROM leases")?,
        })
    }

    /// Describes what is wrong with the counters.
    fn notes(&self) -> Vec<String> {
        let Some(counters) = &self.counters else {
            return vec!["the row of counters was missing".to_owned()];
        };
        let mut notes = Vec::new();
        let mut note = |is_wrong: bool, text: String| notes.extend(is_wrong.then_some(text));
        let (depth, dead) = (counters.depth, counters.dead);
        note(depth != self.depth, format!("the counters said {depth} messages and there are {}", self.depth));
        note(dead != self.dead, format!("the counters said {dead} dead letters and there are {}", self.dead));
        let text = format!("the last number given was {} and there is a message {}", counters.seq, self.seq);
        note(counters.seq < self.seq, text);
        let text = format!("messages up to {} were leased and {} was the last", counters.leased_to, self.seq);
        note(counters.leased_to > counters.seq.max(self.seq), text);
        let text = format!("the last token given was {} and there is a lease {}", counters.token, self.token);
        note(counters.token < self.token, text);
        notes
    }

    /// Corrects the current counters, which other transactions may have changed meanwhile.
    fn restore(&self, connection: &Connection, now: Timestamp) -> rusqlite::Result<()> {
        let Some(old) = &self.counters else {
            // Tokens count leases, and there is less than one lease a millisecond: the current time was never a token.
            let token = self.token.max(now.as_millis());
            let sql = "INSERT OR IGNORE INTO counters (one, depth, dead, seq, leased_to, token)
                       VALUES (1, ?1, ?2, ?3, 0, ?4)";
            connection.execute(sql, (self.depth, self.dead, self.seq, token))?;
            return Ok(());
        };
        let mut counters = Counters::read(connection)?;
        // The difference is added: it is not affected by changes meanwhile.
        counters.depth = counters.depth.saturating_sub(old.depth.saturating_sub(self.depth))
            + self.depth.saturating_sub(old.depth);
        counters.dead = counters.dead.saturating_sub(old.dead.saturating_sub(self.dead))
            + self.dead.saturating_sub(old.dead);
        counters.seq = counters.seq.max(self.seq);
        counters.leased_to = counters.leased_to.min(counters.seq);
        counters.token = counters.token.max(self.token);
        counters.write(connection)
    }
}
