//! Requests that the running receiver has refused since its process started: each reason with its own fix.

use std::time::Duration;

use rollbook_core::time::Timestamp;

use super::finding::{Findings, warning};
use super::samples::{LAST_DELIVERY, sample, timestamp};

const REFUSALS: &str = "refusals";
const HEADERS_FIX: &str =
    "a proxy or gateway must pass svix-id, svix-timestamp and svix-signature as they come";

/// Condition under which refusals for a reason are a finding.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Means {
    /// The requests may be genuine deliveries that a proxy or a setting spoilt.
    Spoilt,
    /// Strangers send such requests too: a finding if no delivery has been taken, or none since a while although many were
    /// refused, such as after the secret was replaced at Clerk.
    OrForged,
    /// Strangers send such requests to every public port: counted only.
    Stranger,
}

/// Reasons for which requests are refused, each with its fix.
const REASONS: [(&str, Means, &str); 12] = [
    (
        "signature",
        Means::OrForged,
        "the signing secret is not this endpoint's: copy it again from Clerk's dashboard",
    ),
    ("timestamp", Means::OrForged, "set the clock of this machine (timedatectl set-ntp true)"),
    ("missing_headers", Means::Spoilt, HEADERS_FIX),
    ("malformed_headers", Means::Spoilt, HEADERS_FIX),
    (
        "mixed_headers",
        Means::Spoilt,
        "remove the webhook-* header that a proxy or the endpoint's custom headers add to the svix-* ones",
    ),
    (
        "path",
        Means::Spoilt,
        "correct the path in the endpoint's URL in Clerk's dashboard, or in the proxy, or set webhook_path to that path",
    ),
    ("head_too_large", Means::Spoilt, "a proxy adds headers: at most 16 KiB and 100 of them are read"),
    ("body_too_large", Means::Spoilt, "raise body_max if these are Clerk's deliveries"),
    ("body_too_slow", Means::Spoilt, "look for a slow proxy or network; see body_timeout and body_rate_min"),
    (
        "body_torn",
        Means::Spoilt,
        "look for a proxy that cuts or re-chunks bodies, or gives up earlier than body_timeout",
    ),
    ("method", Means::Stranger, ""),
    ("unreadable", Means::Stranger, ""),
];

/// Time without a genuine delivery after which refused ones may be genuine. Svix sends a refused delivery again after 5 s and
/// after 5 minutes.
const SILENT_FOR: Duration = Duration::from_secs(10 * 60);
/// Number of refusals below which one stranger may have sent them all.
const REFUSED_MIN: f64 = 3.0;
/// Share of the accepted deliveries from which refusals are many: a twentieth, as the alert `RollbookSignatureFailures` needs
/// over an hour. (Its other conditions are of shorter times, which counters since the start do not show.)
const REFUSED_SHARE: f64 = 0.05;

