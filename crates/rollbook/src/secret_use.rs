//! Last match of each signing secret, as a running process shows it in its metrics. Secrets are named by fingerprints, which
//! do not reveal them.

use std::time::Duration;

use rollbook_core::time::Timestamp;
use serde_json::{Value, json};

use crate::commands::healthcheck::reachable;
use crate::config::Config;
use crate::ops_port;

const LAST_MATCH: &str = "rollbook_signing_secret_last_match_timestamp_seconds{";
/// Maximum wait for the process that runs here.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A signing secret of a running process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SecretUse {
    /// Fingerprint of the secret.
    pub(crate) fingerprint: String,
    /// Time of the last delivery that it matched; `None` if none since the start.
    pub(crate) last_match: Option<Timestamp>,
}

/// Returns the signing secrets in the metrics of a process, in the order of its setting.
pub(crate) fn parse(metrics: &str) -> Vec<SecretUse> {
    let mut found: Vec<(usize, SecretUse)> = metrics.lines().filter_map(line).collect();
    found.sort_by_key(|(position, _)| *position);
    found.into_iter().map(|(_, one)| one).collect()
}

#[expect(clippy::cast_possible_truncation, reason = "`as` saturates, and any number is a valid timestamp")]
fn line(line: &str) -> Option<(usize, SecretUse)> {
    let (labels, value) = line.strip_prefix(LAST_MATCH)?.split_once("} ")?;
    let label = |name: &str| {
        let labels = labels.split(',').filter_map(|label| label.split_once('='));
        let mut values = labels.filter(|(known, _)| *known == name);
        values.next().map(|(_, value)| value.trim_matches('"').to_owned())
    };
    let seconds = value.parse::<f64>().ok().filter(|seconds| *seconds > 0.0);
    let last_match = seconds.map(|seconds| Timestamp::from_millis((seconds * 1000.0) as i64));
    Some((label("position")?.parse().ok()?, SecretUse { fingerprint: label("fingerprint")?, last_match }))
}

/// Asks the process that runs here. `None` if none answers.
pub(crate) async fn of_running(config: &Config) -> Option<Vec<SecretUse>> {
    let address = reachable(config.ops_address());
    let asked = async {
        let mut connection = ops_port::connect(config, address, TIMEOUT).await.ok()?;
        let answer = connection.get("/metrics").await.ok()?;
        answer.is_success().then(|| parse(&answer.body))
    };
    tokio::time::timeout(TIMEOUT, asked).await.ok()?
}

/// Signing secrets of a configuration, and what a running process knows of them.
pub(crate) struct Report {
    fingerprints: Vec<String>,
    running: Option<Vec<SecretUse>>,
}

impl Report {
    /// Creates a report on a configuration; `None` if it has no signing secrets.
    pub(crate) fn new(config: &Config, running: Option<Vec<SecretUse>>) -> Option<Self> {
        let secrets = config.settings.clerk_webhook_signing_secret.as_ref()?;
        // A worker shows none.
        let running = running.filter(|running| !running.is_empty());
        Some(Self { fingerprints: secrets.fingerprints(), running })
    }

    fn found(&self, fingerprint: &str) -> Option<&SecretUse> {
        self.running.iter().flatten().find(|one| one.fingerprint == fingerprint)
    }

    /// Formats the report as lines of a text.
    pub(crate) fn text(&self) -> String {
        let shown = |(index, fingerprint): (usize, &String)| {
            let matched = match (&self.running, self.found(fingerprint)) {
                (None, _) => "no receiver answers at ops_listen".to_owned(),
                (Some(_), None) => "not in use by the running receiver".to_owned(),
                (Some(_), Some(SecretUse { last_match: None, .. })) => {
                    "no delivery matched since the receiver started".to_owned()
                }
                (Some(_), Some(SecretUse { last_match: Some(at), .. })) => format!("last matched at {at}"),
            };
            format!("signing secret {} ({fingerprint}): {matched}\n", index + 1)
        };
        let configured: String = self.fingerprints.iter().enumerate().map(shown).collect();
        let others = self.running.iter().flatten();
        let others = others.filter(|one| !self.fingerprints.contains(&one.fingerprint));
        let other = |one: &SecretUse| {
            format!("the running receiver uses another signing secret ({})\n", one.fingerprint)
        };
        configured + &others.map(other).collect::<String>()
    }

    /// Formats the report as JSON: an array in the order of the setting.
    pub(crate) fn json(&self) -> Value {
        let one = |fingerprint: &String| {
            let found = self.found(fingerprint);
            let last_match = found.and_then(|one| one.last_match).map(|at| at.to_string());
            json!({ "fingerprint": fingerprint, "in_use": found.is_some(), "last_match_at": last_match })
        };
        self.fingerprints.iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, FileSource, Sources};

    const METRICS: &str = "\
        # TYPE rollbook_signing_secret_last_match_timestamp_seconds gauge\n\
        rollbook_signing_secret_last_match_timestamp_seconds{fingerprint=\"aa\",position=\"2\"} 0\n\
        rollbook_signing_secret_last_match_timestamp_seconds{fingerprint=\"bb\",position=\"1\"} 1790000000.5\n\
        rollbook_up 1\n";

    fn report(running: Option<Vec<SecretUse>>) -> Report {
        let secret = "whsec_b2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xk";
        let environment = Environment::of(&[("CLERK_WEBHOOK_SIGNING_SECRET", secret)]);
        let config = Config::load(&Sources { flags: &[], environment, file: FileSource::None });
        Report::new(&config.unwrap_or_else(|problems| panic!("{problems}")), running).expect("secrets")
    }

    #[test]
    fn the_metrics_of_a_receiver_name_its_secrets_in_the_order_of_the_setting() {
        let found = parse(METRICS);
        let at = Timestamp::from_millis(1_790_000_000_500);
        assert_eq!(
            found,
            [
                SecretUse { fingerprint: "bb".to_owned(), last_match: Some(at) },
                SecretUse { fingerprint: "aa".to_owned(), last_match: None },
            ]
        );
        assert!(parse("rollbook_up 1\n").is_empty());
    }

    #[test]
    fn the_report_says_when_each_secret_matched_and_names_secrets_that_only_the_process_has() {
        let alone = report(None);
        let fingerprint = alone.fingerprints[0].clone();
        assert!(alone.text().contains("no receiver answers"), "{}", alone.text());
        let at = Timestamp::from_millis(1_790_000_000_500);
        let used = report(Some(vec![SecretUse { fingerprint: fingerprint.clone(), last_match: Some(at) }]));
        assert_eq!(
            used.text(),
            format!("signing secret 1 ({fingerprint}): last matched at 2026-09-21T14:13:20.500Z\n")
        );
        assert_eq!(
            used.json(),
            json!([{ "fingerprint": fingerprint, "in_use": true, "last_match_at": "2026-09-21T14:13:20.500Z" }])
        );
        let other = report(Some(parse(METRICS))).text();
        assert!(other.contains("not in use") && other.contains("another signing secret (bb)"), "{other}");
    }
}
