//! The servers of a queue: one, or in a cluster the nodes that have its shards.
//!
//! * A shard is on the node that has its slot. Which one that is is learnt from the nodes, and learnt again when one says
//!   that it has moved, or cannot be reached.
//! * A node of a cluster that cannot be reached fails at once from then on, so that it holds up nobody who works with the
//!   others. One task asks it, and the others where its slots are, until it answers or has none.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all, select_ok};
use redis::{Value, cmd};
use rollbook_core::queue::{Durability, QueueError};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::{error, info, warn};

use crate::address::{Address, Form};
use crate::connection;
use crate::fault;
use crate::pool::{Answer, Call, FailureKind, Options, Server};
use crate::slots::{self, Node};

/// The first pause before a node is asked again whether it can be reached. It doubles.
const PROBE_AFTER: Duration = Duration::from_millis(50);
const PROBE_AFTER_MAX: Duration = Duration::from_secs(1);

/// So many nodes at most are asked at once where the slots are.
const ASKED_MAX: usize = 8;

/// How often at most the nodes are asked for a slot that none had.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(250);

/// The servers of a queue. Clones are the same.
#[derive(Clone)]
pub(crate) struct Servers(Arc<Inner>);

struct Inner {
    address: Address,
    options: Options,
    /// The slot of each shard.
    slots: Vec<u16>,
    known: Mutex<Known>,
    /// Held by the one who asks where the slots are.
    asking: tokio::sync::Mutex<Option<Asked>>,
    /// What runs beside the calls: one task for each node that cannot be reached, and now and then another.
    tasks: Mutex<JoinSet<()>>,
}

/// What came of asking where the slots are.
struct Asked {
    at: Instant,
    error: Option<QueueError>,
}

#[derive(Default)]
struct Known {
    /// The server of each shard, where it is known. Empty before the nodes were asked.
    owners: Vec<Option<Arc<Server>>>,
    /// By node.
    nodes: BTreeMap<Node, Arc<Server>>,
    /// Nodes that cannot be reached, and why not.
    outages: BTreeMap<Node, QueueError>,
}

impl Servers {
    /// The servers at an address, for shards whose keys are like these.
    pub(crate) fn new(address: Address, options: Options, keys: &[&str]) -> Result<Self, QueueError> {
        let slots: Vec<u16> = keys.iter().map(|key| slots::slot_of(key)).collect();
        let mut known = Known::default();
        if address.form != Form::Cluster {
            let server = Arc::new(Server::new(address.clone(), None, options.clone())?);
            known.owners = vec![Some(server); slots.len()];
        }
        let asking = tokio::sync::Mutex::new(None);
        let (known, tasks) = (Mutex::new(known), Mutex::new(JoinSet::new()));
        Ok(Self(Arc::new(Inner { address, options, slots, known, asking, tasks })))
    }

    pub(crate) fn address(&self) -> &Address {
        &self.0.address
    }

    /// How long any one call may take.
    pub(crate) fn call_timeout(&self) -> Duration {
        self.0.options.call_timeout
    }

    /// Whether shards may be on servers of their own.
    pub(crate) fn are_several(&self) -> bool {
        self.0.address.form == Form::Cluster
    }

    /// Carries out a call on the server that has this shard.
    pub(crate) async fn call(&self, shard: usize, call: &Call<'_>) -> Result<Answer, QueueError> {
        let mut has_moved = false;
        loop {
            let server = self.server_of(shard).await?;
            self.0.check(&server)?;
            let asked_at = Instant::now();
            let failure = match server.call(call).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            match failure.kind {
                FailureKind::Moved if self.are_several() && !has_moved => {
                    has_moved = true;
                    self.0.learn_slots(asked_at, None).await?;
                }
                FailureKind::Unreachable if self.are_several() => {
                    self.begin_outage(&server, &failure.error);
                    return Err(failure.error);
                }
                _ => return Err(failure.error),
            }
        }
    }

    /// The server that has this shard.
    pub(crate) async fn server_of(&self, shard: usize) -> Result<Arc<Server>, QueueError> {
        if let Some(owner) = self.0.owner_of(shard) {
            return Ok(owner);
        }
        let since = Instant::now().checked_sub(ASK_AGAIN_AFTER).unwrap_or_else(Instant::now);
        self.0.learn_slots(since, None).await?;
        self.0.owner_of(shard).ok_or_else(|| {
            let (address, slot) = (&self.0.address, self.0.slots[shard]);
            QueueError::Unavailable(format!(
                "{address}: no node has slot {slot}, which shard {shard} needs: part of the cluster is down"
            ))
        })
    }

