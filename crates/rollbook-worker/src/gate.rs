//! The gate before the store: closed while the store is away, so that nothing is leased for nothing.
//!
//! It opens when the store answers a ping. A ping is only a hint, though (a full disk still answers):
//! the outage is over, and its backoff forgotten, when a batch was applied.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rollbook_core::store::{Store, StoreError};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::backoff::Backoff;
use crate::progress::Pulse;
use crate::settings::Settings;
use crate::store_health::StoreHealth;

/// A ping that takes longer counts as no answer.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Shared by all lanes of a worker.
pub(crate) struct Gate {
    settings: Settings,
    open: watch::Sender<bool>,
    /// Held by the one lane that asks the store.
    probing: tokio::sync::Mutex<()>,
    outage: Mutex<Option<Outage>>,
    /// What health checks read.
    pub(crate) health: StoreHealth,
}

struct Outage {
    backoff: Backoff,
    since: Instant,
    deployment_logged: bool,
}

impl Gate {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            open: watch::Sender::new(true),
            probing: tokio::sync::Mutex::new(()),
            outage: Mutex::new(None),
            health: StoreHealth::default(),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        *self.open.borrow()
    }

    /// The store could not apply, and no message is to blame.
    pub(crate) fn close(&self, error: &StoreError) {
        let mut outage = self.outage();
        self.open.send_replace(false);
        self.health.failed(error);
        let is_new = outage.is_none();
        let outage = outage.get_or_insert_with(|| self.new_outage());
        if matches!(error, StoreError::Deployment(_)) {
            if !outage.deployment_logged {
                error!(
                    %error,
                    "the store must be mended by a person: apply pending migrations (rollbook migrate), check \
                     its schema and rights; until then nothing is leased, no attempt is spent, nothing is lost"
                );
            }
            outage.deployment_logged = true;
        } else if is_new {
            warn!(%error, "the store is away: nothing is leased until it answers, no attempt is spent");
        }
    }

    /// A batch was applied. Where another lane has closed the gate since, the outage goes on.
    pub(crate) fn applied(&self) {
        // Also while the gate is closed: a lane may have leased before. The last evidence counts.
        self.health.applied();
        let mut outage = self.outage();
        if self.is_open()
            && let Some(outage) = outage.take()
        {
            info!(away_seconds = outage.since.elapsed().as_secs_f64(), "the store applies again");
        }
    }

    /// Returns when the gate is open or it is time to stop.
    ///
    /// # Errors
    /// Only [`StoreError::Broken`].
    pub(crate) async fn pass(&self, store: &dyn Store, pulse: &Pulse) -> Result<(), StoreError> {
        while !self.is_open() && !pulse.stopped() {
            if let Ok(_turn) = self.probing.try_lock() {
                pulse.wait_for(self.probe(store)).await.transpose()?;
            } else {
                let mut open = self.open.subscribe();
                pulse.wait_for_another(open.wait_for(|open| *open)).await;
            }
        }
        Ok(())
    }

    /// Asks the store until it answers.
    async fn probe(&self, store: &dyn Store) -> Result<(), StoreError> {
        loop {
            let wait = self.outage().get_or_insert_with(|| self.new_outage()).backoff.next();
            tokio::time::sleep(wait).await;
            // A ping only reads: it may be given up.
            let answer = tokio::time::timeout(PING_TIMEOUT, store.ping()).await.unwrap_or_else(|_| {
                Err(StoreError::Dependency(format!(
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
        self.open.send_replace(true);
        Ok(())
    }

    fn new_outage(&self) -> Outage {
        Outage { backoff: Backoff::new(&self.settings), since: Instant::now(), deployment_logged: false }
    }

    fn outage(&self) -> MutexGuard<'_, Option<Outage>> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
