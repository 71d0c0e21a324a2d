//! Closing of a connection after the last response, and the discarding of bytes that nobody reads.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

/// Time that a connection stays open after the last response. Closing it while bytes of a refused body are in
/// transit would reset it, and the client might never see the response.
const LINGER_FOR: Duration = Duration::from_secs(1);
/// Maximum bytes per second read of refused bodies, over all connections.
const DISCARD_RATE_MAX: u64 = 128 * 1024 * 1024;
/// Maximum bytes of a refused body read at once on one connection.
const DISCARD_PIECE: usize = 8 * 1024;
/// Time by which discarding may run ahead of its rate.
const DISCARD_SLACK: Duration = Duration::from_millis(10);

/// Closes the sending side, then waits up to [`LINGER_FOR`] for the client to close its side.
pub(crate) async fn linger(mut stream: TcpStream, discards: &Discards) {
    let rest = async {
        stream.shutdown().await?;
        let mut buffer = vec![0; DISCARD_PIECE];
        loop {
            let count = stream.read(&mut buffer).await?;
            if count == 0 {
                return Ok::<_, io::Error>(());
            }
            discards.pace(count).await;
        }
    };
    _ = timeout(LINGER_FOR, rest).await;
}

/// Shared rate limit of all lingering connections: discarding refused bytes must not take processor time from
/// requests that are wanted.
#[derive(Debug, Default)]
pub(crate) struct Discards(Mutex<Option<Instant>>);

impl Discards {
    async fn pace(&self, bytes: usize) {
        let now = Instant::now();
        let turn = self.book(now, bytes);
        // A sleep takes at least a millisecond, one piece far less.
        if turn > now + DISCARD_SLACK {
            sleep_until(turn).await;
        }
    }

    /// Time from which the next bytes may be read, after `bytes` were read now.
    fn book(&self, now: Instant, bytes: usize) -> Instant {
        let mut free_at = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let micros = u64::try_from(bytes).unwrap_or(u64::MAX).saturating_mul(1_000_000) / DISCARD_RATE_MAX;
        let turn = free_at.unwrap_or(now).max(now);
        *free_at = Some(turn + Duration::from_micros(micros));
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discarding_keeps_its_rate_with_any_number_of_connections() {
        let discards = Discards::default();
        let now = Instant::now();
        let second = usize::try_from(DISCARD_RATE_MAX).expect("a size");
        assert_eq!(discards.book(now, second), now);
        assert_eq!(discards.book(now, second), now + Duration::from_secs(1));
        let later = now + Duration::from_secs(5);
        assert_eq!(discards.book(later, 1), later, "unused rate is not saved up");
    }
}
