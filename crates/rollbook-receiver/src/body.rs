//! Reading of a request body: raw bytes, within the limits on size, rate, time and total memory.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Frame, Incoming};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

use crate::answer::Refusal;
use crate::body_budget::{BodyBudget, Share};

/// A complete body and its share of the memory budget.
pub(crate) struct BufferedBody {
    /// Bytes exactly as sent.
    pub(crate) bytes: Bytes,
    /// Budget permits, one per byte. Must be kept as long as the bytes.
    pub(crate) permit: OwnedSemaphorePermit,
}

/// Limits of one body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Maximum length in bytes.
    pub(crate) length_max: usize,
    /// Maximum time for the complete body.
    pub(crate) timeout: Duration,
    /// Interval in which the minimum rate is checked.
    pub(crate) window: Duration,
    /// Minimum rate in bytes per second.
    pub(crate) rate_min: usize,
}

/// Reads a complete body; `started` is the time of its head. The budget is charged for received bytes, not
/// for the announced length: announcing costs a client nothing.
///
/// # Errors
/// [`Refusal::TooLarge`], before any byte is read if the length was announced; [`Refusal::TooSlow`];
/// [`Refusal::NoBodyBudget`], also if this body was evicted; [`Refusal::Incomplete`].
pub(crate) async fn read(
    mut body: Incoming,
    limits: Limits,
    budget: &BodyBudget,
    started: Instant,
) -> Result<BufferedBody, Refusal> {
    if body.size_hint().lower() > limits.length_max as u64 {
        return Err(Refusal::TooLarge);
    }
    // Copied, though one frame often holds the complete body: the frame points into hyper's read buffer and
    // would keep up to 64 KiB of it alive while the delivery waits.
    let mut bytes = Vec::new();
    let mut share = budget.share();
    let mut pace = Pace::new(limits, started);
    while let Some(frame) = next(&mut body, &share, &mut pace).await? {
        // Trailers are not signed and are ignored.
        let Ok(data) = frame.into_data() else { continue };
        if data.len() > limits.length_max - bytes.len() {
            return Err(Refusal::TooLarge);
        }
        timeout_at(pace.deadline, share.grow(data.len())).await.unwrap_or(Err(Refusal::NoBodyBudget))?;
        pace.received(data.len());
        bytes.extend_from_slice(&data);
        if body.is_end_stream() {
            break;
        }
        share.list();
    }
    // Boxed, so that no spare capacity is held that the budget does not count.
    Ok(BufferedBody { bytes: Bytes::from(bytes.into_boxed_slice()), permit: share.finish()? })
}

/// Reads the next frame, within its time limit and unless this body is evicted.
async fn next(
    body: &mut Incoming,
    share: &Share<'_>,
    pace: &mut Pace,
) -> Result<Option<Frame<Bytes>>, Refusal> {
    loop {
        let frame = async {
            tokio::select! {
                biased;
                frame = body.frame() => frame.transpose().map_err(|_| Refusal::Incomplete),
                () = share.evicted() => Err(Refusal::NoBodyBudget),
            }
        };
        match timeout_at(pace.deadline.min(pace.window_ends), frame).await {
            Ok(result) => return result,
            Err(_) => pace.check()?,
        }
    }
}

/// Checks the rate at which a body arrives.
struct Pace {
    deadline: Instant,
    window: Duration,
    /// Minimum bytes per window.
    window_bytes_min: usize,
    window_ends: Instant,
    received: usize,
}

impl Pace {
    fn new(limits: Limits, started: Instant) -> Self {
        let window_bytes_min = limits.window.as_millis().saturating_mul(limits.rate_min as u128) / 1000;
        Self {
            deadline: started + limits.timeout,
            window: limits.window,
            window_bytes_min: usize::try_from(window_bytes_min).unwrap_or(usize::MAX),
            window_ends: started + limits.window,
            received: 0,
        }
    }

    const fn received(&mut self, bytes: usize) {
        self.received = self.received.saturating_add(bytes);
    }

    /// Ends a window, and starts the next one if enough bytes arrived.
    fn check(&mut self) -> Result<(), Refusal> {
        let now = Instant::now();
        if now >= self.deadline || self.received < self.window_bytes_min {
            return Err(Refusal::TooSlow);
        }
        self.received = 0;
        self.window_ends = now + self.window;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(window: Duration, timeout: Duration) -> Pace {
        Pace::new(Limits { length_max: 1, timeout, window, rate_min: 1000 }, Instant::now())
    }

    #[test]
    fn a_window_with_exactly_the_minimum_passes_and_one_byte_less_is_too_slow() {
        let (window, long) = (Duration::from_millis(50), Duration::from_secs(60));
        let mut pace = pace(window, long);
        pace.received(50);
        assert_eq!(pace.check(), Ok(()));
        pace.received(49);
        assert_eq!(pace.check(), Err(Refusal::TooSlow));
    }

    #[test]
    fn a_high_rate_does_not_extend_the_time_limit_of_the_body() {
        let mut pace = pace(Duration::ZERO, Duration::ZERO);
        pace.received(1_000_000);
        assert_eq!(pace.check(), Err(Refusal::TooSlow));
    }
}
