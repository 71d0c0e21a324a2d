//! A load generator that costs as little as one can: the requests are signed and written out beforehand,
//! one thread drives all connections, and of an answer it reads the status and the length. On a machine
//! of two cores, what the generator takes is missing from what is measured.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rollbook_core::time::Clock as _;
use rollbook_simulator::history::Event;
use rollbook_testkit::clock::WallClock;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::cpu::{Sharer, Watch};
use crate::load;

/// Results of the requests.
pub(crate) struct Hammered {
    /// CPU time from the first request on.
    pub(crate) watch: Watch,
    /// From the first request to the last answer.
    pub(crate) elapsed: Duration,
    /// From a request's first byte to its answer's last, sorted.
    latencies: Vec<Duration>,
}

impl Hammered {
    pub(crate) fn latency(&self, per_mille: usize) -> Duration {
        let last = self.latencies.len() - 1;
        self.latencies[(last * per_mille).div_ceil(1000).min(last)]
    }
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
        let stream = TcpStream::connect(address).await.expect("a connection");
        stream.set_nodelay(true).expect("a socket");
        streams.push(stream);
    }
    let next = Arc::new(AtomicUsize::new(0));
    let watch = Watch::start(sharers);
    let started = Instant::now();
    let mut lines = JoinSet::new();
    for stream in streams {
        lines.spawn(line(
            stream,
            Arc::clone(&requests),
            Arc::clone(&next),
            pause.map(|pause| (started, pause)),
        ));
    }
    let mut latencies = lines.join_all().await.concat();
    let elapsed = started.elapsed();
    latencies.sort_unstable();
    Hammered { watch, elapsed, latencies }
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

async fn line(
    mut stream: TcpStream,
    requests: Requests,
    next: Arc<AtomicUsize>,
    pace: Option<(Instant, Duration)>,
) -> Vec<Duration> {
    let mut latencies = Vec::new();
    let mut answer = Vec::with_capacity(1024);
    loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        let Some(request) = requests.get(index) else { return latencies };
        if let Some((started, pause)) = pace {
            let due = started + pause * u32::try_from(index).expect("few requests");
            tokio::time::sleep_until(due.into()).await;
        }
        let sent = Instant::now();
        stream.write_all(request).await.expect("a request on its way");
        answer.clear();
        while !is_whole(&answer) {
            assert!(stream.read_buf(&mut answer).await.expect("an answer") > 0, "the connection was closed");
        }
        latencies.push(sent.elapsed());
        let status = answer.get(9..12);
        let is_good = status == Some(&b"200"[..]) || status == Some(&b"204"[..]);
        assert!(is_good, "{}", String::from_utf8_lossy(&answer));
    }
}

fn is_whole(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&answer[..end]);
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    let length = length.or_else(|| head.starts_with("HTTP/1.1 204 ").then_some(0));
    answer.len() >= end + 4 + length.expect("an answer with a length")
}
