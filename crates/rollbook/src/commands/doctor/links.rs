//! Check whether the connections to queue and store are encrypted.

use std::sync::Arc;

use rollbook_core::protection::Protection;
use rollbook_core::time::Clock;

use super::finding::{Finding, Findings, ok, skipped, warning};
use super::in_time;
use crate::config::Config;
use crate::faces::Faces;
use crate::links::CLEAR;
use crate::wire::{self, Component};

const ENCRYPTION: &str = "encryption";

/// Returns one finding for each part on a server. The part's own check reports a server that does not answer.
pub(super) async fn encryption(config: &Config, needs: Faces, clock: &Arc<dyn Clock>) -> Findings {
    let mut findings = Vec::new();
    for &part in needs.parts().iter().filter(|part| part.place(config).server().is_some()) {
        let found = protection(config, part, clock).await;
        findings.push(judge(part, &wire::describe(config, part), found));
    }
    findings
}

async fn protection(config: &Config, part: Component, clock: &Arc<dyn Clock>) -> Option<Protection> {
    match part {
        Component::Queue => {
            let queue = wire::open_queue(config, clock.clone()).ok()?.admin;
            // The handshake decides; an error of what follows it changes nothing.
            let _ = in_time(queue.stats()).await;
            queue.protection()
        }
        Component::Store => {
            let store = wire::open_store(config, clock.clone()).ok()?;
            // Reading the health fails if a table is missing, but the connection is made by then.
            let _ = in_time(store.ping()).await;
            store.protection()
        }
    }
}

fn judge(part: Component, place: &str, found: Option<Protection>) -> Finding {
    let name = part.name();
    match found {
        None => skipped(ENCRYPTION, format!("there is no connection to the {name}: see the line {name}")),
        Some(Protection::Clear) => {
            let fix = match part {
                Component::Queue => "rediss:// in its URL, and TLS on the server",
                Component::Store => "sslmode=verify-full in its URL, and TLS on the server",
            };
            warning(ENCRYPTION, format!("{name} ({place}): {}: {CLEAR}", Protection::Clear), fix)
        }
        Some(protection) => ok(ENCRYPTION, format!("{name} ({place}): {protection}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    #[test]
    fn clear_text_over_a_network_is_a_warning_and_all_else_is_named() {
        let judged = judge(Component::Store, "Postgres at h:1", Some(Protection::Clear));
        assert_eq!(judged.state, State::Warning);
        assert!(judged.found.contains("not encrypted") && judged.found.contains("Postgres at h:1"));
        for (found, state) in [
            (Some(Protection::Verified), State::Ok),
            (Some(Protection::Pinned), State::Ok),
            (Some(Protection::Unverified), State::Ok),
            (Some(Protection::Loopback), State::Ok),
            (None, State::Skipped),
        ] {
            assert_eq!(judge(Component::Queue, "Redis at h:1", found).state, state, "{found:?}");
        }
    }
}
