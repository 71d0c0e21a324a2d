//! Assembly and start of the faces: the common part of `serve`, `receive`, `work` and `demo`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use futures_util::FutureExt as _;
use prometheus::Registry;
use rollbook_core::store::FullStore;
use rollbook_core::time::Clock;
use rollbook_ops::{Component, Condition, Ops, Probe, WatchedQueue};
use rollbook_receiver::Receiver;
use rollbook_worker::{Progress, Worker};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::application;
use crate::audit::QueueAudit;
use crate::config::Config;
use crate::faces::Faces;
use crate::forwards;
use crate::installation::Installation;
use crate::live_secrets::LiveSecrets;
use crate::ops_port::{LatePages, guarded};
use crate::receiver_calls::ReceiverCalls;
use crate::reconciliation::{self, Reconciliation};
use crate::startup::prepare_queue;
use crate::startup_ports::Ports;
use crate::store_check::StoreCheck;
use crate::supervisor::Supervisor;
use crate::systemd::Systemd;
use crate::wire::{ClerkApi, Queue, receiver_settings, worker_settings};
use crate::worker_calls::WorkerCalls;

/// Number of lease durations without progress after which a lane hangs: other workers have its messages since.
const STALLED_AFTER_LEASES: u32 = 2;

/// Running faces.
pub(crate) struct Service {
    /// Address for deliveries, if the process receives any.
    pub(crate) listening: Option<SocketAddr>,
    /// Address of the API, if the process has one.
    pub(crate) api_listening: Option<SocketAddr>,
    /// Address of health and metrics.
    pub(crate) ops_listening: SocketAddr,
    secrets: LiveSecrets,
    live: Vec<Component>,
    supervisor: Supervisor,
    stop_within: Duration,
}

impl Service {
    /// Starts the faces at bound ports. A worker needs a store.
    pub(crate) fn start(
        config: &Config,
        faces: Faces,
        ports: Ports,
        queue: &Queue,
        store: Option<Arc<dyn FullStore>>,
        clock: Arc<dyn Clock>,
        registry: Registry,
    ) -> anyhow::Result<Self> {
        if faces.receiver {
            config.signing_secrets()?;
        }
        let secrets = LiveSecrets::of(config);
        let public = ports.public.map(TcpListener::from_std).transpose()?;
        let ops_port = ports.ops.map(TcpListener::from_std).transpose()?;
        let listening = public.as_ref().map(TcpListener::local_addr).transpose()?;
        let own = ops_port.as_ref().map(TcpListener::local_addr).transpose()?;
        let ops_listening = own.or(listening).context("a process has a port for health and metrics")?;
        let pages = LatePages::default();

        let mut supervisor = Supervisor::default();
        let receiver_calls = Arc::new(ReceiverCalls::new(queue.producer.clone()));
        if let Some((signing, listener)) = secrets.signing().zip(public) {
            let settings = receiver_settings(config);
            let receiver =
                Receiver::new(settings, signing, receiver_calls.clone(), clock.clone(), &registry)?;
            let receiver = receiver.with_pages(pages.for_receiver());
            let producer = queue.producer.clone();
            supervisor.start("queue set-up", |stop| prepare_queue(producer, stop).map(Ok));
            supervisor.start("receiver", |stop| async move { Ok(receiver.serve(listener, stop).await?) });
        }
        let applied = store.clone().filter(|_| faces.worker);
        let source = match &applied {
            Some(store) => start_reconciliation(config, &mut supervisor, store.clone(), &clock, &registry)?,
            None => None,
        };
        let api = applied.clone().zip(ports.api);
        let api_listening = start_api(config, &secrets, &mut supervisor, api, &clock, source, &registry)?;
        start_forwards(config, &secrets, &mut supervisor, applied.clone(), &clock, &registry)?;
        let calls = Arc::new(WorkerCalls::new(queue.consumer.clone()));
        let (mut live, mut applying) = (Vec::new(), None);
        if let Some(store) = applied {
            let settings = worker_settings(config);
            let worker = Worker::new(settings, calls.clone(), store, clock.clone(), &registry)?;
            applying = Some(worker.store_health());
            let stalled_after = config.settings.lease_for * STALLED_AFTER_LEASES;
            let probe = WorkerProbe { progress: worker.progress(), stalled_after, clock: clock.clone() };
            live.push(Component { name: "worker", probe: Arc::new(probe) });
            supervisor.start("worker", |stop| async move { Ok(worker.run(stop).await?) });
            let audit = QueueAudit::new(queue.admin.clone(), &registry)?;
            supervisor.start("queue audit", |stop| audit.run(stop).map(Ok));
        }
        let check =
            |store| Component { name: "store", probe: Arc::new(StoreCheck { store, worker: applying }) };
        let store_part = store.map(check);
        // A receiver accepts deliveries while the store is unreachable: there the store's health is only shown.
        let (ready, watched) = match store_part {
            Some(store) if faces.receiver => (Vec::new(), vec![store]),
            store => (store.into_iter().collect(), Vec::new()),
        };
        let queue = WatchedQueue {
            admin: queue.admin.clone(),
            depth_max: config.settings.queue_depth_max,
            idle_check: config.idle_check(),
        };
        let ops = Ops::new(registry, Some(queue), live.clone(), ready, clock)?
            .described_by(Installation::of(config, faces))
            .watching(watched)
            .with_queue_probe(receiver_calls)
            .with_queue_probe(calls)
            .ready_until(supervisor.stopping());
        serve_ops(&mut supervisor, guarded(config, ops), ops_port, &pages);
        let stop_delay = if faces.receiver { config.settings.stop_delay } else { Duration::ZERO };
        let stop_within = stop_delay + config.settings.drain_timeout;
        Ok(Self { listening, api_listening, ops_listening, secrets, live, supervisor, stop_within })
    }

