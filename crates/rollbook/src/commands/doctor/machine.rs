//! Checks of this machine: clock, files, free disk space, limits. They write nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rlimit::Resource;
use rollbook_core::time::{Clock, Timestamp};
use rollbook_operator::words::{many, thousands};
use rustix::fs::{Access, access, statvfs};

use super::ASK_TIMEOUT;
use super::finding::{Finding, Findings, failed, ok, skipped, warning};
use crate::commands::serve::OTHER_FILES;
use crate::config::Config;
use crate::faces::Faces;
use crate::file_modes::{self, folder_of, with_companions};
use crate::wire;

/// Accepted difference of two clocks. NTP keeps them closer, and it is far below the `tolerance` of 300 s from which a
/// delivery is refused.
const SKEW_OK: Duration = Duration::from_secs(5);
/// Difference that can't be measured: Svix sends whole seconds, and a request takes time.
const SECONDS: Duration = Duration::from_secs(2);
/// Free space from which the check passes. A million waiting events take about twice this.
const ROOM_OK: u64 = 1 << 30;
/// Free space below which the check fails: it would be used up before anyone reads a warning.
const ROOM_MIN: u64 = 64 << 20;

/// Name of the clock's check, which other checks use too.
pub(super) const CLOCK: &str = "clock";
const FILES: &str = "files";
const DISK: &str = "disk";
const OPEN_FILES: &str = "open_files";

/// Difference between this machine's clock and that of `owner`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Skew {
    owner: String,
    by: Duration,
    is_ahead: bool,
}

impl Skew {
    /// Compares this machine's time with that of `owner` at the same moment.
    pub(super) fn of(ours: Timestamp, theirs: Timestamp, owner: impl Into<String>) -> Self {
        let is_ahead = ours > theirs;
        let by = if is_ahead { ours.since(theirs) } else { theirs.since(ours) };
        Self { owner: owner.into(), by, is_ahead }
    }

    fn judge(&self, tolerance: Duration) -> Finding {
        let way = if self.is_ahead { "ahead of" } else { "behind" };
        let found =
            format!("this machine's clock is {:.1} s {way} that of {}", self.by.as_secs_f64(), self.owner);
        let fix = "have both set by NTP (timedatectl set-ntp true); the wrong one may be either";
        if self.by > tolerance {
            let more =
                format!("{found}; a delivery that is more than {} s off is refused", tolerance.as_secs());
            failed(CLOCK, more, fix)
        } else if self.by > SKEW_OK {
            warning(CLOCK, found, fix)
        } else {
            ok(CLOCK, found)
        }
    }
}

/// Compares this machine's clock with those of the servers that answer.
pub(super) async fn clock(config: &Config, needs: Faces, clock: &dyn Clock) -> Vec<Skew> {
    let mut skews = Vec::new();
    for &part in needs.parts() {
        let asked_at = clock.now();
        let Ok(Some(answer)) =
            tokio::time::timeout(ASK_TIMEOUT, wire::backend(config, part).server_time()).await
        else {
            continue;
        };
        // The check of the server reports that it is unreachable.
        let Ok(theirs) = answer else { continue };
        let answered_at = clock.now();
        let middle = asked_at.plus(answered_at.since(asked_at) / 2);
        skews.push(Skew::of(middle, theirs, format!("the {}'s server", part.name())));
    }
    skews
}

/// Returns one line for all clocks that agree with this machine's, and one for each other clock.
pub(super) fn judge_clocks(skews: &[Skew], now: Timestamp, tolerance: Duration) -> Findings {
    let (close, others): (Vec<&Skew>, Vec<&Skew>) = skews.iter().partition(|skew| skew.by < SECONDS);
    let owners: Vec<&str> = close.iter().map(|skew| skew.owner.as_str()).collect();
    let agreed = match owners.split_last() {
        None if others.is_empty() => {
            let why = format!(
                "this machine's time is {now}; there is no other clock to compare it with, so check that timedatectl says \
                 \"System clock synchronized: yes\""
            );
            Some(skipped(CLOCK, why))
        }
        None => None,
        Some((last, [])) => Some(agreement(last)),
        Some((last, first)) => Some(agreement(&format!("{} and {last}", first.join(", ")))),
    };
    others.into_iter().map(|skew| skew.judge(tolerance)).chain(agreed).collect()
}

fn agreement(owners: &str) -> Finding {
    ok(CLOCK, format!("this machine's clock is within {} s of that of {owners}", SECONDS.as_secs()))
}

/// Checks the files on this machine, and the log and index files that SQLite adds to them.
pub(super) fn files(config: &Config, needs: Faces) -> Findings {
    let denied = |path: &Path, modes: Access, what: &str| {
        access(path, modes).err()?;
        let found = format!("{} can't be {what} by this user", path.display());
        Some(failed(FILES, found, "run as the user who owns it, or chown it"))
    };
    let mut findings = Vec::new();
    for folder in folders(config, needs) {
        findings.extend(denied(existing(&folder), Access::WRITE_OK | Access::EXEC_OK, "written to"));
    }
    let places = needs.parts().iter().filter_map(|part| part.place(config).file());
    let all: Vec<PathBuf> = places.flat_map(with_companions).filter(|path| path.exists()).collect();
    let use_of_file = Access::READ_OK | Access::WRITE_OK;
    findings.extend(all.iter().filter_map(|path| denied(path, use_of_file, "read and written")));
    let weaknesses = file_modes::weaknesses(config, needs.parts()).into_iter();
    findings.extend(weaknesses.map(|weakness| warning(FILES, weakness.what, weakness.fix)));
    if !findings.is_empty() {
        return findings;
    }
    vec![match (folders(config, needs).is_empty(), all.len()) {
        (true, _) => skipped(FILES, no_files(needs)),
        (false, 0) => ok(FILES, "there are none yet; their folder can be written to"),
        (false, count) => ok(FILES, format!("{}; only this user can read them", many(count as u64, "file"))),
    }]
}

