//! One connection of the proxy: its two directions and their faults.

use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::time::sleep;

use super::{Break, Direction, Fault, Orders, Shared};

/// Maximum number of bytes per read.
const CHUNK: usize = 16 * 1024;
/// Number of times per second that a throttled direction forwards bytes.
const TICKS: u64 = 20;

/// Forwards bytes between a client and the server until both ends have closed, or a fault or an order ends
/// it.
pub(super) async fn connection(mut client: TcpStream, shared: &Shared, mut orders: watch::Receiver<Orders>) {
    let first = *orders.borrow();
    let port = shared.target.load(Ordering::Relaxed);
    let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else {
        drop(client.set_zero_linger());
        return;
    };
    drop((client.set_nodelay(true), server.set_nodelay(true)));
    let lost = [AtomicBool::new(false), AtomicBool::new(false)];
    let ended = {
        let (client_read, client_write) = client.split();
        let (server_read, server_write) = server.split();
        let up = Pump { shared, direction: Direction::ToServer, loses_this: &lost[0], loses_other: &lost[1] };
        let down =
            Pump { shared, direction: Direction::ToClient, loses_this: &lost[1], loses_other: &lost[0] };
        let pumps = async {
            tokio::try_join!(up.run(client_read, server_write), down.run(server_read, client_write))
        };
        tokio::select! {
            biased;
            // A cut is handled below, right after this.
            _ = orders.wait_for(|orders| orders.cuts > first.cuts || orders.forgets > first.forgets) => {
                Err(Ended::Ordered)
            }
            ended = pumps => ended.map(drop),
        }
    };
    if matches!(ended, Err(Ended::Ordered)) {
        // A forgotten connection is held open and never read again.
        _ = orders.wait_for(|orders| orders.cuts > first.cuts).await;
    }
    if !matches!(ended, Ok(()) | Err(Ended::Broken(Break::Close))) {
        drop((client.set_zero_linger(), server.set_zero_linger()));
    }
}

/// Reason of the end of a connection, other than both ends closing.
enum Ended {
    Broken(Break),
    Ordered,
}

impl From<io::Error> for Ended {
    /// One end was reset, so the other is reset too.
    fn from(_: io::Error) -> Self {
        Self::Broken(Break::Reset)
    }
}

/// One direction of one connection.
struct Pump<'a> {
    shared: &'a Shared,
    direction: Direction,
    loses_this: &'a AtomicBool,
    loses_other: &'a AtomicBool,
}

impl Pump<'_> {
    async fn run(&self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> Result<(), Ended> {
        let mut faults = self.shared.faults(self.direction).subscribe();
        let mut buffer = vec![0; CHUNK];
        loop {
            let mut rule = Rule::new(faults.borrow_and_update().clone());
            loop {
                if self.breaks(&mut rule, &mut to).await? {
                    return Ok(());
                }
                let room = rule.space();
                let read = tokio::select! {
                    biased;
                    // The sender of the channel outlives the connection.
                    _ = faults.changed() => break,
                    read = from.read(&mut buffer[..room]), if room > 0 => read?,
                };
                if self.loses_this.load(Ordering::Relaxed) {
                    self.shared.broken.fetch_add(1, Ordering::Relaxed);
                    return Err(Ended::Broken(Break::Reset));
                }
                if read == 0 {
                    to.shutdown().await?;
                    return Ok(());
                }
                sleep(rule.pause(read)).await;
                to.write_all(&buffer[..read]).await?;
                rule.passed(&buffer[..read]);
            }
        }
    }

    /// Breaks the connection if it is due. Returns whether only this direction has ended.
    async fn breaks(&self, rule: &mut Rule, to: &mut WriteHalf<'_>) -> Result<bool, Ended> {
        let Some(then) = rule.then.take() else { return Ok(false) };
        if then == Break::LoseAnswer {
            self.loses_other.store(true, Ordering::Relaxed);
            rule.left = u64::MAX;
            return Ok(false);
        }
        self.shared.broken.fetch_add(1, Ordering::Relaxed);
        match then {
            Break::Reset | Break::Close => return Err(Ended::Broken(then)),
            Break::HalfClose => to.shutdown().await?,
            Break::BlackHole | Break::LoseAnswer => rule.left = 0,
        }
        Ok(then == Break::HalfClose)
    }
}

/// A fault as applied to one direction of one connection.
struct Rule {
    fault: Fault,
    /// Number of bytes that may still pass.
    left: u64,
    /// Break that is due now.
    then: Option<Break>,
}

impl Rule {
    fn new(fault: Fault) -> Self {
        let left = match fault {
            Fault::After { bytes, random: true, .. } => fastrand::u64(0..=bytes),
            Fault::After { bytes, .. } => bytes,
            _ => u64::MAX,
        };
        let mut rule = Self { fault, left, then: None };
        rule.passed(&[]);
        rule
    }

    /// Records that these bytes have passed.
    fn passed(&mut self, chunk: &[u8]) {
        self.left = self.left.saturating_sub(count(chunk.len()));
        self.then = match &self.fault {
            Fault::After { then, .. } if self.left == 0 => Some(*then),
            Fault::When(judge) if !chunk.is_empty() => judge(chunk),
            _ => None,
        };
    }

    /// Returns the maximum length of the next chunk, in bytes.
    fn space(&self) -> usize {
        let room = match self.fault {
            Fault::Throttle(rate) => rate.max(1).div_ceil(TICKS),
            _ => self.left,
        };
        usize::try_from(room).unwrap_or(CHUNK).min(CHUNK)
    }

    /// Returns the delay of a chunk of this length.
    fn pause(&self, length: usize) -> Duration {
        match self.fault {
            Fault::Delay(delay) => delay,
            Fault::Throttle(rate) => Duration::from_micros(count(length) * 1_000_000 / rate.max(1)),
            _ => Duration::ZERO,
        }
    }
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
