//! Results of the deliveries.

use std::time::Duration;

use rollbook_http::client::Answer;
use serde_json::Value;

/// Results of all deliveries of one run. Events are given by their index in `events`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Number of requests.
    pub attempts: u64,
    /// Event of each delivery that was answered 2xx, in the order of the schedule. An event that was
    /// delivered twice occurs twice.
    pub acknowledged: Vec<usize>,
    /// Number of acknowledged deliveries that were answered with `queued`.
    pub queued: u64,
    /// Number of acknowledged deliveries that were answered with `duplicate`.
    pub duplicates: u64,
    /// Event of each delivery that was given up after an answer, with the status of the last answer.
    pub refused: Vec<(usize, u16)>,
    /// Event of each delivery that was given up without an answer to its last attempt.
    pub unanswered: Vec<usize>,
    /// Error of the last attempt without an answer, whether its delivery was given up or not.
    pub last_error: Option<String>,
    /// Duration of the run.
    pub elapsed: Duration,
    /// Durations of the acknowledged attempts, from the request (or from connecting, where a new connection
    /// was needed) to the answer.
    pub latencies: Latencies,
}

/// Sorted durations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latencies(Vec<Duration>);

impl Latencies {
    /// Creates latencies from durations in any order.
    pub fn new(mut durations: Vec<Duration>) -> Self {
        durations.sort_unstable();
        Self(durations)
    }

    /// Returns the shortest duration that `per_mille` thousandths of all do not exceed: 500 is the median,
    /// 990 the 99th percentile, 1000 the maximum. Zero if there are no durations.
    pub fn at(&self, per_mille: usize) -> Duration {
        let rank = (self.0.len() * per_mille.min(1000)).div_ceil(1000).max(1);
        self.0.get(rank - 1).copied().unwrap_or_default()
    }

    /// All durations, shortest first.
    pub fn as_slice(&self) -> &[Duration] {
        &self.0
    }
}

/// Result of one delivery or of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Queued,
    Duplicate,
    /// A 2xx with neither of the two statuses.
    Accepted,
    Refused(u16),
    Unanswered,
}

impl Outcome {
    pub(super) fn of(answer: &Answer) -> Self {
        if !answer.is_success() {
            return Self::Refused(answer.status);
        }
        let body: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        match body.get("status").and_then(Value::as_str) {
            Some("queued") => Self::Queued,
            Some("duplicate") => Self::Duplicate,
            _ => Self::Accepted,
        }
    }

    pub(super) const fn is_acknowledged(self) -> bool {
        matches!(self, Self::Queued | Self::Duplicate | Self::Accepted)
    }
}

/// Results of one connection.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) attempts: u64,
    /// Outcomes by index in the schedule.
    pub(super) outcomes: Vec<(usize, Outcome)>,
    pub(super) latencies: Vec<Duration>,
    pub(super) last_error: Option<String>,
}

impl Tally {
    pub(super) fn add(&mut self, other: Self) {
        self.attempts += other.attempts;
        self.outcomes.extend(other.outcomes);
        self.latencies.extend(other.latencies);
        self.last_error = other.last_error.or(self.last_error.take());
    }

    pub(super) fn into_report(mut self, order: &[usize], elapsed: Duration) -> Report {
        self.outcomes.sort_unstable_by_key(|(place, _)| *place);
        let mut report = Report {
            attempts: self.attempts,
            elapsed,
            latencies: Latencies::new(self.latencies),
            last_error: self.last_error,
            ..Report::default()
        };
        for (place, outcome) in self.outcomes {
            let event = order[place];
            match outcome {
                Outcome::Refused(status) => report.refused.push((event, status)),
                Outcome::Unanswered => report.unanswered.push(event),
                Outcome::Queued | Outcome::Duplicate | Outcome::Accepted => report.acknowledged.push(event),
            }
            report.queued += u64::from(outcome == Outcome::Queued);
            report.duplicates += u64::from(outcome == Outcome::Duplicate);
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_value_of_its_rank() {
        let latencies = Latencies::new((1..=100).rev().map(Duration::from_millis).collect());
        let at = |per_mille| latencies.at(per_mille).as_millis();
        assert_eq!([at(0), at(500), at(990), at(999), at(1000)], [1, 50, 99, 100, 100]);
        assert_eq!(Latencies::default().at(990), Duration::ZERO);
    }

    #[test]
    fn the_status_code_decides_the_outcome_and_the_body_distinguishes_success() {
        let of = |status, body: &str| Outcome::of(&Answer { status, body: body.into() });
        assert_eq!(of(200, r#"{"status":"queued"}"#), Outcome::Queued);
        assert_eq!(of(200, r#"{"status":"duplicate"}"#), Outcome::Duplicate);
        assert_eq!(of(204, ""), Outcome::Accepted);
        assert_eq!(of(302, r#"{"status":"queued"}"#), Outcome::Refused(302));
        assert_eq!(of(400, r#"{"error":"no signature matches"}"#), Outcome::Refused(400));
    }
}
