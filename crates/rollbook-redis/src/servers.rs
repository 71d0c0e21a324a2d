//! Servers of a queue: a single server, or the nodes of a cluster that hold its shards.
//!
//! * A shard is on the node that owns its slot. The mapping is read from the nodes, and read again when a
//!   node reports that a slot has moved, or is unreachable.
//! * A call to an unreachable node of a cluster fails at once, so that it does not delay work on the other
//!   nodes. One background task probes the node, and asks the others for its slots, until the node answers or owns none.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all, select_ok};
use redis::{Value, cmd};
use rollbook_core::lock::lock;
use rollbook_core::queue::{Durability, QueueError};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::{error, info, warn};

use crate::address::{Address, Form};
use crate::connection;
use crate::failure::FailureKind;
use crate::fault;
use crate::pool::{Answer, Call, Options, Server};
use crate::slots::{self, Node};

/// First pause before an unreachable node is probed again; doubles up to the maximum.
const PROBE_AFTER: Duration = Duration::from_millis(50);
const PROBE_AFTER_MAX: Duration = Duration::from_secs(1);

/// Maximum number of nodes asked concurrently for the slots.
const SLOTS_QUERIES_MAX: usize = 8;

/// Minimum interval between two queries for a slot that no node owned.
const SLOTS_QUERY_INTERVAL_MIN: Duration = Duration::from_millis(250);

/// Servers of a queue. Clones share their state.
#[derive(Clone)]
pub(crate) struct Servers(Arc<Inner>);

struct Inner {
    address: Address,
    options: Options,
    /// Slot of each shard.
    slots: Vec<u16>,
    topology: Mutex<Topology>,
    /// Locked while the slots are being queried.
    slots_query: tokio::sync::Mutex<Option<SlotsQuery>>,
    /// Background tasks: one per unreachable node, and others.
    tasks: Mutex<JoinSet<()>>,
}

/// Result of a query for the slots.
struct SlotsQuery {
    at: Instant,
    error: Option<QueueError>,
}

#[derive(Default)]
struct Topology {
    /// Known server of each shard. Empty before the first query.
    owners: Vec<Option<Arc<Server>>>,
    /// Servers by node.
    nodes: BTreeMap<Node, Arc<Server>>,
    /// Unreachable nodes with the error.
    outages: BTreeMap<Node, QueueError>,
}

/// Reference to servers that does not keep them.
pub(crate) struct WeakServers(Weak<Inner>);

impl WeakServers {
    /// Returns the servers, unless their last user was dropped.
    pub(crate) fn upgrade(&self) -> Option<Servers> {
        self.0.upgrade().map(Servers)
    }
}

impl Servers {
    /// Returns a reference that does not keep the servers.
    pub(crate) fn downgrade(&self) -> WeakServers {
        WeakServers(Arc::downgrade(&self.0))
    }

    /// Creates the servers at an address, for the shards of these keys.
    pub(crate) fn new(address: Address, options: Options, keys: &[&str]) -> Result<Self, QueueError> {
        let slots: Vec<u16> = keys.iter().map(|key| slots::slot_of(key)).collect();
        let mut topology = Topology::default();
        if address.form != Form::Cluster {
            let server = Arc::new(Server::new(address.clone(), None, options.clone())?);
            topology.owners = vec![Some(server); slots.len()];
        }
        let slots_query = tokio::sync::Mutex::new(None);
        let (topology, tasks) = (Mutex::new(topology), Mutex::new(JoinSet::new()));
        Ok(Self(Arc::new(Inner { address, options, slots, topology, slots_query, tasks })))
    }

    pub(crate) fn address(&self) -> &Address {
        &self.0.address
    }

    /// Maximum time of one call.
    pub(crate) fn call_timeout(&self) -> Duration {
        self.0.options.call_timeout
    }

    /// Returns when one of the servers has restarted since the last call.
    pub(crate) async fn restarted(&self) {
        self.0.options.restarted.notified().await;
    }

    /// Returns whether the shards may be on several servers.
    pub(crate) fn is_cluster(&self) -> bool {
        self.0.address.form == Form::Cluster
    }

    /// Executes a call on the server of this shard.
    pub(crate) async fn call(&self, shard: usize, call: &Call<'_>) -> Result<Answer, QueueError> {
        let mut is_retry = false;
        loop {
            let server = self.server_of(shard).await?;
            self.0.check(&server)?;
            let asked_at = Instant::now();
            let failure = match server.call(call).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            match failure.kind {
                FailureKind::Moved if self.is_cluster() && !is_retry => {
                    is_retry = true;
                    self.0.refresh_slots(asked_at, None).await?;
                }
                FailureKind::Unreachable if self.is_cluster() => {
                    self.mark_unreachable(&server, &failure.error);
                    return Err(failure.error);
                }
                _ => return Err(failure.error),
            }
        }
    }

