//! The bell of the change feed: readers in this process wait for a last position, and one connection listens for all of them.
//!
//! Notifications do not pass a pooler in transaction mode and are lost with a connection, so the last position is read from
//! time to time as well. Nothing is asked while nobody waits.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use rollbook_core::lock::lock;
use rollbook_core::store::Position;
use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::changes::{last, last_sql};
use super::sequence::CHANNEL;
use crate::address::Host;
use crate::transaction::Database;

/// Interval of reads where a connection listens, and of attempts to connect it.
const POLL: Duration = Duration::from_secs(1);
/// Interval of reads where nothing is notified.
const POLL_ALONE: Duration = Duration::from_millis(200);
/// Maximum time for a connection that listens.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Number of reads in a row that were faster than the notification, after which the connection is replaced.
const MISSED_MAX: u32 = 3;

/// Waits of readers. The last position that this process knows of, and the task that keeps it.
pub(super) struct Bell {
    inner: Arc<Inner>,
    /// The task, which ends with the bell.
    task: Mutex<JoinSet<()>>,
}

struct Inner {
    last: watch::Sender<Position>,
    wanted: Notify,
    database: Weak<Database>,
    schema: String,
    /// Hosts to listen at; none behind a pooler.
    hosts: Vec<Host>,
}

impl Bell {
    pub(super) fn new(database: &Arc<Database>, schema: &str) -> Self {
        let address = database.address();
        let hosts = if address.pooled { Vec::new() } else { address.hosts.clone() };
        let (last, wanted, schema) = (watch::Sender::new(0), Notify::new(), schema.to_owned());
        let inner = Inner { last, wanted, database: Arc::downgrade(database), schema, hosts };
        Self { inner: Arc::new(inner), task: Mutex::default() }
    }

    /// Returns a receiver of last positions, kept up to date from now on.
    pub(super) fn subscribe(&self) -> watch::Receiver<Position> {
        let receiver = self.inner.last.subscribe();
        self.inner.wanted.notify_one();
        let mut task = lock(&self.task);
        // A task that has panicked is replaced.
        while task.try_join_next().is_some() {}
        if task.is_empty() {
            task.spawn(keep(Arc::clone(&self.inner)));
        }
        receiver
    }

    /// Lines up to this position are there.
    pub(super) fn ring(&self, last: Position) {
        self.inner.last.send_if_modified(|known| std::mem::replace(known, last.max(*known)) < last);
    }

    /// Takes over the last position as the store shows it: after a restore from a backup it is lower.
    pub(super) fn set(&self, last: Position) {
        self.inner.set(last);
    }
}

impl Inner {
    fn set(&self, last: Position) -> bool {
        self.last.send_if_modified(|known| std::mem::replace(known, last) != last)
    }

    /// Reads the last position. Returns whether it is news.
    async fn read(&self) -> bool {
        let Some(database) = self.database.upgrade() else { return false };
        // An outage is reported by whoever uses the store.
        match last(&database, &last_sql(&self.schema)).await {
            Ok(last) => self.set(last),
            Err(_) => false,
        }
    }

    /// Returns the next position that is notified for this schema; `None` if the connection is lost.
    async fn notified(&self, listener: &mut PgListener) -> Option<Position> {
        while let Ok(Some(notification)) = listener.try_recv().await {
            let position = notification.payload().rsplit_once(':');
            if let Some((schema, Ok(position))) = position.map(|(schema, text)| (schema, text.parse()))
                && schema == self.schema
            {
                return Some(position);
            }
        }
        None
    }

    /// Connects to the first host that accepts it. A standby refuses to listen.
    async fn listen(&self) -> Option<PgListener> {
        for host in &self.hosts {
            if let Ok(Ok(listener)) = timeout(CONNECT_MAX, listen(host)).await {
                return Some(listener);
            }
        }
        None
    }
}

async fn listen(host: &Host) -> sqlx::Result<PgListener> {
    let pool = PgPoolOptions::new().max_connections(1).max_lifetime(None).idle_timeout(None);
    let mut listener = PgListener::connect_with(&pool.connect_lazy_with(host.options())).await?;
    listener.eager_reconnect(false);
    listener.ignore_pool_close_event(true);
    listener.listen(CHANNEL).await?;
    Ok(listener)
}

/// Keeps the last position up to date while somebody waits.
async fn keep(bell: Arc<Inner>) {
    let (mut listener, mut missed): (Option<PgListener>, u32) = (None, 0);
    loop {
        if bell.last.receiver_count() == 0 {
            listener = None;
            bell.wanted.notified().await;
            continue;
        }
        if listener.is_none() {
            listener = bell.listen().await;
            // What was notified before.
            bell.read().await;
        }
        let pause = if bell.hosts.is_empty() { POLL_ALONE } else { POLL };
        let notified = async {
            match &mut listener {
                Some(listener) => bell.notified(listener).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            position = notified => match position {
                Some(position) => {
                    missed = 0;
                    bell.last.send_if_modified(|known| std::mem::replace(known, position.max(*known)) < position);
                }
                None => listener = None,
            },
            () = sleep(pause) => {
                missed = if bell.read().await && listener.is_some() { missed + 1 } else { 0 };
                if missed >= MISSED_MAX {
                    (listener, missed) = (None, 0);
                }
            }
            () = bell.last.closed() => {}
        }
    }
}
