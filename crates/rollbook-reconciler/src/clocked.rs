//! A source that checks Clerk's clock: the `Date` of each answer.
//!
//! The time of an answer becomes the event time of what is written, and decides where a walk ends. An answer with a
//! wrong one proves nothing: it may come from a cache, or its rows would win over webhooks for as long as the clock is
//! ahead.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use rollbook_core::catalog::Resource;
use rollbook_core::source::{
    Fetched, Instance, Lookup, Page, PageRequest, Presence, Source, SourceError, Window,
};
use rollbook_core::time::{Clock, Timestamp};

use crate::settings::{CLOCK_BACK_MAX, CLOCK_TOLERANCE};

/// Number of times that an answer with a wrong time is asked for.
const TRIES: u32 = 3;
/// Pause before the next try.
const PAUSE: Duration = Duration::from_secs(1);

/// Checks the time of each answer of a source, in one run.
pub(crate) struct Clocked {
    source: Arc<dyn Source>,
    clock: Arc<dyn Clock>,
    /// Latest time of an answer so far, in milliseconds.
    latest: AtomicI64,
}

impl Clocked {
    pub(crate) fn new(source: Arc<dyn Source>, clock: Arc<dyn Clock>) -> Self {
        Self { source, clock, latest: AtomicI64::new(i64::MIN) }
    }

    /// Asks until the times of an answer can be right.
    async fn asked<T, F>(
        &self,
        times: impl Fn(&T) -> Option<(Timestamp, Timestamp)>,
        ask: impl Fn() -> F,
    ) -> Result<T, SourceError>
    where
        F: Future<Output = Result<T, SourceError>>,
    {
        let mut tries = 1;
        loop {
            // Answers under way at the same time may arrive in another order.
            let before = self.latest.load(Ordering::Relaxed);
            let answer = ask().await?;
            let Some((first, last)) = times(&answer) else { return Ok(answer) };
            match judge(self.clock.now(), before, first, last) {
                Ok(()) => {
                    self.latest.fetch_max(last.as_millis(), Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(error) if tries == TRIES => return Err(error),
                Err(_) => tries += 1,
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Judges the first and the last time of an answer that arrives `now`, and was asked for after an answer of `before`.
fn judge(now: Timestamp, before: i64, first: Timestamp, last: Timestamp) -> Result<(), SourceError> {
    let (behind, ahead) = (now.since(first), last.since(now));
    let error = |text: String| {
        Err(SourceError::Clock(format!(
            "{text}. Set this machine's clock by NTP; if it is right, something between it and Clerk, such as a proxy \
             with a cache, gives old answers"
        )))
    };
    let limit = CLOCK_TOLERANCE.as_secs();
    if behind.max(ahead) > CLOCK_TOLERANCE {
        let (skew, way) = if behind > ahead { (behind, "behind") } else { (ahead, "ahead of") };
        return error(format!(
            "the Date of an answer is {} s {way} this machine's clock, and {limit} s is allowed",
            skew.as_secs()
        ));
    }
    let back = Timestamp::from_millis(before).since(last);
    if back > CLOCK_BACK_MAX {
        let limit = CLOCK_BACK_MAX.as_secs();
        return error(format!(
            "the Date of an answer is {} s earlier than that of an earlier answer, and {limit} s is allowed",
            back.as_secs()
        ));
    }
    Ok(())
}

#[async_trait]
impl Source for Clocked {
    async fn instance(&self) -> Result<Instance, SourceError> {
        self.asked(|of: &Instance| Some((of.clock, of.clock)), || self.source.instance()).await
    }

    async fn count(&self, resource: &'static Resource, window: Window) -> Result<u64, SourceError> {
        self.source.count(resource, window).await
    }

    async fn page(&self, resource: &'static Resource, request: &PageRequest) -> Result<Page, SourceError> {
        self.asked(|of: &Page| Some((of.clock, of.clock)), || self.source.page(resource, request)).await
    }

    async fn recently_updated_users(&self, offset: u64, limit: usize) -> Result<Page, SourceError> {
        let ask = || self.source.recently_updated_users(offset, limit);
        self.asked(|of: &Page| Some((of.clock, of.clock)), ask).await
    }

    async fn fetch(
        &self,
        resource: &'static Resource,
        lookups: &[Lookup],
    ) -> Result<Vec<Fetched>, SourceError> {
        // Reads without an answer have no time, and prove nothing.
        let times = |of: &Vec<Fetched>| {
            let proving = of.iter().filter(|one| !matches!(one.presence, Presence::Unknown(_)));
            let clocks = proving.map(|one| one.clock);
            clocks.clone().min().zip(clocks.max())
        };
        self.asked(times, || self.source.fetch(resource, lookups)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

    #[test]
    fn a_time_within_the_tolerance_is_accepted_and_a_second_more_is_not() {
        let (second, never) = (Duration::from_secs(1), i64::MIN);
        for of in [NOW, NOW.plus(CLOCK_TOLERANCE), NOW.minus(CLOCK_TOLERANCE)] {
            assert_eq!(judge(NOW, never, of, of), Ok(()));
        }
        for (of, words) in [
            (NOW.plus(CLOCK_TOLERANCE + second), "301 s ahead of this machine's clock, and 300 s is allowed"),
            (NOW.minus(CLOCK_TOLERANCE + second), "301 s behind this machine's clock, and 300 s is allowed"),
            (Timestamp::default(), "1800000000 s behind"),
        ] {
            for (first, last) in [(of, of), (of.min(NOW), of.max(NOW))] {
                let error = judge(NOW, never, first, last).expect_err("an error").to_string();
                assert!(error.contains(words) && error.contains("NTP"), "{error}");
            }
        }
    }

    #[test]
    fn a_time_may_go_back_by_the_limit_and_no_further() {
        let before = NOW.as_millis();
        let back = NOW.minus(CLOCK_BACK_MAX);
        assert_eq!(judge(NOW, before, back, back), Ok(()));
        let error = judge(NOW, before, back, back.minus(Duration::from_secs(1)));
        assert!(error.expect_err("an error").to_string().contains("16 s earlier"));
    }
}