    /// What the acknowledgements of the servers that answer are worth, and which do not answer.
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
                }
                Err(error) => {
                    if self.are_several() && matches!(error, QueueError::Unavailable(_)) {
                        self.begin_outage(&server, &error);
                    }
                    durability.unreachable.push(format!("{}: {error}", shards_named(&shards)));
                    first_error = first_error.or(Some(error));
                }
            }
        }
        match first_error {
            Some(error) if !have_answered => Err(error),
            _ => Ok(durability),
        }
    }

    /// Runs a task beside all calls, to its end or to that of the last of these servers' users.
    pub(crate) fn run_beside(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(ended) = tasks.try_join_next() {
            if let Err(panicked) = ended {
                error!("{}: a task beside the calls has failed: {panicked}", self.0.address);
            }
        }
        tasks.spawn(task);
    }

    /// Takes note that a node cannot be reached, and goes on asking it beside all calls.
    fn begin_outage(&self, server: &Arc<Server>, error: &QueueError) {
        let Some(node) = server.node() else { return };
        let shards = self.0.shards_of(node);
        {
            let mut known = self.0.known();
            if known.outages.insert(node.clone(), error.clone()).is_some() {
                return;
            }
        }
        warn!(
            "{error}: {} can neither take deliveries nor give any until it answers; all others go on",
            shards_named(&shards)
        );
        self.run_beside(watch_outage(Arc::downgrade(&self.0), server.clone(), node.clone()));
    }
}

/// Asks an unreachable node, and the others whether they have its slots, until one of both is so.
async fn watch_outage(servers: Weak<Inner>, server: Arc<Server>, node: Node) {
    let since = Instant::now();
    let mut pause = PROBE_AFTER;
    loop {
        sleep(pause).await;
        pause = (pause * 2).min(PROBE_AFTER_MAX);
        let Some(servers) = servers.upgrade() else { return };
        // Another node may have taken over.
        _ = servers.learn_slots(Instant::now(), Some(&node)).await;
        let has_slots = !servers.shards_of(&node).is_empty();
        let answered = if has_slots { server.probe().await } else { Ok(()) };
        match answered {
            // What only a person can fix is said at every call.
            Ok(()) | Err(QueueError::Deployment(_)) => {
                let mut known = servers.known();
                known.outages.remove(&node);
                if !has_slots {
                    known.nodes.remove(&node);
                }
                drop(known);
                let seconds = since.elapsed().as_secs_f64();
                let what =
                    if has_slots { "it can be reached again" } else { "other nodes have its slots now" };
                info!(seconds, "{}: {what}", server.name());
                return;
            }
            Err(error) => _ = servers.known().outages.insert(node.clone(), error),
        }
    }
}

impl Inner {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn owner_of(&self, shard: usize) -> Option<Arc<Server>> {
        self.known().owners.get(shard).cloned().flatten()
    }

    fn shards_of(&self, node: &Node) -> Vec<usize> {
        let known = self.known();
        let owners = known.owners.iter().enumerate();
        let theirs =
            owners.filter(|(_, owner)| owner.as_ref().is_some_and(|owner| owner.node() == Some(node)));
        theirs.map(|(shard, _)| shard).collect()
    }

    /// An error at once where the server is known to be unreachable.
    fn check(&self, server: &Server) -> Result<(), QueueError> {
        let Some(node) = server.node() else { return Ok(()) };
        self.known().outages.get(node).map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Asks the nodes where the slots are, unless somebody has since this moment. `without` is not asked, unless it is
    /// the only one.
    async fn learn_slots(&self, since: Instant, without: Option<&Node>) -> Result<(), QueueError> {
        let too_late = || QueueError::Unavailable(format!("{}: no answer in time", self.address));
        let mut last =
            timeout(self.options.call_timeout, self.asking.lock()).await.map_err(|_| too_late())?;
        if let Some(asked) = last.as_ref().filter(|asked| asked.at >= since) {
            return asked.error.clone().map_or(Ok(()), Err);
        }
        let asked = timeout(self.options.call_timeout, self.ask_for_slots(without)).await;
        let asked = asked.unwrap_or_else(|_| Err(too_late())).and_then(|ranges| self.adopt(&ranges));
        *last = Some(Asked { at: Instant::now(), error: asked.as_ref().err().cloned() });
        asked
    }

    /// The answer of the node that is the first to give one.
    async fn ask_for_slots(&self, without: Option<&Node>) -> Result<Vec<slots::Range>, QueueError> {
        let mut nodes: Vec<Node> = {
            let known = self.known();
            known.nodes.keys().filter(|node| !known.outages.contains_key(*node)).cloned().collect()
        };
        nodes.extend(self.address.hosts.iter().cloned());
        nodes.sort();
        nodes.dedup();
        if nodes.len() > 1 {
            nodes.retain(|node| Some(node) != without);
        }
        fastrand::shuffle(&mut nodes);
        nodes.truncate(ASKED_MAX);
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
        asked.await.map_err(|error| fault::judge(&error, &self.address))
    }

    /// Takes note of where the shards are.
    fn adopt(&self, ranges: &[slots::Range]) -> Result<(), QueueError> {
        let mut known = self.known();
        let mut owners = Vec::with_capacity(self.slots.len());
        for slot in &self.slots {
            let Some(node) = slots::owner_of(*slot, ranges) else {
                owners.push(None);
                continue;
            };
            let server = if let Some(server) = known.nodes.get(node) {
                server.clone()
            } else {
                let server = Server::new(self.address.clone(), Some(node.clone()), self.options.clone())?;
                let server = Arc::new(server);
                known.nodes.insert(node.clone(), server.clone());
                server
            };
            owners.push(Some(server));
        }
        known.owners = owners;
        Ok(())
    }
}

fn shards_named(shards: &[usize]) -> String {
    let numbers: Vec<String> = shards.iter().map(usize::to_string).collect();
    let noun = if shards.len() == 1 { "shard" } else { "shards" };
    format!("{noun} {}", numbers.join(", "))
}
