//! Forwards of this process: their settings, as the forwarder wants them.

use std::collections::BTreeMap;
use std::sync::Arc;

use prometheus::Registry;
use rollbook_core::live::Live;
use rollbook_core::retry::RetryPolicy;
use rollbook_core::signature::SigningSecrets;
use rollbook_core::store::FullStore;
use rollbook_core::time::Clock;
use rollbook_forwarder::{Endpoint, ForwardSettings, Forwarder, HttpEndpoint, Ports};

use crate::config::{Config, ForwardGroup};
use crate::live_secrets::LiveSecrets;

/// Creates the forwarder of this process; `None` if no forward is configured.
///
/// # Errors
/// A metric is registered already.
pub(crate) fn forwarder(
    config: &Config,
    live: &LiveSecrets,
    store: Arc<dyn FullStore>,
    clock: &Arc<dyn Clock>,
    registry: &Registry,
) -> Result<Option<Forwarder>, prometheus::Error> {
    if config.forwards.is_empty() {
        return Ok(None);
    }
    let forward = |(name, group): (&String, &ForwardGroup)| {
        let endpoint: Arc<dyn Endpoint> = Arc::new(HttpEndpoint::new(group.url.clone(), clock.clone()));
        let secrets = live.forward(name).unwrap_or_else(|| group.secret.clone().into());
        (settings(name, group, secrets), endpoint)
    };
    let forwards = config.forwards.iter().map(forward).collect();
    let ports = Ports { changes: store.clone(), forwards: store.clone(), rows: store, clock: clock.clone() };
    Forwarder::new(ports, forwards, config.settings.forward_bytes_max, registry).map(Some)
}

/// Returns the names of the configured forwards, with the `blocked_max` of each.
pub(crate) fn names(config: &Config) -> BTreeMap<String, usize> {
    config.forwards.iter().map(|(name, group)| (name.clone(), group.blocked_max)).collect()
}

/// Returns the number of connections that the forwards of this process open at most.
pub(crate) fn connections_max(config: &Config) -> usize {
    config.forwards.values().map(|group| group.concurrency + group.slow_max).sum()
}

fn settings(name: &str, group: &ForwardGroup, secrets: Live<SigningSecrets>) -> ForwardSettings {
    ForwardSettings {
        name: name.to_owned(),
        secrets,
        resources: group.resources.clone(),
        kinds: group.kinds.clone(),
        expand: group.expand,
        backfill: group.backfill,
        timeout: group.timeout,
        concurrency: group.concurrency,
        slow_max: group.slow_max,
        retry: RetryPolicy {
            backoff: group.backoff,
            backoff_max: group.backoff_max,
            attempts_max: group.attempts_max,
        },
        give_up_after: group.give_up_after,
        blocked_max: group.blocked_max,
    }
}
