//! A load generator that costs as little as one can: the requests are signed and written out beforehand,
//! one thread drives all connections, and of an answer it reads the status and the length. On a machine
//! of two cores, what the generator takes is missing from what is measured.
//!
//! Load at a fixed rate is open: a request is given out when it is due, whether or not earlier ones are answered, and its time
//! counts from then. A server that pauses for a second cannot hide it by holding up the generator.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rollbook_core::time::Clock as _;
use rollbook_simulator::history::Event;
use rollbook_testkit::clock::WallClock;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

use crate::cpu::{Sharer, Watch};
use crate::load;

/// Results of the requests.
pub(crate) struct Hammered {
    /// CPU time from the first request on.
    pub(crate) watch: Watch,
    /// From the first request to the last answer.
    pub(crate) elapsed: Duration,
    /// Time of each answer, sorted: from the request's first byte to the answer's last. With a `pause` it counts from the time
    /// at which the request was given out, so that a request that waits for a free connection counts as slow.
    latencies: Vec<Duration>,
    /// Delays of the generator itself, sorted: how long after its due time a request was given out. Not counted in the latencies.
    delays: Vec<Duration>,
    /// Requests that were not answered 200 or 204, each with the reason.
    pub(crate) failures: Vec<String>,
}

impl Hammered {
    pub(crate) fn latency(&self, per_mille: usize) -> Duration {
        at(&self.latencies, per_mille)
    }

    /// Returns the generator's own delay. If it is long, the load was not as even as it should have been.
    pub(crate) fn delay(&self, per_mille: usize) -> Duration {
        at(&self.delays, per_mille)
    }
}

fn at(sorted: &[Duration], per_mille: usize) -> Duration {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last * per_mille).div_ceil(1000).min(last)).copied().unwrap_or_default()
}

/// Requests, ready to be sent.
pub(crate) type Requests = Arc<Vec<Vec<u8>>>;

/// A signed request for each event.
pub(crate) fn requests(events: &[Event]) -> Requests {
    Arc::new(events.iter().map(request).collect())
}

/// Sends each request once over this many connections, as fast as it goes or, with a `pause`, one in each
/// pause; every one must be answered 200 or 204. The `sharers` are watched.
pub(crate) async fn hammer(
    address: SocketAddr,
    requests: &Requests,
    connections: usize,
    pause: Option<Duration>,
    sharers: &[Sharer],
) -> Hammered {
    let hammered = attempt(address, requests, connections, pause, sharers).await;
    let failures = &hammered.failures;
    assert!(failures.is_empty(), "{} of {} requests failed: {}", failures.len(), requests.len(), failures[0]);
    hammered
}

/// Sends requests as [`hammer`] does. Those that fail are counted.
pub(crate) async fn attempt(
    address: SocketAddr,
    requests: &Requests,
    connections: usize,
    pause: Option<Duration>,
    sharers: &[Sharer],
) -> Hammered {
    let (requests, sharers) = (Arc::clone(requests), sharers.to_vec());
    // A thread and a runtime of its own: one core does all of it.
    let hammering = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(send_all(address, requests, connections, pause, &sharers))
    });
    hammering.await.expect("a load generator that ends")
}

