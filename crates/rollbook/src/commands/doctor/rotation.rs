//! Checks the signing secrets of the process that runs here: are they those of the configuration, and can one go?

use std::time::Duration;

use rollbook_core::time::Timestamp;

use super::finding::{Finding, ok, warning};
use super::samples::{sample, timestamp};
use crate::config::Config;
use crate::faces::Faces;
use crate::secret_use::{SecretUse, parse};

const ROTATION: &str = "signing_secrets_in_use";
/// Time after which a secret that no delivery matches can go: Svix sends a failed delivery again for 27 h 35 min.
const UNUSED_AFTER: Duration = Duration::from_secs(28 * 60 * 60);

/// Judges the secrets in the metrics of the running process; `None` if it does not receive.
pub(super) fn finding(config: &Config, needs: Faces, metrics: &str) -> Option<Finding> {
    let running = parse(metrics);
    let configured = config.settings.clerk_webhook_signing_secret.as_ref()?.fingerprints();
    if running.is_empty() || !needs.receiver {
        return None;
    }
    let differ = running.iter().map(|one| &one.fingerprint).ne(configured.iter());
    if differ {
        let found = format!(
            "the process uses the signing secrets with the fingerprints {}, and this configuration has {}",
            running.iter().map(|one| one.fingerprint.as_str()).collect::<Vec<_>>().join(", "),
            configured.join(", ")
        );
        let fix = "the process reads its files every 10 s, and all but its environment on SIGHUP (kill -HUP); if it \
                   keeps the old ones, its log and rollbook_secret_reload_failing say why";
        return Some(warning(ROTATION, found, fix));
    }
    Some(ok(ROTATION, text(&running, sample(metrics, "process_start_time_seconds").map(timestamp))))
}

fn text(running: &[SecretUse], started: Option<Timestamp>) -> String {
    let newest = running.iter().filter_map(|one| one.last_match).max();
    let one = |one: &SecretUse| {
        let fingerprint = &one.fingerprint;
        // A secret without a match has had none since the start at least.
        let idle_since = one.last_match.or(started);
        let is_unused =
            newest.zip(idle_since).is_some_and(|(newest, since)| newest.since(since) > UNUSED_AFTER);
        let advice = if is_unused { ", and can go once its endpoint is deleted at Clerk" } else { "" };
        if let Some(at) = one.last_match {
            return format!(
                "the secret {fingerprint} (its fingerprint) last matched a delivery at {at}{advice}"
            );
        }
        let since = started.map_or_else(String::new, |at| format!(" at {at}"));
        format!("the secret {fingerprint} has matched no delivery since the process started{since}{advice}")
    };
    running.iter().map(one).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;
    use crate::config::{Environment, FileSource, Sources};

    const NEEDS: Faces = Faces { receiver: true, worker: true };
    const OLD: &str = "whsec_b2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xk";
    const NEW: &str = "whsec_bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3";

    fn config(secrets: &str) -> Config {
        let environment = Environment::of(&[("CLERK_WEBHOOK_SIGNING_SECRET", secrets)]);
        let config = Config::load(&Sources { flags: &[], environment, file: FileSource::None });
        config.unwrap_or_else(|problems| panic!("{problems}"))
    }

    fn metrics(config: &Config, seconds: &[i64]) -> String {
        let secrets = config.signing_secrets().expect("secrets").fingerprints();
        let line = |(index, (fingerprint, seconds)): (usize, (&String, &i64))| {
            format!(
                "rollbook_signing_secret_last_match_timestamp_seconds{{fingerprint=\"{fingerprint}\",position=\"{}\"}} {seconds}\n",
                index + 1
            )
        };
        secrets.iter().zip(seconds).enumerate().map(line).collect()
    }

    #[test]
    fn a_secret_without_a_match_for_longer_than_svix_retries_can_go() {
        let config = config(&format!("{NEW} {OLD}"));
        let now = 1_790_000_000;
        let found = |old: i64| {
            let metrics = metrics(&config, &[now - 1, old]);
            let finding = finding(&config, NEEDS, &metrics);
            finding.expect("a finding").found
        };
        let limit = now - 1 - 28 * 60 * 60;
        assert!(!found(limit).contains("can go"), "{}", found(limit));
        assert!(found(limit - 1).contains("can go"), "{}", found(limit - 1));
        assert!(found(0).contains("has matched no delivery") && !found(0).contains("can go"), "{}", found(0));
    }

    #[test]
    fn a_secret_without_a_match_since_a_start_longer_ago_than_svix_retries_can_go_too() {
        let config = config(&format!("{NEW} {OLD}"));
        let now = 1_790_000_000;
        let found = |started: i64| {
            let metrics =
                format!("{}process_start_time_seconds {started}\n", metrics(&config, &[now - 1, 0]));
            finding(&config, NEEDS, &metrics).expect("a finding").found
        };
        let limit = now - 1 - 28 * 60 * 60;
        assert!(!found(limit).contains("can go"), "{}", found(limit));
        assert!(
            found(limit - 1).ends_with("and can go once its endpoint is deleted at Clerk"),
            "{}",
            found(limit - 1)
        );
    }

    #[test]
    fn a_process_with_other_secrets_than_the_configuration_is_a_warning_that_shows_no_secret() {
        let (both, new) = (config(&format!("{NEW} {OLD}")), config(NEW));
        let finding = finding(&new, NEEDS, &metrics(&both, &[1, 1]));
        let finding = finding.expect("a finding");
        assert_eq!(finding.state, State::Warning);
        assert!(!finding.found.contains("whsec_") && !finding.found.contains("b2xk"), "{}", finding.found);
    }

    #[test]
    fn a_worker_has_no_signing_secrets_to_judge() {
        let config = config(OLD);
        assert!(finding(&config, NEEDS, "rollbook_up 1\n").is_none());
    }
}
