//! Latency of acknowledgements at 1,000 deliveries a second, while a worker applies them.

use std::time::Duration;

use rollbook_testkit::process::Home;

use crate::hammer::{hammer, requests};
use crate::load::{self, BINARY};
use crate::report::{Report, median, progress};
use crate::{Scale, disk};

/// A thousand a second.
const PAUSE: Duration = Duration::from_millis(1);
const CONNECTIONS: usize = 64;
const DELIVERIES: usize = 15_000;
/// The acknowledgement's p99 may be this many times the disk's own.
const DISK_RATIO_MAX: f64 = 4.0;

pub(crate) async fn measure(scale: Scale, report: &mut Report) {
    let history = load::history(2_000);
    let home = Home::new(BINARY).with("ROLLBOOK_LOG", "warn");
    let rollbook = home.start_ready(&["serve"]).await;
    let mut turns = Vec::new();
    for turn in 0..scale.turns {
        progress(&format!("latency at 1,000 deliveries a second, turn {}", turn + 1));
        let events = load::fresh(&history, &format!("latency_{turn}"), DELIVERIES / scale.divisor);
        let before = disk::measure(scale);
        let sent = hammer(home.listen, &requests(&events), CONNECTIONS, Some(PAUSE), &[]).await;
        let after = disk::measure(scale);
        let disk = f64::midpoint(before.at(990).as_secs_f64(), after.at(990).as_secs_f64());
        turns.push((sent.latency(500).as_secs_f64(), sent.latency(990).as_secs_f64(), disk));
    }
    let of = |figure: fn(&(f64, f64, f64)) -> f64| median(turns.iter().map(figure));
    let (p50, p99, disk) = (of(|turn| turn.0), of(|turn| turn.1), of(|turn| turn.2));
    report.latency(p50, p99, disk, of(|turn| turn.1 / turn.2), DISK_RATIO_MAX);
    report.memory("serve", rollbook.memory_peak());
}