    /// Returns the secrets in use, for a reload.
    pub(crate) fn secrets(&self) -> LiveSecrets {
        self.secrets.clone()
    }

    /// Runs a background task until the stop.
    pub(crate) fn run_in_background<Run>(
        &mut self,
        name: &'static str,
        run: impl FnOnce(CancellationToken) -> Run,
    ) where
        Run: Future<Output = ()> + Send + 'static,
    {
        self.supervisor.start(name, |stop| run(stop).map(Ok));
    }

    /// Reports the state of the service to systemd until the end. Call this last: the task that starts last
    /// is stopped last.
    pub(crate) fn report_to_systemd(&mut self, systemd: Systemd) {
        let (live, stopping) = (self.live.clone(), self.supervisor.stopping());
        self.run_in_background("report to systemd", |stop| systemd.run(live, stopping, stop));
    }

    /// Runs until `stop`, or until a face ends without a request to stop.
    ///
    /// # Errors
    /// A face ended without a request to stop, or did not stop within its time.
    pub(crate) async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        self.supervisor.run(stop, self.stop_within).await
    }
}

/// Serves health and metrics at a port of their own, otherwise at the one for deliveries.
fn serve_ops(supervisor: &mut Supervisor, ops: Ops, own: Option<TcpListener>, pages: &LatePages) {
    match own {
        Some(port) => supervisor.start("ops face", |stop| ops.serve(port, stop).map(Ok)),
        None => pages.show(ops),
    }
}

/// Starts the reconciliation. Returns the client of Clerk's API, if there is a key.
fn start_reconciliation(
    config: &Config,
    supervisor: &mut Supervisor,
    store: Arc<dyn FullStore>,
    clock: &Arc<dyn Clock>,
    registry: &Registry,
) -> anyhow::Result<Option<Arc<ClerkApi>>> {
    let source = reconciliation::source(config, registry)?;
    let reconciliation = Reconciliation::new(config, source.clone(), store, clock.clone(), registry)?;
    supervisor.start("reconciliation", |stop| reconciliation.run(stop).map(Ok));
    Ok(source)
}

/// Starts the API, if it has a store and a port. Returns its address.
fn start_api(
    config: &Config,
    secrets: &LiveSecrets,
    supervisor: &mut Supervisor,
    parts: Option<(Arc<dyn FullStore>, std::net::TcpListener)>,
    clock: &Arc<dyn Clock>,
    source: Option<Arc<ClerkApi>>,
    registry: &Registry,
) -> anyhow::Result<Option<SocketAddr>> {
    let Some((store, listener)) = parts else { return Ok(None) };
    let Some(api) = application::api(config, secrets, store, clock.clone(), source, registry)? else {
        return Ok(None);
    };
    let listener = TcpListener::from_std(listener)?;
    let address = listener.local_addr()?;
    supervisor.start("api", |stop| api.serve(listener, stop).map(Ok));
    Ok(Some(address))
}

/// Starts the forwards, if any are configured.
fn start_forwards(
    config: &Config,
    secrets: &LiveSecrets,
    supervisor: &mut Supervisor,
    store: Option<Arc<dyn FullStore>>,
    clock: &Arc<dyn Clock>,
    registry: &Registry,
) -> anyhow::Result<()> {
    let Some(store) = store else { return Ok(()) };
    if let Some(forwarder) = forwards::forwarder(config, secrets, store, clock, registry)? {
        supervisor.start("forwarder", |stop| forwarder.run(stop).map(Ok));
    }
    Ok(())
}

struct WorkerProbe {
    progress: Progress,
    stalled_after: Duration,
    clock: Arc<dyn Clock>,
}

#[async_trait]
impl Probe for WorkerProbe {
    async fn check(&self) -> Condition {
        let stalled = self.clock.now().since(self.progress.last());
        if stalled < self.stalled_after {
            return Condition::Healthy;
        }
        Condition::Failing(format!("no progress for {} s", stalled.as_secs()))
    }
}
