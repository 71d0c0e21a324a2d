//! Findings about what the queue holds: its depth, its dead letters, and whether each message can be found.

use std::time::Duration;

use rollbook_core::queue::{Audit, QueueStats};
use rollbook_core::time::Timestamp;
use rollbook_operator::words::{duration, many, thousands};

use super::WAITS_MAX;
use super::finding::{Finding, failed, ok, skipped, warning};
use crate::config::Config;

/// Share of the queue's limit from which the depth is a warning.
const FULL_PERCENT: u64 = 80;

pub(super) const DEPTH: &str = "depth";
pub(super) const DEAD_LETTERS: &str = "dead_letters";
pub(super) const AUDIT: &str = "audit";

/// Reports how many messages are not settled: ready, leased or delayed.
pub(super) fn depth(config: &Config, stats: &QueueStats, now: Timestamp) -> Finding {
    let (depth, limit) = (stats.depth(), config.settings.queue_depth_max);
    let waits = stats.oldest_received_at.map(|at| now.since(at)).unwrap_or_default();
    let mut found = format!("the queue holds {} of at most {} messages", thousands(depth), thousands(limit));
    if stats.ready > 0 {
        found = format!("{found}, the oldest for {}", duration(Duration::from_secs(waits.as_secs())));
    }
    let fix = "see that a worker runs (rollbook serve or work) and that the lines process and store are ok; rollbook top shows \
               whether the number falls. If workers are too slow, start more, or raise queue_depth_max";
    let is_nearly_full = depth.saturating_mul(100) >= limit.saturating_mul(FULL_PERCENT);
    let is_old = stats.ready > 0 && waits > WAITS_MAX;
    if depth >= limit {
        failed(DEPTH, format!("{found}: the queue is full, and new deliveries are answered 503"), fix)
    } else if is_nearly_full || is_old {
        warning(DEPTH, found, fix)
    } else {
        ok(DEPTH, found)
    }
}

/// Reports messages that could not be applied.
pub(super) fn dead_letters(stats: &QueueStats) -> Finding {
    match stats.dead {
        0 => ok(DEAD_LETTERS, "none: no message waits to be redriven or discarded"),
        count => warning(
            DEAD_LETTERS,
            format!("{} could not be applied and wait for you", many(count, "message")),
            "rollbook dead-letters list says why. Remove the cause, then rollbook dead-letters redrive tries them again",
        ),
    }
}

/// Reports whether every message can be found. Workers audit a queue that is too large for this command.
pub(super) fn audit(audited: Result<Audit, String>) -> Finding {
    let audit = match audited {
        Ok(audit) => audit,
        Err(why) => {
            let why = format!("not done here: {why}; every worker does it at its start and each hour");
            return skipped(AUDIT, why);
        }
    };
    let Audit { messages, stranded, dangling, notes } = &audit;
    if audit.is_clean() {
        let messages = many(*messages, "message");
        return ok(AUDIT, format!("the queue's index is right: {messages}, and each can be found"));
    }
    let mut wrong = notes.clone();
    let count = |count: u64, what: &str| (count > 0).then(|| format!("{} {what}", thousands(count)));
    wrong.extend(count(*stranded, "messages that no index leads to"));
    wrong.extend(count(*dangling, "index entries that lead to no message"));
    let fix =
        "start or restart a worker (rollbook serve or work): it repairs this at its start, and every hour";
    warning(AUDIT, wrong.join("; "), fix)
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;
    use crate::config::{Environment, FileSource, Settings, Sources};

    fn config() -> Config {
        let flags = [(&Settings::queue_depth_max().about, "1000".to_owned())];
        let sources = Sources { flags: &flags, environment: Environment::of(&[]), file: FileSource::None };
        Config::load(&sources).unwrap_or_else(|problems| panic!("{problems}"))
    }

    #[test]
    fn an_audit_says_what_is_damaged_and_who_repairs_it() {
        let sound = audit(Ok(Audit { messages: 1200, ..Audit::default() }));
        assert_eq!(
            (sound.state, sound.found.as_str()),
            (State::Ok, "the queue's index is right: 1,200 messages, and each can be found")
        );
        let notes = vec!["the counters said 1 messages and there are 2".to_owned()];
        let damaged = audit(Ok(Audit { messages: 2, stranded: 1, dangling: 3, notes }));
        assert_eq!(damaged.state, State::Warning);
        for part in ["the counters said", "1 messages that no index", "3 index entries"] {
            assert!(damaged.found.contains(part), "{}", damaged.found);
        }
        assert_eq!(audit(Err("no answer within 5 s".to_owned())).state, State::Skipped);
    }

    #[test]
    fn a_queue_is_reported_as_full_nearly_full_or_without_a_worker() {
        let now = Timestamp::from_seconds(1_800_000_000);
        for (ready, delayed, oldest, state) in [
            (0, 0, 0, State::Ok),
            (799, 0, 10, State::Ok),
            (700, 100, 10, State::Warning),
            (1000, 0, 10, State::Failed),
            (1, 0, 301, State::Warning),
            (0, 1, 301, State::Ok),
        ] {
            let oldest_received_at = Some(now.minus(Duration::from_secs(oldest)));
            let stats = QueueStats { ready, delayed, oldest_received_at, ..QueueStats::default() };
            assert_eq!(depth(&config(), &stats, now).state, state, "{stats:?}");
        }
    }
}
