//! Acknowledgements while the same process backfills.

use std::time::Duration;

use rollbook_testkit::process::{Home, until};

use super::clerk::{Clerk, Instance};
use super::{MEMORY_MAX, home};
use crate::Scale;
use crate::hammer::{hammer, requests};
use crate::load;
use crate::report::{Report, median, progress};

/// A thousand a second.
const PAUSE: Duration = Duration::from_millis(1);
const CONNECTIONS: usize = 64;
const DELIVERIES: usize = 15_000;
const TURNS_MAX: usize = 3;
/// The p99 with a run may be this many times the one without.
const SLOWER_MAX: f64 = 2.0;
/// Requests after which a run reads pages.
const UNDER_WAY: f64 = 60.0;
const REQUESTS: &str = "rollbook_reconcile_requests_total";

pub(super) async fn measure(scale: Scale, instance: &Instance, report: &mut Report) {
    let clerk = Clerk::start(instance, true, true);
    let history = load::history(2_000);
    let mut turns = Vec::new();
    for turn in 0..scale.turns.min(TURNS_MAX) {
        let name = |with: &str| format!("acknowledging 1,000/s {with}, turn {}", turn + 1);
        let deliveries = || load::fresh(&history, &format!("during_{turn}"), DELIVERIES / scale.divisor);
        progress(&name("without a run"));
        let quiet = home();
        let serve = quiet.start_ready(&["serve"]).await;
        let without = p99(&quiet, &deliveries()).await;
        drop(serve);
        progress(&name("with a backfill"));
        let busy = clerk.known_to(home());
        let serve = busy.start_ready(&["serve"]).await;
        let sent = async || busy.metric(REQUESTS).await.unwrap_or_default();
        until("a run is under way", || async { sent().await >= UNDER_WAY }).await;
        let with = p99(&busy, &deliveries()).await;
        let requests = sent().await;
        until("the run is still under way", || async { sent().await > requests }).await;
        report.memory_within("serve with a backfill", serve.memory_peak(), MEMORY_MAX);
        turns.push((with, without));
    }
    let of = |figure: fn(&(f64, f64)) -> f64| median(turns.iter().map(figure));
    let figures = (of(|turn| turn.0), of(|turn| turn.1), of(|turn| turn.0 / turn.1));
    let detail = format!("serve on SQLite, a run of {} users; Clerk at the lowest priority", instance.users);
    report.slowed("acknowledgement at 1,000/s, p99, with a run", figures, SLOWER_MAX, &detail);
}

async fn p99(home: &Home, events: &[rollbook_simulator::history::Event]) -> f64 {
    hammer(home.listen, &requests(events), CONNECTIONS, Some(PAUSE), &[]).await.latency(990).as_secs_f64()
}
