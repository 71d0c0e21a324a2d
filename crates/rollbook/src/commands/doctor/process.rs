//! The process that answers at `ops_listen`: is it of this installation, and is it the command that was asked for?
//!
//! Ports and secrets prove nothing: two installations on one machine use the same defaults. What a process says of its queue
//! and its store (`/about`) is compared with the configuration: by the identity of the data, else by its place.

use std::net::SocketAddr;

use serde::Deserialize as _;
use serde_json::Value;

use super::finding::{Finding, Findings, failed, warning};
use crate::config::Config;
use crate::faces::Faces;
use crate::installation::{Used, used};
use crate::wire::Component;

const PROCESS: &str = "process";

/// A process that answers, as it describes itself.
pub(super) struct RunningProcess {
    address: SocketAddr,
    version: String,
    /// `serve`, `receive` or `work`.
    command: String,
    instance_id: Option<String>,
    api_listen: Option<String>,
    queue: Option<Used>,
    store: Option<Used>,
}

/// Result of comparing the two sides of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Same {
    Yes,
    No,
    Unknown,
}

/// Compares a part of the running process with that of the configuration.
fn compare(theirs: &Used, ours: &Used) -> Same {
    match (&theirs.identity, &ours.identity) {
        _ if theirs.kind != ours.kind => Same::No,
        (Some(theirs), Some(ours)) if theirs == ours => Same::Yes,
        (Some(_), Some(_)) => Same::No,
        _ if theirs.place == ours.place => Same::Yes,
        _ => Same::Unknown,
    }
}

impl RunningProcess {
    /// Reads the answer of `/about`; `None` if it has another form, such as that of an older Rollbook.
    pub(super) fn read(address: SocketAddr, body: &str) -> Option<Self> {
        let found: Value = serde_json::from_str(body).ok()?;
        let text = |key: &str| found.get(key)?.as_str().map(str::to_owned);
        Some(Self {
            address,
            version: text("version")?,
            command: text("command")?,
            instance_id: text("clerk_instance_id"),
            api_listen: text("api_listen"),
            queue: found.get("queue").and_then(|queue| Used::deserialize(queue).ok()),
            store: found.get("store").and_then(|store| Used::deserialize(store).ok()),
        })
    }

    /// Names the command and its version.
    pub(super) fn name(&self) -> String {
        format!("rollbook {} {}", self.command, self.version)
    }

    /// Compares the process with the configuration. Returns warnings about a process of this installation, as far as that
    /// can be known; the error is about a process of another one: what else it says is not about this installation.
    pub(super) async fn judge(&self, config: &Config, needs: Faces) -> Result<Findings, Finding> {
        let parts = self.parts(config, needs).await;
        if let Some(finding) = self.of_another(config.settings.clerk_instance_id.as_deref(), &parts) {
            return Err(finding);
        }
        let unclear = parts.iter().filter(|(_, theirs, ours)| compare(theirs, ours) == Same::Unknown);
        let unclear = unclear.map(|(part, theirs, ours)| self.unclear(*part, theirs, ours));
        let of_command = self.of_another_command(needs);
        let of_api = self.of_another_api(config, needs);
        Ok(unclear.chain(of_command).chain(of_api).collect())
    }

    /// Returns the parts that both sides use: theirs, then ours.
    async fn parts(&self, config: &Config, needs: Faces) -> Vec<(Component, Used, Used)> {
        let mut parts = Vec::new();
        for &part in needs.parts() {
            let theirs = match part {
                Component::Queue => &self.queue,
                Component::Store => &self.store,
            };
            if let Some(theirs) = theirs {
                parts.push((part, theirs.clone(), used(config, part).await));
            }
        }
        parts
    }

    fn of_another(&self, instance: Option<&str>, parts: &[(Component, Used, Used)]) -> Option<Finding> {
        let differs = match (self.instance_id.as_deref(), instance) {
            (Some(theirs), Some(ours)) if theirs != ours => {
                Some(format!("its Clerk instance is {theirs}, and CLERK_INSTANCE_ID here is {ours}"))
            }
            _ => None,
        };
        let other = parts.iter().find(|(_, theirs, ours)| compare(theirs, ours) == Same::No);
        let differs = differs.or_else(|| {
            let (part, theirs, ours) = other?;
            let part = part.name();
            Some(if theirs.place == ours.place {
                format!(
                    "its {part}, {}, has other data than the one that this configuration leads to",
                    theirs.place
                )
            } else {
                format!("its {part} is {}, and this configuration has {}", theirs.place, ours.place)
            })
        })?;
        let (address, name) = (self.address, self.name());
        let found =
            format!("http://{address} (ops_listen) is the port of another installation's {name}: {differs}");
        let fix = "name the ops port of your own process: --ops-listen HOST:PORT. If this is the process that you mean, run \
                   doctor with its settings: the same folder, environment and --config";
        Some(failed(PROCESS, found, fix))
    }

    fn unclear(&self, part: Component, theirs: &Used, ours: &Used) -> Finding {
        let (name, address, part) = (self.name(), self.address, part.name());
        let found = format!(
            "{name} at http://{address} names its {part} {}, and this configuration {}: they may be the same or not",
            theirs.place, ours.place
        );
        warning(PROCESS, found, "run doctor with the settings of that process, where the process runs")
    }

