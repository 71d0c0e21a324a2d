//! Checks of the change feed and its forwards.

use std::time::Duration;

use rollbook_core::store::FullStore;
use rollbook_core::time::Timestamp;
use rollbook_operator::forwards::{self, ForwardActivity, ForwardView};
use rollbook_operator::words::{many, thousands};

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
    match in_time(forwards::status(store, store, &names, now)).await {
        Ok(views) => views.iter().filter(|view| view.is_configured).map(|view| judge(view, now)).collect(),
        Err(why) => vec![skipped(FORWARDS, why)],
    }
}

fn judge(view: &ForwardView, now: Timestamp) -> Finding {
    let name = &view.forward;
    if let Some(reason) = &view.stop_reason {
        let found = format!("{name} stopped, and sends nothing: {reason}");
        let fix = format!("when the endpoint is right: rollbook changes resume {name}");
        return failed(FORWARDS, found, fix);
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
    if let Some(full) = &view.full {
        let found = format!("{at}, and reads no more: {full}");
        let fix =
            format!("rollbook changes failed {name}, and failed {name} --waiting; then redrive or discard");
        return failed(FORWARDS, found, fix);
    }
    if view.dead_letters > 0 {
        let found = format!("{at}; {}{}", many(view.dead_letters, "dead letter"), waiting(view));
        let fix = format!("rollbook changes failed {name} lists them; redrive sends them again");
        return warning(FORWARDS, found, fix);
    }
    if let Some(until) = view.paused_until {
        return warning(FORWARDS, format!("{at}; the endpoint asked for no requests until {until}"), "wait");
    }
    if view.blocked_subjects > 0 {
        let fix = format!(
            "check the endpoint's log; failed changes are sent again by themselves. All: rollbook changes failed {name} --waiting"
        );
        return warning(FORWARDS, format!("{at}{}", waiting(view)), fix);
    }
    if view.last - view.position.min(view.last) > BEHIND_MAX {
        let fix = "check that the endpoint answers fast, or raise the forward's concurrency";
        return warning(FORWARDS, at, fix);
    }
    ok(FORWARDS, at)
}

/// Returns the number of objects that wait, with the first reason; empty if none does.
fn waiting(view: &ForwardView) -> String {
    if view.blocked_subjects == 0 {
        return String::new();
    }
    let objects = many(view.blocked_subjects, "object");
    let reason = view.last_error.as_deref().unwrap_or_default();
    let first = match view.next_try_at {
        Some(next) if !reason.is_empty() => {
            format!(", the first after {}, the next at {next}: {reason}", many(view.tries.into(), "request"))
        }
        _ => String::new(),
    };
    format!("; waiting: {objects}{first}")
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    #[test]
    fn a_forward_that_stopped_fails_and_one_that_needs_attention_is_a_warning() {
        let now = Timestamp::from_seconds(1_800_000_000);
        let view = || ForwardView {
            state: ForwardActivity::Running,
            saved_at: Some(now.minus(Duration::from_secs(121))),
            ..ForwardView::new("crm", 10)
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
        let full = ForwardView { full: Some("10,000 dead letters, the maximum".to_owned()), ..view() };
        assert_eq!(state(&full), State::Failed);
        let paused = ForwardView { paused_until: Some(now), ..view() };
        assert_eq!(state(&paused), State::Warning);
    }

    #[test]
    fn a_forward_that_waits_is_shown_with_the_reason_and_the_next_attempt() {
        let now = Timestamp::from_seconds(1_785_312_000);
        let view = ForwardView {
            state: ForwardActivity::Running,
            saved_at: Some(now),
            blocked_subjects: 1,
            waiting_changes: 3,
            last_error: Some("the endpoint answered 500".to_owned()),
            tries: 1,
            next_try_at: Some(now),
            ..ForwardView::new("crm", 10)
        };
        let shown = |view: &ForwardView| judge(view, now).found;
        assert_eq!(
            shown(&view),
            "crm is at position 10 of 10; waiting: 1 object, the first after 1 request, the next at 2026-07-29T08:00:00.000Z: \
             the endpoint answered 500"
        );
        let dead = ForwardView { dead_letters: 1, blocked_subjects: 0, ..view };
        assert_eq!(shown(&dead), "crm is at position 10 of 10; 1 dead letter");
    }
}
