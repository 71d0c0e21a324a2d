//! Forwards that fail, as `top` shows them.

use std::collections::BTreeSet;

use serde::Serialize;

use super::scrape::{Metrics, label};

/// A forward that does not deliver everything.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct FailingForward {
    /// Name.
    pub(super) name: String,
    /// Objects with changes that wait.
    pub(super) blocked_subjects: f64,
    /// Changes of these objects.
    pub(super) waiting_changes: f64,
    /// Changes that were given up.
    pub(super) dead_letters: f64,
    /// Requests over the time of the rates that were not answered 2xx.
    pub(super) failed_requests: f64,
    /// HTTP status of the last answer; null if no process has sent a request, or the last one had no answer.
    pub(super) last_status: Option<f64>,
    /// Whether it stopped until an operator resumes it.
    pub(super) is_stopped: bool,
    /// Whether it reads no more, because a limit is reached.
    pub(super) is_full: bool,
}

/// Returns the forwards that fail, by name. `failed` returns the increase of failed requests of a forward.
pub(super) fn failing(metrics: &[&Metrics], failed: impl Fn(&str) -> f64) -> Vec<FailingForward> {
    let names: BTreeSet<&str> = metrics
        .iter()
        .flat_map(|one| one.series("rollbook_forward_position"))
        .filter_map(|(labels, _)| label(labels, "forward"))
        .collect();
    let of = |name: &str| {
        let max = |metric: &str| {
            let of_name = |labels: &str| label(labels, "forward") == Some(name);
            metrics.iter().filter_map(|one| one.sum(metric, of_name)).reduce(f64::max)
        };
        let count = |metric| max(metric).unwrap_or_default();
        FailingForward {
            name: name.to_owned(),
            blocked_subjects: count("rollbook_forward_blocked_subjects"),
            waiting_changes: count("rollbook_forward_waiting_changes"),
            dead_letters: count("rollbook_forward_dead_letters"),
            failed_requests: failed(name),
            last_status: max("rollbook_forward_last_status").filter(|status| *status > 0.0),
            is_stopped: count("rollbook_forward_stopped") > 0.0,
            is_full: count("rollbook_forward_full") > 0.0,
        }
    };
    names.into_iter().map(of).filter(FailingForward::fails).collect()
}

impl FailingForward {
    fn fails(&self) -> bool {
        let counts = [self.blocked_subjects, self.waiting_changes, self.dead_letters, self.failed_requests];
        self.is_stopped || self.is_full || counts.into_iter().any(|count| count > 0.0)
    }

    /// Formats what is wrong, with counts as `number` shows them.
    pub(super) fn text(&self, number: impl Fn(f64) -> String) -> String {
        let state = match (self.is_stopped, self.is_full) {
            (true, _) => "stopped; ",
            (false, true) => "full, reads no more; ",
            (false, false) => "",
        };
        let status = match self.last_status {
            None if self.failed_requests > 0.0 => ", without an answer".to_owned(),
            None => String::new(),
            Some(status) => format!(", last status {status:.0}"),
        };
        format!(
            "{}: {state}{} requests failed{status}; {} changes of {} objects wait, {} dead letters",
            self.name,
            number(self.failed_requests),
            number(self.waiting_changes),
            number(self.blocked_subjects),
            number(self.dead_letters)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(name: &str, blocked: u32, status: u32) -> Metrics {
        Metrics::parse(&format!(
            "rollbook_forward_position{{forward=\"{name}\"}} 7\n\
             rollbook_forward_blocked_subjects{{forward=\"{name}\"}} {blocked}\n\
             rollbook_forward_waiting_changes{{forward=\"{name}\"}} {blocked}\n\
             rollbook_forward_last_status{{forward=\"{name}\"}} {status}\n"
        ))
    }

    #[test]
    fn a_forward_with_an_endpoint_that_refuses_is_named_with_its_counts_and_the_last_status() {
        let (crm, mail) = (metrics("crm", 3, 500), metrics("mail", 0, 204));
        let failing =
            |requests: f64| failing(&[&crm, &mail], |name| if name == "crm" { requests } else { 0.0 });
        let found = failing(4.0);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(
            found[0].text(|number| number.to_string()),
            "crm: 4 requests failed, last status 500; 3 changes of 3 objects wait, 0 dead letters"
        );
        let silent = metrics("crm", 0, 0);
        let found = super::failing(&[&silent], |_| 1.0);
        assert!(found[0].text(|number| number.to_string()).contains("without an answer"), "{found:?}");
        assert_eq!(super::failing(&[&mail], |_| 0.0), []);
    }

    #[test]
    fn a_forward_that_stopped_or_is_full_is_shown_although_no_request_fails() {
        for (metric, words) in [("stopped", "stopped; "), ("full", "reads no more")] {
            let text = format!(
                "rollbook_forward_position{{forward=\"crm\"}} 7\nrollbook_forward_{metric}{{forward=\"crm\"}} 1\n"
            );
            let found = failing(&[&Metrics::parse(&text)], |_| 0.0);
            assert!(found[0].text(|number| number.to_string()).contains(words), "{found:?}");
        }
    }
}
