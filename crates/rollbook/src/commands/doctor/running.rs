//! Checks of the process that runs here, if one does: its installation, its state, and the time of Clerk's last delivery.

use std::net::SocketAddr;
use std::time::Duration;

use rollbook_core::time::{Clock, Timestamp};
use rollbook_http::client::{Answer, Connection, RequestError};
use serde_json::Value;

use super::ASK_TIMEOUT;
use super::finding::{Finding, Findings, failed, ok, skipped, warning};
use super::machine::Skew;
use super::process::RunningProcess;
use super::samples::{LAST_DELIVERY, sample, timestamp};
use super::{application, refusals, rotation};
use crate::commands::healthcheck::reachable;
use crate::config::Config;
use crate::faces::Faces;
use crate::ops_port;

const PROCESS: &str = "process";
const DELIVERIES: &str = "deliveries";
const NONE_YET: &str = "none since it started";
/// Time without a delivery after which a warning is due. A Clerk instance in use sends something within a day.
const SILENT_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// Checks the running process through its ops port. Also compares this machine's clock with that of the last delivery's
/// sender, if one was taken.
pub(super) async fn process(config: &Config, needs: Faces, clock: &dyn Clock) -> (Findings, Option<Skew>) {
    let address = reachable(config.ops_address());
    if Connection::connect(address, ASK_TIMEOUT).await.is_err() {
        let why = format!(
            "no process answers at http://{address} (ops_listen): none runs there, or its ops port is another one: \
             --ops-listen HOST:PORT"
        );
        let findings = vec![skipped(PROCESS, why), skipped(DELIVERIES, "only a running process counts them")];
        return (findings, None);
    }
    let about = get(config, address, "/about").await.ok();
    if about.as_ref().is_some_and(|answer| answer.status == 401) {
        let found = format!(
            "the process at http://{address} (ops_listen) asks for another token than ops_tokens here"
        );
        let fix = "give this command the ops_tokens of that process; if they were changed, restart it";
        return (vec![failed(PROCESS, found, fix), skipped(DELIVERIES, "not asked without a token")], None);
    }
    let process = about.and_then(|answer| RunningProcess::read(address, &answer.body));
    let mut notices = Vec::new();
    if let Some(process) = &process {
        notices = match process.judge(config, needs).await {
            Ok(warnings) => warnings,
            Err(finding) => {
                let why = "not asked: the process at ops_listen is another installation's";
                return (vec![finding, skipped(DELIVERIES, why)], None);
            }
        };
    }
    let name = process.map_or_else(|| "rollbook".to_owned(), |process| process.name());
    let asked = async { Ok((get(config, address, "/livez").await?, get(config, address, "/readyz").await?)) };
    let mut findings = match asked.await {
        Ok((live, ready)) => health(address, &name, &live, &ready),
        Err(RequestError::Timeout(limit)) => {
            let limit = limit.as_secs();
            let found = format!("{name} at http://{address} (ops_listen) has not answered within {limit} s");
            let fix = "if the lines about queue and store are ok, its machine is overloaded or the process hangs: see its log";
            vec![failed(PROCESS, found, fix)]
        }
        Err(error) => {
            let found = format!("http://{address} (ops_listen) gives an unexpected answer: {error}");
            let fix = "if another program listens there, give ops_listen another port; else restart rollbook";
            vec![failed(PROCESS, found, fix)]
        }
    };
    findings.append(&mut notices);
    match get(config, address, "/metrics").await {
        Ok(metrics) if metrics.is_success() => {
            findings.push(deliveries(needs, &metrics.body, clock.now()));
            findings.extend(application::sequencer(config, &metrics.body));
            findings.extend(rotation::finding(config, needs, &metrics.body));
            findings.extend(refusals::findings(&metrics.body, clock.now()));
            (findings, senders_clock(&metrics.body))
        }
        _ => {
            findings.push(skipped(DELIVERIES, format!("http://{address}/metrics can't be read")));
            (findings, None)
        }
    }
}

/// Checks for the test event if no delivery had come before it. All other findings stay: the test event
/// proves nothing about Clerk's deliveries or about refusals.
pub(super) async fn look_again(config: &Config, needs: Faces, clock: &dyn Clock, findings: &mut Findings) {
    let is_none = |finding: &&mut Finding| finding.check == DELIVERIES && finding.found == NONE_YET;
    let Some(finding) = findings.iter_mut().find(is_none) else { return };
    if let Ok(metrics) = get(config, reachable(config.ops_address()), "/metrics").await {
        *finding = since_test_event(needs, &metrics.body, clock.now());
    }
}

