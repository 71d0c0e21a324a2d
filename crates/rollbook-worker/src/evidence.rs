//! Evidence about failures: which messages failed lately, and whether others passed since. It distinguishes
//! the failure of one message from a failure of the store.
//!
//! Some errors may be caused by one row or by everything: a time limit, a policy that refuses a row, a
//! connection that breaks. A message is recorded when a batch with it failed in such a way. It is to blame
//! when it fails by itself and others passed since; the kind of the error says which others ([`Kind`]). A
//! message that may be to blame while others pass is postponed: no attempt is counted, and the others
//! continue. If others fail too and none passes, the store or the deployment is to blame, and no message.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rollbook_core::change::{Applied, Change};
use rollbook_core::delivery::MessageId;
use rollbook_core::store::{SlowCause, StoreError};
use tokio::time::Instant;
use tracing::{error, info, warn};

/// Maximum number of failed messages that are recorded.
const FAILED_MAX: usize = 1000;
/// Time for which a failed message is recorded: longer than the wait for its next attempt.
const REMEMBERED_FOR: Duration = Duration::from_secs(3600);
/// Maximum age of a failure that counts as evidence about the store.
const RECENT: Duration = Duration::from_secs(600);
/// First wait of a postponed message or table. It doubles.
pub(crate) const POSTPONE: Duration = Duration::from_secs(2);
/// Maximum wait of a postponed message or table.
const POSTPONE_MAX: Duration = Duration::from_secs(60);
/// Number of failures between two calls that write others after which an error of the session blames the
/// message. Sessions that are ended again and again hit some message twice. Once it was to blame, each
/// further time counts.
const PROOFS: u32 = 3;
/// Maximum messages of one batch that are tried by themselves. The others are postponed.
const ALONE_MAX: usize = 8;
/// Reason of a message that is postponed without a trial.
pub(crate) const AFTER_OTHERS: &str = "others that failed go first";

/// Kind of an error that one row or the whole store may cause. It decides which passes are evidence against the row.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A time limit: others of its table passed. A table may be locked while others are not.
    Slow,
    /// Rights, policies, the schema: others of its table were written since the row was blamed last.
    Table,
    /// The connection, the session, resources: an outage may cause this for anyone at any moment. The row
    /// must have failed between two calls that wrote others, [`PROOFS`] times, and fail again.
    Session,
}

impl Kind {
    fn of(error: &StoreError) -> Self {
        match error {
            StoreError::Slow { .. } => Self::Slow,
            other if matches!(other.innermost(), StoreError::Deployment(_)) => Self::Table,
            _ => Self::Session,
        }
    }
}

/// Verdict about a message that failed by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The failure is its own.
    Blamed,
    /// Others pass, and it is not known yet whether the failure is its own: it is tried again after this long.
    Postponed(Duration),
    /// No message is to blame.
    Nobody,
}

/// Plan for a batch: which changes are tried together, by themselves, or later.
#[derive(Default)]
pub(crate) struct Plan {
    /// Messages to try by themselves, each after others.
    pub(crate) alone: Vec<usize>,
    /// Messages not to try now.
    pub(crate) postponed: Vec<(usize, Duration, String)>,
}

/// Shared by all lanes of a worker.
#[derive(Default)]
pub(crate) struct Evidence(Mutex<State>);

#[derive(Default)]
struct State {
    failed: BTreeMap<MessageId, Failed>,
    blocked: BTreeMap<&'static str, Blocked>,
    /// Whether the last call of all lanes wrote rows.
    last_passed: bool,
}

/// Message of a batch that failed.
#[derive(Clone, Copy)]
struct Failed {
    table: &'static str,
    seen: Instant,
    standing: Standing,
    /// Whether the call before its own last failure wrote others, and none failed since.
    after_pass: bool,
    since: Since,
    /// Number of times that it was postponed.
    postponed: u32,
}

/// State of a message that failed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    /// A batch with it failed.
    Suspected,
    /// The message failed by itself.
    Alone,
    /// The message failed by itself while others passed: it is tried by itself.
    Known,
    /// The message was to blame.
    Blamed,
}

/// Events since a message failed first, or was blamed last.
#[derive(Clone, Copy, Default)]
struct Since {
    /// Another message passed.
    others_passed: bool,
    /// Another message of the same table was written.
    table_passed: bool,
    /// Number of its failures between two calls that wrote others.
    between_passes: u32,
}

