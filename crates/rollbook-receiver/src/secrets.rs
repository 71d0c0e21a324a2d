//! Signing secrets of a running receiver: replaceable, with the time at which each matched last.
//!
//! A secret that is replaced by the same one keeps its time, at whatever position it is now. The times let an operator see
//! when an old secret can go. They are of this process, and start at zero with it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{GaugeVec, Opts};
use rollbook_core::live::Live;
use rollbook_core::signature::{SigningSecrets, Verified};
use rollbook_core::time::Timestamp;

/// Signing secrets that are replaced while deliveries are verified. Clones share them.
#[derive(Clone)]
pub struct EndpointSecrets(Live<Known>);

/// Secrets, and one use of each, in the same order.
pub(crate) struct Known {
    pub(crate) secrets: SigningSecrets,
    uses: Vec<Use>,
}

#[derive(Clone)]
struct Use {
    fingerprint: String,
    /// Time of the last delivery with a signature by this secret, in milliseconds; zero before the first.
    last_match: Arc<AtomicI64>,
}

impl EndpointSecrets {
    /// Creates the secrets of a receiver.
    pub fn new(secrets: SigningSecrets) -> Self {
        Self(Live::new(Known::after(&[], secrets)))
    }

    /// Replaces the secrets. Deliveries that arrive from now on are verified with these.
    pub fn replace(&self, secrets: SigningSecrets) {
        let before = self.0.current();
        self.0.replace(Known::after(&before.uses, secrets));
    }

    /// Returns the secrets as they are now.
    pub(crate) fn current(&self) -> Arc<Known> {
        self.0.current()
    }
}

impl From<SigningSecrets> for EndpointSecrets {
    fn from(secrets: SigningSecrets) -> Self {
        Self::new(secrets)
    }
}

impl fmt::Debug for EndpointSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EndpointSecrets(redacted)")
    }
}

impl Known {
    fn after(before: &[Use], secrets: SigningSecrets) -> Self {
        let with_time = |fingerprint: String| {
            let known = before.iter().find(|known| known.fingerprint == fingerprint);
            known.cloned().unwrap_or_else(|| Use { fingerprint, last_match: Arc::default() })
        };
        let uses = secrets.fingerprints().into_iter().map(with_time).collect();
        Self { secrets, uses }
    }

    /// Notes which secrets a verified delivery matches.
    pub(crate) fn note(&self, verified: Verified, now: Timestamp) {
        for (_, found) in self.uses.iter().enumerate().filter(|(position, _)| verified.matches(*position)) {
            found.last_match.fetch_max(now.as_millis(), Ordering::Relaxed);
        }
    }
}

/// Metric with the last match of each secret that is configured now.
pub(crate) struct LastMatches {
    secrets: EndpointSecrets,
    opts: Opts,
    gauge: GaugeVec,
}

impl LastMatches {
    pub(crate) fn new(secrets: EndpointSecrets) -> Result<Self, prometheus::Error> {
        let help = "Time of the last verified delivery with a signature by this signing secret, by its position from one and its \
                    fingerprint; zero if none since the start.";
        let opts = Opts::new("rollbook_signing_secret_last_match_timestamp_seconds", help);
        let gauge = Self::gauge(&opts)?;
        Ok(Self { secrets, opts, gauge })
    }

    fn gauge(opts: &Opts) -> Result<GaugeVec, prometheus::Error> {
        GaugeVec::new(opts.clone(), &["fingerprint", "position"])
    }
}

impl Collector for LastMatches {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    #[expect(clippy::cast_precision_loss, reason = "exact for every date until the year 287396")]
    fn collect(&self) -> Vec<MetricFamily> {
        let known = self.secrets.current();
        // A vector of its own: two readers at once would see each other's changes, and removed secrets would stay.
        let Ok(gauge) = Self::gauge(&self.opts) else { return Vec::new() };
        for (index, found) in known.uses.iter().enumerate() {
            let position = (index + 1).to_string();
            let shown = gauge.with_label_values(&[found.fingerprint.as_str(), position.as_str()]);
            shown.set(found.last_match.load(Ordering::Relaxed) as f64 / 1000.0);
        }
        gauge.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rollbook_core::signature::{SignedHeaders, verify};

    use super::*;

    const OLD: &str = "whsec_b2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xk";
    const NEW: &str = "whsec_bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3";
    const AT: Timestamp = Timestamp::from_seconds(1_790_000_000);

    fn secrets(text: &str) -> SigningSecrets {
        SigningSecrets::parse(text).expect("secrets")
    }

    /// Verifies a delivery with signatures by these secrets, and notes the match.
    fn deliver(endpoint: &EndpointSecrets, signers: &str, now: Timestamp) {
        let (time, signature) =
            ((now.as_millis() / 1000).to_string(), secrets(signers).sign("msg_1", now, b"body"));
        let headers = [("svix-id", "msg_1"), ("svix-timestamp", &*time), ("svix-signature", &*signature)];
        let headers = SignedHeaders::read(headers.iter().map(|(name, value)| (*name, value.as_bytes())));
        let known = endpoint.current();
        let verified = verify(&known.secrets, &headers.expect("headers"), b"body", now, Duration::ZERO);
        known.note(verified.expect("a genuine delivery"), now);
    }

    /// Returns position and time of each secret, as the metric shows them.
    fn shown(endpoint: &EndpointSecrets) -> Vec<(String, f64)> {
        let families = LastMatches::new(endpoint.clone()).expect("a metric").collect();
        let metrics = families.iter().flat_map(MetricFamily::get_metric);
        let mut shown: Vec<_> =
            metrics.map(|one| (one.get_label()[1].value().to_owned(), one.get_gauge().get_value())).collect();
        shown.sort_by(|one, other| one.0.cmp(&other.0));
        shown
    }

    fn at(one: f64, two: f64) -> Vec<(String, f64)> {
        vec![("1".to_owned(), one), ("2".to_owned(), two)]
    }

    #[test]
    fn each_secret_shows_its_last_match_and_keeps_it_when_it_moves_to_another_position() {
        let endpoint = EndpointSecrets::new(secrets(OLD));
        deliver(&endpoint, OLD, AT);
        endpoint.replace(secrets(&format!("{NEW} {OLD}")));
        assert_eq!(shown(&endpoint), at(0.0, 1_790_000_000.0));
        let later = AT.plus(Duration::from_secs(60));
        deliver(&endpoint, NEW, later);
        assert_eq!(shown(&endpoint), at(1_790_000_060.0, 1_790_000_000.0));
        let latest = AT.plus(Duration::from_secs(120));
        deliver(&endpoint, &format!("{OLD} {NEW}"), latest);
        assert_eq!(shown(&endpoint), at(1_790_000_120.0, 1_790_000_120.0), "a delivery may have both");
        endpoint.replace(secrets(NEW));
        assert_eq!(shown(&endpoint), [("1".to_owned(), 1_790_000_120.0)], "the removed one is not shown");
    }

    #[test]
    fn neither_debug_nor_the_fingerprint_has_a_secret() {
        let endpoint = EndpointSecrets::new(secrets(OLD));
        let fingerprint = endpoint.current().uses[0].fingerprint.clone();
        assert_eq!(fingerprint.len(), 16);
        assert!(!OLD.contains(&fingerprint) && !format!("{endpoint:?}").contains("b2xk"));
    }
}
