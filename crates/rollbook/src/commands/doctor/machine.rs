//! Checks of this machine: clock, files, free disk space, limits. They write nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rlimit::Resource;
use rollbook_core::time::{Clock, Timestamp};
use rollbook_operator::words::{many, thousands};
use rustix::fs::{Access, access, statvfs};

use super::finding::{Finding, Findings, failed, ok, skipped, warning};
use super::{ASK_TIMEOUT, Needs};
use crate::commands::serve::OTHER_FILES;
use crate::config::Config;
use crate::file_modes::{self, folder_of, with_companions};
use crate::wire::{self, Component};

/// Accepted difference of two clocks. NTP keeps them closer; a tenth of Svix's tolerance covers the time of the request.
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

/// Compares this machine's clock with those of the servers that answer.
pub(super) async fn clock(config: &Config, needs: &Needs, clock: &dyn Clock) -> Findings {
    let mut findings = Vec::new();
    for part in needs.parts() {
        let asked_at = clock.now();
        let Ok(Some(answer)) =
            tokio::time::timeout(ASK_TIMEOUT, wire::backend(config, part).server_time()).await
        else {
            continue;
        };
        // The check of the server reports that it is unreachable.
        let Ok(theirs) = answer else { continue };
        let answered_at = clock.now();
        let owner = format!("the {}'s server", part.name());
        let middle = asked_at.plus(answered_at.since(asked_at) / 2);
        findings.push(judge_skew(middle, theirs, &owner, config.settings.tolerance));
    }
    findings
}

/// Returns the finding for a clock that nothing can be compared with.
pub(super) fn lonely_clock(clock: &dyn Clock) -> Finding {
    let now = clock.now();
    skipped(
        CLOCK,
        format!("{now}; nothing to compare it with; timedatectl must say \"System clock synchronized: yes\""),
    )
}

/// Compares this machine's clock with that of `owner`.
pub(super) fn judge_skew(ours: Timestamp, theirs: Timestamp, owner: &str, tolerance: Duration) -> Finding {
    let (skew, way) =
        if ours > theirs { (ours.since(theirs), "ahead of") } else { (theirs.since(ours), "behind") };
    if skew < SECONDS {
        return ok(CLOCK, format!("within {} s of the clock of {owner}", SECONDS.as_secs()));
    }
    let found = format!("{:.1} s {way} the clock of {owner}", skew.as_secs_f64());
    let fix = "have both set by NTP (timedatectl set-ntp true); the wrong one may be either";
    if skew > tolerance {
        let more = format!("{found}; a delivery may be {} s off, then it is refused", tolerance.as_secs());
        failed(CLOCK, more, fix)
    } else if skew > SKEW_OK {
        warning(CLOCK, found, fix)
    } else {
        ok(CLOCK, found)
    }
}

/// Checks the files on this machine, and the log and index files that SQLite adds to them.
pub(super) fn files(config: &Config, needs: &Needs) -> Findings {
    let mut findings = Vec::new();
    for folder in folders(config, needs) {
        let there = existing(&folder);
        if access(there, Access::WRITE_OK | Access::EXEC_OK).is_err() {
            let found = format!("{} can't be written to by this user", there.display());
            findings.push(failed(FILES, found, "run as the user who owns it, or chown it"));
        }
    }
    let places = needs.parts().filter_map(|part| part.place(config).file());
    let all: Vec<PathBuf> = places.flat_map(with_companions).filter(|path| path.exists()).collect();
    for path in &all {
        findings.extend(judge_file(path));
    }
    let parts: Vec<Component> = needs.parts().collect();
    let weaknesses = file_modes::weaknesses(config, &parts).into_iter();
    findings.extend(weaknesses.map(|weakness| warning(FILES, weakness.what, weakness.fix)));
    if !findings.is_empty() {
        return findings;
    }
    vec![match (folders(config, needs).is_empty(), all.len()) {
        (true, _) => skipped(FILES, "nothing is kept on this machine"),
        (false, 0) => ok(FILES, "none yet; their folder can be written to"),
        (false, count) => ok(FILES, format!("{}; only this user can read them", many(count as u64, "file"))),
    }]
}

fn judge_file(path: &Path) -> Option<Finding> {
    if access(path, Access::READ_OK | Access::WRITE_OK).is_err() {
        let found = format!("{} can't be read and written by this user", path.display());
        return Some(failed(FILES, found, "run as the user who owns it, or chown it"));
    }
    None
}

/// Checks the free space of the disks that hold the files.
pub(super) fn disk(config: &Config, needs: &Needs) -> Findings {
    let folders = folders(config, needs);
    if folders.is_empty() {
        return vec![skipped(DISK, "nothing is kept on this machine")];
    }
    folders.iter().map(|folder| judge_room(folder)).collect()
}

fn judge_room(folder: &Path) -> Finding {
    let there = existing(folder);
    let room = match statvfs(there) {
        Ok(found) => found.f_bavail.saturating_mul(found.f_frsize),
        Err(error) => {
            return failed(DISK, format!("{} can't be asked ({error})", there.display()), "is it mounted?");
        }
    };
    let found = format!("{} MiB free for {}", thousands(room >> 20), folder.display());
    let fix = "make room, or name a larger disk by data_dir";
    match room {
        0..ROOM_MIN => failed(DISK, found, fix),
        ROOM_MIN..ROOM_OK => warning(DISK, found, fix),
        _ => ok(DISK, found),
    }
}

/// Checks how many files, and so connections, a process may have open.
pub(super) fn open_files(config: &Config, needs: &Needs) -> Finding {
    if !needs.receiver {
        return skipped(OPEN_FILES, "a worker has few");
    }
    let wanted = config.settings.connections_max as u64 + OTHER_FILES;
    match Resource::NOFILE.get() {
        Ok((_, hard)) if hard < wanted => warning(
            OPEN_FILES,
            format!("at most {hard} here, and connections_max with the rest is {wanted}"),
            "raise it (ulimit -Hn; LimitNOFILE= of a unit), or lower connections_max",
        ),
        Ok((_, hard)) => {
            ok(OPEN_FILES, format!("up to {} here, {} needed", thousands(hard), thousands(wanted)))
        }
        Err(error) => skipped(OPEN_FILES, format!("the system's limit can't be read ({error})")),
    }
}

/// Returns the folders of the files on this machine, each once.
fn folders(config: &Config, needs: &Needs) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> =
        needs.parts().filter_map(|part: Component| part.place(config).file()).map(folder_of).collect();
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

    #[test]
    fn a_clock_is_judged_by_what_svix_allows_either_way() {
        let now = Timestamp::from_seconds(1_800_000_000);
        let judge = |theirs| judge_skew(now, theirs, "queue", Duration::from_secs(300)).state;
        for (off, state) in [(0, State::Ok), (4, State::Ok), (6, State::Warning), (301, State::Failed)] {
            let off = Duration::from_secs(off);
            assert_eq!((judge(now.plus(off)), judge(now.minus(off))), (state, state), "{off:?}");
        }
    }

    #[test]
    fn the_next_folder_above_one_that_is_not_there_is_looked_at() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(existing(&folder.path().join("a/b")), folder.path());
        assert_eq!(existing(Path::new("no/such")), Path::new("."));
    }
}