    /// Warns of a receiver where the checks are about a worker, and the reverse.
    fn of_another_command(&self, needs: Faces) -> Option<Finding> {
        let asked = match (needs.receiver, needs.worker) {
            (true, false) if self.command == "work" => "receive",
            (false, true) if self.command == "receive" => "work",
            _ => return None,
        };
        let found = format!(
            "http://{} (ops_listen) is the port of {}, and --face {asked} is about a rollbook {asked}: that one was not asked",
            self.address,
            self.name()
        );
        let fix = format!(
            "--ops-listen HOST:PORT with the ops port of the rollbook {asked}; about this process: --face {}",
            self.command
        );
        Some(warning(PROCESS, found, fix))
    }

    /// Warns of an API that is not that of this process, although the process would have one.
    fn of_another_api(&self, config: &Config, needs: Faces) -> Option<Finding> {
        let ours =
            config.settings.api_listen.filter(|_| needs.worker && self.command != "receive")?.to_string();
        if self.api_listen.as_ref() == Some(&ours) {
            return None;
        }
        let theirs = self.api_listen.as_deref().unwrap_or("none");
        let found = format!(
            "{} has its API at {theirs}, and api_listen here is {ours}: if something answers there, it is another process",
            self.name()
        );
        Some(warning("api", found, "restart the process with this configuration, or correct api_listen"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    fn used(kind: &str, place: &str, identity: Option<&str>) -> Used {
        Used { kind: kind.to_owned(), place: place.to_owned(), identity: identity.map(str::to_owned) }
    }

    fn process(command: &str) -> RunningProcess {
        let about =
            format!("{{\"version\":\"1.2.3\",\"command\":\"{command}\",\"clerk_instance_id\":\"ins_1\"}}");
        RunningProcess::read(SocketAddr::from(([127, 0, 0, 1], 9464)), &about).expect("it is read")
    }

    #[test]
    fn data_is_the_same_by_its_identity_and_by_its_place_only_if_one_identity_is_unknown() {
        for (theirs, ours, same) in [
            (("server", "Redis at a", Some("1")), ("server", "Redis at b", Some("1")), Same::Yes),
            (("server", "Redis at a", Some("1")), ("server", "Redis at a", Some("2")), Same::No),
            (("server", "Redis at a", None), ("server", "Redis at a", Some("2")), Same::Yes),
            (("server", "Redis at a", None), ("server", "Redis at b", Some("2")), Same::Unknown),
            (("server", "Redis at a", None), ("file", "SQLite b", None), Same::No),
            (("file", "SQLite /a", Some("file 1:2")), ("file", "SQLite /b", Some("no file")), Same::No),
        ] {
            let side = |(kind, place, identity): (&str, &str, Option<&str>)| used(kind, place, identity);
            assert_eq!(compare(&side(theirs), &side(ours)), same, "{theirs:?} {ours:?}");
        }
    }

    #[test]
    fn a_process_of_another_installation_has_failed_and_is_named_with_what_differs() {
        let parts = |identity| {
            let ours = used("file", "SQLite /mine/queue.db", Some("file 1:1"));
            vec![(Component::Queue, used("file", "SQLite /theirs/queue.db", Some(identity)), ours)]
        };
        let process = process("serve");
        for (instance, identity, part) in [
            (Some("ins_2"), "file 1:1", "its Clerk instance is ins_1, and CLERK_INSTANCE_ID here is ins_2"),
            (
                None,
                "file 1:2",
                "its queue is SQLite /theirs/queue.db, and this configuration has SQLite /mine/queue.db",
            ),
        ] {
            let finding = process.of_another(instance, &parts(identity)).expect("another one");
            assert!(finding.state == State::Failed && finding.found.contains(part), "{finding:?}");
            assert!(finding.found.contains("another installation's rollbook serve 1.2.3"), "{finding:?}");
        }
        for instance in [None, Some("ins_1")] {
            assert!(process.of_another(instance, &parts("file 1:1")).is_none(), "{instance:?}");
        }
    }

    #[test]
    fn a_receiver_in_the_place_of_a_worker_is_a_warning_and_the_reverse_and_serve_is_both() {
        let (receive, work) =
            (Faces { receiver: true, worker: false }, Faces { receiver: false, worker: true });
        let serve = Faces { receiver: true, worker: true };
        for (needs, command, warned) in [
            (work, "receive", true),
            (receive, "work", true),
            (work, "work", false),
            (receive, "receive", false),
            (work, "serve", false),
            (receive, "serve", false),
            (serve, "receive", false),
            (serve, "work", false),
        ] {
            let finding = process(command).of_another_command(needs);
            assert_eq!(finding.is_some(), warned, "{command}: {finding:?}");
            let names_it = |finding: &Finding| finding.found.contains(&format!("rollbook {command} 1.2.3"));
            assert!(finding.as_ref().is_none_or(names_it), "{finding:?}");
        }
    }

    #[test]
    fn an_answer_of_another_form_is_not_read() {
        let address = SocketAddr::from(([127, 0, 0, 1], 9464));
        for body in ["", "It works!", "{}", "[1]", "{\"version\":1,\"command\":\"serve\"}"] {
            assert!(RunningProcess::read(address, body).is_none(), "{body}");
        }
    }
}
