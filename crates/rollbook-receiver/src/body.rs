//! Reads a body: the raw bytes, within the limits on one body, on all of them together, and on time.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Frame, Incoming};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

use crate::answer::Refusal;
use crate::room::{Room, Share};

/// A body, with its share of the room that all bodies have together.
pub(crate) struct Held {
    /// The bytes as they were sent.
    pub(crate) bytes: Bytes,
    /// One permit for each of them. Keep it as long as the bytes.
    pub(crate) room: OwnedSemaphorePermit,
}

/// The limits on one body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Maximum length, in bytes.
    pub(crate) length_max: usize,
    /// Maximum time for all of it.
    pub(crate) timeout: Duration,
    /// Each window must bring as many bytes as `rate_min` asks of it, or the end.
    pub(crate) window: Duration,
    /// Bytes a second.
    pub(crate) rate_min: usize,
}

/// Reads a body to its end, whose head came at `started`. Room is taken for what has come, not for what was
/// announced: an announcement costs a client nothing.
///
/// # Errors
/// [`Refusal::TooLarge`], before any byte is read where the length was announced; [`Refusal::TooSlow`];
/// [`Refusal::NoRoom`], also where this body had to yield its room; [`Refusal::Torn`].
pub(crate) async fn read(
    mut body: Incoming,
    limits: Limits,
    room: &Room,
    started: Instant,
) -> Result<Held, Refusal> {
    if body.size_hint().lower() > limits.length_max as u64 {
        return Err(Refusal::TooLarge);
    }
    // Copied, though one frame often has it all: the frame is a window on hyper's read buffer and
    // would keep up to 64 KiB of it alive while the delivery waits.
    let mut bytes = Vec::new();
    let mut share = room.share();
    let mut pace = Pace::new(limits, started);
    while let Some(frame) = next(&mut body, &share, &mut pace).await? {
        // Trailers are not signed and mean nothing.
        let Ok(data) = frame.into_data() else { continue };
        if data.len() > limits.length_max - bytes.len() {
            return Err(Refusal::TooLarge);
        }
        timeout_at(pace.deadline, share.grow(data.len())).await.unwrap_or(Err(Refusal::NoRoom))?;
        pace.came(data.len());
        bytes.extend_from_slice(&data);
        if body.is_end_stream() {
            break;
        }
        share.list();
    }
    // Boxed, so that no spare capacity is held that `room` does not count.
    Ok(Held { bytes: Bytes::from(bytes.into_boxed_slice()), room: share.finish()? })
}

/// The next piece, within its time and as long as this body need not yield.
async fn next(
    body: &mut Incoming,
    share: &Share<'_>,
    pace: &mut Pace,
) -> Result<Option<Frame<Bytes>>, Refusal> {
    loop {
        let frame = async {
            tokio::select! {
                biased;
                frame = body.frame() => frame.transpose().map_err(|_| Refusal::Torn),
                () = share.must_yield() => Err(Refusal::NoRoom),
            }
        };
        match timeout_at(pace.next_check(), frame).await {
            Ok(result) => return result,
            Err(_) => pace.check()?,
        }
    }
}

/// Judges how fast a body comes.
struct Pace {
    deadline: Instant,
    window: Duration,
    /// Bytes that a window must bring.
    wanted: usize,
    window_ends: Instant,
    came: usize,
}

impl Pace {
    fn new(limits: Limits, started: Instant) -> Self {
        let wanted = limits.window.as_millis().saturating_mul(limits.rate_min as u128) / 1000;
        Self {
            deadline: started + limits.timeout,
            window: limits.window,
            wanted: usize::try_from(wanted).unwrap_or(usize::MAX),
            window_ends: started + limits.window,
            came: 0,
        }
    }

    fn next_check(&self) -> Instant {
        self.deadline.min(self.window_ends)
    }

    const fn came(&mut self, bytes: usize) {
        self.came = self.came.saturating_add(bytes);
    }

    /// Ends a window, and begins the next where this one brought enough.
    fn check(&mut self) -> Result<(), Refusal> {
        let now = Instant::now();
        if now >= self.deadline || self.came < self.wanted {
            return Err(Refusal::TooSlow);
        }
        self.came = 0;
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
    fn a_window_that_brings_just_enough_begins_the_next_and_one_byte_less_is_too_slow() {
        let (window, long) = (Duration::from_millis(50), Duration::from_secs(60));
        let mut pace = pace(window, long);
        pace.came(50);
        assert_eq!(pace.check(), Ok(()));
        pace.came(49);
        assert_eq!(pace.check(), Err(Refusal::TooSlow));
    }

    #[test]
    fn the_time_for_the_whole_body_is_not_prolonged_by_its_pace() {
        let mut pace = pace(Duration::ZERO, Duration::ZERO);
        pace.came(1_000_000);
        assert_eq!(pace.check(), Err(Refusal::TooSlow));
    }
}