/// A table of which every row that was tried is refused, while others are written.
struct Blocked {
    reason: String,
    /// When the next row is tried.
    probe_at: Instant,
    wait: Duration,
}

impl Evidence {
    /// A batch of these failed with an error that may be one row's or everyone's.
    pub(crate) fn failed(&self, changes: &[Change], error: &StoreError) {
        let (mut state, now) = (self.state(), Instant::now());
        let State { failed, last_passed, .. } = &mut *state;
        if failed.len() + changes.len() > FAILED_MAX {
            failed.retain(|_, failed| failed.seen + RECENT > now);
        }
        if failed.len() + changes.len() > FAILED_MAX {
            failed.clear();
        }
        let is_alone = changes.len() == 1 && Kind::of(error) != Kind::Slow;
        let after_pass = *last_passed;
        let was_blamed = |change: &Change| {
            failed.get(change.origin.entry_id()).is_some_and(|one| one.standing == Standing::Blamed)
        };
        // A message that was to blame before does not show an outage.
        if !is_alone || !changes.iter().any(was_blamed) {
            *last_passed = false;
            for failed in failed.values_mut() {
                failed.after_pass = false;
            }
        }
        for change in changes {
            let (id, table) = (change.origin.entry_id().clone(), change.resource_name());
            let failed = failed.entry(id).or_insert_with(|| Failed::new(table, now));
            failed.seen = now;
            if is_alone {
                failed.standing = failed.standing.max(Standing::Alone);
            }
            failed.after_pass = is_alone && after_pass;
        }
    }

    /// Records that these messages were applied.
    pub(crate) fn passed(&self, changes: &[Change], outcomes: &[Applied]) {
        let mut state = self.state();
        let State { failed, blocked, last_passed } = &mut *state;
        // A change without effect has met no trigger and no policy.
        let written = || changes.iter().zip(outcomes).filter(|(_, outcome)| outcome.advances());
        let has_written = written().next().is_some();
        *last_passed |= has_written;
        if failed.is_empty() && blocked.is_empty() {
            return;
        }
        for change in changes {
            failed.remove(change.origin.entry_id());
        }
        let now = Instant::now();
        failed.retain(|_, failed| failed.seen + REMEMBERED_FOR > now);
        let is_written = |table| written().any(|(change, _)| change.resource_name() == table);
        for failed in failed.values_mut() {
            failed.since.others_passed = true;
            failed.since.table_passed |= is_written(failed.table);
            failed.since.between_passes += u32::from(failed.after_pass && has_written);
            failed.after_pass &= !has_written;
        }
        blocked.retain(|table, _| {
            let is_open = is_written(table);
            if is_open {
                info!(table, "a table that refused every row takes rows again");
            }
            !is_open
        });
    }

    /// Returns whether a message that failed by itself with this error is to blame for it. Where nothing
    /// passed, it is only for a statement's time limit, if it is the only message that failed lately.
    pub(crate) fn judge(&self, change: &Change, error: &StoreError) -> Verdict {
        let (mut state, now) = (self.state(), Instant::now());
        let (id, kind) = (change.origin.entry_id(), Kind::of(error));
        let Some(failed) = state.failed.get(id).copied() else { return Verdict::Nobody };
        if kind == Kind::Slow {
            let mut others = state.failed.iter().filter(|(other, _)| *other != id);
            let is_alone =
                !others.any(|(_, failed)| !failed.since.table_passed && failed.seen + RECENT > now);
            let is_statement = matches!(error, StoreError::Slow { cause: SlowCause::Statement, .. });
            let is_blamed = failed.since.table_passed || is_alone && is_statement;
            return if is_blamed { Verdict::Blamed } else { Verdict::Nobody };
        }
        let since = failed.since;
        let proofs = if failed.standing == Standing::Blamed { 1 } else { PROOFS };
        let is_blamed = if kind == Kind::Table { since.table_passed } else { since.between_passes >= proofs };
        let is_blocked = kind == Kind::Table && state.blocked.contains_key(failed.table);
        if !is_blamed && !since.others_passed && failed.standing < Standing::Known && !is_blocked {
            return Verdict::Nobody;
        }
        let Some(failed) = state.failed.get_mut(id) else { return Verdict::Nobody };
        if is_blamed {
            failed.standing = Standing::Blamed;
            failed.since = Since::default();
            return Verdict::Blamed;
        }
        failed.standing = failed.standing.max(Standing::Known);
        failed.postponed = failed.postponed.saturating_add(1);
        let (postponed, table) = (failed.postponed, failed.table);
        if postponed == 1 {
            warn!(
                svix_id = %id, table, error = %error,
                "a message fails by itself while others pass: it is postponed without counting an attempt until it is \
                 clear whether it is the cause. Check what a trigger or a policy does with its row"
            );
        }
        if kind == Kind::Table {
            state.block(table, error, now);
        }
        Verdict::Postponed(jittered(wait(postponed)))
    }

