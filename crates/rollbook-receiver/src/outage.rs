//! What the log says while the queue refuses deliveries: a line when it begins, one a minute while it lasts, and
//! one when it is over.
//!
//! A part of the queue may refuse while the others take, batch by batch. So an outage is over only when no delivery
//! was refused for [`QUIET`].

use std::collections::BTreeSet;
use std::time::Duration;

use rollbook_core::queue::{Enqueued, QueueError};
use tokio::time::Instant;
use tracing::{info, warn};

/// Between two lines while it lasts.
const PAUSE: Duration = Duration::from_secs(60);
/// How long no delivery must have been refused until the outage is over.
const QUIET: Duration = Duration::from_secs(5);

/// How many causes of one outage are logged as soon as they show.
const CAUSES_MAX: usize = 8;

/// Whether the queue refuses deliveries.
#[derive(Debug, Default)]
pub(crate) struct Outage(Option<Refusing>);

#[derive(Debug)]
struct Refusing {
    last_at: Instant,
    logged_at: Instant,
    /// Deliveries that were refused and that no line has counted.
    unlogged: usize,
    /// The causes that were logged, at most [`CAUSES_MAX`].
    causes: BTreeSet<String>,
}

/// What is to be logged.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    /// So many were refused.
    Refused(usize),
    Over,
}

impl Outage {
    /// Takes note of the answers to one call.
    pub(crate) fn note(&mut self, answers: &[Result<Enqueued, QueueError>]) {
        let error = answers.iter().find_map(|answer| answer.as_ref().err());
        let refused = answers.iter().filter(|answer| answer.is_err()).count();
        let cause = error.map(ToString::to_string);
        match (self.line(refused, cause.as_deref(), Instant::now()), error) {
            (Some(Line::Refused(refused)), Some(error)) => {
                warn!(%error, refused, "deliveries are answered 503; Svix sends them again");
            }
            (Some(Line::Over), _) => info!("the queue takes deliveries again"),
            _ => {}
        }
    }

    fn line(&mut self, refused: usize, cause: Option<&str>, now: Instant) -> Option<Line> {
        let Some(refusing) = &mut self.0 else {
            if refused > 0 {
                let causes = cause.map(str::to_owned).into_iter().collect();
                self.0 = Some(Refusing { last_at: now, logged_at: now, unlogged: 0, causes });
                return Some(Line::Refused(refused));
            }
            return None;
        };
        if refused == 0 {
            let is_over = now.duration_since(refusing.last_at) >= QUIET;
            return is_over.then(|| {
                self.0 = None;
                Line::Over
            });
        }
        refusing.last_at = now;
        refusing.unlogged = refusing.unlogged.saturating_add(refused);
        // Another cause than those before is not left to the next minute.
        let is_new = refusing.causes.len() < CAUSES_MAX
            && cause.is_some_and(|cause| refusing.causes.insert(cause.to_owned()));
        if !is_new && now.duration_since(refusing.logged_at) < PAUSE {
            return None;
        }
        refusing.logged_at = now;
        Some(Line::Refused(std::mem::take(&mut refusing.unlogged)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_refuses_in_every_other_batch_is_logged_once_a_minute_with_its_number() {
        let (began, mut outage) = (Instant::now(), Outage::default());
        let mut lines = Vec::new();
        for second in 0..130 {
            let at = |millis| began + Duration::from_secs(second) + Duration::from_millis(millis);
            lines.extend(outage.line(2, None, at(0)));
            lines.extend(outage.line(0, None, at(500)));
        }
        assert_eq!(lines, [Line::Refused(2), Line::Refused(120), Line::Refused(120)]);
    }

    #[test]
    fn an_outage_is_over_with_the_first_call_after_a_while_without_refusals() {
        let (began, mut outage) = (Instant::now(), Outage::default());
        assert_eq!(outage.line(0, None, began), None, "nothing has begun");
        assert_eq!(outage.line(1, None, began), Some(Line::Refused(1)));
        assert_eq!(outage.line(0, None, began + QUIET.saturating_sub(Duration::from_millis(1))), None);
        assert_eq!(outage.line(0, None, began + QUIET), Some(Line::Over));
        assert_eq!(outage.line(0, None, began + QUIET), None, "said once");
        assert_eq!(outage.line(3, None, began + QUIET), Some(Line::Refused(3)), "the next begins anew");
    }

    #[test]
    fn another_cause_is_logged_at_once_and_each_of_them_once_a_minute() {
        let (began, mut outage) = (Instant::now(), Outage::default());
        let at = |seconds| began + Duration::from_secs(seconds);
        assert_eq!(outage.line(1, Some("NOPERM"), at(0)), Some(Line::Refused(1)));
        assert_eq!(outage.line(2, Some("OOM"), at(1)), Some(Line::Refused(2)));
        assert_eq!(outage.line(3, Some("OOM"), at(2)), None);
        assert_eq!(outage.line(1, Some("NOPERM"), at(3)), None);
        assert_eq!(outage.line(1, Some("OOM"), at(61)), Some(Line::Refused(5)));
    }
}
