//! Checks of the change feed and its forwards.

use std::time::Duration;

use rollbook_core::store::FullStore;
use rollbook_core::time::Timestamp;
use rollbook_operator::forwards::{self, ForwardActivity, ForwardView};
use rollbook_operator::words::thousands;

use super::finding::{Finding, Findings, failed, ok, skipped, warning};
use super::{in_time, notices};
use crate::config::Config;

const FORWARDS: &str = "forwards";
/// Number of changes that a forward may be behind. A running one saves its position several times a second.
const BEHIND_MAX: u64 = 1_000;
/// Age of the last save after which nobody runs a forward. A running one saves every two seconds.
const SAVED_MAX: Duration = Duration::from_secs(120);

/// Checks the feed, and each configured forward.
pub(super) async fn feed(config: &Config, store: &dyn FullStore, now: Timestamp) -> Findings {
    let feed = in_time(store.feed()).await.ok();
    let feed = feed.and_then(|feed| notices::feed(config, &feed));
    feed.into_iter().chain(forwards(config, store, now).await).collect()
}

async fn forwards(config: &Config, store: &dyn FullStore, now: Timestamp) -> Findings {
    let names = crate::forwards::names(config);
    if names.is_empty() {
        return Vec::new();
    }
    if let Err(why) = in_time(store.check_forwards()).await {
        let fix = "grant them: ops/postgres/roles.sh does, and may be run again";
        return vec![failed(FORWARDS, format!("no change is sent: {why}"), fix)];
    }
    match in_time(forwards::status(store, store, &names)).await {
        Ok(views) => views.iter().filter(|view| view.is_configured).map(|view| judge(view, now)).collect(),
        Err(why) => vec![skipped(FORWARDS, why)],
    }
}

fn judge(view: &ForwardView, now: Timestamp) -> Finding {
    let name = &view.forward;
    if let Some(reason) = &view.stop_reason {
        let found = format!("{name} stopped, and sends nothing: {reason}");
        return failed(
            FORWARDS,
            found,
            format!("when the receiver is right: rollbook changes resume {name}"),
        );
    }
    if view.state == ForwardActivity::New {
        return ok(FORWARDS, format!("{name} begins when a worker runs with it"));
    }
    let age = view.saved_at.map(|at| now.since(at)).unwrap_or_default();
    if view.state == ForwardActivity::Idle && age > SAVED_MAX {
        let found = format!("no process has run {name} for {} s", age.as_secs());
        return warning(FORWARDS, found, "run rollbook serve or work with this configuration file");
    }
    let at = format!("{name} is at position {} of {}", thousands(view.position), thousands(view.last));
    if view.dead_letters > 0 {
        let found = format!("{at}; {} dead letters", thousands(view.dead_letters));
        return warning(FORWARDS, found, "rollbook changes failed lists them; redrive sends them again");
    }
    if view.blocked_subjects > 0 {
        let found = format!("{at}; {} objects wait after a failure", thousands(view.blocked_subjects));
        return warning(
            FORWARDS,
            found,
            "check the receiver's log; failed changes are sent again by themselves",
        );
    }
    if view.last - view.position.min(view.last) > BEHIND_MAX {
        return warning(
            FORWARDS,
            at,
            "check that the receiver answers fast, or raise the forward's concurrency",
        );
    }
    ok(FORWARDS, at)
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    #[test]
    fn a_forward_that_stopped_fails_and_one_that_needs_attention_is_a_warning() {
        let now = Timestamp::from_seconds(1_800_000_000);
        let view = || ForwardView {
            forward: "crm".to_owned(),
            state: ForwardActivity::Running,
            is_configured: true,
            position: 10,
            last: 10,
            blocked_subjects: 0,
            waiting_changes: 0,
            dead_letters: 0,
            stopped_at: None,
            stop_reason: None,
            saved_at: Some(now.minus(Duration::from_secs(121))),
        };
        let state = |view: &ForwardView| judge(view, now).state;
        assert_eq!(state(&view()), State::Ok);
        assert_eq!(state(&ForwardView { last: 1_010, ..view() }), State::Ok);
        assert_eq!(state(&ForwardView { last: 1_011, ..view() }), State::Warning);
        assert_eq!(state(&ForwardView { last: 9, ..view() }), State::Ok, "the store was restored");
        assert_eq!(state(&ForwardView { dead_letters: 1, ..view() }), State::Warning);
        assert_eq!(state(&ForwardView { blocked_subjects: 1, ..view() }), State::Warning);
        assert_eq!(state(&ForwardView { state: ForwardActivity::Idle, ..view() }), State::Warning);
        assert_eq!(
            state(&ForwardView { state: ForwardActivity::Idle, saved_at: Some(now), ..view() }),
            State::Ok
        );
        assert_eq!(state(&ForwardView { state: ForwardActivity::New, saved_at: None, ..view() }), State::Ok);
        let stopped = ForwardView { stop_reason: Some("410".to_owned()), stopped_at: Some(now), ..view() };
        assert_eq!(state(&stopped), State::Failed);
    }
}