    /// Plans a batch: messages that are known to fail by themselves, and of a table that refuses every row
    /// one message now and then.
    pub(crate) fn plan(&self, changes: &[Change]) -> Plan {
        let (mut state, now, mut plan) = (self.state(), Instant::now(), Plan::default());
        let State { failed, blocked, .. } = &mut *state;
        if failed.is_empty() && blocked.is_empty() {
            return plan;
        }
        let is_known = |change: &Change| {
            failed.get(change.origin.entry_id()).is_some_and(|one| one.standing >= Standing::Known)
        };
        for (table, blocked) in blocked.iter_mut() {
            let of_table = changes.iter().enumerate().filter(|(_, change)| change.resource_name() == *table);
            // One that was not refused before, if there is any: another one may be refused for a reason of its own.
            let probe = of_table.clone().min_by_key(|(_, change)| is_known(change)).map(|(number, _)| number);
            let probe = probe.filter(|_| blocked.probe_at <= now);
            if let Some(number) = probe {
                plan.alone.push(number);
                blocked.wait = (blocked.wait * 2).min(POSTPONE_MAX);
                blocked.probe_at = now + blocked.wait;
            }
            let after = blocked.probe_at - now;
            for (number, _) in of_table.filter(|(number, _)| Some(*number) != probe) {
                plan.postponed.push((number, after + jittered(POSTPONE), blocked.reason.clone()));
            }
        }
        for (number, change) in changes.iter().enumerate() {
            if !is_known(change) || blocked.contains_key(change.resource_name()) {
                continue;
            }
            if plan.alone.len() < ALONE_MAX {
                plan.alone.push(number);
            } else {
                plan.postponed.push((number, jittered(POSTPONE), AFTER_OTHERS.to_owned()));
            }
        }
        plan
    }

    /// The tables of which every row is refused, and why.
    pub(crate) fn blocked(&self) -> Vec<(&'static str, String)> {
        let (mut state, now) = (self.state(), Instant::now());
        // If none was due for that long, no message of the table waits any more.
        state.blocked.retain(|_, blocked| blocked.probe_at + RECENT > now);
        state.blocked.iter().map(|(table, blocked)| (*table, blocked.reason.clone())).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes note that a table refuses every row, if it does: at least two were refused that were never to
    /// blame, and none was written since.
    fn block(&mut self, table: &'static str, error: &StoreError, now: Instant) {
        let is_open = |failed: &Failed| matches!(failed.standing, Standing::Alone | Standing::Known);
        let of_table = self.failed.values().filter(|failed| failed.table == table && is_open(failed));
        let refused = of_table.clone().count();
        if refused < 2
            || of_table.clone().any(|failed| failed.since.table_passed)
            || self.blocked.contains_key(table)
        {
            return;
        }
        let reason = error.innermost().to_string();
        error!(
            table,
            error = reason,
            "every row of this table is refused while others are written: its messages are postponed, no attempt is counted, \
             nothing is lost. Fix: the policy, right or trigger that the error names"
        );
        self.blocked.insert(table, Blocked { reason, probe_at: now + POSTPONE, wait: POSTPONE });
    }
}

impl Failed {
    fn new(table: &'static str, seen: Instant) -> Self {
        let (standing, since) = (Standing::Suspected, Since::default());
        Self { table, seen, standing, after_pass: false, since, postponed: 0 }
    }
}

/// Between half and the whole: messages that were postponed together do not come back together.
pub(crate) fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(f64::midpoint(1.0, fastrand::f64()))
}

fn wait(times: u32) -> Duration {
    let doubled = 2_u32.checked_pow(times.saturating_sub(1)).and_then(|times| POSTPONE.checked_mul(times));
    doubled.map_or(POSTPONE_MAX, |wait| wait.min(POSTPONE_MAX))
}

#[cfg(test)]
mod tests;
