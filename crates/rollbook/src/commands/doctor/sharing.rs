//! Checks whether several processes use the same SQLite files for the same work.

use super::finding::{Finding, ok, warning};
use crate::config::Config;
use crate::faces::Faces;
use crate::processes::{self, Process};

const PROCESSES: &str = "processes";

/// Reports processes that use the same files; `None` if there are no files, or fewer than two processes.
pub(super) fn files(config: &Config, needs: Faces) -> Option<Finding> {
    let file = processes::shared_file(config, needs)?;
    judge(&processes::others(file))
}

fn judge(found: &[Process]) -> Option<Finding> {
    let [first, _, ..] = found else { return None };
    let names = found.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let pairs =
        || found.iter().enumerate().flat_map(|(at, one)| found[..at].iter().map(move |other| (one, other)));
    if pairs().any(|(one, other)| one.shares(other.faces())) {
        let what = format!(
            "{} processes use the files of data_dir, and at least two of them receive or work: {names}",
            found.len()
        );
        let fix = format!(
            "during an upgrade, wait until the old process has ended. If a process of an earlier start is still running, stop \
             the oldest: kill {}",
            first.pid()
        );
        return Some(warning(PROCESSES, what, fix));
    }
    Some(ok(PROCESSES, format!("{names} use the files of data_dir; one receives, the other works")))
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;
    use crate::clock::SystemClock;

    #[test]
    fn two_processes_that_do_the_same_work_are_a_warning_and_a_receiver_with_a_worker_is_not() {
        let process =
            |receiver, worker| Process::this(Faces { receiver, worker }, "127.0.0.1:1", &SystemClock);
        let state = |found: &[Process]| judge(found).map(|finding| finding.state);
        let (serve, receive, work) = (process(true, true), process(true, false), process(false, true));
        assert_eq!(state(&[]), None);
        assert_eq!(state(std::slice::from_ref(&serve)), None);
        assert_eq!(state(&[receive.clone(), work.clone()]), Some(State::Ok));
        assert_eq!(state(&[serve.clone(), work.clone()]), Some(State::Warning));
        assert_eq!(state(&[receive, work.clone(), work]), Some(State::Warning));
        let found = judge(&[serve.clone(), serve]).expect("a finding").found;
        assert!(found.contains("2 processes") && found.contains("rollbook serve (process "), "{found}");
    }
}
