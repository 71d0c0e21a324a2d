//! A TCP proxy in front of a server, which damages what passes through it as a test says.
//!
//! A fault belongs to a direction and applies to open connections and to new ones, each on its own. It stays
//! until another one is set. The proxy runs on a thread of its own, so a test may block.
//!
//! ```no_run
//! # async fn example(server: rollbook_testkit::servers::postgres::PostgresServer) {
//! use rollbook_testkit::servers::proxy::{Break, Direction, Fault, FaultProxy};
//!
//! let proxy = FaultProxy::start(server.port());
//! let url = proxy.url(&server.url("app"));
//! proxy.fail(Direction::ToClient, Fault::within(4096, Break::Reset)); // at a random byte of each connection
//! proxy.fail_both(Fault::after(0, Break::BlackHole)); // nothing passes, nothing is closed
//! proxy.heal(); // connections that still exist work again, with all that was held back
//! proxy.cut(); // resets the connections of now
//! proxy.forget(); // the connections of now pass nothing ever again; new ones work
//! # }
//! ```

mod pump;

use std::fmt;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use self::pump::connection;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// Both ends get a reset (RST).
    Reset,
    /// Both ends see the other one close (FIN).
    Close,
    /// The receiving end sees the other one close; the other direction goes on.
    HalfClose,
    /// Nothing more passes in this direction, and nothing is closed.
    BlackHole,
    /// What passed in this direction arrives, and its answer is lost: the next byte of the other direction
    /// resets both ends instead of being passed on.
    LoseAnswer,
}

/// Decides from a chunk of bytes, as it was read, whether the connection breaks after them.
type Judge = Arc<dyn Fn(&[u8]) -> Option<Break> + Send + Sync>;

/// What happens to the bytes of one direction.
#[derive(Clone)]
pub enum Fault {
    /// They pass.
    None,
    /// They pass this much later. What comes in the meantime passes together.
    Delay(Duration),
    /// At most so many bytes a second pass, at least 1.
    Throttle(u64),
    /// So many bytes of each connection pass, then it breaks. With `random`, any number up to that one.
    After {
        /// The number of bytes, counted from the time of the fault.
        bytes: u64,
        /// Whether the number is an upper limit, drawn for each connection.
        random: bool,
        /// What happens then.
        then: Break,
    },
    /// They pass until the closure says otherwise.
    When(Judge),
}

impl Fault {
    /// Breaks each connection after so many bytes more.
    pub const fn after(bytes: u64, then: Break) -> Self {
        Self::After { bytes, random: false, then }
    }

    /// Breaks each connection after a random number of bytes more, at most this one.
    pub const fn within(bytes: u64, then: Break) -> Self {
        Self::After { bytes, random: true, then }
    }

    /// Breaks a connection after the chunk for which the closure returns how. A small request is one chunk
    /// if its sender waits for the answer.
    pub fn when(judge: impl Fn(&[u8]) -> Option<Break> + Send + Sync + 'static) -> Self {
        Self::When(Arc::new(judge))
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => write!(f, "None"),
            Self::Delay(delay) => write!(f, "Delay({delay:?})"),
            Self::Throttle(rate) => write!(f, "Throttle({rate})"),
            Self::After { bytes, random, then } => {
                write!(f, "After({bytes}{}, {then:?})", if *random { " at most" } else { "" })
            }
            Self::When(_) => write!(f, "When(…)"),
        }
    }
}

/// A proxy on a free port of 127.0.0.1. Dropping it closes its connections.
#[derive(Debug)]
pub struct FaultProxy {
    port: u16,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    target: AtomicU16,
    to_server: watch::Sender<Fault>,
    to_client: watch::Sender<Fault>,
    orders: watch::Sender<Orders>,
    accepted: AtomicUsize,
    open: AtomicUsize,
    broken: AtomicUsize,
}

/// What was ordered so far for the connections of a time.
#[derive(Clone, Copy, Debug, Default)]
struct Orders {
    cuts: usize,
    forgets: usize,
    ends: bool,
}

impl FaultProxy {
    /// Starts one in front of the server on this port of 127.0.0.1.
    pub fn start(target: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        listener.set_nonblocking(true).expect("a socket that does not block");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::new(Shared {
            target: target.into(),
            to_server: watch::Sender::new(Fault::None),
            to_client: watch::Sender::new(Fault::None),
            orders: watch::Sender::new(Orders::default()),
            accepted: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            broken: AtomicUsize::new(0),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let served = Arc::clone(&shared);
        let thread = std::thread::spawn(move || runtime.block_on(serve(listener, served)));
        Self { port, shared, thread: Some(thread) }
    }

    /// Where it listens.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The URL of the server, with the proxy's port instead of the server's.
    pub fn url(&self, url: &str) -> String {
        let target = format!(":{}", self.shared.target.load(Ordering::Relaxed));
        assert!(url.contains(&target), "the URL does not lead to the server of this proxy");
        url.replacen(&target, &format!(":{}", self.port), 1)
    }

    /// New connections go to this port; those of now stay where they are.
    pub fn set_target(&self, port: u16) {
        self.shared.target.store(port, Ordering::Relaxed);
    }

    /// Sets the fault of one direction.
    pub fn fail(&self, direction: Direction, fault: Fault) {
        self.shared.faults(direction).send_replace(fault);
    }

    /// Sets the fault of both directions.
    pub fn fail_both(&self, fault: Fault) {
        self.fail(Direction::ToServer, fault.clone());
        self.fail(Direction::ToClient, fault);
    }

    /// Ends the faults of both directions.
    pub fn heal(&self) {
        self.fail_both(Fault::None);
    }

    /// Resets all connections of now.
    pub fn cut(&self) {
        self.shared.orders.send_modify(|orders| orders.cuts += 1);
    }

    /// Drops all bytes of the connections that are open now, as a firewall does that has forgotten them. Neither end
    /// gets a reset.
    pub fn forget(&self) {
        self.shared.orders.send_modify(|orders| orders.forgets += 1);
    }

    /// Number of connections that it has accepted.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Number of connections that it holds.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// Number of times that a fault has broken a connection.
    pub fn broken(&self) -> usize {
        self.shared.broken.load(Ordering::Relaxed)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.orders.send_modify(|orders| orders.ends = true);
        drop(self.thread.take().map(JoinHandle::join));
    }
}

impl Shared {
    const fn faults(&self, direction: Direction) -> &watch::Sender<Fault> {
        match direction {
            Direction::ToServer => &self.to_server,
            Direction::ToClient => &self.to_client,
        }
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    let mut orders = shared.orders.subscribe();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = orders.wait_for(|orders| orders.ends) => return,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                shared.accepted.fetch_add(1, Ordering::Relaxed);
                shared.open.fetch_add(1, Ordering::Relaxed);
                let shared = Arc::clone(&shared);
                // From here on, not from when its task runs.
                let orders = shared.orders.subscribe();
                connections.spawn(async move {
                    connection(client, &shared, orders).await;
                    shared.open.fetch_sub(1, Ordering::Relaxed);
                });
            }
        }
    }
}