/// Returns one finding for each reason that may concern genuine deliveries.
pub(super) fn findings(metrics: &str, now: Timestamp) -> Findings {
    let last = sample(metrics, LAST_DELIVERY);
    let none_taken = last.is_some_and(|last| last <= 0.0);
    let is_silent = last.is_some_and(|last| now.since(timestamp(last)) > SILENT_FOR);
    let accepted = sample(metrics, r#"rollbook_deliveries_total{outcome="queued"}"#).unwrap_or_default();
    let many = |count: f64| count >= REFUSED_MIN && count >= accepted * REFUSED_SHARE;
    let concerns = |means: Means, count: f64| match means {
        Means::Spoilt => true,
        Means::OrForged => none_taken || (is_silent && many(count)),
        Means::Stranger => false,
    };
    let since = since(metrics);
    REASONS
        .iter()
        .filter_map(|(reason, means, fix)| Some((reason, means, counted(metrics, reason)?, fix)))
        .filter(|(_, means, count, _)| concerns(**means, *count))
        .map(|(reason, _, count, fix)| {
            let found = format!("{count} refused for {} {since}", reason.replace('_', " "));
            warning(REFUSALS, found, *fix)
        })
        .collect()
}

/// Formats the number of refusals for each reason; `None` if there are none.
pub(super) fn counts(metrics: &str) -> Option<String> {
    let counted = REASONS.iter().filter_map(|(reason, ..)| Some((reason, counted(metrics, reason)?)));
    let named: Vec<String> =
        counted.map(|(reason, count)| format!("{count} for {}", reason.replace('_', " "))).collect();
    (!named.is_empty()).then(|| format!("refused {}: {}", since(metrics), named.join(", ")))
}

/// Formats the time since which refusals are counted.
pub(super) fn since(metrics: &str) -> String {
    match sample(metrics, "process_start_time_seconds") {
        Some(at) => format!("since {}, when the process started", timestamp(at)),
        None => "since the process started".to_owned(),
    }
}

fn counted(metrics: &str, reason: &str) -> Option<f64> {
    let count = sample(metrics, &format!(r#"rollbook_refusals_total{{reason="{reason}"}}"#));
    count.filter(|count| *count > 0.0)
}

#[cfg(test)]
mod tests {
    use super::super::finding::{State, json};
    use super::*;

    /// A moment within ten minutes of the last delivery of these tests.
    const NOW: Timestamp = Timestamp::from_seconds(1_799_999_100);

    fn metrics(reasons: &[(&str, u32)], last: u32) -> String {
        let lines = reasons
            .iter()
            .map(|(reason, count)| format!("rollbook_refusals_total{{reason=\"{reason}\"}} {count}\n"));
        let lines: String = lines.collect();
        format!("{lines}process_start_time_seconds 1799990000.25\n{LAST_DELIVERY} {last}\n")
    }

    #[test]
    fn every_reason_is_named_with_its_own_fix_and_since_when() {
        let all: Vec<(&str, u32)> = REASONS.iter().map(|(reason, ..)| (*reason, 30)).collect();
        for last in [0, 1_799_999_000] {
            let found = findings(&metrics(&all, last), NOW);
            let expected: Vec<_> = REASONS
                .iter()
                .filter(|(_, means, _)| *means == Means::Spoilt || (*means == Means::OrForged && last == 0))
                .collect();
            assert_eq!(found.len(), expected.len());
            for (finding, (reason, _, fix)) in found.into_iter().zip(expected) {
                let named = format!(
                    "30 refused for {} since 2027-01-15T05:13:20.250Z, when the",
                    reason.replace('_', " ")
                );
                assert!(finding.state == State::Warning && finding.found.starts_with(&named), "{finding:?}");
                assert_eq!(json(&[finding])["checks"][0]["fix"], *fix);
            }
        }
    }

    #[test]
    fn every_reason_of_the_receiver_is_known_here() {
        let page = include_str!("../../../../../ops/METRICS.md");
        let (_, table) = page.split_once("| reason | answer | means |").expect("the table of reasons");
        let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
        let names =
            rows.filter_map(|row| row.split('|').nth(1)).flat_map(|cell| cell.split('`').skip(1).step_by(2));
        let mut listed: Vec<&str> = names.collect();
        let mut known = REASONS.map(|(reason, ..)| reason).to_vec();
        listed.sort_unstable();
        known.sort_unstable();
        assert_eq!(known, listed);
    }

    #[test]
    fn what_strangers_send_is_counted_and_no_finding() {
        let metrics = metrics(&[("method", 4), ("unreadable", 2), ("signature", 1)], 1_799_999_000);
        assert!(findings(&metrics, NOW).is_empty());
        let counts = counts(&metrics).expect("some were refused");
        assert!(counts.ends_with("1 for signature, 4 for method, 2 for unreadable"), "{counts}");
        assert_eq!(super::counts(""), None);
    }

    #[test]
    fn deliveries_that_are_refused_since_the_last_good_one_are_a_finding_and_single_forgeries_are_not() {
        let last = 1_799_999_000;
        let state = |count: u32, accepted: u32, silent: i64| {
            let metrics = metrics(&[("signature", count)], 1_799_999_000);
            let metrics = format!("{metrics}rollbook_deliveries_total{{outcome=\"queued\"}} {accepted}\n");
            findings(&metrics, Timestamp::from_seconds(last + silent)).len()
        };
        // The secret was replaced at Clerk: nothing good for longer than ten minutes.
        assert_eq!((state(3, 60, 601), state(3, 60, 600)), (1, 0));
        assert_eq!((state(2, 10, 3_600), state(3, 61, 3_600)), (0, 0), "too few to mean something");
    }
}