    /// Returns the server of this shard.
    pub(crate) async fn server_of(&self, shard: usize) -> Result<Arc<Server>, QueueError> {
        if let Some(owner) = self.0.owner_of(shard) {
            return Ok(owner);
        }
        let since = Instant::now().checked_sub(SLOTS_QUERY_INTERVAL_MIN).unwrap_or_else(Instant::now);
        self.0.refresh_slots(since, None).await?;
        self.0.owner_of(shard).ok_or_else(|| {
            let (address, slot) = (&self.0.address, self.0.slots[shard]);
            QueueError::Unavailable(format!(
                "{address}: no node has slot {slot} of shard {shard}: part of the cluster is down"
            ))
        })
    }

    /// Returns the weaknesses of the servers that answer, and the servers that do not.
    pub(crate) async fn durability(&self) -> Result<Durability, QueueError> {
        let mut shards: BTreeMap<Option<Node>, (Arc<Server>, Vec<usize>)> = BTreeMap::new();
        let mut durability = Durability::default();
        let mut first_error = None;
        for shard in 0..self.0.slots.len() {
            match self.server_of(shard).await {
                Ok(server) => {
                    let entry = shards.entry(server.node().cloned()).or_insert_with(|| (server, Vec::new()));
                    entry.1.push(shard);
                }
                Err(error) => {
                    durability.unreachable.push(error.to_string());
                    first_error = first_error.or(Some(error));
                }
            }
        }
        let asked = shards.into_values().map(async |(server, shards)| {
            let answer = match self.0.check(&server) {
                Ok(()) => server.ask_durability().await,
                Err(error) => Err(error),
            };
            (server, shards, answer)
        });
        let mut have_answered = false;
        for (server, shards, answer) in join_all(asked).await {
            match answer {
                Ok(found) => {
                    have_answered = true;
                    let known = &mut durability.weaknesses;
                    let mut new = found.weaknesses;
                    new.retain(|weakness| !known.contains(weakness));
                    known.append(&mut new);
                    durability.vouched.extend(found.vouched);
                    durability.vouched.sort();
                    durability.vouched.dedup();
                }
                Err(error) => {
                    if self.is_cluster() && matches!(error, QueueError::Unavailable(_)) {
                        self.mark_unreachable(&server, &error);
                    }
                    durability.unreachable.push(format!("{}: {error}", shard_list(&shards)));
                    first_error = first_error.or(Some(error));
                }
            }
        }
        match first_error {
            Some(error) if !have_answered => Err(error),
            _ => Ok(durability),
        }
    }

    /// Runs a background task until it ends or the last user of these servers is dropped.
    pub(crate) fn spawn_background(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = lock(&self.0.tasks);
        while let Some(ended) = tasks.try_join_next() {
            if let Err(panicked) = ended {
                error!("{}: a background task failed: {panicked}", self.0.address);
            }
        }
        tasks.spawn(task);
    }

    /// Marks a node as unreachable and starts to probe it in the background.
    fn mark_unreachable(&self, server: &Arc<Server>, error: &QueueError) {
        let Some(node) = server.node() else { return };
        let shards = self.0.shards_of(node);
        {
            let mut topology = lock(&self.0.topology);
            if topology.outages.insert(node.clone(), error.clone()).is_some() {
                return;
            }
        }
        warn!(
            "{error}: {} can neither accept nor lease messages until it answers; all others continue",
            shard_list(&shards)
        );
        self.spawn_background(watch_outage(Arc::downgrade(&self.0), server.clone(), node.clone()));
    }
}

/// Probes an unreachable node until it answers, or until other nodes own its slots.
async fn watch_outage(servers: Weak<Inner>, server: Arc<Server>, node: Node) {
    let since = Instant::now();
    let mut pause = PROBE_AFTER;
    loop {
        sleep(pause).await;
        pause = (pause * 2).min(PROBE_AFTER_MAX);
        let Some(servers) = servers.upgrade() else { return };
        // A failover may have moved the slots to another node.
        _ = servers.refresh_slots(Instant::now(), Some(&node)).await;
        let has_slots = !servers.shards_of(&node).is_empty();
        let answered = if has_slots { server.probe().await } else { Ok(()) };
        match answered {
            // An error that needs manual action is returned by each call.
            Ok(()) | Err(QueueError::Deployment(_)) => {
                let mut topology = lock(&servers.topology);
                topology.outages.remove(&node);
                if !has_slots {
                    topology.nodes.remove(&node);
                }
                drop(topology);
                let seconds = since.elapsed().as_secs_f64();
                let what =
                    if has_slots { "the node is reachable again" } else { "other nodes own its slots now" };
                info!(seconds, "{}: {what}", server.name());
                return;
            }
            Err(error) => _ = lock(&servers.topology).outages.insert(node.clone(), error),
        }
    }
}