async fn send_all(
    address: SocketAddr,
    requests: Requests,
    connections: usize,
    pause: Option<Duration>,
    sharers: &[Sharer],
) -> Hammered {
    let mut streams = Vec::new();
    for _ in 0..connections {
        streams.push(connect(address).await.expect("a connection"));
    }
    let watch = Watch::start(sharers);
    let started = Instant::now();
    let (turns, pacer) = match pause {
        None => (Turns::AtOnce(AtomicUsize::new(0)), None),
        Some(pause) => {
            let (sender, receiver) = mpsc::unbounded_channel();
            let count = requests.len();
            let pacer = std::thread::spawn(move || pace(count, started, pause, &sender));
            (Turns::Paced(Mutex::new(receiver)), Some(pacer))
        }
    };
    let turns = Arc::new(turns);
    let mut lines = JoinSet::new();
    for stream in streams {
        lines.spawn(line(address, stream, Arc::clone(&requests), Arc::clone(&turns)));
    }
    let (latencies, failures): (Vec<_>, Vec<_>) = lines.join_all().await.into_iter().unzip();
    let elapsed = started.elapsed();
    let mut delays = pacer.map_or_else(Vec::new, |pacer| pacer.join().expect("a pacer that ends"));
    let mut latencies = latencies.concat();
    latencies.sort_unstable();
    delays.sort_unstable();
    Hammered { watch, elapsed, latencies, delays, failures: failures.concat() }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Order in which the connections take the requests.
enum Turns {
    /// Each connection takes the next request as soon as it is free.
    AtOnce(AtomicUsize),
    /// A request is taken when it is due. The connections wait in a fair order.
    Paced(Mutex<mpsc::UnboundedReceiver<(usize, Instant)>>),
}

impl Turns {
    /// Returns the number of the next request, and the time from which its answer counts. `None` at the end.
    async fn next(&self, count: usize) -> Option<(usize, Instant)> {
        match self {
            Self::AtOnce(next) => {
                let index = next.fetch_add(1, Ordering::Relaxed);
                (index < count).then(|| (index, Instant::now()))
            }
            Self::Paced(due) => due.lock().await.recv().await,
        }
    }
}

/// Gives out each request when it is due, whatever the answers do, and returns its own delays. It is a thread, because timers
/// of the runtime count whole milliseconds.
fn pace(
    count: usize,
    started: Instant,
    pause: Duration,
    sender: &mpsc::UnboundedSender<(usize, Instant)>,
) -> Vec<Duration> {
    let mut delays = Vec::with_capacity(count);
    for index in 0..count {
        let due = started + pause * u32::try_from(index).expect("few requests");
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let now = Instant::now();
        delays.push(now.saturating_duration_since(due));
        if sender.send((index, now)).is_err() {
            // The connections have ended: their panic says why.
            break;
        }
    }
    delays
}

fn request(event: &Event) -> Vec<u8> {
    let now = WallClock.now();
    let head = format!(
        "POST /webhooks/clerk HTTP/1.1\r\nhost: rollbook\r\nuser-agent: Svix-Webhooks/1.0\r\n\
         content-type: application/json\r\nsvix-id: {}\r\nsvix-timestamp: {}\r\nsvix-signature: {}\r\n\
         content-length: {}\r\n\r\n",
        event.id,
        now.as_millis() / 1000,
        load::secret().sign(event.id.as_str(), now, &event.body),
        event.body.len()
    );
    [head.as_bytes(), &event.body].concat()
}

/// Sends requests over one connection, which is opened again after a failure. Returns the latencies and the failures.
async fn line(
    address: SocketAddr,
    mut stream: TcpStream,
    requests: Requests,
    turns: Arc<Turns>,
) -> (Vec<Duration>, Vec<String>) {
    let (mut latencies, mut failures) = (Vec::new(), Vec::new());
    let mut answer = Vec::with_capacity(1024);
    while let Some((index, given_out)) = turns.next(requests.len()).await {
        let outcome = exchange(&mut stream, &requests[index], &mut answer).await;
        latencies.push(given_out.elapsed());
        let status = answer.get(9..12);
        let is_good = status == Some(&b"200"[..]) || status == Some(&b"204"[..]);
        match outcome {
            Ok(()) if is_good => {}
            Ok(()) => failures.push(String::from_utf8_lossy(&answer).into_owned()),
            Err(error) => {
                failures.push(error.to_string());
                stream = connect(address).await.expect("a connection");
            }
        }
    }
    (latencies, failures)
}

/// Sends a request and reads the answer.
async fn exchange(stream: &mut TcpStream, request: &[u8], answer: &mut Vec<u8>) -> io::Result<()> {
    answer.clear();
    stream.write_all(request).await?;
    while !is_whole(answer) {
        if stream.read_buf(answer).await? == 0 {
            return Err(io::Error::other("the connection was closed"));
        }
    }
    Ok(())
}

fn is_whole(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&answer[..end]);
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().ok())?
    });
    let length = length.or_else(|| head.starts_with("HTTP/1.1 204 ").then_some(0));
    answer.len() >= end + 4 + length.expect("an answer with a length")
}