fn since_test_event(needs: Faces, metrics: &str, now: Timestamp) -> Finding {
    let is_none = sample(metrics, LAST_DELIVERY).is_none_or(|last| last <= 0.0);
    let taken = sample(metrics, r#"rollbook_deliveries_total{outcome="queued"}"#).unwrap_or_default();
    if is_none {
        let fix = "the test event did not come to this process either: see the line about send";
        return warning(DELIVERIES, NONE_YET, fix);
    }
    if taken > 1.0 {
        return deliveries(needs, metrics, now);
    }
    let found = "none but the test event since it started; Clerk's dashboard, Webhooks, shows each attempt of Clerk's";
    ok(DELIVERIES, found)
}

/// Requests a path. The ops port answers one request on each connection.
async fn get(config: &Config, address: SocketAddr, path: &str) -> Result<Answer, RequestError> {
    ops_port::connect(config, address, ASK_TIMEOUT).await?.get(path).await
}

fn health(address: SocketAddr, name: &str, live: &Answer, ready: &Answer) -> Findings {
    let Some(parts) = parts(ready) else {
        let found = format!("what answers at http://{address} (ops_listen) is not rollbook");
        let fix =
            "stop it or give ops_listen another port; if rollbook runs elsewhere: --ops-listen HOST:PORT";
        return vec![failed(PROCESS, found, fix)];
    };
    let mut findings = Vec::new();
    if !live.is_success() {
        let not_ok: Vec<String> =
            self::parts(live).into_iter().flatten().map(|(part, how)| format!("{part}: {how}")).collect();
        let found = format!("{name} runs and makes no progress: {}", not_ok.join(", "));
        findings.push(failed(PROCESS, found, "its log shows the cause; restart it: nothing is lost"));
    }
    for (part, how) in parts.iter().filter(|(_, how)| how != "ok") {
        let fix = fix_of(part, how);
        let works = ["degraded: ", "impaired: ", "unproven: "].iter().any(|state| how.starts_with(state));
        findings.push(if works || ready.is_success() {
            warning(PROCESS, format!("{name} works, but its {part} is not ok: {how}"), fix)
        } else {
            failed(PROCESS, format!("{name} runs and is not ready, because its {part} is not ok: {how}"), fix)
        });
    }
    if findings.is_empty() && ready.is_success() {
        // A process that only receives has no store.
        let names: Vec<&str> = parts.iter().map(|(part, _)| part.as_str()).collect();
        let found = format!("{name} runs and is ready: {} (http://{address}/readyz)", names.join(", "));
        findings.push(ok(PROCESS, found));
    } else if findings.is_empty() {
        findings.push(warning(PROCESS, format!("{name} is stopping"), "start it again if it should run"));
    }
    findings
}

/// Returns the fix for a part of the running process that is not ok.
fn fix_of(part: &str, how: &str) -> &'static str {
    match part {
        "queue" if how.starts_with("degraded: ") => {
            "change the setting of the queue's server that this line names; no restart is needed"
        }
        "queue" => {
            "follow the lines about the queue in this report; then the process continues without a restart"
        }
        "store" => "follow the lines about the store in this report; then workers continue without a restart",
        "start" => "wait until it has started; its log shows how far it is",
        _ => "its log shows the cause; when that is fixed, it continues without a restart",
    }
}

/// Returns the parts in an answer of Rollbook's, by name; `None` if it is another program's answer.
fn parts(answer: &Answer) -> Option<Vec<(String, String)>> {
    let answer: Value = serde_json::from_str(&answer.body).ok()?;
    let part = |(name, how): (&String, &Value)| (name.clone(), how.as_str().unwrap_or_default().to_owned());
    Some(answer.get("parts")?.as_object()?.iter().map(part).collect())
}

fn deliveries(needs: Faces, metrics: &str, now: Timestamp) -> Finding {
    let Some(last) = sample(metrics, LAST_DELIVERY) else {
        let why = "the process at ops_listen does not receive; ask a receiver: --ops-listen HOST:PORT";
        return skipped(DELIVERIES, why);
    };
    let refused = refusals::counts(metrics);
    // Zero before the first.
    if last <= 0.0 {
        let fix = if refused.is_some() {
            "see the lines about refusals; then Clerk's dashboard, Webhooks, shows each attempt"
        } else {
            "rollbook doctor --send sends one from here; Clerk's dashboard, Webhooks, shows each attempt of Clerk's"
        };
        let refused = refused.map(|refused| format!("; {refused}")).unwrap_or_default();
        return warning(DELIVERIES, format!("{NONE_YET}{refused}"), fix);
    }
    let ago = now.since(timestamp(last));
    let refused = refused.unwrap_or_else(|| format!("none refused {}", refusals::since(metrics)));
    let found = format!("the last one {} s ago; {refused}", ago.as_secs());
    if needs.receiver && ago > SILENT_AFTER {
        let fix = "check in Clerk's dashboard, Webhooks, that the endpoint is enabled and its URL right";
        return warning(DELIVERIES, found, fix);
    }
    ok(DELIVERIES, found)
}

