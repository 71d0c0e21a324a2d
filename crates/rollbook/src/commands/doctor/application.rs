//! Checks of what applications use: the API, and the sequencer of the change feed in the process that runs here.

use std::time::Duration;

use rollbook_http::client::{Answer, Connection, RequestError};
use rollbook_operator::words::thousands;

use super::ASK_TIMEOUT;
use super::finding::{Finding, failed, ok, skipped, warning};
use super::samples::sample;
use crate::commands::healthcheck::reachable;
use crate::config::Config;
use crate::faces::Faces;

const API: &str = "api";
const SEQUENCER: &str = "sequencer";
const POSITION: &str = "rollbook_changes_position";
const PENDING: &str = "rollbook_changes_pending_seconds";
/// Wait for a position that is a warning. A worker gives positions within a second; while it can't, it reports for how long.
const PENDING_MAX: Duration = Duration::from_secs(60);

/// Checks the API at `api_listen`; `None` for a receiver, which has none.
pub(super) async fn api(config: &Config, needs: Faces) -> Option<Finding> {
    if !needs.worker {
        return None;
    }
    let (Some(listen), Some(tokens)) = (config.settings.api_listen, &config.settings.api_tokens) else {
        return Some(skipped(API, "off, because api_listen is not set: applications read the tables by SQL"));
    };
    let address = reachable(listen);
    let ask = async |path| -> Result<Answer, RequestError> {
        Connection::connect(address, ASK_TIMEOUT).await?.get(path).await
    };
    if Connection::connect(address, ASK_TIMEOUT).await.is_err() {
        let why = format!(
            "nothing answers at http://{address} (api_listen): no worker runs there, or it has no API"
        );
        return Some(skipped(API, why));
    }
    // Without a token: the description is open, and data is not.
    let (described, refused) = tokio::join!(ask("/v1/openapi.json"), ask("/v1/changes"));
    let is_described =
        described.is_ok_and(|answer| answer.is_success() && answer.body.contains("/v1/changes"));
    let is_refused = refused.is_ok_and(|answer| answer.status == 401);
    if !(is_described && is_refused) {
        let found = format!("what answers at http://{address} (api_listen) is not Rollbook's API");
        return Some(failed(API, found, "stop it, or give api_listen another port"));
    }
    let tokens = tokens.count();
    if !config.settings.changes {
        let found = format!(
            "it answers at http://{address}, but changes are not recorded: readers are answered 409 (feed-off)"
        );
        return Some(warning(API, found, "changes = yes, then rollbook migrate; or leave api_listen out"));
    }
    let tokens = if tokens == 1 { "1 token is".to_owned() } else { format!("{tokens} tokens are") };
    let found =
        format!("it answers at http://{address}, and refuses a request without a token; {tokens} set");
    Some(ok(API, found))
}

/// Reports whether the process that runs here gives positions; `None` if it is not a worker, or the feed is off.
pub(super) fn sequencer(config: &Config, metrics: &str) -> Option<Finding> {
    let (position, pending) = (sample(metrics, POSITION)?, sample(metrics, PENDING)?);
    if !config.settings.changes {
        return None;
    }
    if pending > PENDING_MAX.as_secs_f64() {
        let found = format!("changes of rows have waited for a position for {pending:.0} s");
        let fix =
            "the worker's log names the reason; RollbookChangesStalled in ops/RUNBOOK.md says what to do";
        return Some(warning(SEQUENCER, found, fix));
    }
    // A position has less than 53 bits.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "see above; `as` saturates")]
    let position = position as u64;
    let last = match position {
        0 if pending > 0.0 => format!("the first ones have waited for {pending:.0} s"),
        0 => "there was none yet".to_owned(),
        _ => format!("the last position is {}", thousands(position)),
    };
    let found = format!("the worker gives changes of rows their positions in the change feed; {last}");
    Some(ok(SEQUENCER, found))
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;
    use crate::config::{Environment, FileSource, Sources};

    #[test]
    fn a_sequencer_that_gets_no_position_for_a_minute_is_a_warning() {
        let sources = Sources { flags: &[], environment: Environment::of(&[]), file: FileSource::None };
        let config = Config::load(&sources).unwrap_or_else(|problems| panic!("{problems}"));
        let found = |pending: &str| sequencer(&config, &format!("{POSITION} 4211\n{PENDING} {pending}\n"));
        let well = found("60").expect("a finding");
        assert!(well.state == State::Ok && well.found.contains("4,211"), "{well:?}");
        let stalled = found("61").expect("a finding");
        assert!(stalled.state == State::Warning && stalled.found.contains("for 61 s"), "{stalled:?}");
        let first = sequencer(&config, &format!("{POSITION} 0\n{PENDING} 2\n")).expect("a finding");
        assert!(first.found.ends_with("the first ones have waited for 2 s"), "{first:?}");
        assert!(sequencer(&config, "rollbook_up 1\n").is_none(), "a receiver gives none");
    }
}
