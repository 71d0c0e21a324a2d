//! A load generator that costs as little as one can: the requests are signed and written out beforehand,
//! one thread drives all connections, and of an answer it reads the status and the length. On a machine
//! of two cores, what the generator takes is missing from what is measured.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rollbook_core::time::Clock as _;
use rollbook_simulator::history::Event;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::{WallClock, load};

/// Sends each event once, as fast as it goes over this many connections; every one must be answered 200.
pub(crate) fn hammer(address: SocketAddr, events: &[Event], connections: usize) -> Duration {
    let requests: Arc<Vec<Vec<u8>>> = Arc::new(events.iter().map(request).collect());
    let next = Arc::new(AtomicUsize::new(0));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
    runtime.block_on(async {
        let mut lines = JoinSet::new();
        let mut streams = Vec::new();
        for _ in 0..connections {
            let stream = TcpStream::connect(address).await.expect("a connection");
            stream.set_nodelay(true).expect("a socket");
            streams.push(stream);
        }
        let started = Instant::now();
        for stream in streams {
            lines.spawn(line(stream, Arc::clone(&requests), Arc::clone(&next)));
        }
        lines.join_all().await;
        started.elapsed()
    })
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

async fn line(mut stream: TcpStream, requests: Arc<Vec<Vec<u8>>>, next: Arc<AtomicUsize>) {
    let mut answer = Vec::with_capacity(1024);
    while let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed)) {
        stream.write_all(request).await.expect("a request on its way");
        answer.clear();
        while !is_whole(&answer) {
            assert!(stream.read_buf(&mut answer).await.expect("an answer") > 0, "the connection was closed");
        }
        let status = answer.get(9..12);
        assert_eq!(status, Some(&b"200"[..]), "{}", String::from_utf8_lossy(&answer));
    }
}

fn is_whole(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&answer[..end]);
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    answer.len() >= end + 4 + length.expect("an answer with a length")
}