/// Compares this machine's clock with that of the sender of the last delivery that was taken.
fn senders_clock(metrics: &str) -> Option<Skew> {
    let last = sample(metrics, LAST_DELIVERY).filter(|last| *last > 0.0)?;
    let ahead = sample(metrics, "rollbook_clock_skew_seconds")?;
    Some(Skew::of(timestamp(last), timestamp(last + ahead), "the last delivery's sender"))
}

#[cfg(test)]
mod tests {
    use super::super::finding::{State, json};
    use super::*;

    const NEEDS: Faces = Faces { receiver: true, worker: true };

    #[test]
    fn missing_deliveries_are_reported_with_the_likely_cause() {
        let judged = |last: u32, forged: u32| {
            let metrics = format!(
                "rollbook_refusals_total{{reason=\"signature\"}} {forged}\n\
                 rollbook_last_delivery_timestamp_seconds {last}\n"
            );
            let finding = deliveries(NEEDS, &metrics, Timestamp::from_seconds(1_800_000_000));
            (finding.state, json(&[finding])["checks"][0]["fix"].as_str().unwrap_or_default().to_owned())
        };
        assert_eq!(judged(1_799_999_000, 3).0, State::Ok);
        for (last, forged, cause) in [
            (0, 0, "doctor --send"),
            (0, 5, "the lines about refusals"),
            (1_799_900_000, 0, "that the endpoint is enabled"),
        ] {
            let (state, fix) = judged(last, forged);
            assert!(state == State::Warning && fix.contains(cause), "{fix}");
        }
    }

    #[test]
    fn each_part_that_is_not_ok_has_a_fix_that_fits_it() {
        for (part, how, fix) in [
            ("queue", "degraded: appendfsync is everysec", "change the setting"),
            ("queue", "impaired: shard 3 is unreachable", "lines about the queue"),
            ("store", "unreachable", "lines about the store"),
            ("start", "migrating", "wait until it has started"),
            ("worker", "no progress", "its log shows the cause"),
        ] {
            assert!(fix_of(part, how).contains(fix), "{part}: {how}");
        }
    }

    #[test]
    fn a_test_event_alone_is_reported_as_one_and_deliveries_of_clerk_as_usual() {
        for (last, taken, state, part) in [
            (1_799_999_999, 1, State::Ok, "none but the test event"),
            (1_799_999_999, 2, State::Ok, "the last one 1 s ago"),
            (0, 0, State::Warning, NONE_YET),
        ] {
            let metrics = format!(
                "rollbook_deliveries_total{{outcome=\"queued\"}} {taken}\n\
                 rollbook_last_delivery_timestamp_seconds {last}\n"
            );
            let finding = since_test_event(NEEDS, &metrics, Timestamp::from_seconds(1_800_000_000));
            assert!(finding.state == state && finding.found.starts_with(part), "{finding:?}");
        }
    }

    #[test]
    fn each_part_that_is_not_ok_is_reported_and_another_program_is_recognized() {
        let address = SocketAddr::from(([127, 0, 0, 1], 9464));
        let answer = |status, body: &str| Answer { status, body: body.to_owned() };
        let live = answer(200, r#"{"status":"ok","parts":{"worker":"ok"}}"#);
        for (ready, states) in [
            (answer(200, r#"{"parts":{"queue":"ok","store":"ok"}}"#), vec![State::Ok]),
            (
                answer(200, r#"{"parts":{"queue":"degraded: x","store":"impaired: y"}}"#),
                vec![State::Warning; 2],
            ),
            (answer(503, r#"{"parts":{"queue":"ok","store":"unreachable"}}"#), vec![State::Failed]),
            (answer(200, r#"{"parts":{"queue":"ok","store":"unreachable"}}"#), vec![State::Warning]),
            (answer(503, r#"{"status":"stopping","parts":{"queue":"ok"}}"#), vec![State::Warning]),
            (answer(200, "It works!"), vec![State::Failed]),
        ] {
            let found: Vec<State> =
                health(address, "rollbook", &live, &ready).iter().map(|one| one.state).collect();
            assert_eq!(found, states, "{}", ready.body);
        }
        let stalled = answer(503, r#"{"parts":{"worker":"no progress for 130 s"}}"#);
        let ready = answer(200, r#"{"parts":{"queue":"ok"}}"#);
        let report = json(&health(address, "rollbook", &stalled, &ready));
        assert!(
            report["checks"][0]["found"].as_str().is_some_and(|found| found.contains("130 s")),
            "{report}"
        );
    }
}
