//! The gate in front of the store: closed while the store cannot apply changes, so that no message is leased without use.
//!
//! A store that answers a ping may still apply nothing (a full disk, a right that is missing). So the gate
//! opens in two steps, as a circuit breaker does. When the store answers a ping, one lane goes first with a
//! small batch ([`Trial`]). When a batch was applied, the gate is open for all lanes, and the outage and its
//! backoff are over. When the trial fails, the wait before the next one is longer.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rollbook_core::store::{Store, StoreError};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::backoff::{Backoff, Repeat};
use crate::gate_metric::GateMetric;
use crate::progress::Pulse;
use crate::settings::Settings;
use crate::store_health::StoreHealth;

/// Maximum time of a ping; a longer one counts as no answer.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum messages of a trial. If all of them failed with an error that one change may cause, the next trial
/// may lease twice as many: an error of so many messages is not the failure of one.
const TRIAL_MAX: usize = 8;

/// Gate that all lanes of a worker share.
pub(crate) struct Gate {
    settings: Settings,
    metric: GateMetric,
    open: watch::Sender<bool>,
    /// Held by the one lane that pings the store and makes the trial.
    first: tokio::sync::Mutex<()>,
    outage: Mutex<Option<Outage>>,
    /// State for health checks.
    pub(crate) health: StoreHealth,
}

struct Outage {
    backoff: Backoff,
    since: Instant,
    /// Whether the store has answered a ping since its last error.
    answered: bool,
    trial: usize,
    repeat: Repeat,
    deployment_logged: bool,
}

/// Right of one lane to make a trial with at most this many messages. The other lanes wait until it is dropped.
pub(crate) struct Trial<'a> {
    pub(crate) messages_max: usize,
    _first: tokio::sync::MutexGuard<'a, ()>,
}

impl Gate {
    pub(crate) fn new(settings: Settings, metric: GateMetric) -> Self {
        Self {
            settings,
            metric,
            open: watch::Sender::new(true),
            first: tokio::sync::Mutex::new(()),
            outage: Mutex::new(None),
            health: StoreHealth::default(),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        *self.open.borrow()
    }

    /// Records that the store could not apply, and no message is the cause. The error is logged at once, and
    /// once a minute while the outage lasts.
    pub(crate) fn close(&self, error: &StoreError) {
        let mut outage = self.outage();
        self.open.send_replace(false);
        self.metric.set(Some(error));
        self.health.failed(error.innermost());
        let outage = outage.get_or_insert_with(|| self.new_outage());
        outage.answered = false;
        if matches!(error, StoreError::Ambiguous(_)) {
            outage.trial = outage.trial.saturating_mul(2).min(self.settings.batch_max.max(1));
        }
        let error = error.innermost();
        let is_due = outage.repeat.is_due();
        let outage_seconds = outage.since.elapsed().as_secs();
        if matches!(error, StoreError::Deployment(_) | StoreError::Unreadable(_)) {
            if is_due || !outage.deployment_logged {
                error!(
                    %error,
                    outage_seconds,
                    "the store needs manual action, see the error; until then nothing is leased, no attempt is counted, nothing \
                     is lost"
                );
            }
            outage.deployment_logged = true;
        } else if is_due {
            let message = if matches!(error, StoreError::Slow { .. }) {
                "every row that was tried is too slow: nothing is leased until the store applies again, no attempt is \
                 counted. Look for a session that holds a lock, a slow trigger, a slow disk"
            } else {
                "store unreachable or failing: nothing is leased until it applies again, no attempt is counted"
            };
            warn!(%error, outage_seconds, "{message}");
        }
    }

    /// Records an applied batch. If another lane has closed the gate since, the outage continues.
    pub(crate) fn applied(&self) {
        // Also while the gate is closed: a lane may have leased before. The latest result counts.
        self.health.decided();
        let mut outage = self.outage();
        if outage.as_ref().is_some_and(|outage| outage.answered)
            && let Some(outage) = outage.take()
        {
            self.open.send_replace(true);
            self.metric.set(None);
            info!(outage_seconds = outage.since.elapsed().as_secs(), "the store applies again");
        }
    }

    /// Returns when the gate is open, after a request to stop, or with a [`Trial`] when this lane must make it.
    ///
    /// # Errors
    /// Only [`StoreError::Broken`].
    pub(crate) async fn pass(
        &self,
        store: &dyn Store,
        pulse: &Pulse,
    ) -> Result<Option<Trial<'_>>, StoreError> {
        while !self.is_open() && !pulse.stopped() {
            if let Ok(first) = self.first.try_lock() {
                if !self.is_answered() {
                    pulse.wait_for(self.probe(store)).await.transpose()?;
                }
                if let Some(messages_max) = self.trial() {
                    return Ok(Some(Trial { messages_max, _first: first }));
                }
            } else {
                let mut open = self.open.subscribe();
                pulse.wait_for_another(open.wait_for(|open| *open)).await;
            }
        }
        Ok(None)
    }

    /// Pings the store until it answers.
    async fn probe(&self, store: &dyn Store) -> Result<(), StoreError> {
        loop {
            let wait = self.outage().get_or_insert_with(|| self.new_outage()).backoff.next();
            tokio::time::sleep(wait).await;
            // A ping only reads, so it may be cancelled.
            let answer = tokio::time::timeout(PING_TIMEOUT, store.ping()).await.unwrap_or_else(|_| {
                Err(StoreError::Unavailable(format!(
                    "no answer to a ping within {} s",
                    PING_TIMEOUT.as_secs()
                )))
            });
            match answer {
                Ok(()) => break,
                Err(error @ StoreError::Broken(_)) => return Err(error),
                Err(error) => self.close(&error),
            }
        }
        if let Some(outage) = &mut *self.outage() {
            outage.answered = true;
        }
        Ok(())
    }

    fn is_answered(&self) -> bool {
        self.outage().as_ref().is_some_and(|outage| outage.answered)
    }

    fn trial(&self) -> Option<usize> {
        self.outage().as_ref().filter(|outage| outage.answered).map(|outage| outage.trial)
    }

    fn new_outage(&self) -> Outage {
        Outage {
            backoff: Backoff::new(&self.settings),
            since: Instant::now(),
            answered: false,
            trial: TRIAL_MAX.min(self.settings.batch_max.max(1)),
            repeat: Repeat::default(),
            deployment_logged: false,
        }
    }

    fn outage(&self) -> MutexGuard<'_, Option<Outage>> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
