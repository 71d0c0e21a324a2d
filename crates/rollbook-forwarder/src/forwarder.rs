//! All forwards of a process.

use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use crate::forward::Forward;
use crate::metrics::{Counters, Metrics};
use crate::ports::{Endpoint, Ports};
use crate::request::Requests;
use crate::row_room::RowRoom;
use crate::settings::ForwardSettings;

/// Time between two reads of the metrics.
const REFRESH: Duration = Duration::from_secs(10);
/// Pause after a panic.
const RESTART: Duration = Duration::from_secs(60);

/// A forward with its endpoint and its counters.
#[derive(Clone)]
struct Configured {
    settings: Arc<ForwardSettings>,
    endpoint: Arc<dyn Endpoint>,
    counters: Counters,
}

/// All forwards of a process, ready to run.
pub struct Forwarder {
    ports: Ports,
    metrics: Metrics,
    forwards: Vec<Configured>,
    holder: Arc<str>,
    room: RowRoom,
}

impl Forwarder {
    /// Creates the forwards. Their metrics are added to `registry`. Rows in requests take at most `row_bytes_max` bytes.
    ///
    /// # Errors
    /// Fails if a metric of the forwarder is already registered.
    pub fn new(
        ports: Ports,
        forwards: Vec<(ForwardSettings, Arc<dyn Endpoint>)>,
        row_bytes_max: usize,
        registry: &Registry,
    ) -> Result<Self, prometheus::Error> {
        let metrics = Metrics::new(registry)?;
        let configured = |(settings, endpoint): (ForwardSettings, Arc<dyn Endpoint>)| Configured {
            counters: metrics.add(&settings.name),
            settings: Arc::new(settings),
            endpoint,
        };
        let forwards = forwards.into_iter().map(configured).collect();
        let holder = format!("{:016x}", fastrand::u64(..)).into();
        Ok(Self { ports, metrics, forwards, holder, room: RowRoom::new(row_bytes_max) })
    }

    /// Runs until `stop`. No failure of a forward ends the process, or another forward: one that panics is restarted.
    pub async fn run(self, stop: CancellationToken) {
        let mut running = JoinSet::new();
        let all = self.forwards.iter().map(|forward| Arc::clone(&forward.settings)).collect();
        for Configured { settings, endpoint, counters } in self.forwards {
            let (ports, holder, stop) = (self.ports.clone(), Arc::clone(&self.holder), stop.clone());
            let (room, settings) = (self.room.clone(), Arc::clone(&settings));
            let requests = Requests { ports: ports.clone(), settings: settings.clone(), endpoint, room };
            running.spawn(async move {
                loop {
                    let forward = Forward {
                        ports: ports.clone(),
                        settings: Arc::clone(&settings),
                        requests: requests.clone(),
                        counters: counters.clone(),
                        holder: Arc::clone(&holder),
                    };
                    // Dropping the set aborts the task.
                    let mut kept = JoinSet::new();
                    kept.spawn(forward.run(stop.clone()));
                    if matches!(kept.join_next().await, Some(Ok(()))) {
                        return;
                    }
                    error!(forward = settings.name, "the forward panicked; it is restarted in a minute");
                    if stop.run_until_cancelled(sleep(RESTART)).await.is_none() {
                        return;
                    }
                }
            });
        }
        running.spawn(refresh(self.metrics, self.ports, all, stop));
        running.join_all().await;
    }
}

/// Keeps the gauges up to date.
async fn refresh(metrics: Metrics, ports: Ports, all: Vec<Arc<ForwardSettings>>, stop: CancellationToken) {
    let mut wait = Duration::ZERO;
    while stop.run_until_cancelled(sleep(wait)).await.is_some() {
        wait = REFRESH;
        let refreshed = stop.run_until_cancelled(metrics.refresh(&ports, &all)).await;
        if let Some(Err(error)) = refreshed {
            debug!(%error, "the metrics of the forwards keep their values");
        }
    }
}
