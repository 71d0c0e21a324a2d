//! A TCP proxy in front of a server that injects faults as a test says.
//!
//! A fault belongs to one direction. It applies to open and new connections, each separately, and stays until
//! another one is set. The proxy runs on its own thread, so a test may block.
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

/// Direction of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
}

/// Kind of break of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// Both ends get a reset (RST).
    Reset,
    /// Both ends see a close (FIN).
    Close,
    /// The receiving end sees a close; the other direction continues.
    HalfClose,
    /// No more bytes pass in this direction, and nothing is closed.
    BlackHole,
    /// The bytes of this direction arrive, but the answer is lost: the next byte of the other direction
    /// resets both ends instead of being forwarded.
    LoseAnswer,
}

/// Decides from a chunk of bytes, as it was read, whether the connection breaks after them.
type Judge = Arc<dyn Fn(&[u8]) -> Option<Break> + Send + Sync>;

/// Fault of one direction.
#[derive(Clone)]
pub enum Fault {
    /// Bytes pass.
    None,
    /// Bytes pass after this delay. Bytes that arrive in the meantime pass together.
    Delay(Duration),
    /// Maximum number of bytes per second, at least 1.
    Throttle(u64),
    /// The connection breaks after this number of bytes, or with `random` after any number up to it.
    After {
        /// Number of bytes, counted from the time of the fault.
        bytes: u64,
        /// Whether the number is an upper limit, drawn for each connection.
        random: bool,
        /// Kind of break.
        then: Break,
    },
    /// Bytes pass until the closure returns a break.
    When(Judge),
}

impl Fault {
    /// Breaks each connection after this number of further bytes.
    pub const fn after(bytes: u64, then: Break) -> Self {
        Self::After { bytes, random: false, then }
    }

    /// Breaks each connection after a random number of further bytes, at most this one.
    pub const fn within(bytes: u64, then: Break) -> Self {
        Self::After { bytes, random: true, then }
    }

    /// Breaks a connection after the chunk for which the closure returns a break. A small request is one
    /// chunk if its sender waits for the answer.
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

/// Orders for the connections that are open, counted since the start.
#[derive(Clone, Copy, Debug, Default)]
struct Orders {
    cuts: usize,
    forgets: usize,
    ends: bool,
}

impl FaultProxy {
    /// Starts a proxy in front of the server on this port of 127.0.0.1.
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

    /// Returns the port on which the proxy listens.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Returns the URL of the server, with the proxy's port instead of the server's.
    pub fn url(&self, url: &str) -> String {
        let target = format!(":{}", self.shared.target.load(Ordering::Relaxed));
        assert!(url.contains(&target), "the URL does not lead to the server of this proxy");
        url.replacen(&target, &format!(":{}", self.port), 1)
    }

    /// Sends new connections to this port; open ones stay with their server.
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

    /// Removes the faults of both directions.
    pub fn heal(&self) {
        self.fail_both(Fault::None);
    }

    /// Resets all open connections.
    pub fn cut(&self) {
        self.shared.orders.send_modify(|orders| orders.cuts += 1);
    }

    /// Drops all bytes of the open connections, as a firewall does that has lost their state. Neither end
    /// gets a reset.
    pub fn forget(&self) {
        self.shared.orders.send_modify(|orders| orders.forgets += 1);
    }

    /// Returns the number of connections accepted.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Returns the number of open connections.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// Returns the number of connections that a fault has broken.
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
                // Orders count from the accept, not from the start of the task.
                let orders = shared.orders.subscribe();
                connections.spawn(async move {
                    connection(client, &shared, orders).await;
                    shared.open.fetch_sub(1, Ordering::Relaxed);
                });
            }
        }
    }
}
