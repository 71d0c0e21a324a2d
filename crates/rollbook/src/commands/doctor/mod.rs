//! `doctor`: checks the whole installation, and says how to fix what is wrong.
//!
//! Constraints:
//!
//! * Test writes of a worker and a receiver are rolled back; on Redis, which can't roll back, one field of the queue's own
//!   is written (`asked_at`). With `--send` a ledger entry stays. No file and no table is created.
//! * It ends within seconds: each check has a time limit, and all checks run at the same time.
//! * Connections go to the configured servers, to Clerk's API if a key is set, to the issuer of session tokens if its keys
//!   are fetched, to the processes at `ops_listen` and `api_listen`, and with `--send` to the receiver: nowhere else.

mod application;
mod backlog;
mod clerk;
mod finding;
mod forwards;
mod links;
mod machine;
mod notices;
mod parts;
mod process;
mod refusals;
mod rotation;
mod running;
mod samples;
mod send;
mod sessions;
mod sharing;

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use rollbook_core::time::Clock;

use self::finding::{Finding, Findings, State, failed, ok, skipped, warning};
use self::machine::Skew;
use super::on_all_cores;
use super::send::Target;
use crate::cli::{Doctor, FaceName};
use crate::clock::SystemClock;
use crate::config::{Config, Environment, Examined, Hint, Problem, Problems, missing_secret};
use crate::faces::Faces;
use crate::flags::SettingFlags;
use crate::logging;
use crate::output::{Style, print_as};
use crate::wire;

/// Age of the oldest message, or of work after a deletion, that is a warning. A running worker takes what is due within
/// seconds.
const WAITS_MAX: Duration = Duration::from_secs(300);
/// Maximum time for one answer. A healthy server needs less, and a user does not wait longer at a terminal.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

const CONFIGURATION: &str = "configuration";

/// Runs all checks and prints the report.
///
/// # Errors
/// A check has failed; the error is [`Problems`] if the configuration is wrong.
pub(crate) fn run(settings: &SettingFlags, arguments: &Doctor) -> anyhow::Result<()> {
    let (receiver, worker) = (arguments.face != FaceName::Work, arguments.face != FaceName::Receive);
    let needs = Faces { receiver, worker };
    let Examined { config, mut problems, has_secret, hints } = Config::examine(&settings.sources());
    let Some(config) = config else {
        if needs.receiver && !has_secret {
            problems.0.extend(missing_secret(&hints).0);
        }
        return report(&problems.0.iter().map(problem).collect::<Findings>(), true, arguments);
    };
    logging::start(&config.settings, &Environment::read())?;
    let default_path = config.settings.webhook_path.first();
    let target = arguments.url.as_deref().map(|url| Target::parse(url, default_path)).transpose()?;
    let (mut findings, misconfigured) = configuration(&config, needs, &problems);
    let examined = Box::pin(examine(&config, needs, arguments.send, target));
    findings.extend(on_all_cores(async { Ok(examined.await) })?);
    report(&findings, misconfigured, arguments)
}

/// Checks everything but the configuration.
async fn examine(config: &Config, needs: Faces, with_send: bool, target: Option<Target>) -> Findings {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (time, queue, store, encryption, clerk, api, sessions, process) = tokio::join!(
        machine::clock(config, needs, &*clock),
        parts::queue(config, needs, &clock),
        parts::store(config, needs, &clock),
        links::encryption(config, needs, &clock),
        clerk::api(config, needs, &clock),
        application::api(config, needs),
        sessions::tokens(config, needs),
        running::process(config, needs, &*clock),
    );
    // The sender of a delivery has a clock too.
    let (process, sender) = process;
    let skews: Vec<Skew> = time.into_iter().chain(sender).collect();
    let mut findings = machine::judge_clocks(&skews, clock.now(), config.settings.tolerance);
    findings.extend(machine::files(config, needs));
    findings.extend(sharing::files(config, needs));
    findings.extend(machine::disk(config, needs));
    findings.push(machine::open_files(config, needs));
    findings.extend(queue);
    findings.extend(store);
    if needs.worker {
        findings.extend(notices::url(config));
    }
    findings.extend(encryption);
    findings.extend(clerk);
    findings.extend(api);
    findings.extend(sessions);
    findings.extend(process);
    if with_send {
        let sent = send::send(config, needs, target, &clock).await;
        running::look_again(config, needs, &*clock, &mut findings).await;
        findings.push(sent);
    }
    findings
}

/// Checks the configuration. Also returns whether a process would refuse to start with it.
fn configuration(config: &Config, needs: Faces, problems: &Problems) -> (Findings, bool) {
    let wrong = needs.parts().iter().filter_map(|part| wire::check_server(config, *part).err());
    let mut findings: Findings = problems.0.iter().map(problem).collect();
    findings.extend(wrong.flat_map(|problems| problems.0).map(|one| problem(&one)));
    if findings.is_empty() && config.hints.is_empty() {
        findings
            .push(ok(CONFIGURATION, "every setting is valid; rollbook config shows each with its source"));
    }
    let hint = |hint: &Hint| {
        warning(CONFIGURATION, hint.to_string(), format!("unset it, or name it {}", hint.meant))
    };
    findings.extend(config.hints.iter().map(hint));
    findings.push(match config.signing_secrets() {
        _ if !needs.receiver => skipped("signing_secret", "only a receiver uses one"),
        Ok(secrets) if secrets.len() == 1 => ok(
            "signing_secret",
            "set and well-formed; --send shows whether the running receiver has the same",
        ),
        Ok(secrets) => ok(
            "signing_secret",
            format!("{} are set and well-formed; a delivery may match any", secrets.len()),
        ),
        Err(problems) => {
            let first = problems.0.first();
            let fix = first.map_or_else(String::new, |problem| problem.fix.clone());
            failed("signing_secret", "CLERK_WEBHOOK_SIGNING_SECRET is not set", fix)
        }
    });
    let misconfigured = findings.iter().any(|finding| finding.state == State::Failed);
    (findings, misconfigured)
}

fn problem(problem: &Problem) -> Finding {
    let origin = problem.origin.as_ref().map_or(String::new(), |origin| format!(" ({origin})"));
    failed(CONFIGURATION, format!("{}{origin}: {}", problem.name, problem.wrong), &*problem.fix)
}

fn report(findings: &[Finding], misconfigured: bool, arguments: &Doctor) -> anyhow::Result<()> {
    print_as(arguments.output, &finding::json(findings), |_| {
        finding::text(findings, Style::of(&Environment::read()))
    })?;
    if misconfigured {
        // The report shows them already.
        return Err(Problems::default().into());
    }
    match findings.iter().filter(|finding| finding.state == State::Failed).count() {
        0 => Ok(()),
        1 => bail!("1 check has failed"),
        count => bail!("{count} checks have failed"),
    }
}

/// Returns the answer, or why there is none within [`ASK_TIMEOUT`]. Only for reads: the call is cancelled at the limit.
async fn in_time<T, E: Display>(asked: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    match tokio::time::timeout(ASK_TIMEOUT, asked).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(no_answer()),
    }
}

fn no_answer() -> String {
    format!("no answer within {} s", ASK_TIMEOUT.as_secs())
}