/// Checks the free space of the disks that hold the files.
pub(super) fn disk(config: &Config, needs: Faces) -> Findings {
    let folders = folders(config, needs);
    if folders.is_empty() {
        return vec![skipped(DISK, no_files(needs))];
    }
    folders.iter().map(|folder| judge_room(folder)).collect()
}

/// Returns why there are no files to check.
const fn no_files(needs: Faces) -> &'static str {
    if needs.worker {
        "queue and store are on servers, so nothing is kept on this machine"
    } else {
        "the queue is on a server, so a receiver keeps nothing on this machine"
    }
}

fn judge_room(folder: &Path) -> Finding {
    let there = existing(folder);
    let room = match statvfs(there) {
        Ok(found) => found.f_bavail.saturating_mul(found.f_frsize),
        Err(error) => {
            let found = format!("the free space of {} can't be read ({error})", there.display());
            return failed(DISK, found, "check that it is mounted");
        }
    };
    let found = format!("{} MiB are free on the disk of {}", thousands(room >> 20), folder.display());
    let fix = "make room, or name a larger disk by data_dir";
    match room {
        0..ROOM_MIN => failed(DISK, found, fix),
        ROOM_MIN..ROOM_OK => warning(DISK, found, fix),
        _ => ok(DISK, found),
    }
}

/// Checks how many files, and so connections, a process may have open.
pub(super) fn open_files(config: &Config, needs: Faces) -> Finding {
    if !needs.receiver {
        return skipped(OPEN_FILES, "only a receiver has many connections");
    }
    let wanted = config.settings.connections_max as u64 + OTHER_FILES;
    match Resource::NOFILE.get() {
        Ok((_, hard)) if hard < wanted => warning(
            OPEN_FILES,
            format!(
                "a process may open {} files and connections here, and connections_max with the rest is {}",
                thousands(hard),
                thousands(wanted)
            ),
            "raise the limit (ulimit -Hn; LimitNOFILE= of a systemd unit), or lower connections_max",
        ),
        Ok((_, hard)) => {
            let (hard, wanted) = (thousands(hard), thousands(wanted));
            let found =
                format!("a process may open {hard} files and connections here, and needs {wanted} at most");
            ok(OPEN_FILES, found)
        }
        Err(error) => skipped(OPEN_FILES, format!("the system's limit can't be read ({error})")),
    }
}

/// Returns the folders of the files on this machine, each once.
fn folders(config: &Config, needs: Faces) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> =
        needs.parts().iter().filter_map(|part| part.place(config).file()).map(folder_of).collect();
    folders.dedup();
    folders
}

/// Returns the folder, or its nearest ancestor that exists.
fn existing(folder: &Path) -> &Path {
    let there = folder.ancestors().find(|above| above.exists());
    there.unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
    const TOLERANCE: Duration = Duration::from_secs(300);

    #[test]
    fn a_clock_is_judged_by_what_svix_allows_either_way() {
        let judge = |theirs| judge_clocks(&[Skew::of(NOW, theirs, "queue")], NOW, TOLERANCE)[0].state;
        for (off, state) in [(0, State::Ok), (4, State::Ok), (6, State::Warning), (301, State::Failed)] {
            let off = Duration::from_secs(off);
            assert_eq!((judge(NOW.plus(off)), judge(NOW.minus(off))), (state, state), "{off:?}");
        }
    }

    #[test]
    fn clocks_that_agree_share_a_line_and_each_other_one_is_named_before_it() {
        let skew = |owner: &str, off: u64| Skew::of(NOW.plus(Duration::from_secs(off)), NOW, owner);
        let found = |skews: &[Skew]| {
            let findings = judge_clocks(skews, NOW, TOLERANCE);
            findings.into_iter().map(|finding| finding.found).collect::<Vec<_>>()
        };
        let all = [skew("the queue's server", 0), skew("the store's server", 1), skew("the sender", 0)];
        assert_eq!(
            found(&all),
            [
                "this machine's clock is within 2 s of that of the queue's server, the store's server and the sender"
            ]
        );
        assert_eq!(
            found(&[skew("the queue's server", 0), skew("the store's server", 9)]),
            [
                "this machine's clock is 9.0 s ahead of that of the store's server",
                "this machine's clock is within 2 s of that of the queue's server"
            ]
        );
        let alone = judge_clocks(&[], NOW, TOLERANCE);
        assert!(alone[0].state == State::Skipped && alone[0].found.contains("timedatectl"), "{alone:?}");
    }

    #[test]
    fn the_next_folder_above_one_that_is_not_there_is_looked_at() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(existing(&folder.path().join("a/b")), folder.path());
        assert_eq!(existing(Path::new("no/such")), Path::new("."));
    }
}