impl Inner {
    fn owner_of(&self, shard: usize) -> Option<Arc<Server>> {
        lock(&self.topology).owners.get(shard).cloned().flatten()
    }

    fn shards_of(&self, node: &Node) -> Vec<usize> {
        let topology = lock(&self.topology);
        let owners = topology.owners.iter().enumerate();
        let theirs =
            owners.filter(|(_, owner)| owner.as_ref().is_some_and(|owner| owner.node() == Some(node)));
        theirs.map(|(shard, _)| shard).collect()
    }

    /// Returns the error at once if the server is known to be unreachable.
    fn check(&self, server: &Server) -> Result<(), QueueError> {
        let Some(node) = server.node() else { return Ok(()) };
        lock(&self.topology).outages.get(node).map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Reads the slots from the nodes, unless that was done after `since`. The node `without` is not asked,
    /// unless it is the only one.
    async fn refresh_slots(&self, since: Instant, without: Option<&Node>) -> Result<(), QueueError> {
        let timeout_error = || QueueError::Unavailable(format!("{}: no answer in time", self.address));
        let mut last =
            timeout(self.options.call_timeout, self.slots_query.lock()).await.map_err(|_| timeout_error())?;
        if let Some(asked) = last.as_ref().filter(|asked| asked.at >= since) {
            return asked.error.clone().map_or(Ok(()), Err);
        }
        let asked = timeout(self.options.call_timeout, self.ask_for_slots(without)).await;
        let asked =
            asked.unwrap_or_else(|_| Err(timeout_error())).and_then(|ranges| self.store_slots(&ranges));
        *last = Some(SlotsQuery { at: Instant::now(), error: asked.as_ref().err().cloned() });
        asked
    }

    /// Returns the first answer of the asked nodes.
    async fn ask_for_slots(&self, without: Option<&Node>) -> Result<Vec<slots::Range>, QueueError> {
        let mut nodes: Vec<Node> = {
            let topology = lock(&self.topology);
            topology.nodes.keys().filter(|node| !topology.outages.contains_key(*node)).cloned().collect()
        };
        nodes.extend(self.address.hosts.iter().cloned());
        nodes.sort();
        nodes.dedup();
        if nodes.len() > 1 {
            nodes.retain(|node| Some(node) != without);
        }
        fastrand::shuffle(&mut nodes);
        nodes.truncate(SLOTS_QUERIES_MAX);
        let asked = nodes.into_iter().map(|node| -> BoxFuture<'_, _> { Box::pin(self.ask_node(node)) });
        Ok(select_ok(asked).await?.0)
    }

    async fn ask_node(&self, node: Node) -> Result<Vec<slots::Range>, QueueError> {
        let limit = self.options.call_timeout;
        let asked = async {
            let mut connection = connection::connect(&self.address, Some(&node), limit, limit).await?;
            let answer: Value = cmd("CLUSTER").arg("SLOTS").query_async(&mut connection).await?;
            slots::parse(&answer, &node)
        };
        asked.await.map_err(|error| fault::classify(&error, &self.address))
    }

    /// Stores the servers of all shards.
    fn store_slots(&self, ranges: &[slots::Range]) -> Result<(), QueueError> {
        let mut topology = lock(&self.topology);
        let mut owners = Vec::with_capacity(self.slots.len());
        for slot in &self.slots {
            let Some(node) = slots::owner_of(*slot, ranges) else {
                owners.push(None);
                continue;
            };
            let server = if let Some(server) = topology.nodes.get(node) {
                server.clone()
            } else {
                let server = Server::new(self.address.clone(), Some(node.clone()), self.options.clone())?;
                let server = Arc::new(server);
                topology.nodes.insert(node.clone(), server.clone());
                server
            };
            owners.push(Some(server));
        }
        topology.owners = owners;
        Ok(())
    }
}

fn shard_list(shards: &[usize]) -> String {
    let numbers: Vec<String> = shards.iter().map(usize::to_string).collect();
    let noun = if shards.len() == 1 { "shard" } else { "shards" };
    format!("{noun} {}", numbers.join(", "))
}
